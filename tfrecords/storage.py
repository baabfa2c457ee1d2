"""Files, local or in an object store, by one set of calls.

A path with `://` goes to `fsspec` (`gs://` by gcsfs); anything else is a local path and is
handed to the operating system as it is. Every write is atomic: a reader sees the whole
file or none.

What fails in an object store in a way that passes (429, 500 to 504, 408, no answer, a broken
connection, a body cut short, a wrong checksum) gcsfs asks for again, six times in all, after
pauses of 1 to 17 seconds. What still fails then is told in one sentence: a `StoreError` if
the store does not answer or refuses who asks, an `OSError` if it is one file's fault.
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import datetime
import errno
import functools
import hashlib
import io
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any, NamedTuple

from tfrecords.errors import DataError, StoreError

ANSWER_S = 30.0
"""Without a byte from an object store until a request counts as lost, and is made again."""
REQUEST_S = 600.0
"""For one request with all of its content, either way; it is not made again."""
_THREADS = 16
_UPLOAD_BYTES = 8 << 20  # in one request

os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # or gcsfs imports a second client, and is slow

TEMPORARY_PREFIX = ".unfinished-"
"""Of files that are being written; a process that is killed leaves them."""


def is_remote(path: str) -> bool:
    """Whether the path is a URL that fsspec serves."""
    return "://" in path


def join(folder: str, *names: str) -> str:
    """A path below `folder`, with forward slashes."""
    return "/".join([folder.rstrip("/"), *names])


def filesystem(url: str) -> Any:
    """The fsspec file system of a URL, with credentials that are valid.

    Raises:
        DataError: for a scheme that nothing installed serves.
        StoreError: if credentials are refused.
    """
    import fsspec

    scheme = url.partition("://")[0]
    try:
        if scheme not in ("gs", "gcs"):
            return fsspec.core.url_to_fs(url)[0]
        # Not by the URL: `::` and `#` are parts of an object's name. Nor by fsspec, which would take gcsfs's other
        # class if someone had imported gcsfs before: that one asks what kind of bucket each is, by another protocol.
        from gcsfs.core import GCSFileSystem

        fs = GCSFileSystem(**_gcs_options(ANSWER_S, REQUEST_S))
    except (ImportError, ValueError) as error:
        raise DataError(f"cannot use {url!r}: {error}") from error
    with _told(url):
        fs.credentials.maybe_refresh()  # here, since gcsfs would ask again for what is refused, and block all others
    return fs


@functools.lru_cache(maxsize=4)
def _gcs_options(answer_s: float, request_s: float) -> dict[str, Any]:
    import aiohttp

    logger = logging.getLogger("gcsfs")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)  # it prints the stack trace of what is told here in a sentence
    timeout = aiohttp.ClientTimeout(total=request_s, sock_connect=answer_s, sock_read=answer_s)
    return {"requests_timeout": timeout, "use_listings_cache": False}


def _is_gcs(fs: Any) -> bool:
    return "gs" in fs.protocol


@contextlib.contextmanager
def _told(url: str, *, changing: bool = False) -> Iterator[None]:
    """Says in one sentence, and with no other exception behind it, what an object store refuses or fails to do.

    Args:
        changing: what is refused is a change then, which is no fault of the file.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        told = _in_words(url, error)
        if told is None:
            raise
        if changing and isinstance(told, OSError) and not isinstance(told, FileNotFoundError):
            told = StoreError(f"{url} cannot be changed: {told.strerror}")
        raise told from None


