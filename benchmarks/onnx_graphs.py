"""Benchmark of a model's ONNX graph: processor time of the written graph, and of the same network converted.

    python benchmarks/onnx_graphs.py --images=../shared/data/captcha --model=work/models/ID [--count=512] [--rounds=9]

The model is only read. Its `model.keras` is exported anew, once in each way. Both score the same batches, as the infer
step collects them, in turns, in one process and with one thread. Microseconds are processor time, without decoding of
images. The converted graph is measured twice: with each batch in its order, as earlier versions scored it, and with
lines of like width together, as this version does. The largest difference is that of logits within the lines' time
steps, from Keras.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout that this file lies in

import keras
import numpy as np
import onnx
import onnxruntime
import tensorflow as tf

from components.listing import list_images, uri_to_path
from components.recogniser.batches import collect_batches
from components.recogniser.engines import load_engine
from components.recogniser.manifest import KERAS_NAME, ONNX_NAME, ModelManifest, describe_files
from components.training.export import ONNX_OPSET, convert_to_onnx, make_input_signature
from components.training.onnx_layers import can_write, write_network
from tfrecords import ImageLimits, pad_lines, read_line

Score = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
PARTS_PIXELS = 150_000  # of one call in earlier versions


def convert(network: keras.Model, height: int) -> tuple[onnx.ModelProto, float]:
    """Converts a network, and returns the seconds of processor time that it took, too."""

    @tf.function(input_signature=make_input_signature(height))
    def score(images: tf.Tensor, widths: tf.Tensor) -> dict[str, tf.Tensor]:
        return network([images, widths], training=False)

    started = time.process_time()
    return convert_to_onnx(score, make_input_signature(height), network.name), time.process_time() - started


def write(network: keras.Model) -> tuple[onnx.ModelProto, float]:
    """Writes a network, and returns the seconds of processor time that it took, too."""
    started = time.process_time()
    return write_network(network, ONNX_OPSET), time.process_time() - started


def load(model: onnx.ModelProto, manifest: ModelManifest, folder: Path) -> Score:
    """Loads a graph as the product does, with one thread."""
    folder.mkdir()
    onnx.save(model, folder / ONNX_NAME)
    manifest = dataclasses.replace(manifest, files=describe_files(str(folder)))
    return load_engine("onnx", str(folder), manifest, threads=1).score


def load_in_order(path: Path) -> Score:
    """Loads a graph as earlier versions did: a batch is scored in parts as they come, each as wide as the batch."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def score(images: np.ndarray, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lines = max(1, PARTS_PIXELS // images[0].size)
        parts = [
            session.run(["logits", "time_steps"], {"images": images[i : i + lines], "widths": widths[i : i + lines]})
            for i in range(0, len(images), lines)
        ]
        logits, time_steps = (np.concatenate(part) for part in zip(*parts, strict=True))
        return logits, time_steps

    return score


def find_difference(score: Score, network: keras.Model, batches: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Finds the largest difference of logits from those of Keras."""
    largest = 0.0
    for images, widths in batches:
        wanted = network([images, widths], training=False)["logits"].numpy()
        for line, other, steps in zip(wanted, *score(images, widths), strict=True):
            largest = max(largest, float(np.abs(line[:steps] - other[:steps]).max()))
    return largest


def main() -> None:
    """Runs the measurement."""
    parser = argparse.ArgumentParser(description="Measure ONNX graphs.", allow_abbrev=False)
    parser.add_argument("--images", required=True, help="folder of images")
    parser.add_argument("--model", required=True, help="folder of a model whose graph can be written")
    parser.add_argument("--count", type=int, default=512, help="images (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="times that each graph scores all (default: %(default)s)")
    options = parser.parse_args()
    manifest = ModelManifest.read(options.model)
    network = keras.models.load_model(manifest.fetch(options.model, KERAS_NAME))
    if not can_write(network):
        sys.exit(f"error: the graph of {manifest.model} is always converted")
    paths = [uri_to_path(image.uri) for image in list_images(os.path.abspath(options.images))]
    chosen = np.random.default_rng(0).permutation(len(paths))[: options.count]
    lines = [read_line(Path(paths[i]).read_bytes(), manifest.height, ImageLimits()).pixels for i in chosen]
    collected = collect_batches((None, line) for line in lines)
    batches = [pad_lines([line for _, line in batch], manifest.time_stride) for batch in collected]
    convert(network, manifest.height)  # the first one loads what the second one finds
    with tempfile.TemporaryDirectory(prefix="graphs-") as folder:
        exports = {"converted": convert(network, manifest.height), "written": write(network)}
        scores = {name: load(model, manifest, Path(folder, name)) for name, (model, _) in exports.items()}
        scores = {"converted, in order": load_in_order(Path(folder, "converted", ONNX_NAME)), **scores}
    seconds: dict[str, list[float]] = {name: [] for name in scores}
    for number in range(1 + options.rounds):  # the first one warms up
        for name in [*scores][:: 1 if number % 2 else -1]:
            started = time.process_time()
            for batch in batches:
                scores[name](*batch)
            seconds[name].append(time.process_time() - started)
    print(f"{manifest.model}, {len(lines)} lines in {len(batches)} batches, {options.rounds} rounds")
    for name, (_, taken) in exports.items():
        print(f"{name:<22}{taken:9.2f} s to make it")
    for name, score in scores.items():
        each = [1e6 * second / len(lines) for second in seconds[name][1:]]
        difference = find_difference(score, network, batches)
        median = f"{statistics.median(each):7.0f} us an image (least {min(each):.0f})"
        print(f"{name:<22}{median}, largest difference {difference:.1e}")


if __name__ == "__main__":
    main()
