"""Benchmark of the ingest step: its speed, its bounds and its memory, also with more images.

    python benchmarks/ingest.py --images=../shared/data/captcha [--count=20000] [--memory=10000,100000]
        [--levels=1000,10000,100000] [--only=speed|memory|levels] [--scratch=DIR]

Prints one table; all of it is measured now, on the same images, which get other names in a temporary folder: hard links
where the file system has them, so that everything is read from the page cache, by the product as by the loops beside
it. Speeds are the best of two rounds, in which everything that is compared takes turns. The loops' processes and the
stages' helpers are started before they are timed; the product is timed as it is. Beside each speed stand the
microseconds of processor time an image, and the share of the cores that other processes took meanwhile: above 5 % there
is no verdict.
"""

from __future__ import annotations

import argparse
import collections
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import PIL

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout that this file lies in

from benchmarks.common import (
    ROUNDS,
    Original,
    Run,
    copy_originals,
    make_images,
    measure_rate,
    name_images,
    parse_counts,
    print_header,
    print_peaks,
    print_profile,
    print_rate,
    print_row,
    read_and_decode,
    read_only,
    run_command,
    write_table,
)
from benchmarks.machine import CORES, Rate
from components.ingest.dataset import IngestRequest, describe_written_shard, write_training_shard
from components.ingest.encode import EncodingRules, encode_reference
from components.listing.collection import list_images
from components.listing.labels import LabelRules
from components.listing.listing import read_listing, write_listing
from components.listing.references import ImageReference, uri_to_path
from components.processes import HelperPool
from components.rejects import Reject
from components.training.recipes import TIME_STRIDE
from components.transforms import pack_blocks, unpack_blocks
from tfrecords import SPLITS, Charset, ImageLimits, SplitFractions, choose_shard, choose_split, read_line
from tfrecords.shards import choose_shard_count

HEIGHT, LIMITS, FRACTIONS = 48, ImageLimits(), SplitFractions()  # the command's defaults
LABELS = LabelRules("filename", "{label}_{id}")
LABEL_FLAGS = (f"--label_source={LABELS.source}", f"--label_pattern={LABELS.pattern}")
GOAL_RATE, GOAL_SHARE = 1500, 0.6
GOAL_LEVEL = 1.1  # of the figure at the count before: as much as two equal runs may differ


def read_grey_line(path: str) -> None:
    """Reads a file as a grey line, as the product does."""
    read_line(read_only(path), HEIGHT, LIMITS)


def encode_example(reference: ImageReference, rules: EncodingRules) -> bytes | Reject:
    """Reads a file and encodes it as an example, as the product does."""
    return encode_reference(reference, None, rules)


def run_product(
    images: Path, count: int, workspace: Path, flags: Sequence[str] = LABEL_FLAGS, *, watched: bool = False
) -> Run:
    """Runs the ingest step by the project's own command."""
    run = run_command(workspace, "--steps=ingest", f"--images={images}", *flags, watched=watched)
    if (written := sum(run.figures["examples"].values())) != count:
        sys.exit(f"error: of {count} images {written} were written, rejected: {run.figures['rejects']}")
    return run


def run_fresh(images: Path, count: int, flags: Sequence[str] = LABEL_FLAGS, *, watched: bool = False) -> Run:
    """Runs the ingest step in a fresh workspace, which is then deleted."""
    with tempfile.TemporaryDirectory(prefix="workspace-", dir=images.parent) as workspace:
        return run_product(images, count, Path(workspace), flags, watched=watched)


def time_stages(images: Path, folder: Path) -> dict[str, float]:
    """Times the stages of ingest in seconds, one after the other in this process, without Beam."""
    seconds: dict[str, float] = {}

    def time_stage(name: str, stage: Callable[[], Any]) -> Any:
        started = time.monotonic()
        result = stage()
        seconds[name] = time.monotonic() - started
        return result

    path = str(folder / "listing.parquet")
    listing = time_stage("listing, with labels", lambda: write_listing([str(images)], path, LABELS, FRACTIONS))
    request = IngestRequest(
        dataset_id="benchmark",
        folder=str(folder / "shards"),
        destination=str(folder / "dataset"),
        images=listing.images,
        shards={split: choose_shard_count(listing.splits.get(split, 0)) for split in SPLITS},
        height=HEIGHT,
        time_stride=TIME_STRIDE,
        charset=Charset(tuple(listing.symbols)),
        limits=LIMITS,
        max_reject_fraction=0.0,
        processes=CORES,
    )

    def choose_place(reference: ImageReference) -> tuple[str, int]:
        split = choose_split(reference.split_key, FRACTIONS)
        return split, choose_shard(reference.key, request.shards[split])

    def group() -> dict[tuple[str, int], list[ImageReference]]:
        shards: dict[tuple[str, int], list[bytes]] = collections.defaultdict(list)
        for shard, block in pack_blocks(read_listing(path), choose_place):
            shards[shard].append(block)
        return {shard: sorted(unpack_blocks(blocks, ImageReference)) for shard, blocks in shards.items()}

    shards = time_stage("grouping by shard", group)
    few = [reference for references in shards.values() for reference in references][: 64 * CORES]
    with HelperPool.open_for_job() as helpers:
        list(
            helpers.map(functools.partial(encode_reference, content=None, rules=request.encoding), few, CORES)
        )  # starts helpers
        summaries = time_stage(
            "encoding by helper processes, writing the shards",
            lambda: [write_training_shard(shard, references, request) for shard, references in shards.items()],
        )
    time_stage(
        "reading the shards back, describing them",
        lambda: [list(describe_written_shard(summary, request)) for summary in summaries],
    )
    return seconds


