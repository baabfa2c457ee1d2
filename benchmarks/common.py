"""Parts that the benchmarks share: images under other names, bare loops, watched commands, and the table."""

from __future__ import annotations

import collections
import csv
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from benchmarks.machine import CORES, MOST_OTHERS, Rate, measure_usage, read_busy_seconds, share_of_others

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 2
GOAL_MEMORY = 1.1
MEASURE = "PSS" if os.access("/proc/self/smaps_rollup", os.R_OK) else "RSS"  # RSS counts shared memory for each process
_SAMPLING_SECONDS = 0.05
_IMAGES_A_FOLDER = 2000


class Original(NamedTuple):
    """A labelled image, which gets links under other names."""

    path: Path
    label: str


class Run(NamedTuple):
    """The measurements of one command.

    Attributes:
        step: seconds of its last step.
        process: seconds from the start of the process to its end.
        processor: seconds of processor time that it took, with the processes that it started.
        peak: bytes of memory at most; 0 if they were not watched.
        figures: the figures of its last step.
        others: share of the cores that other processes took meanwhile.
    """

    step: float
    process: float
    processor: float
    peak: int
    figures: dict[str, Any]
    others: float

    def make_rate(self, images: int) -> Rate:
        """Makes the speed of the step on so many images, with the processor time of the whole command."""
        return Rate(images / self.step, self.processor / images * 1e6, self.others)


def copy_originals(images: str, folder: Path) -> list[Original]:
    """Copies the images of `--images`, whose names are their labels."""
    from components.listing import LabelRules, list_images, uri_to_path

    folder.mkdir()
    originals = []
    for number, reference in enumerate(list_images(os.path.abspath(images), LabelRules("filename"))):
        if reference.text is not None:
            copy = folder / f"{number}{Path(reference.uri).suffix}"
            shutil.copyfile(uri_to_path(reference.uri), copy)
            originals.append(Original(copy, reference.text))
    if not originals:
        sys.exit(f"error: --images={images} has no image with a label as its name")
    return originals


def name_images(originals: Sequence[Original], count: int) -> Iterator[tuple[Original, str]]:
    """Yields the originals, over and over, each with its place in the collection, without suffix."""
    for number in range(count):
        original = originals[number % len(originals)]
        yield original, f"{number // _IMAGES_A_FOLDER:04d}/{original.label}_{number:06d}"


def make_images(folder: Path, originals: Sequence[Original], count: int) -> Path:
    """Makes a collection of images, unless it is there already."""
    for original, name in name_images(originals, 0 if folder.exists() else count):
        image = folder / f"{name}{original.path.suffix}"
        image.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(original.path, image)
        except OSError:
            shutil.copyfile(original.path, image)
    return folder


def write_table(folder: Path, originals: Sequence[Original], count: int) -> Path:
    """Writes a table of the labels, beside the folder of images."""
    table = folder.with_suffix(".csv")
    with open(table, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "text"])
        for original, name in name_images(originals, count):
            writer.writerow([f"{folder.name}/{name}{original.path.suffix}", original.label])
    return table


def read_only(path: str) -> bytes:
    """Reads a file: the least that any reader does."""
    with open(path, "rb") as file:
        return file.read()


def read_and_decode(path: str) -> None:
    """Reads and decodes a file: the least that a reader does which looks at the pixels."""
    with Image.open(path) as image:
        image.load()


def measure_rate(
    function: Callable[[Any], object], items: Sequence[Any], *, processes: int = CORES, items_a_turn: int = 50
) -> Rate:
    """Measures the speed of a bare loop over items, shared among as many processes as there are cores.

    Each process calls the function once before it is timed, so that everything is imported and loaded.
    """
    spawn = multiprocessing.get_context("spawn")
    barrier, claimed = spawn.Barrier(processes + 1), spawn.Value("q", 0)
    finished, took = spawn.Array("d", processes), spawn.Array("d", processes)
    shared = (function, items, items_a_turn, barrier, claimed, finished, took)
    workers = [spawn.Process(target=_take_turns, args=(number, *shared)) for number in range(processes)]
    for worker in workers:
        worker.start()
    barrier.wait(timeout=120)
    started, busy = time.monotonic(), read_busy_seconds()
    barrier.wait()
    over, busy = time.monotonic(), read_busy_seconds() - busy
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        sys.exit("error: a process of a loop failed")
    rate, processor = len(items) / (max(finished[:]) - started), sum(took[:])
    return Rate(rate, processor / len(items) * 1e6, share_of_others(over - started, busy, processor))


