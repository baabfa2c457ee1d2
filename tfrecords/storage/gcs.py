"""Google Cloud Storage, asked as few times as possible."""

from __future__ import annotations

import collections
import concurrent.futures
import datetime
import email.utils
import fnmatch
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from tfrecords.storage.faults import DamagedError
from tfrecords.storage.filesystem import (
    FileSystem,
    StoredFile,
    Version,
    compute_crc32c,
    make_prefix,
    make_stored_file,
    split_url,
)
from tfrecords.storage.gcs_writer import GcsWriter

_THREADS = 16
_TRIES = 3  # at content that arrives damaged


class Gcs(FileSystem):
    """Google Cloud Storage, asked as few times as possible.

    gcsfs reads, lists, copies and deletes. Google's own client uploads, and makes the changes that depend on a version.

    Args:
        fs: a `gcsfs.core.GCSFileSystem`, whose credentials are valid.
        answer_s: seconds without a byte from the store until a request counts as lost, and is made again.
    """

    def __init__(self, fs: Any, answer_s: float):
        super().__init__(fs)
        self._answer_s = answer_s

    def read(self, url: str, at_most: int | None, generation: str | None = None) -> bytes:
        """Reads an object, or its first bytes, and compares a whole object with the checksum that comes with it.

        The checksum is that of the stored bytes. So nothing is compared if the object is stored compressed.

        Raises:
            DamagedError: if the content arrives damaged each of three times.
        """
        from tfrecords.storage.bounded_response import bound_body

        for _ in range(_TRIES):
            # One request; to open an object, or to ask what it is first, would take two more.
            with bound_body(at_most):
                headers, content = self.fs.call("GET", self.fs.url(url), generation=generation)
            whole = at_most is None or len(content) < at_most or headers.get("Content-Length") == str(len(content))
            if not whole or "gzip" in (headers.get("Content-Encoding"), headers.get("X-Goog-Stored-Content-Encoding")):
                return content
            said = [part.strip() for value in headers.getall("X-Goog-Hash", ()) for part in value.split(",")]
            if f"crc32c={compute_crc32c(content)}" in said or not any(part.startswith("crc32c=") for part in said):
                return content
        raise DamagedError

    def read_range(self, url: str, start: int, length: int) -> bytes:
        """Reads bytes from a place in an object, by one request; fewer where the object ends before.

        A store sends the checksum of a whole object alone. So whoever reads a part checks what it holds.

        Raises:
            DamagedError: if the store sends more than was asked for each of three times.
        """
        from tfrecords.storage.bounded_response import bound_body

        for _ in range(_TRIES):
            with bound_body(length + 1):
                asked = {"Range": f"bytes={start}-{start + length - 1}"}
                _, content = self.fs.call("GET", self.fs.url(url), headers=asked)
            if len(content) <= length:
                return content
        raise DamagedError

    def describe(self, url: str) -> StoredFile:
        """Asks for the description of an object; raises `FileNotFoundError` or `IsADirectoryError`."""
        bucket, key = split_url(url)
        if not key:
            raise IsADirectoryError(url)
        return make_stored_file(
            url, self.fs.call("GET", "b/{}/o/{}", bucket, key, json_out=True, fields="name,size,timeCreated")
        )

    def read_version(self, url: str) -> Version:
        """Reads the present version of an object; raises `FileNotFoundError`, also if it is replaced meanwhile."""
        bucket, key = split_url(url)
        headers, described = self.fs.call("GET", "b/{}/o/{}", bucket, key, fields="generation,updated")
        now = email.utils.parsedate_to_datetime(headers["Date"])
        item = json.loads(described)
        age = now - datetime.datetime.fromisoformat(item["updated"])
        return Version(
            item["generation"], max(0.0, age.total_seconds()), self.read(url, None, generation=item["generation"])
        )

    def replace_version(self, url: str, content: bytes, generation: str) -> str:
        """Writes an object if this version is there, and returns the generation of the new one.

        Args:
            generation: of the version that is replaced, or `NO_VERSION` if none must be there.

        Raises:
            FileExistsError: if another version is there, or none. That is also raised if the object was written, but
                the store's answer was lost and the request made again.
        """
        return self._writer.upload(url, io.BytesIO(content), generation)

    def remove_version(self, url: str, generation: str) -> None:
        """Deletes an object if this version is there.

        Raises:
            FileExistsError: if another version is there.
            FileNotFoundError: if there is none. That is also raised if the object was deleted, but the store's answer
                was lost and the request made again.
        """
        self._writer.remove(url, generation)

    def list_files(self, folder: str) -> Iterator[StoredFile]:
        """Lists every object below a folder, sorted by URL, by one request for a thousand objects.

        The folders in it are listed at the same time, which costs a request for each, unless they are too many for
        one page.
        """
        top = next(self._list_pages(folder, delimiter="/"))
        folders = top.get("prefixes", ())
        bucket, _ = split_url(folder)
        if len(folders) == 1 or "nextPageToken" in top:
            yield from self._list_files_of(bucket, make_prefix(folder))
            return
        order = sorted([(item["name"], item) for item in top.get("items", ())] + [(name, None) for name in folders])
        pool = concurrent.futures.ThreadPoolExecutor(_THREADS)
        listing: collections.deque[concurrent.futures.Future[list[StoredFile]]] = collections.deque()
        waiting = iter(name for name, item in order if item is None)

        def list_more() -> None:
            for name in itertools.islice(waiting, _THREADS - len(listing)):
                listing.append(pool.submit(lambda prefix: list(self._list_files_of(bucket, prefix)), name))

        try:
            for name, item in order:
                if item is not None:
                    yield make_stored_file(f"gs://{bucket}/{name}", item)
                    continue
                list_more()
                yield from listing.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _list_files_of(self, bucket: str, prefix: str) -> Iterator[StoredFile]:
        for page in self._list_pages(f"gs://{bucket}", prefix):
            for item in page.get("items", ()):
                yield make_stored_file(f"gs://{bucket}/{item['name']}", item)

    def glob(self, pattern: str) -> list[str]:
        """Finds the objects and folders that match a pattern, and lists only folders that may hold some.

        Returns:
            Their URLs, sorted.
        """
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
                for name in dict.fromkeys(self.list_names(folder, literal))
                if name.strip("/") and (number == len(parts) or name.endswith("/")) and wanted.match(name.rstrip("/"))
            ]
        return sorted({url for url in found if literal != part or self.is_file(url) or self.is_folder(url)})

    def list_names(self, folder: str, prefix: str) -> Iterable[str]:
        """Lists the names directly inside a folder that begin so; those of folders end with a slash."""
        above = make_prefix(folder)
        for page in self._list_pages(folder, prefix, delimiter="/"):
            for name in [*(item["name"] for item in page.get("items", ())), *page.get("prefixes", ())]:
                yield name.removeprefix(above)

    def list_folders(self, folder: str) -> list[str]:
        """Lists the names of folders directly inside a folder that are among its first thousand names."""
        above = make_prefix(folder)
        page = next(self._list_pages(folder, delimiter="/"))
        return [name.removeprefix(above).strip("/") for name in page.get("prefixes", ())]

    def is_folder(self, url: str) -> bool:
        """Tells whether anything is in a folder; a bucket is a folder even if it is empty."""
        try:
            page = next(self._list_pages(url, at_most=1))
        except FileNotFoundError:  # the bucket
            return False
        return bool(page.get("items")) or not split_url(url)[1]

    def has_bucket(self, url: str) -> bool:
        """Tells whether the bucket exists."""
        try:
            next(self._list_pages(url, at_most=1))
        except FileNotFoundError:
            return False
        return True

    def upload(self, local: str, url: str) -> None:
        """Uploads a local file, whole; GCS refuses what arrives damaged, and keeps the object that it has."""
        with open(local, "rb") as file:
            self._writer.upload(url, file)

    def remove_empty_folder(self, _url: str) -> None:
        """Does nothing: folders are only parts of names."""

    @property
    def _writer(self) -> GcsWriter:
        return GcsWriter(self.fs.credentials.credentials, self._answer_s)

    def _list_pages(
        self, folder: str, prefix: str = "", *, delimiter: str | None = None, at_most: int = 1000
    ) -> Iterator[dict[str, Any]]:
        """Lists the pages of a listing, sorted by name; raises `FileNotFoundError` if there is no such bucket."""
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
