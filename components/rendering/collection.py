"""A rendered collection: numbered images of given texts, and a table of their labels."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import heapq
import logging
import os
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np

from components.listing.references import read_regular_file
from components.processes import HelperPool, bound_decoding
from components.rendering.faces import Face, find_faces
from components.rendering.lines import cut_ground, render_line
from tfrecords import DataError, ImageLimits, ImageRejected, encode_png, normalise_text, read_line, storage

log = logging.getLogger(__name__)

MANIFEST_NAME = "manifest.json"
LABELS_NAME = "labels.tsv"
MOST_GROUNDS = 200
_HEADER = "path\ttext\n"
_GROUND_HEIGHT = 96  # pixels
_NO_GROUND = ""  # in the place of an image that cannot be read
_PER_FOLDER = 1000
_LOG_EVERY = 5000
_LONGEST = 500  # symbols of a text, as of a label by default


@dataclasses.dataclass(frozen=True)
class RenderingRequest:
    """The texts to render, and how.

    Attributes:
        folder: of the images, local or remote.
        texts: at least one, each of which a face can draw.
        faces: at least one.
        grounds: local paths of images whose grounds are used; may be empty.
        count: images.
        seed: of every choice.
        limits: on the images of the grounds.
    """

    folder: str
    texts: Sequence[str]
    faces: Sequence[Face]
    grounds: Sequence[str]
    count: int
    seed: int
    limits: ImageLimits


@dataclasses.dataclass(frozen=True)
class RenderedManifest:
    """Description of a rendered collection, kept as `manifest.json` beside its table.

    Attributes:
        rendered_id: digest of the request.
        images: how many there are.
        texts, faces, grounds: how many different ones there were to draw from.
        created_at: ISO 8601, UTC.
    """

    rendered_id: str
    images: int
    texts: int
    faces: int
    grounds: int
    created_at: str

    def write(self, folder: str) -> None:
        """Writes the manifest into a folder."""
        storage.write_json(storage.join(folder, MANIFEST_NAME), dataclasses.asdict(self))


def read_texts(path: str) -> list[str]:
    """Reads texts, one a line, in their normal form, without empty ones and repetitions.

    Raises:
        DataError: if the file is not UTF-8, or has no text.
    """
    try:
        content = storage.read_bytes(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--texts={path} has to hold one text a line, in UTF-8: {error}") from None
    texts = list(dict.fromkeys(text for text in map(normalise_text, content.split("\n")) if text))
    if not texts:
        raise DataError(f"--texts={path} has no text to render")
    return texts


def choose_faces(fonts: str, texts: Sequence[str]) -> tuple[list[Face], list[str]]:
    """Finds faces for texts, and the texts that at least one of them can draw.

    Texts that symbol by symbol from left to right would be drawn wrong, and such as are longer than a line, are left
    out with a warning.

    Raises:
        DataError: if no face can draw any of the texts.
    """
    simple = [text for text in texts if len(text) <= _LONGEST and not any(map(_is_joined, text))]
    if len(simple) < len(texts):
        log.warning(
            f"{len(texts) - len(simple):,} of {len(texts):,} texts are left out: they have over {_LONGEST} symbols, "
            "are written from right to left, or have marks that join other symbols, which are not drawn right"
        )
    if not simple:
        raise DataError("--texts has no text that can be drawn: see the warning before")
    texts = simple
    faces = find_faces(fonts, set().union(*texts))
    alphabets = list({face.symbols for face in faces})
    drawn = [text for text in texts if any(alphabet.issuperset(text) for alphabet in alphabets)]
    if len(drawn) < len(texts):
        known = frozenset().union(*alphabets)
        missing = sorted(set().union(*texts) - known)
        why = f"no face has {', '.join(map(repr, missing[:10]))}" if missing else "no face has all of their symbols"
        log.warning(f"{len(texts) - len(drawn):,} of {len(texts):,} texts cannot be drawn, and are left out: {why}")
    if not drawn:
        raise DataError(
            f"no font in --fonts={fonts} can draw any of the texts whole: add fonts that have their symbols"
        )
    return faces, drawn


def _is_joined(symbol: str) -> bool:
    """Checks whether a symbol is written from right to left, or is a mark on another."""
    return unicodedata.bidirectional(symbol) in ("R", "AL", "AN") or unicodedata.category(symbol)[0] == "M"


def find_grounds(folder: str) -> list[tuple[str, int, int]]:
    """Draws at most `MOST_GROUNDS` files below a local folder, by digests of their paths inside it.

    Returns:
        Path, bytes and time of change in nanoseconds of each, by path.

    Raises:
        DataError: if there are none.
    """

    def list_files() -> Iterator[tuple[bytes, str]]:
        for parent, folders, names in os.walk(folder):
            folders.sort()
            for name in names:
                if not name.startswith("."):
                    path = os.path.join(parent, name)
                    yield hashlib.sha256(os.fsencode(os.path.relpath(path, folder))).digest(), path

    chosen = sorted(path for _, path in heapq.nsmallest(MOST_GROUNDS, list_files()))
    if not chosen:
        raise DataError(f"--backgrounds={folder} has no files: name a folder of images, or leave the flag out")
    states = [(path, os.stat(path)) for path in chosen if os.path.exists(path)]
    return [(path, state.st_size, state.st_mtime_ns) for path, state in states]


def render_collection(request: RenderingRequest, processes: int) -> None:
    """Renders the images and writes the table of their labels.

    Raises:
        DataError: if no image for grounds can be read.
    """
    rows = [_HEADER]
    with HelperPool.current() as helpers:  # which decode the images for grounds
        readable = list(helpers.map(functools.partial(_is_ground, limits=request.limits), request.grounds, processes))
        if request.grounds and not any(readable):
            raise DataError(
                f"none of the images for grounds can be read, {request.grounds[0]} among them: see --backgrounds"
            )
        grounds = [path if good else _NO_GROUND for path, good in zip(request.grounds, readable, strict=True)]
        render = functools.partial(_render_image, request=dataclasses.replace(request, texts=(), grounds=grounds))
        numbered = ((number, request.texts[i]) for number, i in enumerate(_choose_texts(request)))
        for row in helpers.map(render, numbered, processes):
            rows.append(row)
            if len(rows) % _LOG_EVERY == 0:
                log.info(f"{len(rows):,} of {request.count:,} images")
    storage.write_bytes(storage.join(request.folder, LABELS_NAME), "".join(rows).encode())


def _choose_texts(request: RenderingRequest) -> Iterator[int]:
    """Yields which text each image shows: all of them in a random order, then all again."""
    chooser = np.random.default_rng([request.seed, request.count])
    left = request.count
    while left > 0:
        order = chooser.permutation(len(request.texts))[:left]
        left -= len(order)
        yield from order.tolist()


def _render_image(numbered: tuple[int, str], request: RenderingRequest) -> str:
    """Renders and writes one image; returns its row of the table."""
    number, text = numbered
    chooser = np.random.default_rng([request.seed, number])
    able = [face for face in request.faces if face.symbols.issuperset(text)]
    face = able[int(chooser.integers(len(able)))]
    ground = None
    if request.grounds:
        ground = _load_ground(request.grounds[int(chooser.integers(len(request.grounds)))], request.limits)
    pixels = render_line(text, face, ground, chooser)
    name = f"{number // _PER_FOLDER:03d}/{number:06d}.png"
    storage.write_bytes(storage.join(request.folder, name), encode_png(pixels))
    return f"{name}\t{text}\n"


def _is_ground(path: str, limits: ImageLimits) -> bool:
    return _load_ground(path, limits) is not None


@functools.lru_cache(maxsize=MOST_GROUNDS)
def _load_ground(path: str, limits: ImageLimits) -> np.ndarray | None:
    """Loads an image's ground, scaled to `_GROUND_HEIGHT`; returns None if it cannot be read."""
    try:
        with bound_decoding(limits):
            limits.check_bytes(os.path.getsize(path))
            content = read_regular_file(path, limits.max_bytes + 1)
            return cut_ground(read_line(content, _GROUND_HEIGHT, limits).pixels)
    except (OSError, ImageRejected):
        return None
