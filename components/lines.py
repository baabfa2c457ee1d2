"""Lines of listed images, read and decoded in order by threads or helper processes, and lines of examples."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from components.listing import ImageReference, read_image
from components.processes import HelperPool, map_in_threads
from components.rejects import Reject
from tfrecords import (
    ImageLimits,
    ImageRejected,
    LineImage,
    decode_png,
    examples_to_record_batch,
    read_line,
    storage,
)

_Outcome = TypeVar("_Outcome")
_READ_AHEAD, _THREADS = 64, 16
_RECORDS_AT_A_TIME = 1000
_WORTH_CALLING = 64  # references; with fewer, helper processes cost more than they save


def map_in_order(
    function: Callable[[ImageReference], _Outcome], references: Sequence[ImageReference], processes: int
) -> Iterator[_Outcome]:
    """Maps in the order of the references, which are read and decoded as fast as the machine allows.

    Args:
        function: reads the file that a reference names; it has to be one that can be pickled.
        processes: how many processes this one may occupy.
    """
    if any(storage.is_remote(reference.uri) for reference in references):  # a table may name both
        return map_in_threads(function, references, _THREADS, ahead=_READ_AHEAD)
    if processes > 1 and len(references) >= _WORTH_CALLING:
        return _map_in_helpers(function, references, processes)
    return map(function, references)  # threads would take turns at decoding, and lose time at each


def _map_in_helpers(
    function: Callable[[ImageReference], _Outcome], references: Sequence[ImageReference], processes: int
) -> Iterator[_Outcome]:
    with HelperPool.current() as helpers:
        yield from helpers.map(function, references, processes)


def read_referenced_line(reference: ImageReference, height: int, limits: ImageLimits) -> LineImage | Reject:
    """Reads the grey line of a listed image; returns a reject that says why, if there is none."""
    if reference.problem is not None:
        return Reject(reference.uri, reference.problem, reference.detail or "")
    try:
        limits.check_bytes(reference.size_bytes)
        return read_line(read_image(reference.uri), height, limits)
    except OSError as error:
        return Reject(reference.uri, "unreadable", str(error))
    except ImageRejected as error:
        return Reject(reference.uri, error.reason, error.detail)


def read_example_lines(records: Iterable[bytes]) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
    """Reads the lines of serialised examples; yields the label and the URI of each, and its pixels."""
    records = iter(records)
    while examples := list(itertools.islice(records, _RECORDS_AT_A_TIME)):
        batch = examples_to_record_batch(examples)
        columns = (batch.column(batch.schema.get_field_index(name)).flatten() for name in ("image", "text", "uri"))
        for image, text, uri in zip(*(column.to_pylist() for column in columns), strict=True):
            yield (text.decode(), uri.decode()), decode_png(image)


def digest_references(references: Sequence[ImageReference]) -> str:
    """Computes the SHA-256 of references, hexadecimal: equal inputs in equal order give an equal digest."""
    return hashlib.sha256(repr([tuple(reference) for reference in references]).encode()).hexdigest()
