"""Decoding of a file's bytes to a grey line; ingest and inference share it, to the bit.

The policy, in the order in which it is applied:

1. The format is what the bytes say, never the name.
2. The header is read; too many pixels, or too few, are refused before anything is decoded.
3. The whole image is decoded; half an image is refused.
4. EXIF orientation is honoured (`tfrecords.orientation`). Transparency, colour and values of 16 bits become grey
   (`tfrecords.grey`).
5. A line whose text runs from top to bottom is turned to the left, so that it runs from left to right.
6. The line is scaled to the height, its aspect kept; nothing is squeezed or cut.
"""

from __future__ import annotations

import dataclasses
import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, UnidentifiedImageError

from tfrecords.grey import has_black_and_white, load_colours, make_grey
from tfrecords.orientation import turn_upright
from tfrecords.png import SIGNATURE, parse_plain_png

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")
_TIFF_SUBFILE_TYPE, _REDUCED_RESOLUTION = 254, 1
_SIGNATURES = {
    SIGNATURE: "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"GIF8": "GIF",
    b"\x89PNG": "PNG",
}
_MOST_PAGES = 100  # of a TIFF that are looked at, for thumbnails
_JPEG_SCAN = b"\xff\xda"  # begins a scan
_MOST_SCANS = 200
_NO_MEMORY = "decoder error -9"  # Pillow's IMAGING_CODEC_MEMORY


class ImageRejected(Exception):  # noqa: N818 (an outcome, not a failure)
    """An image that cannot be used as a line.

    Attributes:
        reason: from the closed list of rejects.
        detail: for a person.
        image: its name, or an empty string where the caller knows it.
    """

    def __init__(self, reason: str, detail: str, image: str = ""):
        super().__init__(": ".join(filter(None, [image, reason, detail])))
        self.reason = reason
        self.detail = detail
        self.image = image

    def __reduce__(self) -> tuple[type[ImageRejected], tuple[str, str, str]]:
        return ImageRejected, (self.reason, self.detail, self.image)


@dataclasses.dataclass(frozen=True)
class ImageLimits:
    """Limits past which an image is refused.

    The first four are checked before it is decoded, the width by the header's word. The last two are kept where helper
    processes decode (`components.processes.bound_decoding`).

    Attributes:
        max_pixels: width times height of the source image.
        max_bytes: size of the file.
        max_line_width: pixels of width after scaling to the line height.
        min_side: pixels of the source image's shorter side.
        max_decode_seconds: of processor time that reading and decoding may take.
        max_decode_memory: bytes of address space that they may take.
    """

    max_pixels: int = 20_000_000
    max_bytes: int = 50_000_000
    max_line_width: int = 20_000
    min_side: int = 4
    max_decode_seconds: int = 30
    max_decode_memory: int = 600_000_000

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"{field.name} must be at least 1, not {getattr(self, field.name)}")

    def describe(self) -> dict[str, int]:
        """Describes the limits for a manifest or an ID, without the bounds that are as they were always meant to be."""
        values = dataclasses.asdict(self)
        for name in ("max_decode_seconds", "max_decode_memory"):
            if values[name] == getattr(ImageLimits, name):
                del values[name]
        return values

    def explain_memory(self) -> str:
        """Explains in words why an image is refused whose decoding takes too much memory."""
        return f"its decoding takes more than --max_decode_memory={self.max_decode_memory} bytes of memory"

    def check_bytes(self, size: int) -> None:
        """Raises `ImageRejected` for a file with too many bytes."""
        if size > self.max_bytes:
            raise ImageRejected("too_large", f"{size} bytes are more than --max_bytes={self.max_bytes}")

    def check_read(self, content: bytes) -> None:
        """Raises `ImageRejected` for a file of which one byte more than allowed could be read, and no more was."""
        if len(content) > self.max_bytes:
            raise ImageRejected("too_large", f"it has more than --max_bytes={self.max_bytes} bytes")


@dataclasses.dataclass(frozen=True)
class LineImage:
    """A grey line, and the size of the image that it was made from.

    Attributes:
        pixels: uint8 [height, width], 0 black, 255 white.
        source_width, source_height: pixels of the image as a viewer shows it.
        vertical: whether the text runs from top to bottom of that image, which was turned to the left.
    """

    pixels: np.ndarray
    source_width: int
    source_height: int
    vertical: bool = False

    @property
    def scale(self) -> float:
        """Returns how many pixels of the image one pixel of the line is along the text."""
        return (self.source_height if self.vertical else self.source_width) / self.pixels.shape[1]


