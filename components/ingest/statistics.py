"""Statistics of a whole dataset from those of its shards, its doubtful images, and warnings about it."""

from __future__ import annotations

import collections
import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow

from components.counts import merge_counts
from components.ingest.describe import (
    BLANK_CONTRAST,
    BLANKS_NAMED,
    CANDIDATES,
    CONTACT_SHEET,
    EXTREMES,
    SAMPLES_SCHEMA,
    Place,
    ShardDescription,
    ShardSummary,
    Twins,
    fetch_examples,
    keep_highest,
    merge_descriptions,
)
from tfrecords import SPLITS, Charset
from tfrecords.directions import VISUAL, mirror_symbols
from tfrecords.shards import is_split_by_groups

RARE = 10
"""A symbol that occurs less often in the training split is called rare."""
# Zero-width spaces, marks of direction, byte order marks, and what stands for bytes that could not be decoded. Joiners
# are not among them: they change the shape of their neighbours in many scripts.
_INVISIBLE = frozenset(
    map(chr, [0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2060, 0x206A), 0xFEFF, 0xFFFD])
)
_GROUPS_NAMED = 1000
_NAMED = 20
_SHOWN = {"contact_sheet": CONTACT_SHEET, "longest": EXTREMES, "strangest": EXTREMES}


def collect_statistics(
    described: Sequence[tuple[list[ShardSummary], ShardDescription]],
    twins: Iterable[Twins],
    split_by: str,
    charset: Charset,
) -> dict[str, Any]:
    """Collects for `statistics.json` the counts of each split, and what is doubtful about the examples."""
    splits: dict[str, dict[str, Any]] = {}
    whole = merge_descriptions([description for _, description in described])
    for split in SPLITS:
        mine = [(summaries, description) for summaries, description in described if summaries[0].split == split]
        description = merge_descriptions([description for _, description in mine])
        largest = heapq.nsmallest(_GROUPS_NAMED, description.groups.items(), key=lambda item: (-item[1], item[0]))
        splits[split] = {
            "examples": sum(summary.examples for summaries, _ in mine for summary in summaries),
            "rejects": merge_counts(summary.rejects for summaries, _ in mine for summary in summaries),
            "widths": _list_pairs(description.widths),
            "label_lengths": _list_pairs(description.label_lengths),
            "symbols": description.symbols,
            "groups": len(description.groups),
            "largest_groups": dict(largest),
        }
    used = [split for split in SPLITS if splits[split]["examples"]]
    symbols = merge_counts(splits[split]["symbols"] for split in SPLITS)
    # Where text runs from right to left, a bracket may be in the charset only because the other one of its pair is.
    paired = "" if charset.direction == VISUAL else mirror_symbols("".join(symbols))
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
        "symbols_without_image": charset.missing_from({*symbols, *paired}),
        "tight_labels": whole.tight_labels,
        "median_pixels_per_symbol": _find_median(whole.spacings),
        "blank_lines": {"count": whole.blanks, "first": whole.blank_uris},
        "identical_images": {
            "with_other_labels": sum(part.conflicting for part in twins),
            "in_several_splits": sum(part.leaking for part in twins),
        },
    }


def find_warnings(statistics: dict[str, Any]) -> Iterator[str]:
    """Yields sentences for the person who is about to train on the dataset."""
    splits = statistics["splits"]
    split_by = statistics["split_by"]
    by_group = f" or groups of --split_by={split_by}" if is_split_by_groups(split_by) else ""
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
        number = twins["with_other_labels"]
        yield f"{number} images are identical to others with another label: samples.parquet has some of them"
    if twins["in_several_splits"]:
        yield (
            f"{twins['in_several_splits']} images have an identical one in another split: "
            "the evaluation will look better than it should; --split_by keeps groups of images together"
        )
    if blanks := statistics["blank_lines"]["count"]:
        yield (
            f"{_count(blanks, 'line is', 'lines are')} blank in grey, and cannot be learned: no two pixels are "
            f"{BLANK_CONTRAST} grey levels apart ({', '.join(statistics['blank_lines']['first'])}"
            f"{', …' if blanks > BLANKS_NAMED else ''})"
        )
    if tight := statistics["tight_labels"]:
        yield (
            f"{_count(tight, 'label fits its image but leaves', 'labels fit their images but leave')} no room for a "
            "blank around every symbol (time_steps > 2 * label_length + 1), which trains more slowly; a greater "
            "--height gives more time steps"
        )
    if unmeasured := statistics["symbols_in_one_split"].get("train"):
        yield f"{_name_symbols(unmeasured)} only in the training split: how well they are read cannot be measured"
    if unlearned := [symbol for symbol in statistics["symbols"] if symbol not in splits["train"]["symbols"]]:
        where = " and the ".join(s for s in SPLITS if any(symbol in splits[s]["symbols"] for symbol in unlearned))
        yield f"{_name_symbols(unlearned)} only in the {where} split and cannot be learned"
    if rare := statistics["rare_symbols"]:
        yield f"{_name_symbols(rare)} fewer than {RARE} times in the training split and will be read badly"
    if missing := statistics["symbols_without_image"]:
        yield f"{_name_symbols(missing)} in the charset but in no image that was written, and cannot be learned"
    if invisible := [symbol for symbol in statistics["symbols"] if symbol in _INVISIBLE]:
        yield f"{_name_symbols(invisible)} in labels, though no image shows them: are the labels damaged?"


