"""Orientation of photographs: one rule for how an image is turned before it is read or shown.

Only the number of the orientation is looked up. Pillow reads a whole EXIF block for it, and writes it anew to turn the
image. So an odd tag beside the orientation would cost a good image, and a block made for it gigabytes of memory.
"""

from __future__ import annotations

import re
import struct

from PIL import Image

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_START = b"Exif\0\0"
_ORIENTATION, _SHORT, _LONG = 0x0112, 3, 4
_ENTRY_BYTES = 12
_IN_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


def turn_upright(image: Image.Image) -> Image.Image:
    """Decodes an image, and turns or mirrors it as its orientation says (EXIF 2.32, section 4.6.4).

    An orientation that is damaged or unknown turns nothing. The result still carries the metadata of the image: turn it
    once.

    Raises:
        OSError, SyntaxError, ValueError: and others of Pillow's, if the image cannot be decoded.
    """
    image.load()
    if image.format == "TIFF":  # Pillow has turned it
        return image
    turn = _TURNS.get(_read_orientation(image))
    return image if turn is None else image.transpose(turn)


def _read_orientation(image: Image.Image) -> int:
    """Reads the orientation, 1 to 8, from EXIF or else from XMP; 1 where neither says one."""
    exif = image.info.get("exif")
    if not exif and "Raw profile type exif" in image.info:  # how ImageMagick keeps EXIF in a PNG
        try:
            exif = bytes.fromhex("".join(image.info["Raw profile type exif"].split("\n")[3:]))
        except (AttributeError, ValueError):
            exif = None
    number = _find_in_exif(exif) if isinstance(exif, bytes) else None
    if number is None:
        xmp = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp") or b""
        xmp = xmp.encode("utf-8", "replace") if isinstance(xmp, str) else xmp
        found = _IN_XMP.search(xmp) if isinstance(xmp, bytes) else None
        number = int(found[1]) if found else 1
    return number


def _find_in_exif(exif: bytes) -> int | None:
    """Finds the orientation among the entries of the first directory of an EXIF block, a TIFF of its own."""
    start = 0
    while exif.startswith(_EXIF_START, start):
        start += len(_EXIF_START)
    order = {b"II": "<", b"MM": ">"}.get(exif[start : start + 2])
    if order is None:
        return None
    try:
        (directory,) = struct.unpack_from(f"{order}I", exif, start + 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, start + directory)
        for entry in range(entries):
            place = start + directory + 2 + entry * _ENTRY_BYTES
            tag, kind, count = struct.unpack_from(f"{order}HHI", exif, place)
            if tag == _ORIENTATION and count == 1 and kind in (_SHORT, _LONG):
                return int(struct.unpack_from(order + ("H" if kind == _SHORT else "I"), exif, place + 8)[0])
    except struct.error:  # it ends early
        return None
    return None
