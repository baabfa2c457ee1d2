"""Description of what a dataset holds: every written shard is read back, counted, and searched for doubtful images."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import heapq
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute

from components.counts import merge_counts
from components.ctc.fit import count_time_steps
from tfrecords import Charset, decode_png, examples_to_record_batch, read_record_batches, read_records

SAMPLES_NAME = "samples.parquet"
SAMPLES_SCHEMA = pyarrow.schema(
    [
        pyarrow.field("role", pyarrow.string(), nullable=False),
        pyarrow.field("note", pyarrow.string(), nullable=False),
        pyarrow.field("split", pyarrow.string(), nullable=False),
        pyarrow.field("uri", pyarrow.string(), nullable=False),
        pyarrow.field("text", pyarrow.string(), nullable=False),
        pyarrow.field("width", pyarrow.int32(), nullable=False),
        pyarrow.field("image", pyarrow.binary(), nullable=False),
    ]
)
CONTACT_SHEET, EXTREMES = 24, 10
CANDIDATES = 5 * EXTREMES
"""For the extremes: some of them may be identical."""
BLANK_CONTRAST = 16
"""Grey levels: a line without two pixels so far apart is blank to a reader, whatever its label says."""
BLANKS_NAMED = 3
_BLANK_DENSITY = 300  # bytes in 1,000 pixels: what takes more is no blank line, and is not decoded
_GROUPS = 10_000
_TWIN_GROUPS_SHOWN = 20
_IMAGES_PER_SEARCH = 500_000
_IDENTITIES = np.dtype([("image", "<u8"), ("text", "<u8"), ("shard", "<u4"), ("row", "<u4")])


@dataclasses.dataclass(frozen=True)
class Place:
    """Position of an example: the number of its shard among all of the dataset, and its row in it."""

    shard: int
    row: int


@dataclasses.dataclass(frozen=True)
class ShardSummary:
    """Summary of one written shard: what became of its images. It is small, so that all of them fit in one place.

    Attributes:
        split, index: which shard.
        inputs: digest of the references that it was made from.
        matched: how many references there were; equals `examples` plus the rejects.
        examples, bytes, sha256: of its TFRecord file.
        rejects: images left out, by reason.
        groups: examples by group, if the collection is split by groups.
        kept: images of an old dataset that no new one replaced; they are among the matched.
    """

    split: str
    index: int
    inputs: str
    matched: int
    examples: int
    bytes: int
    sha256: str
    rejects: dict[str, int]
    groups: dict[str, int]
    kept: int = 0


@dataclasses.dataclass(frozen=True)
class ShardDescription:
    """Contents of one shard, or of several of one split together; no longer for many than for few.

    Attributes:
        widths, label_lengths: how often each number of pixels and of symbols occurs.
        symbols: how often each symbol occurs.
        tight_labels: labels that may well fit, but do not satisfy `time_steps > 2 * label_length + 1`. Room for a
            blank around every symbol is never needed, but training is slower without it.
        contact_sheet: different images drawn by chance, as `(draw, place)`; the lowest draws count.
        longest: those with the longest labels, as `(symbols, place)`.
        narrowest, widest: those with the fewest and the most pixels per symbol, as `(pixels, place)`.
        spacings: how often each width per symbol occurs, in whole pixels.
        emptiest, fullest: those whose images take the fewest and the most bytes, as `(bytes, place)`, in bytes
            for each thousand pixels of the compressed image.
        densities: how often each such number of bytes occurs. Lines with empty labels are in none of these six but
            `fullest`.
        groups: examples by group, if the collection is split by groups; the largest 10,000.
        blanks: how many lines are blank though their label is not.
        blank_uris: the first of them, in the order of their URIs.
    """

    widths: dict[int, int]
    label_lengths: dict[int, int]
    symbols: dict[str, int]
    tight_labels: int
    contact_sheet: list[tuple[float, Place]]
    longest: list[tuple[float, Place]]
    narrowest: list[tuple[float, Place]]
    widest: list[tuple[float, Place]]
    spacings: dict[int, int]
    emptiest: list[tuple[float, Place]]
    fullest: list[tuple[float, Place]]
    densities: dict[int, int]
    groups: dict[str, int] = dataclasses.field(default_factory=dict)
    blanks: int = 0
    blank_uris: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Twins:
    """Groups of images of one dataset whose pixels are equal.

    Attributes:
        conflicting: how many images have twins with other labels.
        leaking: how many images have twins with the same label in another split.
        shown: some of the groups of twins, those with other labels first.
        shown_conflicts: how many of `shown` have other labels.
    """

    conflicting: int
    leaking: int
    shown: list[list[Place]]
    shown_conflicts: int = 0


def describe_shard(
    path: str, number: int, charset: Charset, height: int, time_stride: int
) -> tuple[ShardDescription, np.ndarray]:
    """Reads a written TFRecord file back.

    Args:
        number: of the shard among all of the dataset.

    Returns:
        The description, and the identity of every image and label for `find_twins`.

    Raises:
        DataError: if the file is damaged.
    """
    counts = _Counts(number, charset, height, time_stride)
    for batch in read_record_batches(path):
        counts.add(batch)
    identities = counts.collect_identities()
    return counts.describe(identities), identities


def merge_descriptions(descriptions: Sequence[ShardDescription]) -> ShardDescription:
    """Merges the descriptions of several shards."""

    def counted(name: str) -> dict[Any, int]:
        return merge_counts(getattr(description, name) for description in descriptions)

    def ranked(name: str) -> Iterator[Any]:
        return itertools.chain.from_iterable(getattr(description, name) for description in descriptions)

    different = dict(keep_lowest(ranked("contact_sheet"), sys.maxsize))  # one of each image
    groups = heapq.nsmallest(_GROUPS, counted("groups").items(), key=lambda item: (-item[1], item[0]))
    return ShardDescription(
        widths=counted("widths"),
        label_lengths=counted("label_lengths"),
        symbols=counted("symbols"),
        tight_labels=sum(description.tight_labels for description in descriptions),
        contact_sheet=keep_lowest(different.items(), CONTACT_SHEET),
        longest=keep_highest(ranked("longest"), CANDIDATES),
        narrowest=keep_lowest(ranked("narrowest"), CANDIDATES),
        widest=keep_highest(ranked("widest"), CANDIDATES),
        spacings=counted("spacings"),
        emptiest=keep_lowest(ranked("emptiest"), CANDIDATES),
        fullest=keep_highest(ranked("fullest"), CANDIDATES),
        densities=counted("densities"),
        groups=dict(sorted(groups)),
        blanks=sum(description.blanks for description in descriptions),
        blank_uris=sorted(ranked("blank_uris"))[:BLANKS_NAMED],
    )


def choose_search_count(images: int) -> int:
    """Chooses over how many places the search for twins is spread."""
    return 1 + images // _IMAGES_PER_SEARCH


def split_by_search(identities: np.ndarray, searches: int) -> Iterator[tuple[int, bytes]]:
    """Splits identities by the places that search for twins: equal images meet in one place."""
    for search in range(searches):
        mine = identities[identities["image"] % searches == search]
        if len(mine):
            yield search, mine.tobytes()


def find_twins(blocks: Iterable[bytes], split_of_shard: Sequence[int]) -> Twins:
    """Finds images whose pixels are equal though their labels differ, or which lie in different splits.

    Args:
        blocks: identities, as `split_by_search` gave them.
        split_of_shard: the split's number of each shard.
    """
    rows = np.sort(np.frombuffer(b"".join(blocks), _IDENTITIES), order=("image", "text", "shard", "row"))
    splits = np.asarray(split_of_shard)[rows["shard"]]
    conflicting, leaking = 0, 0
    conflicts: list[list[Place]] = []
    leaks: list[list[Place]] = []
    for start, stop in _find_series(rows["image"]):
        texts = [(start + first, start + last) for first, last in _find_series(rows["text"][start:stop], least=1)]
        if len(texts) > 1:
            conflicting += stop - start
            if len(conflicts) < _TWIN_GROUPS_SHOWN:
                conflicts.append([_locate(rows[first]) for first, _ in texts[:_TWIN_GROUPS_SHOWN]])
        for first, last in texts:
            _, other = np.unique(splits[first:last], return_index=True)
            if len(other) > 1:
                leaking += last - first
                if len(leaks) < _TWIN_GROUPS_SHOWN:
                    leaks.append([_locate(rows[first + row]) for row in other])
    return Twins(conflicting, leaking, (conflicts + leaks)[:_TWIN_GROUPS_SHOWN], len(conflicts))


def fetch_examples(places: Iterable[Place], path_of: Callable[[int], str]) -> dict[Place, dict[str, Any]]:
    """Fetches single examples of a dataset: `image`, `text`, `uri`, `width`.

    Args:
        path_of: the path of a shard by its number.
    """
    wanted: dict[int, set[int]] = collections.defaultdict(set)
    for place in places:
        wanted[place.shard].add(place.row)
    found = {}
    for shard, rows in sorted(wanted.items()):
        for row, record in enumerate(itertools.islice(read_records(path_of(shard)), max(rows) + 1)):
            if row in rows:
                example = examples_to_record_batch([record]).to_pylist()[0]
                values = {name: example[name][0] for name in ("image", "text", "uri", "width")}
                values["text"], values["uri"] = values["text"].decode(), values["uri"].decode()
                found[Place(shard, row)] = values
    return found


def keep_lowest(ranked: Iterable[tuple[float, Place]], count: int) -> list[tuple[float, Place]]:
    """Keeps the entries with the lowest numbers, the lowest first."""
    return sorted(ranked, key=lambda entry: (entry[0], entry[1].shard, entry[1].row))[:count]


def keep_highest(ranked: Iterable[tuple[float, Place]], count: int) -> list[tuple[float, Place]]:
    """Keeps the entries with the highest numbers, the highest first."""
    return sorted(ranked, key=lambda entry: (-entry[0], entry[1].shard, entry[1].row))[:count]


class _Counts:
    """Counts of a shard that is being read, batch by batch."""

    def __init__(self, number: int, charset: Charset, height: int, time_stride: int):
        self._number = number
        self._charset = charset
        self._height = height
        self._time_stride = time_stride
        self._widths: list[np.ndarray] = []
        self._lengths: list[np.ndarray] = []
        self._sizes: list[np.ndarray] = []
        self._identities: list[np.ndarray] = []
        self._blanks: list[str] = []
        self._symbols = np.zeros(len(charset.symbols), np.int64)

    def add(self, batch: pyarrow.RecordBatch) -> None:
        images, texts, labels, widths, lengths, uris = (
            batch.column(batch.schema.get_field_index(name)).flatten()
            for name in ("image", "text", "label", "width", "label_length", "uri")
        )
        self._widths.append(widths.to_numpy())
        self._lengths.append(lengths.to_numpy())
        self._sizes.append(pyarrow.compute.binary_length(images).to_numpy())
        least = 1000 * self._sizes[-1] < _BLANK_DENSITY * self._height * self._widths[-1]
        for row in np.flatnonzero(least & (self._lengths[-1] > 0)):
            if np.ptp(decode_png(images[row].as_py())) < BLANK_CONTRAST:
                self._blanks.append(uris[row].as_py().decode())
        self._symbols += np.bincount(labels.to_numpy(), minlength=len(self._symbols))
        identities = np.empty(len(images), _IDENTITIES)
        identities["image"] = [_digest(image.as_buffer()) for image in images]
        identities["text"] = [_digest(text.as_buffer()) for text in texts]
        self._identities.append(identities)

    def collect_identities(self) -> np.ndarray:
        rows = np.concatenate([np.empty(0, _IDENTITIES), *self._identities])
        rows["shard"] = self._number
        rows["row"] = np.arange(len(rows))
        return rows

    def describe(self, identities: np.ndarray) -> ShardDescription:
        widths = np.concatenate([np.empty(0, np.int64), *self._widths])
        lengths = np.concatenate([np.empty(0, np.int64), *self._lengths])
        sizes = np.concatenate([np.empty(0, np.int64), *self._sizes])
        labelled = np.flatnonzero(lengths > 0)
        spacings = widths[labelled] / lengths[labelled]
        densities = 1000 * sizes / (widths * self._height)
        ample = count_time_steps(widths, self._time_stride) > 2 * lengths + 1
        _, different = np.unique(identities["image"], return_index=True)
        draws = np.full(len(widths), np.inf)
        draws[different] = identities["image"][different] / 2**64
        return ShardDescription(
            widths=_count(widths),
            label_lengths=_count(lengths),
            symbols={
                symbol: int(count) for symbol, count in zip(self._charset.symbols, self._symbols, strict=True) if count
            },
            tight_labels=int(np.sum(~ample)),
            contact_sheet=self._find_lowest(draws, min(CONTACT_SHEET, len(different))),
            longest=[(-length, place) for length, place in self._find_lowest(-lengths, EXTREMES)],
            narrowest=self._find_lowest(spacings, EXTREMES, labelled),
            widest=[(-spacing, place) for spacing, place in self._find_lowest(-spacings, EXTREMES, labelled)],
            spacings=_count(spacings.round().astype(np.int64)),
            emptiest=self._find_lowest(densities[labelled], EXTREMES, labelled),
            fullest=[(-density, place) for density, place in self._find_lowest(-densities, EXTREMES)],
            densities=_count(densities[labelled].round().astype(np.int64)),
            blanks=len(self._blanks),
            blank_uris=sorted(self._blanks)[:BLANKS_NAMED],
        )

    def _find_lowest(self, values: np.ndarray, count: int, rows: np.ndarray | None = None) -> list[tuple[float, Place]]:
        """Finds the lowest values, those of all rows or of some."""
        order = np.argsort(values, kind="stable")[:count]
        return [(float(values[i]), Place(self._number, int(i if rows is None else rows[i]))) for i in order]


def _find_series(values: np.ndarray, least: int = 2) -> list[tuple[int, int]]:
    """Finds the start and the end of every series of at least so many equal values."""
    borders = np.flatnonzero(np.r_[True, values[1:] != values[:-1], True]) if len(values) else np.empty(0, int)
    starts, stops = borders[:-1], borders[1:]
    long = stops - starts >= least
    return list(zip(starts[long].tolist(), stops[long].tolist(), strict=True))


def _locate(identity: np.void) -> Place:
    return Place(int(identity["shard"]), int(identity["row"]))


def _count(values: np.ndarray) -> dict[int, int]:
    distinct, counts = np.unique(values, return_counts=True)
    return {int(value): int(count) for value, count in zip(distinct, counts, strict=True)}


def _digest(content: Any) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