def _take_turns(
    number: int,
    function: Callable[[Any], object],
    items: Sequence[Any],
    items_a_turn: int,
    barrier: Any,
    claimed: Any,
    finished: Any,
    took: Any,
) -> None:
    """Runs one process of a loop: takes turns of items until none is left."""
    try:
        function(items[0])  # imports and loads what the first call needs
        barrier.wait(timeout=120)
        start, used = 0, time.process_time()
        while start < len(items):
            with claimed:
                start = claimed.value
                claimed.value += items_a_turn
            for item in items[start : start + items_a_turn]:
                function(item)
        finished[number], took[number] = time.monotonic(), time.process_time() - used
        barrier.wait()  # the end of a process is none of the loop's time
    except BaseException:
        barrier.abort()  # nobody waits for this process
        raise


def run_command(workspace: Path, *flags: str, watched: bool = False) -> Run:
    """Runs the project's own command; watching its memory costs it some time."""
    command = [sys.executable, str(ROOT / "run_pipeline.py"), "--runner=DirectRunner", f"--workspace={workspace}"]
    with tempfile.TemporaryFile() as log:
        with measure_usage() as usage:
            process = subprocess.Popen([*command, *flags], stdout=log, stderr=subprocess.STDOUT)
            peak = _watch(process) if watched else 0
            status = process.wait()
        log.seek(0)
        if status:
            sys.exit(f"error: the product ended with status {status}:\n{log.read().decode(errors='replace')}")
    newest = max((workspace / "runs").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    step = json.loads(newest.read_bytes())["steps"][-1]
    return Run(step["seconds"], usage.seconds, usage.processor, peak, step["figures"], usage.others)


def _watch(process: subprocess.Popen[bytes]) -> int:
    """Watches a process; returns the most memory, in bytes, that it and all its descendants held together."""
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(_get_memory, _find_tree(process.pid))))
        time.sleep(_SAMPLING_SECONDS)
    return peak


def _get_memory(process: int) -> int:
    """Returns the memory of a process, in bytes; 0 if it has ended."""
    try:
        if MEASURE == "RSS":
            return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:  # it ended just now
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def _find_tree(root: int) -> list[int]:
    """Finds a process and all its descendants."""
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


def parse_counts(text: str) -> list[int]:
    """Parses several numbers of images, as a flag has them."""
    return sorted({int(count) for count in text.split(",")})


def print_header(originals: Sequence[Original], setting: str) -> None:
    """Prints the head of the table."""
    print(f"{len(originals):,} images under other names, {CORES} cores, {setting}\n")
    print(f"{'':<54}{'figure':>9}{'share':>9}{'cpu':>9}{'others':>8}   goal")


def print_row(
    name: str,
    figure: str = "",
    share: str = "",
    goal: str = "",
    *,
    is_met: bool = False,
    processor: str = "",
    others: float | None = None,
) -> None:
    """Prints a row of the table; one without a figure is a heading.

    Args:
        processor: what it took of processor time.
        others: share of the cores that other processes took meanwhile. If it is great, there is no verdict on the goal.
    """
    verdict = f"{goal}: {'met' if is_met else 'missed'}" if goal else ""
    if verdict and others is not None and others > MOST_OTHERS:
        verdict = f"{goal}: no verdict, since other processes took {others:.0%} of the cores"
    busy = "" if others is None else f"{others:.0%}"
    line = f"{'  ' * bool(figure) + name:<54}{figure:>9}{share:>9}{processor:>9}{busy:>8}   {verdict}"
    print(line.rstrip(), flush=True)


def print_rate(name: str, rate: Rate, share: str = "", goal: str = "", *, is_met: bool = False) -> None:
    """Prints a speed as a row of the table, with its processor time and what others took."""
    figure, processor = f"{rate.rate:,.0f}", f"{rate.processor:,.0f}"
    print_row(name, figure, share, goal, is_met=is_met, processor=processor, others=rate.others)


def print_profile(stages: Mapping[str, float], step: float, step_name: str, count: int) -> None:
    """Prints the time of each stage alone, and the remainder of the step."""
    print_row(f"seconds per 10,000 images (share: of the {step_name})")
    remainder = {"remainder: Beam, start of helpers, commit, idle cores": step - sum(stages.values())}
    for name, seconds in {**stages, **remainder, step_name: step}.items():
        print_row(name, f"{seconds * 10_000 / count:.2f}", f"{seconds / step:.1%}")


def print_peaks(counts_and_peaks: Iterator[tuple[int, int]]) -> None:
    """Prints the peak memory of the product at one or several counts."""
    print_row(f"peak memory of the product, MiB of {MEASURE}, all its processes (share: of that of the fewest images)")
    first = 0
    for count, peak in counts_and_peaks:
        if not first:
            first = peak
            print_row(f"{count:,} images", f"{peak / 2**20:,.0f}")
            continue
        goal, is_met = f"at most {GOAL_MEMORY:.0%}", peak <= GOAL_MEMORY * first
        print_row(f"{count:,} images", f"{peak / 2**20:,.0f}", f"{peak / first:.1%}", goal, is_met=is_met)
