"""Files in an object store: GCS by its JSON API through gcsfs, or what else fsspec serves.

What fails in an object store in a way that passes (429, 500 to 504, 408, no answer, a broken
connection, a body cut short, a wrong checksum) gcsfs asks for again, six times in all, after
pauses of 1 to 17 seconds; what arrives damaged is asked for, or sent, three times. What still
fails then is told in one sentence: a `StoreError` if the store does not answer or refuses who
asks, an `OSError` if it is one file's fault.
"""

from __future__ import annotations

import base64
import collections
import concurrent.futures
import contextlib
import datetime
import email.utils
import fnmatch
import functools
import hashlib
import io
import itertools
import json
import logging
import os
import re
import threading
import time
import uuid
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any, NamedTuple

from tfrecords.errors import DataError
from tfrecords.object_faults import translate_errors

ANSWER_S = 30.0
"""Without a byte from an object store until a request counts as lost, and is made again."""
REQUEST_S = 600.0
"""For one request with all of its content, either way; it is not made again."""
_REFUSED_S = 60.0  # for which a token server that failed is not asked again
_TRIES = 3  # at content that arrives damaged
_THREADS = 16
_UPLOAD_BYTES = 8 << 20  # in one request

os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # or gcsfs imports a second client, and is slow


class StoredFile(NamedTuple):
    """What an object store says of a file.

    Attributes:
        url: whose last part may be empty, or hold anything.
        size: in bytes.
        modified: seconds since 1970 UTC, when this content was stored: what is written about a file later, such as
            its owner, is no change of it.
    """

    url: str
    size: int
    modified: float


class Version(NamedTuple):
    """An object as it is at one time.

    Attributes:
        generation: the store's name for this version; no other has the same.
        age_s: seconds since it was written, by the store's own clock, to the second.
        content: all of it.
    """

    generation: str
    age_s: float
    content: bytes


NO_VERSION = "0"
"""The generation of an object that is not there."""


def canonicalise(url: str) -> str:
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


def get_bucket(url: str) -> str:
    """The URL of the bucket that a URL lies in."""
    return f"{url.partition('://')[0]}://{split_url(url)[0]}"


def open_filesystem(url: str) -> Any:
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
    with translate_errors(url):
        _refresh(fs.credentials)  # here, since gcsfs would ask again for what is refused, and block all others
    return fs


@functools.lru_cache(maxsize=4)
def _gcs_options(answer_s: float, request_s: float) -> dict[str, Any]:
    import aiohttp

    logger = logging.getLogger("gcsfs")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)  # it prints the stack trace of what is told here in a sentence
    timeout = aiohttp.ClientTimeout(total=request_s, sock_connect=answer_s, sock_read=answer_s)
    return {"requests_timeout": timeout, "use_listings_cache": False}


def _refresh(credentials: Any) -> None:
    """Makes credentials valid; what fails is not tried again for a minute: it can take two, and all threads need it."""
    with _refreshing:
        failed_at, failure = _failures.get(credentials, (0.0, None))
        if failure is not None and time.monotonic() - failed_at < _REFUSED_S:
            raise failure
        try:
            credentials.maybe_refresh()
        except Exception as error:
            _failures[credentials] = time.monotonic(), error
            raise


_refreshing = threading.Lock()
_failures: weakref.WeakKeyDictionary[Any, tuple[float, Exception]] = weakref.WeakKeyDictionary()


