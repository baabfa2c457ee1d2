"""Benchmark of the infer step: its speed, its bounds, other recognisers, its memory and its start.

    python benchmarks/inference.py --images=../shared/data/captcha [--count=20000] [--workspace=WORKSPACE]
        [--contenders=PYTHON] [--memory=10000,100000] [--only=speed|contenders|memory|start] [--scratch=DIR]

Prints one table; all of it is measured now, on the same images, which get other names in a temporary folder: hard links
where the file system has them, so that everything is read from the page cache. The model is the accepted one of
`--workspace`, which is only read, or else the default network, trained on `--images` first. Speeds are the best of two
rounds, in which everything that is compared takes turns; the loops' processes and the contenders' are started, and have
loaded what they need, before they are timed; the infer step is timed as it is, by the run report.

`--contenders` is the Python of an environment of its own with `benchmarks/requirements.txt`. The network of
`ocr_model_v1` is this project's.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import datetime
import functools
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout that this file lies in

import numpy as np
import PIL
from PIL import Image

from benchmarks.common import (
    CORES,
    MEASURE,
    ROUNDS,
    Original,
    Run,
    copy_originals,
    make_images,
    measure_rate,
    parse_counts,
    print_header,
    print_peaks,
    print_profile,
    print_row,
    read_and_decode,
    read_only,
    run_command,
)
from components.counts import Counts
from components.inference.request import InferenceRequest
from components.inference.rows import ImageFile, RecognisedLine, make_predictions_table
from components.lines import read_referenced_line
from components.listing import ImageReference, read_listing, write_listing
from components.predictions.schema import ROW_GROUP_ROWS
from components.recogniser.batches import recognise_in_batches
from components.recogniser.engines import load_engine
from components.recogniser.manifest import ModelManifest
from components.transforms import pack_blocks, unpack_blocks
from tfrecords import ImageLimits, SplitFractions, choose_shard, pad_lines, read_line, storage
from tfrecords.shards import choose_shard_count

LIMITS = ImageLimits()  # the command's default
GOAL_ENGINE, GOAL_SHARE, GOAL_START = 3000, 0.85, 8.0
SCORED_SECONDS = 5.0
START_COUNTS = (100, 1000)  # about one batch, in one process; and with helper processes
SHORT_LINES, LONG_LINE = 50_000, 30_000  # images, and pixels of width


class Contender(NamedTuple):
    """Another recogniser.

    Attributes:
        name: its name for a person.
        key: its name in `contenders.py`.
        images: number that it recognises, of those that the product recognises.
        goal: the product's speed should be so many times its speed.
        settings: flags of `contenders.py`; the fastest setting counts.
        ours: whether it runs in this project's environment.
    """

    name: str
    key: str
    images: int
    goal: int
    settings: Sequence[str]
    ours: bool = False


CONTENDERS = (
    Contender("ddddocr", "ddddocr", 1000, 30, ("--processes=2 --threads=1", "--processes=1 --threads=2")),
    Contender("tesserocr, single words", "tesserocr", 1000, 30, ("--processes=2 --threads=1",)),
    Contender("ocr_model_v1, tutorial's loop", "ocr_model_v1", 2000, 6, ("--batch=16", "--batch=64"), ours=True),
    Contender(
        "docTR crnn_mobilenet_v3_small, forward pass alone",
        "doctr",
        2048,
        3,
        tuple(f"--processes={p} --threads={t} --batch={b}" for p, t in ((1, 2), (2, 1)) for b in (16, 64)),
    ),
)


def prepare_workspace(given: str | None, images: Path, workspace: Path) -> ModelManifest:
    """Prepares a workspace with a model in use: a copy of the given workspace's, or one trained now."""
    if given is None:
        print("training the default network ...", flush=True)
        flags = ("--steps=ingest,train,evaluate", "--label_source=filename", "--max_cer=1")
        run_command(workspace, f"--images={images}", *flags)
    else:
        model_id = Path(given, "models", "ACCEPTED").read_text(encoding="utf-8").strip()
        shutil.copytree(Path(given, "models", model_id), workspace / "models" / model_id)
        for pointer in ("ACCEPTED", "LATEST"):
            (workspace / "models" / pointer).write_text(f"{model_id}\n", encoding="utf-8")
    return ModelManifest.read(str(find_model_folder(workspace)))


def find_model_folder(workspace: Path) -> Path:
    """Finds the folder of the model in use."""
    return workspace / "models" / (workspace / "models" / "ACCEPTED").read_text(encoding="utf-8").strip()


