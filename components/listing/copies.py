"""Names that a desktop or a browser gives to a copy of a file, and the names of the originals."""

from __future__ import annotations

import re
from collections.abc import Collection

# AB12 (2), AB12 - Copy, AB12 - Copy (2), AB12 copy 2, Copy of AB12, in the languages of common desktops.
_WORD = (
    r"(?:copy|kopie|kopia|kopi|kópia|kopya|copie|copia|cópia|копия|копія|kopio|másolat|のコピー|コピー|副本|複本|拷贝"
    r"|복사본)"
)
_COPIES = (
    re.compile(rf"(?P<original>.+?)(?: -| –)? {_WORD}(?: ?\(\d+\)| \d+)?", re.IGNORECASE | re.DOTALL),  # Windows, macOS
    re.compile(rf"(?P<original>.+?) \((?:another |\d+\w\w )?{_WORD}\)", re.IGNORECASE | re.DOTALL),  # GNOME
    re.compile(rf"{_WORD}(?: \(\d+\))? (?:of|von|de|di|van|av|af) (?P<original>.+)", re.IGNORECASE | re.DOTALL),
    re.compile(r"(?P<original>.+?) \(\d{1,3}\)", re.DOTALL),  # Windows, browsers
)
_BESIDE_ORIGINAL = re.compile(r"(?P<original>.+?)(?:_\d{1,3}|\(\d{1,3}\))", re.DOTALL)


def find_original_name(stem: str) -> str | None:
    """Returns the name of which a name, both without suffix, is that of a copy; None if it is no copy's.

    A copy of a copy has the name of the first original.
    """
    for form in _COPIES:
        if match := form.fullmatch(stem):
            return find_original_name(match["original"]) or match["original"]
    return None


def may_be_copy(stem: str) -> bool:
    """Tells whether a name may be that of a copy, if its original is there."""
    return find_original_name(stem) is not None or _BESIDE_ORIGINAL.fullmatch(stem) is not None


def find_original(stem: str, others: Collection[str]) -> str | None:
    """Finds the name of which a name is that of a copy among others.

    `AB12_1` and `AB12(1)` may be labels of their own, so they count only if `AB12` is among the others.
    """
    candidates = [find_original_name(stem)]
    if match := _BESIDE_ORIGINAL.fullmatch(stem):
        candidates.append(match["original"])
    return next((name for name in candidates if name is not None and name in others), None)
