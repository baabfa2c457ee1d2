"""The notification of another service at the end of a command."""

from __future__ import annotations

import base64
import json
import queue
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from pipeline.console import print_error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Handler that follows no redirect: the redirected post would lose its content, for example on a login page."""

    def redirect_request(self, *_: Any) -> None:
        """Refuses the redirect, so that the answer counts as an error."""


_OPENER = urllib.request.build_opener(_NoRedirect)
_PAUSES_S = (0.0, 1.0, 4.0)
_PATIENCE_S = 10.0  # for each answer of the network, of which a slow service may need many
_DEADLINE_S = 40.0  # for all tries together
_REASON_SHOWN = 200


def notify_service(url: str | None, record: dict[str, Any]) -> None:
    """Posts the record of a command to `--notify_url`, if given; prints the reason if the service did not take it."""
    if url and (refusal := post_record(url, record)):
        print_error(f"--notify_url was told nothing of this command: {refusal}")


def post_record(url: str, record: dict[str, Any]) -> str | None:
    """Posts a command's record as JSON, and tries again if need be; gives up after `_DEADLINE_S`.

    The time limits of Python hold for one answer of the network. A service that sends a byte now and then, or a name
    server that never answers, would hold the command for ever. So a thread does the work, and is left to itself if it
    takes too long.

    Returns:
        None if the service took it, or else the reason, without the URL, which may be a secret.
    """
    content = json.dumps(record, default=str).encode(errors="backslashreplace")
    outcomes: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=lambda: outcomes.put(_try_to_post(url, content)), daemon=True).start()
    try:
        return outcomes.get(timeout=_DEADLINE_S)
    except queue.Empty:
        return f"it was not done within {_DEADLINE_S:g} s"


def _try_to_post(url: str, content: bytes) -> str | None:
    """Posts a content, again after a pause if that may help; returns the reason of the last failure."""
    problem = None
    for pause in _PAUSES_S:
        time.sleep(pause)
        try:
            with _OPENER.open(_make_request(url, content), timeout=_PATIENCE_S):
                return None
        except urllib.error.HTTPError as error:
            error.close()
            problem = f"it answered {error.code} {error.reason}"[:_REASON_SHOWN]
            if error.code < 500 and error.code not in (408, 429):
                break  # it would answer the same again
        except urllib.error.URLError as error:
            problem = str(getattr(error.reason, "strerror", None) or type(error.reason).__name__)
        except Exception as error:  # whatever a service sends back, the run has ended well
            problem = type(error).__name__  # its words may be the address
    return problem


def _make_request(url: str, content: bytes) -> urllib.request.Request:
    """Makes the request; `user:password@` before the host becomes the header that says the same."""
    headers = {"Content-Type": "application/json"}
    parts = urllib.parse.urlsplit(url)
    credentials, at, host = parts.netloc.rpartition("@")
    if at:
        user, _, password = credentials.partition(":")
        token = base64.b64encode(urllib.parse.unquote_to_bytes(f"{user}:{password}")).decode()
        headers["Authorization"] = f"Basic {token}"
        url = parts._replace(netloc=host).geturl()
    return urllib.request.Request(url, content, headers, method="POST")
