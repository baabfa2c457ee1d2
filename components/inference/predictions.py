"""Reading one shard of a collection, and committing a run whose shards are all read."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import itertools
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import pyarrow
import pyarrow.parquet

from components.inference.decoders import Decoding
from components.inference.engines import choose_engine
from components.inference.reader import Recogniser, RecogniserSpec, Recognition
from components.inference.runs import RUN_MANIFEST_NAME
from components.inference.scoring import recognise_in_batches
from components.inference.unread import RETRIED
from components.listing import ImageReference
from components.models import ModelManifest
from components.processes import map_in_processes, prepare_helpers, split_into_groups
from components.rejects import Reject, count_by_reason, explain_too_many_rejects, make_rejects_table
from components.work import (
    REFUSED_NAME,
    check_accounted,
    check_files,
    digest_references,
    keep_only,
    map_in_order,
    merge_counts,
    read_finished_summary,
    read_referenced_line,
)
from tfrecords import ImageLimits, LineImage, ShardEntry, decode_png, name_shard, read_record_batches, storage

ROW_GROUP_ROWS = 100_000
_DECODER_VERSION = 1  # raised when images are read that were rejected before: all rejected ones are then tried again
_CHUNK = 256  # images, at most, that a helper process reads at a time
_LEAST_CHUNK = 32  # fewer are read sooner by this process
_BATCHES_AT_A_TIME = 2  # by this process: one is sent to a GPU while another is scored
UNCHANGED_NAME = "unchanged.json"
"""What a job leaves that has tried to read what could not be read before, and could not."""
STARTED_NAME = "_started.json"
"""When the first attempt at a run began, while it is under way."""
SUMMARIES_NAME = "_summaries"
"""Of each finished shard, while a run is under way."""
CONFIDENCE_BINS = 100  # of equal width, from 0 to 1
LEAST_CONFIDENT = 50  # rows of a run that its manifest names

TIMESTAMP = pyarrow.timestamp("us", tz="UTC")
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
        pyarrow.field("modified", TIMESTAMP, nullable=False),
        pyarrow.field("model_id", pyarrow.string(), nullable=False),
        pyarrow.field("run_id", pyarrow.string(), nullable=False),
        pyarrow.field("scored_at", TIMESTAMP, nullable=False),
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
        repeats: how many rows of tables name an image that was listed already.
        skipped: how many more images were listed that earlier runs have read, or rejected for good.
        reread: how many of the images another model has read, with too little confidence.
        retried: how many of the images could not be read by earlier runs.
        shards: over how many shards they are spread.
        model_folder, model_id, height: the committed model, and the height of its lines.
        limits: which images are refused.
        max_reject_fraction: the share of images that may be left out.
        inputs: digest of what is read.
        scored_at: time of the run, UTC; shards that a stopped run had finished keep that run's.
        processes: how many processes a worker may occupy.
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
    inputs: str = ""
    repeats: int = 0
    skipped: int = 0
    reread: int = 0
    retried: int = 0

    @property
    def limits_of_lines(self) -> dict[str, int]:
        """What decides whether an image can be read at all."""
        return describe_limits(self.limits, self.height)

    def reader(self, engine: str | None = None) -> RecogniserSpec:
        """What reads lines as asked for, or with another engine."""
        return RecogniserSpec(self.model_folder, engine or self.engine, decoding=self.decoding)


def describe_limits(limits: ImageLimits, height: int) -> dict[str, int]:
    """What decides whether an image can be read at all, as manifests have it."""
    return {**dataclasses.asdict(limits), "height": height, "decoder_version": _DECODER_VERSION}


@dataclasses.dataclass(frozen=True)
class RecognisedShard:
    """What became of the images of one shard.

    Attributes:
        index: which shard.
        inputs: digest of the references that were read.
        matched: how many there were; equals `rows` plus the rejects.
        rows, bytes, sha256: of the Parquet file of predictions; 0 rows, no file.
        rejects: images left out, by reason.
        confidence_sum: over the rows.
        needs_review: rows whose confidence is below the one asked for.
        confidence_histogram: rows by confidence, in `CONFIDENCE_BINS` bins of equal width.
        least_confident: confidence, URI and text of the `LEAST_CONFIDENT` least confident rows, by these.
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
    confidence_histogram: list[int]
    least_confident: list[list[Any]]
    figures: dict[str, Any] = dataclasses.field(compare=False)


