"""The learning curve: parts of a dataset, and the forecast."""

import itertools

import numpy as np
import pytest

from components.evaluation.learning_curve import PARTS, Part, count_symbol_errors, forecast_cer
from components.recogniser import RecogniserSpec
from components.training.data import load_examples
from tests.conftest import TEST
from tfrecords import DatasetManifest


def read_all_texts(folder: str, manifest: DatasetManifest, split: str) -> list[str]:
    examples = load_examples(folder, manifest, split)
    return examples.read_texts(range(len(examples)))


def test_parts_are_disjoint_quarters_and_a_half_and_have_the_whole_validation_split(tiny_dataset, tmp_path):
    manifest = DatasetManifest.read(str(tiny_dataset))
    texts = {}
    for part in PARTS:
        folder = tmp_path / part.name
        part.write_dataset(str(folder), str(tiny_dataset), manifest)
        written = DatasetManifest.read(str(folder))
        assert written.counts == {"train": part.count_lines(16), "validation": 4, "test": 0}
        texts[part.name] = read_all_texts(str(folder), written, "train")
    assert [len(some) for some in texts.values()] == [4, 4, 8]
    everything = read_all_texts(str(tiny_dataset), manifest, "train")
    assert sorted(itertools.chain(*texts.values())) == sorted(everything)
    assert Part(4, 2).count_lines(15) == 4
    assert Part(4, 3).count_lines(15) == 3


def test_errors_are_those_of_the_recogniser_line_by_line(tiny_dataset, tiny_model):
    manifest = DatasetManifest.read(str(tiny_dataset))
    recogniser = RecogniserSpec(str(tiny_model), "onnx").load()
    shards = [str(tiny_dataset / shard.name) for shard in manifest.shards_of("test")]
    symbols, errors = count_symbol_errors(shards, recogniser)
    examples = load_examples(str(tiny_dataset), manifest, "test")
    texts = examples.read_texts(range(4))
    assert symbols == [len(text) for text in texts]
    assert sorted(texts) == sorted(TEST)
    lines = [examples.decode_line(i) for i in range(4)]
    assert [error == 0 for error in errors] == [
        found.text == text for found, text in zip(recogniser.recognise(lines), texts, strict=True)
    ]


def draw_errors(labels, power, chooser, *, lines=400, cer=0.2, noise=0.05):
    """Draws errors of models whose CER is `cer` at a hundred labels, and falls with a power of their number."""
    symbols = np.full(lines, 20)
    rates = cer * (np.array(labels) / 100) ** -power * np.exp(chooser.normal(0, noise, len(labels)))
    return chooser.binomial(20, rates[:, None], (len(labels), lines)), symbols


def test_a_power_law_is_continued_and_its_interval_holds_the_truth():
    chooser, labels, hits = np.random.default_rng(0), [100, 100, 200, 400], 0
    for _ in range(50):
        errors, symbols = draw_errors(labels, 0.8, chooser)
        twice, four_times = forecast_cer(labels, errors, symbols)
        assert (twice.labels, four_times.labels) == (800, 1600)
        truth = 0.2 * 16**-0.8
        hits += four_times.low <= truth <= four_times.high
        assert four_times.cer == pytest.approx(truth, rel=0.4)
        assert twice.low < twice.cer < twice.high
        assert four_times.cer < twice.cer
    assert hits >= 45


def test_more_labels_are_never_expected_to_hurt_and_chance_widens_the_interval():
    errors, symbols = draw_errors([100, 100, 200, 400], 0.0, np.random.default_rng(1), noise=0.0)
    errors[3] = errors[0] + 1
    twice, _ = forecast_cer([100, 100, 200, 400], errors, symbols)
    assert twice.cer <= errors.sum() / (4 * symbols.sum()) + 0.02
    calm = forecast_cer([100, 100, 200, 400], errors, symbols)
    errors[1] *= 3  # the same number of labels, and far more errors
    shaken = forecast_cer([100, 100, 200, 400], errors, symbols)
    assert shaken[0].high / shaken[0].low > 2 * calm[0].high / calm[0].low


def test_models_without_an_error_give_a_forecast_too():
    none = np.zeros((4, 50), int)
    for point in forecast_cer([10, 10, 20, 40], none, np.full(50, 5)):
        assert 0 <= point.low <= point.cer <= point.high < 0.02