def write_labelled(folder: Path, originals: Sequence[Original]) -> Path:
    """Writes the originals under their labels, for training."""
    folder.mkdir()
    for original in originals:
        shutil.copyfile(original.path, folder / f"{original.label}{original.path.suffix}")
    return folder


def run_infer(workspace: Path, images: str, count: int, *flags: str, watched: bool = False) -> Run:
    """Runs the infer step by the project's own command, as if no run had read these images."""
    for name in ("predictions", "rejects"):
        shutil.rmtree(workspace / name, ignore_errors=True)
    run = run_command(workspace, "--steps=infer", f"--infer_images={images}", *flags, watched=watched)
    if run.figures["rows"] != count:
        sys.exit(f"error: of {count} images {run.figures['rows']} were read, rejected: {run.figures['rejects']}")
    return run


def read_grey_line(path: str, height: int) -> None:
    """Reads a file as a grey line, as the product does."""
    read_line(read_only(path), height, LIMITS)


def measure_engine_rate(engine_name: str, folder: str, paths: Sequence[str]) -> float:
    """Measures an engine alone, in images a second, on ready batches as the product makes them, over and over."""
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

    started = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(CORES) as pool:  # several batches at a time, as the product does
        scored = sum(pool.map(score_for_a_while, [started + SCORED_SECONDS] * CORES))
    return scored / (time.monotonic() - started)


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