class FileSystem:
    """Any file system of fsspec, by a few calls that raise what it raises; told by `open_store`."""

    def __init__(self, fs: Any):
        self.fs = fs

    def read(self, url: str, at_most: int | None) -> bytes:
        """The content of a file, or its first bytes."""
        return self.fs.cat_file(url, end=at_most)

    def information(self, url: str) -> StoredFile:
        """What is said of a file; raises `FileNotFoundError` or `IsADirectoryError`."""
        info = self.fs.info(url)
        if info["type"] == "directory":
            raise IsADirectoryError(url)
        return make_stored_file(url, info)

    def is_file(self, url: str) -> bool:
        """Whether there is a file."""
        try:
            self.information(url)
        except (FileNotFoundError, IsADirectoryError):
            return False
        return True

    def files(self, folder: str) -> Iterator[StoredFile]:
        """Every file below a folder, sorted by URL."""
        for path, info in sorted(self.fs.find(folder, detail=True).items()):
            yield make_stored_file(self.fs.unstrip_protocol(path), info)

    def names(self, folder: str, _prefix: str) -> Iterable[str]:
        """At least those names directly inside a folder that begin so; of folders perhaps with a slash."""
        above = self.fs._strip_protocol(folder).rstrip("/") + "/"
        return [entry.removeprefix(above) for entry in self.fs.ls(folder, detail=False, refresh=True)]

    def glob(self, pattern: str) -> list[str]:
        """The URLs that match a pattern."""
        return [self.fs.unstrip_protocol(match) for match in self.fs.glob(pattern)]

    def is_folder(self, url: str) -> bool:
        """Whether there is a folder."""
        return self.fs.isdir(url)

    def has_bucket(self, _url: str) -> bool:
        """Whether there is the bucket; what has no buckets has each."""
        return True

    def upload(self, local: str, url: str) -> None:
        """Makes a local file appear, whole or not at all."""
        self.fs.put_file(local, url)

    def copy(self, source: str, destination: str) -> None:
        """Copies a file within the store."""
        self.fs.cp_file(source, destination)

    def remove(self, url: str) -> None:
        """Deletes a file."""
        self.fs.rm_file(url)

    def remove_empty_folder(self, url: str) -> None:
        """Deletes a folder in which there are no files."""
        self.fs.rm(url, recursive=True)


