"""Recognition of one shard of a collection or of a dataset."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from components.commit import read_finished_summary
from components.inference.request import SUMMARIES_NAME, InferenceRequest, RecognisedShard
from components.inference.rows import ImageFile, RecognisedLine, make_predictions_table
from components.lines import digest_references, map_in_order, prepare_decoding, read_referenced_line
from components.listing import ImageReference
from components.predictions.schema import CONFIDENCE_BINS, LEAST_CONFIDENT, ROW_GROUP_ROWS
from components.processes import HelperPool, split_into_groups
from components.recogniser.batches import recognise_in_batches
from components.recogniser.engines import choose_engine, is_onnx
from components.recogniser.manifest import ModelManifest
from components.recogniser.model import Recogniser, RecogniserSpec, Recognition
from components.rejects import Reject, count_by_reason, make_rejects_table
from tfrecords import ImageLimits, LineImage, ShardEntry, decode_png, name_shard, read_record_batches, storage

_CHUNK = 256  # images, at most, that a helper process reads at a time
_LEAST_CHUNK = 32  # fewer are read sooner by this process
_BATCHES_AT_A_TIME = 2  # by this process: one is sent to a GPU while another is scored
_Outcome: TypeAlias = Reject | RecognisedLine
_Lines: TypeAlias = Callable[[Any, int], Iterable[LineImage | Reject]]
"""Turns some images into their lines, in order. The number says how many processes may decode them."""


def recognise_shard(
    index: int,
    references: Sequence[ImageReference],
    request: InferenceRequest,
    recognise: Callable[[Sequence[np.ndarray]], Iterable[Recognition]],
    about_model: Mapping[str, Any] | None = None,
) -> RecognisedShard:
    """Recognises the images of one shard and writes its predictions and rejects.

    Helper processes decode and score the images, or decode ahead while this process scores. If an earlier command
    finished the shard for the very same references before it was stopped, nothing is done.

    Args:
        references: in the order in which they are read.
        recognise: recognises one batch of lines, in order.
        about_model: describes the model for the figures. Where its `engine` is ONNX Runtime, helper processes score
            too, if the worker may occupy several: threads of this process would share one interpreter, and a core's
            cache.
    """
    files = [ImageFile(reference.uri, reference.size_bytes, reference.modified_us) for reference in references]
    lines = functools.partial(
        _read_referenced_lines, height=request.height, limits=request.limits, vertical=request.vertical
    )
    inputs = digest_references(references)
    return _recognise(index, inputs, files, references, lines, len(references), request, recognise, about_model or {})


def recognise_record_shard(
    index: int,
    shard: ShardEntry,
    dataset_folder: str,
    modified: datetime.datetime,
    request: InferenceRequest,
    recognise: Callable[[Sequence[np.ndarray]], Iterable[Recognition]],
    about_model: Mapping[str, Any] | None = None,
) -> RecognisedShard:
    """Recognises one TFRecord file of a dataset, as `recognise_shard` does images.

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
    return _recognise(
        index, inputs, files, records(), _read_recorded_lines, count, request, recognise, about_model or {}
    )


