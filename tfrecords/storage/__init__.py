"""Files, local or in an object store, by one set of calls.

A path with `://` is a URL of an object store, see `object_store`. Anything else is a local path,
which the operating system gets as it is. Every write is atomic: a reader sees the whole file or
none.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import IO, Any

from tfrecords.errors import DataError
from tfrecords.storage.filesystem import StoredFile as StoredFile
from tfrecords.storage.gcs import Gcs
from tfrecords.storage.object_store import canonicalise as canonicalise
from tfrecords.storage.object_store import get_bucket as get_bucket
from tfrecords.storage.object_store import open_filesystem as open_filesystem
from tfrecords.storage.object_store import open_store
from tfrecords.storage.remote_folders import list_below, move_below, remove_below, remove_object

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
TEMPORARY_PREFIX = ".unfinished-"
"""Beginning of the names of files that are being written; a process that is killed leaves such files."""


def is_remote(path: str) -> bool:
    """Tells whether a path is the URL of an object store."""
    return "://" in path


def join(folder: str, *names: str) -> str:
    """Joins a folder and names below it, with forward slashes."""
    return "/".join([folder.rstrip("/"), *names])


def resolve_path(path: str) -> str:
    """Resolves the links of a local path, or returns a URL in its canonical spelling."""
    return canonicalise(path) if is_remote(path) else os.path.realpath(path)


def read_bytes(path: str, at_most: int | None = None) -> bytes:
    """Reads the whole content of a file, or its first bytes.

    What comes from an object store is compared with the checksum that comes with it.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if it cannot be read for another reason.
    """
    if not is_remote(path):
        with open(path, "rb") as file:
            return file.read(-1 if at_most is None else at_most)
    with open_store(path) as store:
        return store.read(path, at_most)


def read_range(path: str, start: int, length: int) -> bytes:
    """Reads bytes from a place in a file; fewer where the file ends before. No checksum covers what a store sends.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if it cannot be read for another reason.
    """
    if not is_remote(path):
        with open(path, "rb", buffering=0) as file:
            file.seek(start)
            return file.read(length)
    with open_store(path) as store:
        return store.read_range(path, start, length)


def read_json(path: str) -> Any:
    """Reads the JSON value in a file.

    Raises:
        FileNotFoundError: if there is no such file.
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
    """Tells whether a file or a folder exists."""
    return is_file(path) or is_folder(path) if is_remote(path) else os.path.exists(path)


def is_folder(path: str) -> bool:
    """Tells whether a folder exists."""
    if not is_remote(path):
        return os.path.isdir(path)
    with open_store(path) as store:
        return store.is_folder(path)


def is_file(path: str) -> bool:
    """Tells whether a file exists."""
    if not is_remote(path):
        return os.path.isfile(path)
    with open_store(path) as store:
        return store.is_file(path)


def has_bucket(url: str) -> bool:
    """Tells whether the bucket of a URL exists; a store without buckets always says yes."""
    with open_store(url) as store:
        return store.has_bucket(url)


@contextlib.contextmanager
def open_versions(url: str) -> Iterator[Gcs | None]:
    """Opens the store that a URL lies in, if it can change an object on condition that nobody else did; otherwise None.

    Raises:
        StoreError: if the store does not answer, or refuses the credentials, or a change.
    """
    with open_store(url, changing=True) as store:
        yield store if isinstance(store, Gcs) else None


def require_bucket(url: str, flag: str) -> None:
    """Makes sure that the bucket of a URL exists.

    Args:
        flag: the option that gave the URL, such as `--workspace`.

    Raises:
        DataError: if the bucket does not exist, its name is not allowed, or it may not be listed.
    """
    try:
        found = has_bucket(url)
    except OSError as error:
        raise DataError(f"{flag}={url} cannot be used: {error.strerror or error}") from None
    if not found:
        raise DataError(f"{flag}={url}: there is no bucket {get_bucket(url)}: create it, or correct its name")


def list_names(folder: str, prefix: str = "") -> list[str]:
    """Lists the names directly inside a folder that begin with a prefix, sorted; none if it does not exist."""
    if not is_remote(folder):
        try:
            return sorted(name for name in os.listdir(folder) if name.startswith(prefix))
        except FileNotFoundError:
            return []
    with open_store(folder) as store:
        try:
            entries = [entry.strip("/") for entry in store.list_names(folder, prefix)]
        except FileNotFoundError:
            return []
        return sorted({name for name in entries if name and name.startswith(prefix)})


def list_folders(folder: str) -> list[str]:
    """Lists the names of folders directly inside a folder of an object store, sorted; none if it does not exist.

    One request is made: of a folder of thousands of files, some of its folders may be left out.
    """
    with open_store(folder) as store:
        try:
            return sorted(filter(None, store.list_folders(folder)))
        except FileNotFoundError:
            return []


