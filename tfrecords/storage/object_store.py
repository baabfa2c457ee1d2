"""Files in an object store: GCS by its JSON API through gcsfs, or what else fsspec serves.

What fails in an object store in a way that passes (429, 500 to 504, 408, no answer, a broken
connection, a body cut short, a wrong checksum) gcsfs asks for again, six times in all, after
pauses of 1 to 17 seconds; what arrives damaged is asked for, or sent, three times. What still
fails then is told in one sentence: a `StoreError` if the store does not answer or refuses who
asks, an `OSError` if it is one file's fault.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

from tfrecords.errors import DataError
from tfrecords.storage.faults import translate_errors
from tfrecords.storage.filesystem import FileSystem, split_url
from tfrecords.storage.gcs import Gcs

ANSWER_S = 30.0
"""Without a byte from an object store until a request counts as lost, and is made again."""
REQUEST_S = 600.0
"""For one request with all of its content, either way; it is not made again."""
_REFUSED_S = 60.0  # for which a token server that failed is not asked again


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
