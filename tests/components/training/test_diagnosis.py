"""The sentences about a training that went badly, and silence about one that went well."""

from __future__ import annotations

import re

import pytest

from components.training.best_epoch import is_finished
from components.training.diagnosis import explain_weakness, find_first_reading, has_never_begun
from components.training.history import EpochRecord


def make_history(*epochs: tuple[float, float, float]) -> list[EpochRecord]:
    """Epochs of 10 steps and 2 seconds, by their CER, training loss and validation loss."""
    return [
        EpochRecord(
            epoch=number,
            step=10 * number,
            learning_rate=1e-3,
            train_loss=train_loss,
            validation_loss=validation_loss,
            cer=cer,
            wer=1.0,
            exact_match=0.0,
            images_per_second=100.0,
            non_finite=0,
            seconds=2.0 * number,
            symbol_errors=round(1000 * cer),
        )
        for number, (cer, train_loss, validation_loss) in enumerate(epochs, 1)
    ]


def test_reading_begins_in_the_first_epoch_that_gets_most_symbols_right():
    history = make_history((0.9, 30, 30), (0.66, 16, 16), (0.4, 9, 10), (0.6, 12, 12), (0.1, 2, 3))
    assert find_first_reading(history).epoch == 3
    assert find_first_reading(history[:2]) is None
    assert find_first_reading([]) is None


@pytest.mark.parametrize(
    ("epochs", "least_steps", "never"),
    [
        (((0.9, 9, 9), (0.6, 9, 9)), 20, True),
        (((0.9, 9, 9), (0.6, 9, 9)), 21, False),  # not as many steps as it needs
        (((0.9, 9, 9), (0.4, 9, 9)), 20, False),
        (((0.9, 9, 9), (0.6, 9, 9)), 0, False),  # nobody knows how many it needs
        ((), 20, False),
    ],
)
def test_reading_never_began_if_it_did_not_in_as_many_steps_as_it_needs(epochs, least_steps, never):
    assert has_never_begun(make_history(*epochs), least_steps) == never


def test_a_training_on_a_plateau_names_the_likely_causes_and_a_lower_rate():
    said = explain_weakness(make_history((0.9, 30, 30), (0.66, 16, 16), (0.67, 16, 16)), 4e-3, has_validation=True)
    assert re.search(r"has not begun to read: its CER was never below 66%.*labels.*--learning_rate=0\.001", said)


def test_an_underfitted_model_is_named_with_what_helps():
    said = explain_weakness(make_history((0.3, 40, 41), (0.1, 19.2, 20.5)), 4e-3, has_validation=True)
    assert "underfitted: its loss on the training lines, 19.2, is about that on the validation lines, 20.5" in said
    assert "its CER is 10.0%. More --epochs than 2 or a larger --model" in said


@pytest.mark.parametrize(
    ("epochs", "has_validation"),
    [
        pytest.param([(0.3, 9, 9), (0.005, 0.2, 0.2)], True, id="few errors"),
        pytest.param([(0.3, 9, 9), (0.1, 2.0, 6.0)], True, id="overfitted: more images help, as ever"),
        pytest.param([(0.3, 9, 9), (0.1, 4.0, 4.0)], False, id="judged on its own training lines"),
        pytest.param([], True, id="nothing yet"),
    ],
)
def test_nothing_is_said_otherwise(epochs, has_validation):
    assert explain_weakness(make_history(*epochs), 4e-3, has_validation=has_validation) is None


def test_patience_ends_no_training_before_the_least_steps_of_its_recipe():
    history = make_history(*[(0.66, 16, 16)] * 6)
    assert is_finished(history, epochs=9, patience=3, least_steps=60)
    assert not is_finished(history, epochs=9, patience=3, least_steps=61)
    assert is_finished(history, epochs=6, patience=3, least_steps=1500)
