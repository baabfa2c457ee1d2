"""Lines in any order and of any width, recognised in full batches of like width."""

from __future__ import annotations

import collections
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from components.processes import map_in_threads

_Tag = TypeVar("_Tag")
_Result = TypeVar("_Result")
BATCH_PIXELS = 2_000_000
BATCH_LINES = 128
_WIDTH_RATIO = 1.15


def recognise_in_batches(
    lines: Iterable[tuple[_Tag, np.ndarray]],
    recognise: Callable[[Sequence[np.ndarray]], Iterable[_Result]],
    threads: int = 1,
) -> Iterator[tuple[_Tag, _Result]]:
    """Recognises lines as they come, collected in buckets of widths at most 15 % apart.

    A bucket becomes a batch when it holds `BATCH_PIXELS` or `BATCH_LINES`. The number of buckets and threads bounds
    the memory, whatever the number of lines.

    Args:
        lines: `(tag, pixels)`, pixels uint8 [height, width].
        recognise: one batch to one result for each line, in order; several threads call it at once.
        threads: how many batches are recognised at a time, while the next lines come; with 1, the caller's own
            thread takes one batch after the other.

    Yields:
        `(tag, result)`, each line once, in another order than they came in.
    """

    def recognise_batch(batch: list[tuple[_Tag, np.ndarray]]) -> list[tuple[_Tag, _Result]]:
        return list(zip((tag for tag, _ in batch), recognise([pixels for _, pixels in batch]), strict=True))

    results = (
        map(recognise_batch, collect_batches(lines))
        if threads == 1
        else map_in_threads(recognise_batch, collect_batches(lines), threads, ahead=2 * threads)
    )
    return itertools.chain.from_iterable(results)


def collect_batches(lines: Iterable[tuple[_Tag, np.ndarray]]) -> Iterator[list[tuple[_Tag, np.ndarray]]]:
    """Collects lines into the batches that `recognise_in_batches` recognises."""
    buckets: dict[int, list[tuple[_Tag, np.ndarray]]] = collections.defaultdict(list)
    for tag, pixels in lines:
        bucket = math.ceil(math.log(pixels.shape[1], _WIDTH_RATIO))
        buckets[bucket].append((tag, pixels))
        full = len(buckets[bucket])
        if full == BATCH_LINES or (full + 1) * pixels.size > BATCH_PIXELS:
            yield buckets.pop(bucket)
    for bucket in sorted(buckets):
        yield buckets[bucket]
