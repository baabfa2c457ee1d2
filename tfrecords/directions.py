"""Order in which the symbols of a line stand on its image, for text that runs from right to left.

Labels are in logical order: the order in which a person types and reads. A network meets symbols from left to right as
they are seen, in display order. The Unicode Bidirectional Algorithm (UAX #9, by python-bidi) leads from the first to
the second. It needs the base direction of the line, from which runs of numbers and of the other script depart.

Nothing in the standard leads back, and not every order can be told from what is seen: in Hebrew, `12 abc` behind a
Hebrew word and `abc 12` behind it look alike. The way back here is a text that the algorithm brings into exactly the
order that was seen, if one is found.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Mapping, Sequence

VISUAL, LEFT_TO_RIGHT, RIGHT_TO_LEFT = "visual", "ltr", "rtl"
MIXED_LEFT_TO_RIGHT, MIXED_RIGHT_TO_LEFT = "mixed_ltr", "mixed_rtl"
DIRECTIONS = (VISUAL, LEFT_TO_RIGHT, RIGHT_TO_LEFT, MIXED_LEFT_TO_RIGHT, MIXED_RIGHT_TO_LEFT)
"""How lines are ordered:

- `visual`: labels are in display order already, as they are where all scripts run from left to right.
- `ltr`, `rtl`: every line has this base direction.
- `mixed_ltr`, `mixed_rtl`: a line has the direction of its letters. One with letters of both directions has this one.
  One without letters stays as it is.
"""

_BASE = {LEFT_TO_RIGHT: "L", RIGHT_TO_LEFT: "R", MIXED_LEFT_TO_RIGHT: "L", MIXED_RIGHT_TO_LEFT: "R"}
_SENTINEL = {"L": "a", "R": "\u05d0"}
_FIRST_TAG, _TAGS = 0xE0020, 96
"""Invisible symbols that take the level of the symbol before them (class BN)."""
_INERT = dict.fromkeys(
    [*range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(_FIRST_TAG, _FIRST_TAG + _TAGS)], "\u200b"
)
"""Tags, and invisible controls of direction without effect here: a network may write one without its other end."""
_FIRST_RIGHT_TO_LEFT = "\u0590"
_MISPLACED = re.compile(r"(?<!\S)[.,:;!?%)\]]")
"""Punctuation at the beginning of a word: of two logical orders, the one with less of it is the likelier."""


def choose_direction(counts: Mapping[str, int]) -> str:
    """Chooses how lines are ordered from how often each symbol occurs in the labels of a collection.

    Returns:
        `visual` if there are no letters that run from right to left; else `mixed_ltr` or `mixed_rtl`, by which letters
        there are more of.
    """
    right_to_left = sum(count for symbol, count in counts.items() if _runs_right_to_left(symbol))
    left_to_right = sum(count for symbol, count in counts.items() if unicodedata.bidirectional(symbol) == "L")
    if not right_to_left:
        return VISUAL
    return MIXED_RIGHT_TO_LEFT if right_to_left >= left_to_right else MIXED_LEFT_TO_RIGHT


def has_right_to_left(text: str) -> bool:
    """Checks whether a text has letters that run from right to left."""
    return any(symbol >= _FIRST_RIGHT_TO_LEFT and _runs_right_to_left(symbol) for symbol in text)


def to_display_order(text: str, direction: str) -> str:
    """Brings a label from logical to display order, from left to right; brackets become what is seen."""
    base = _find_base(text, direction)
    return text if base is None else _reorder(text, base)[0]


def to_logical_order(text: str, direction: str) -> tuple[str, Sequence[int]]:
    """Brings a text from display to logical order.

    Returns:
        The text, and for each of its symbols the place that it had before.
    """
    base = _find_base(text, direction)
    if base is None:
        return text, range(len(text))
    candidates = [_reorder(text, base), _restore_mirrored(text, base)]
    exact = [candidate for candidate in candidates if _reorder(candidate[0], base)[0] == text]
    return min(exact or candidates, key=lambda candidate: len(_MISPLACED.findall(candidate[0])))


def describe_lines(vertical: bool) -> str:
    """Describes in words how the text of images runs."""
    return "vertical lines" if vertical else "horizontal lines"


def mirror_symbols(symbols: str) -> str:
    """Returns symbols with brackets and their like turned to the other side."""
    from bidi.mirror import MIRRORED

    return "".join(MIRRORED.get(symbol, symbol) for symbol in symbols)


def _runs_right_to_left(symbol: str) -> bool:
    return unicodedata.bidirectional(symbol) in ("R", "AL")


def _find_base(text: str, direction: str) -> str | None:
    """Finds the base direction of a line, the same for both orders of it; None if nothing is to be reordered."""
    if direction == VISUAL:
        return None
    if direction in (LEFT_TO_RIGHT, RIGHT_TO_LEFT):
        # From left to right, nothing moves without a letter that runs the other way, or Arabic digits.
        return _BASE[direction] if direction == RIGHT_TO_LEFT or not text.isascii() else None
    if text.isascii() or not has_right_to_left(text):
        return None
    return _BASE[direction] if any(unicodedata.bidirectional(symbol) == "L" for symbol in text) else "R"


def _restore_mirrored(text: str, base: str) -> tuple[str, list[int]]:
    """Reorders a text that is turned around before and after: so numbers follow the letters that they belong to."""
    last = len(text) - 1
    reordered, order = _reorder(mirror_symbols(text[::-1]), base)
    return mirror_symbols(reordered[::-1]), [last - place for place in reversed(order)]


def _reorder(text: str, base: str) -> tuple[str, list[int]]:
    """Brings a text into display order; returns it, and for each of its symbols the place that it had before.

    The library gives a text alone. So that places can be told, each symbol is followed by invisible tags that count.
    They share the level of their symbol, and stand before it where text runs from right to left.
    """
    from bidi import get_display

    digits = 1 if len(text) <= _TAGS else 2 if len(text) <= _TAGS**2 else 3
    tags = itertools.product(map(chr, range(_FIRST_TAG, _FIRST_TAG + _TAGS)), repeat=digits)
    inert = text.translate(_INERT)
    tagged = "".join(itertools.chain.from_iterable(zip(inert, map("".join, tags), strict=False)))
    # A letter of the base direction takes the place of the line's end, where the algorithm moves tags elsewhere.
    displayed = get_display(tagged + _SENTINEL[base], base_dir=base)
    displayed = displayed[1:] if base == "R" else displayed[:-1]
    mirrored = mirror_symbols(text)
    order, symbols = [], []
    for start in range(0, len(displayed), digits + 1):
        group = displayed[start : start + digits + 1]
        is_odd = _is_tag(group[0])
        place = 0
        for tag in group[-2::-1] if is_odd else group[1:]:
            place = place * _TAGS + ord(tag) - _FIRST_TAG
        order.append(place)
        symbols.append(mirrored[place] if is_odd else text[place])
    return "".join(symbols), order


def _is_tag(symbol: str) -> bool:
    return _FIRST_TAG <= ord(symbol) < _FIRST_TAG + _TAGS
