"""The exported model in all its formats, held against the trained network and the pipeline."""

from __future__ import annotations

import json
import math
import os
import pathlib
import subprocess
import sys
import zipfile

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from keras import layers

from components.ctc.decoding import decode_greedily
from components.recogniser.handler import LineModelHandler
from components.training.export import ONNX_OPSET, export_model
from components.training.networks import NETWORKS
from tfrecords import Charset, ImageLimits, pad_lines, read_line

HEIGHT = 40
CHARSET = Charset.from_texts(["2345678bcdefgmnpwxy ſé"])


def network_that_reads(name: str, height: int) -> keras.Model:
    """It never trained, but its random weights write something on every line, not everywhere the same."""
    keras.utils.set_random_seed(2)
    model = NETWORKS[name](CHARSET.classes, height)
    chooser = np.random.default_rng(2)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([chooser.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    head = model.get_layer("logits")
    kernel, bias = head.get_weights()
    kernel = chooser.normal(0, 1, kernel.shape)
    head.set_weights([kernel, bias])
    strokes = 255 * np.kron(chooser.random((4, height // 8, 50)) < 0.8, np.ones((8, 4))).astype(np.uint8)
    lines, widths = pad_lines([*strokes], 4)
    head.set_weights([kernel, -model([lines, widths])["logits"].numpy().mean(axis=(0, 1))])
    return model


def exported(model: keras.Model, height: int, folder: pathlib.Path) -> dict:
    """`(images, widths)` to logits and time steps: the network, and each format that it was exported to."""
    export_model(model, CHARSET, height, str(folder))
    return {"network": lambda images, widths: model([images, widths], training=False), **readers(folder)}


def readers(folder: pathlib.Path) -> dict:
    loaded = keras.models.load_model(folder / "model.keras", safe_mode=True)
    saved = tf.saved_model.load(str(folder / "saved_model"))
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return {
        "keras": lambda images, widths: loaded([images, widths], training=False),
        "saved_model": lambda images, widths: saved.signatures["score"](
            images=tf.constant(images), widths=tf.constant(widths)
        ),
        "onnx": lambda images, widths: dict(
            zip(names, session.run(names, {"images": images, "widths": widths}), strict=True)
        ),
    }


def assert_all_agree(scores: dict, images: np.ndarray, widths: np.ndarray) -> None:
    wanted = scores["network"](images, widths)
    for name, score in scores.items():
        found = score(images, widths)
        assert np.asarray(found["logits"]).dtype == np.float32, name
        largest = np.abs(wanted["logits"]).max()  # random weights give far larger logits than trained ones
        np.testing.assert_allclose(found["logits"], wanted["logits"], atol=max(1e-4, 1e-5 * largest), err_msg=name)
        np.testing.assert_array_equal(found["time_steps"], wanted["time_steps"], err_msg=name)


@pytest.mark.parametrize(
    "name", ["ctc_conv", *(pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS if name != "ctc_conv")]
)
def test_every_format_gives_the_network_s_logits_at_any_batch_size_and_width(name, tmp_path, capfd):
    model = network_that_reads(name, HEIGHT)
    capfd.readouterr()
    scores = exported(model, HEIGHT, tmp_path)
    chooser = np.random.default_rng(3)
    for widths in ([61, 8, 117, 3, 120], [64], [400, 333]):
        lines = [chooser.integers(0, 256, (HEIGHT, width), np.uint8) for width in widths]
        assert_all_agree(scores, *pad_lines(lines, 4))
    assert capfd.readouterr() == ("", "")
    onnx.checker.check_model(onnx.load(tmp_path / "model.onnx"), full_check=True)


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize(("name", "one_in"), [("ctc_conv", 4), ("crnn_v1", 20), ("ocr_model_v1", 20)])
def test_every_format_agrees_on_real_images(name, one_in, shared_data, tmp_path):
    scores = exported(network_that_reads(name, 48), 48, tmp_path)
    saved = tf.saved_model.load(str(tmp_path / "saved_model"))
    captchas = sorted((shared_data / "captcha").glob("*.png"))
    lines = sorted((shared_data / "fraktur").glob("*/*.png"))
    paths = captchas[::one_in] + lines[:: 10 * one_in]
    different = set()
    for start in range(0, len(paths), 32):
        files = [path.read_bytes() for path in paths[start : start + 32]]
        images, widths = pad_lines([read_line(data, 48, ImageLimits()).pixels for data in files], 4)
        assert_all_agree(scores, images, widths)
        outputs = scores["network"](images, widths)
        wanted = decode_greedily(outputs["logits"].numpy(), outputs["time_steps"].numpy())
        found = saved.signatures["read"](files=tf.constant(files))
        texts = [text.decode() for text in found["text"].numpy()]
        assert texts == [CHARSET.decode(line.ids) for line in wanted]
        np.testing.assert_allclose(found["confidence"], np.exp([line.log_probability for line in wanted]), 1e-3, 1e-6)
        different.update(texts)
    assert len(different) > 3


@pytest.fixture(scope="module")
def image_files(tiny_images) -> list[bytes]:
    return [path.read_bytes() for path in sorted(tiny_images.glob("*.png"))]


@pytest.fixture(scope="module")
def readings(tiny_model, image_files):
    """What the pipeline reads."""
    handler = LineModelHandler(str(tiny_model))
    lines = [read_line(data, 32, ImageLimits()).pixels for data in image_files]
    return list(handler.run_inference(lines, handler.load_model()))


@pytest.mark.parametrize("signature", ["read", "serving_default"])
def test_image_files_are_read_as_the_pipeline_reads_them(tiny_model, image_files, readings, signature):
    saved = tf.saved_model.load(str(tiny_model / "saved_model"))
    assert set(saved.signatures) == {"read", "score", "serving_default"}
    found = saved.signatures[signature](files=tf.constant(image_files))
    assert [text.decode() for text in found["text"].numpy()] == [reading.text for reading in readings]
    np.testing.assert_allclose(found["confidence"], [reading.confidence for reading in readings], rtol=1e-4)


def test_one_file_that_cannot_be_read_fails_its_batch(tiny_model, image_files):
    saved = tf.saved_model.load(str(tiny_model / "saved_model"))
    with pytest.raises(tf.errors.InvalidArgumentError, match="the bytes are no PNG, JPEG, WebP or BMP of 24 bits"):
        saved.signatures["read"](files=tf.constant([image_files[0], b"no image"]))


def test_what_an_onnx_file_says_of_itself_is_enough_to_read_with_it(tiny_model, image_files, readings):
    session = onnxruntime.InferenceSession(tiny_model / "model.onnx", providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    symbols, blank = json.loads(metadata["charset"]), int(metadata["blank"])
    height, stride, white = (int(metadata[name]) for name in ("height", "time_stride", "padding"))
    assert metadata["model"] == "ctc_conv"
    assert white == 255
    for data, reading in zip(image_files, readings, strict=True):
        line = read_line(data, height, ImageLimits()).pixels
        padded = np.pad(line, [(0, 0), (0, -line.shape[1] % stride)], constant_values=white)
        logits, _ = session.run(
            ["logits", "time_steps"],
            {"images": padded[None, :, :, None], "widths": np.array([line.shape[1]], np.int32)},
        )
        best = logits[0].argmax(axis=1).tolist()
        merged = [i for i, before in zip(best, [blank, *best], strict=False) if i != before and i != blank]
        assert "".join(symbols[i] for i in merged) == reading.text


def test_an_onnx_file_has_named_axes_and_the_pinned_opset(tiny_model):
    model = onnx.load(tiny_model / "model.onnx")
    assert [each.version for each in model.opset_import if each.domain == ""] == [ONNX_OPSET]
    session = onnxruntime.InferenceSession(tiny_model / "model.onnx", providers=["CPUExecutionProvider"])
    faces = {each.name: (each.type, each.shape) for each in [*session.get_inputs(), *session.get_outputs()]}
    assert faces == {
        "images": ("tensor(uint8)", ["batch", 32, "width", 1]),
        "widths": ("tensor(int32)", ["batch"]),
        "logits": ("tensor(float)", ["batch", "time", 8]),
        "time_steps": ("tensor(int32)", ["batch"]),
    }


def test_charset_and_preprocessing_are_in_the_keras_file_and_the_saved_model(tiny_model):
    charset = (tiny_model / "charset.txt").read_text(encoding="utf-8")
    with zipfile.ZipFile(tiny_model / "model.keras") as archive:
        inside = {name: archive.read(name).decode() for name in ("charset.txt", "preprocessing.json")}
    extra = tiny_model / "saved_model" / "assets.extra"
    assert {path.name: path.read_text(encoding="utf-8") for path in extra.iterdir()} == inside
    assert inside["charset.txt"] == charset == "0\n1\n2\n3\na\nb\nc\n"
    preprocessing = json.loads(inside["preprocessing.json"])
    assert (preprocessing["height"], preprocessing["time_stride"]) == (32, 4)
    assert (preprocessing["padding"], preprocessing["blank"]) == (255, 7)


def test_no_exported_file_names_a_folder_of_the_machine_that_wrote_it(tiny_model):
    folders = [str(tiny_model), os.getcwd(), os.path.dirname(keras.__file__), sys.prefix]
    for path in [*tiny_model.rglob("*")]:
        if path.is_file():
            content = path.read_bytes()
            assert not [folder for folder in folders if folder.encode() in content], path


@pytest.mark.slow
def test_a_saved_model_needs_nothing_of_this_project(tiny_model, image_files, readings, tmp_path):
    (tmp_path / "line.png").write_bytes(image_files[3])
    program = f"""
import tensorflow as tf
model = tf.saved_model.load({str(tiny_model / "saved_model")!r})
found = model.signatures["serving_default"](files=tf.constant([open("line.png", "rb").read()]))
print(found["text"].numpy()[0].decode(), float(found["confidence"][0]))
"""
    ran = subprocess.run([sys.executable, "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    text, confidence = ran.stdout.split()
    assert text == readings[3].text
    assert math.isclose(float(confidence), readings[3].confidence, rel_tol=1e-4)


@pytest.mark.parametrize("module", ["pipeline.main", "components.recogniser.handler"])
def test_neither_pipeline_nor_workers_import_what_only_the_export_needs(module):
    program = f"import sys, {module}; print(sorted({{'onnx', 'tf2onnx', 'onnxruntime'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"