def measure_speed(originals: Sequence[Original], count: int, scratch: Path) -> None:
    """Measures the product beside bare loops, and the time of its stages."""
    images = make_images(scratch / f"images-{count}", originals, count)
    references = list(list_images(str(images), LABELS))
    paths = [uri_to_path(reference.uri) for reference in references]
    charset = Charset.from_texts(original.label for original in originals)
    rules = EncodingRules(charset, HEIGHT, TIME_STRIDE, LIMITS)
    loops: dict[str, tuple[Callable[[Any], object], Sequence[Any]]] = {
        "read only": (read_only, paths),
        "read and decode": (read_and_decode, paths),
        "grey line": (read_grey_line, paths),
        "encoded example": (functools.partial(encode_example, rules=rules), references),
    }
    for path in paths:
        read_only(path)
    rates = dict.fromkeys(loops, Rate())
    runs: list[Run] = []
    rounds: list[dict[str, float]] = []
    for _ in range(ROUNDS):
        for name, (function, items) in loops.items():
            rates[name] = max(rates[name], measure_rate(function, items))
        runs.append(run_fresh(images, count))
        with tempfile.TemporaryDirectory(prefix="stages-", dir=scratch) as folder:
            rounds.append(time_stages(images, Path(folder)))
    best = min(runs, key=lambda run: run.step)
    rate = count / best.step
    is_met = rate >= GOAL_RATE or rate >= GOAL_SHARE * rates["read and decode"].rate
    print_row(f"images per second, {count:,} images (share: the ingest step's speed, of the loop's; cpu: us an image)")
    for name, loop in rates.items():
        print_rate(f"{name}, {CORES} processes", loop, f"{rate / loop.rate:.1%}")
    goal = f'{GOAL_RATE:,} or {GOAL_SHARE:.0%} of "read and decode"'
    print_rate("product, ingest step", best.make_rate(count), goal=goal, is_met=is_met)
    print_row("product, whole process", f"{count / best.process:,.0f}", others=best.others)
    stages = {name: min(seconds[name] for seconds in rounds) for name in rounds[0]}
    print_profile(stages, best.step, "ingest step", count)
    print_row("seconds, whatever the count")
    print_row("start of the command, run report", f"{best.process - best.step:.2f}")
    measure_memory(originals, [count], scratch)


def measure_memory(originals: Sequence[Original], counts: Sequence[int], scratch: Path) -> None:
    """Measures the product's peak memory, at one or several counts."""
    folders = ((count, make_images(scratch / f"images-{count}", originals, count)) for count in counts)
    print_peaks((count, run_fresh(images, count, watched=True).peak) for count, images in folders)


def measure_levels(originals: Sequence[Original], counts: Sequence[int], scratch: Path) -> None:
    """Measures the time per image at several counts, by source of labels, and of a command that finds its dataset."""
    runs = []
    for count in counts:
        images = make_images(scratch / f"images-{count}", originals, count)
        with tempfile.TemporaryDirectory(prefix="workspace-", dir=scratch) as workspace:
            first, again = (run_product(images, count, Path(workspace)) for _ in range(2))
        table = run_fresh(images, count, [f"--label_source={write_table(images, originals, count)}"])
        for original, name in name_images(originals, count):
            (images / f"{name}.gt.txt").write_text(original.label, encoding="utf-8")
        runs.append((first, table, run_fresh(images, count, ["--label_source=sidecar"])))
    for source, of_source in zip(("names", "a table", "text files"), zip(*runs, strict=True), strict=True):
        print_row(f"microseconds per image of the ingest step, labels from {source} (share: of the count before)")
        before = 0.0
        for count, run in zip(counts, of_source, strict=True):
            micros = run.step / count * 1e6
            share, goal = (f"{micros / before:.1%}", f"at most {GOAL_LEVEL:.0%}") if before else ("", "")
            is_met, processor = micros <= GOAL_LEVEL * before, f"{run.processor / count * 1e6:,.0f}"
            figures = (f"{micros:,.0f}", share, goal)
            print_row(f"{count:,} images", *figures, is_met=is_met, processor=processor, others=run.others)
            before = micros
    print_row(f"seconds, again with nothing changed, {counts[-1]:,} images (share: of the first time)")
    print_row("ingest step", f"{again.step:.2f}", f"{again.step / first.step:.1%}", others=again.others)
    print_row("whole process", f"{again.process:.2f}", f"{again.process / first.process:.1%}")


def main() -> None:
    """Runs the measurements that the flags ask for."""
    parser = argparse.ArgumentParser(description="Measure the ingest step.", allow_abbrev=False)
    parser.add_argument("--images", required=True, help="folder of images whose names are their labels")
    parser.add_argument("--count", type=int, default=20_000, help="images for the speed (default: %(default)s)")
    parser.add_argument("--memory", type=parse_counts, default="10000,100000", help="counts (default: %(default)s)")
    parser.add_argument(
        "--levels", type=parse_counts, default="1000,10000,100000", help="counts (default: %(default)s)"
    )
    parser.add_argument("--only", choices=("speed", "memory", "levels"), help="one part of the table")
    parser.add_argument("--scratch", help="where the temporary folder is made (default: the system's)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ingest-", dir=options.scratch) as folder:
        scratch = Path(folder).resolve()
        originals = copy_originals(options.images, scratch / "originals")
        print_header(originals, f"Pillow {PIL.__version__}")
        if options.only in (None, "speed"):
            measure_speed(originals, options.count, scratch)
        if options.only in (None, "memory"):
            measure_memory(originals, options.memory, scratch)
        if options.only in (None, "levels"):
            measure_levels(originals, options.levels, scratch)


if __name__ == "__main__":
    main()
