"""The record of a training: which epoch is the best, when it ends, and the files that say so."""

from __future__ import annotations

import csv
import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest

from components.training.best_epoch import choose_best_epoch, is_finished
from components.training.history import HISTORY_NAME, TENSORBOARD_NAME, EpochRecord, HistoryWriter

TAGS = [field.name for field in dataclasses.fields(EpochRecord) if field.name not in ("epoch", "step")]


def record(epoch: int, cer: float = 0.5, loss: float = 1.0, symbol_errors: int = 5) -> EpochRecord:
    return EpochRecord(
        epoch=epoch,
        step=7 * epoch,
        learning_rate=0.004 / epoch,
        train_loss=2.5 + epoch,
        validation_loss=loss,
        cer=cer,
        wer=0.75,
        exact_match=0.25,
        images_per_second=123.5,
        non_finite=epoch - 1,
        seconds=10.0 * epoch,
        symbol_errors=symbol_errors,
    )


def history(*qualities: tuple[float, float]) -> list[EpochRecord]:
    return [record(epoch, *quality) for epoch, quality in enumerate(qualities, 1)]


@pytest.mark.parametrize(
    ("errors", "best"),
    [
        ([], 0),
        ([50], 1),
        ([50, 40, 48], 2),
        ([50, 40, 46, 47], 3),  # the square root of 41 is 6.4
        ([0, 0, 2], 2),
        ([3, 0, 1, 2, 1, 7], 5),  # one error more than none says nothing
        ([90, 10, 13, 9, 13], 4),  # the square root of 10 is 3.2
        ([90, 10, 13, 12, 14], 4),
        ([1, 2, 3, 4, 5], 2),  # not step by step away from the best
    ],
)
def test_the_last_epoch_is_kept_that_cannot_be_told_from_the_one_with_the_fewest_errors(errors, best):
    assert choose_best_epoch([record(epoch, symbol_errors=each) for epoch, each in enumerate(errors, 1)]) == best


def test_what_would_be_kept_is_always_the_newest_epoch_or_what_was_kept_before():
    """So that one set of weights is enough to remember."""
    chooser = np.random.default_rng(0)
    for _ in range(200):
        errors = chooser.integers(0, 40, 12).tolist()
        history = [record(epoch, symbol_errors=each) for epoch, each in enumerate(errors, 1)]
        kept = [choose_best_epoch(history[:length]) for length in range(1, 13)]
        for epoch, (before, now) in enumerate(itertools.pairwise([0, *kept]), 1):
            assert now in (before, epoch)


@pytest.mark.parametrize(
    ("qualities", "epochs", "patience", "ended"),
    [
        ([], 3, 1, False),
        ([(0.5, 1.0)], 3, 1, False),
        ([(0.5, 1.0)], 1, 5, True),
        ([(0.5, 1.0), (0.4, 1.0)], 3, 1, False),
        ([(0.5, 1.0), (0.4, 1.0), (0.3, 1.0)], 3, 9, True),
        ([(0.5, 1.0), (0.6, 1.0)], 9, 1, True),
        ([(0.5, 1.0), (0.6, 1.0)], 9, 2, False),
        ([(0.5, 1.0), (0.6, 1.0), (0.5, 1.0)], 9, 2, True),
        ([(0.5, 1.0), (0.6, 1.0), (0.5, 0.9)], 9, 2, False),
        ([(0.5, 1.0)] * 4, 2, 9, True),
    ],
)
def test_a_training_ends_after_its_epochs_or_when_none_was_better_for_as_long_as_its_patience(
    qualities, epochs, patience, ended
):
    assert is_finished(history(*qualities), epochs, patience) is ended


@pytest.mark.parametrize("epochs", [1, 2, 50])
def test_a_training_that_has_not_begun_is_not_finished_whatever_its_patience(epochs):
    assert not is_finished([], epochs, 1)


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / HISTORY_NAME, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorFlow's own reader finds in the only event file: `{tag: [(step, value), …]}`."""
    import tensorflow as tf
    from tensorflow.core.util import event_pb2

    (path,) = (folder / TENSORBOARD_NAME).iterdir()
    assert path.name.startswith("events.out.tfevents.")
    found: dict[str, list[tuple[int, float]]] = {}
    first, *others = [
        event_pb2.Event.FromString(serialised.numpy()) for serialised in tf.data.TFRecordDataset(str(path))
    ]
    assert first.file_version == "brain.Event:2"
    for event in others:
        for value in event.summary.value:
            assert value.metadata.plugin_data.plugin_name == "scalars"
            tensor = tf.make_ndarray(value.tensor)
            assert (tensor.dtype, tensor.shape) == ("float32", ())
            found.setdefault(value.tag, []).append((event.step, float(tensor)))
    return found


def test_every_epoch_is_a_row_at_once_with_all_its_digits(tmp_path):
    first, second = record(1, cer=0.1 + 0.2), record(2, cer=1 / 3)
    writer = HistoryWriter(str(tmp_path / "model"), [])
    writer.add(first)
    (row,) = rows(tmp_path / "model")
    assert row == {name: str(value) for name, value in dataclasses.asdict(first).items()}
    writer.add(second)
    assert [EpochRecord(**{name: float(value) for name, value in row.items()}) for row in rows(tmp_path / "model")] == [
        first,
        second,
    ]
    writer.close()
    assert list(row) == [field.name for field in dataclasses.fields(EpochRecord)]
    assert (tmp_path / "model" / HISTORY_NAME).read_text().count("\n") == 3


def test_tensorboard_finds_every_measure_as_a_scalar_at_its_epoch(tmp_path):
    records = history((0.5, 1.25), (0.375, 1.5), (0.25, 0.125))
    writer = HistoryWriter(str(tmp_path), [])
    for each in records:
        writer.add(each)
    found = events(tmp_path)  # flushed after every epoch
    writer.close()
    assert sorted(found) == sorted(TAGS)
    for tag, values in found.items():
        assert [step for step, _ in values] == [1, 2, 3]
        assert [value for _, value in values] == pytest.approx([getattr(each, tag) for each in records], rel=1e-6)
    assert events(tmp_path) == found


def test_what_an_earlier_attempt_wrote_is_replaced(tmp_path):
    """It came two epochs further than its last checkpoint: those epochs are done again, otherwise."""
    earlier = HistoryWriter(str(tmp_path), [])
    for each in history((0.5, 1.0), (0.4, 1.0), (0.35, 1.0), (0.3, 1.0)):
        earlier.add(each)
    # It was killed: nothing is closed.
    again = history((0.5, 1.0), (0.4, 1.0))
    writer = HistoryWriter(str(tmp_path), again)
    assert [row["epoch"] for row in rows(tmp_path)] == ["1", "2"]
    third = record(3, cer=0.2)
    writer.add(third)
    writer.close()
    assert [row["cer"] for row in rows(tmp_path)] == ["0.5", "0.4", "0.2"]
    assert dict(events(tmp_path)["cer"]) == pytest.approx({1: 0.5, 2: 0.4, 3: 0.2}, rel=1e-6)
    assert len(events(tmp_path)["cer"]) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [HISTORY_NAME, TENSORBOARD_NAME]


def test_measures_that_are_not_numbers_are_written_as_such(tmp_path):
    writer = HistoryWriter(str(tmp_path), [record(1, loss=float("nan"))])
    writer.close()
    assert rows(tmp_path)[0]["validation_loss"] == "nan"
    ((step, value),) = events(tmp_path)["validation_loss"]
    assert step == 1
    assert value != value
