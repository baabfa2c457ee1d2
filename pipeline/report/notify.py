"""The notification of another service at the end of a command."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import Any

from pipeline.console import print_error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Handler that follows no redirect: the redirected post would lose its content, for example on a login page."""

    def redirect_request(self, *_: Any) -> None:
        """Refuses the redirect, so that the answer counts as an error."""


_OPENER = urllib.request.build_opener(_NoRedirect)
_PAUSES_S = (0.0, 1.0, 4.0)
_PATIENCE_S = 10.0


def notify_service(url: str | None, record: dict[str, Any]) -> None:
    """Posts the record of a command to `--notify_url`, if given; prints the reason if the service did not take it."""
    if url and (refusal := post_record(url, record)):
        print_error(f"--notify_url was told nothing of this command: {refusal}")


def post_record(url: str, record: dict[str, Any]) -> str | None:
    """Posts a command's record as JSON, and tries again if need be.

    Returns:
        None if the service took it, or else the reason, without the URL, which may be a secret.
    """
    content = json.dumps(record, default=str).encode(errors="backslashreplace")
    problem = None
    for pause in _PAUSES_S:
        time.sleep(pause)
        try:
            request = urllib.request.Request(url, content, {"Content-Type": "application/json"}, method="POST")
            with _OPENER.open(request, timeout=_PATIENCE_S):
                return None
        except urllib.error.HTTPError as error:
            problem = f"it answered {error.code} {error.reason}"
            if error.code < 500 and error.code not in (408, 429):
                break  # it would answer the same again
        except urllib.error.URLError as error:
            problem = str(getattr(error.reason, "strerror", None) or type(error.reason).__name__)
        except Exception as error:  # whatever a service sends back, the run has ended well
            problem = type(error).__name__  # its words may be the address
    return problem
