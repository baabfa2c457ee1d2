"""Whether CTC can align a label with the time steps of its image."""

import pytest

from components.ingest import label_problem
from components.ingest.fit import breaks_sufficient_rule, time_steps


@pytest.mark.parametrize(
    ("width", "stride", "steps"), [(1, 4, 1), (4, 4, 1), (5, 4, 2), (8, 4, 2), (240, 4, 60), (241, 4, 61), (7, 1, 7)]
)
def test_a_time_step_is_every_stride_begun(width, stride, steps):
    assert time_steps(width, stride) == steps


@pytest.mark.parametrize(
    ("label", "needed"),
    [([1], 1), ([1, 2, 3], 3), ([1, 2, 1], 3), ([1, 1], 3), ([1, 1, 1], 5), ([1, 1, 2, 2, 1], 7), ([], 0)],
)
@pytest.mark.parametrize("stride", [1, 4])
def test_a_label_fits_exactly_from_its_symbols_and_repeats_on(label, needed, stride):
    assert label_problem("x", label, needed * stride, stride) is None
    if needed:
        assert label_problem("x", label, (needed - 1) * stride, stride) is not None
        assert label_problem("x", label, (needed - 1) * stride + 1, stride) is None


def test_the_problem_has_the_image_every_number_and_the_way_out():
    label = [1] * 3 + list(range(2, 60))
    assert label_problem("scans/0031.png", label, 240, 4) == (
        'label of "scans/0031.png" is 61 symbols and needs 63 time steps (2 repeats), but the image is 240 px wide '
        "and gives 60: use a greater --height or leave the image out"
    )


@pytest.mark.parametrize(("steps", "breaks"), [(3, True), (7, True), (8, False)])
def test_the_sufficient_rule_asks_for_more_than_twice_the_label_and_one(steps, breaks):
    assert breaks_sufficient_rule([1, 2, 3], steps * 4, 4) is breaks


def test_a_label_can_fit_and_still_break_the_sufficient_rule():
    assert label_problem("x", [1, 2, 3], 12, 4) is None
    assert breaks_sufficient_rule([1, 2, 3], 12, 4)
