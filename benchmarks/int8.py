"""Benchmark of networks in 8 bits: time and errors on the test split of a workspace, beside the network in 32 bits.

    python benchmarks/int8.py --workspace=work/ [--rounds=5]

The latest model and its dataset are only read. The graph is made anew of `model.keras`, in 32 bits, with the layers in
8 bits that can be, and with the convolutions alone. All are measured on the test split in turns, in one process and
with one thread. Microseconds are processor time of the network alone. The train step's own decision, on the validation
split, is printed first.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout that this file lies in

import keras
import numpy as np
import onnx

from benchmarks.machine import measure_usage
from components.ctc.decoding import decode_greedily
from components.recogniser.engines import load_onnx
from components.recogniser.manifest import KERAS_NAME, ONNX_NAME, ModelManifest
from components.training.data import Examples, load_examples, make_ordered_batches
from components.training.export import ONNX_OPSET
from components.training.int8 import (
    CALIBRATION_LINES,
    LAYERS,
    LabelledBatch,
    count_errors,
    quantise,
    score_batches,
    try_int8,
)
from components.training.onnx_layers import can_write, write_network
from tfrecords import DatasetManifest

BATCH = 128


def make_batches(examples: Examples) -> list[LabelledBatch]:
    """Makes batches of all lines of a split."""
    return [
        LabelledBatch(images, widths, [examples.get_label(i).tolist() for i in indices])
        for images, widths, indices in make_ordered_batches(examples, BATCH)
    ]


def main() -> None:
    """Runs the measurement."""
    parser = argparse.ArgumentParser(description="Measure networks in 8 bits.", allow_abbrev=False)
    parser.add_argument("--workspace", required=True, help="folder with a model and its dataset")
    parser.add_argument(
        "--rounds", type=int, default=5, help="times that each network scores all (default: %(default)s)"
    )
    options = parser.parse_args()
    workspace = Path(options.workspace)
    folder = str(workspace / "models" / (workspace / "models" / "LATEST").read_text().strip())
    manifest = ModelManifest.read(folder)
    network = keras.models.load_model(manifest.fetch(folder, KERAS_NAME))
    if not can_write(network):
        sys.exit(f"error: {manifest.model} is not computed in 8 bits")
    dataset_folder = str(workspace / "datasets" / manifest.dataset_id)
    dataset = DatasetManifest.read(dataset_folder)
    old, new = dataset.read_charset(dataset_folder), manifest.read_charset(folder)
    train, validation, test = (
        load_examples(dataset_folder, dataset, split).change_charset(old, new)
        for split in ("train", "validation", "test")
    )
    chosen = np.random.default_rng(0).permutation(len(train))[:CALIBRATION_LINES]
    lines = [train.decode_line(i) for i in chosen]
    model = write_network(network, ONNX_OPSET)
    with tempfile.TemporaryDirectory(prefix="int8-") as scratch:
        path = os.path.join(scratch, ONNX_NAME)
        onnx.save(model, path)
        scores = {"32 bits": load_onnx(path, manifest.time_stride, threads=1)}
        float_errors = count_errors(list(score_batches(scores["32 bits"], judged := make_batches(validation))))
        trial = try_int8(scratch, lines, judged, float_errors)
        print(f"{manifest.model}: {trial.why}; {f'{trial.layers} in 8 bits' if trial.layers else 'not used'}")
        for layers, operations in LAYERS.items():
            onnx.save(quantise(model, lines, operations), path)
            scores[f"{layers} in 8 bits"] = load_onnx(path, manifest.time_stride, threads=1)
    batches = make_batches(test)
    seconds: dict[str, list[float]] = {name: [] for name in scores}
    with measure_usage() as usage:
        for number in range(1 + options.rounds):  # the first one warms up
            for name in [*scores][:: 1 if number % 2 else -1]:
                started = time.process_time()
                for _ in score_batches(scores[name], batches):
                    pass
                seconds[name].append(time.process_time() - started)
    print(f"{len(test)} test lines, {options.rounds} rounds; others took {usage.others:.0%} of the cores")
    texts: dict[str, list[list[int]]] = {}
    symbols = int(test.label_lengths.sum())
    for name, score in scores.items():
        scored = list(score_batches(score, batches))
        errors = count_errors(scored)
        texts[name] = [line.ids.tolist() for logits, steps, _ in scored for line in decode_greedily(logits, steps)]
        other = sum(a != b for a, b in zip(texts[name], texts["32 bits"], strict=True))
        each = 1e6 * statistics.median(seconds[name][1:]) / len(test)
        print(
            f"{name:<28}{each:7.0f} us a line, CER {errors.sum() / symbols:.2%}, exact {np.mean(errors == 0):.1%}, "
            f"{other} other texts"
        )


if __name__ == "__main__":
    main()
