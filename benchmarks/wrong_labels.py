"""Benchmark of the review of labels: labels are spoiled, and the share of them among the first given out is counted.

    python benchmarks/wrong_labels.py --images=../shared/data/captcha [--label_source=filename] [--spoiled=0.03]
        [--looked_at=0.05] [--seeds=0,1,2] [--scratch=DIR] [any flag of the command]

For each seed, a share of `--spoiled` of the labels is spoiled: in turn a symbol is changed into another of the charset,
two different neighbours are swapped, or the label of another image is taken. The goal is to find 90 % of them among
the first 5 % of all lines. Labels that are wrong in the collection itself count as sound.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout that this file lies in

from benchmarks.common import run_command


class Outcome(NamedTuple):
    """The outcome of a review of one seed's labels.

    Attributes:
        lines: labels that were checked.
        spoiled: of them, how many had been spoiled.
        found: of those, how many are among the first.
        seconds: that the command took.
    """

    lines: int
    spoiled: int
    found: int
    seconds: float


def read_labels(images: str, label_source: str, workspace: Path) -> dict[str, str]:
    """Reads the labels as the ingest step does; returns them by image."""
    from components.listing import uri_to_path
    from tfrecords import DatasetManifest, read_record_batches

    figures = run_command(workspace, "--steps=ingest", f"--images={images}", f"--label_source={label_source}").figures
    folder = str(workspace / "datasets" / str(figures["dataset_id"]))
    labels = {}
    for shard in DatasetManifest.read(folder).shards:
        for batch in read_record_batches(f"{folder}/{shard.name}"):
            uris, texts = (batch.column(batch.schema.get_field_index(name)).flatten() for name in ("uri", "text"))
            for uri, text in zip(uris.to_pylist(), texts.to_pylist(), strict=True):
                labels[uri_to_path(uri.decode())] = text.decode()
    return labels


def spoil(labels: dict[str, str], share: float, seed: int) -> dict[str, str]:
    """Spoils a share of the labels; returns the new labels of those images."""
    chooser = random.Random(seed)
    symbols = sorted({symbol for label in labels.values() for symbol in label if symbol != " "})
    images = sorted(labels)
    spoiled: dict[str, str] = {}
    for image in chooser.sample(images, len(images)):
        if len(spoiled) >= share * len(images):
            break
        label, kind = labels[image], len(spoiled) % 3
        place = chooser.randrange(max(len(label) - 1, 1))
        new = (
            label[:place] + chooser.choice(symbols) + label[place + 1 :],
            label[:place] + label[place : place + 2][::-1] + label[place + 2 :],
            labels[images[(images.index(image) + 1) % len(images)]],
        )[kind]
        if " ".join(new.split()) not in ("", label):
            spoiled[image] = " ".join(new.split())
    return spoiled


def measure(labels: dict[str, str], folder: Path, seed: int, options: argparse.Namespace, flags: list[str]) -> Outcome:
    """Spoils labels, reviews them, and counts what is found."""
    import pyarrow.parquet

    from components.listing import uri_to_path
    from components.review.labels import find_suspects

    spoiled = spoil(labels, options.spoiled, seed)
    table = folder / "labels.csv"
    with open(table, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("path", "text"), *{**labels, **spoiled}.items()])
    source = (f"--images={options.images}", f"--label_source={table}", f"--seed={seed}")
    result = run_command(folder / "workspace", "--steps=ingest,review", "--review=labels", *source, *flags)
    (checked,) = folder.glob("workspace/review/*/labels.parquet")
    suspects = find_suspects(pyarrow.parquet.read_table(checked))
    first = suspects[: round(options.looked_at * len(labels))]
    found = spoiled.keys() & {uri_to_path(suspect.uri) for suspect in first}
    return Outcome(len(labels), len(spoiled), len(found), result.process)


def main() -> None:
    """Prints a row for each seed."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.partition("\n")[0])
    parser.add_argument("--images", required=True, type=os.path.abspath)
    parser.add_argument("--label_source", default="filename")
    parser.add_argument("--spoiled", type=float, default=0.03)
    parser.add_argument("--looked_at", type=float, default=0.05)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--scratch", default=tempfile.gettempdir())
    options, flags = parser.parse_known_args()
    print(f"{'seed':<6}{'lines':>8}{'spoiled':>9}{'found':>7}{'share':>8}{'seconds':>9}")
    with tempfile.TemporaryDirectory(prefix="labels-", dir=options.scratch) as folder:
        labels = read_labels(options.images, options.label_source, Path(folder, "labels"))
        for seed in map(int, options.seeds.split(",")):
            place = Path(folder, str(seed))
            place.mkdir()
            lines, spoiled, found, seconds = measure(labels, place, seed, options, flags)
            print(f"{seed:<6}{lines:>8,}{spoiled:>9,}{found:>7,}{found / spoiled:>8.1%}{seconds:>9.0f}", flush=True)


if __name__ == "__main__":
    main()
