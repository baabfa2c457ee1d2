"""A network in 8 bits: what it computes, and the validation lines that decide whether it may be used."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from components.ctc.decoding import decode_greedily
from components.recogniser import DataError
from components.recogniser.engines import choose_engine, load_engine, load_onnx
from components.recogniser.manifest import Int8Trial, ModelManifest, describe_files
from components.recogniser.model import RecogniserSpec
from components.training.int8 import (
    LabelledBatch,
    estimate_standard_error,
    is_as_good,
    quantise,
    try_int8,
)
from tests.conftest import LINE_HEIGHT, TEMPERATURE
from tfrecords import pad_lines

ALL, CONVOLUTIONS = ("Conv", "Relu", "Add"), ("Conv",)
Score = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def draw_lines(count: int, seed: int) -> list[np.ndarray]:
    """Draws strokes on white lines of several widths."""
    chooser = np.random.default_rng(seed)
    lines = []
    for width in chooser.integers(20, 90, count):
        line = np.full((LINE_HEIGHT, width), 255, np.uint8)
        for x in chooser.integers(2, width - 3, width // 8):
            top = chooser.integers(2, LINE_HEIGHT // 2)
            line[top : top + chooser.integers(4, LINE_HEIGHT // 2), x : x + 2] = chooser.integers(0, 120)
        lines.append(line)
    return lines


@pytest.fixture(scope="module")
def lines() -> list[np.ndarray]:
    return draw_lines(40, 1)


@pytest.fixture(scope="module")
def network(tiny_model) -> onnx.ModelProto:
    return onnx.load(tiny_model / "model.onnx")


@pytest.fixture(scope="module")
def quantised(network, lines, tmp_path_factory) -> Callable[[tuple[str, ...]], Score]:
    """Returns the scoring function of the tiny model with some operations in 8 bits."""
    folder = tmp_path_factory.mktemp("quantised")

    def load(operations: tuple[str, ...]) -> Score:
        path = folder / f"{len(operations)}.onnx"
        if not path.exists():
            onnx.save(quantise(network, lines, operations), path)
        return load_onnx(str(path), 4, 1)

    return load


def read(score: Score, lines: list[np.ndarray]) -> list[list[int]]:
    return [decoded.ids.tolist() for decoded in decode_greedily(*score(*pad_lines(lines, 4)))]


@pytest.mark.parametrize("operations", [ALL, CONVOLUTIONS])
def test_weights_are_bytes_and_logits_nearly_those_of_the_floats(
    tiny_model, network, quantised, lines, operations, tmp_path
):
    onnx.save(quantise(network, lines, operations), tmp_path / "int8.onnx")
    assert (tmp_path / "int8.onnx").stat().st_size < 0.4 * (tiny_model / "model.onnx").stat().st_size
    others = draw_lines(20, 2)
    exact, steps = load_onnx(str(tiny_model / "model.onnx"), 4, 1)(*pad_lines(others, 4))
    found, same_steps = quantised(operations)(*pad_lines(others, 4))
    np.testing.assert_array_equal(steps, same_steps)
    inside = np.arange(exact.shape[1]) < steps[:, None]
    differences = np.abs(found - exact)[inside]
    assert 0 < differences.mean() < 0.05 * exact[inside].std()


def test_lines_of_a_batch_do_not_touch_each_other_in_8_bits(quantised):
    score, others = quantised(ALL), draw_lines(12, 3)
    logits, steps = score(*pad_lines(others, 4))
    for line, found, length in zip(others, logits, steps, strict=True):
        (alone,), _ = score(*pad_lines([line], 4))
        np.testing.assert_allclose(found[:length], alone, rtol=1e-5, atol=1e-4)


def test_a_network_is_not_changed_by_what_is_made_of_it(network, lines):
    before = network.SerializeToString(deterministic=True)
    quantise(network, lines[:2], ALL)
    assert network.SerializeToString(deterministic=True) == before


# The decision


@pytest.fixture
def folder(tiny_model, tmp_path) -> Path:
    """A model's folder that can be written to."""
    return shutil.copytree(tiny_model, tmp_path / "model")


def make_batches(labels: list[list[int]], lines: list[np.ndarray]) -> list[LabelledBatch]:
    return [
        LabelledBatch(*pad_lines(lines[start : start + 16], 4), labels[start : start + 16])
        for start in range(0, len(lines), 16)
    ]


def test_what_reads_as_well_is_written_with_a_temperature_of_its_own(folder, quantised, lines):
    labels = read(quantised(ALL), lines)
    trial = try_int8(str(folder), lines, make_batches(labels, lines), np.zeros(len(lines), np.int64))
    assert (trial.layers, trial.cer, trial.float_cer) == ("all layers", 0, 0)
    assert trial.why == "the CER on 40 validation lines is 0.00% in 32 bits, 0.00% with all layers in 8"
    assert trial.temperature != TEMPERATURE  # that of the network in 32 bits
    metadata = {entry.key: entry.value for entry in onnx.load(folder / "model.int8.onnx").metadata_props}
    assert float(metadata["temperature"]) == trial.temperature
    assert json.loads(metadata["charset"])
    written = load_onnx(str(folder / "model.int8.onnx"), 4, 1)
    assert read(written, lines) == labels


def test_convolutions_alone_are_tried_where_all_layers_read_worse(folder, quantised, lines):
    labels = read(quantised(CONVOLUTIONS), lines)
    assert labels != read(quantised(ALL), lines)
    trial = try_int8(str(folder), lines, make_batches(labels, lines), np.zeros(len(lines), np.int64))
    assert trial.layers == "the convolutions"
    assert "with all layers in 8, 0.00% with the convolutions in 8" in trial.why


