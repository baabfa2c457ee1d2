"""Reading one shard of a collection, and committing a run whose shards are all read."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow

from components.inference.decoders import Decoding
from components.inference.handler import LineModelHandler, Reading
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
from tfrecords import ImageLimits, ShardEntry, decode_png, read_record_batches, shard_name, storage

# The underscore keeps the manifest out of what pandas, pyarrow and Spark take for data.
RUN_MANIFEST_NAME = "_manifest.json"
ROW_GROUP_ROWS = 100_000
SUMMARIES_NAME = "_summaries"
"""Of each finished shard, while a run is under way."""

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
        pyarrow.field("needs_review", pyarrow.bool_(), nullable=False),
        pyarrow.field("margin", pyarrow.float32()),
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
        processes: how many processes a worker may occupy; so many threads score.
        engine: what scores batches, one of `components.inference.engines.ENGINES`.
        min_confidence: a row with less is marked for review.
        decoding: how logits become text.
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
    engine: str = "auto"
    min_confidence: float = 0.0
    decoding: Decoding = dataclasses.field(default_factory=Decoding)

    def handler(self) -> LineModelHandler:
        """What reads lines as asked for."""
        return LineModelHandler(self.model_folder, self.engine, decoding=self.decoding)


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
        needs_review: rows whose confidence is below the one asked for.
        figures: how it was read: `engine`, `why` it was chosen, `model_load_s`, `batches`, `scoring_s` (the sum of
            the seconds that each batch took to be scored and decoded), `slowest_batch_s`, `seconds` (of the shard).
    """

    index: int
    inputs: str
    matched: int
    rows: int
    bytes: int
    sha256: str
    rejects: dict[str, int]
    confidence_sum: float
    needs_review: int
    figures: dict[str, Any] = dataclasses.field(compare=False)


class _Source(NamedTuple):
    """Where a row comes from: its image, and how large that is."""

    uri: str
    width: int
    height: int
    size_bytes: int
    modified_us: int


def read_shard(
    index: int,
    references: Sequence[ImageReference],
    request: InferenceRequest,
    read: Callable[[Sequence[np.ndarray]], Iterable[Reading]],
    about_model: Mapping[str, Any] | None = None,
) -> ReadSummary:
    """Reads the images of one shard and writes its predictions and rejects.

    Images are read and decoded ahead while batches are scored. If the shard was finished before
    for the very same references, by a run that was stopped later, nothing is done.

    Args:
        references: sorted by key.
        read: scores one batch of lines, in order.
        about_model: what reads, for the figures.
    """

    def outcomes() -> Iterator[tuple[_Source, np.ndarray] | Reject]:
        decode = functools.partial(read_referenced_line, height=request.height, limits=request.limits)
        lines = in_order(decode, references, request.processes)
        for reference, line in zip(references, lines, strict=True):
            if isinstance(line, Reject):
                yield line
            else:
                size = (line.source_width, line.source_height)
                yield _Source(reference.uri, *size, reference.size_bytes, reference.modified_us), line.pixels

    return _read(index, digest_of(references), outcomes(), len(references), request, read, about_model or {})


def read_record_shard(
    index: int,
    shard: ShardEntry,
    dataset_folder: str,
    modified: datetime.datetime,
    request: InferenceRequest,
    read: Callable[[Sequence[np.ndarray]], Iterable[Reading]],
    about_model: Mapping[str, Any] | None = None,
) -> ReadSummary:
    """`read_shard` for one TFRecord file of a dataset.

    A row has the URI of the image that the line was made from; its width, height and bytes are the line's own.

    Args:
        modified: when the dataset was made.

    Raises:
        DataError: if the file is damaged.
    """
    modified_us = round(modified.timestamp() * 1e6)

    def outcomes() -> Iterator[tuple[_Source, np.ndarray]]:
        for batch in read_record_batches(storage.join(dataset_folder, shard.name)):
            uris, images = (
                batch.column(batch.schema.get_field_index(name)).flatten().to_pylist() for name in ("uri", "image")
            )
            for uri, image in zip(uris, images, strict=True):
                pixels = decode_png(image)
                height, width = pixels.shape
                yield _Source(uri.decode(), width, height, len(image), modified_us), pixels

    return _read(index, shard.sha256, outcomes(), shard.examples, request, read, about_model or {})


