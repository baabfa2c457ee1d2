"""What is written beside a trained network: its calibration, and a language model where that helps."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import tensorflow as tf

from components.ctc.fusion import Fusion, decode_with_language_model
from components.ctc.language_model import LanguageModel, NgramCounts
from components.training import result
from components.training.data import Examples
from tests.components.ctc.test_fusion import write_logits
from tests.written_examples import write_examples
from tfrecords import Charset, encode_png

CHARSET = Charset(tuple("abcde"))
TEXTS = ["abc", "dbcbc", "ab", "abcbc"] * 4


def make_examples(folder: Path) -> Examples:
    """Lines whose only pixels say which of `TEXTS` they hold."""
    images = [encode_png(np.full((8, 8), number, np.uint8)) for number in range(len(TEXTS))]
    return write_examples(folder / "dataset", CHARSET, images, [8] * len(TEXTS), TEXTS)


def calibrate(folder, doubtful: dict[int, int]) -> tuple[float, Fusion | None]:
    """Calibrates a network that takes some symbols for others; returns its temperature and its language model's use."""
    examples = make_examples(folder)

    def compute_logits(images, widths):
        del widths
        texts = [CHARSET.encode(TEXTS[number]) for number in images[:, 0, 0, 0].tolist()]
        return tuple(map(tf.constant, write_logits(texts, CHARSET.classes, doubtful)))

    labels = [examples.get_label(number) for number in range(len(examples))]
    scored = result._score(compute_logits, result._make_labelled_batches(examples, CHARSET.classes))
    return result._calibrate(scored, labels, CHARSET, str(folder))


def test_a_language_model_is_written_where_it_makes_validation_texts_better(tmp_path):
    temperature, found = calibrate(tmp_path, {2: 4})
    assert found is not None
    counts = NgramCounts.read(str(tmp_path / "language_model.npz"))
    fusion = dataclasses.replace(found, model=LanguageModel.from_counts(counts))
    logits, steps = write_logits([CHARSET.encode("dbc")], CHARSET.classes, {2: 4})
    (line,) = decode_with_language_model(logits / np.float32(temperature), steps, fusion, 4, 0)
    assert CHARSET.decode(line.ids) == "dbc"


def test_no_language_model_is_written_where_nothing_is_wrong(tmp_path):
    assert calibrate(tmp_path, {})[1] is None
    assert not (tmp_path / "language_model.npz").exists()


def test_few_logits_are_kept_of_many_symbols(tmp_path, monkeypatch):
    monkeypatch.setattr(result, "_MOST_LOGITS", 60)
    monkeypatch.setattr(result, "RECOGNISED_BATCH", 4)
    seen = []
    monkeypatch.setattr(result, "fit_temperature", lambda batches: seen.extend(batches) or 1.0)
    calibrate(tmp_path, {})
    assert 0 < sum(len(steps) for _, steps, _ in seen) <= 8


def test_texts_with_unknown_symbols_are_left_out_of_the_language_model(tmp_path):
    (tmp_path / "texts.txt").write_text("\ufeffabc\n\nxyz\n d  e\n")
    charset = Charset(tuple(" abcde"))
    texts = result._read_texts(str(tmp_path / "texts.txt"), charset)
    assert [charset.decode(text) for text in texts] == ["abc", "d e"]