def _in_words(url: str, error: Exception) -> Exception | None:
    code = str(getattr(error, "code", None) or "")
    words = " ".join(str(error).split())[:300]
    if isinstance(error, ValueError) or code == "400":  # gcsfs: no name that can be
        return OSError(errno.EINVAL, f"its name is refused ({words})", url)
    if isinstance(error, IsADirectoryError) or not url.startswith(("gs://", "gcs://")):
        return None
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url)
    import aiohttp
    import gcsfs.retry
    import google.auth.exceptions
    import requests

    if code == "401" or isinstance(error, google.auth.exceptions.GoogleAuthError | gcsfs.retry.NonRetryableError):
        return StoreError(_of_credentials(url, error))
    if words.startswith("Forbidden: "):  # gcsfs: 403
        reason = " ".join(str(error).partition("\n")[2].split())[:300]
        return PermissionError(errno.EACCES, f"no permission ({reason or 'the object store gives no reason'})", url)
    if isinstance(error, aiohttp.ClientPayloadError | gcsfs.retry.ChecksumError):
        return OSError(errno.EIO, "cut short or damaged on the way, several times", url)
    if code in ("408", "429") or code.startswith("5") or isinstance(error, requests.exceptions.ProxyError):
        return StoreError(f"the object store fails to serve {url}, several times ({words or '502'}): run again later")
    if isinstance(error, aiohttp.ClientError | requests.exceptions.RequestException | TimeoutError):
        words = f"{type(error).__name__}: {words}" if words else type(error).__name__
        return StoreError(f"the object store does not answer when asked for {url} ({words}): run again later")
    return OSError(errno.EIO, f"refused by the object store ({words})", url) if code else None


def _of_credentials(url: str, error: Exception) -> str:
    given = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    where = f"those in GOOGLE_APPLICATION_CREDENTIALS={given}" if given else "the environment's"
    cause = error.__cause__ or error
    reason = " ".join(str(cause.args[0] if cause.args else cause).split())[:200]
    return (
        f"{url} is refused to these credentials, {where}, or there are none ({reason}): set "
        "GOOGLE_APPLICATION_CREDENTIALS to the file of a service account that may use the bucket, or run "
        "`gcloud auth application-default login`"
    )


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


def read_bytes(path: str, at_most: int | None = None) -> bytes:
    """The whole content of a file, or its first bytes; raises `FileNotFoundError` or another `OSError`.

    What comes from an object store is held against the checksum that comes with it.
    """
    if not is_remote(path):
        with open(path, "rb") as file:
            return file.read(-1 if at_most is None else at_most)
    fs = filesystem(path)
    with _told(path):
        if not _is_gcs(fs):
            return fs.cat_file(path, end=at_most)
        return _read_object(fs, path, at_most)


def _read_object(fs: Any, url: str, at_most: int | None) -> bytes:
    import gcsfs.retry

    for attempt in range(3):
        try:
            # One request; to open an object, or to ask what it is first, would take two more.
            headers, content = fs.call(
                "GET", fs.url(url), headers=None if at_most is None else {"Range": f"bytes=0-{at_most - 1}"}
            )
        except gcsfs.retry.HttpError as error:
            if at_most is not None and str(error.code) == "416":
                return b""  # an empty object has no first byte
            raise
        whole = headers.get("Content-Range", f"bytes 0-{len(content) - 1}/{len(content)}")
        said = [part.strip() for value in headers.getall("X-Goog-Hash", ()) for part in value.split(",")]
        right = f"crc32c={_crc32c(content)}"
        if not whole.endswith(f"-{len(content) - 1}/{len(content)}") or right in said:
            return content
        if not any(part.startswith("crc32c=") for part in said):
            return content
        if attempt == 2:
            break
    raise gcsfs.retry.ChecksumError


def _crc32c(content: bytes) -> str:
    import google_crc32c

    return base64.b64encode(google_crc32c.Checksum(content).digest()).decode()


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
    fs = filesystem(path)
    with _told(path):
        if not _is_gcs(fs):
            return fs.isdir(path)
        try:
            page = next(_pages(fs, path, at_most=1))
        except FileNotFoundError:  # the bucket
            return False
        return bool(page.get("items")) or not _bucket_and_key(path)[1]


def is_file(path: str) -> bool:
    """Whether there is a file."""
    if not is_remote(path):
        return os.path.isfile(path)
    try:
        information(path)
    except (FileNotFoundError, IsADirectoryError):
        return False
    return True


