"""Pages in HTML: their templates, and the policy by which a browser executes and fetches nothing else."""

from __future__ import annotations

import base64
import hashlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jinja2


def open_templates(module: str) -> jinja2.Environment:
    """Opens the templates in a module's folder; the filter `source` names a style or a script in a page's policy.

    Args:
        module: its `__file__`.
    """
    import jinja2

    loader = jinja2.FileSystemLoader(os.path.dirname(module))
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["source"] = name_source
    return environment


def name_source(content: str) -> str:
    """Names the content of a `style` or `script` element as a Content-Security-Policy does, by its SHA-256.

    So a browser knows ours from one that a name of a file or a text would bring into the page (W3C, Content Security
    Policy Level 3, section 2.3.1).
    """
    digest = hashlib.sha256(content.encode(errors="backslashreplace")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
