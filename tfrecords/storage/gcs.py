"""Google Cloud Storage, with as few requests as can be."""

from __future__ import annotations

import base64
import collections
import concurrent.futures
import datetime
import email.utils
import fnmatch
import hashlib
import io
import itertools
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

from tfrecords.storage.filesystem import (
    FileSystem,
    StoredFile,
    Version,
    compute_crc32c,
    make_prefix,
    make_stored_file,
    split_url,
)

_THREADS = 16
_TRIES = 3  # at content that arrives damaged
_UPLOAD_BYTES = 8 << 20  # in one request


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