def has_bucket(url: str) -> bool:
    """Whether there is the bucket that a URL lies in; what has no buckets has each."""
    fs = filesystem(url)
    if not _is_gcs(fs):
        return True
    with _told(url):
        try:
            next(_pages(fs, url, at_most=1))
        except FileNotFoundError:
            return False
    return True


def list_names(folder: str, prefix: str = "") -> list[str]:
    """The names directly inside a folder that begin so, sorted; none if it does not exist."""
    if not is_remote(folder):
        try:
            return sorted(name for name in os.listdir(folder) if name.startswith(prefix))
        except FileNotFoundError:
            return []
    fs = filesystem(folder)
    with _told(folder):
        try:
            if not _is_gcs(fs):
                above = fs._strip_protocol(folder).rstrip("/") + "/"
                entries = [entry.removeprefix(above) for entry in fs.ls(folder, detail=False, refresh=True)]
            else:
                above = _prefix(folder)
                pages = _pages(fs, folder, prefix, delimiter="/")
                entries = [
                    name.removeprefix(above)
                    for page in pages
                    for name in [*(item["name"] for item in page.get("items", ())), *page.get("prefixes", ())]
                ]
        except FileNotFoundError:
            return []
        return sorted({name for entry in entries if (name := entry.strip("/")) and name.startswith(prefix)})


def glob(pattern: str) -> list[str]:
    """The URLs that match a pattern in an object store."""
    fs = filesystem(pattern)
    with _told(pattern):
        return [fs.unstrip_protocol(match) for match in fs.glob(pattern)]


def bucket_of(url: str) -> str:
    """The URL of the bucket that a URL lies in."""
    return f"{url.partition('://')[0]}://{_bucket_and_key(url)[0]}"


class StoredFile(NamedTuple):
    """What an object store says of a file.

    Attributes:
        url: whose last part may be empty, or hold anything.
        size: in bytes.
        modified: seconds since 1970 UTC.
    """

    url: str
    size: int
    modified: float


def find_files(url: str) -> Iterator[StoredFile]:
    """Every file of an object store below a folder, sorted by URL; one request a thousand.

    A folder that its maker marked by an empty object is among them, its URL ending in a slash.
    """
    fs = filesystem(url)
    with _told(url):
        if not _is_gcs(fs):
            for path, info in sorted(fs.find(url, detail=True).items()):
                yield _stored(fs.unstrip_protocol(path), info)
            return
        bucket, _ = _bucket_and_key(url)
        for page in _pages(fs, url):
            for item in page.get("items", ()):
                yield _stored(f"gs://{bucket}/{item['name']}", item)


def information(url: str) -> StoredFile:
    """What an object store says of one file; raises `FileNotFoundError` or `IsADirectoryError`."""
    fs = filesystem(url)
    with _told(url):
        if not _is_gcs(fs):
            info = fs.info(url)
            if info["type"] == "directory":
                raise IsADirectoryError(url)
            return _stored(url, info)
        bucket, key = _bucket_and_key(url)
        if not key:
            raise IsADirectoryError(url)
        return _stored(url, fs.call("GET", "b/{}/o/{}", bucket, key, json_out=True, fields="name,size,updated"))


def _stored(url: str, info: Mapping[str, Any]) -> StoredFile:
    modified = info.get("mtime") or info.get("updated") or info.get("created")
    if isinstance(modified, str):
        modified = datetime.datetime.fromisoformat(modified)
    seconds = modified.timestamp() if isinstance(modified, datetime.datetime) else float(modified or 0)
    return StoredFile(url, int(info.get("size") or 0), seconds)


def _bucket_and_key(url: str) -> tuple[str, str]:
    bucket, _, key = url.partition("://")[2].partition("/")
    return bucket, key


def _prefix(folder: str) -> str:
    """What the names of all objects in a folder begin with."""
    key = _bucket_and_key(folder)[1].rstrip("/")
    return f"{key}/" if key else ""


