"""Files for the tests of listing."""

import pathlib

from tfrecords import storage


def put(folder: pathlib.Path, *names: str, content: bytes = b"image") -> None:
    """Writes files; an "image" is any bytes here, because listing never looks inside."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def put_remote(bucket: str, *names: str, content: bytes = b"image") -> None:
    """Writes files below a URL."""
    for name in names:
        storage.write_bytes(storage.join(bucket, name), content)
