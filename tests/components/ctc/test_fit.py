"""Whether CTC can align a label with the time steps of its image."""

import numpy as np
import pytest

from components.ctc.fit import count_time_steps
from components.ingest import explain_label_misfit


@pytest.mark.parametrize(
    ("width", "stride", "steps"), [(1, 4, 1), (4, 4, 1), (5, 4, 2), (8, 4, 2), (240, 4, 60), (241, 4, 61), (7, 1, 7)]
)
def test_a_time_step_is_every_stride_begun(width, stride, steps):
    assert count_time_steps(width, stride) == steps


def test_the_time_steps_of_many_widths_are_those_of_each():
    widths = np.array([1, 4, 5, 8, 240, 241])
    np.testing.assert_array_equal(count_time_steps(widths, 4), [count_time_steps(int(width), 4) for width in widths])


@pytest.mark.parametrize(
    ("label", "needed"),
    [([1], 1), ([1, 2, 3], 3), ([1, 2, 1], 3), ([1, 1], 3), ([1, 1, 1], 5), ([1, 1, 2, 2, 1], 7), ([], 0)],
)
@pytest.mark.parametrize("stride", [1, 4])
def test_a_label_fits_exactly_from_its_symbols_and_repeats_on(label, needed, stride):
    assert explain_label_misfit("x", label, needed * stride, stride) is None
    if needed:
        assert explain_label_misfit("x", label, (needed - 1) * stride, stride) is not None
        assert explain_label_misfit("x", label, (needed - 1) * stride + 1, stride) is None


def test_the_problem_has_the_image_every_number_and_the_way_out():
    label = [1] * 3 + list(range(2, 60))
    assert explain_label_misfit("scans/0031.png", label, 240, 4) == (
        'label of "scans/0031.png" is 61 symbols and needs 63 time steps (2 repeats), but the image is 240 px wide '
        "and gives 60: use a greater --height or leave the image out"
    )
