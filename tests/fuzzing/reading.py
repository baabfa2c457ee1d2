"""Mutated images read as the command reads them, by helper processes, and what must hold for each of them."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import hashlib
import logging
import random
import resource
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from components.lines import Content, map_in_order, read_referenced_line
from components.listing import ImageReference
from components.listing.image_sizes import find_image_size
from components.processes import HelperPool
from components.rejects import REASONS, Reject
from pipeline.report.thumbnails import draw_files
from tests.fuzzing.mutations import MutatedImage
from tfrecords import ImageLimits, ImageRejected, LineImage, read_line

LIMITS = ImageLimits(max_decode_seconds=2, max_decode_memory=300_000_000)
HEIGHT = 48
LOST = ("too_slow", "crashed")
"""Reasons that cost a helper process its life."""
_CLOCK_S = 1.0
"""The system's timer may be so much late."""
_START_S = 4.0
"""Processor time of a helper's start and end, at most."""
_OWN_BYTES = 250_000_000
"""Memory that a helper takes for itself, with what it imports and what its allocator keeps, at most."""
_DRAWN = 20


class Measured(NamedTuple):
    """What became of an image in a helper process, and what that took.

    Attributes:
        uri: of the image.
        outcome: `read`, or the reason of its reject.
        detail: of the reject; of a line, its height, width and type.
        digest: SHA-256 of a line's pixels, hexadecimal.
        seconds: of processor time.
        bytes: most memory of the process meanwhile.
    """

    uri: str
    outcome: str
    detail: str
    digest: str
    seconds: float
    bytes: int


class Finding(NamedTuple):
    """Something that must not be: the image, if one is to blame, and what happened, in words."""

    image: MutatedImage | None
    problem: str


@dataclasses.dataclass
class Figures:
    """What became of all images so far.

    Attributes:
        outcomes: images by format and outcome.
        slowest: seconds of processor time of the slowest image that was not stopped, and its number.
        largest: bytes of the most memory that a helper took, and the image's number.
        stopped: seconds of processor time of the longest of those that were, with a helper's start, and its number.
    """

    outcomes: collections.Counter[tuple[str, str]] = dataclasses.field(default_factory=collections.Counter)
    slowest: tuple[float, int] = (0.0, -1)
    largest: tuple[int, int] = (0, -1)
    stopped: tuple[float, int] = (0.0, -1)


