"""The model as Beam sees it."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil

import apache_beam as beam
import keras
import numpy as np
import pytest
from apache_beam.ml.inference.base import RunInference
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.test_pipeline import TestPipeline as BeamPipeline
from apache_beam.testing.util import assert_that, equal_to

from components.recogniser.handler import LineModelHandler
from components.recogniser.manifest import ModelManifest, describe_files
from components.recogniser.model import Recogniser, Recognition
from components.training.export import make_input_signature
from tfrecords import DataError, read_line
from tfrecords.image import ImageLimits


@pytest.fixture(scope="module")
def handler(tiny_model) -> LineModelHandler:
    return LineModelHandler(str(tiny_model))


@pytest.fixture(scope="module")
def loaded(handler) -> Recogniser:
    return handler.load_model()


@pytest.fixture(scope="module")
def lines(tiny_images) -> list[np.ndarray]:
    return [read_line(path.read_bytes(), 32, ImageLimits()).pixels for path in sorted(tiny_images.glob("*.png"))]


def test_readings_come_in_order_and_do_not_depend_on_the_batch(handler, loaded, lines):
    together = list(handler.run_inference(lines, loaded))
    assert len(together) == len(lines) == 24
    assert len({reading.text for reading in together}) > 10
    for line, reading in zip(lines, together, strict=True):
        (alone,) = handler.run_inference([line], loaded)
        assert alone.text == reading.text
        assert alone.confidence == pytest.approx(reading.confidence, rel=1e-3)
        np.testing.assert_allclose(alone.symbol_confidences, reading.symbol_confidences, rtol=1e-3)


def test_confidences_are_probabilities_one_for_each_symbol(handler, loaded, lines):
    for reading in handler.run_inference(lines, loaded):
        assert isinstance(reading, Recognition)
        assert 0 < reading.confidence <= 1
        assert len(reading.symbol_confidences) == len(reading.text)
        assert all(0 < each <= 1 for each in reading.symbol_confidences)


def test_what_is_read_is_what_the_keras_model_says(handler, loaded, lines, tiny_model):
    model = keras.models.load_model(tiny_model / "model.keras")
    images = np.pad(lines[3], [(0, 0), (0, -lines[3].shape[1] % 4)], constant_values=255)[None, :, :, None]
    logits = model([images, np.array([lines[3].shape[1]], np.int32)], training=False)["logits"].numpy()[0]
    best = logits.argmax(axis=1)
    merged = [best[i] for i in range(len(best)) if i == 0 or best[i] != best[i - 1]]
    charset = ModelManifest.read(str(tiny_model)).read_charset(str(tiny_model))
    (reading,) = handler.run_inference([lines[3]], loaded)
    assert reading.text == "".join(charset.symbols[i] for i in merged if i != charset.blank)


def test_stock_run_inference_gives_the_same_texts(handler, loaded, lines):
    wanted = [reading.text for reading in handler.run_inference(lines, loaded)]
    with BeamPipeline(runner=FnApiRunner()) as pipeline:
        texts = pipeline | beam.Create(lines) | RunInference(handler) | beam.Map(lambda reading: reading.text)
        assert_that(texts, equal_to(wanted))


def test_a_handler_is_small_to_send_to_workers(handler):
    assert len(pickle.dumps(handler)) < 2000


def test_bytes_of_a_batch_are_those_of_its_pixels(handler, lines):
    assert handler.get_num_bytes(lines[:2]) == lines[0].size + lines[1].size


@pytest.mark.parametrize("height", [31, 33])
def test_a_line_of_another_height_is_refused_with_both_heights(handler, loaded, lines, height):
    wrong = np.full((height, 40), 255, np.uint8)
    with pytest.raises(DataError, match=f"a line is {height} pixels high, but model tinymodel000 reads lines of 32"):
        list(handler.run_inference([lines[0], wrong], loaded))


def test_a_model_that_gives_no_numbers_is_refused_by_name(handler, loaded, lines):
    def broken(images, widths):
        logits, time_steps = loaded.engine.score(images, widths)
        return np.full_like(logits, np.nan), time_steps

    model = dataclasses.replace(loaded, engine=dataclasses.replace(loaded.engine, score=broken))
    with pytest.raises(DataError, match=r"model tinymodel000 in .* not finite"):
        list(handler.run_inference(lines, model))


def test_a_folder_without_a_committed_model_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"nowhere holds no committed model: run the train step first"):
        LineModelHandler(str(tmp_path / "nowhere")).load_model()


@pytest.mark.parametrize(
    ("engine", "name"),
    [
        ("onnx", "model.onnx"),
        ("tensorflow", "saved_model/saved_model.pb"),
        ("tensorflow", "saved_model/variables/variables.index"),
    ],
)
def test_a_missing_model_file_is_refused_by_name(tiny_model, tmp_path, engine, name):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / name).unlink()
    with pytest.raises(DataError, match=rf"{name} is missing, but the manifest beside it names it: delete "):
        LineModelHandler(str(folder), engine).load_model()


@pytest.mark.parametrize(
    ("engine", "pattern"), [("onnx", "model.onnx"), ("tensorflow", "saved_model/variables/variables.data-*")]
)
def test_a_damaged_model_file_is_refused_by_name(tiny_model, tmp_path, engine, pattern):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (path,) = folder.glob(pattern)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{path.name} has checksum .* damaged or replaced; delete "):
        LineModelHandler(str(folder), engine).load_model()


def test_a_foreign_charset_is_refused(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "charset.txt").write_text("0\n1\n2\n3\na\nb\nd\n")
    with pytest.raises(DataError, match=r"charset\.txt has digest .* delete .* and run the train step again"):
        LineModelHandler(str(folder)).load_model()


@pytest.fixture
def model_of_version_1(tiny_model, tmp_path) -> str:
    """The tiny model as version 1 wrote it: no ONNX, a SavedModel with `score` alone, no time stride."""
    folder = shutil.copytree(tiny_model, tmp_path / "version-1", ignore=shutil.ignore_patterns("saved_model", "*.onnx"))
    (folder / "manifest.json").unlink()
    model = keras.models.load_model(folder / "model.keras")
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "score",
        lambda images, widths: model([images, widths], training=False),
        input_signature=make_input_signature(32),
    )
    archive.write_out(str(folder / "saved_model"), verbose=False)
    manifest = dataclasses.asdict(ModelManifest.read(str(tiny_model)))
    del manifest["time_stride"], manifest["temperature"]
    manifest |= {"schema_version": 1, "files": describe_files(str(folder))}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return str(folder)


def test_a_model_of_version_1_reads_the_same(model_of_version_1, handler, loaded, lines):
    old = LineModelHandler(model_of_version_1)
    texts = [reading.text for reading in old.run_inference(lines, old.load_model())]
    assert texts == [reading.text for reading in handler.run_inference(lines, loaded)]


def test_batches_are_padded_to_the_time_stride_of_the_manifest(handler, loaded, lines):
    widths = []

    def spy(images, own_widths):
        widths.append(images.shape[2])
        return loaded.engine.score(images, own_widths)

    model = dataclasses.replace(
        loaded,
        engine=dataclasses.replace(loaded.engine, score=spy),
        manifest=dataclasses.replace(loaded.manifest, time_stride=64),
    )
    handler.run_inference(lines[:3], model)
    assert widths == [-(-max(line.shape[1] for line in lines[:3]) // 64) * 64]


def test_lines_are_what_ingest_stored(lines, tiny_dataset):
    """The pixels that inference reads are those that training saw, to the bit."""
    from components.training.data import load_examples
    from tfrecords import DatasetManifest

    examples = load_examples(str(tiny_dataset), DatasetManifest.read(str(tiny_dataset)), "train")
    by_name = {uri.rpartition("/")[2]: i for i, uri in enumerate(examples.read_uris(range(len(examples))))}
    for number, name in enumerate(sorted(by_name)):
        np.testing.assert_array_equal(examples.decode_line(by_name[name]), lines[number])