class Gcs(FileSystem):
    """Google Cloud Storage, with as few requests as can be."""

    def read(self, url: str, at_most: int | None, generation: str | None = None) -> bytes:
        """The content of an object, or its first bytes; held against the checksum that comes with it.

        That is the checksum of the bytes that are stored: nothing can be held against it if they are compressed.
        """
        import gcsfs.retry

        asked = None if at_most is None else {"Range": f"bytes=0-{at_most - 1}"}
        for _ in range(_TRIES):
            try:
                # One request; to open an object, or to ask what it is first, would take two more.
                headers, content = self.fs.call("GET", self.fs.url(url), headers=asked, generation=generation)
            except gcsfs.retry.HttpError as error:
                if at_most is not None and str(error.code) == "416":
                    return b""  # an empty object has no first byte
                raise
            if "gzip" in (headers.get("Content-Encoding"), headers.get("X-Goog-Stored-Content-Encoding")):
                return content[:at_most]
            whole = headers.get("Content-Range", f"bytes 0-{len(content) - 1}/{len(content)}")
            said = [part.strip() for value in headers.getall("X-Goog-Hash", ()) for part in value.split(",")]
            right = f"crc32c={compute_crc32c(content)}"
            if not whole.endswith(f"-{len(content) - 1}/{len(content)}") or right in said:
                return content
            if not any(part.startswith("crc32c=") for part in said):
                return content
        raise gcsfs.retry.ChecksumError

    def information(self, url: str) -> StoredFile:
        """What is said of an object; raises `FileNotFoundError` or `IsADirectoryError`."""
        bucket, key = split_url(url)
        if not key:
            raise IsADirectoryError(url)
        return make_stored_file(
            url, self.fs.call("GET", "b/{}/o/{}", bucket, key, json_out=True, fields="name,size,timeCreated")
        )

    def version(self, url: str) -> Version:
        """The version of an object that is there; raises `FileNotFoundError`, also if it is replaced meanwhile."""
        bucket, key = split_url(url)
        headers, described = self.fs.call("GET", "b/{}/o/{}", bucket, key, fields="generation,updated")
        now = email.utils.parsedate_to_datetime(headers["Date"])
        item = json.loads(described)
        age = now - datetime.datetime.fromisoformat(item["updated"])
        return Version(
            item["generation"], max(0.0, age.total_seconds()), self.read(url, None, generation=item["generation"])
        )

    def replace_version(self, url: str, content: bytes, generation: str) -> str:
        """Writes an object if this is the version that is there, or `NO_VERSION`; the generation of the new one.

        Raises:
            FileExistsError: if another one is there, or none: perhaps since this was done, but the answer was lost.
        """
        return self._upload(url, io.BytesIO(content), ifGenerationMatch=generation)["generation"]

    def remove_version(self, url: str, generation: str) -> None:
        """Deletes an object if this is the version that is there.

        Raises:
            FileExistsError: if another one is there.
            FileNotFoundError: if there is none: perhaps since this was done, but the answer was lost.
        """
        self.fs.call("DELETE", "b/{}/o/{}", *split_url(url), ifGenerationMatch=generation)

    def files(self, folder: str) -> Iterator[StoredFile]:
        """Every object below a folder, sorted by URL; one request a thousand.

        The folders in it are listed at the same time, at the price of a request each, if they are not too many for
        one page.
        """
        top = next(self._pages(folder, delimiter="/"))
        folders = top.get("prefixes", ())
        bucket, _ = split_url(folder)
        if len(folders) == 1 or "nextPageToken" in top:
            yield from self._files_of(bucket, make_prefix(folder))
            return
        order = sorted([(item["name"], item) for item in top.get("items", ())] + [(name, None) for name in folders])
        pool = concurrent.futures.ThreadPoolExecutor(_THREADS)
        listing: collections.deque[concurrent.futures.Future[list[StoredFile]]] = collections.deque()
        waiting = iter(name for name, item in order if item is None)

        def list_more() -> None:
            for name in itertools.islice(waiting, _THREADS - len(listing)):
                listing.append(pool.submit(lambda prefix: list(self._files_of(bucket, prefix)), name))

        try:
            for name, item in order:
                if item is not None:
                    yield make_stored_file(f"gs://{bucket}/{name}", item)
                    continue
                list_more()
                yield from listing.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _files_of(self, bucket: str, prefix: str) -> Iterator[StoredFile]:
        for page in self._pages(f"gs://{bucket}", prefix):
            for item in page.get("items", ()):
                yield make_stored_file(f"gs://{bucket}/{item['name']}", item)

    def glob(self, pattern: str) -> list[str]:
        """The URLs of objects and folders that match a pattern, sorted; only folders that may hold some are listed."""
        if "**" in pattern:
            return super().glob(pattern)
        bucket, key = split_url(pattern)
        found, parts = [f"gs://{bucket}"], key.split("/")
        for number, part in enumerate(parts, 1):
            literal = re.match(r"[^*?[]*", part).group()  # type: ignore[union-attr]
            if literal == part:
                found = [f"{folder}/{part}" for folder in found]
                continue
            wanted = re.compile(fnmatch.translate(part))
            found = [
                f"{folder}/{name.rstrip('/')}"
                for folder in found
                for name in dict.fromkeys(self.names(folder, literal))
                if name.strip("/") and (number == len(parts) or name.endswith("/")) and wanted.match(name.rstrip("/"))
            ]
        return sorted({url for url in found if literal != part or self.is_file(url) or self.is_folder(url)})

    def names(self, folder: str, prefix: str) -> Iterable[str]:
        """The names directly inside a folder that begin so; those of folders end with a slash."""
        above = make_prefix(folder)
        for page in self._pages(folder, prefix, delimiter="/"):
            for name in [*(item["name"] for item in page.get("items", ())), *page.get("prefixes", ())]:
                yield name.removeprefix(above)

    def is_folder(self, url: str) -> bool:
        """Whether there is anything in a folder, or there is the bucket."""
        try:
            page = next(self._pages(url, at_most=1))
        except FileNotFoundError:  # the bucket
            return False
        return bool(page.get("items")) or not split_url(url)[1]

    def has_bucket(self, url: str) -> bool:
        """Whether there is the bucket."""
        try:
            next(self._pages(url, at_most=1))
        except FileNotFoundError:
            return False
        return True

    def upload(self, local: str, url: str) -> None:
        """Makes a local file appear, whole; GCS refuses what arrives damaged, and keeps the object that it has."""
        with open(local, "rb") as file:
            self._upload(url, file)

    def remove_empty_folder(self, _url: str) -> None:
        """Does nothing: folders are but parts of names."""

    def _upload(self, url: str, file: IO[bytes], **conditions: str) -> dict[str, Any]:
        import gcsfs.retry

        bucket, key = split_url(url)
        digest = hashlib.file_digest(file, "md5").digest()  # type: ignore[arg-type]
        described = {"name": key, "md5Hash": base64.b64encode(digest).decode()}
        for _ in range(_TRIES):
            try:
                return self._send(bucket, described, file, **conditions)
            except gcsfs.retry.HttpError as error:
                if str(error.code) != "400" or "MD5" not in str(error):
                    raise
        raise gcsfs.retry.ChecksumError

    def _send(self, bucket: str, described: Mapping[str, str], file: IO[bytes], **conditions: str) -> dict[str, Any]:
        """Uploads a file; what the store says of the new object."""
        import fsspec.asyn
        import gcsfs.core

        address, kind = f"{self.fs._location}/upload/storage/v1/b/{{}}/o", "application/octet-stream"
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if size <= _UPLOAD_BYTES:
            boundary = uuid.uuid4().hex.encode()
            parts = [(b"application/json; charset=UTF-8", json.dumps(described).encode()), (kind.encode(), file.read())]
            body = b"".join(b"--%b\r\nContent-Type: %b\r\n\r\n%b\r\n" % (boundary, *part) for part in parts)
            headers = {"Content-Type": f"multipart/related; boundary={boundary.decode()}"}
            data = b"%b--%b--" % (body, boundary)
            asked = {"uploadType": "multipart", **conditions}
            return self.fs.call("POST", address, bucket, json_out=True, headers=headers, data=data, **asked)
        answered, _ = self.fs.call(
            *("POST", address, bucket),
            uploadType="resumable",
            name=described["name"],
            json=described,
            headers={"X-Upload-Content-Type": kind},
            **conditions,
        )
        item: dict[str, Any] = {}
        for offset in range(0, size, _UPLOAD_BYTES):
            chunk = file.read(_UPLOAD_BYTES)
            item = fsspec.asyn.sync(
                *(self.fs.loop, gcsfs.core.upload_chunk),
                *(self.fs, answered["Location"], chunk, offset, size, kind),
            )
        return item

    def _pages(
        self, folder: str, prefix: str = "", *, delimiter: str | None = None, at_most: int = 1000
    ) -> Iterator[dict[str, Any]]:
        """The pages of a listing, sorted by name; raises `FileNotFoundError` if there is no such bucket."""
        asked = {
            "prefix": f"{make_prefix(folder)}{prefix}" or None,
            "delimiter": delimiter,
            "maxResults": at_most,
            "fields": "items(name,size,timeCreated),prefixes,nextPageToken",
        }
        token = None
        while True:
            page = self.fs.call("GET", "b/{}/o", split_url(folder)[0], json_out=True, pageToken=token, **asked)
            yield page
            token = page.get("nextPageToken")
            if token is None or at_most < 1000:
                return


