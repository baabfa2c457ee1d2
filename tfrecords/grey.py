"""Grey of decoded images: transparency, colour, and values of more than 8 bits become black 0 to white 255."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageChops

LEAST_CONTRAST = 32
"""Grey levels between ink and ground: with fewer, networks recognise hardly anything."""
LEAST_CONTRAST_OF_A_CHANNEL = 2 * LEAST_CONTRAST
"""Levels between ink and ground in a colour channel that is taken in the place of luma."""
AMPLE_CONTRAST = 4 * LEAST_CONTRAST
"""Grey levels between the darkest and the lightest pixel with which luma is taken as it is."""
OUTLIERS = 100
"""One in so many pixels may be darker than what counts as dark, and one lighter: the noise of a photograph."""
FEWER_BITS = (8, 10, 12)
"""Bits that 16-bit values may have in fact. With more, their upper 8 bits keep enough grey levels."""
WHITE_OF_14_BITS = range(7 << 11, 1 << 14)
"""Values that are the brightest of an image of 14 bits."""

_SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
_TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_TIFF_BITS = 258
_LOWER_BYTES = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L", "LA;16B": "RGBA"}
"""By Pillow's name of how it takes the upper byte of each 16-bit sample: a name under which it takes the lower ones."""
_FEW_GREYS = {"L;2": 85, "L;4": 17}
"""By Pillow's name of greys of 2 and 4 bits: by how much it multiplies them to fill 8 bits."""


def load_colours(image: Image.Image) -> Image.Image:
    """Decodes an image; returns it, or where it is a PNG with 16-bit colours in fewer bits, its colours in 8 bits.

    Pillow takes the upper byte of each such colour, which is next to nothing of 12 bits. So the lower bytes are decoded
    too, if the upper ones are dark throughout, or if the file declares a colour to be transparent: see `choose_bits`.
    Of a PNG with 2 or 4 bits, Pillow scales the greys, but not the one that is transparent.

    Raises:
        OSError, SyntaxError, ValueError: and others of Pillow's, if the image cannot be decoded.
    """
    tiles = getattr(image, "tile", None)  # none once it is decoded
    way = tiles[0].args if tiles and image.format == "PNG" else None
    if way not in _LOWER_BYTES:
        image.load()
        if way in _FEW_GREYS and "transparency" in image.info:
            image.info["transparency"] *= _FEW_GREYS[way]
        return image
    file = image.fp  # type: ignore[attr-defined]
    place = file.tell()
    file.seek(0)
    content = file.read()
    file.seek(place)
    image.load()
    upper = np.asarray(image)
    seen = upper[upper[..., 3] > 0] if upper.shape[-1] == 4 else upper
    if "transparency" not in image.info and seen[..., :3].max(initial=0) >= WHITE_OF_14_BITS.stop >> 8:
        return image
    with Image.open(io.BytesIO(content), formats=("PNG",)) as again:
        again.tile = [again.tile[0]._replace(args=_LOWER_BYTES[way])]
        again.load()
        lower = np.asarray(again)
    if way == "LA;16B":  # both bytes of the grey, then both of its alpha
        lower = lower[..., [1, 1, 1, 3]]
    values = upper.astype(np.uint16) << 8 | lower
    colours = values[..., :3]
    if "transparency" in image.info:
        opaque = (colours != np.array(image.info["transparency"])).any(axis=-1)
    else:
        opaque = values[..., 3] > 0 if values.shape[-1] == 4 else np.ones(values.shape[:2], bool)
    pixels = np.empty((*opaque.shape, 4), np.uint8)
    pixels[..., :3] = np.minimum(colours >> (choose_bits(colours[opaque]) - 8), 255)
    pixels[..., 3] = upper[..., 3] if upper.shape[-1] == 4 else np.where(opaque, 255, 0)
    result = Image.fromarray(pixels)
    result.info = {name: value for name, value in image.info.items() if name != "transparency"}
    return result


def has_black_and_white(image: Image.Image) -> bool:
    """Says whether the pixels of an image have a fixed black and white: 32-bit integers and floats do not."""
    return _has_sixteen_bits(image) or image.mode not in ("I", "F")


def make_grey(image: Image.Image) -> Image.Image:
    """Makes an 8-bit grey image, mode L, of a decoded image whose pixels have a fixed black and white.

    - 16-bit grey: see `choose_bits`, and `load_colours` for 16-bit colours. A TIFF may say another number of bits, of
      which the upper 8 count.
    - Transparency is laid on white, or on black where white would show hardly anything (white ink).
    - Colour becomes its ITU-R 601-2 luma. Where luma shows hardly anything, the colour channel with the greatest
      contrast is taken instead, if it shows clearly more: red on a green of equal luma. Its ground is made light: the
      channel is inverted if its mean is nearer to its darkest value than to its lightest. Outliers do not count.
    """
    if _has_sixteen_bits(image):
        image = _take_eight_bits(image)
    if image.mode == "L" and "transparency" not in image.info:
        return image
    if image.has_transparency_data:
        if image.mode != "RGBA":
            image = image.convert("RGBA")
        if image.getchannel("A").tobytes() != b"\xff" * (image.width * image.height):
            return _lay_on_ground(image)
    if image.mode not in ("1", "RGB", "RGBA"):
        image = image.convert("RGB")
    return _weigh_colours(image, image.convert("L"))


