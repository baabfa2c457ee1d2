"""Writing one shard of a dataset, and committing a dataset whose shards are all written."""

from __future__ import annotations

import collections
import dataclasses
import datetime
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from components.ingest.fit import breaks_sufficient_rule, label_problem
from components.listing import ImageReference
from components.rejects import Reject, count_by_reason, rejects_table, too_many_rejects
from components.work import (
    REFUSED_NAME,
    check_accounted,
    check_files,
    digest_of,
    finished_summary,
    in_order,
    merge_counts,
    read_referenced_line,
)
from tfrecords import (
    SPLITS,
    Charset,
    DatasetManifest,
    ImageLimits,
    LineExample,
    ShardEntry,
    encode_example,
    encode_png,
    shard_name,
    storage,
    write_records,
)
from tfrecords.manifest import CHARSET_NAME, MANIFEST_NAME, STATISTICS_NAME

_SUMMARIES = "summaries"


@dataclasses.dataclass(frozen=True)
class IngestRequest:
    """What a dataset is made with.

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

    def __post_init__(self) -> None:
        if self.height < 8:
            raise ValueError(f"line height must be at least 8 pixels, not {self.height}")
        if self.time_stride < 1:
            raise ValueError(f"time stride must be at least 1 pixel, not {self.time_stride}")


@dataclasses.dataclass(frozen=True)
class ShardSummary:
    """What became of the images of one shard; small, so that all of them fit in one place.

    Attributes:
        split, index: which shard.
        inputs: digest of the references that it was made from.
        matched: how many references there were; equals `examples` plus the rejects.
        examples, bytes, sha256: of its TFRecord file.
        rejects: images left out, by reason.
        widths, label_lengths, symbols: how often each value occurs.
        tight_labels: labels that fit, but break the sufficient rule.
    """

    split: str
    index: int
    inputs: str
    matched: int
    examples: int
    bytes: int
    sha256: str
    rejects: dict[str, int]
    widths: dict[str, int]
    label_lengths: dict[str, int]
    symbols: dict[str, int]
    tight_labels: int


def write_training_shard(
    shard: tuple[str, int], references: Sequence[ImageReference], request: IngestRequest
) -> ShardSummary:
    """Reads, checks and encodes the images of one shard and writes its TFRecord file.

    The TFRecord file's bytes depend on the references and the request alone. If the shard was finished
    before for the very same references, by a run that was stopped later, nothing is done.

    Args:
        references: sorted by key.
    """
    split, index = shard
    count = request.shards[split]
    path = storage.join(request.folder, shard_name(split, index, count, "tfrecord.gz"))
    rejects_path = storage.join(request.folder, shard_name(f"rejects-{split}", index, count, "parquet"))
    summary_path = storage.join(request.folder, _SUMMARIES, shard_name(split, index, count, "json"))
    inputs = digest_of(references)

    def files(summary: ShardSummary) -> list[str]:
        return [path, *([rejects_path] if summary.rejects else [])]

    if finished := finished_summary(ShardSummary, summary_path, inputs, files):
        return finished

    rejects: list[Reject] = []
    widths: collections.Counter[str] = collections.Counter()
    label_lengths: collections.Counter[str] = collections.Counter()
    symbols: collections.Counter[str] = collections.Counter()
    tight_labels = 0

    def records() -> Iterator[bytes]:
        nonlocal tight_labels
        for outcome in in_order(lambda pair: _encode(*pair, request), _with_twins(references)):
            if isinstance(outcome, Reject):
                rejects.append(outcome)
                continue
            widths[str(outcome.width)] += 1
            label_lengths[str(outcome.label_length)] += 1
            symbols.update(outcome.text)
            tight_labels += breaks_sufficient_rule(outcome.label, outcome.width, request.time_stride)
            yield encode_example(outcome)

    examples, size, sha256 = write_records(path, records())
    if rejects:
        table = rejects_table(rejects, step="ingest", run_id=request.dataset_id, at=datetime.datetime.now(datetime.UTC))
        storage.write_parquet(rejects_path, table)
    summary = ShardSummary(
        split=split,
        index=index,
        inputs=inputs,
        matched=len(references),
        examples=examples,
        bytes=size,
        sha256=sha256,
        rejects=count_by_reason(rejects),
        widths=dict(widths),
        label_lengths=dict(label_lengths),
        symbols=dict(symbols),
        tight_labels=tight_labels,
    )
    storage.write_json(summary_path, dataclasses.asdict(summary))
    return summary


def commit_dataset(summaries: Iterable[ShardSummary], request: IngestRequest) -> None:
    """Checks that every listed image is accounted for, and makes the dataset exist.

    If too many images were left out, or none is left to train on, `refused.json` with one
    sentence is written instead, and nothing is committed.
    """
    if storage.exists(storage.join(request.destination, MANIFEST_NAME)):
        return  # the engine repeats a commit that was done
    ordered = sorted(summaries, key=lambda summary: (SPLITS.index(summary.split), summary.index))
    matched = sum(summary.matched for summary in ordered)
    rejects = merge_counts(summary.rejects for summary in ordered)
    entries = tuple(
        ShardEntry(
            name=shard_name(summary.split, summary.index, request.shards[summary.split], "tfrecord.gz"),
            split=summary.split,
            examples=summary.examples,
            bytes=summary.bytes,
            sha256=summary.sha256,
        )
        for summary in ordered
        if summary.examples
    )
    reject_files = tuple(
        shard_name(f"rejects-{summary.split}", summary.index, request.shards[summary.split], "parquet")
        for summary in ordered
        if summary.rejects
    )
    manifest = DatasetManifest(
        dataset_id=request.dataset_id,
        height=request.height,
        time_stride=request.time_stride,
        charset_sha256=request.charset.digest,
        matched=matched,
        rejects=rejects,
        shards=entries,
        reject_files=reject_files,
        warnings=tuple(_warnings(ordered)),
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    written = sum(entry.examples for entry in entries)
    check_accounted(request.images, matched, written, rejects, verb="written")
    problem = too_many_rejects(
        rejects, matched, request.max_reject_fraction, where=f"{request.folder}/rejects-*.parquet"
    )
    if problem is None and not manifest.examples("train"):
        problem = f"none of the {matched} images is left for training: give more images"
    if problem is not None:
        storage.write_json(storage.join(request.folder, REFUSED_NAME), {"reason": problem})
        return
    check_files(request.folder, {entry.name: entry.bytes for entry in entries})
    keep = {entry.name for entry in entries} | set(reject_files)
    for name in storage.list_names(request.folder):
        if name not in keep and name != _SUMMARIES:
            storage.remove_file(storage.join(request.folder, name))
    storage.remove_folder(storage.join(request.folder, _SUMMARIES))
    storage.write_bytes(storage.join(request.folder, CHARSET_NAME), request.charset.to_file_text().encode())
    storage.write_json(storage.join(request.folder, STATISTICS_NAME), _statistics(ordered, manifest))
    manifest.write(request.folder)
    storage.move_folder(request.folder, request.destination)


def _with_twins(
    references: Sequence[ImageReference],
) -> Iterator[tuple[ImageReference, ImageReference | None]]:
    """Each reference with the earlier one that has the same key, if there is one."""
    first: ImageReference | None = None
    for reference in references:
        if first is not None and first.key == reference.key:
            yield reference, first
        else:
            first = reference
            yield reference, None


def _encode(reference: ImageReference, twin: ImageReference | None, request: IngestRequest) -> LineExample | Reject:
    uri = reference.uri
    if twin is not None:
        return Reject(uri, "duplicate_key", f'its key "{reference.key}" is already that of "{twin.uri}"')
    if reference.text is None:
        return Reject(uri, reference.label_problem or "no_label", reference.label_detail or "")
    if unknown := request.charset.missing(reference.text):
        return Reject(
            uri, "symbol_not_in_charset", f"label {reference.text!r} has {', '.join(map(repr, unknown))}: see --charset"
        )
    line = read_referenced_line(reference, request.height, request.limits)
    if isinstance(line, Reject):
        return line
    width = line.pixels.shape[1]
    label = tuple(request.charset.encode(reference.text))
    if problem := label_problem(uri, label, width, request.time_stride):
        return Reject(uri, "label_too_long", problem)
    return LineExample(encode_png(line.pixels), width, label, reference.text, uri)


def _warnings(summaries: Sequence[ShardSummary]) -> Iterator[str]:
    examples = collections.Counter[str]()
    for summary in summaries:
        examples[summary.split] += summary.examples
    tight = sum(summary.tight_labels for summary in summaries)
    if tight:
        yield (
            f"{tight} labels fit their images but leave no room for a blank around every symbol "
            "(time_steps > 2 * label_length + 1): they train more slowly; a greater --height gives more time steps"
        )
    by_split = {split: merge_counts(s.symbols for s in summaries if s.split == split) for split in SPLITS}
    for split in SPLITS:
        if not examples[split]:
            yield f"the {split} split is empty: there are too few images for it"
        elif split != "train" and (untrained := sorted(set(by_split[split]) - set(by_split["train"]))):
            yield (
                f"{len(untrained)} symbols of the {split} split never occur in the training split and cannot be "
                f"learned: {' '.join(map(repr, untrained[:20]))}"
            )


def _statistics(summaries: Sequence[ShardSummary], manifest: DatasetManifest) -> dict[str, Any]:
    splits = {}
    for split in SPLITS:
        mine = [summary for summary in summaries if summary.split == split]
        splits[split] = {
            "examples": manifest.examples(split),
            "rejects": merge_counts(summary.rejects for summary in mine),
            "widths": _by_number(merge_counts(summary.widths for summary in mine)),
            "label_lengths": _by_number(merge_counts(summary.label_lengths for summary in mine)),
            "symbols": merge_counts(summary.symbols for summary in mine),
        }
    return {"dataset_id": manifest.dataset_id, "matched": manifest.matched, "splits": splits}


def _by_number(counts: dict[str, int]) -> list[list[int]]:
    return sorted([int(value), count] for value, count in counts.items())
