"""How fast ingest is, what bounds it, how much memory it takes, and whether that stays so with more images.

    python benchmarks/ingest.py --images=../shared/data/captcha [--count=20000] [--memory=10000,100000]
        [--levels=1000,10000,100000] [--only=speed|memory|levels] [--scratch=DIR]

Prints one table; all of it is measured in this run, on the same images, which get other names in a temporary folder:
hard links where the file system has them, so that everything is read from the page cache, by the product as by the
loops beside it. Speeds are the best of two rounds, in which all that is compared takes turns. The loops' processes and
the stages' helpers are started before they are timed; the product is timed as it is.
"""

from __future__ import annotations

import argparse
import collections
import csv
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

import PIL
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout that this file lies in

from components.ingest.dataset import IngestRequest, describe_written_shard, write_training_shard
from components.ingest.encode import EncodingRules, encode_reference
from components.listing.collection import list_images
from components.listing.labels import LabelRules
from components.listing.listing import in_blocks, read_listing, unpacked, write_listing
from components.listing.references import ImageReference, path_of_uri
from components.processes import map_in_processes
from components.training.recipes import TIME_STRIDE
from components.work import shards_for
from tfrecords import SPLITS, Charset, ImageLimits, SplitFractions, read_line, shard_index, split_of

CORES = len(os.sched_getaffinity(0))
ROUNDS, SAMPLING_SECONDS = 2, 0.05
HEIGHT, LIMITS, FRACTIONS = 48, ImageLimits(), SplitFractions()  # the command's defaults
LABELS = LabelRules("filename", "{label}_{id}")
LABEL_FLAGS = (f"--label_source={LABELS.source}", f"--label_pattern={LABELS.pattern}")
GOAL_RATE, GOAL_SHARE, GOAL_MEMORY = 1500, 0.6, 1.1
GOAL_LEVEL = 1.1  # of the figure at the count before: as much as two equal runs may differ
MEASURE = "PSS" if os.access("/proc/self/smaps_rollup", os.R_OK) else "RSS"  # RSS counts shared memory for each process
_IMAGES_A_FOLDER, _IMAGES_A_TURN = 2000, 50


class Original(NamedTuple):
    """A labelled image, to be linked to under other names."""

    path: Path
    label: str


class Run(NamedTuple):
    """What a run of the command took: seconds of the ingest step and of the process; bytes, if they were watched."""

    step: float
    process: float
    peak: int


def copy_originals(images: str, folder: Path) -> list[Original]:
    """Copies of the images of `--images`, whose names are their labels."""
    folder.mkdir()
    originals = []
    for number, reference in enumerate(list_images(os.path.abspath(images), LabelRules("filename"))):
        if reference.text is not None:
            copy = folder / f"{number}{Path(reference.uri).suffix}"
            shutil.copyfile(path_of_uri(reference.uri), copy)
            originals.append(Original(copy, reference.text))
    if not originals:
        sys.exit(f"error: --images={images} has no image with a label as its name")
    return originals


def named(originals: Sequence[Original], count: int) -> Iterator[tuple[Original, str]]:
    """The originals, over and over, each with its place in the collection, without suffix."""
    for number in range(count):
        original = originals[number % len(originals)]
        yield original, f"{number // _IMAGES_A_FOLDER:04d}/{original.label}_{number:06d}"


def make_images(folder: Path, originals: Sequence[Original], count: int) -> Path:
    """A collection of images, unless it is there already."""
    for original, name in named(originals, 0 if folder.exists() else count):
        image = folder / f"{name}{original.path.suffix}"
        image.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(original.path, image)
        except OSError:
            shutil.copyfile(original.path, image)
    return folder


def write_table(folder: Path, originals: Sequence[Original], count: int) -> Path:
    """A table of the labels, beside the folder of images."""
    table = folder.with_suffix(".csv")
    with open(table, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "text"])
        for original, name in named(originals, count):
            writer.writerow([f"{folder.name}/{name}{original.path.suffix}", original.label])
    return table


def read_only(path: str) -> bytes:
    """The least that any ingest does."""
    with open(path, "rb") as file:
        return file.read()


