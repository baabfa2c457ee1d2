"""Benchmark of a person's corrections: of the least confident readings, or of as many images drawn by chance.

    python benchmarks/review.py --images=../shared/data/captcha [--seeds=0,1,2] [--count=150] [--held_out=300]
        [--changed=0.2] [--height=48] [--epochs=60] [--tuning_epochs=20] [--scratch=DIR]

For each seed the images are dealt anew: `--count` of them train a model from random weights, `--held_out` are held out
from everything, and that model recognises the rest. Of both the last ones, a share of `--changed` is inverted: new
images are not quite like the old ones, which is why they are reviewed. The review step gives out the `--count` least
confident readings, their texts in `review.csv` are corrected from the truth (the images' names), and the table is
ingested: the model goes on learning from the old images and these. Another model learns from as many of the same images
drawn by chance. The command itself does all of it. Figures are shares of images that are recognised exactly: held-out
ones, except in `given out`.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout that this file lies in

from PIL import Image, ImageOps

from benchmarks.common import run_command

ACCEPT_ALL = ("--max_cer=1", "--max_cer_regression=1")


class Outcome(NamedTuple):
    """Shares of images that were recognised exactly.

    Attributes:
        before: of the held-out ones, by the first model.
        given_out: of those that were given out to be corrected, by the first model.
        doubtful: of the held-out ones, when the model had learned those.
        drawn: of the held-out ones, when the model had learned as many drawn by chance.
    """

    before: float
    given_out: float
    doubtful: float
    drawn: float


def correct(table: Path) -> list[bool]:
    """Corrects a review table from the names of its images, as a person would; returns which ones were right before."""
    with open(table, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["text"] = Path(row["path"]).stem
    with open(table, "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return [row["read"].strip() == row["text"] for row in rows]


def invert(path: Path) -> None:
    """Makes an image white on black."""
    with Image.open(path) as image:
        inverted = ImageOps.invert(image.convert("L"))
    inverted.save(path)


def measure(images: Path, folder: Path, seed: int, options: argparse.Namespace) -> Outcome:
    """Measures one seed, in a folder of its own."""
    names = sorted(path.name for path in images.iterdir())
    random.Random(seed).shuffle(names)
    parts = {
        "first": names[: options.count],
        "held_out": names[options.count : options.count + options.held_out],
        "new": names[options.count + options.held_out :],
    }
    for part, part_names in parts.items():
        (folder / part).mkdir(parents=True)
        for number, name in enumerate(part_names):
            shutil.copy2(images / name, folder / part)
            if part != "first" and number < options.changed * len(part_names):
                invert(folder / part / name)
    first = folder / "workspace"

    def run(workspace: Path, steps: str, *flags: str) -> dict[str, object]:
        return run_command(workspace, f"--steps={steps}", f"--seed={seed}", *ACCEPT_ALL, *flags).figures

    def train_and_measure(workspace: Path, *flags: str) -> float:
        """Returns the share of the held-out images that the new model recognises."""
        held_out = f"--infer_images={folder / 'held_out'}"
        run_id = run(workspace, "ingest,train,evaluate,infer", held_out, f"--height={options.height}", *flags)["run_id"]
        return measure_share_recognised(workspace, str(run_id))

    flags = (f"--images={folder / 'first'}", f"--epochs={options.epochs}", "--init_from=none")
    before = train_and_measure(first, *flags)
    model_id = (first / "models" / "ACCEPTED").read_text().strip()
    shutil.rmtree(first / "predictions")  # what is held out is not given out
    run(first, "infer,review", f"--infer_images={folder / 'new'}", f"--review_count={options.count}")
    second = shutil.copytree(first, folder / "drawn")
    (table,) = first.glob("review/*/review.csv")
    right = correct(table)
    tuning_flags = (f"--init_from={model_id}", f"--epochs={options.tuning_epochs}")
    doubtful = train_and_measure(first, f"--label_source={table}", *tuning_flags)
    chosen = random.Random(seed).sample(sorted(parts["new"]), options.count)
    images_drawn = ",".join(str(folder / "new" / name) for name in chosen)
    drawn_flags = (f"--images={images_drawn}", "--label_source=filename", "--add_to=LATEST")
    drawn = train_and_measure(second, *drawn_flags, *tuning_flags)
    return Outcome(before, sum(right) / len(right), doubtful, drawn)


def measure_share_recognised(workspace: Path, run_id: str) -> float:
    """Returns the share of a run's images that were recognised exactly; their names are their texts."""
    from components.predictions.runs import read_predictions

    (folder,) = workspace.glob(f"predictions/*/run={run_id}")
    rows = read_predictions(str(folder), ["uri", "text"])
    return sum(Path(row["uri"]).stem == row["text"] for row in rows) / len(rows)


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Parses the flags."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.partition("\n")[0])
    parser.add_argument("--images", required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--held_out", type=int, default=300)
    parser.add_argument("--height", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--tuning_epochs", type=int, default=20)
    parser.add_argument("--changed", type=float, default=0.2)
    parser.add_argument("--scratch", default=tempfile.gettempdir())
    return parser.parse_args(argv)


def main() -> None:
    """Prints a row for each seed, and the means."""
    options = parse_arguments(sys.argv[1:])
    print(f"{'seed':<6}{'before':>9}{'given out':>11}{'doubtful':>10}{'gain':>8}{'drawn':>10}{'gain':>8}")
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="review-", dir=options.scratch) as folder:
        for seed in map(int, options.seeds.split(",")):
            outcomes.append(measure(Path(options.images).resolve(), Path(folder, str(seed)), seed, options))
            print_row(str(seed), *outcomes[-1])
            shutil.rmtree(os.path.join(folder, str(seed)))
    print_row("mean", *(statistics.mean(column) for column in zip(*outcomes, strict=True)))


def print_row(name: str, before: float, given_out: float, doubtful: float, drawn: float) -> None:
    """Prints the shares, and their gains over the first model."""
    after = "".join(f"{share:>10.1%}{share - before:>+8.1%}" for share in (doubtful, drawn))
    print(f"{name:<6}{before:>9.1%}{given_out:>11.1%}{after}", flush=True)


if __name__ == "__main__":
    main()