def prepare_recognition(request: InferenceRequest, helpers: HelperPool) -> None:
    """Starts the helper processes of a job while the job starts, with the model if they will recognise with it."""
    processes = _choose_helpers(request.images // request.shards, request.processes)
    engine, _ = choose_engine(request.engine, ModelManifest.read(request.model_folder))
    if processes == 1 or not is_onnx(engine):
        prepare_decoding(helpers, processes)
    else:
        read_chunk = functools.partial(_recognise_chunk, lines=_read_recorded_lines, reader=request.reader(engine))
        helpers.prepare(read_chunk, [], processes)


def _choose_helpers(images: int, processes: int) -> int:
    """Chooses how many of the helper processes are worth calling for a shard of so many images; 1 for none."""
    return max(1, min(processes, images // _LEAST_CHUNK))


def _read_referenced_lines(
    references: Sequence[ImageReference], processes: int, *, height: int, limits: ImageLimits, vertical: bool
) -> Iterator[LineImage | Reject]:
    decode = functools.partial(read_referenced_line, height=height, limits=limits, vertical=vertical)
    return map_in_order(decode, references, processes, limits)


def _read_recorded_lines(images: Iterable[bytes], processes: int) -> Iterator[LineImage]:
    del processes  # a line of a dataset takes no time to decode
    for pixels in map(decode_png, images):
        height, width = pixels.shape
        yield LineImage(pixels, width, height)


def _recognise_lines(
    lines: Iterable[LineImage | Reject],
    recognise: Callable[[Sequence[np.ndarray]], Iterable[Recognition]],
    threads: int = 1,
) -> tuple[list[_Outcome], list[float]]:
    """Returns the outcome of every line, in order, and the seconds that every batch took."""
    outcomes: list[Any] = []
    batch_seconds: list[float] = []

    def accepted() -> Iterator[tuple[tuple[int, int, int, float], np.ndarray]]:
        for i, line in enumerate(lines):
            if isinstance(line, Reject):
                outcomes.append(line)
            else:
                outcomes.append(None)
                yield (i, line.source_width, line.source_height, line.scale), line.pixels

    def timed(batch: Sequence[np.ndarray]) -> Iterable[Recognition]:
        began = time.monotonic()
        readings = list(recognise(batch))
        batch_seconds.append(time.monotonic() - began)
        return readings

    try:
        for (i, width, height, scale), reading in recognise_in_batches(accepted(), timed, threads):
            outcomes[i] = RecognisedLine(width, height, scale, reading)
    finally:
        if isinstance(lines, Generator):
            lines.close()  # helper processes that decode ahead stop
    return outcomes, batch_seconds


def _recognise_chunk(
    images: Sequence[Any], *, lines: _Lines, reader: RecogniserSpec
) -> tuple[list[_Outcome], list[float]]:
    """Does all of the work on some images, in a helper process."""
    return _recognise_lines(lines(images, 1), _load(reader).recognise_lines)


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
    recognise: Callable[[Sequence[np.ndarray]], Iterable[Recognition]],
    about_model: Mapping[str, Any],
) -> RecognisedShard:
    """Recognises some images and writes the results, unless that was done before for the same inputs.

    Args:
        image_files: of the images, complete once all images have been taken.
        images: the argument of `lines`.
    """
    path = storage.join(request.folder, name_shard("part", index, request.shards, "parquet"))
    rejects_path = storage.join(request.rejects_folder, name_shard("rejects", index, request.shards, "parquet"))
    summary_path = storage.join(request.folder, SUMMARIES_NAME, f"{index:05d}.json")

    def files(summary: RecognisedShard) -> dict[str, int | None]:
        return {**({path: summary.bytes} if summary.rows else {}), **({rejects_path: None} if summary.rejects else {})}

    if finished := read_finished_summary(RecognisedShard, summary_path, inputs, files):
        return finished

    started = time.monotonic()
    processes = _choose_helpers(matched, request.processes)
    engine = about_model.get("engine", "")
    if is_onnx(engine) and processes > 1:
        read_chunk = functools.partial(_recognise_chunk, lines=lines, reader=request.reader(engine))
        # As many chunks for each helper: none waits for another's last one.
        calls = processes * math.ceil(matched / (processes * _CHUNK))
        chunks = split_into_groups(math.ceil(matched / calls), images)
        outcomes, batch_seconds = [], []
        with HelperPool.current() as helpers:
            for some, seconds in helpers.map(read_chunk, chunks, processes, items_per_call=1):
                outcomes += some
                batch_seconds += seconds
    else:
        threads = min(request.processes, _BATCHES_AT_A_TIME)
        outcomes, batch_seconds = _recognise_lines(lines(images, request.processes), recognise, threads)
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


def _find_least_confident(rows: Sequence[tuple[ImageFile, RecognisedLine]], confidences: np.ndarray) -> list[list[Any]]:
    least = np.argsort(confidences, kind="stable")[:LEAST_CONFIDENT].tolist()
    return sorted([float(confidences[i]), rows[i][0].uri, rows[i][1].reading.text] for i in least)
