"""Lines in any order and of any width, scored in full batches of like width."""

from __future__ import annotations

import collections
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from components.processes import map_in_threads
from components.recogniser.model import Recognition

_Tag = TypeVar("_Tag")
BATCH_PIXELS = 1_000_000
BATCH_LINES = 128
_WIDTH_RATIO = 1.15


def recognise_in_batches(
    lines: Iterable[tuple[_Tag, np.ndarray]],
    read: Callable[[Sequence[np.ndarray]], Iterable[Recognition]],
    threads: int = 1,
) -> Iterator[tuple[_Tag, Recognition]]:
    """Scores lines as they come, collected in buckets of widths at most 15 % apart.

    A bucket is scored when it holds `BATCH_PIXELS` or `BATCH_LINES`; memory is bounded by
    the number of buckets and threads, whatever the number of lines.

    Args:
        lines: `(tag, pixels)`, pixels uint8 [height, width].
        read: scores one batch, in order; called by several threads at once.
        threads: how many batches are scored at a time, while the next lines come; 1 for one batch after the
            other, by the caller's own thread.

    Yields:
        `(tag, reading)`, each line once, in another order than they came in.
    """

    def score(batch: list[tuple[_Tag, np.ndarray]]) -> list[tuple[_Tag, Recognition]]:
        return list(zip((tag for tag, _ in batch), read([pixels for _, pixels in batch]), strict=True))

    scored = (
        map(score, _batches(lines))
        if threads == 1
        else map_in_threads(score, _batches(lines), threads, ahead=2 * threads)
    )
    return itertools.chain.from_iterable(scored)


def _batches(lines: Iterable[tuple[_Tag, np.ndarray]]) -> Iterator[list[tuple[_Tag, np.ndarray]]]:
    buckets: dict[int, list[tuple[_Tag, np.ndarray]]] = collections.defaultdict(list)
    for tag, pixels in lines:
        bucket = math.ceil(math.log(pixels.shape[1], _WIDTH_RATIO))
        buckets[bucket].append((tag, pixels))
        full = len(buckets[bucket])
        if full == BATCH_LINES or (full + 1) * pixels.size > BATCH_PIXELS:
            yield buckets.pop(bucket)
    for bucket in sorted(buckets):
        yield buckets[bucket]
