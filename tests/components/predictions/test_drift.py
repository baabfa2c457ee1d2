"""The population stability index: against its formula by hand, and what it sees."""

import math

import numpy as np
import pytest

from components.predictions.drift import compute_population_stability_index


def histogram(confidences) -> list[int]:
    return np.histogram(confidences, 100, (0, 1))[0].tolist()


def test_the_index_is_that_of_the_formula():
    # Two bins, which are two groups: (30, 10) and (10, 30), half a count more in each.
    p, q = (30.5 / 41, 10.5 / 41), (10.5 / 41, 30.5 / 41)
    by_hand = sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))
    assert compute_population_stability_index([30, 10], [10, 30]) == pytest.approx(by_hand)


def test_equal_histograms_differ_by_nothing_whatever_their_size():
    counts = histogram(np.random.default_rng(0).beta(8, 2, 10_000))
    assert compute_population_stability_index(counts, counts) == 0
    assert compute_population_stability_index(counts, [10 * count for count in counts]) < 1e-3


def test_chance_alone_stays_far_below_what_is_called_a_change():
    generator = np.random.default_rng(1)
    found = [
        compute_population_stability_index(histogram(generator.beta(8, 1, 2_000)), histogram(generator.beta(8, 1, 500)))
        for _ in range(200)
    ]
    assert max(found) < 0.1


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ([0.995] * 1000, [0.995] * 800 + [0.15] * 200),  # into a range that held nothing
        ([0.995] * 1000, [0.5] * 1000),
        (np.linspace(0.9, 0.999, 1000), np.linspace(0.9, 0.95, 1000)),  # within the range that held all
        ([0.2] * 500 + [0.99] * 500, [0.99] * 1000),
    ],
)
def test_a_shift_is_a_large_change_wherever_it_happens(before, now):
    assert compute_population_stability_index(histogram(before), histogram(now)) > 0.25


@pytest.mark.parametrize(("before", "now"), [([0, 0], [1, 0]), ([1, 0], [0, 0]), ([1, 2], [1, 2, 3])])
def test_what_cannot_be_compared_is_refused(before, now):
    with pytest.raises(ValueError, match="cannot be compared"):
        compute_population_stability_index(before, now)
