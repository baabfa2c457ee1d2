"""Access to an object store: GCS by its JSON API, or whatever else fsspec serves.

A request to GCS that fails in a way that may pass (429, 500 to 504, 408, no answer, a broken
connection, a body cut short) is made up to six times, after pauses of 1 to 17 seconds. What
arrives damaged is read, or sent, three times. What still fails then is raised as one sentence:
a `StoreError` if the store does not answer or refuses the credentials, an `OSError` if it is
one file's fault.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
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
"""Seconds without a byte from an object store until a request counts as lost, and is made again."""
REQUEST_S = 600.0
"""Seconds for one request of gcsfs, with all of its content, which is not made again after that.

An upload goes in requests of at most 8 MiB, each of which `ANSWER_S` ends as soon as nothing moves.
"""
_REFUSED_S = 60.0  # for which a token server that failed is not asked again
_EXTENDED_GCSFS = "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"


def canonicalise(url: str) -> str:
    """Returns a URL in the spelling of its file system's own listings; nothing is opened for that.

    Raises:
        DataError: for a scheme that nothing installed serves.
    """
    import fsspec

    _use_plain_gcsfs()
    try:
        kind = fsspec.get_filesystem_class(url.partition("://")[0])
    except (ImportError, ValueError) as error:
        raise DataError(f"cannot use {url!r}: {error}") from error
    protocol = kind.protocol if isinstance(kind.protocol, str) else kind.protocol[0]
    return f"{protocol}://{kind._strip_protocol(url)}"


def get_bucket(url: str) -> str:
    """Returns the URL of the bucket that a URL lies in."""
    return f"{url.partition('://')[0]}://{split_url(url)[0]}"


def open_filesystem(url: str) -> Any:
    """Opens the fsspec file system of a URL, with credentials that are valid.

    Raises:
        DataError: for a scheme that nothing installed serves.
        StoreError: if credentials are refused.
    """
    import fsspec

    _use_plain_gcsfs()
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


def _use_plain_gcsfs() -> None:
    """Keeps gcsfs, which looks at its environment when it is imported, from importing its extensions.

    They bring a second client, by another protocol, and take longer to import. This is done here, just before the first
    URL of an object store is looked at, and not by the programs' entry points, since Beam's workers start in code that
    is not this project's. A value that the user sets is kept.
    """
    os.environ.setdefault(_EXTENDED_GCSFS, "false")


@functools.lru_cache(maxsize=4)
def _gcs_options(answer_s: float, request_s: float) -> dict[str, Any]:
    import aiohttp

    from tfrecords.storage.bounded_response import BoundedResponse

    logger = logging.getLogger("gcsfs")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)  # it prints the stack trace of what is raised here as a sentence
    timeout = aiohttp.ClientTimeout(total=request_s, sock_connect=answer_s, sock_read=answer_s)
    session = {"response_class": BoundedResponse}
    return {"requests_timeout": timeout, "use_listings_cache": False, "session_kwargs": session}


def _refresh(credentials: Any) -> None:
    """Makes credentials valid.

    What fails is not tried again for a minute: one attempt can take two, and all threads wait for it.
    """
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
    """Opens the store that a URL lies in, and raises what it refuses or fails to do in the block as one sentence.

    Args:
        changing: True if the block changes something: what is refused is no fault of the file then.

    Raises:
        DataError: for a scheme that nothing installed serves.
        StoreError: if the store does not answer, or refuses the credentials, or a change.
    """
    fs = open_filesystem(url)
    with translate_errors(url, changing=changing):
        yield Gcs(fs, ANSWER_S) if "gs" in fs.protocol else FileSystem(fs)
