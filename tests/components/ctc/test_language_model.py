"""The character n-gram, held against its definition, counted by hand."""

from __future__ import annotations

import collections
import math

import numpy as np
import pytest

from components.ctc import language_model
from components.ctc.language_model import ORDER, LanguageModel, NgramCounts

DISCOUNT = 0.9


def make_labels(seed: int, count: int, classes: int, longest: int) -> list[np.ndarray]:
    chooser = np.random.default_rng(seed)
    return [chooser.integers(0, classes - 1, chooser.integers(1, longest + 1)) for _ in range(count)]


class Definition:
    """Interpolated Kneser-Ney as its authors write it, with dictionaries."""

    def __init__(self, labels: list[np.ndarray], classes: int):
        self.classes = classes
        self.times: dict = collections.defaultdict(collections.Counter)
        self.before: dict = collections.defaultdict(lambda: collections.defaultdict(set))
        for label in labels:
            text = [classes, *label.tolist(), classes - 1]  # a mark of the start, and the end
            for place in range(1, len(text)):
                for length in range(min(ORDER, place + 1)):
                    context = tuple(text[place - length : place])
                    self.times[context][text[place]] += 1
                    if place > length:
                        self.before[context][text[place]].add(text[place - length - 1])

    def compute(self, context: tuple[int, ...], symbol: int) -> float:
        if context not in self.times:
            return self.compute(context[1:], symbol)
        counts = self.times[context]
        if len(context) < ORDER - 1 and context[:1] != (self.classes,):
            counts = {symbol: len(befores) for symbol, befores in self.before[context].items()}
        lower = self.compute(context[1:], symbol) if context else 1 / self.classes
        freed = DISCOUNT * len(counts) * lower
        return (max(counts.get(symbol, 0) - DISCOUNT, 0) + freed) / sum(counts.values())


@pytest.mark.parametrize(("seed", "count", "classes", "longest"), [(0, 300, 5, 8), (1, 50, 3, 30), (2, 1, 4, 1)])
def test_probabilities_and_states_are_those_of_the_definition(seed, count, classes, longest):
    labels = make_labels(seed, count, classes, longest)
    model = LanguageModel.from_counts(NgramCounts.from_labels(labels, classes))
    np.testing.assert_allclose(np.exp(model.log_probabilities).sum(axis=1), 1, atol=1e-5)
    definition = Definition(labels, classes)
    for text in [*labels[:50], *make_labels(seed + 9, 50, classes, 9)]:
        state, history = model.start, [classes]
        for symbol in [*text.tolist(), classes - 1]:
            expected = definition.compute(tuple(history[1 - ORDER :]), symbol)
            assert np.exp(model.log_probabilities[state, symbol]) == pytest.approx(expected, rel=1e-4)
            if symbol < classes - 1:
                state = model.next_states[state, symbol]
                history.append(symbol)


def test_of_very_many_contexts_the_most_frequent_are_kept_and_it_stays_a_distribution(monkeypatch):
    labels = make_labels(3, 300, 6, 12)
    whole = NgramCounts.from_labels(labels, 6)
    monkeypatch.setattr(language_model, "_MOST_ENTRIES", 6 * 100)
    small = NgramCounts.from_labels(labels, 6)
    assert len(small.lengths) <= 100 < len(whole.lengths)
    model = LanguageModel.from_counts(small)
    np.testing.assert_allclose(np.exp(model.log_probabilities).sum(axis=1), 1, atol=1e-5)
    assert model.next_states.max() < len(small.lengths)
    assert small.lengths[model.start] == 1


def test_of_very_many_labels_some_are_drawn_always_the_same(monkeypatch):
    labels = make_labels(4, 2000, 6, 12)
    monkeypatch.setattr(language_model, "_MOST_SYMBOLS", 1000)
    once, again = (NgramCounts.from_labels(labels, 6) for _ in range(2))
    frequency = once.counts[once.contexts == once.start].sum()
    assert frequency == again.counts[again.contexts == again.start].sum()
    assert 0 < frequency < 400


def test_counts_come_back_from_their_file(tmp_path):
    counts = NgramCounts.from_labels(make_labels(5, 200, 9, 12), 9)
    counts.write(str(tmp_path / "counts.npz"))
    read = NgramCounts.read(str(tmp_path / "counts.npz"))
    for name, value in vars(counts).items():
        np.testing.assert_array_equal(getattr(read, name), value)


def test_without_labels_every_symbol_is_as_probable():
    model = LanguageModel.from_counts(NgramCounts.from_labels([], 4))
    np.testing.assert_allclose(np.exp(model.log_probabilities), 0.25)


def test_empty_labels_are_texts_that_end_at_once():
    some = make_labels(1, 30, 4, 5)
    empty = np.empty(0, np.int32)
    without, half = (
        LanguageModel.from_counts(NgramCounts.from_labels(labels, 4)) for labels in (some, [*some, *[empty] * 30])
    )
    end = math.exp(half.log_probabilities[half.start, -1])
    assert math.exp(without.log_probabilities[without.start, -1]) < 0.2 < 0.4 < end < 0.6
    alone = LanguageModel.from_counts(NgramCounts.from_labels([empty] * 3, 4))
    assert alone.log_probabilities[alone.start].argmax() == 3
