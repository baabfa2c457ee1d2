"""Reads mutated images of every format, and holds that each has one outcome, within the bounds, and harms no other.

    python -m tests.fuzz --images=100000

Every image has a number, which with the seed says all about it: `--first=4711 --images=1` reads it again. What must not
be is printed, its image is kept in a folder, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import collections
import resource
import sys
import tempfile
import time
from pathlib import Path

from components.process_settings import prepare_process
from tests.fuzzing.mutations import Mutator
from tests.fuzzing.reading import Figures, Finding, Reading
from tests.fuzzing.seeds import make_seeds

_BATCH = 1000


def fuzz(images: int, *, seed: int = 0, first: int = 0, processes: int = 2, tell: bool = False) -> tuple[Figures, list]:
    """Reads mutated images of these numbers.

    Args:
        images: how many.
        seed: of all choices.
        first: the number of the first.
        processes: helpers that work at a time.
        tell: whether to print what is found at once, and how far it is.

    Returns:
        What became of them, and what must not be.
    """
    seeds = make_seeds()
    mutator, reading = Mutator(seeds, seed), Reading(list(seeds.values()), processes)
    findings: list[Finding] = []
    for start in range(first, first + images, _BATCH):
        batch = [mutator.make(number) for number in range(start, min(start + _BATCH, first + images))]
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            found = list(reading.read(batch, Path(folder)))
        findings += found
        if tell:
            for finding in found:
                print(describe(finding), flush=True)
            print(f"{start + len(batch) - first} of {images}", flush=True)
    return reading.figures, findings


def describe(finding: Finding) -> str:
    """Describes what must not be in a line."""
    if finding.image is None:
        return finding.problem
    image = finding.image
    return f"image {image.number} (of {image.seed}: {', '.join(image.changes)}): {finding.problem}"


def format_figures(figures: Figures) -> str:
    """Formats what became of the images as lines: by format, then what the costliest took."""
    outcomes = sorted({outcome for _, outcome in figures.outcomes}, key=lambda outcome: (outcome != "read", outcome))
    rows = [["format", "images", *outcomes]]
    for form in [*sorted({form for form, _ in figures.outcomes}), "all"]:
        counts: collections.Counter[str] = collections.Counter()
        for (of_form, outcome), count in figures.outcomes.items():
            counts[outcome] += count * (form in (of_form, "all"))
        rows.append([form, str(counts.total()), *(str(counts[outcome]) for outcome in outcomes)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(
        [
            *lines,
            "slowest that was not stopped: {:.2f} s of processor time (image {})".format(*figures.slowest),
            "slowest that was stopped, with a helper's start: {:.2f} s (image {})".format(*figures.stopped),
            f"most memory of a helper: {figures.largest[0] / 1e6:.0f} MB (image {figures.largest[1]})",
        ]
    )


def keep(findings: list[Finding]) -> Path:
    """Writes the images of what must not be into a new folder, and returns it."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-findings-"))
    for finding in findings:
        if finding.image is not None:
            (folder / f"{finding.image.seed}-{finding.image.name}").write_bytes(finding.image.content)
    (folder / "findings.txt").write_text("".join(f"{describe(finding)}\n" for finding in findings), encoding="utf-8")
    return folder


def main() -> int:
    """Reads as many mutated images as is asked for; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first image")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    prepare_process()
    began = time.monotonic()
    figures, findings = fuzz(**vars(arguments), tell=True)
    print(format_figures(figures))
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = sum(each.ru_utime + each.ru_stime for each in used)
    print(
        f"seed {arguments.seed}, images {arguments.first} to {arguments.first + arguments.images - 1}: "
        f"{seconds:.0f} s of processor time in {time.monotonic() - began:.0f} s"
    )
    if findings:
        print(f"{len(findings)} findings: see {keep(findings)}")
        return 1
    print("no findings")
    return 0


if __name__ == "__main__":
    sys.exit(main())
