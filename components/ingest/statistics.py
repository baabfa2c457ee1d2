"""Statistics of a whole dataset from those of its shards, its doubtful images, and what to warn of."""

from __future__ import annotations

import collections
import heapq
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow

from components.ingest.describe import (
    CONTACT_SHEET,
    EXTREMES,
    SAMPLES_SCHEMA,
    Place,
    ShardDescription,
    Twins,
    fetch_examples,
    highest,
    lowest,
)
from components.work import merge_counts
from tfrecords import SPLITS, Charset

if TYPE_CHECKING:
    from components.ingest.dataset import ShardSummary

RARE = 10
"""A symbol that occurs less often in the training split is called rare."""
# Zero-width spaces, marks of direction, byte order marks, and what stands for bytes that could not be decoded. Joiners
# are not among them: they change the shape of their neighbours in many scripts.
_INVISIBLE = frozenset(
    map(chr, [0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2060, 0x206A), 0xFEFF, 0xFFFD])
)
_GROUPS_NAMED = 1000
_NAMED = 20


def collect_statistics(
    described: Sequence[tuple[ShardSummary, ShardDescription]],
    twins: Iterable[Twins],
    split_by: str,
    charset: Charset,
) -> dict[str, Any]:
    """What `statistics.json` says of the examples: counts by split, and what is doubtful about them."""
    splits: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        mine = [(summary, description) for summary, description in described if summary.split == split]
        groups = merge_counts(summary.groups for summary, _ in mine)
        splits[split] = {
            "examples": sum(summary.examples for summary, _ in mine),
            "rejects": merge_counts(summary.rejects for summary, _ in mine),
            "widths": _by_number(description.widths for _, description in mine),
            "label_lengths": _by_number(description.label_lengths for _, description in mine),
            "symbols": merge_counts(description.symbols for _, description in mine),
            "groups": len(groups),
            "largest_groups": dict(
                heapq.nsmallest(_GROUPS_NAMED, groups.items(), key=lambda item: (-item[1], item[0]))
            ),
        }
    used = [split for split in SPLITS if splits[split]["examples"]]
    symbols = merge_counts(splits[split]["symbols"] for split in SPLITS)
    trained = splits["train"]["symbols"]
    twins = list(twins)
    return {
        "split_by": split_by,
        "splits": splits,
        "symbols": symbols,
        "symbols_in_one_split": {
            split: [symbol for symbol in symbols if [s for s in used if symbol in splits[s]["symbols"]] == [split]]
            for split in used
            if len(used) > 1
        },
        "rare_symbols": {symbol: trained[symbol] for symbol in symbols if 0 < trained.get(symbol, 0) < RARE},
        "symbols_without_image": charset.missing_from(symbols),
        "tight_labels": sum(description.tight_labels for _, description in described),
        "median_pixels_per_symbol": _median(_by_number(description.spacings for _, description in described)),
        "identical_images": {
            "with_other_labels": sum(part.conflicting for part in twins),
            "in_several_splits": sum(part.leaking for part in twins),
        },
    }


def find_warnings(statistics: dict[str, Any]) -> Iterator[str]:
    """Sentences for the person who is about to train on the dataset."""
    splits = statistics["splits"]
    by_group = "" if statistics["split_by"] == "image" else f" or groups of --split_by={statistics['split_by']}"
    for split in SPLITS:
        if not splits[split]["examples"]:
            yield f"the {split} split is empty: there are too few images{by_group} for it"
    if unreadable := statistics["rejects"].get("unreadable_folder"):
        yield f"{_count(unreadable, 'folder', 'folders')} cannot be listed: the images in there are missing"
    if unused := statistics["unused_labels"]:
        counts = ", ".join(f"{count} {reason}" for reason, count in unused.items())
        total = _count(sum(unused.values()), "label belongs", "labels belong")
        yield f"{total} to no image ({counts}): unused_labels.parquet lists them"
    twins = statistics["identical_images"]
    if twins["with_other_labels"]:
        yield f"{twins['with_other_labels']} images are identical to others with another label: one of them is wrong"
    if twins["in_several_splits"]:
        yield (
            f"{twins['in_several_splits']} images have an identical one in another split: "
            "the evaluation will look better than it should; --split_by keeps groups of images together"
        )
    if tight := statistics["tight_labels"]:
        yield (
            f"{_count(tight, 'label fits its image but leaves', 'labels fit their images but leave')} no room for a "
            "blank around every symbol (time_steps > 2 * label_length + 1), which trains more slowly; a greater "
            "--height gives more time steps"
        )
    if unmeasured := statistics["symbols_in_one_split"].get("train"):
        yield f"{_named(unmeasured)} only in the training split: how well they are read cannot be measured"
    if unlearned := [symbol for symbol in statistics["symbols"] if symbol not in splits["train"]["symbols"]]:
        where = " and the ".join(s for s in SPLITS if any(symbol in splits[s]["symbols"] for symbol in unlearned))
        yield f"{_named(unlearned)} only in the {where} split and cannot be learned"
    if rare := statistics["rare_symbols"]:
        yield f"{_named(rare)} fewer than {RARE} times in the training split and will be read badly"
    if missing := statistics["symbols_without_image"]:
        yield f"{_named(missing)} in --charset but in no label, and cannot be learned"
    if invisible := [symbol for symbol in statistics["symbols"] if symbol in _INVISIBLE]:
        yield f"{_named(invisible)} in labels, though no image shows them: are the labels damaged?"