def time_stages(images: Path, count: int, model: str, folder: Path) -> dict[str, float]:
    """Times the stages of inference in seconds, one after the other in this process alone, without Beam."""
    seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def time_stage(name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        seconds[name] = seconds.get(name, 0.0) + time.monotonic() - started

    manifest = ModelManifest.read(model)
    request = InferenceRequest(
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
    listing = str(folder / "listing.parquet")
    with time_stage("listing"):
        write_listing([str(images)], listing, None, SplitFractions())
    shards: dict[int, list[bytes]] = {}
    with time_stage("grouping by shard"):
        for shard, block in pack_blocks(read_listing(listing), lambda image: choose_shard(image.key, request.shards)):
            shards.setdefault(shard, []).append(block)
        groups = [sorted(unpack_blocks(blocks, ImageReference)) for blocks in shards.values()]
    loaded = request.reader().load()
    loaded.engine.score(*pad_lines([np.full((request.height, request.height), 255, np.uint8)], manifest.time_stride))
    for number, references in enumerate(groups):
        with time_stage("reading files, and decoding to lines"):
            lines = [read_referenced_line(image, None, request.height, request.limits) for image in references]
        with time_stage("collecting batches"):
            batches = _collect_batches([line.pixels for line in lines])
        with time_stage("padding"):
            padded = [pad_lines(batch, manifest.time_stride) for batch in batches]
        with time_stage("model"):
            scored = [loaded.engine.score(*batch) for batch in padded]
        ready = iter(scored)
        replayed = dataclasses.replace(
            loaded, engine=dataclasses.replace(loaded.engine, score=lambda *_, ready=ready: next(ready))
        )
        with time_stage("padding, and CTC decoding"):
            readings = [reading for batch in batches for reading in replayed.recognise_lines(batch)]
        with time_stage("Parquet"):
            rows = [
                (
                    ImageFile(image.uri, image.size_bytes, image.modified_us),
                    RecognisedLine(line.source_width, line.source_height, line.scale, reading),
                )
                for image, line, reading in zip(references, lines, readings, strict=True)
            ]
            confidences = np.array([reading.confidence for reading in readings], np.float32)
            path = str(folder / f"{number}.parquet")
            table = make_predictions_table(rows, confidences, confidences < 0, request)
            storage.write_parquet(path, table, row_group_size=ROW_GROUP_ROWS)
            storage.compute_checksum(path)
    return seconds


def measure_speed(originals: Sequence[Original], count: int, workspace: Path, scratch: Path) -> None:
    """Measures the product beside bare loops and engines, and the time of its stages."""
    images = make_images(scratch / f"images-{count}", originals, count)
    paths = [str(path) for path in sorted(images.glob("*/*"))]
    model = str(find_model_folder(workspace))
    height = ModelManifest.read(model).height
    loops = {
        "read only": read_only,
        "read and decode (Pillow)": read_and_decode,
        "decode: file to grey line": functools.partial(read_grey_line, height=height),
    }
    engines = {"ONNX Runtime": "onnx", "TensorFlow": "tensorflow"}
    original_paths = [str(original.path) for original in originals]
    for path in paths:
        read_only(path)
    rates = dict.fromkeys([*loops, *engines], 0.0)
    runs: list[Run] = []
    rounds: list[dict[str, float]] = []
    for _ in range(ROUNDS):
        for name, function in loops.items():
            rates[name] = max(rates[name], measure_rate(function, paths))
        for name, engine in engines.items():
            rates[name] = max(rates[name], run_in_own_process(measure_engine_rate, engine, model, original_paths))
        runs.append(run_infer(workspace, str(images), count))
        with tempfile.TemporaryDirectory(prefix="stages-", dir=scratch) as folder:
            rounds.append(time_stages(images, count, model, Path(folder)))
    best = min(runs, key=lambda run: run.step)
    rate, decode = count / best.step, rates["decode: file to grey line"]
    print_row(f"images per second, {count:,} images (share: the infer step's speed, of this one's)")
    for name in loops:
        print_row(f"{name}, {CORES} processes", f"{rates[name]:,.0f}", f"{rate / rates[name]:.1%}")
    engine_rate, goal = rates["ONNX Runtime"], f"{GOAL_ENGINE:,}"
    for name in engines:
        own_goal = {"goal": goal, "is_met": engine_rate >= GOAL_ENGINE} if name == "ONNX Runtime" else {}
        print_row(f"engine: {name}, ready batches", f"{rates[name]:,.0f}", f"{rate / rates[name]:.1%}", **own_goal)
    roofline = 1 / (1 / decode + 1 / engine_rate)
    share, goal = rate / roofline, f"{GOAL_SHARE:.0%} of it"
    print_row(
        "roofline: decode, then ONNX Runtime", f"{roofline:,.0f}", f"{share:.1%}", goal, is_met=share >= GOAL_SHARE
    )
    print_row(f"product, infer step, {', '.join(best.figures['figures']['engines'])}", f"{rate:,.0f}")
    print_row("product, whole process", f"{count / best.process:,.0f}")
    alone = {name: min(seconds[name] for seconds in rounds) for name in rounds[0]}
    reading, by_all = CORES * count / rates["read only"], "reading files, and decoding to lines"
    stages = {
        "listing": alone["listing"],
        "grouping by shard": alone["grouping by shard"],
        "reading files": reading,
        "decoding to lines": alone[by_all] - reading,
        "collecting batches": alone["collecting batches"],
        "padding": alone["padding"],
        "model": alone["model"],
        "CTC decoding, texts and confidences": alone["padding, and CTC decoding"] - alone["padding"],
        "Parquet": alone["Parquet"],
    }
    print_profile(stages, CORES * best.step, f"infer step, times {CORES} cores", count)
    print_row("processor seconds of the whole process", f"{best.processor * 10_000 / count:.2f}")


def measure_contenders(
    originals: Sequence[Original], count: int, workspace: Path, scratch: Path, python: str | None
) -> None:
    """Measures the product beside other recognisers."""
    images = make_images(scratch / f"images-{count}", originals, count)
    paths = [str(path) for path in sorted(images.glob("*/*"))]
    best_step = float("inf")
    best: dict[str, tuple[float, str]] = {}
    missing: dict[str, str] = {}
    for _ in range(ROUNDS):
        best_step = min(best_step, run_infer(workspace, str(images), count).step)
        for contender in CONTENDERS:
            interpreter = sys.executable if contender.ours else python
            for setting in contender.settings if interpreter is not None else ():
                outcome = _run_contender(contender, setting, interpreter, paths[: contender.images], scratch)
                if "rate" in outcome:
                    best[contender.key] = max(best.get(contender.key, (0.0, "")), (outcome["rate"], setting))
                else:
                    missing[contender.key] = outcome["not_installed"]
    rate = count / best_step
    print_row(f"images per second (share: how many times as fast the infer step read {count:,}, {rate:,.0f} a second)")
    for contender in CONTENDERS:
        if contender.key not in best:
            print_row(f"{contender.name}: not installed ({missing.get(contender.key, 'no --contenders')})", "-")
            continue
        other, setting = best[contender.key]
        times, read = rate / other, f"{min(contender.images, count):,} images, {setting.replace('--', '')}"
        print_row(
            contender.name, f"{other:,.0f}", f"{times:.1f}", f"{read}; {contender.goal}", is_met=times >= contender.goal
        )


def _run_contender(
    contender: Contender, setting: str, python: str | None, paths: Sequence[str], scratch: Path
) -> dict[str, Any]:
    listed = scratch / "contender.txt"
    listed.write_text("\n".join(paths), encoding="utf-8")
    script = str(Path(__file__).with_name("contenders.py"))
    command = [str(python), script, contender.key, f"--images={listed}", *setting.split()]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {' '.join(command)} ended with status {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def measure_memory(originals: Sequence[Original], counts: Sequence[int], workspace: Path, scratch: Path) -> None:
    """Measures the product's peak memory at several counts, and with one very long line among short ones."""
    folders = ((count, make_images(scratch / f"images-{count}", originals, count)) for count in counts)
    print_peaks((count, run_infer(workspace, str(images), count, watched=True).peak) for count, images in folders)
    short = make_images(scratch / f"images-{SHORT_LINES}", originals, SHORT_LINES)
    long = write_long_line(scratch / "long", originals, ModelManifest.read(str(find_model_folder(workspace))).height)
    allowed = f"--max_line_width={LONG_LINE + 1000}"
    without = run_infer(workspace, str(short), SHORT_LINES, allowed, watched=True)
    with_it = run_infer(workspace, f"{short},{long}", SHORT_LINES + 1, allowed, watched=True)
    print_row(f"{SHORT_LINES:,} images, and one of {LONG_LINE:,} pixels more (share: of the run without it)")
    print_row("seconds of the infer step without it", f"{without.step:.1f}")
    print_row("seconds of the infer step with it", f"{with_it.step:.1f}", f"{with_it.step / without.step:.1%}")
    print_row(f"MiB of {MEASURE} without it", f"{without.peak / 2**20:,.0f}")
    print_row(f"MiB of {MEASURE} with it", f"{with_it.peak / 2**20:,.0f}", f"{with_it.peak / without.peak:.1%}")


def write_long_line(folder: Path, originals: Sequence[Original], height: int) -> Path:
    """Writes a folder with one image of `LONG_LINE` pixels at the lines' height: the originals beside each other."""
    folder.mkdir()
    line = Image.new("L", (LONG_LINE, height), 255)
    left = 0
    while left < LONG_LINE:
        for original in originals:
            pixels = Image.fromarray(read_line(original.path.read_bytes(), height, LIMITS).pixels)
            line.paste(pixels, (left, 0))
            left += pixels.width
    line.save(folder / "long.png")
    return folder


def measure_start(originals: Sequence[Original], count: int, workspace: Path, scratch: Path) -> None:
    """Measures the time to the first scored batch, by the first shard's file, which is written after it."""
    print_row("seconds from the start of the process, at most, to the first scored batch, ONNX Runtime")
    for number in sorted({*START_COUNTS, count}):
        images = make_images(scratch / f"images-{number}", originals, number)
        seconds = []
        for _ in range(ROUNDS):
            started = time.time()
            run_infer(workspace, str(images), number, "--engine=onnx")
            parts = (workspace / "predictions").glob("*/*/part-*.parquet")
            seconds.append(min(part.stat().st_mtime for part in parts) - started)
        best = min(seconds)
        print_row(f"{number:,} images", f"{best:.2f}", goal=f"under {GOAL_START:g}", is_met=best < GOAL_START)


def main() -> None:
    """Runs the measurements that the flags ask for."""
    parser = argparse.ArgumentParser(description="Measure the infer step.", allow_abbrev=False)
    parser.add_argument("--images", required=True, help="folder of images whose names are their labels")
    parser.add_argument("--count", type=int, default=20_000, help="images for the speed (default: %(default)s)")
    parser.add_argument("--workspace", help="whose accepted model reads (default: one is trained)")
    parser.add_argument("--contenders", help="Python of an environment with benchmarks/requirements.txt")
    parser.add_argument("--memory", type=parse_counts, default="10000,100000", help="counts (default: %(default)s)")
    parser.add_argument("--only", choices=("speed", "contenders", "memory", "start"), help="one part of the table")
    parser.add_argument("--scratch", help="where the temporary folder is made (default: the system's)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="inference-", dir=options.scratch) as folder:
        scratch = Path(folder).resolve()
        originals = copy_originals(options.images, scratch / "originals")
        workspace = scratch / "workspace"
        manifest = prepare_workspace(options.workspace, write_labelled(scratch / "labelled", originals), workspace)
        before = os.getloadavg()[0]
        print_header(originals, f"Pillow {PIL.__version__}, model {manifest.model}")
        if options.only in (None, "speed"):
            measure_speed(originals, options.count, workspace, scratch)
        if options.only in (None, "contenders"):
            measure_contenders(originals, options.count, workspace, scratch, options.contenders)
        if options.only in (None, "memory"):
            measure_memory(originals, options.memory, workspace, scratch)
        if options.only in (None, "start"):
            measure_start(originals, options.count, workspace, scratch)
        print(f"\nload average {before:.1f} before, {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    main()