@contextlib.contextmanager
def open_store(url: str, *, changing: bool = False) -> Iterator[FileSystem]:
    """The store that a URL lies in; what that refuses or fails to do in the block is told in one sentence.

    Args:
        changing: what is refused is a change then, which is no fault of the file.

    Raises:
        DataError: for a scheme that nothing installed serves.
        StoreError: if the store does not answer, or refuses who asks, or a change.
    """
    fs = open_filesystem(url)
    with translate_errors(url, changing=changing):
        yield Gcs(fs) if "gs" in fs.protocol else FileSystem(fs)


def make_stored_file(url: str, info: Mapping[str, Any]) -> StoredFile:
    modified = info.get("mtime") or info.get("timeCreated") or info.get("created")
    if isinstance(modified, str):
        modified = datetime.datetime.fromisoformat(modified)
    seconds = modified.timestamp() if isinstance(modified, datetime.datetime) else float(modified or 0)
    return StoredFile(url, int(info.get("size") or 0), seconds)


def compute_crc32c(content: bytes) -> str:
    import google_crc32c

    return base64.b64encode(google_crc32c.Checksum(content).digest()).decode()


def split_url(url: str) -> tuple[str, str]:
    bucket, _, key = url.partition("://")[2].partition("/")
    return bucket, key


def make_prefix(folder: str) -> str:
    """What the names of all objects in a folder begin with."""
    key = split_url(folder)[1].rstrip("/")
    return f"{key}/" if key else ""