class ImageFile(NamedTuple):
    """What is known of an image before it is read."""

    uri: str
    size_bytes: int
    modified_us: int


class RecognisedLine(NamedTuple):
    """An image's own width and height, and what was read on it."""

    width: int
    height: int
    reading: Recognition


_Outcome: TypeAlias = Reject | RecognisedLine
_Lines: TypeAlias = Callable[[Any, int], Iterable[LineImage | Reject]]
"""Some images, and how many processes may decode them, to their lines, in order."""


def recognise_shard(
    index: int,
    references: Sequence[ImageReference],
    request: InferenceRequest,
    read: Callable[[Sequence[np.ndarray]], Iterable[Recognition]],
    about_model: Mapping[str, Any] | None = None,
) -> RecognisedShard:
    """Reads the images of one shard and writes its predictions and rejects.

    Images are decoded and scored by helper processes, or decoded ahead by them while this process scores. If the
    shard was finished before for the very same references, by a run that was stopped later, nothing is done.

    Args:
        references: sorted by key.
        read: scores one batch of lines, in order.
        about_model: what reads, for the figures. Where its `engine` is `onnx`, helper processes score, too, if the
            worker may occupy several: threads of this process would share one interpreter, and a core's cache.
    """
    files = [ImageFile(reference.uri, reference.size_bytes, reference.modified_us) for reference in references]
    lines = functools.partial(_read_referenced_lines, height=request.height, limits=request.limits)
    inputs = digest_references(references)
    return _recognise(index, inputs, files, references, lines, len(references), request, read, about_model or {})


def recognise_record_shard(
    index: int,
    shard: ShardEntry,
    dataset_folder: str,
    modified: datetime.datetime,
    request: InferenceRequest,
    read: Callable[[Sequence[np.ndarray]], Iterable[Recognition]],
    about_model: Mapping[str, Any] | None = None,
) -> RecognisedShard:
    """`recognise_shard` for one TFRecord file of a dataset.

    A row has the URI of the image that the line was made from; its width, height and bytes are the line's own.

    Args:
        modified: when the dataset was made.

    Raises:
        DataError: if the file is damaged.
    """
    modified_us = round(modified.timestamp() * 1e6)
    files: list[ImageFile] = []

    def records() -> Iterator[bytes]:
        for batch in read_record_batches(storage.join(dataset_folder, shard.name)):
            uris, images = (
                batch.column(batch.schema.get_field_index(name)).flatten().to_pylist() for name in ("uri", "image")
            )
            for uri, image in zip(uris, images, strict=True):
                files.append(ImageFile(uri.decode(), len(image), modified_us))
                yield image

    inputs, count = shard.sha256, shard.examples
    return _recognise(index, inputs, files, records(), _read_recorded_lines, count, request, read, about_model or {})


