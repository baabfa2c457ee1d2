"""Font faces, and the symbols that each can draw."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
from collections.abc import Set as AbstractSet

from PIL import ImageFont

from tfrecords import DataError

log = logging.getLogger(__name__)

_SUFFIXES = (".ttf", ".otf")
_TRIED_SIZE = 32  # pixels
_IN_NO_FACE = "\U0010fffe"
_LAST_RESORT = 3  # symbols that look alike: such a face has one picture for all


@dataclasses.dataclass(frozen=True)
class Face:
    """A font file.

    Attributes:
        path: local.
        symbols: those of the asked ones that it can draw.
    """

    path: str
    symbols: frozenset[str]


def find_faces(folder: str, symbols: AbstractSet[str]) -> list[Face]:
    """Finds the TrueType and OpenType files below a local folder that can draw at least one of some symbols, by path.

    A file that cannot be read is passed over with a warning.

    Raises:
        DataError: if there is none.
    """
    faces = []
    for parent, _, names in sorted(os.walk(folder)):
        for name in sorted(names):
            if name.lower().endswith(_SUFFIXES):
                face = _read_face(os.path.join(parent, name), symbols)
                if face is not None:
                    faces.append(face)
    if not faces:
        raise DataError(
            f"--fonts={folder} has no font files ({', '.join(_SUFFIXES)}) with a symbol of the texts: name a folder of "
            "fonts, or install some"
        )
    return faces


@functools.lru_cache(maxsize=256)
def load_font(path: str, size: int) -> ImageFont.FreeTypeFont:
    """Loads a face at a size in pixels."""
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def _read_face(path: str, symbols: AbstractSet[str]) -> Face | None:
    """Finds out which symbols a font file can draw; returns None for one that cannot be used.

    A symbol that a face lacks gets the picture of a code point that no face has.
    """
    try:
        font = load_font(path, _TRIED_SIZE)
        lacking = _draw_symbol(font, _IN_NO_FACE)
        pictures = {symbol: _draw_symbol(font, symbol) for symbol in symbols if not symbol.isspace()}
    except (OSError, ValueError) as error:
        log.warning(f"{path} is passed over: it cannot be read as a font ({error})")
        return None
    drawn = {symbol: picture for symbol, picture in pictures.items() if picture[1] and picture != lacking}
    if not drawn or (len(drawn) >= _LAST_RESORT and len(set(drawn.values())) == 1):
        return None
    return Face(path, frozenset(drawn) | {symbol for symbol in symbols if symbol.isspace()})


def _draw_symbol(font: ImageFont.FreeTypeFont, symbol: str) -> tuple[float, bytes]:
    """Returns the width that a symbol takes, and its pixels, empty if none has ink."""
    mask = font.getmask(symbol)
    return font.getlength(symbol), bytes(mask) if mask.getbbox() else b""
