"""Benchmark of the infer step: its speed, its bounds, other recognisers, its memory and its start.

    python benchmarks/inference.py --images=../shared/data/captcha [--count=20000] [--workspace=WORKSPACE]
        [--contenders=PYTHON] [--memory=10000,100000] [--slope=20000,100000]
        [--only=speed|slope|contenders|memory|start] [--scratch=DIR]

Prints one table; all of it is measured now, on the same images, which get other names in a temporary folder: hard links
where the file system has them, so that everything is read from the page cache. The model is the accepted one of
`--workspace`, which is only read, or else the default network, trained on `--images` first. Speeds are the best of two
rounds, in which everything that is compared takes turns; the loops' processes and the contenders' are started, and have
loaded what they need, before they are timed; the infer step is timed as it is, by the run report. Beside each speed
stand the microseconds of processor time an image, and the share of the cores that other processes took meanwhile: above
5 % there is no verdict. The whole loop is the product without Beam: each process decodes, scores, decodes the logits,
and writes Parquet.

`--contenders` is the Python of an environment of its own with `benchmarks/requirements.txt`. The network of
`ocr_model_v1` is this project's.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout that this file lies in

import PIL
from PIL import Image

from benchmarks.common import (
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
    print_rate,
    print_row,
    read_and_decode,
    read_only,
    run_command,
)
from benchmarks.machine import CORES, Rate
from benchmarks.recognition import (
    LIMITS,
    WHOLE_LOOP,
    measure_engine_rate,
    measure_whole_loop,
    read_grey_line,
    run_in_own_process,
    time_stages,
)
from components.recogniser.engines import ONNX, ONNX_INT8, TENSORFLOW
from components.recogniser.manifest import ModelManifest
from tfrecords import read_line

GOAL_ENGINE, GOAL_SHARE, GOAL_START = 3000, 0.85, 8.0
GOAL_SLOPE = 0.85  # of the whole loop's speed
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


def measure_speed(originals: Sequence[Original], count: int, workspace: Path, scratch: Path) -> None:
    """Measures the product beside bare loops and engines, and the time of its stages."""
    images = make_images(scratch / f"images-{count}", originals, count)
    paths = [str(path) for path in sorted(images.glob("*/*"))]
    model = str(find_model_folder(workspace))
    manifest = ModelManifest.read(model)
    onnx = ONNX if manifest.int8_temperature is None else ONNX_INT8
    loops: dict[str, Callable[[str], object]] = {
        "read only": read_only,
        "read and decode (Pillow)": read_and_decode,
        "decode: file to grey line": functools.partial(read_grey_line, height=manifest.height),
    }
    engines = {"ONNX Runtime": onnx, "TensorFlow": TENSORFLOW}
    original_paths = [str(original.path) for original in originals]
    for path in paths:
        read_only(path)
    rates = dict.fromkeys([*loops, WHOLE_LOOP, *engines], Rate())
    runs: list[Run] = []
    rounds: list[dict[str, float]] = []
    for _ in range(ROUNDS):
        for name, function in loops.items():
            rates[name] = max(rates[name], measure_rate(function, paths))
        rates[WHOLE_LOOP] = max(rates[WHOLE_LOOP], measure_whole_loop(paths, model, scratch))
        for name, engine_name in engines.items():
            found = run_in_own_process(measure_engine_rate, engine_name, model, original_paths)
            rates[name] = max(rates[name], found)
        runs.append(run_infer(workspace, str(images), count))
        with tempfile.TemporaryDirectory(prefix="stages-", dir=scratch) as folder:
            rounds.append(time_stages(images, count, model, Path(folder)))
    best = min(runs, key=lambda run: run.step)
    rate, decode, engine = count / best.step, rates["decode: file to grey line"], rates["ONNX Runtime"]
    print_row(f"images per second, {count:,} images (share: the infer step's speed, of this one's; cpu: us an image)")
    for name in (*loops, WHOLE_LOOP):
        print_rate(f"{name}, {CORES} processes", rates[name], f"{rate / rates[name].rate:.1%}")
    share, goal = f"{rate / engine.rate:.1%}", f"{GOAL_ENGINE:,}"
    print_rate(f"engine: {onnx}, ready batches", engine, share, goal, is_met=engine.rate >= GOAL_ENGINE)
    share = f"{rate / rates['TensorFlow'].rate:.1%}"
    print_rate("engine: TensorFlow, ready batches", rates["TensorFlow"], share)
    others = max(decode.others, engine.others, best.others)
    roofline = Rate(1 / (1 / decode.rate + 1 / engine.rate), decode.processor + engine.processor, others)
    of_roofline = rate / roofline.rate
    share, goal = f"{of_roofline:.1%}", f"{GOAL_SHARE:.0%} of it"
    print_rate(f"roofline: decode, then {onnx}", roofline, share, goal, is_met=of_roofline >= GOAL_SHARE)
    print_rate(f"product, infer step, {', '.join(best.figures['figures']['engines'])}", best.make_rate(count))
    print_row("product, whole process", f"{count / best.process:,.0f}", others=best.others)
    alone = {name: min(seconds[name] for seconds in rounds) for name in rounds[0]}
    reading, by_all = CORES * count / rates["read only"].rate, "reading files, and decoding to lines"
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
    print_row("processor seconds of the whole process", f"{best.processor * 10_000 / count:.2f}", others=best.others)


def measure_slope(originals: Sequence[Original], counts: Sequence[int], workspace: Path, scratch: Path) -> None:
    """Measures the product's speed on further images, from its runs at two counts, beside the whole loop."""
    few, many = counts[0], counts[-1]
    folders = {number: make_images(scratch / f"images-{number}", originals, number) for number in (few, many)}
    paths = [str(path) for path in sorted(folders[few].glob("*/*"))]
    model, loop = str(find_model_folder(workspace)), Rate()
    runs: dict[int, list[Run]] = {few: [], many: []}
    for _ in range(ROUNDS):
        loop = max(loop, measure_whole_loop(paths, model, scratch))
        for number, found in runs.items():
            found.append(run_infer(workspace, str(folders[number]), number))
    first, last = (min(found, key=lambda run: run.step) for found in runs.values())
    further = many - few
    processor = (last.processor - first.processor) / further * 1e6
    slope = Rate(further / (last.step - first.step), processor, max(first.others, last.others, loop.others))
    print_row(f"images per second from {few:,} to {many:,} images (share: of the whole loop; cpu: us an image)")
    print_rate(f"{WHOLE_LOOP}, {CORES} processes", loop)
    share = slope.rate / loop.rate
    print_rate("product, further images", slope, f"{share:.1%}", f"{GOAL_SLOPE:.0%}", is_met=share >= GOAL_SLOPE)
    print_row("seconds of the step, whatever the count", f"{first.step - few / slope.rate:.2f}", others=slope.others)


