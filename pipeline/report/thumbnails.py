"""Thumbnails for the report: small pictures of any files, with whatever can be decoded of damaged ones."""

from __future__ import annotations

import base64
import functools
import io
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from components.listing import uri_to_path
from components.listing.line_places import find_line_place
from components.listing.references import read_regular_file
from components.page_images import read_line_of_page
from components.processes import HelperPool, bound_decoding, map_in_threads
from tfrecords import (
    DataError,
    ImageLimits,
    ImageRejected,
    ProcessLostError,
    StoreError,
    encode_png,
    read_line,
    turn_upright,
)

# Of EPS and the like, Pillow has another program draw a picture.
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")
_BYTES = 8 << 20  # that are read of a file at most
_PIXELS = 30_000_000  # that are decoded at most
_SIZE = (320, 96)
_TINY = 16  # pixels; what is smaller is enlarged
_WIDEST_LINE = 1600
_BOUNDS = ImageLimits(max_decode_seconds=5)
_THREADS = 8
_SECONDS = 10.0  # after which nothing more is begun
_LATE = "not looked at, since the others took long"


class Thumbnail(NamedTuple):
    """A small picture of a file, or the reason why there is none.

    Attributes:
        source: a `data:` URL, or empty.
        problem: in words, why nothing, or not all, is shown; empty if all is well.
        width: of the picture, pixels.
    """

    source: str = ""
    problem: str = ""
    width: int = 0


def draw_files(uris: Sequence[str], index_folder: str | None = None) -> Iterator[Thumbnail]:
    """Draws files of any content, in their order, in a helper process.

    Args:
        index_folder: where indexes of archives are kept.
    """
    yield from _draw_all(_draw_file, uris, _BYTES, index_folder)


def draw_lines(
    uris: Sequence[str], height: int, limits: ImageLimits, index_folder: str | None = None
) -> Iterator[Thumbnail]:
    """Draws images as a model sees them, in their order, in a helper process.

    Args:
        height: of the lines, pixels.
        limits: images beyond them are not drawn.
        index_folder: where indexes of archives are kept.
    """
    draw = functools.partial(_draw_line, height=height, limits=limits)
    yield from _draw_all(draw, uris, limits.max_bytes + 1, index_folder)


def _draw_all(
    draw: Callable[[_Content], Thumbnail], uris: Sequence[str], at_most: int, index_folder: str | None
) -> Iterator[Thumbnail]:
    """Draws files; those that are left when helper processes are ended from outside are not drawn."""
    left = len(uris)
    if not left:
        return
    try:
        with HelperPool() as helpers:
            for thumbnail in helpers.map(draw, _read_contents(uris, at_most, index_folder), 1, items_per_call=1):
                left -= 1
                yield thumbnail
    except ProcessLostError:  # which is no reason to have no report
        yield from [Thumbnail(problem="the process that draws it was ended")] * left