def prepare_recognition(request: InferenceRequest) -> None:
    """Has helper processes load the model while the job is being started, if they will read with it."""
    helpers = _choose_helpers(request.images // request.shards, request.processes)
    if helpers == 1:
        return
    engine, _ = choose_engine(request.engine, ModelManifest.read(request.model_folder))
    if engine == "onnx":
        read_chunk = functools.partial(_recognise_chunk, lines=_read_recorded_lines, reader=request.reader(engine))
        prepare_helpers(read_chunk, [], helpers)


def _choose_helpers(images: int, processes: int) -> int:
    """How many of the helper processes are worth calling for a shard of so many images; 1 for none."""
    return max(1, min(processes, images // _LEAST_CHUNK))


def _read_referenced_lines(
    references: Sequence[ImageReference], processes: int, *, height: int, limits: ImageLimits
) -> Iterator[LineImage | Reject]:
    decode = functools.partial(read_referenced_line, height=height, limits=limits)
    return map_in_order(decode, references, processes)


def _read_recorded_lines(images: Iterable[bytes], processes: int) -> Iterator[LineImage]:
    del processes  # a line of a dataset takes no time to decode
    for pixels in map(decode_png, images):
        height, width = pixels.shape
        yield LineImage(pixels, width, height)


def _recognise_lines(
    lines: Iterable[LineImage | Reject], read: Callable[[Sequence[np.ndarray]], Iterable[Recognition]], threads: int = 1
) -> tuple[list[_Outcome], list[float]]:
    """The outcome of every line, in order, and the seconds that every batch took."""
    outcomes: list[Any] = []
    batch_seconds: list[float] = []

    def accepted() -> Iterator[tuple[tuple[int, int, int], np.ndarray]]:
        for i, line in enumerate(lines):
            if isinstance(line, Reject):
                outcomes.append(line)
            else:
                outcomes.append(None)
                yield (i, line.source_width, line.source_height), line.pixels

    def timed(batch: Sequence[np.ndarray]) -> Iterable[Recognition]:
        began = time.monotonic()
        readings = list(read(batch))
        batch_seconds.append(time.monotonic() - began)
        return readings

    try:
        for (i, width, height), reading in recognise_in_batches(accepted(), timed, threads):
            outcomes[i] = RecognisedLine(width, height, reading)
    finally:
        if isinstance(lines, Generator):
            lines.close()  # helper processes that decode ahead stop with what is read
    return outcomes, batch_seconds


def _recognise_chunk(
    images: Sequence[Any], *, lines: _Lines, reader: RecogniserSpec
) -> tuple[list[_Outcome], list[float]]:
    """What a helper process does: all of the work on some images."""
    return _recognise_lines(lines(images, 1), _load(reader).read)


@functools.lru_cache(maxsize=1)
def _load(reader: RecogniserSpec) -> Recogniser:
    return reader.load()


def _recognise(
    index: int,
    inputs: str,
    image_files: Sequence[ImageFile],
    images: Iterable[Any],
    lines: _Lines,
    matched: int,
    request: InferenceRequest,
    read: Callable[[Sequence[np.ndarray]], Iterable[Recognition]],
    about_model: Mapping[str, Any],
) -> RecognisedShard:
    """Writes what is read on some images, unless that was done before for the same inputs.

    Args:
        image_files: of the images, when all of these have been taken.
        images: what `lines` takes.
    """
    path = storage.join(request.folder, name_shard("part", index, request.shards, "parquet"))
    rejects_path = storage.join(request.rejects_folder, name_shard("rejects", index, request.shards, "parquet"))
    summary_path = storage.join(request.folder, SUMMARIES_NAME, f"{index:05d}.json")

    def files(summary: RecognisedShard) -> dict[str, int | None]:
        return {**({path: summary.bytes} if summary.rows else {}), **({rejects_path: None} if summary.rejects else {})}

    if finished := read_finished_summary(RecognisedShard, summary_path, inputs, files):
        return finished

    started = time.monotonic()
    helpers = _choose_helpers(matched, request.processes)
    if about_model.get("engine") == "onnx" and helpers > 1:
        read_chunk = functools.partial(_recognise_chunk, lines=lines, reader=request.reader("onnx"))
        # As many chunks for each helper: none waits for another's last one.
        calls = helpers * math.ceil(matched / (helpers * _CHUNK))
        chunks = split_into_groups(math.ceil(matched / calls), images)
        outcomes, batch_seconds = [], []
        for some, seconds in map_in_processes(read_chunk, chunks, helpers, items_a_call=1):
            outcomes += some
            batch_seconds += seconds
    else:
        threads = min(request.processes, _BATCHES_AT_A_TIME)
        outcomes, batch_seconds = _recognise_lines(lines(images, request.processes), read, threads)
    rejected = [
        (file, outcome) for file, outcome in zip(image_files, outcomes, strict=True) if isinstance(outcome, Reject)
    ]
    rejects = [reject for _, reject in rejected]
    rows = [
        (file, outcome) for file, outcome in zip(image_files, outcomes, strict=True) if not isinstance(outcome, Reject)
    ]
    confidences = np.array([read.reading.confidence for _, read in rows], np.float32)
    needs_review = confidences < request.min_confidence
    if rows:
        table = make_predictions_table(rows, confidences, needs_review, request)
        storage.write_parquet(path, table, row_group_size=ROW_GROUP_ROWS)
    if rejects:
        sizes = [(file.size_bytes, file.modified_us) for file, _ in rejected]
        table = make_rejects_table(rejects, step="infer", run_id=request.run_id, at=request.scored_at, files=sizes)
        storage.write_parquet(rejects_path, table)
    summary = RecognisedShard(
        index=index,
        inputs=inputs,
        matched=matched,
        rows=len(rows),
        bytes=storage.get_size(path) if rows else 0,
        sha256=storage.compute_checksum(path) if rows else "",
        rejects=count_by_reason(rejects),
        confidence_sum=float(confidences.sum(dtype=np.float64)),
        needs_review=int(needs_review.sum()),
        confidence_histogram=np.histogram(confidences, CONFIDENCE_BINS, (0, 1))[0].tolist(),
        least_confident=_find_least_confident(rows, confidences),
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


def commit_run(summaries: Iterable[RecognisedShard], request: InferenceRequest) -> None:
    """Checks that every listed image is accounted for, and makes the run's predictions exist.

    If too many images were left out, `refused.json` with one sentence is written instead,
    and nothing is committed; nor is it if nothing but what could not be read before was tried, and
    still cannot be: that is told in `unchanged.json`, and known from an earlier run.
    """
    if storage.exists(storage.join(request.destination, RUN_MANIFEST_NAME)):
        move_rejects(request.rejects_folder, request.rejects_destination)
        storage.remove_folder(request.folder)
        return  # the engine repeats a commit that was done
    ordered = sorted(summaries, key=lambda summary: summary.index)
    matched = sum(summary.matched for summary in ordered)
    rows = sum(summary.rows for summary in ordered)
    rejects = merge_counts(summary.rejects for summary in ordered)
    check_accounted(request.images, matched, rows, rejects, verb="read")
    rejected = {name_shard("rejects", each.index, request.shards, "parquet") for each in ordered if each.rejects}
    keep_only(request.rejects_folder, rejected)
    listed = request.skipped + matched
    problem = explain_too_many_rejects(
        rejects, listed, request.max_reject_fraction, where=f"{request.rejects_folder}/rejects-*.parquet"
    )
    if problem is not None:
        storage.write_json(storage.join(request.folder, REFUSED_NAME), {"reason": problem, "rejects": rejects})
        return
    if request.retried and not rows and sum(rejects.values()) == request.retried and rejects.keys() <= set(RETRIED):
        storage.write_json(storage.join(request.folder, UNCHANGED_NAME), {"rejects": rejects})
        return
    files: dict[str, dict[str, Any]] = {
        name_shard("part", summary.index, request.shards, "parquet"): {
            "rows": summary.rows,
            "bytes": summary.bytes,
            "sha256": summary.sha256,
        }
        for summary in ordered
        if summary.rows
    }
    check_files(request.folder, {name: described["bytes"] for name, described in files.items()})
    keep_only(request.folder, {*files, SUMMARIES_NAME, STARTED_NAME})
    manifest: dict[str, Any] = {
        "run_id": request.run_id,
        "model_id": request.model_id,
        "scored_at": request.scored_at.isoformat(),
        "decoding": request.decoding.identity,
        "limits": request.limits_of_lines,
        "inputs": request.inputs,
        "matched": listed,
        "repeats": request.repeats,
        "skipped": request.skipped,
        "reread": request.reread,
        "retried": request.retried,
        "rows": rows,
        "rejects": rejects,
        **summarise_rows(ordered),
        "min_confidence": request.min_confidence,
        "figures": summarise_figures([summary.figures for summary in ordered]),
        "files": files,
    }
    storage.remove_folder(storage.join(request.folder, SUMMARIES_NAME))
    storage.remove_file(storage.join(request.folder, STARTED_NAME))
    storage.write_json(storage.join(request.folder, RUN_MANIFEST_NAME), manifest)
    storage.move_folder(request.folder, request.destination)
    move_rejects(request.rejects_folder, request.rejects_destination)


class RowSummary(Protocol):
    """A `RecognisedShard`, or what else tells the same of some rows."""

    @property
    def rows(self) -> int: ...
    @property
    def confidence_sum(self) -> float: ...
    @property
    def needs_review(self) -> int: ...
    @property
    def confidence_histogram(self) -> list[int]: ...
    @property
    def least_confident(self) -> list[list[Any]]: ...


def summarise_rows(parts: Sequence[RowSummary]) -> dict[str, Any]:
    """What a run's manifest says of all its rows, from summaries of parts of them."""
    no_rows = [0] * CONFIDENCE_BINS
    least_confident = itertools.chain.from_iterable(part.least_confident for part in parts)
    return {
        "mean_confidence": sum(part.confidence_sum for part in parts) / max(sum(part.rows for part in parts), 1),
        "needs_review": sum(part.needs_review for part in parts),
        "confidence_histogram": np.sum([no_rows, *(part.confidence_histogram for part in parts)], axis=0).tolist(),
        "least_confident": sorted(least_confident)[:LEAST_CONFIDENT],
    }


def move_rejects(folder: str, destination: str) -> None:
    """Puts the rejects of a run whose predictions are committed in their place, if that was not done."""
    if storage.exists(folder):
        storage.move_folder(folder, destination)


def _find_least_confident(rows: Sequence[tuple[ImageFile, RecognisedLine]], confidences: np.ndarray) -> list[list[Any]]:
    least = np.argsort(confidences, kind="stable")[:LEAST_CONFIDENT].tolist()
    return sorted([float(confidences[i]), rows[i][0].uri, rows[i][1].reading.text] for i in least)


def summarise_figures(shards: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
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


def make_predictions_table(
    rows: Sequence[tuple[ImageFile, RecognisedLine]],
    confidences: np.ndarray,
    needs_review: np.ndarray,
    request: InferenceRequest,
) -> pyarrow.Table:
    """The rows of one shard, column by column: a dictionary for each row would take longer than to read it."""
    count = len(rows)
    files, reads = zip(*rows, strict=True)
    uris, sizes, modified = zip(*files, strict=True)
    widths, heights, readings = zip(*reads, strict=True)
    columns = {
        "uri": uris,
        "text": [reading.text for reading in readings],
        "confidence": confidences,
        "symbol_confidences": _make_lists([reading.symbol_confidences for reading in readings], _make_floats),
        "alternatives": _make_lists([reading.alternatives for reading in readings], _make_alternatives),
        "width": widths,
        "height": heights,
        "size_bytes": sizes,
        "modified": pyarrow.array(modified, pyarrow.int64()).cast(TIMESTAMP),
        "model_id": pyarrow.repeat(request.model_id, count),
        "run_id": pyarrow.repeat(request.run_id, count),
        "scored_at": pyarrow.repeat(pyarrow.scalar(request.scored_at, TIMESTAMP), count),
        "needs_review": needs_review,
        "margin": [reading.margin for reading in readings],
    }
    return pyarrow.table(
        {field.name: pyarrow.array(columns[field.name], field.type) for field in PREDICTIONS_SCHEMA},
        schema=PREDICTIONS_SCHEMA,
    )


def _make_lists(rows: Sequence[Sequence[Any]], to_array: Callable[[list[Any]], pyarrow.Array]) -> pyarrow.Array:
    offsets = np.cumsum([0, *map(len, rows)])
    return pyarrow.ListArray.from_arrays(
        pyarrow.array(offsets, pyarrow.int32()), to_array(list(itertools.chain.from_iterable(rows)))
    )


def _make_floats(values: list[float]) -> pyarrow.Array:
    return pyarrow.array(np.array(values, np.float32))


def _make_alternatives(pairs: list[tuple[str, float]]) -> pyarrow.Array:
    texts, log_probabilities = zip(*pairs, strict=True) if pairs else ((), ())
    fields = PREDICTIONS_SCHEMA.field("alternatives").type.value_type
    columns = [pyarrow.array(texts, pyarrow.string()), _make_floats(list(log_probabilities))]
    return pyarrow.StructArray.from_arrays(columns, fields=list(fields))