def read_line(data: bytes, height: int, limits: ImageLimits, vertical: bool = False) -> LineImage:
    """Decodes an image file into a grey line of the given height.

    Args:
        data: the file's bytes, in any of PNG, JPEG, JPEG 2000, TIFF, BMP, GIF, WebP and PNM.
        height: pixels; the width follows from the aspect, at least 1.
        vertical: whether the text runs from top to bottom.

    Raises:
        ImageRejected: with the reason and the numbers behind it.
    """
    return _read_plain_png(data, height, limits, vertical) or _scale_to_height(
        read_grey(data, limits), height, limits, vertical
    )


def read_grey(data: bytes, limits: ImageLimits) -> Image.Image:
    """Decodes an image file into a grey image of its own size, upright, of mode L.

    Args:
        data: the file's bytes, as `read_line` takes them.

    Raises:
        ImageRejected: with the reason and the numbers behind it.
    """
    if not data:
        raise ImageRejected("empty_file", "the file has 0 bytes")
    limits.check_bytes(len(data))
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _seek_picture(image)
            _check_size(image.width, image.height, limits)
            if image.format == "PNG":
                _check_png(data)
            elif image.format in ("JPEG", "MPO"):
                _check_scans(data)
            return _to_grey(image)
    except UnidentifiedImageError:
        for signature, name in _SIGNATURES.items():
            if data.startswith(signature):
                raise ImageRejected("truncated", f"it begins as a {name}, but cannot be read as one") from None
        # None of its content is told: a link may lead to what nobody is to see.
        raise ImageRejected("not_an_image", f"its {len(data)} bytes are none of {', '.join(_FORMATS)}") from None
    except Image.DecompressionBombError:
        raise ImageRejected(
            "too_large", f"its header says more pixels than could be decoded at all; --max_pixels={limits.max_pixels}"
        ) from None
    except MemoryError:
        raise ImageRejected("too_large", limits.explain_memory()) from None
    except ImageRejected:
        raise
    except Exception as error:  # Pillow's plugins raise a dozen different ones on damaged files.
        if str(error).endswith(_NO_MEMORY):
            raise ImageRejected("too_large", limits.explain_memory()) from None
        raise ImageRejected("truncated", f"the image ends early or is damaged: {error}") from None


def convert_line(
    pixels: np.ndarray | Image.Image, height: int, limits: ImageLimits, vertical: bool = False
) -> LineImage:
    """Makes a grey line of the given height from decoded pixels, as `read_line` makes it from a file's bytes.

    Args:
        pixels: a Pillow image, or an array uint8 [height, width] grey, [height, width, 1] grey, [height, width, 3]
            RGB or [height, width, 4] RGBA.
        height: pixels; the width follows from the aspect, at least 1.
        vertical: whether the text runs from top to bottom.

    Raises:
        ImageRejected: with the reason and the numbers behind it.
        TypeError: for an array of another type or shape.
    """
    if isinstance(pixels, np.ndarray):
        if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (1, 3, 4))):
            raise TypeError(
                "an array of pixels must be uint8 [height, width], [height, width, 3] or [height, width, 4], "
                f"not {pixels.dtype} {list(pixels.shape)}"
            )
        _check_size(pixels.shape[1], pixels.shape[0], limits)
        pixels = Image.fromarray(pixels[:, :, 0] if pixels.shape[2:] == (1,) else pixels)
    _check_size(pixels.width, pixels.height, limits)
    try:
        grey = _to_grey(pixels)
    except (OSError, SyntaxError, ValueError) as error:  # Pillow reads the pixels of an opened file only now
        raise ImageRejected("truncated", f"the image ends early or is damaged: {error}") from None
    return _scale_to_height(grey, height, limits, vertical)


def _read_plain_png(data: bytes, height: int, limits: ImageLimits, vertical: bool) -> LineImage | None:
    """Reads a plain PNG by the short way (`tfrecords.png`). Returns None for all others, and for what is refused."""
    if len(data) > limits.max_bytes or (png := parse_plain_png(data)) is None:
        return None
    if png.width * png.height > limits.max_pixels or min(png.width, png.height) < limits.min_side:
        return None
    along, across = (png.height, png.width) if vertical else (png.width, png.height)
    width = _scale_width(along, across, height)
    if width > limits.max_line_width:
        return None
    pixels = png.make_grey_line(width, height, vertical)
    return None if pixels is None else LineImage(pixels, png.width, png.height, vertical)


def _scale_width(width: int, height: int, line_height: int) -> int:
    return max(1, round(width * line_height / height))


