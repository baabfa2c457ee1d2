"""Reading one shard of a collection, and committing a run whose shards are all read."""

from __future__ import annotations

import dataclasses
import datetime
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow

from components.inference.handler import Reading
from components.inference.scoring import read_lines
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
from tfrecords import ImageLimits, shard_name, storage

# The underscore keeps the manifest out of what pandas, pyarrow and Spark take for data.
RUN_MANIFEST_NAME = "_manifest.json"
ROW_GROUP_ROWS = 100_000
_SUMMARIES = "_summaries"

_TIME = pyarrow.timestamp("us", tz="UTC")
PREDICTIONS_SCHEMA = pyarrow.schema(
    [
        pyarrow.field("uri", pyarrow.string(), nullable=False),
        pyarrow.field("text", pyarrow.string(), nullable=False),
        pyarrow.field("confidence", pyarrow.float32(), nullable=False),
        pyarrow.field("symbol_confidences", pyarrow.list_(pyarrow.float32()), nullable=False),
        pyarrow.field(
            "alternatives",
            pyarrow.list_(pyarrow.struct([("text", pyarrow.string()), ("log_probability", pyarrow.float32())])),
            nullable=False,
        ),
        pyarrow.field("width", pyarrow.int32(), nullable=False),
        pyarrow.field("height", pyarrow.int32(), nullable=False),
        pyarrow.field("size_bytes", pyarrow.int64(), nullable=False),
        pyarrow.field("modified", _TIME, nullable=False),
        pyarrow.field("model_id", pyarrow.string(), nullable=False),
        pyarrow.field("run_id", pyarrow.string(), nullable=False),
        pyarrow.field("scored_at", _TIME, nullable=False),
    ]
)


@dataclasses.dataclass(frozen=True)
class InferenceRequest:
    """What a collection is read with.

    Attributes:
        run_id: short digest of the inputs, the model and the options.
        folder: where files are written until the run is committed.
        destination: the run's folder among the predictions.
        rejects_folder, rejects_destination: the same of what is left out.
        images: how many images were listed.
        shards: over how many shards they are spread.
        model_folder, model_id, height: the committed model, and the height of its lines.
        limits: which images are refused.
        max_reject_fraction: the share of images that may be left out.
        scored_at: time of the run, UTC; shards that a stopped run had finished keep that run's.
        processes: how many processes a worker may occupy.
    """

    run_id: str
    folder: str
    destination: str
    rejects_folder: str
    rejects_destination: str
    images: int
    shards: int
    model_folder: str
    model_id: str
    height: int
    limits: ImageLimits
    max_reject_fraction: float
    scored_at: datetime.datetime
    processes: int = 1


@dataclasses.dataclass(frozen=True)
class ReadSummary:
    """What became of the images of one shard.

    Attributes:
        index: which shard.
        inputs: digest of the references that were read.
        matched: how many there were; equals `rows` plus the rejects.
        rows, bytes, sha256: of the Parquet file of predictions; 0 rows, no file.
        rejects: images left out, by reason.
        confidence_sum: over the rows.
    """

    index: int
    inputs: str
    matched: int
    rows: int
    bytes: int
    sha256: str
    rejects: dict[str, int]
    confidence_sum: float


