"""Counts of what became of images, and the check that each is accounted for once."""

from __future__ import annotations

import collections
from collections.abc import Iterable
from typing import TypeVar

_Counted = TypeVar("_Counted", str, int)


def merge_counts(counts: Iterable[dict[_Counted, int]]) -> dict[_Counted, int]:
    """The sums of several counts, sorted by what was counted."""
    total: collections.Counter[_Counted] = collections.Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))


def check_accounted(listed: int, matched: int, done: int, rejects: dict[str, int], *, verb: str) -> None:
    """Makes sure before a commit that every listed image was either done or rejected, once.

    Args:
        verb: what was done with an image, for the message.

    Raises:
        RuntimeError: with all the numbers.
    """
    rejected = sum(rejects.values())
    if matched != listed or matched != done + rejected:
        raise RuntimeError(
            f"{listed} images were listed, {matched} reached a shard, {done} were {verb} and "
            f"{rejected} rejected: an image was lost or doubled"
        )