def read_and_decode(path: str) -> None:
    """The least that an ingest does which looks at the pixels."""
    with Image.open(path) as image:
        image.load()


def grey_line(path: str) -> None:
    """The product's way from a file to a line."""
    read_line(read_only(path), HEIGHT, LIMITS)


def images_per_second(function: Callable[[Any], object], items: Sequence[Any]) -> float:
    """The speed of a bare loop, shared among as many processes as there are cores."""
    spawn = multiprocessing.get_context("spawn")
    barrier, claimed, finished = spawn.Barrier(CORES + 1), spawn.Value("q", 0), spawn.Array("d", CORES)
    shared = (function, items, barrier, claimed, finished)
    workers = [spawn.Process(target=_take_turns, args=(number, *shared)) for number in range(CORES)]
    for worker in workers:
        worker.start()
    barrier.wait(timeout=120)
    started = time.monotonic()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        sys.exit("error: a process of a loop failed")
    return len(items) / (max(finished[:]) - started)


def _take_turns(
    number: int, function: Callable[[Any], object], items: Sequence[Any], barrier: Any, claimed: Any, finished: Any
) -> None:
    """What one process of a loop does."""
    function(items[0])  # imports what is imported at its first use
    barrier.wait(timeout=120)
    start = 0
    while start < len(items):
        with claimed:
            start = claimed.value
            claimed.value += _IMAGES_A_TURN
        for item in items[start : start + _IMAGES_A_TURN]:
            function(item)
    finished[number] = time.monotonic()


def run_product(
    images: Path, count: int, workspace: str, flags: Sequence[str] = LABEL_FLAGS, *, watched: bool = False
) -> Run:
    """Runs the ingest step by the project's own command; to be watched takes it some time."""
    command = [sys.executable, str(Path(__file__).resolve().parents[1] / "run_pipeline.py"), "--runner=DirectRunner"]
    command += ["--steps=ingest", f"--images={images}", f"--workspace={workspace}", *flags]
    with tempfile.TemporaryFile() as log:
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        peak = _watch(process) if watched else 0
        status = process.wait()
        seconds = time.monotonic() - started
        log.seek(0)
        if status:
            sys.exit(f"error: the product ended with status {status}:\n{log.read().decode(errors='replace')}")
    newest = max(Path(workspace, "runs").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    (step,) = json.loads(newest.read_bytes())["steps"]
    if (written := sum(step["figures"]["examples"].values())) != count:
        sys.exit(f"error: of {count} images {written} were written, rejected: {step['figures']['rejects']}")
    return Run(step["seconds"], seconds, peak)


def run_fresh(images: Path, count: int, flags: Sequence[str] = LABEL_FLAGS, *, watched: bool = False) -> Run:
    """Runs the ingest step in a fresh workspace, which is then deleted."""
    with tempfile.TemporaryDirectory(prefix="workspace-", dir=images.parent) as workspace:
        return run_product(images, count, workspace, flags, watched=watched)


def _watch(process: subprocess.Popen[bytes]) -> int:
    """The most memory that a process and all its descendants held together, in bytes."""
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(_memory, _tree(process.pid))))
        time.sleep(SAMPLING_SECONDS)
    return peak


def _memory(process: int) -> int:
    try:
        if MEASURE == "RSS":
            return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:  # it ended just now
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def _tree(root: int) -> list[int]:
    """A process and all its descendants."""
    children: dict[int, list[int]] = collections.defaultdict(list)
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            status = Path(f"/proc/{name}/stat").read_text(errors="replace")
        except OSError:
            continue
        children[int(status.rpartition(")")[2].split()[1])].append(int(name))
    tree = [root]
    for process in tree:
        tree += children[process]
    return tree


