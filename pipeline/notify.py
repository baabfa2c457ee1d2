"""Telling another service how a run ended."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import Any

_PAUSES_S = (0.0, 1.0, 4.0)
_PATIENCE_S = 10.0


def notify(url: str, record: dict[str, Any]) -> str | None:
    """Posts a run's record as JSON, several times if need be.

    Returns:
        None if the service took it, or why it did not, without the URL, which may be a secret.
    """
    content = json.dumps(record, default=str).encode(errors="backslashreplace")
    problem = None
    for pause in _PAUSES_S:
        time.sleep(pause)
        try:
            request = urllib.request.Request(url, content, {"Content-Type": "application/json"}, method="POST")
            with urllib.request.urlopen(request, timeout=_PATIENCE_S):
                return None
        except urllib.error.HTTPError as error:
            problem = f"it answered {error.code} {error.reason}"
            if error.code < 500 and error.code not in (408, 429):
                break  # it would answer the same again
        except urllib.error.URLError as error:
            problem = str(error.reason)
        except Exception as error:  # whatever a service sends back, the run has ended well
            problem = f"{type(error).__name__}: {error}"
    return problem