def _scale_to_height(grey: Image.Image, height: int, limits: ImageLimits, vertical: bool) -> LineImage:
    source_width, source_height = grey.size
    if vertical:
        grey = grey.transpose(Image.Transpose.ROTATE_90)
    width = _scale_width(grey.width, grey.height, height)
    if width > limits.max_line_width:
        raise ImageRejected(
            "too_large",
            f"{grey.width}x{grey.height} pixels scaled to height {height} are {width} pixels wide, "
            f"more than --max_line_width={limits.max_line_width}",
        )
    if grey.size != (width, height):
        grey = grey.resize((width, height), Image.Resampling.BILINEAR)
    return LineImage(np.asarray(grey), source_width, source_height, vertical)


def pad_lines(lines: Sequence[np.ndarray], multiple: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes a batch of lines of one height, padded with white to the widest.

    Args:
        lines: uint8 [height, width] each.
        multiple: the batch's width is a multiple of this many pixels.

    Returns:
        Images uint8 [batch, height, width, 1] and the lines' own widths, int32 [batch].
    """
    widths = np.array([line.shape[1] for line in lines], np.int32)
    widest = -(-int(widths.max()) // multiple) * multiple
    images = np.full((len(lines), lines[0].shape[0], widest, 1), 255, np.uint8)
    for image, line in zip(images, lines, strict=True):
        image[:, : line.shape[1], 0] = line
    return images, widths


def _check_size(width: int, height: int, limits: ImageLimits) -> None:
    if width * height > limits.max_pixels:
        raise ImageRejected(
            "too_large", f"{width}x{height} pixels are {width * height}, more than --max_pixels={limits.max_pixels}"
        )
    if min(width, height) < limits.min_side:
        raise ImageRejected("too_small", f"{width}x{height} pixels: a line has at least {limits.min_side} on each side")


def _seek_picture(image: Image.Image) -> None:
    """Seeks the one picture of a file: thumbnails before it, and what a phone hides behind it, do not count."""
    if image.format == "MPO":  # a JPEG to every viewer, before a second view or a gain map
        return
    pictures: list[int] = []
    if image.format == "TIFF":
        pages = _pages(image)
        pictures = [page for page, thumbnail in pages if not thumbnail] or [page for page, _ in pages]
    if len(pictures) > 1 or (image.format != "TIFF" and getattr(image, "is_animated", False)):
        raise ImageRejected("several_images", f"the {image.format} file holds several images, not 1")
    if pictures:
        image.seek(pictures[0])


def _pages(image: Image.Image) -> list[tuple[int, bool]]:
    """Lists the pages of a TIFF, and for each whether it is a thumbnail, up to the second that is not."""
    pages: list[tuple[int, bool]] = []
    for page in range(_MOST_PAGES):
        try:
            image.seek(page)
        except EOFError:
            break
        thumbnail = image.tag_v2.get(_TIFF_SUBFILE_TYPE, 0) & _REDUCED_RESOLUTION  # type: ignore[attr-defined]
        pages.append((page, bool(thumbnail)))
        if sum(not thumbnail for _, thumbnail in pages) > 1:
            break
    return pages


def _check_png(data: bytes) -> None:
    """Raises `ImageRejected` for a PNG that is not whole: Pillow accepts a wrong checksum or a missing end.

    It also accepts a second header, by which the pixels then are not what they were opened as.
    """
    start, end = len(SIGNATURE), len(data)
    while start + 12 <= end:
        (length,) = struct.unpack_from(">I", data, start)
        kind, stop = data[start + 4 : start + 8], start + 8 + length
        if stop + 4 > end:
            break
        if zlib.crc32(memoryview(data)[start + 4 : stop]) != struct.unpack_from(">I", data, stop)[0]:
            raise ImageRejected("truncated", f"the checksum of the {kind!r} chunk at byte {start} of the PNG is wrong")
        if kind == b"IHDR" and start > len(SIGNATURE):
            raise ImageRejected("truncated", f"the PNG has a second header (IHDR) at byte {start}")
        if kind == b"IEND":
            return
        start = stop + 4
    raise ImageRejected("truncated", f"the PNG ends at byte {end}, within the chunk that begins at byte {start}")


def _check_scans(data: bytes) -> None:
    """Raises `ImageRejected` for a JPEG of more scans than a program writes, each of which goes over the whole image.

    A progressive JPEG has about ten. Compressed pixels never hold the marker (ITU-T T.81, section B.1.1.5), metadata
    perhaps by chance.
    """
    if (scans := data.count(_JPEG_SCAN)) > _MOST_SCANS:
        raise ImageRejected("too_slow", f"the JPEG has {scans} scans, more than {_MOST_SCANS}: it would take long")


def _to_grey(image: Image.Image) -> Image.Image:
    image = turn_upright(load_colours(image))
    if not has_black_and_white(image):
        raise ImageRejected(
            "unsupported_pixels", f"{image.format} pixels of mode {image.mode} have no fixed black and white"
        )
    return make_grey(image)