def glob(pattern: str) -> list[str]:
    """Finds the URLs that match a pattern in an object store."""
    with open_store(pattern) as store:
        return store.glob(pattern)


def find_files(url: str) -> Iterator[StoredFile]:
    """Lists every file of an object store below a folder, sorted by URL, by one request for a thousand files.

    An empty object that marks a folder is among them; its URL ends with a slash.
    """
    with open_store(url) as store:
        yield from store.list_files(url)


def describe_file(url: str) -> StoredFile:
    """Asks an object store to describe one file; raises `FileNotFoundError` or `IsADirectoryError`."""
    with open_store(url) as store:
        return store.describe(url)


@contextlib.contextmanager
def open_atomically(path: str) -> Iterator[IO[bytes]]:
    """Opens a binary file to write; it appears under `path`, whole, when the block ends without an exception.

    Raises:
        DataError: if the disk has no room for it.
    """
    folder = None if is_remote(path) else os.path.dirname(os.path.abspath(path))
    try:
        with _open_atomically(path, folder) as file:
            yield file
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        # Raised as one sentence: a full disk is no fault of the program, whichever worker has it.
        what = path if folder else f"a copy of {path} in {tempfile.gettempdir()}"
        raise DataError(
            f"{what} cannot be written: {os.strerror(error.errno)}: make room, and run the same command again"
        ) from None


@contextlib.contextmanager
def _open_atomically(path: str, folder: str | None) -> Iterator[IO[bytes]]:
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
            os.chmod(temporary, 0o666 & ~_get_umask())
            os.replace(temporary, path)
        else:
            with open_store(path, changing=True) as store:
                store.upload(temporary, path)
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
    """Copies every file below a local folder; raises a ValueError for another."""
    if is_remote(source):
        raise ValueError(f"{source} is no local folder")
    for folder, _, names in os.walk(source):
        for name in sorted(names):
            path = os.path.join(folder, name)
            copy_file(path, join(destination, *os.path.relpath(path, source).split(os.sep)))


def open_to_read(path: str) -> IO[bytes]:
    """Opens a binary file to read; one of an object store is fetched whole, and held in memory."""
    return io.BytesIO(read_bytes(path)) if is_remote(path) else open(path, "rb")


def move_folder(source: str, destination: str) -> None:
    """Gives a finished folder another name, replacing what an unfinished commit left there.

    Locally this is one step. In an object store it is many, see `remote_folders.move_below`: two attempts at one move
    do no harm to each other.

    Raises:
        FileNotFoundError: if the source is gone, or part of it, and no manifest is at the destination.
    """
    if is_remote(source):
        move_below(source, destination)
        return
    os.stat(source)  # raises, before anything is removed, if it does not exist
    remove_folder(destination)
    os.makedirs(os.path.dirname(os.path.abspath(destination)), exist_ok=True)
    os.rename(source, destination)


def remove_file(path: str) -> None:
    """Deletes a file if it exists."""
    if is_remote(path):
        remove_object(path)
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def rename(path: str, name: str) -> None:
    """Gives a file another name in its folder, if it exists."""
    target = join(path.rpartition("/")[0], name)
    with contextlib.suppress(FileNotFoundError):
        if not is_remote(path):
            os.replace(path, target)
            return
        with open_store(path, changing=True) as store:
            store.copy(path, target)
        remove_file(path)


def remove_folder(path: str) -> None:
    """Deletes a folder and what is in it, if it exists; in an object store its manifest first."""
    if is_remote(path):
        remove_below(path)
    else:
        shutil.rmtree(path, ignore_errors=True)


def compute_checksum(path: str) -> str:
    """Computes the SHA-256 of a file's content, hexadecimal."""
    digest = hashlib.sha256()
    with open_to_read(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def find_missing_or_changed(folder: str, sizes: Mapping[str, int]) -> str | None:
    """Compares the files of a folder with the sizes that they should have.

    Args:
        sizes: bytes by the file's name in the folder.

    Returns:
        A clause that names the first file that is missing or has another size; None if there is no such file.
    """
    below = {name: file.size for name, file in list_below(folder).items()} if sizes and is_remote(folder) else {}
    for name, expected in sizes.items():
        path = join(folder, name)
        found = below.get(name) if is_remote(folder) else find_size(path)
        if found != expected:
            return f"{path} should have {expected} bytes but {'is missing' if found is None else f'has {found}'}"
    return None


def get_size(path: str) -> int:
    """Returns the bytes of a file."""
    return describe_file(path).size if is_remote(path) else os.path.getsize(path)


def find_size(path: str) -> int | None:
    """Returns the bytes of a file, or None if it does not exist."""
    try:
        return get_size(path)
    except FileNotFoundError:
        return None


@functools.cache
def _get_umask() -> int:
    """Returns the mask of the permissions of new files; reading it sets it for a moment, so it is read once."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
