"""Labels are checked by models that did not train on them."""

import collections
import math

import numpy as np
import pytest

from components.ctc.decoding import compute_label_log_probability
from components.recogniser.model import RecogniserSpec
from components.review import labels
from components.review.folds import Fold, choose_folds
from components.review.labels import CHECKED_SCHEMA, check_labels, find_suspects
from tests.components.ingest.written import parse_shard
from tests.conftest import LABELS
from tfrecords import (
    DatasetManifest,
    LineExample,
    decode_png,
    encode_example,
    examples_to_record_batch,
    pad_lines,
)


def make_folds(folder, count) -> list[Fold]:
    manifest = DatasetManifest.read(str(folder))
    return [Fold(str(folder), manifest, number, count) for number in range(count)]


def list_uris(records) -> list[str]:
    batch = examples_to_record_batch(list(records))
    return [uri.decode() for uri in batch.column(batch.schema.get_field_index("uri")).flatten().to_pylist()]


@pytest.mark.parametrize("count", [2, 5])
def test_every_line_is_read_once_and_by_a_model_that_did_not_train_on_it(tiny_dataset, tmp_path, count):
    read: collections.Counter[str] = collections.Counter()
    for fold in make_folds(tiny_dataset, count):
        own = list_uris(fold.read_own_records())
        read.update(own)
        folder = tmp_path / str(fold.number)
        fold.write_training_dataset(str(folder))
        manifest = DatasetManifest.read(str(folder))
        manifest.read_charset(str(folder))
        trained = [row["uri"] for shard in manifest.shards for row in parse_shard(folder / shard.name)]
        assert len(trained) == len(set(trained))
        assert not set(trained) & set(own)
        assert len(trained) + len(own) == len(LABELS)
        assert manifest.examples("train") == fold.count_training_lines() > manifest.examples("validation") > 0
    assert set(read.values()) == {1}
    assert len(read) == len(LABELS)


def test_few_lines_are_cut_into_more_parts_so_that_each_model_has_most_of_them():
    assert [choose_folds(lines) for lines in (20, 499, 500, 10**6)] == [5, 5, 2, 2]


def test_posteriors_of_label_and_reading_are_those_of_the_calibrated_network(tiny_dataset, tiny_model):
    recogniser = RecogniserSpec(str(tiny_model), "onnx").load()
    records = [record for fold in make_folds(tiny_dataset, 2) for record in fold.read_own_records()]
    checked = check_labels(records, recogniser)
    assert checked.schema == CHECKED_SCHEMA
    rows = {row["uri"]: row for row in checked.to_pylist()}
    assert len(rows) == len(LABELS)
    batch = examples_to_record_batch(records)
    columns = (batch.column(batch.schema.get_field_index(name)).flatten() for name in ("uri", "text", "image"))
    for uri, text, image in zip(*(column.to_pylist() for column in columns), strict=True):
        row, line = rows[uri.decode()], decode_png(image)
        assert row["label"] == text.decode()
        logits, time_steps = recogniser.engine.score(*pad_lines([line], 4))
        ids = recogniser.charset.encode(row["label"])
        posterior = compute_label_log_probability(
            logits / np.float32(recogniser.manifest.temperature), time_steps, np.array([ids]), np.array([len(ids)])
        )
        assert row["label_log_probability"] == pytest.approx(posterior[0], abs=1e-3)
        (alone,) = recogniser.recognise_lines([line])
        assert row["reading"] == alone.text
        assert math.exp(row["reading_log_probability"]) == pytest.approx(alone.confidence, abs=1e-4)


@pytest.mark.parametrize(
    ("label", "reading", "corrections"),
    [
        ("abcd", "abcd", []),
        ("abcd", "axcd", ["axcd"]),
        ("abcd", "acd", ["acd"]),
        ("acd", "abcd", ["abcd"]),
        ("acbd", "abcd", ["abcd"]),  # swapped
        ("abcdefgh", "xbcdefgy", ["xbcdefgh", "abcdefgy"]),
        ("a", "", [""]),
    ],
)
def test_a_label_is_corrected_in_one_place_at_a_time(label, reading, corrections):
    assert labels._correct_once(label, reading) == corrections


def test_one_wrong_symbol_in_an_uncertain_line_is_more_suspicious_than_the_uncertainty():
    given = (["abcd", "abcd", "abcd", "abcd"], ["xbcd", "wxyz", "wxyd", "abcd"])
    posteriors = [[-12.0, -2.0], [-300.0, -280.0], [-9.0, -6.0], [-1.0]]
    suspicions = labels._measure_suspicions(*given, posteriors, [-2.0, -1.0, -4.0, -1.0])
    assert suspicions == [10.0, 299 - 3 * 6, 3.0, 0.0]


def test_the_most_suspicious_label_comes_first():
    rows = [
        ("sure", "ab", "ac", -30.0, -0.01, 29.99),
        ("unsure", "ab", "ac", -5.0, -4.0, 1.0),
        ("right", "ab", "ab", -0.1, -0.1, 0.0),
        ("other image", "ab", "12345", -300.0, -0.1, 276.0),
        ("b tie", "ab", "ac", -30.0, -0.01, 29.99),
    ]
    table = CHECKED_SCHEMA.empty_table().from_pylist(
        [dict(zip(CHECKED_SCHEMA.names, row, strict=True)) for row in rows], CHECKED_SCHEMA
    )
    suspects = find_suspects(table)
    assert [suspect.uri for suspect in suspects] == ["other image", "b tie", "sure", "unsure"]
    assert suspects[2].confidence == pytest.approx(math.exp(-0.01))
    assert suspects[2].label_confidence == pytest.approx(math.exp(-30))


@pytest.mark.parametrize("texts", [("",), ("", "0", "a1")])
def test_an_empty_label_has_the_posterior_of_the_empty_text(tiny_dataset, tiny_model, texts):
    recogniser = RecogniserSpec(str(tiny_model), "onnx").load()
    (shard,) = DatasetManifest.read(str(tiny_dataset)).shards_of("test")
    images = [row["image"] for row in parse_shard(tiny_dataset / shard.name)]
    lines = [
        LineExample(image, decode_png(image).shape[1], tuple(recogniser.charset.encode(text)), text, f"{i}.png")
        for i, (image, text) in enumerate(zip(images, texts, strict=False))
    ]
    checked = {row["uri"]: row for row in check_labels(map(encode_example, lines), recogniser).to_pylist()}
    row = checked["0.png"]
    logits, time_steps = recogniser.compute_logits([decode_png(images[0])])
    expected = compute_label_log_probability(logits, time_steps, np.zeros((1, 0), int), np.zeros(1, int))
    assert row["label"] == ""
    assert row["label_log_probability"] == pytest.approx(expected[0], rel=1e-4)
    assert row["suspicion"] > 0
