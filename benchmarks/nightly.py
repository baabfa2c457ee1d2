"""Benchmark of nights: the cost of one with hardly any new images, against one with only new images.

    python benchmarks/nightly.py --images=../shared/data/captcha [--count=200000] [--workspace=WORKSPACE]
        [--memory=20000,200000] [--scratch=/dev/shm]

Prints one table; all of it is measured now. One image in a hundred is new on the second night. The command runs as a
user runs it, its process watched from outside; seconds of a step are its own, without the start of the process. Listing
is what the step itself measures for finding all files, new or not: every night pays it, however little is new, so it is
subtracted before a night is compared with the goal. Where other processes took more than 5 % of the cores meanwhile,
there is no verdict. Images and the model are those of `benchmarks/inference.py`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout that this file lies in

from benchmarks.common import (
    Original,
    Run,
    copy_originals,
    make_images,
    parse_counts,
    print_header,
    print_peaks,
    print_row,
    run_command,
)
from benchmarks.inference import prepare_workspace, run_infer, write_labelled

GOAL_NIGHT = 0.03  # of the night on which everything was new
NEW = 100  # one image in so many
NEW_WATCHED = 2000  # where memory is measured: enough for helper processes


def run_three_nights(
    originals: Sequence[Original], count: int, new: int, workspace: Path, scratch: Path, *, watched: bool = False
) -> tuple[Run, Run, Run]:
    """Runs a night that reads everything, one on which some images are new, and one without new images."""
    images = scratch / f"images-{count}"
    make_images(images / "old", originals, count - new)
    flags = ("--steps=infer", f"--infer_images={images}")
    first = run_infer(workspace, str(images), count - new, watched=watched)
    make_images(images / "new", originals, new)
    second = run_command(workspace, *flags, watched=watched)
    third = run_command(workspace, *flags, watched=watched)
    for run, rows, skipped in ((second, new, count - new), (third, 0, count)):
        if (run.figures["rows"], run.figures["skipped"]) != (rows, skipped):
            sys.exit(f"error: {run.figures['rows']} images were read and {run.figures['skipped']} skipped")
    return first, second, third


def measure_nights(originals: Sequence[Original], count: int, workspace: Path, scratch: Path) -> None:
    """Measures seconds and processor time of the nights."""
    first, second, third = run_three_nights(originals, count, count // NEW, workspace, scratch)
    print_row(f"seconds of the infer step, {count:,} images listed (share: of the night on which all were new)")
    print_row("all new", f"{first.step:.1f}", "100.0%", others=first.others)
    for name, run in ((f"{count // NEW:,} new", second), ("none new", third)):
        print_row(name, f"{run.step:.2f}", f"{run.step / first.step:.1%}", others=run.others)
        for part, seconds in (("listing", run.figures["listing_s"]), ("what was read before", run.figures["unread_s"])):
            print_row(f"  of these, {part}", f"{seconds:.2f}", f"{seconds / first.step:.1%}")
    rest = second.step - second.figures["listing_s"]
    share = rest / first.step
    name, goal = f"{count // NEW:,} new, listing taken off", f"at most {GOAL_NIGHT:.0%}"
    others = max(first.others, second.others)
    print_row(name, f"{rest:.2f}", f"{share:.1%}", goal, is_met=share <= GOAL_NIGHT, others=others)
    print_row("processor seconds of the command, its start with it (share: as above)")
    for name, run in (("all new", first), (f"{count // NEW:,} new", second), ("none new", third)):
        print_row(name, f"{run.processor:.1f}", f"{run.processor / first.processor:.1%}")


def measure_second_night_peak(originals: Sequence[Original], count: int, workspace: Path, scratch: Path) -> int:
    """Measures the peak memory, in bytes, of a night with always as many new images, among more and more old ones."""
    folder = scratch / f"watched-{count}"
    return run_three_nights(originals, count, NEW_WATCHED, workspace, folder, watched=True)[1].peak


def main() -> None:
    """Runs the measurements that the flags ask for."""
    parser = argparse.ArgumentParser(description="Measure nights on which little is new.", allow_abbrev=False)
    parser.add_argument("--images", required=True, help="folder of images whose names are their labels")
    parser.add_argument("--count", type=int, default=200_000, help="images that are listed (default: %(default)s)")
    parser.add_argument("--workspace", help="whose accepted model reads (default: one is trained)")
    parser.add_argument("--memory", type=parse_counts, default="20000,200000", help="counts (default: %(default)s)")
    parser.add_argument("--only", choices=("nights", "memory"), help="one part of the table")
    parser.add_argument("--scratch", help="where the temporary folder is made (default: the system's)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nightly-", dir=options.scratch) as folder:
        scratch = Path(folder).resolve()
        originals = copy_originals(options.images, scratch / "originals")
        workspace = scratch / "workspace"
        prepare_workspace(options.workspace, write_labelled(scratch / "labelled", originals), workspace)
        before = os.getloadavg()[0]
        print_header(originals, f"one in {NEW} new")
        if options.only in (None, "nights"):
            measure_nights(originals, options.count, workspace, scratch)
        if options.only in (None, "memory"):
            print(f"\nthe second night, {NEW_WATCHED:,} new images each time:")
            print_peaks(
                (count, measure_second_night_peak(originals, count, workspace, scratch)) for count in options.memory
            )
        print(f"\nload average {before:.1f} before, {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    main()
