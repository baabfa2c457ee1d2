"""Files, local or in an object store, by one set of calls.

A path with `://` goes to `fsspec` (`gs://` by gcsfs); anything else is a local path and is
handed to the operating system as it is. Every write is atomic: a reader sees the whole
file or none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import IO, Any

from tfrecords.errors import DataError

os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # one API for every kind of bucket

TEMPORARY_PREFIX = ".unfinished-"
"""Of files that are being written; a process that is killed leaves them."""


def is_remote(path: str) -> bool:
    """Whether the path is a URL that fsspec serves."""
    return "://" in path


def join(folder: str, *names: str) -> str:
    """A path below `folder`, with forward slashes."""
    return "/".join([folder.rstrip("/"), *names])


def filesystem(url: str) -> Any:
    """The fsspec file system of a URL.

    Raises:
        DataError: for a scheme that nothing installed serves.
    """
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)[0]
    except (ImportError, ValueError) as error:
        raise DataError(f"cannot use {url!r}: {error}") from error


def canonical(url: str) -> str:
    """A URL as its file system's own listings write it; nothing is opened for that.

    Raises:
        DataError: for a scheme that nothing installed serves.
    """
    import fsspec

    try:
        kind = fsspec.get_filesystem_class(url.partition("://")[0])
    except (ImportError, ValueError) as error:
        raise DataError(f"cannot use {url!r}: {error}") from error
    protocol = kind.protocol if isinstance(kind.protocol, str) else kind.protocol[0]
    return f"{protocol}://{kind._strip_protocol(url)}"


def real_path(path: str) -> str:
    """A local path without links, or a URL in its canonical spelling."""
    return canonical(path) if is_remote(path) else os.path.realpath(path)


def read_bytes(path: str) -> bytes:
    """The whole content of a file; raises `FileNotFoundError` or another `OSError`."""
    if is_remote(path):
        return filesystem(path).cat_file(path)
    with open(path, "rb") as file:
        return file.read()


def read_json(path: str) -> Any:
    """The JSON value in a file.

    Raises:
        FileNotFoundError: if there is none.
        DataError: if it is not JSON.
    """
    content = read_bytes(path)
    try:
        return json.loads(content)
    except ValueError as error:
        raise DataError(
            f"{path} is not valid JSON ({error}): it was damaged; delete its folder and run again"
        ) from None


def exists(path: str) -> bool:
    """Whether a file or folder exists."""
    return filesystem(path).exists(path) if is_remote(path) else os.path.exists(path)


def is_folder(path: str) -> bool:
    """Whether there is a folder."""
    return filesystem(path).isdir(path) if is_remote(path) else os.path.isdir(path)


def is_file(path: str) -> bool:
    """Whether there is a file."""
    return filesystem(path).isfile(path) if is_remote(path) else os.path.isfile(path)


def list_names(folder: str) -> list[str]:
    """The names directly inside a folder, sorted; none if it does not exist."""
    if is_remote(folder):
        fs = filesystem(folder)
        try:
            entries = fs.ls(folder, detail=False, refresh=True)
        except FileNotFoundError:
            return []
        prefix = fs._strip_protocol(folder).rstrip("/") + "/"
        return sorted({name for entry in entries if (name := entry.removeprefix(prefix).strip("/"))})
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


@contextlib.contextmanager
def open_atomically(path: str) -> Iterator[IO[bytes]]:
    """A binary file to write; it appears under `path`, whole, when the block ends without an exception."""
    folder = None if is_remote(path) else os.path.dirname(os.path.abspath(path))
    if folder:
        os.makedirs(folder, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, suffix=".tmp", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            if folder:
                os.fsync(file.fileno())
        if folder:
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        else:
            filesystem(path).put_file(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def write_bytes(path: str, content: bytes) -> None:
    """Writes a whole file, atomically, making its folder."""
    with open_atomically(path) as file:
        file.write(content)


def write_json(path: str, value: Any) -> None:
    """Writes a value as indented JSON with sorted keys, atomically."""
    content = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    write_bytes(path, content.encode(errors="backslashreplace"))  # of a name that is not UTF-8, as JSON escapes it


def write_parquet(path: str, table: Any, **options: Any) -> None:
    """Writes an Arrow table as one zstd-compressed Parquet file, atomically."""
    import pyarrow.parquet

    with open_atomically(path) as file:
        pyarrow.parquet.write_table(table, file, compression="zstd", **options)


def copy_file(source: str, destination: str) -> None:
    """Copies one file between any two places, atomically."""
    with open_atomically(destination) as target, open_to_read(source) as file:
        shutil.copyfileobj(file, target, 1 << 20)


def copy_folder(source: str, destination: str) -> None:
    """Copies every file below a local folder."""
    for folder, _, names in os.walk(source):
        for name in sorted(names):
            path = os.path.join(folder, name)
            copy_file(path, join(destination, *os.path.relpath(path, source).split(os.sep)))


def open_to_read(path: str) -> Any:
    """A binary file to read, local or remote."""
    return filesystem(path).open(path, "rb") if is_remote(path) else open(path, "rb")


def move_folder(source: str, destination: str) -> None:
    """Makes a finished folder appear under another name, replacing what an unfinished commit left there.

    Locally this is one step; in an object store the files are copied one by one, the manifest last.
    """
    remove_folder(destination)
    if is_remote(source):
        fs = filesystem(source)
        for path in sorted(fs.find(source), key=lambda path: (path.endswith("manifest.json"), path)):
            fs.copy(path, join(destination, path.removeprefix(fs._strip_protocol(source)).lstrip("/")))
        remove_folder(source)
        return
    os.makedirs(os.path.dirname(os.path.abspath(destination)), exist_ok=True)
    os.rename(source, destination)


def remove_file(path: str) -> None:
    """Deletes a file if it exists."""
    with contextlib.suppress(FileNotFoundError):
        filesystem(path).rm_file(path) if is_remote(path) else os.unlink(path)


def remove_folder(path: str) -> None:
    """Deletes a folder and what is in it, if it exists."""
    if is_remote(path):
        with contextlib.suppress(FileNotFoundError):
            filesystem(path).rm(path, recursive=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def checksum(path: str) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    digest = hashlib.sha256()
    with open_to_read(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def missing_or_changed(folder: str, sizes: dict[str, int]) -> str | None:
    """Says which file of a folder is missing or has another size than it should; None if all are as they should be."""
    for name, expected in sizes.items():
        path = join(folder, name)
        found = size(path) if exists(path) else None
        if found != expected:
            return f"{path} should have {expected} bytes but {'is missing' if found is None else f'has {found}'}"
    return None


def size(path: str) -> int:
    """Bytes of a file."""
    return filesystem(path).info(path)["size"] if is_remote(path) else os.path.getsize(path)


def _umask() -> int:
    # The mask cannot be read without being set; workers of one process share it, so it is read once.
    global _UMASK
    if _UMASK is None:
        _UMASK = os.umask(0o022)
        os.umask(_UMASK)
    return _UMASK


_UMASK: int | None = None