def _read(
    index: int,
    inputs: str,
    outcomes: Iterator[tuple[_Source, np.ndarray] | Reject] | Iterator[tuple[_Source, np.ndarray]],
    matched: int,
    request: InferenceRequest,
    read: Callable[[Sequence[np.ndarray]], Iterable[Reading]],
    about_model: Mapping[str, Any],
) -> ReadSummary:
    """Writes what is read on some lines, unless that was done before for the same inputs."""
    path = storage.join(request.folder, shard_name("part", index, request.shards, "parquet"))
    rejects_path = storage.join(request.rejects_folder, shard_name("rejects", index, request.shards, "parquet"))
    summary_path = storage.join(request.folder, SUMMARIES_NAME, f"{index:05d}.json")

    def files(summary: ReadSummary) -> list[str]:
        return [*([path] if summary.rows else []), *([rejects_path] if summary.rejects else [])]

    if finished := finished_summary(ReadSummary, summary_path, inputs, files):
        return finished

    started = time.monotonic()
    rejects: list[Reject] = []
    sources: list[_Source] = []
    batch_seconds: list[float] = []

    def lines() -> Iterator[tuple[int, np.ndarray]]:
        for outcome in outcomes:
            if isinstance(outcome, Reject):
                rejects.append(outcome)
            else:
                sources.append(outcome[0])
                yield len(sources) - 1, outcome[1]

    def timed(batch: Sequence[np.ndarray]) -> Iterable[Reading]:
        began = time.monotonic()
        readings = list(read(batch))
        batch_seconds.append(time.monotonic() - began)
        return readings

    found = dict(read_lines(lines(), timed, request.processes))
    readings = [found[i] for i in range(len(sources))]
    confidences = np.array([reading.confidence for reading in readings], np.float32)
    needs_review = confidences < request.min_confidence
    if readings:
        table = _table(sources, readings, confidences, needs_review, request)
        storage.write_parquet(path, table, row_group_size=ROW_GROUP_ROWS)
    if rejects:
        table = rejects_table(rejects, step="infer", run_id=request.run_id, at=request.scored_at)
        storage.write_parquet(rejects_path, table)
    summary = ReadSummary(
        index=index,
        inputs=inputs,
        matched=matched,
        rows=len(readings),
        bytes=storage.size(path) if readings else 0,
        sha256=storage.checksum(path) if readings else "",
        rejects=count_by_reason(rejects),
        confidence_sum=float(confidences.sum(dtype=np.float64)),
        needs_review=int(needs_review.sum()),
        figures={
            **about_model,
            "batches": len(batch_seconds),
            "scoring_s": sum(batch_seconds),
            "slowest_batch_s": max(batch_seconds, default=0.0),
            "seconds": time.monotonic() - started,
        },
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
        if name not in (*files, SUMMARIES_NAME):
            storage.remove_file(storage.join(request.folder, name))
    manifest: dict[str, Any] = {
        "run_id": request.run_id,
        "model_id": request.model_id,
        "scored_at": request.scored_at.isoformat(),
        "matched": matched,
        "rows": rows,
        "rejects": rejects,
        "mean_confidence": sum(summary.confidence_sum for summary in ordered) / max(rows, 1),
        "needs_review": sum(summary.needs_review for summary in ordered),
        "figures": _figures([summary.figures for summary in ordered]),
        "files": files,
    }
    storage.remove_folder(storage.join(request.folder, SUMMARIES_NAME))
    storage.write_json(storage.join(request.folder, RUN_MANIFEST_NAME), manifest)
    storage.move_folder(request.folder, request.destination)
    move_rejects(request.rejects_folder, request.rejects_destination)


def move_rejects(folder: str, destination: str) -> None:
    """Puts the rejects of a run whose predictions are committed in their place, if that was not done."""
    if storage.exists(folder):
        storage.move_folder(folder, destination)


def _figures(shards: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How a run was read, from the figures of its shards."""
    engines = sorted({(shard["engine"], shard["why"]) for shard in shards if "engine" in shard})
    return {
        "engines": [f"{engine} ({why})" for engine, why in engines],
        "model_load_s": max((shard.get("model_load_s", 0.0) for shard in shards), default=0.0),
        "batches": sum(shard["batches"] for shard in shards),
        "scoring_s": sum(shard["scoring_s"] for shard in shards),
        "slowest_batch_s": max((shard["slowest_batch_s"] for shard in shards), default=0.0),
        "shard_s": sum(shard["seconds"] for shard in shards),
    }


def _table(
    sources: Sequence[_Source],
    readings: Sequence[Reading],
    confidences: np.ndarray,
    needs_review: np.ndarray,
    request: InferenceRequest,
) -> pyarrow.Table:
    """The rows of one shard, column by column: a dictionary for each row would take longer than to read it."""
    count = len(readings)
    uris, widths, heights, sizes, modified = zip(*sources, strict=True)
    columns = {
        "uri": uris,
        "text": [reading.text for reading in readings],
        "confidence": confidences,
        "symbol_confidences": _lists([reading.symbol_confidences for reading in readings], _as_floats),
        "alternatives": _lists([reading.alternatives for reading in readings], _as_alternatives),
        "width": widths,
        "height": heights,
        "size_bytes": sizes,
        "modified": pyarrow.array(modified, pyarrow.int64()).cast(_TIME),
        "model_id": pyarrow.repeat(request.model_id, count),
        "run_id": pyarrow.repeat(request.run_id, count),
        "scored_at": pyarrow.repeat(pyarrow.scalar(request.scored_at, _TIME), count),
        "needs_review": needs_review,
        "margin": [reading.margin for reading in readings],
    }
    return pyarrow.table(
        {field.name: pyarrow.array(columns[field.name], field.type) for field in PREDICTIONS_SCHEMA},
        schema=PREDICTIONS_SCHEMA,
    )


def _lists(rows: Sequence[Sequence[Any]], to_array: Callable[[list[Any]], pyarrow.Array]) -> pyarrow.Array:
    offsets = np.cumsum([0, *map(len, rows)])
    return pyarrow.ListArray.from_arrays(
        pyarrow.array(offsets, pyarrow.int32()), to_array(list(itertools.chain.from_iterable(rows)))
    )


def _as_floats(values: list[float]) -> pyarrow.Array:
    return pyarrow.array(np.array(values, np.float32))


def _as_alternatives(pairs: list[tuple[str, float]]) -> pyarrow.Array:
    texts, log_probabilities = zip(*pairs, strict=True) if pairs else ((), ())
    fields = PREDICTIONS_SCHEMA.field("alternatives").type.value_type
    columns = [pyarrow.array(texts, pyarrow.string()), _as_floats(list(log_probabilities))]
    return pyarrow.StructArray.from_arrays(columns, fields=list(fields))
