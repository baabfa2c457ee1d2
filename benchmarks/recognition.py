"""Parts of the infer step, measured by themselves: its loop without Beam, its stages, and its engines alone."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import datetime
import functools
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import measure_rate, read_only
from benchmarks.machine import CORES, Rate, measure_usage
from components.counts import Counts
from components.inference.request import InferenceRequest
from components.inference.rows import ImageFile, RecognisedLine, make_predictions_table
from components.lines import read_referenced_line
from components.listing import ImageReference, read_listing, write_listing
from components.predictions.schema import ROW_GROUP_ROWS
from components.recogniser.batches import recognise_in_batches
from components.recogniser.engines import load_engine
from components.recogniser.manifest import ModelManifest
from components.recogniser.model import Recogniser, RecogniserSpec, Recognition
from components.transforms import pack_blocks, unpack_blocks
from tfrecords import ImageLimits, LineImage, choose_shard, pad_lines, read_line, storage
from tfrecords.shards import choose_shard_count

LIMITS = ImageLimits()  # the command's default
WHOLE_LOOP = "whole loop: file to Parquet"
_SCORED_SECONDS = 5.0
_LOOP_IMAGES = 256  # that the whole loop takes at a time, as a helper process of the product does


def read_grey_line(path: str, height: int) -> None:
    """Reads a file as a grey line, as the product does."""
    read_line(read_only(path), height, LIMITS)


def recognise_to_parquet(numbered: tuple[int, Sequence[str]], model: str, folder: str) -> None:
    """Recognises some images and writes their rows, without Beam: one turn of the whole loop."""
    number, paths = numbered
    request = make_request(model, Path(folder), len(paths))
    references = [ImageReference(path, path, os.stat(path).st_size, 0) for path in paths]
    lines = read_lines(references, request)
    readings: list[Any] = [None] * len(lines)
    recogniser = load_recogniser(model)
    for index, reading in recognise_in_batches(
        enumerate(line.pixels for line in lines), lambda batch: list(recogniser.recognise_lines(batch))
    ):
        readings[index] = reading
    write_rows(Path(folder) / f"loop-{number}.parquet", references, lines, readings, request)


def read_lines(references: Sequence[ImageReference], request: InferenceRequest) -> list[LineImage]:
    """Reads the grey lines of images, which are all good."""
    lines = (read_referenced_line(image, None, request.height, request.limits) for image in references)
    return [line for line in lines if isinstance(line, LineImage)]


@functools.lru_cache(maxsize=1)
def load_recogniser(model: str) -> Recogniser:
    """Loads a model as a helper process of the product does."""
    return RecogniserSpec(model, "onnx").load()


def write_rows(
    path: Path,
    references: Sequence[ImageReference],
    lines: Sequence[LineImage],
    readings: Sequence[Recognition],
    request: InferenceRequest,
) -> None:
    """Writes rows of predictions as the product does."""
    rows = [
        (
            ImageFile(image.uri, image.size_bytes, image.modified_us),
            RecognisedLine(line.source_width, line.source_height, line.scale, reading),
        )
        for image, line, reading in zip(references, lines, readings, strict=True)
    ]
    confidences = np.array([reading.confidence for reading in readings], np.float32)
    table = make_predictions_table(rows, confidences, confidences < 0, request)
    storage.write_parquet(str(path), table, row_group_size=ROW_GROUP_ROWS)
    storage.compute_checksum(str(path))


def measure_engine_rate(engine_name: str, folder: str, paths: Sequence[str]) -> Rate:
    """Measures an engine alone on ready batches as the product makes them, over and over."""
    manifest = ModelManifest.read(folder)
    batches = [pad_lines(batch, manifest.time_stride) for batch in _collect_full_batches(paths, manifest.height)]
    engine = load_engine(engine_name, folder, manifest, threads=1)
    for batch in batches:
        engine.score(*batch)

    def score_for_a_while(until: float) -> int:
        scored = 0
        while time.monotonic() < until:
            for images, widths in batches:
                engine.score(images, widths)
                scored += len(widths)
        return scored

    with measure_usage() as usage:
        until = time.monotonic() + _SCORED_SECONDS
        with concurrent.futures.ThreadPoolExecutor(CORES) as pool:  # several batches at a time, as the product does
            scored = sum(pool.map(score_for_a_while, [until] * CORES))
    return usage.make_rate(scored)


def _collect_full_batches(paths: Sequence[str], height: int) -> list[list[np.ndarray]]:
    """Collects the batches of lines, without the last ones of each width, which are smaller."""
    lines = [read_line(read_only(path), height, LIMITS).pixels for path in paths]
    batches = list(_collect_batches(lines))
    return [batch for batch in batches if len(batch) >= 0.9 * max(map(len, batches))]


def _collect_batches(lines: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    batches: list[list[np.ndarray]] = []

    def keep(batch: Sequence[np.ndarray]) -> list[Any]:
        batches.append(list(batch))
        return [None] * len(batch)

    for _ in recognise_in_batches(enumerate(lines), keep):
        pass
    return batches


def run_in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Runs a function in a fresh process, where nothing else was loaded; returns its result."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(function, *arguments).result()


def make_request(model: str, folder: Path, count: int) -> InferenceRequest:
    """Makes the request of a job that recognises so many images."""
    manifest = ModelManifest.read(model)
    return InferenceRequest(
        run_id="benchmark",
        folder=str(folder),
        destination=str(folder / "predictions"),
        rejects_folder=str(folder / "rejects"),
        rejects_destination=str(folder / "rejects"),
        counts=Counts(matched=count),
        shards=choose_shard_count(count),
        model_folder=model,
        model_id=manifest.model_id,
        height=manifest.height,
        limits=LIMITS,
        max_reject_fraction=0.0,
        scored_at=datetime.datetime.now(datetime.UTC),
        processes=CORES,
    )


def time_stages(images: Path, count: int, model: str, folder: Path) -> dict[str, float]:
    """Times the stages of inference in seconds, one after the other in this process alone, without Beam."""
    seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def time_stage(name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        seconds[name] = seconds.get(name, 0.0) + time.monotonic() - started

    request = make_request(model, folder, count)
    listing = str(folder / "listing.parquet")
    with time_stage("listing"):
        write_listing([str(images)], listing, None, None)
    shards: dict[int, list[bytes]] = {}
    with time_stage("grouping by shard"):
        for shard, block in pack_blocks(read_listing(listing), lambda image: choose_shard(image.key, request.shards)):
            shards.setdefault(shard, []).append(block)
        groups = [sorted(unpack_blocks(blocks, ImageReference)) for blocks in shards.values()]
    loaded = request.reader().load()
    loaded.engine.score(
        *pad_lines([np.full((request.height, request.height), 255, np.uint8)], loaded.manifest.time_stride)
    )
    for number, references in enumerate(groups):
        with time_stage("reading files, and decoding to lines"):
            lines = read_lines(references, request)
        with time_stage("collecting batches"):
            batches = _collect_batches([line.pixels for line in lines])
        with time_stage("padding"):
            padded = [pad_lines(batch, loaded.manifest.time_stride) for batch in batches]
        with time_stage("model"):
            scored = [loaded.engine.score(*batch) for batch in padded]
        ready = iter(scored)
        replayed = dataclasses.replace(
            loaded, engine=dataclasses.replace(loaded.engine, score=lambda *_, ready=ready: next(ready))
        )
        with time_stage("padding, and CTC decoding"):
            readings = [reading for batch in batches for reading in replayed.recognise_lines(batch)]
        with time_stage("Parquet"):
            write_rows(folder / f"{number}.parquet", references, lines, readings, request)
    return seconds


def measure_whole_loop(paths: Sequence[str], model: str, scratch: Path) -> Rate:
    """Measures the whole loop, in images: what the product does with them, without Beam."""
    turns = [(start, paths[start : start + _LOOP_IMAGES]) for start in range(0, len(paths), _LOOP_IMAGES)]
    with tempfile.TemporaryDirectory(prefix="loop-", dir=scratch) as folder:
        turn = functools.partial(recognise_to_parquet, model=model, folder=folder)
        found = measure_rate(turn, turns, items_a_turn=1)
    return found.count_parts(len(paths) / len(turns))
