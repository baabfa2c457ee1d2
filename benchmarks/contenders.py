"""Speeds of other recognisers in images a second, each in a process of its own; `benchmarks/inference.py` runs this.

    PYTHON benchmarks/contenders.py CONTENDER --images=FILE [--processes=2] [--threads=1] [--batch=1]

FILE names the images, one a line. Prints one JSON object: the fields of a `Rate`, or `{"not_installed": …}`. All read
the same files, from the page cache; docTR's network alone gets ready noise of the size that it takes.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.metadata
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout that this file lies in

from benchmarks.common import measure_rate, read_only
from benchmarks.machine import Rate, measure_usage

TESSDATA = ("/usr/share/tesseract-ocr/5/tessdata", "/usr/share/tessdata")  # Debian's and others' package of English
_IMAGES_A_TURN = 4
_WORD_SIZE = (32, 128)  # pixels of height and width that docTR's network reads


class NotInstalledError(Exception):
    """The reason why a contender cannot be run here."""


def measure_ddddocr(paths: list[str], processes: int, threads: int, batch: int) -> Rate:
    """Measures ddddocr's own `classification` of a file's bytes; its network takes one image at a time."""
    del batch
    _require_package("ddddocr")
    read = functools.partial(_read_with_ddddocr, threads=threads)
    return measure_rate(read, paths, processes=processes, items_a_turn=_IMAGES_A_TURN)


def _read_with_ddddocr(path: str, threads: int) -> str:
    return _load_ddddocr(threads).classification(read_only(path))


@functools.cache
def _load_ddddocr(threads: int) -> Any:
    import ddddocr
    import onnxruntime

    reader = ddddocr.DdddOcr(show_ad=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    network = Path(ddddocr.__file__).with_name("common_old.onnx")  # the one that it loads by default
    reader.ocr_engine.session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    return reader


def measure_tesserocr(paths: list[str], processes: int, threads: int, batch: int) -> Rate:
    """Measures Tesseract, English, each image as a single word; its own library reads the file."""
    del batch
    _require_package("tesserocr")
    _find_tessdata()
    os.environ["OMP_THREAD_LIMIT"] = str(threads)
    return measure_rate(_read_with_tesserocr, paths, processes=processes, items_a_turn=_IMAGES_A_TURN)


def _read_with_tesserocr(path: str) -> str:
    recogniser = _load_tesserocr()
    recogniser.SetImageFile(path)
    return recogniser.GetUTF8Text()


@functools.cache
def _load_tesserocr() -> Any:
    import tesserocr

    return tesserocr.PyTessBaseAPI(path=_find_tessdata(), lang="eng", psm=tesserocr.PSM.SINGLE_WORD)


def _find_tessdata() -> str:
    for folder in (os.environ.get("TESSDATA_PREFIX", ""), *TESSDATA):
        if os.path.exists(os.path.join(folder, "eng.traineddata")):
            return folder
    raise NotInstalledError("no eng.traineddata (Debian: tesseract-ocr-eng)")


def measure_doctr(paths: list[str], processes: int, threads: int, batch: int) -> Rate:
    """Measures the forward pass of docTR's `crnn_mobilenet_v3_small` on ready batches: no image is decoded, no text.

    Its weights are random."""
    _require_package("python-doctr")
    batches = [batch] * max(1, len(paths) // batch)
    score = functools.partial(_score_with_doctr, threads=threads)
    found = measure_rate(score, batches, processes=processes, items_a_turn=1)
    return found.count_parts(batch)


def _score_with_doctr(batch: int, threads: int) -> None:
    import torch

    network, images = _load_doctr(batch, threads)
    with torch.inference_mode():
        network(images)


@functools.cache
def _load_doctr(batch: int, threads: int) -> tuple[Any, Any]:
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:  # one for GPUs beside a PyTorch for CPUs lacks these two, which the network does not use
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float threshold) -> Tensor")
    from doctr.models.recognition import crnn_mobilenet_v3_small

    torch.set_num_threads(threads)
    network = crnn_mobilenet_v3_small(pretrained=False, pretrained_backbone=False, exportable=True).eval()
    images = torch.rand(batch, 3, *_WORD_SIZE)
    with torch.inference_mode():
        network(images)
    return network, images


def measure_ocr_model_v1(paths: list[str], processes: int, threads: int, batch: int) -> Rate:
    """Measures the reference network as tutorials use it: `tf.data`, `predict`, Keras's CTC, a join; random weights."""
    import keras
    import numpy as np
    import tensorflow as tf

    from components.training.layers import FixedTimeSteps, ResizeLines
    from components.training.networks import NETWORKS

    del processes, threads  # TensorFlow uses all cores
    symbols = "0123456789abcdefghijklmnopqrstuvwxyz"
    with_resizing = NETWORKS["ocr_model_v1"](len(symbols) + 1, 50)
    ours = (keras.layers.InputLayer, ResizeLines, FixedTimeSteps)
    inputs = x = keras.Input((50, 200, 1))
    for layer in with_resizing.layers:
        x = x if isinstance(layer, ours) else layer(x)
    network = keras.Model(inputs, x)

    def load(path: Any) -> Any:
        image = tf.io.decode_png(tf.io.read_file(path), channels=1)
        return tf.image.resize(image, (50, 200))

    def recognise(batch_paths: list[str]) -> list[str]:
        images = tf.data.Dataset.from_tensor_slices(batch_paths).map(load, num_parallel_calls=tf.data.AUTOTUNE)
        logits = network.predict(images.batch(batch).prefetch(tf.data.AUTOTUNE), verbose=0)
        lengths = np.full(len(logits), logits.shape[1])
        ids = keras.ops.ctc_decode(logits, lengths, strategy="greedy", mask_index=len(symbols))[0][0]
        return ["".join(symbols[i] for i in row if i >= 0) for row in keras.ops.convert_to_numpy(ids)]

    recognise(paths[: 4 * batch])
    with measure_usage() as usage:
        recognise(paths)
    return usage.make_rate(len(paths))


CONTENDERS: dict[str, Callable[[list[str], int, int, int], Rate]] = {
    "ddddocr": measure_ddddocr,
    "tesserocr": measure_tesserocr,
    "doctr": measure_doctr,
    "ocr_model_v1": measure_ocr_model_v1,
}


def _require_package(package: str) -> None:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise NotInstalledError(f"{package} is not in {sys.prefix}") from None


def main() -> None:
    """Measures one contender in one setting."""
    parser = argparse.ArgumentParser(description="Measure another recogniser.", allow_abbrev=False)
    parser.add_argument("contender", choices=CONTENDERS)
    parser.add_argument("--images", required=True, help="file with the paths of the images, one a line")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    paths = Path(options.images).read_text(encoding="utf-8").split("\n")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            rate = CONTENDERS[options.contender](paths, options.processes, options.threads, options.batch)
    except NotInstalledError as problem:
        print(json.dumps({"not_installed": str(problem)}))
    else:
        print(json.dumps(rate._asdict()))


if __name__ == "__main__":
    main()