def read_shard(
    index: int,
    references: Sequence[ImageReference],
    request: InferenceRequest,
    read: Callable[[Sequence[np.ndarray]], Iterable[Reading]],
) -> ReadSummary:
    """Reads the images of one shard and writes its predictions and rejects.

    Images are read and decoded ahead while batches are scored. If the shard was finished before
    for the very same references, by a run that was stopped later, nothing is done.

    Args:
        references: sorted by key.
        read: scores one batch of lines, in order.
    """
    path = storage.join(request.folder, shard_name("part", index, request.shards, "parquet"))
    rejects_path = storage.join(request.rejects_folder, shard_name("rejects", index, request.shards, "parquet"))
    summary_path = storage.join(request.folder, _SUMMARIES, f"{index:05d}.json")
    inputs = digest_of(references)

    def files(summary: ReadSummary) -> list[str]:
        return [*([path] if summary.rows else []), *([rejects_path] if summary.rejects else [])]

    if finished := finished_summary(ReadSummary, summary_path, inputs, files):
        return finished

    rejects: list[Reject] = []
    sizes: dict[int, tuple[int, int]] = {}

    def lines() -> Iterator[tuple[int, np.ndarray]]:
        decode = functools.partial(read_referenced_line, height=request.height, limits=request.limits)
        outcomes = in_order(decode, references, request.processes)
        for position, outcome in enumerate(outcomes):
            if isinstance(outcome, Reject):
                rejects.append(outcome)
            else:
                sizes[position] = (outcome.source_width, outcome.source_height)
                yield position, outcome.pixels

    readings = sorted(read_lines(lines(), read), key=lambda tagged: tagged[0])
    if readings:
        rows = [_row(references[i], reading, sizes[i], request) for i, reading in readings]
        table = pyarrow.Table.from_pylist(rows, PREDICTIONS_SCHEMA)
        storage.write_parquet(path, table, row_group_size=ROW_GROUP_ROWS)
    if rejects:
        table = rejects_table(rejects, step="infer", run_id=request.run_id, at=request.scored_at)
        storage.write_parquet(rejects_path, table)
    summary = ReadSummary(
        index=index,
        inputs=inputs,
        matched=len(references),
        rows=len(readings),
        bytes=storage.size(path) if readings else 0,
        sha256=storage.checksum(path) if readings else "",
        rejects=count_by_reason(rejects),
        confidence_sum=sum(reading.confidence for _, reading in readings),
    )
    storage.write_json(summary_path, dataclasses.asdict(summary))
    return summary


def commit_run(summaries: Iterable[ReadSummary], request: InferenceRequest) -> None:
    """Checks that every listed image is accounted for, and makes the run's predictions exist.

    If too many images were left out, `refused.json` with one sentence is written instead,
    and nothing is committed.
    """
    if storage.exists(storage.join(request.destination, RUN_MANIFEST_NAME)):
        move_rejects(request.rejects_folder, request.rejects_destination)
        return  # the engine repeats a commit that was done
    ordered = sorted(summaries, key=lambda summary: summary.index)
    matched = sum(summary.matched for summary in ordered)
    rows = sum(summary.rows for summary in ordered)
    rejects = merge_counts(summary.rejects for summary in ordered)
    check_accounted(request.images, matched, rows, rejects, verb="read")
    problem = too_many_rejects(
        rejects, matched, request.max_reject_fraction, where=f"{request.rejects_folder}/rejects-*.parquet"
    )
    if problem is not None:
        storage.write_json(storage.join(request.folder, REFUSED_NAME), {"reason": problem})
        return
    files: dict[str, dict[str, Any]] = {
        shard_name("part", summary.index, request.shards, "parquet"): {
            "rows": summary.rows,
            "bytes": summary.bytes,
            "sha256": summary.sha256,
        }
        for summary in ordered
        if summary.rows
    }
    check_files(request.folder, {name: described["bytes"] for name, described in files.items()})
    for name in storage.list_names(request.folder):
        if name not in (*files, _SUMMARIES):
            storage.remove_file(storage.join(request.folder, name))
    manifest: dict[str, Any] = {
        "run_id": request.run_id,
        "model_id": request.model_id,
        "scored_at": request.scored_at.isoformat(),
        "matched": matched,
        "rows": rows,
        "rejects": rejects,
        "mean_confidence": sum(summary.confidence_sum for summary in ordered) / max(rows, 1),
        "files": files,
    }
    storage.remove_folder(storage.join(request.folder, _SUMMARIES))
    storage.write_json(storage.join(request.folder, RUN_MANIFEST_NAME), manifest)
    storage.move_folder(request.folder, request.destination)
    move_rejects(request.rejects_folder, request.rejects_destination)


def move_rejects(folder: str, destination: str) -> None:
    """Puts the rejects of a run whose predictions are committed in their place, if that was not done."""
    if storage.exists(folder):
        storage.move_folder(folder, destination)


def _row(
    reference: ImageReference, reading: Reading, size: tuple[int, int], request: InferenceRequest
) -> dict[str, Any]:
    return {
        "uri": reference.uri,
        "text": reading.text,
        "confidence": reading.confidence,
        "symbol_confidences": reading.symbol_confidences,
        "alternatives": [],
        "width": size[0],
        "height": size[1],
        "size_bytes": reference.size_bytes,
        "modified": reference.modified,
        "model_id": request.model_id,
        "run_id": request.run_id,
        "scored_at": request.scored_at,
    }
