"""Engines: which one is taken, and that it makes no difference to what is read."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from components.recogniser.engines import load_engine
from components.recogniser.handler import LineModelHandler
from components.recogniser.manifest import ModelManifest
from tfrecords import DataError, ImageLimits, pad_lines, read_line


@pytest.fixture
def manifest(tiny_model) -> ModelManifest:
    return ModelManifest.read(str(tiny_model))


def test_both_engines_give_the_same_logits_for_lines_of_many_widths(tiny_model, tiny_images, manifest):
    lines = [read_line(path.read_bytes(), 32, ImageLimits()).pixels for path in sorted(tiny_images.glob("*.png"))]
    engines = [load_engine(name, str(tiny_model), manifest, 2) for name in ("tensorflow", "onnx")]
    for batch in (lines, lines[:1], [lines[0][:, :4]]):
        (logits, steps), (other_logits, other_steps) = (engine.score(*pad_lines(batch, 4)) for engine in engines)
        assert (logits.dtype, steps.dtype) == (other_logits.dtype, other_steps.dtype) == (np.float32, np.int32)
        assert logits.shape[0] == len(batch)
        np.testing.assert_array_equal(steps, other_steps)
        assert logits.shape == other_logits.shape
        for line, other_line, length in zip(logits, other_logits, steps, strict=True):
            np.testing.assert_allclose(line[:length], other_line[:length], rtol=2e-5, atol=1e-4)


def test_onnx_gives_each_line_of_a_batch_what_it_gives_the_line_alone_and_in_its_place(tiny_model, manifest):
    """Lines of like width are scored together: four of equal time steps, and the others, which are not."""
    widths = [61, 8, 117, 3, 62, 120, 64, 8, 63]
    lines = [np.random.default_rng(width).integers(0, 256, (32, width), np.uint8) for width in widths]
    score = load_engine("onnx", str(tiny_model), manifest, 1).score
    logits, steps = score(*pad_lines(lines, 4))
    assert (logits.dtype, logits.shape[:2]) == (np.float32, (9, 30))
    assert steps.tolist() == [-(-width // 4) for width in widths]
    for line, found, length in zip(lines, logits, steps, strict=True):
        (alone,), _ = score(*pad_lines([line], 4))
        np.testing.assert_allclose(found[:length], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.shared_data
@pytest.mark.parametrize("collection", ["captcha", "fraktur"])
def test_both_engines_read_the_same_text_on_real_images(tiny_model, shared_data, collection):
    paths = [path for path in sorted((shared_data / collection).rglob("*")) if path.suffix in (".png", ".jpg")][::25]
    lines = [read_line(path.read_bytes(), 32, ImageLimits()).pixels for path in paths]
    assert len(lines) > 30
    readings = []
    for name in ("tensorflow", "onnx"):
        handler = LineModelHandler(str(tiny_model), name)
        readings.append(handler.run_inference(lines, handler.load_model()))
    texts, other_texts = ([reading.text for reading in each] for each in readings)
    assert texts == other_texts
    assert len(set(texts)) > 20
    confidences, others = ([reading.confidence for reading in each] for each in readings)
    np.testing.assert_allclose(np.log(confidences), np.log(others), rtol=1e-3)


def test_without_a_gpu_onnx_is_taken_and_it_says_why(tiny_model, manifest, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    engine = load_engine("auto", str(tiny_model), manifest, 1)
    assert (engine.name, engine.why) == ("onnx", "faster on a CPU")


def test_a_gpu_that_tensorflow_does_not_see_is_none(tiny_model, manifest, monkeypatch):
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("there is a GPU")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert load_engine("auto", str(tiny_model), manifest, 1).name == "onnx"


@pytest.mark.parametrize("name", ["tensorflow", "onnx"])
def test_an_engine_that_was_asked_for_is_taken(tiny_model, manifest, name):
    engine = load_engine(name, str(tiny_model), manifest, 1)
    assert (engine.name, engine.why) == (name, "as asked for")


def test_a_model_without_onnx_is_read_by_tensorflow_and_refused_to_onnx(tiny_model, manifest):
    files = {name: about for name, about in manifest.files.items() if name != "model.onnx"}
    old = dataclasses.replace(manifest, files=files)
    engine = load_engine("auto", str(tiny_model), old, 1)
    assert (engine.name, engine.why) == ("tensorflow", "the model has no model.onnx")
    with pytest.raises(DataError, match=r"model tinymodel000 has no model\.onnx, because .*--engine=tensorflow"):
        load_engine("onnx", str(tiny_model), old, 1)


def test_reading_with_onnx_does_not_import_tensorflow(tiny_model):
    program = (
        "import sys\n"
        "import numpy as np\n"
        "from components.inference.transforms import RecogniseCollection\n"
        "from components.recogniser.handler import LineModelHandler\n"
        f"handler = LineModelHandler({str(tiny_model)!r})\n"
        "assert handler.run_inference([np.zeros((32, 40), np.uint8)], handler.load_model())\n"
        "print(sorted({'tensorflow', 'keras', 'tf2onnx', 'matplotlib', 'onnxruntime'} & set(sys.modules)))\n"
    )
    environment = {"CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "['onnxruntime']", done.stderr
