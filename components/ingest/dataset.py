"""One shard of a dataset, and the commit of a dataset whose shards are all written."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow.parquet

from components.commit import Commit, read_finished_summary
from components.counts import Counts, merge_counts
from components.ingest.addition import OldDataset, copy_examples
from components.ingest.describe import (
    SAMPLES_NAME,
    ShardDescription,
    ShardSummary,
    Twins,
    choose_search_count,
    describe_shard,
    find_twins,
    merge_descriptions,
    split_by_search,
)
from components.ingest.encode import EncodingRules, encode_reference
from components.ingest.statistics import collect_samples, collect_statistics, find_warnings
from components.lines import digest_references, map_in_order
from components.listing import ImageReference, explain_unused_labels, read_unused_labels
from components.rejects import (
    REJECTS_SCHEMA,
    Reject,
    count_by_reason,
    explain_too_many_rejects,
    find_example,
    make_rejects_table,
)
from tfrecords import (
    SPLITS,
    Charset,
    DatasetManifest,
    ImageLimits,
    ShardEntry,
    name_shard,
    storage,
    write_records,
)
from tfrecords.manifest import CHARSET_NAME, MANIFEST_NAME, STATISTICS_NAME
from tfrecords.shards import is_split_by_groups

DATASET_VERSION = 5
"""Goes into the IDs of datasets: raised when the same images and options would give other examples."""
UNUSED_LABELS_NAME = "unused_labels.parquet"
SUMMARIES_NAME = "summaries"
_SHARDS_A_PLACE = 256
_UNUSED_AT_A_TIME = 10_000

Described = tuple[list[ShardSummary], ShardDescription]
"""The shards of one split that met in one place, and what they hold together."""


@dataclasses.dataclass(frozen=True)
class IngestRequest:
    """Everything that decides what a dataset is made of, and where it goes.

    Attributes:
        dataset_id: short digest of inputs and options.
        folder: where shards are written until the dataset is committed.
        destination: the folder of the committed dataset.
        images: how many images were listed.
        shards: how many shards each split has.
        height: pixels of every line.
        time_stride: pixels of width per time step of the networks to be trained.
        charset: encodes the labels.
        limits: which images are refused.
        max_reject_fraction: the share of images that may be left out.
        processes: how many processes a worker may occupy.
        split_by: what is kept together in a split, for the statistics: `image`, `page`, `folder`, `given` or a
            column's name.
        label_source: where labels come from, for the manifest.
        listings: the listing files, whose unused labels are kept with the dataset.
        unused_labels: how many there are, by reason.
        passed_over: files that did not count as images, by suffix.
        old: the dataset to which the images are added; its shards come first in each split.
        vertical: whether text runs from top to bottom.
    """

    dataset_id: str
    folder: str
    destination: str
    images: int
    shards: dict[str, int]
    height: int
    time_stride: int
    charset: Charset
    limits: ImageLimits
    max_reject_fraction: float
    processes: int = 1
    split_by: str = "image"
    label_source: str = ""
    listings: tuple[str, ...] = ()
    unused_labels: dict[str, int] = dataclasses.field(default_factory=dict)
    passed_over: dict[str, int] = dataclasses.field(default_factory=dict)
    old: OldDataset | None = None
    vertical: bool = False

    def __post_init__(self) -> None:
        if self.height < 8:
            raise ValueError(f"line height must be at least 8 pixels, not {self.height}")
        if self.time_stride < 1:
            raise ValueError(f"time stride must be at least 1 pixel, not {self.time_stride}")

    @property
    def encoding(self) -> EncodingRules:
        """The rules that decide the bytes of an example."""
        return EncodingRules(self.charset, self.height, self.time_stride, self.limits, self.vertical)

    @property
    def shard_splits(self) -> list[str]:
        """The split of every shard, by the shard's number in the whole dataset."""
        return [split for split in SPLITS for _ in range(self.shards[split])]

    def count_old_shards(self, split: str) -> int:
        """Counts the shards of a split that are copies of old ones."""
        return self.old.count_shards(split) if self.old else 0

    def shard_number(self, split: str, index: int) -> int:
        """Returns a shard's number in the whole dataset."""
        return sum(self.shards[before] for before in SPLITS[: SPLITS.index(split)]) + index

    def shard_path(self, split: str, index: int) -> str:
        """Returns the path at which a shard is written."""
        return storage.join(self.folder, name_shard(split, index, self.shards[split], "tfrecord.gz"))


def write_training_shard(
    shard: tuple[str, int], references: Sequence[ImageReference], request: IngestRequest
) -> ShardSummary:
    """Reads, checks and encodes the images of one shard and writes its TFRecord file.

    The TFRecord file's bytes depend on the references and the request alone. If an earlier command finished the shard
    for the very same references before it was stopped, nothing is done.

    Args:
        references: sorted by key.
    """
    encode = functools.partial(encode_reference, rules=request.encoding)

    def outcomes() -> Iterator[tuple[ImageReference | None, bytes | Reject]]:
        return zip(references, map_in_order(encode, references, request.processes, request.limits), strict=True)

    return _write_shard(shard, digest_references(references), len(references), outcomes, request)


