"""The requests that change objects of Google Cloud Storage, sent by Google's own client."""

from __future__ import annotations

import base64
import contextlib
import errno
import functools
import hashlib
import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, TypeVar

from tfrecords.storage.faults import DamagedError
from tfrecords.storage.filesystem import split_url

FIRST_PAUSE_S = 1.0
"""Before a request is made again; each further pause is twice as long, and up to this much longer by chance."""
_TRIES = 6  # at one request: gcsfs, which reads, makes as many after the same pauses
_SENDINGS = 3  # of content that arrives damaged
_UPLOAD_BYTES = 8 << 20  # in one request
_PASSING = (408, 429, 500, 501, 502, 503, 504)  # statuses of what may succeed when it is asked for again
_CONNECTIONS = 16  # that are kept open for the next request

_Answer = TypeVar("_Answer")


class GcsWriter:
    """Uploads and deletes objects, each on the condition that a version is still there, if one is named.

    Args:
        credentials: of google-auth, or None to ask without any.
        answer_s: seconds without a byte from the store until a request counts as lost, and is made again.
    """

    def __init__(self, credentials: Any, answer_s: float):
        self._client = _open_client(credentials, os.environ.get("STORAGE_EMULATOR_HOST"), os.getpid())
        self._options = {"timeout": (answer_s, answer_s), "retry": _ask_again}

    def upload(self, url: str, file: IO[bytes], generation: str | None = None) -> str:
        """Writes an object, whole or not at all, and returns the generation of the new version.

        The store compares the content with its MD5. It refuses what arrives damaged, and keeps the version that it
        has; what is refused so is sent three times.

        Args:
            generation: of the version to replace, or `NO_VERSION` if there must be none; None for whichever is there.

        Raises:
            DamagedError: if the content arrives damaged each time.
            FileExistsError: if another version is there than the one named.
            FileNotFoundError: if there is no such bucket.
        """
        from google.api_core.exceptions import BadRequest

        bucket, key = split_url(url)
        blob = self._client.bucket(bucket).blob(key, chunk_size=_UPLOAD_BYTES)
        # Named beforehand, so that the store checks it: of a large file, the client would compare checksums only after
        # the damaged content had taken the place of the version before, and delete it then.
        blob.md5_hash = base64.b64encode(hashlib.file_digest(file, "md5").digest()).decode()  # type: ignore[arg-type]
        for _ in range(_SENDINGS):
            try:
                with _raise_os_errors(url):
                    blob.upload_from_file(
                        file,
                        rewind=True,
                        size=file.seek(0, os.SEEK_END),
                        content_type="application/octet-stream",
                        if_generation_match=None if generation is None else int(generation),
                        checksum=None,
                        **self._options,
                    )
                return str(blob.generation)
            except BadRequest as error:
                if "MD5" not in str(error):
                    raise
        raise DamagedError

    def remove(self, url: str, generation: str) -> None:
        """Deletes an object if this is the version that is there.

        Raises:
            FileExistsError: if another one is there.
            FileNotFoundError: if there is none.
        """
        bucket, key = split_url(url)
        with _raise_os_errors(url):
            self._client.bucket(bucket).blob(key).delete(if_generation_match=int(generation), **self._options)


@functools.lru_cache(maxsize=4)
def _open_client(credentials: Any, _emulator: str | None, _process: int) -> Any:
    """Returns a client, which reads STORAGE_EMULATOR_HOST when it is made; a forked process makes its own."""
    import google.auth.credentials
    import google.auth.transport.requests
    import google.cloud.storage
    import requests.adapters

    # Or the client asks for the bucket's own description, in a thread, to put it into traces that nobody records.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    logger = logging.getLogger("urllib3.connectionpool")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.ERROR)  # it warns of each request that is made again, google-auth's own among them
    credentials = credentials or google.auth.credentials.AnonymousCredentials()
    session = google.auth.transport.requests.AuthorizedSession(credentials)
    for scheme in ("https://", "http://"):
        session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=_CONNECTIONS))
    return google.cloud.storage.Client(project="<none>", credentials=credentials, _http=session)


def _ask_again(ask: Callable[[], _Answer]) -> Callable[[], _Answer]:
    """Wraps a request, as a `google.api_core.retry.Retry` does, so that it is made up to six times."""

    def ask_until_answered() -> _Answer:
        for number in range(_TRIES - 1):
            try:
                return ask()
            except Exception as error:
                if not _may_pass(error):
                    raise
            time.sleep(FIRST_PAUSE_S * (2**number + random.random()))
        return ask()

    return ask_until_answered


def _may_pass(error: Exception) -> bool:
    import google.api_core.exceptions
    import google.cloud.storage.exceptions
    import requests.exceptions

    if isinstance(error, google.cloud.storage.exceptions.InvalidResponse):  # to an upload
        return error.response.status_code in _PASSING
    if isinstance(error, google.api_core.exceptions.GoogleAPICallError):
        return error.code in _PASSING
    return isinstance(
        error,
        requests.exceptions.ConnectionError
        | requests.exceptions.Timeout
        | requests.exceptions.ChunkedEncodingError
        | requests.exceptions.ContentDecodingError,
    )


@contextlib.contextmanager
def _raise_os_errors(url: str) -> Iterator[None]:
    """Raises `FileNotFoundError` and `FileExistsError` for the refusals of Google's client that mean these."""
    from google.api_core.exceptions import NotFound, PreconditionFailed

    try:
        yield
    except NotFound:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url) from None
    except PreconditionFailed:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), url) from None