def time_stages(images: Path, folder: Path) -> dict[str, float]:
    """Seconds of the stages of ingest, one after the other in this process, without Beam."""
    seconds: dict[str, float] = {}

    def timed(name: str, stage: Callable[[], Any]) -> Any:
        started = time.monotonic()
        result = stage()
        seconds[name] = time.monotonic() - started
        return result

    path = str(folder / "listing.parquet")
    listing = timed("listing, with labels", lambda: write_listing([str(images)], path, LABELS, FRACTIONS))
    request = IngestRequest(
        dataset_id="benchmark",
        folder=str(folder / "shards"),
        destination=str(folder / "dataset"),
        images=listing.images,
        shards={split: shards_for(listing.splits.get(split, 0)) for split in SPLITS},
        height=HEIGHT,
        time_stride=TIME_STRIDE,
        charset=Charset(tuple(listing.symbols)),
        limits=LIMITS,
        max_reject_fraction=0.0,
        processes=CORES,
    )

    def shard_of(reference: ImageReference) -> tuple[str, int]:
        split = split_of(reference.split_key, FRACTIONS)
        return split, shard_index(reference.key, request.shards[split])

    def group() -> dict[tuple[str, int], list[ImageReference]]:
        shards: dict[tuple[str, int], list[bytes]] = collections.defaultdict(list)
        for shard, block in in_blocks(read_listing(path), shard_of):
            shards[shard].append(block)
        return {shard: sorted(unpacked(blocks, ImageReference)) for shard, blocks in shards.items()}

    shards = timed("grouping by shard", group)
    some = [reference for references in shards.values() for reference in references][: 64 * CORES]
    list(map_in_processes(functools.partial(encode_reference, rules=request.encoding), some, CORES))  # starts helpers
    summaries = timed(
        "encoding by helper processes, writing the shards",
        lambda: [write_training_shard(shard, references, request) for shard, references in shards.items()],
    )
    timed(
        "reading the shards back, describing them",
        lambda: [list(describe_written_shard(summary, request)) for summary in summaries],
    )
    return seconds


def row(name: str, figure: str = "", share: str = "", goal: str = "", *, is_met: bool = False) -> None:
    """Prints a row of the table; one without a figure is a heading."""
    verdict = f"{goal}: {'met' if is_met else 'missed'}" if goal else ""
    print(f"{'  ' * bool(figure) + name:<54}{figure:>9}{share:>9}   {verdict}".rstrip(), flush=True)


def measure_speed(originals: Sequence[Original], count: int, scratch: Path) -> None:
    """The product beside bare loops, and where its time goes."""
    images = make_images(scratch / f"images-{count}", originals, count)
    references = list(list_images(str(images), LABELS))
    paths = [path_of_uri(reference.uri) for reference in references]
    charset = Charset.from_texts(original.label for original in originals)
    encode = functools.partial(encode_reference, rules=EncodingRules(charset, HEIGHT, TIME_STRIDE, LIMITS))
    loops: dict[str, tuple[Callable[[Any], object], Sequence[Any]]] = {
        "read only": (read_only, paths),
        "read and decode": (read_and_decode, paths),
        "grey line": (grey_line, paths),
        "encoded example": (encode, references),
    }
    for path in paths:
        read_only(path)
    rates = dict.fromkeys(loops, 0.0)
    runs: list[Run] = []
    rounds: list[dict[str, float]] = []
    for _ in range(ROUNDS):
        for name, (function, items) in loops.items():
            rates[name] = max(rates[name], images_per_second(function, items))
        runs.append(run_fresh(images, count))
        with tempfile.TemporaryDirectory(prefix="stages-", dir=scratch) as folder:
            rounds.append(time_stages(images, Path(folder)))
    best = min(runs)
    rate = count / best.step
    is_met = rate >= GOAL_RATE or rate >= GOAL_SHARE * rates["read and decode"]
    row(f"images per second, {count:,} images (share: the ingest step's speed, of the loop's)")
    for name, loop_rate in rates.items():
        row(f"{name}, {CORES} processes", f"{loop_rate:,.0f}", f"{rate / loop_rate:.1%}")
    goal = f'{GOAL_RATE:,} or {GOAL_SHARE:.0%} of "read and decode"'
    row("product, ingest step", f"{rate:,.0f}", goal=goal, is_met=is_met)
    row("product, whole process", f"{count / best.process:,.0f}")
    row("seconds per 10,000 images (share: of the ingest step)")
    stages = {name: min(seconds[name] for seconds in rounds) for name in rounds[0]}
    stages["remainder: Beam, start of helpers, commit"] = best.step - sum(stages.values())
    for name, seconds in {**stages, "ingest step": best.step}.items():
        row(name, f"{seconds * 10_000 / count:.2f}", f"{seconds / best.step:.1%}")
    row("seconds, whatever the count")
    row("start of the command, run report", f"{best.process - best.step:.2f}")
    measure_memory(originals, [count], scratch)


