"""Images as a caller has them, in files, as bytes or decoded, to grey lines."""

from __future__ import annotations

import os
from typing import TypeAlias

import numpy as np
from PIL import Image

from components.listing.collection import read_size_and_time
from components.listing.line_places import find_line_place
from components.listing.references import read_regular_file
from components.page_images import read_line_of_page
from tfrecords import ImageLimits, ImageRejected, LineImage, convert_line, read_line, storage

ImageSource: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | np.ndarray | Image.Image
"""A path or a `gs://` URL; the bytes of an image file; or pixels, as a Pillow image or an array."""


def make_line(
    image: ImageSource, height: int, limits: ImageLimits | None = None, name: str = "", *, vertical: bool = False
) -> LineImage:
    """Makes a grey line of the given height from an image.

    A file, its bytes and its decoded grey pixels give the same line, to the bit: the one that training sees.

    Args:
        image: a path or a `gs://` URL, of a line on a page too; the bytes of a file in any format that
            `tfrecords.read_line` reads; a Pillow image; or an array uint8 [height, width] grey, [height, width, 3] RGB
            or [height, width, 4] RGBA.
        height: pixels; the width follows from the aspect.
        limits: which images are refused; by default those that the command refuses by default.
        name: of the image in errors; by default its path, if it has one.
        vertical: whether its text runs from top to bottom.

    Raises:
        ImageRejected: if the image cannot be read or is too large or too small.
        TypeError: if `image` is none of these.
        StoreError: if an object store cannot be used at all.
    """
    limits = limits or ImageLimits()
    try:
        if isinstance(image, (str, os.PathLike)):
            path = os.fspath(image)
            name = name or path
            if (place := find_line_place(path if storage.is_remote(path) else os.path.expanduser(path))) is not None:
                return read_line_of_page(place, height, limits, vertical)
            return read_line(_read_file(path, limits), height, limits, vertical)
        if isinstance(image, (bytes, bytearray, memoryview)):
            return read_line(bytes(image), height, limits, vertical)
        if isinstance(image, (np.ndarray, Image.Image)):
            return convert_line(image, height, limits, vertical)
    except OSError as error:
        raise ImageRejected("unreadable", error.strerror or str(error), name) from None
    except ImageRejected as error:
        raise ImageRejected(error.reason, error.detail, name) from None
    raise TypeError(
        f"{name or 'an image'} is a {type(image).__name__}, but must be a path, the bytes of an image file, a Pillow "
        "image or an array of pixels"
    )


def _read_file(path: str, limits: ImageLimits) -> bytes:
    if storage.is_remote(path):
        return read_regular_file(path)
    path = os.path.expanduser(path)
    limits.check_bytes(read_size_and_time(path)[0])
    return read_regular_file(path)