def copy_training_shard(
    shard: tuple[str, int], references: Sequence[ImageReference], request: IngestRequest
) -> ShardSummary:
    """Writes an old shard anew, with the ids of the new charset. New images replace old ones of the same URI.

    Args:
        references: the new images, sorted by key.

    Raises:
        DataError: if the old shard is damaged.
    """
    if request.old is None:
        raise ValueError("there is no old dataset whose shards could be copied")
    split, index = shard
    entry = request.old.shards[split][index]
    outcomes = functools.partial(copy_examples, entry, references, request.old, request.encoding, request.processes)
    inputs = hashlib.sha256(f"{entry.sha256}{digest_references(references)}".encode()).hexdigest()
    summary = _write_shard(shard, inputs, entry.examples, outcomes, request, kept=entry.examples - len(references))
    groups = request.old.groups[split] if index == 0 else {}
    return dataclasses.replace(summary, groups=merge_counts([summary.groups, dict(groups)]))


def _write_shard(
    shard: tuple[str, int],
    inputs: str,
    matched: int,
    outcomes: Callable[[], Iterator[tuple[ImageReference | None, bytes | Reject]]],
    request: IngestRequest,
    kept: int = 0,
) -> ShardSummary:
    """Writes the TFRecord file and the rejects of one shard, unless that was done before for the same inputs.

    Args:
        outcomes: what became of each image, with the new reference to it if there is one.
        kept: how many images are those of an old shard.
    """
    split, index = shard
    path = request.shard_path(split, index)
    rejects_path = storage.join(request.folder, _name_rejects(split, index, request))
    summary_path = storage.join(request.folder, SUMMARIES_NAME, name_shard(split, index, request.shards[split], "json"))

    def files(summary: ShardSummary) -> dict[str, int | None]:
        return {path: summary.bytes, **({rejects_path: None} if summary.rejects else {})}

    if finished := read_finished_summary(ShardSummary, summary_path, inputs, files):
        return finished

    rejects: list[Reject] = []
    groups: collections.Counter[str] = collections.Counter()

    def records() -> Iterator[bytes]:
        for reference, outcome in outcomes():
            if isinstance(outcome, Reject):
                rejects.append(outcome)
                continue
            if reference is not None and reference.group is not None:
                groups[reference.group] += 1
            yield outcome

    examples, size, sha256 = write_records(path, records())
    if rejects:
        table = make_rejects_table(
            rejects, step="ingest", run_id=request.dataset_id, at=datetime.datetime.now(datetime.UTC)
        )
        storage.write_parquet(rejects_path, table)
    summary = ShardSummary(
        split=split,
        index=index,
        inputs=inputs,
        matched=matched,
        examples=examples,
        bytes=size,
        sha256=sha256,
        rejects=count_by_reason(rejects),
        groups=dict(sorted(groups.items())),
        kept=kept,
    )
    storage.write_json(summary_path, dataclasses.asdict(summary))
    return summary


def describe_written_shard(summary: ShardSummary, request: IngestRequest) -> Iterator[tuple[str, Any]]:
    """Reads a written shard back.

    Yields:
        Its summary and description under a key that it shares with some other shards of its
        split, and the identities of its images under the keys of the places that search for
        twins among them.
    """
    number = request.shard_number(summary.split, summary.index)
    path = request.shard_path(summary.split, summary.index)
    description, identities = describe_shard(path, number, request.charset, request.height, request.time_stride)
    if is_split_by_groups(request.split_by):
        description = dataclasses.replace(description, groups=summary.groups)
    place = f"shards {summary.split} {summary.index // _SHARDS_A_PLACE}"
    yield place, ([dataclasses.replace(summary, groups={})], description)
    total = request.images + (request.old.examples if request.old else 0)
    for search, block in split_by_search(identities, choose_search_count(total)):
        yield f"twins {search}", block


def describe_or_find_twins(key: str, values: Iterable[Any], request: IngestRequest) -> Described | Twins:
    """Merges for the commit what `describe_written_shard` yielded under one key: many shards give as little as one."""
    if key.startswith("twins"):
        return find_twins(values, [SPLITS.index(split) for split in request.shard_splits])
    parts = list(values)
    summaries = [summary for some, _ in parts for summary in some]
    return summaries, merge_descriptions([description for _, description in parts])