def make_data_url(content: bytes, kind: str = "png") -> str:
    """Returns a picture as a `data:` URL, which makes it part of the page."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


class _Content(NamedTuple):
    """The first bytes of a file, and the problem in words. Of a page nothing is read before a line of it is drawn."""

    uri: str
    content: bytes
    problem: str = ""


class _NotDrawn(Exception):  # noqa: N818 (an outcome, not a failure)
    """The reason, in words, why nothing of a file can be shown."""


def _read_contents(uris: Sequence[str], at_most: int, index_folder: str | None) -> Iterator[_Content]:
    """Reads the first bytes of each file, in threads; yields them in order."""
    deadline = time.monotonic() + _SECONDS
    failures: list[str] = []

    def read(uri: str) -> _Content:
        if failures:  # the others would be waited for as long
            return _Content(uri, b"", failures[0])
        if time.monotonic() > deadline:
            return _Content(uri, b"", _LATE)
        if find_line_place(uri_to_path(uri)) is not None:
            return _Content(uri, b"")
        try:
            return _Content(uri, read_regular_file(uri_to_path(uri), at_most, index_folder))
        except FileNotFoundError:
            return _Content(uri, b"", "the file is gone")
        except StoreError as error:
            failures.append(str(error))
            return _Content(uri, b"", str(error))
        except (OSError, ValueError, DataError) as error:
            return _Content(uri, b"", f"the file cannot be read: {getattr(error, 'strerror', None) or error}")

    for content in map_in_threads(read, uris, _THREADS, ahead=_THREADS):
        late = time.monotonic() > deadline and not content.problem
        yield content._replace(content=b"", problem=_LATE) if late else content


def _draw_file(read: _Content) -> Thumbnail:
    """Draws what was read of a file, if nothing was wrong with that; the page of a line whole."""
    if read.problem:
        return Thumbnail(problem=read.problem)
    content = read.content
    try:
        with bound_decoding(_BOUNDS):
            if (place := find_line_place(uri_to_path(read.uri))) is not None:
                content = read_regular_file(place.image, _BYTES)
            return Thumbnail(*_draw(content))
    except ImageRejected:
        return Thumbnail(problem="it takes too much time or memory")
    except Exception as error:  # Pillow's plugins raise a dozen different ones on damaged files.
        return Thumbnail(problem=str(error) if isinstance(error, _NotDrawn) else "nothing of it can be decoded")


def _draw_line(read: _Content, height: int, limits: ImageLimits) -> Thumbnail:
    """Draws what was read of an image as a model sees it."""
    if read.problem:
        return Thumbnail(problem=read.problem)
    try:
        with bound_decoding(limits):
            if (place := find_line_place(uri_to_path(read.uri))) is not None:
                pixels = read_line_of_page(place, height, limits).pixels
            else:
                pixels = read_line(read.content, height, limits).pixels
    except ImageRejected as error:
        return Thumbnail(problem=f"changed since it was read: {error.reason}")
    except OSError as error:
        return Thumbnail(problem=f"the page cannot be read: {error.strerror or error}")
    if pixels.shape[1] > _WIDEST_LINE:
        size = (_WIDEST_LINE, max(1, height * _WIDEST_LINE // pixels.shape[1]))
        pixels = np.asarray(Image.fromarray(pixels).resize(size))
    return Thumbnail(make_data_url(encode_png(pixels)), width=pixels.shape[1])


def _draw(content: bytes) -> tuple[str, str]:
    """Draws the content of a file: the URL of a small picture, and what is wrong with it."""
    if not content:
        raise _NotDrawn("the file has 0 bytes")
    try:
        image = Image.open(io.BytesIO(content), formats=_FORMATS)
    except Image.DecompressionBombError:
        raise _NotDrawn("it has too many pixels") from None
    with image:
        pixels = image.width * image.height
        image.draft("RGB", _SIZE)  # a JPEG is decoded at an eighth of its size, unless it is progressive
        if not image.info.get("progressive"):
            pixels = image.width * image.height
        if pixels > _PIXELS:
            raise _NotDrawn(f"{pixels:,} pixels are too many for this page")
        problem = ""
        try:
            image.load()
        except Exception:
            image.tile = []  # what was decoded is the image then
            image.load()
            if all(least == most for least, most in _get_extrema(image)):
                raise
            problem = "as far as it can be decoded"
            if len(content) == _BYTES:
                problem = f"of its first {_BYTES >> 20} MiB, which is all that was looked at"
        small = _shrink(image)
    small.info.clear()  # profiles and comments would go into the page
    output = io.BytesIO()
    if small.mode == "L":
        small.save(output, "PNG")
        return make_data_url(output.getvalue()), problem
    small.save(output, "JPEG", quality=85)
    return make_data_url(output.getvalue(), "jpeg"), problem


def _get_extrema(image: Image.Image) -> Sequence[tuple[float, float]]:
    extrema = image.getextrema()
    return extrema if isinstance(extrema[0], tuple) else (extrema,)


def _shrink(image: Image.Image) -> Image.Image:
    """Shrinks an image to `_SIZE` at most: grey or in colour, on white, upright."""
    image = turn_upright(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _stretch(image)
    elif image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode != "L":
        image = image.convert("L" if image.mode == "1" else "RGB")
    image.thumbnail((max(_SIZE), max(_SIZE)))
    if image.mode == "RGBA":
        ground = Image.new("RGBA", image.size, "white")
        ground.alpha_composite(image)
        image = ground.convert("RGB")
    image.thumbnail(_SIZE)
    if max(image.size) < _TINY:
        image = image.resize((image.width * 8, image.height * 8), Image.Resampling.NEAREST)
    return image


def _stretch(image: Image.Image) -> Image.Image:
    """Stretches pixel values that have no fixed black and white: the least becomes 0, the greatest 255."""
    values = np.asarray(image)
    step = max(1, *(side // 1000 for side in values.shape))
    values = np.nan_to_num(values[::step, ::step].astype(np.float64), posinf=0.0, neginf=0.0)
    least, most = values.min(), values.max()
    return Image.fromarray(((values - least) * (255 / max(most - least, 1e-9))).astype(np.uint8))
