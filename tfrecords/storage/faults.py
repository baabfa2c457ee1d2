"""Translation of what an object store refuses or fails to do into one sentence."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from tfrecords.errors import DataError, StoreError, StoreLostError


class DamagedError(Exception):
    """Content that arrived cut short or damaged, each of the times that it was sent."""


@contextlib.contextmanager
def translate_errors(url: str, *, changing: bool = False) -> Iterator[None]:
    """Raises what an object store refuses or fails to do as one sentence, with no other exception behind it.

    Args:
        changing: True if the block changes something: what is refused is no fault of the file then.

    Raises:
        StoreError: if the store does not answer, or refuses the credentials, or a change.
        OSError: if it refuses one file.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        translated = _translate(url, error)
        if translated is None:
            raise
        if changing and isinstance(translated, OSError) and not isinstance(translated, FileNotFoundError):
            translated = StoreError(f"{url} cannot be changed: {translated.strerror}")
        raise translated from None


def _translate(url: str, error: Exception) -> Exception | None:
    """Returns the exception to raise in place of another one; None if that one says it well enough."""
    of_google = url.startswith(("gs://", "gcs://"))
    code, answer = _read_answer(error)
    words = " ".join(answer.split())[:300]
    if of_google and _is_about_credentials(code, error):
        return StoreError(_explain_credentials(url, error, answer))
    if isinstance(error, ValueError) or code == "400":  # gcsfs: no name that can be
        return OSError(errno.EINVAL, f"its name is refused ({words})", url)
    if isinstance(error, IsADirectoryError) or not of_google:
        return None
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url)
    import aiohttp
    import requests

    if code == "403" or words.startswith("Forbidden: "):  # gcsfs: 403
        reason = answer if code else answer.partition("\n")[2]
        reason = " ".join(reason.split())[:300]
        return PermissionError(errno.EACCES, f"no permission ({reason or 'the object store gives no reason'})", url)
    if isinstance(error, aiohttp.ClientPayloadError | DamagedError):
        return OSError(errno.EIO, "cut short or damaged on the way, several times", url)
    if code in ("408", "429") or code.startswith("5") or isinstance(error, requests.exceptions.ProxyError):
        return StoreLostError(
            f"the object store fails to serve {url}, several times ({words or '502'}): run again later"
        )
    if isinstance(error, aiohttp.ClientError | requests.exceptions.RequestException | TimeoutError):
        words = f"{type(error).__name__}: {words}" if words else type(error).__name__
        return StoreLostError(f"the object store does not answer when asked for {url} ({words}): run again later")
    return OSError(errno.EIO, f"refused by the object store ({words})", url) if code else None


def _is_about_credentials(code: str, error: Exception) -> bool:
    import gcsfs.retry
    import google.auth.exceptions

    return code == "401" or isinstance(error, google.auth.exceptions.GoogleAuthError | gcsfs.retry.NonRetryableError)


def _read_answer(error: Exception) -> tuple[str, str]:
    """Returns the HTTP status of a refusal, or an empty string, and the store's own words.

    gcsfs raises these words; Google's client keeps them in the answer, and adds the request to its message.
    """
    code = getattr(error, "code", None)
    if not code:
        return "", str(error)
    code = str(int(code)) if isinstance(code, int) else str(code)
    response = getattr(error, "response", None)
    if response is None:
        return code, str(error)
    try:
        return code, str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):  # not by the store itself, but perhaps by a proxy
        return code, response.reason or code


def _explain_credentials(url: str, error: Exception, answer: str) -> str:
    given = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    where = f"those in GOOGLE_APPLICATION_CREDENTIALS={given}" if given else "the environment's"
    if getattr(error, "response", None) is None:  # not an answer to a request of Google's client
        cause = error.__cause__ or error
        answer = str(cause.args[0] if cause.args else cause)
    reason = " ".join(answer.split())[:200]
    return (
        f"{url} is refused to these credentials, {where}, or there are none ({reason}): set "
        "GOOGLE_APPLICATION_CREDENTIALS to the file of a service account that may use the bucket, or run "
        "`gcloud auth application-default login`"
    )