def collect_samples(
    descriptions: Sequence[ShardDescription],
    twins: Iterable[Twins],
    shard_splits: Sequence[str],
    path_of: Callable[[int], str],
) -> pyarrow.Table:
    """Examples to look at: a contact sheet, the longest, the strangest, and identical ones with other labels.

    The strangest are farthest from the median, in proportion, by their width per symbol (the
    label says much more or much less than there is room for) or by the bytes that their pixels
    take (next to nothing is in the image, or much more than in others).

    Args:
        shard_splits: the split of each shard, by its number.
        path_of: the path of a shard by its number.
    """
    chosen: list[tuple[str, str, Place]] = []

    def all_of(name: str) -> Iterable[tuple[float, Place]]:
        return itertools.chain.from_iterable(getattr(description, name) for description in descriptions)

    different = dict(lowest(all_of("contact_sheet"), sys.maxsize))  # one of each image
    chosen += [("contact_sheet", "", place) for _, place in lowest(different.items(), CONTACT_SHEET)]
    chosen += [("longest", f"{length:.0f} symbols", place) for length, place in highest(all_of("longest"), EXTREMES)]
    strange: dict[Place, tuple[float, str]] = {}
    for names, histogram, unit in (
        (("narrowest", "widest"), "spacings", "pixels per symbol"),
        (("emptiest", "fullest"), "densities", "bytes in 1,000 pixels"),
    ):
        median = _median(_by_number(getattr(description, histogram) for description in descriptions)) or 1
        for value, place in itertools.chain.from_iterable(all_of(name) for name in names):
            difference = abs(math.log(value / median))
            if difference > strange.get(place, (-1.0, ""))[0]:
                strange[place] = difference, f"{value:.1f} {unit}, the median is {median}"
    strangest = highest(((difference, place) for place, (difference, _) in strange.items()), EXTREMES)
    chosen += [("strangest", strange[place][1], place) for _, place in strangest]
    twins = list(twins)
    groups = [group for part in twins for group in part.shown[: part.shown_conflicts]]
    groups += [group for part in twins for group in part.shown[part.shown_conflicts :]]
    chosen += [
        ("twins", f"group {number}", place) for number, group in enumerate(groups[:EXTREMES], 1) for place in group
    ]
    examples = fetch_examples({place for _, _, place in chosen}, path_of)
    rows = [
        {"role": role, "note": note, "split": shard_splits[place.shard], **examples[place]}
        for role, note, place in chosen
    ]
    return pyarrow.Table.from_pylist(rows, SAMPLES_SCHEMA)


def _count(number: int, one: str, many: str) -> str:
    return f"1 {one}" if number == 1 else f"{number} {many}"


def _named(symbols: Iterable[str]) -> str:
    symbols = list(symbols)
    shown = " ".join(f"{symbol!r}" if symbol.isprintable() else f"U+{ord(symbol):04X}" for symbol in symbols[:_NAMED])
    more = f" and {len(symbols) - _NAMED} more" if len(symbols) > _NAMED else ""
    return f"{_count(len(symbols), 'symbol occurs', 'symbols occur')} ({shown}{more})"


def _by_number(counts: Iterable[dict[int, int]]) -> list[list[int]]:
    total: collections.Counter[int] = collections.Counter()
    for count in counts:
        total.update(count)
    return sorted([value, count] for value, count in total.items())


def _median(histogram: list[list[int]]) -> int:
    """The value in the middle of a sorted histogram; 0 of an empty one."""
    half = sum(count for _, count in histogram) / 2
    for value, count in histogram:
        half -= count
        if half <= 0:
            return value
    return 0
