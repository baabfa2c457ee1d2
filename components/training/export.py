"""Export of a trained network, also for users who have neither this project nor Python.

    model.keras    for Keras
    saved_model/   for TensorFlow and TF Serving, from image files to text
    model.onnx     for ONNX Runtime and everything else that runs ONNX

Each has inside what its user must know: the charset, and how an image is prepared.
"""

from __future__ import annotations

import json
import logging
import os
import zipfile
from typing import Any

import keras
import tensorflow as tf

from components.process_settings import set_log_level
from components.recogniser.manifest import KERAS_NAME, ONNX_NAME, SAVED_MODEL_NAME
from components.training.recipes import TIME_STRIDE
from components.training.serving import decode_text, read_lines
from tfrecords import Charset, storage
from tfrecords.directions import VISUAL
from tfrecords.manifest import CHARSET_NAME

PREPROCESSING_NAME = "preprocessing.json"
ONNX_OPSET = 17

_EXTRA_ASSETS = "assets.extra"  # a SavedModel's folder for files that TensorFlow itself ignores


def make_input_signature(height: int) -> list[tf.TensorSpec]:
    """Returns the inputs: images uint8 [batch, height, width, 1], white beyond a line's end, widths int32 [batch]."""
    return [
        tf.TensorSpec([None, height, None, 1], tf.uint8, name="images"),
        tf.TensorSpec([None], tf.int32, name="widths"),
    ]


def export_model(
    reader: keras.Model,
    charset: Charset,
    height: int,
    folder: str,
    temperature: float = 1.0,
    vertical: bool = False,
) -> None:
    """Writes `model.keras`, `saved_model/` and `model.onnx` into a folder.

    The SavedModel has two signatures:

    - `read`, the default one. Input: `files` string [batch], whole image files of the formats that
      `components.training.serving` names. Output: `text` string [batch], UTF-8, and `confidence` float32 [batch], the
      posterior of the text over all its alignments. One file that cannot be read fails its whole batch with an
      InvalidArgumentError. A graph cannot bring right-to-left text into logical order: where the charset has a base
      direction, the output is `display_text` instead, as seen from left to right.
    - `score`. Input: `images` and `widths`, as `make_input_signature` says. Output: `logits` float32 [batch, time,
      classes], unnormalised, and `time_steps` int32 [batch].

    The ONNX model takes and gives what `score` does. It is written layer by layer where the network can be written so
    (`components.training.onnx_layers.can_write`), and converted from TensorFlow's graph elsewhere.

    The charset and the preprocessing are the members `charset.txt` and `preprocessing.json` of the archive
    `model.keras`, the same files in the SavedModel's `assets.extra`, and the ONNX model's metadata.

    Args:
        reader: a network of `components.training.networks`.
        charset: of its classes.
        height: pixels of the lines that it recognises.
        folder: local; exists.
        temperature: logits are divided by this before confidences are computed.
        vertical: whether images are turned before they are read.
    """

    @tf.function(input_signature=make_input_signature(height), autograph=False)
    def score(images: tf.Tensor, widths: tf.Tensor) -> dict[str, tf.Tensor]:
        return reader([images, widths], training=False)

    preprocessing = _preprocessing(reader, charset, height, temperature, vertical)
    files = {
        CHARSET_NAME: charset.to_file_text(),
        PREPROCESSING_NAME: json.dumps(preprocessing, indent=2) + "\n",
    }
    _write_keras(reader, files, os.path.join(folder, KERAS_NAME))
    saved_model = os.path.join(folder, SAVED_MODEL_NAME)
    _write_saved_model(reader, score, charset, height, temperature, vertical, files, saved_model)
    _write_onnx(reader, score, make_input_signature(height), charset, preprocessing, os.path.join(folder, ONNX_NAME))


def _preprocessing(
    reader: keras.Model, charset: Charset, height: int, temperature: float, vertical: bool
) -> dict[str, Any]:
    return {
        "model": reader.name,
        "height": height,
        "time_stride": TIME_STRIDE,
        "padding": 255,
        "blank": charset.blank,
        "temperature": temperature,
        "grey": "ITU-R 601-2 luma, 0 black to 255 white; transparency on white, or on black if white shows nothing",
        "turned": "a quarter to the left, before it is scaled" if vertical else "no",
        "base_direction": charset.direction,
        "resampling": "bilinear with antialiasing, aspect kept",
    }


def _write_keras(reader: keras.Model, files: dict[str, str], path: str) -> None:
    reader.save(path)
    with zipfile.ZipFile(path, "a") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def _write_saved_model(
    reader: keras.Model,
    score: Any,
    charset: Charset,
    height: int,
    temperature: float,
    vertical: bool,
    files: dict[str, str],
    folder: str,
) -> None:
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="files")], autograph=False)
    def read(files: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = score(*read_lines(files, height, TIME_STRIDE, vertical))
        text, confidence = decode_text(outputs["logits"] / temperature, outputs["time_steps"], charset.symbols)
        return {"text" if charset.direction == VISUAL else "display_text": text, "confidence": confidence}

    archive = keras.export.ExportArchive()
    archive.track(reader)
    for name, endpoint in {"read": read, "score": score}.items():  # the first is the default signature
        endpoint.get_concrete_function()
        archive.add_endpoint(name, endpoint)
    storage.remove_folder(folder)  # what a worker that was killed had written of it
    archive.write_out(folder, verbose=False)
    extra = os.path.join(folder, _EXTRA_ASSETS)
    os.makedirs(extra)
    for name, content in files.items():
        with open(os.path.join(extra, name), "w", newline="\n", encoding="utf-8") as file:
            file.write(content)


def _write_onnx(
    reader: keras.Model,
    score: Any,
    signature: list[tf.TensorSpec],
    charset: Charset,
    preprocessing: dict[str, Any],
    path: str,
) -> None:
    import onnx  # only here, like what uses it: what does not export does not pay for it

    from components.training.onnx_layers import can_write, write_network

    written = can_write(reader)
    model = write_network(reader, ONNX_OPSET) if written else convert_to_onnx(score, signature, reader.name)
    metadata = {name: str(value) for name, value in preprocessing.items()}
    metadata["charset"] = json.dumps(charset.symbols, ensure_ascii=False)
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def convert_to_onnx(score: Any, signature: list[tf.TensorSpec], name: str) -> Any:
    """Converts TensorFlow's graph of a network to an ONNX model, with hundreds of nodes for what TensorFlow has in one.

    Args:
        score: images and widths to logits and time steps, a `tf.function`.
        signature: of its arguments, see `make_input_signature`.
        name: of the network.
    """
    import tf2onnx

    with set_log_level("tf2onnx", logging.ERROR):  # it warns of the seeds of dropout, which nothing reads here
        model, _ = tf2onnx.convert.from_function(score, signature, opset=ONNX_OPSET)
    model.graph.name = name
    model.graph.ClearField("doc_string")
    axes = {"images": ("batch", "height", "width", "channel"), "logits": ("batch", "time", "class")}
    for value in [*model.graph.input, *model.graph.output]:
        for axis, dimension in zip(axes.get(value.name, ("batch",)), value.type.tensor_type.shape.dim, strict=True):
            if not dimension.dim_value:
                dimension.dim_param = axis
    return model