def choose_bits(values: np.ndarray) -> int:
    """Chooses how many of the bits of 16-bit values are in use; the upper 8 of these become the grey, or the colour.

    Cameras write 10, 12 or 14 bits into 16, and leave the upper ones empty. So the values are taken for values of the
    fewest bits of 8, 10 and 12 that hold all of them: of 16 they would keep 16 grey levels at most, too few to read.
    They are taken for 14 bits if the brightest of them is in the uppermost eighth of that range. Everything else has 16
    bits, though it may be dark, and so has what is even, and what was made of 8 bits: values whose lower byte repeats
    the upper one, or is 0.

    Args:
        values: uint16, of any shape.
    """
    if not values.size:
        return 16
    darkest, brightest = int(values.min()), int(values.max())
    if darkest == brightest or brightest >= WHITE_OF_14_BITS.stop:
        return 16
    lower = values & 0xFF
    if not lower.any() or np.array_equal(lower, values >> 8):
        return 16
    for bits in FEWER_BITS:
        if brightest < 1 << bits:
            return bits
    return 14 if brightest in WHITE_OF_14_BITS else 16


def _has_sixteen_bits(image: Image.Image) -> bool:
    return image.mode in _SIXTEEN_BIT_MODES or (image.mode == "I" and image.format == "PPM")


def _take_eight_bits(image: Image.Image) -> Image.Image:
    """Takes 8 of 16 bits a pixel: mode L, or LA where the file declares a value to be transparent."""
    values = np.asarray(image).astype(np.uint16)
    clear = values == image.info["transparency"] if "transparency" in image.info else None
    bits = image.tag_v2.get(_TIFF_BITS, (16,))[0] if image.format == "TIFF" else 16  # type: ignore[attr-defined]
    if bits == 16 and image.format != "PPM":  # whose header says what is white
        bits = choose_bits(values if clear is None else values[~clear])
    grey = Image.fromarray(np.minimum(values >> (bits - 8), 255).astype(np.uint8))
    if image.format == "TIFF" and image.tag_v2.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO:  # type: ignore[attr-defined]
        grey = ImageChops.invert(grey)
    if clear is not None and clear.any():
        grey.putalpha(Image.fromarray(np.where(clear, 0, 255).astype(np.uint8)))
    return grey


def _lay_on_ground(image: Image.Image) -> Image.Image:
    """Lays an RGBA image on white, or on black if white shows hardly anything of it and black shows more."""
    on_white = _lay_on("white", image)
    grey = on_white.convert("L")
    if _find_contrast(grey) < LEAST_CONTRAST:  # white ink on a transparent ground, perhaps
        on_black = _lay_on("black", image)
        grey_on_black = on_black.convert("L")
        if _find_contrast(grey_on_black) > _find_contrast(grey):
            return _weigh_colours(on_black, grey_on_black)
    return _weigh_colours(on_white, grey)


def _lay_on(ground: str, image: Image.Image) -> Image.Image:
    whole = Image.new("RGBA", image.size, ground)
    whole.alpha_composite(image)
    return whole


def _weigh_colours(image: Image.Image, luma: Image.Image) -> Image.Image:
    """Returns the luma of an image, or a single colour channel where luma shows hardly anything and that one does."""
    if len(image.getbands()) < 3 or _find_contrast(luma) >= AMPLE_CONTRAST:
        return luma
    darkest, lightest = _find_sides(luma)
    if lightest - darkest >= LEAST_CONTRAST:
        return luma
    channels = image.split()[:3]
    sides = [_find_sides(channel) for channel in channels]
    clearest = max(range(3), key=lambda number: sides[number][1] - sides[number][0])
    darkest, lightest = sides[clearest]
    if lightest - darkest < LEAST_CONTRAST_OF_A_CHANNEL:
        return luma
    channel = channels[clearest]
    total = int(np.asarray(channel).sum(dtype=np.int64))
    is_dark = 2 * total < (darkest + lightest) * channel.width * channel.height
    return ImageChops.invert(channel) if is_dark else channel


def _find_sides(grey: Image.Image) -> tuple[int, int]:
    """Finds the darkest and the lightest of an image's values, but for outliers."""
    counts = np.cumsum(grey.histogram())
    cut = counts[-1] // OUTLIERS
    return int(np.sum(counts <= cut)), int(np.sum(counts < counts[-1] - cut))


def _find_contrast(grey: Image.Image) -> int:
    darkest, lightest = grey.getextrema()
    return lightest - darkest  # type: ignore[operator, return-value]
