"""Lines in any order and of any width, scored in full batches of like width."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from components.inference.handler import Reading

_Tag = TypeVar("_Tag")

BATCH_PIXELS = 1_000_000
BATCH_LINES = 128
_WIDTH_RATIO = 1.15


def read_lines(
    lines: Iterable[tuple[_Tag, np.ndarray]], read: Callable[[Sequence[np.ndarray]], Iterable[Reading]]
) -> Iterator[tuple[_Tag, Reading]]:
    """Scores lines as they come, collected in buckets of widths at most 15 % apart.

    A bucket is scored when it holds `BATCH_PIXELS` or `BATCH_LINES`; memory is bounded by
    the number of buckets, whatever the number of lines.

    Args:
        lines: `(tag, pixels)`, pixels uint8 [height, width].
        read: scores one batch, in order.

    Yields:
        `(tag, reading)`, each line once, in another order than they came in.
    """
    buckets: dict[int, list[tuple[_Tag, np.ndarray]]] = collections.defaultdict(list)

    def flush(bucket: int) -> Iterator[tuple[_Tag, Reading]]:
        batch = buckets.pop(bucket)
        yield from zip((tag for tag, _ in batch), read([pixels for _, pixels in batch]), strict=True)

    for tag, pixels in lines:
        bucket = math.ceil(math.log(pixels.shape[1], _WIDTH_RATIO))
        buckets[bucket].append((tag, pixels))
        full = len(buckets[bucket])
        if full == BATCH_LINES or (full + 1) * pixels.size > BATCH_PIXELS:
            yield from flush(bucket)
    for bucket in sorted(buckets):
        yield from flush(bucket)
