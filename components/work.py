"""What every shard job shares: images read in order, and the memory of what is finished."""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from components.listing import ImageReference, read_image
from components.processes import map_in_processes, map_in_threads
from components.rejects import Reject
from tfrecords import ImageLimits, ImageRejected, LineImage, read_line, storage

_Counted = TypeVar("_Counted", str, int)
_Outcome = TypeVar("_Outcome")
_Summary = TypeVar("_Summary")

_READ_AHEAD, _THREADS = 64, 16
_WORTH_CALLING = 64  # references; with fewer, helper processes cost more than they save
REFUSED_NAME = "refused.json"
"""What a job leaves, with its reason in one sentence, when it commits nothing."""


def map_in_order(
    function: Callable[[ImageReference], _Outcome], references: Sequence[ImageReference], processes: int
) -> Iterator[_Outcome]:
    """`map` in the order of the references, which are read and decoded as fast as the machine allows.

    Args:
        function: to be pickled; reads the file that a reference names.
        processes: how many processes this one may occupy.
    """
    if any(storage.is_remote(reference.uri) for reference in references):  # a table may name both
        return map_in_threads(function, references, _THREADS, ahead=_READ_AHEAD)
    if processes > 1 and len(references) >= _WORTH_CALLING:
        return map_in_processes(function, references, processes)
    return map(function, references)  # threads would take turns at decoding, and lose time at each


def read_referenced_line(reference: ImageReference, height: int, limits: ImageLimits) -> LineImage | Reject:
    """The grey line of a listed image, or why it is none."""
    if reference.problem is not None:
        return Reject(reference.uri, reference.problem, reference.detail or "")
    try:
        limits.check_bytes(reference.size_bytes)
        return read_line(read_image(reference.uri), height, limits)
    except OSError as error:
        return Reject(reference.uri, "unreadable", str(error))
    except ImageRejected as error:
        return Reject(reference.uri, error.reason, error.detail)


def digest_references(references: Sequence[ImageReference]) -> str:
    """SHA-256 over references, hexadecimal: equal inputs in equal order, equal digest."""
    return hashlib.sha256(repr([tuple(reference) for reference in references]).encode()).hexdigest()


def read_finished_summary(
    kind: type[_Summary], summary_path: str, inputs: str, files: Callable[[_Summary], Mapping[str, int | None]]
) -> _Summary | None:
    """The summary of a shard that was finished before for the same inputs, if nothing is wrong with it now.

    The files that it wrote have to be there, and an image that could not be read is tried again: what was wrong with a
    disk or a network may have passed.

    Args:
        files: that such a shard wrote, and their bytes where they are known.
    """
    try:
        summary = kind(**storage.read_json(summary_path))
    except (FileNotFoundError, TypeError):  # TypeError: an older version's summary had other fields
        return None
    if summary.inputs != inputs or "unreadable" in summary.rejects:  # type: ignore[attr-defined]
        return None
    for path, expected in files(summary).items():
        found = storage.find_size(path)
        if found is None or expected not in (None, found):
            return None
    return summary


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


def check_files(folder: str, sizes: dict[str, int]) -> None:
    """Makes sure before a commit that the files which workers wrote are there.

    Raises:
        RuntimeError: for a file that is missing or has another size.
    """
    if problem := storage.find_missing_or_changed(folder, sizes):
        raise RuntimeError(f"{problem}: do all workers share the workspace?")


def keep_only(folder: str, names: Container[str]) -> None:
    """Removes from a folder, if it exists, what attempts that were stopped left there."""
    for name in storage.list_names(folder):
        if name not in names:
            storage.remove_file(storage.join(folder, name))


def choose_shard_count(images: int) -> int:
    """How many shards a number of images is spread over: a function of the count alone.

    A power of two, so that the number changes, and with it every shard, only when the
    collection has doubled: 2,000 to 4,000 images each; small collections get up to 8 shards
    of at least 250, so that several workers have something to do.
    """
    shards = 1
    while images > 4000 * shards or (shards < 8 and images >= 500 * shards):
        shards *= 2
    return shards