def measure_memory(originals: Sequence[Original], counts: Sequence[int], scratch: Path) -> None:
    """The product's peak memory, at several counts or one."""
    row(f"peak memory of the product, MiB of {MEASURE}, all its processes (share: of that of the fewest images)")
    first = 0
    for count in counts:
        peak = run_fresh(make_images(scratch / f"images-{count}", originals, count), count, watched=True).peak
        if not first:
            first = peak
            row(f"{count:,} images", f"{peak / 2**20:,.0f}")
            continue
        goal, is_met = f"at most {GOAL_MEMORY:.0%}", peak <= GOAL_MEMORY * first
        row(f"{count:,} images", f"{peak / 2**20:,.0f}", f"{peak / first:.1%}", goal, is_met=is_met)


def measure_levels(originals: Sequence[Original], counts: Sequence[int], scratch: Path) -> None:
    """The time per image at several counts, for each source of labels, and of a run that finds its dataset."""
    seconds = []
    for count in counts:
        images = make_images(scratch / f"images-{count}", originals, count)
        with tempfile.TemporaryDirectory(prefix="workspace-", dir=scratch) as workspace:
            first, again = (run_product(images, count, workspace) for _ in range(2))
        table = run_fresh(images, count, [f"--label_source={write_table(images, originals, count)}"])
        for original, name in named(originals, count):
            (images / f"{name}.gt.txt").write_text(original.label, encoding="utf-8")
        seconds.append((first.step, table.step, run_fresh(images, count, ["--label_source=sidecar"]).step))
    for source, steps in zip(("names", "a table", "text files"), zip(*seconds, strict=True), strict=True):
        row(f"microseconds per image of the ingest step, labels from {source} (share: of the count before)")
        before = 0.0
        for count, step in zip(counts, steps, strict=True):
            micros = step / count * 1e6
            share, goal = (f"{micros / before:.1%}", f"at most {GOAL_LEVEL:.0%}") if before else ("", "")
            row(f"{count:,} images", f"{micros:,.0f}", share, goal, is_met=micros <= GOAL_LEVEL * before)
            before = micros
    row(f"seconds, again with nothing changed, {counts[-1]:,} images (share: of the first run)")
    row("ingest step", f"{again.step:.2f}", f"{again.step / first.step:.1%}")
    row("whole process", f"{again.process:.2f}", f"{again.process / first.process:.1%}")


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(description="Measure the ingest step.", allow_abbrev=False)
    parser.add_argument("--images", required=True, help="folder of images whose names are their labels")
    parser.add_argument("--count", type=int, default=20_000, help="images for the speed (default: %(default)s)")
    parser.add_argument("--memory", type=_counts, default="10000,100000", help="counts (default: %(default)s)")
    parser.add_argument("--levels", type=_counts, default="1000,10000,100000", help="counts (default: %(default)s)")
    parser.add_argument("--only", choices=("speed", "memory", "levels"), help="one part of the table")
    parser.add_argument("--scratch", help="where the temporary folder is made (default: the system's)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ingest-", dir=options.scratch) as folder:
        scratch = Path(folder).resolve()
        originals = copy_originals(options.images, scratch / "originals")
        print(f"{len(originals):,} images under other names, {CORES} cores, Pillow {PIL.__version__}\n")
        print(f"{'':<54}{'figure':>9}{'share':>9}   goal")
        if options.only in (None, "speed"):
            measure_speed(originals, options.count, scratch)
        if options.only in (None, "memory"):
            measure_memory(originals, options.memory, scratch)
        if options.only in (None, "levels"):
            measure_levels(originals, options.levels, scratch)


def _counts(text: str) -> list[int]:
    return sorted({int(count) for count in text.split(",")})


if __name__ == "__main__":
    main()