def test_nothing_is_written_where_both_read_worse(folder, lines):
    labels = [[0, 1, 0, 1, 0, 1, 0, 1]] * len(lines)
    trial = try_int8(str(folder), lines, make_batches(labels, lines), np.zeros(len(lines), np.int64))
    assert (trial.layers, trial.temperature) == (None, None)
    assert trial.cer is not None
    assert trial.cer > 0.5
    assert not (folder / "model.int8.onnx").exists()


def test_too_few_symbols_decide_nothing(folder, lines):
    trial = try_int8(str(folder), lines, make_batches([[0, 1]] * 40, lines), np.zeros(40, np.int64))
    assert trial == Int8Trial(
        "the validation lines have 80 symbols, too few to tell whether 8 bits read as well: that takes 300"
    )
    assert not (folder / "model.int8.onnx").exists()


def test_a_network_that_was_converted_stays_as_it_is(folder, lines):
    model = onnx.load(folder / "model.onnx")
    model.producer_name = "tf2onnx"
    onnx.save(model, folder / "model.onnx")
    trial = try_int8(str(folder), lines, make_batches([[0] * 20] * 40, lines), np.zeros(40, np.int64))
    assert trial == Int8Trial("this network has layers that are not computed in 8 bits")


@pytest.mark.parametrize(
    ("more", "spread", "as_good"),
    [
        (0, 0, True),  # none has an error
        (1, 0, False),  # so the standard error is 0
        (-5, 1, True),
        (10, 1, True),  # exactly 0.1 points
        (11, 1, False),
        (3, 4, True),  # within one standard error, which is about 4 of 10,000
        (5, 4, False),
    ],
)
def test_a_cer_is_as_good_within_one_standard_error_and_a_tenth_of_a_point(more, spread, as_good):
    lengths = np.full(1000, 10)
    float_errors = np.zeros(1000, np.int64)
    if spread == 1:
        float_errors[::4] = 3
    elif spread == 4:
        float_errors[:16] = 1
    errors = float_errors.copy()
    errors[500] += more
    assert is_as_good(errors, float_errors, lengths) == as_good


def test_the_standard_error_is_that_of_resampled_lines():
    chooser = np.random.default_rng(0)
    lengths = chooser.integers(3, 30, 400)
    errors = chooser.binomial(lengths, chooser.beta(0.5, 6, 400))
    drawn = chooser.integers(0, 400, (4000, 400))
    resampled = errors[drawn].sum(axis=1) / lengths[drawn].sum(axis=1)
    assert estimate_standard_error(errors, lengths) == pytest.approx(resampled.std(), rel=0.05)


# The engine


@pytest.fixture
def decided(folder, network, lines) -> tuple[str, ModelManifest]:
    """A committed model with a network in 8 bits."""
    onnx.save(quantise(network, lines, ALL), folder / "model.int8.onnx")
    trial = Int8Trial("as good", "all layers", 2.5, 0.01, 0.01, 0.001, 40, 40)
    manifest = dataclasses.replace(ModelManifest.read(str(folder)), int8=trial, files=describe_files(str(folder)))
    manifest.write(str(folder))
    return str(folder), ModelManifest.read(str(folder))


def test_a_manifest_holds_the_trial(decided):
    _, manifest = decided
    assert manifest.int8 == Int8Trial("as good", "all layers", 2.5, 0.01, 0.01, 0.001, 40, 40)


def test_auto_takes_8_bits_on_a_cpu_and_divides_by_their_temperature(decided, lines, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    folder, manifest = decided
    engine = load_engine("auto", folder, manifest, 1)
    assert (engine.name, engine.temperature) == ("onnx-int8", 2.5)
    assert load_engine("onnx", folder, manifest, 1).temperature == TEMPERATURE
    logits, _ = RecogniserSpec(folder).load().compute_logits(lines)
    found, _ = engine.score(*pad_lines(lines, 4))
    np.testing.assert_array_equal(logits, found / np.float32(2.5))


def test_8_bits_that_a_model_lacks_are_refused_with_the_reason(tiny_model, folder):
    manifest = ModelManifest.read(str(tiny_model))
    with pytest.raises(DataError, match=r"has no model\.int8\.onnx \(an older version wrote it\): .*--engine=auto"):
        choose_engine("onnx-int8", manifest)
    refused = dataclasses.replace(manifest, int8=Int8Trial("it read worse"))
    with pytest.raises(DataError, match=r"\(it read worse\)"):
        choose_engine("onnx-int8", refused)
    assert choose_engine("auto", refused)[0] == "onnx"


def test_a_damaged_network_in_8_bits_is_refused(decided):
    folder, manifest = decided
    Path(folder, "model.int8.onnx").write_bytes(b"something else")
    with pytest.raises(DataError, match=r"model\.int8\.onnx has checksum"):
        load_engine("onnx-int8", folder, manifest, 1)


@pytest.mark.parametrize("temperature", [0, -1, "2"])
def test_a_temperature_of_8_bits_that_cannot_be_is_refused(decided, temperature):
    folder, manifest = decided
    assert manifest.int8 is not None
    dataclasses.replace(manifest, int8=dataclasses.replace(manifest.int8, temperature=temperature)).write(folder)
    with pytest.raises(DataError, match=f"has the temperature {temperature!r}"):
        ModelManifest.read(folder)