def measure_contenders(
    originals: Sequence[Original], count: int, workspace: Path, scratch: Path, python: str | None
) -> None:
    """Measures the product beside other recognisers."""
    images = make_images(scratch / f"images-{count}", originals, count)
    paths = [str(path) for path in sorted(images.glob("*/*"))]
    runs: list[Run] = []
    best: dict[str, tuple[Rate, str]] = {}
    missing: dict[str, str] = {}
    for _ in range(ROUNDS):
        runs.append(run_infer(workspace, str(images), count))
        for contender in CONTENDERS:
            interpreter = sys.executable if contender.ours else python
            for setting in contender.settings if interpreter is not None else ():
                outcome = _run_contender(contender, setting, interpreter, paths[: contender.images], scratch)
                if "rate" in outcome:
                    found = (Rate(**outcome), setting)
                    best[contender.key] = max(best.get(contender.key, found), found)
                else:
                    missing[contender.key] = outcome["not_installed"]
    product = min(runs, key=lambda run: run.step)
    rate = count / product.step
    print_row(f"images per second (share: how many times as fast the infer step read {count:,}, {rate:,.0f} a second)")
    for contender in CONTENDERS:
        if contender.key not in best:
            print_row(f"{contender.name}: not installed ({missing.get(contender.key, 'no --contenders')})", "-")
            continue
        other, setting = best[contender.key]
        times, read = rate / other.rate, f"{min(contender.images, count):,} images, {setting.replace('--', '')}"
        other = other._replace(others=max(other.others, product.others))
        goal = f"{read}; {contender.goal}"
        print_rate(contender.name, other, f"{times:.1f}", goal, is_met=times >= contender.goal)


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
        found = []
        for _ in range(ROUNDS):
            started = time.time()
            run = run_infer(workspace, str(images), number, "--engine=onnx")
            parts = (workspace / "predictions").glob("*/*/part-*.parquet")
            found.append((min(part.stat().st_mtime for part in parts) - started, run.others))
        best, others = min(found)
        goal = f"under {GOAL_START:g}"
        print_row(f"{number:,} images", f"{best:.2f}", goal=goal, is_met=best < GOAL_START, others=others)


def main() -> None:
    """Runs the measurements that the flags ask for."""
    parser = argparse.ArgumentParser(description="Measure the infer step.", allow_abbrev=False)
    parser.add_argument("--images", required=True, help="folder of images whose names are their labels")
    parser.add_argument("--count", type=int, default=20_000, help="images for the speed (default: %(default)s)")
    parser.add_argument("--workspace", help="whose accepted model reads (default: one is trained)")
    parser.add_argument("--contenders", help="Python of an environment with benchmarks/requirements.txt")
    parser.add_argument("--memory", type=parse_counts, default="10000,100000", help="counts (default: %(default)s)")
    parser.add_argument("--slope", type=parse_counts, default="20000,100000", help="counts (default: %(default)s)")
    parser.add_argument(
        "--only", choices=("speed", "slope", "contenders", "memory", "start"), help="one part of the table"
    )
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
        if options.only in (None, "slope"):
            measure_slope(originals, options.slope, workspace, scratch)
        if options.only in (None, "contenders"):
            measure_contenders(originals, options.count, workspace, scratch, options.contenders)
        if options.only in (None, "memory"):
            measure_memory(originals, options.memory, workspace, scratch)
        if options.only in (None, "start"):
            measure_start(originals, options.count, workspace, scratch)
        print(f"\nload average {before:.1f} before, {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    main()