class Reading:
    """Reads batches of mutated images among good ones, and judges what became of each.

    Args:
        seeds: whole files; those of them that can be read are the good ones.
        processes: helpers that work at a time.
    """

    def __init__(self, seeds: Sequence[bytes], processes: int) -> None:
        self.figures = Figures()
        self._processes = processes
        self._good: list[tuple[bytes, str]] = []
        for content in seeds:
            with contextlib.suppress(ImageRejected):
                self._good.append((content, _digest(read_line(content, HEIGHT, LIMITS))))

    def read(self, images: Sequence[MutatedImage], folder: Path) -> Iterator[Finding]:
        """Reads images, which are written into an empty folder; yields what must not be."""
        chooser = random.Random(images[0].number)
        placed: list[tuple[MutatedImage | None, str, ImageReference]] = []
        for image in images:
            placed.append((image, "", _write(folder / image.name, image.content)))
        for number in range(len(images) // 10 + 1):
            content, digest = chooser.choice(self._good)
            placed.insert(
                chooser.randrange(len(placed) + 1), (None, digest, _write(folder / f"good {number}", content))
            )
        warnings = _Warnings()
        with warnings.kept():
            try:
                outcomes = read_references([reference for _, _, reference in placed], self._processes)
            except Exception as error:
                yield from self._read_one_by_one(placed, error)
                return
        yield from (Finding(None, f"a warning: {message}") for message in warnings.messages)
        if len(outcomes) != len(placed):
            yield Finding(None, f"{len(placed)} images have {len(outcomes)} outcomes")
        for (image, digest, reference), measured in zip(placed, outcomes, strict=False):
            if measured.uri != reference.uri:
                yield Finding(image, f"its outcome is that of {measured.uri}")
            if image is None:
                if measured.digest != digest:
                    yield Finding(None, f"good line {reference.uri} among {images[0].number}…: {measured}")
            else:
                yield from self._judge(image, reference, measured)
        yield from _draw(images, [measured for measured in outcomes if measured.outcome != "read"])

    def _judge(self, image: MutatedImage, reference: ImageReference, measured: Measured) -> Iterator[Finding]:
        self.figures.outcomes[image.format, measured.outcome] += 1
        self.figures.slowest = max(self.figures.slowest, (measured.seconds, image.number))
        self.figures.largest = max(self.figures.largest, (measured.bytes, image.number))
        if measured.outcome not in ("read", *REASONS):
            yield Finding(image, f"no known outcome: {measured}")
        if measured.seconds > LIMITS.max_decode_seconds + _CLOCK_S:
            yield Finding(image, f"it took {measured.seconds:.1f} s of processor time")
        if measured.bytes > LIMITS.max_decode_memory + _OWN_BYTES:
            yield Finding(image, f"it took {measured.bytes} bytes of memory")
        if measured.outcome == "read":
            height, width, kind = measured.detail.split()
            if (height, kind) != (str(HEIGHT), "uint8") or not 0 < int(width) <= LIMITS.max_line_width:
                yield Finding(image, f"its line is {measured.detail}")
        if measured.outcome in LOST:
            before = _measure_children()
            try:
                (alone,) = read_references([reference], 1)
            except Exception as error:
                yield Finding(image, f"alone it ends with {error!r}")
                return
            seconds = _measure_children() - before
            self.figures.stopped = max(self.figures.stopped, (seconds, image.number))
            # Something that ends a process may be tried twice.
            most = (1 + (alone.outcome == "crashed")) * (LIMITS.max_decode_seconds + _CLOCK_S + _START_S) + _START_S
            if seconds > most:
                yield Finding(image, f"alone it took {seconds:.1f} s of processor time")

    def _read_one_by_one(
        self, placed: Sequence[tuple[MutatedImage | None, str, ImageReference]], error: Exception
    ) -> Iterator[Finding]:
        """Finds who is to blame for the end of a batch."""
        found = False
        for image, _, reference in placed:
            try:
                read_references([reference], 1)
            except Exception as alone:
                found = True
                yield Finding(image, f"it ends the work with {alone!r}")
        if not found:
            yield Finding(None, f"a batch ended with {error!r}, and none of its images alone does")


def read_references(references: Sequence[ImageReference], processes: int) -> list[Measured]:
    """Reads images by helper processes that start and end here."""
    with HelperPool.open_for_job():
        read = functools.partial(read_and_measure, limits=LIMITS)
        return list(map_in_order(read, references, processes, LIMITS))


def read_and_measure(reference: ImageReference, content: Content, limits: ImageLimits) -> Measured:
    """Reads an image in a helper process as the command does."""
    with contextlib.suppress(OSError):  # it is not everywhere allowed
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the most memory is counted anew: proc(5)
    began = time.process_time()
    find_image_size(reference.uri)
    line = read_referenced_line(reference, content, HEIGHT, limits)
    seconds = time.process_time() - began
    if isinstance(line, Reject):
        return Measured(line.uri, line.reason, line.detail, "", seconds, _measure_peak())
    pixels = line.pixels
    told = f"{pixels.shape[0]} {pixels.shape[1]} {pixels.dtype}"
    return Measured(reference.uri, "read", told, _digest(line), seconds, _measure_peak())


class _Warnings(logging.Handler):
    """What the product warns of meanwhile, such as a helper that ended and no image was to blame for it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a message."""
        self.messages.append(record.getMessage())

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Keeps what is logged within the block."""
        logger = logging.getLogger("components")
        logger.addHandler(self)
        try:
            yield
        finally:
            logger.removeHandler(self)


def _draw(images: Sequence[MutatedImage], rejects: Sequence[Measured]) -> Iterator[Finding]:
    """Draws some rejects for a report, in a helper process too."""
    chosen = rejects[:: max(1, len(rejects) // _DRAWN)]
    try:
        drawn = list(draw_files([measured.uri for measured in chosen]))
    except Exception as error:
        by_name = {image.name: image for image in images}
        for measured in chosen:
            try:
                list(draw_files([measured.uri]))
            except Exception as alone:
                yield Finding(by_name.get(Path(measured.uri).name), f"drawing it ends with {alone!r}")
                return
        yield Finding(None, f"drawing rejects ends with {error!r}")
        return
    for measured, picture in zip(chosen, drawn, strict=True):
        if not (picture.source or picture.problem):
            yield Finding(None, f"{measured.uri} has neither a thumbnail nor a reason")


def _write(path: Path, content: bytes) -> ImageReference:
    path.write_bytes(content)
    return ImageReference(str(path), path.name, len(content), 0)


def _digest(line: LineImage) -> str:
    return hashlib.sha256(line.pixels.tobytes()).hexdigest()


def _measure_peak() -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM:"))


def _measure_children() -> float:
    """Measures the processor seconds of all helpers that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