def collect_samples(
    descriptions: Sequence[ShardDescription],
    twins: Iterable[Twins],
    shard_splits: Sequence[str],
    path_of: Callable[[int], str],
) -> pyarrow.Table:
    """Collects examples to look at: a contact sheet, the longest, the strangest, and identical ones with other labels.

    The strangest are farthest from the median, in proportion, by their width per symbol (the label says much more or
    much less than there is room for) or by the bytes that their pixels take (there is next to nothing in the image, or
    much more than in others).

    Args:
        shard_splits: the split of each shard, by its number.
        path_of: the path of a shard by its number.
    """
    whole = merge_descriptions(descriptions)
    chosen = [("contact_sheet", "", place) for _, place in whole.contact_sheet]
    chosen += [("longest", f"{length:.0f} symbols", place) for length, place in whole.longest]
    strange: dict[Place, tuple[float, str]] = {}
    for names, histogram, unit in (
        (("narrowest", "widest"), "spacings", "pixels per symbol"),
        (("emptiest", "fullest"), "densities", "bytes in 1,000 pixels"),
    ):
        median = _find_median(getattr(whole, histogram)) or 1
        for value, place in itertools.chain.from_iterable(getattr(whole, name) for name in names):
            difference = abs(math.log(value / median))
            if difference > strange.get(place, (-1.0, ""))[0]:
                strange[place] = difference, f"{value:.1f} {unit}, the median is {median}"
    strangest = keep_highest(((difference, place) for place, (difference, _) in strange.items()), CANDIDATES)
    chosen += [("strangest", strange[place][1], place) for _, place in strangest]
    twins = list(twins)
    groups = [group for part in twins for group in part.shown[: part.shown_conflicts]]
    groups += [group for part in twins for group in part.shown[part.shown_conflicts :]]
    chosen += [
        ("twins", f"group {number}", place) for number, group in enumerate(groups[:EXTREMES], 1) for place in group
    ]
    examples = fetch_examples({place for _, _, place in chosen}, path_of)
    rows: list[dict[str, Any]] = []
    counts: collections.Counter[str] = collections.Counter()
    seen: set[tuple[str, bytes]] = set()
    for role, note, place in chosen:
        example = examples[place]
        if role != "twins" and ((role, example["image"]) in seen or counts[role] == _SHOWN[role]):
            continue
        seen.add((role, example["image"]))
        counts[role] += 1
        rows.append({"role": role, "note": note, "split": shard_splits[place.shard], **example})
    return pyarrow.Table.from_pylist(rows, SAMPLES_SCHEMA)


def _count(number: int, one: str, many: str) -> str:
    return f"1 {one}" if number == 1 else f"{number} {many}"


def _name_symbols(symbols: Iterable[str]) -> str:
    symbols = list(symbols)
    shown = " ".join(f"{symbol!r}" if symbol.isprintable() else f"U+{ord(symbol):04X}" for symbol in symbols[:_NAMED])
    more = f" and {len(symbols) - _NAMED} more" if len(symbols) > _NAMED else ""
    return f"{_count(len(symbols), 'symbol occurs', 'symbols occur')} ({shown}{more})"


def _list_pairs(histogram: dict[int, int]) -> list[list[int]]:
    return sorted([value, count] for value, count in histogram.items())


def _find_median(histogram: dict[int, int]) -> int:
    """Finds the value in the middle of a histogram; 0 for an empty one."""
    half = sum(histogram.values()) / 2
    for value, count in sorted(histogram.items()):
        half -= count
        if half <= 0:
            return value
    return 0