def commit_dataset(settled: Iterable[Described | Twins], request: IngestRequest) -> None:
    """Checks that every listed image is accounted for, and makes the dataset exist.

    If too many images were left out, or none is left to train on, `refused.json` with one
    sentence is written instead, and nothing is committed.
    """
    commit = Commit(request.folder, request.destination, MANIFEST_NAME, working=(SUMMARIES_NAME,))
    if commit.already_done():
        storage.remove_folder(request.folder)
        return
    settled = list(settled)
    twins = [part for part in settled if isinstance(part, Twins)]
    described = [part for part in settled if not isinstance(part, Twins)]
    ordered = sorted(
        (summary for summaries, _ in described for summary in summaries),
        key=lambda summary: request.shard_number(summary.split, summary.index),
    )
    rejects = merge_counts(summary.rejects for summary in ordered)
    entries = tuple(
        ShardEntry(
            name=name_shard(summary.split, summary.index, request.shards[summary.split], "tfrecord.gz"),
            split=summary.split,
            examples=summary.examples,
            bytes=summary.bytes,
            sha256=summary.sha256,
        )
        for summary in ordered
        if summary.examples
    )
    reject_files = tuple(_name_rejects(summary.split, summary.index, request) for summary in ordered if summary.rejects)
    kept = sum(summary.kept for summary in ordered)
    _check_old_shards(ordered, request)
    matched = request.images + kept
    counts = Counts(matched=matched, read=sum(entry.examples for entry in entries), rejects=rejects)
    counts.check_accounted(sum(summary.matched for summary in ordered), verb="written")
    commit.keep([*(entry.name for entry in entries), *reject_files])
    problem = explain_too_many_rejects(
        rejects, matched - kept, request.max_reject_fraction, where=f"{request.folder}/rejects-*.parquet"
    )
    if problem is not None:
        problem += "; such as " + find_example([storage.join(request.folder, name) for name in reject_files], rejects)
        if unused := explain_unused_labels(request.listings):
            problem += f"; labels without an image: {unused}"
        if rejects.get("empty_label"):
            problem += "; --empty_labels=keep takes empty text files and cells for the labels of blank images"
    elif not any(entry.split == "train" for entry in entries):
        problem = f"none of the {matched} images is left for training: give more images"
    if problem is not None:
        commit.refuse(problem, rejects)
        return
    commit.check({entry.name: entry.bytes for entry in entries})
    _write_unused_labels(request)
    statistics = {
        "dataset_id": request.dataset_id,
        "label_source": request.label_source,
        "matched": matched,
        **({"added_to": request.old.dataset_id, "kept": kept} if request.old else {}),
        "rejects": rejects,
        "passed_over": request.passed_over,
        "unused_labels": request.unused_labels,
        **collect_statistics(described, twins, request.split_by, request.charset),
    }
    samples = collect_samples(
        [description for _, description in described],
        twins,
        request.shard_splits,
        lambda number: request.shard_path(*_split_and_index(number, request)),
    )
    storage.write_bytes(storage.join(request.folder, CHARSET_NAME), request.charset.to_file_text().encode())
    storage.write_json(storage.join(request.folder, STATISTICS_NAME), statistics)
    storage.write_parquet(storage.join(request.folder, SAMPLES_NAME), samples)
    manifest = DatasetManifest(
        dataset_id=request.dataset_id,
        height=request.height,
        time_stride=request.time_stride,
        charset_sha256=request.charset.digest,
        matched=matched,
        rejects=rejects,
        unused_labels=request.unused_labels,
        shards=entries,
        reject_files=reject_files,
        other_files={
            name: storage.get_size(storage.join(request.folder, name))
            for name in (CHARSET_NAME, SAMPLES_NAME, STATISTICS_NAME)
        },
        warnings=tuple(find_warnings(statistics)),
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        added_to=request.old.dataset_id if request.old else None,
        kept=kept,
        base_direction=request.charset.direction,
        vertical=request.vertical,
    )
    commit.finish(manifest, remove=(SUMMARIES_NAME,))


def _check_old_shards(summaries: Iterable[ShardSummary], request: IngestRequest) -> None:
    """Makes sure before a commit that every example of the old dataset reached its shard."""
    examples = request.old.examples if request.old else 0
    reached = sum(summary.matched for summary in summaries if summary.index < request.count_old_shards(summary.split))
    if reached != examples:
        raise RuntimeError(f"the old dataset has {examples} examples, but {reached} reached a shard of the new one")


def _write_unused_labels(request: IngestRequest) -> None:
    if not request.unused_labels:
        return
    at = datetime.datetime.now(datetime.UTC)
    with (
        storage.open_atomically(storage.join(request.folder, UNUSED_LABELS_NAME)) as file,
        pyarrow.parquet.ParquetWriter(file, REJECTS_SCHEMA, compression="zstd") as writer,
    ):
        unused = itertools.chain.from_iterable(map(read_unused_labels, request.listings))
        while labels := list(itertools.islice(unused, _UNUSED_AT_A_TIME)):
            writer.write_table(make_rejects_table(labels, step="ingest", run_id=request.dataset_id, at=at))


def _name_rejects(split: str, index: int, request: IngestRequest) -> str:
    return name_shard(f"rejects-{split}", index, request.shards[split], "parquet")


def _split_and_index(number: int, request: IngestRequest) -> tuple[str, int]:
    split = request.shard_splits[number]
    return split, number - request.shard_number(split, 0)
