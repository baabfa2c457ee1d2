"""What an object store refuses or fails to do, in one sentence."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from tfrecords.errors import DataError, StoreError, StoreLostError


@contextlib.contextmanager
def translate_errors(url: str, *, changing: bool = False) -> Iterator[None]:
    """Says in one sentence, and with no other exception behind it, what an object store refuses or fails to do.

    Args:
        changing: what is refused is a change then, which is no fault of the file.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        words = _translate(url, error)
        if words is None:
            raise
        if changing and isinstance(words, OSError) and not isinstance(words, FileNotFoundError):
            words = StoreError(f"{url} cannot be changed: {words.strerror}")
        raise words from None


def _translate(url: str, error: Exception) -> Exception | None:
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
        return StoreError(_explain_credentials(url, error))
    if words.startswith("Forbidden: "):  # gcsfs: 403
        reason = " ".join(str(error).partition("\n")[2].split())[:300]
        return PermissionError(errno.EACCES, f"no permission ({reason or 'the object store gives no reason'})", url)
    if isinstance(error, aiohttp.ClientPayloadError | gcsfs.retry.ChecksumError):
        return OSError(errno.EIO, "cut short or damaged on the way, several times", url)
    if code in ("408", "429") or code.startswith("5") or isinstance(error, requests.exceptions.ProxyError):
        return StoreLostError(
            f"the object store fails to serve {url}, several times ({words or '502'}): run again later"
        )
    if isinstance(error, aiohttp.ClientError | requests.exceptions.RequestException | TimeoutError):
        words = f"{type(error).__name__}: {words}" if words else type(error).__name__
        return StoreLostError(f"the object store does not answer when asked for {url} ({words}): run again later")
    return OSError(errno.EIO, f"refused by the object store ({words})", url) if code else None


def _explain_credentials(url: str, error: Exception) -> str:
    given = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    where = f"those in GOOGLE_APPLICATION_CREDENTIALS={given}" if given else "the environment's"
    cause = error.__cause__ or error
    reason = " ".join(str(cause.args[0] if cause.args else cause).split())[:200]
    return (
        f"{url} is refused to these credentials, {where}, or there are none ({reason}): set "
        "GOOGLE_APPLICATION_CREDENTIALS to the file of a service account that may use the bucket, or run "
        "`gcloud auth application-default login`"
    )
