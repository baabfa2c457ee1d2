"""Files, local or in an object store, by one set of calls.

A path with `://` goes to an object store, see `object_store`; anything else is a local path
and is handed to the operating system as it is. Every write is atomic: a reader sees the
whole file or none.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any

from tfrecords.errors import DataError
from tfrecords.storage.filesystem import StoredFile as StoredFile
from tfrecords.storage.gcs import Gcs
from tfrecords.storage.object_store import canonicalise as canonicalise
from tfrecords.storage.object_store import get_bucket as get_bucket
from tfrecords.storage.object_store import open_filesystem as open_filesystem
from tfrecords.storage.object_store import open_store

_THREADS = 16  # for an object store, which is asked for each file by itself
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
TEMPORARY_PREFIX = ".unfinished-"
"""Of files that are being written; a process that is killed leaves them."""


def is_remote(path: str) -> bool:
    """Whether the path is a URL that fsspec serves."""
    return "://" in path


def join(folder: str, *names: str) -> str:
    """A path below `folder`, with forward slashes."""
    return "/".join([folder.rstrip("/"), *names])


def resolve_path(path: str) -> str:
    """A local path without links, or a URL in its canonical spelling."""
    return canonicalise(path) if is_remote(path) else os.path.realpath(path)


def read_bytes(path: str, at_most: int | None = None) -> bytes:
    """The whole content of a file, or its first bytes; raises `FileNotFoundError` or another `OSError`.

    What comes from an object store is held against the checksum that comes with it.
    """
    if not is_remote(path):
        with open(path, "rb") as file:
            return file.read(-1 if at_most is None else at_most)
    with open_store(path) as store:
        return store.read(path, at_most)


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
    return is_file(path) or is_folder(path) if is_remote(path) else os.path.exists(path)


def is_folder(path: str) -> bool:
    """Whether there is a folder."""
    if not is_remote(path):
        return os.path.isdir(path)
    with open_store(path) as store:
        return store.is_folder(path)


def is_file(path: str) -> bool:
    """Whether there is a file."""
    if not is_remote(path):
        return os.path.isfile(path)
    with open_store(path) as store:
        return store.is_file(path)


def has_bucket(url: str) -> bool:
    """Whether there is the bucket that a URL lies in; what has no buckets has each."""
    with open_store(url) as store:
        return store.has_bucket(url)


@contextlib.contextmanager
def open_versions(url: str) -> Iterator[Gcs | None]:
    """The store that a URL lies in, if it can change an object on the condition that nobody else did; otherwise None.

    Raises:
        StoreError: if it does not answer, or refuses who asks, or a change.
    """
    with open_store(url, changing=True) as store:
        yield store if isinstance(store, Gcs) else None


def require_bucket(url: str, flag: str) -> None:
    """Makes sure that there is the bucket that a URL lies in.

    Args:
        flag: what the URL was given with, such as `--workspace`.

    Raises:
        DataError: if there is none, its name cannot be, or it may not be listed.
    """
    try:
        there = has_bucket(url)
    except OSError as error:
        raise DataError(f"{flag}={url} cannot be used: {error.strerror or error}") from None
    if not there:
        raise DataError(f"{flag}={url}: there is no bucket {get_bucket(url)}: create it, or correct its name")


def list_names(folder: str, prefix: str = "") -> list[str]:
    """The names directly inside a folder that begin so, sorted; none if it does not exist."""
    if not is_remote(folder):
        try:
            return sorted(name for name in os.listdir(folder) if name.startswith(prefix))
        except FileNotFoundError:
            return []
    with open_store(folder) as store:
        try:
            entries = [entry.strip("/") for entry in store.names(folder, prefix)]
        except FileNotFoundError:
            return []
        return sorted({name for name in entries if name and name.startswith(prefix)})


def glob(pattern: str) -> list[str]:
    """The URLs that match a pattern in an object store."""
    with open_store(pattern) as store:
        return store.glob(pattern)


def find_files(url: str) -> Iterator[StoredFile]:
    """Every file of an object store below a folder, sorted by URL; one request a thousand.

    A folder that its maker marked by an empty object is among them, its URL ending in a slash.
    """
    with open_store(url) as store:
        yield from store.files(url)


def describe_file(url: str) -> StoredFile:
    """What an object store says of one file; raises `FileNotFoundError` or `IsADirectoryError`."""
    with open_store(url) as store:
        return store.information(url)


@contextlib.contextmanager
def open_atomically(path: str) -> Iterator[IO[bytes]]:
    """A binary file to write; it appears under `path`, whole, when the block ends without an exception.

    Raises:
        DataError: if there is no room for it.
    """
    folder = None if is_remote(path) else os.path.dirname(os.path.abspath(path))
    try:
        with _open_atomically(path, folder) as file:
            yield file
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        # In our own words: a full disk is no fault of the program, on whichever worker it is.
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
            os.chmod(temporary, 0o666 & ~_umask())
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
    """Copies every file below a local folder."""
    for folder, _, names in os.walk(source):
        for name in sorted(names):
            path = os.path.join(folder, name)
            copy_file(path, join(destination, *os.path.relpath(path, source).split(os.sep)))


def open_to_read(path: str) -> IO[bytes]:
    """A binary file to read; one of an object store is fetched whole, and held in memory."""
    return io.BytesIO(read_bytes(path)) if is_remote(path) else open(path, "rb")


def move_folder(source: str, destination: str) -> None:
    """Makes a finished folder appear under another name, replacing what an unfinished commit left there.

    Locally this is one step. In an object store the files are copied within it one by one, the
    manifest last; then the source goes, its manifest first. So two attempts at one move do no
    harm to each other: whoever finds some of the source gone knows by the manifest at the
    destination that it was moved. Without a manifest that cannot be known, and is an error.

    Raises:
        FileNotFoundError: if nothing, or not all, is left to move, and there is no manifest at the destination.
    """
    if is_remote(source):
        _move_remote(source, destination)
        return
    os.stat(source)  # raises, before anything is taken away, if there is none
    remove_folder(destination)
    os.makedirs(os.path.dirname(os.path.abspath(destination)), exist_ok=True)
    os.rename(source, destination)


def _move_remote(source: str, destination: str) -> None:
    files = _list_below(source)
    manifests = [name for name in files if _is_manifest(name)]
    parts = [name for name in files if not _is_manifest(name)]
    there = _list_below(destination)
    # What is older than all that is moved was there before. What is newer may be another attempt's, which removes
    # the source already: then not all of it was listed.
    oldest = min((files[name].modified for name in parts), default=0.0)
    stale = [file.url for name, file in there.items() if name not in files and file.modified < oldest]

    def copy(name: str) -> None:
        url = files[name].url
        with open_store(url, changing=True) as store:
            store.copy(url, join(destination, name))

    try:
        if not files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), source)
        _for_each(copy, parts)
        _for_each(remove_file, stale)
        _for_each(copy, manifests)
    except FileNotFoundError:
        if not any(map(_is_manifest, _list_below(destination))):
            raise FileNotFoundError(
                errno.ENOENT, f"it cannot be moved to {destination}, since some of it is gone: run again", source
            ) from None
    remove_folder(source)


def remove_file(path: str) -> None:
    """Deletes a file if it exists."""
    with contextlib.suppress(FileNotFoundError):
        if not is_remote(path):
            os.unlink(path)
            return
        with open_store(path, changing=True) as store:
            store.remove(path)


def rename(path: str, name: str) -> None:
    """Gives a file another name in its folder, if it is there."""
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
    if not is_remote(path):
        shutil.rmtree(path, ignore_errors=True)
        return
    urls = [file.url for file in _list_below(path).values()]
    _for_each(remove_file, filter(_is_manifest, urls))  # without it, what is left does not count
    _for_each(remove_file, (url for url in urls if not _is_manifest(url)))
    with contextlib.suppress(FileNotFoundError), open_store(path, changing=True) as store:
        store.remove_empty_folder(path)


def _is_manifest(name: str) -> bool:
    return name.endswith("manifest.json")


def _list_below(folder: str) -> dict[str, StoredFile]:
    """The files of an object store below a folder, by their names in it."""
    above = f"{canonicalise(folder).rstrip('/')}/"
    with contextlib.suppress(FileNotFoundError):
        return {file.url.removeprefix(above): file for file in find_files(folder)}
    return {}


def _for_each(function: Callable[[str], None], urls: Iterable[str]) -> None:
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(function, urls):
            pass


def compute_checksum(path: str) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    digest = hashlib.sha256()
    with open_to_read(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def find_missing_or_changed(folder: str, sizes: Mapping[str, int]) -> str | None:
    """Says which file of a folder is missing or has another size than it should; None if all are as they should be."""
    below = {name: file.size for name, file in _list_below(folder).items()} if sizes and is_remote(folder) else {}
    for name, expected in sizes.items():
        path = join(folder, name)
        found = below.get(name) if is_remote(folder) else find_size(path)
        if found != expected:
            return f"{path} should have {expected} bytes but {'is missing' if found is None else f'has {found}'}"
    return None


def get_size(path: str) -> int:
    """Bytes of a file."""
    return describe_file(path).size if is_remote(path) else os.path.getsize(path)


def find_size(path: str) -> int | None:
    """Bytes of a file, or None if it does not exist."""
    try:
        return get_size(path)
    except FileNotFoundError:
        return None


def _umask() -> int:
    # The mask cannot be read without being set; workers of one process share it, so it is read once.
    global _UMASK
    if _UMASK is None:
        _UMASK = os.umask(0o022)
        os.umask(_UMASK)
    return _UMASK


_UMASK: int | None = None