def _pages(
    fs: Any, folder: str, prefix: str = "", *, delimiter: str | None = None, at_most: int = 1000
) -> Iterator[dict[str, Any]]:
    """The pages of a listing, sorted by name; raises `FileNotFoundError` if there is no such bucket."""
    asked = {
        "prefix": f"{_prefix(folder)}{prefix}" or None,
        "delimiter": delimiter,
        "maxResults": at_most,
        "fields": "items(name,size,updated),prefixes,nextPageToken",
    }
    token = None
    while True:
        page = fs.call("GET", "b/{}/o", _bucket_and_key(folder)[0], json_out=True, pageToken=token, **asked)
        yield page
        token = page.get("nextPageToken")
        if token is None or at_most < 1000:
            return


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
            _upload(temporary, path)
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


def _upload(local: str, url: str) -> None:
    fs = filesystem(url)
    with _told(url, changing=True):
        if not _is_gcs(fs):
            fs.put_file(local, url)
            return
        import gcsfs.retry

        try:
            fs.put_file(local, url, consistency="md5", chunksize=_UPLOAD_BYTES)
        except gcsfs.retry.ChecksumError:
            remove_file(url)
            raise


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

    Locally this is one step; in an object store the files are copied within it one by one, the manifest last.
    """
    remove_folder(destination)
    if is_remote(source):
        fs = filesystem(source)
        above = f"{canonical(source).rstrip('/')}/"

        def copy(url: str) -> None:
            with _told(url, changing=True):
                fs.cp_file(url, join(destination, url.removeprefix(above)))

        urls = [file.url for file in find_files(source)]
        _for_each(copy, (url for url in urls if not url.endswith("manifest.json")))
        _for_each(copy, (url for url in urls if url.endswith("manifest.json")))
        remove_folder(source)
        return
    os.makedirs(os.path.dirname(os.path.abspath(destination)), exist_ok=True)
    os.rename(source, destination)


def remove_file(path: str) -> None:
    """Deletes a file if it exists."""
    with contextlib.suppress(FileNotFoundError):
        if not is_remote(path):
            os.unlink(path)
            return
        fs = filesystem(path)
        with _told(path, changing=True):
            fs.rm_file(path)


def remove_folder(path: str) -> None:
    """Deletes a folder and what is in it, if it exists."""
    if not is_remote(path):
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(FileNotFoundError):
        fs = filesystem(path)
        if not _is_gcs(fs):
            fs.rm(path, recursive=True)
            return
        urls = sorted((file.url for file in find_files(path)), key=lambda url: not url.endswith("manifest.json"))
        manifests = sum(url.endswith("manifest.json") for url in urls)
        _for_each(remove_file, urls[:manifests])  # first: without it, what is left does not count
        _for_each(remove_file, urls[manifests:])


def _for_each(function: Callable[[str], None], urls: Iterable[str]) -> None:
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(function, urls):
            pass


def checksum(path: str) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    digest = hashlib.sha256()
    with open_to_read(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def missing_or_changed(folder: str, sizes: Mapping[str, int]) -> str | None:
    """Says which file of a folder is missing or has another size than it should; None if all are as they should be."""
    below = {}
    if sizes and is_remote(folder):
        above = f"{canonical(folder).rstrip('/')}/"
        with contextlib.suppress(FileNotFoundError):
            below = {file.url.removeprefix(above): file.size for file in find_files(folder)}
    for name, expected in sizes.items():
        path = join(folder, name)
        found = below.get(name) if is_remote(folder) else size_if_there(path)
        if found != expected:
            return f"{path} should have {expected} bytes but {'is missing' if found is None else f'has {found}'}"
    return None


def size(path: str) -> int:
    """Bytes of a file."""
    return information(path).size if is_remote(path) else os.path.getsize(path)


def size_if_there(path: str) -> int | None:
    """Bytes of a file, or None if it does not exist."""
    try:
        return size(path)
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
