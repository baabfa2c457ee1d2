"""Distortions: what they keep of a line, and how much they change."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from components.training.data import Examples, load_examples
from components.training.distort import DISTORTIONS, distort
from tfrecords import DatasetManifest, pad_lines

BLURS, LIGHT = slice(13, 15), slice(15, 18)
AS_IT_WAS = (1 / 3, -1 / 3, -1)  # of contrast, brightness and grain


@pytest.fixture(scope="module")
def examples(tiny_dataset) -> Examples:
    folder = str(tiny_dataset)
    return load_examples(folder, DatasetManifest.read(folder), "train")


def line_batch(examples: Examples) -> tuple[tf.Tensor, np.ndarray]:
    images, widths = pad_lines([examples.decode_line(i) for i in range(len(examples))], 4)
    return tf.constant(images), widths


def test_distorted_lines_keep_shape_type_and_white_behind_their_ends(examples):
    images, widths = line_batch(examples)
    amounts = np.random.default_rng(1).uniform(-1, 1, (16, DISTORTIONS)).astype(np.float32)
    distorted = distort(images, widths, tf.constant(amounts)).numpy()
    assert distorted.dtype == np.uint8
    assert distorted.shape == images.shape
    for image, width in zip(distorted, widths, strict=True):
        assert (image[:, width:] == 255).all()
        assert (image[:, :width] < 255).any()


def test_amounts_of_zero_change_little(examples):
    images, widths = line_batch(examples)
    distorted = distort(images, widths, tf.zeros((16, DISTORTIONS))).numpy().astype(float)
    inside = (np.arange(images.shape[2]) < widths[:, None])[:, None, :, None] & np.ones(images.shape, bool)
    before, after = images.numpy().astype(float)[inside], distorted[inside]
    assert np.corrcoef(before, after)[0, 1] > 0.75
    assert np.abs(before - after).mean() < 30


@pytest.mark.parametrize("seed", range(4))
def test_the_strongest_shifts_tilts_and_waves_leave_the_ink_inside_the_line(examples, seed):
    """A label must still fit what is left of its line."""
    images, widths = line_batch(examples)
    amounts = np.random.default_rng(seed).choice([-1.0, 1.0], (16, DISTORTIONS)).astype(np.float32)
    amounts[:, BLURS] = -1
    amounts[:, LIGHT] = AS_IT_WAS
    distorted = distort(images, widths, tf.constant(amounts)).numpy()
    for before, after, width in zip(images.numpy(), distorted, widths, strict=True):
        dark = [(image[:, :width] < 128).sum() for image in (before, after)]
        assert dark[1] > 0.6 * dark[0]


def no_change(lines: int) -> np.ndarray:
    """Amounts with which a line stays what it is."""
    amounts = np.zeros((lines, DISTORTIONS), np.float32)
    amounts[:, 2] = -1  # no narrowing
    amounts[:, 4] = -0.05 / 0.09  # no stretch
    amounts[:, BLURS] = -1
    amounts[:, LIGHT] = AS_IT_WAS
    return amounts


def distorted_alone(image: np.ndarray, **places_and_amounts: float) -> np.ndarray:
    """A line, float [height, width], under single amounts."""
    amounts = no_change(1)
    for place, amount in places_and_amounts.items():
        amounts[0, int(place.removeprefix("at_"))] = amount
    width = image.shape[1]
    return distort(image[None, :, :, None], np.array([width]), tf.constant(amounts)).numpy()[0, :, :, 0].astype(float)


def test_a_line_under_no_distortion_is_what_it_was(examples):
    images, widths = line_batch(examples)
    distorted = distort(images, widths, tf.constant(no_change(16))).numpy().astype(float)
    np.testing.assert_allclose(distorted, images.numpy(), atol=1)


def test_a_shift_moves_every_pixel():
    image = np.random.default_rng(0).integers(0, 256, (32, 80), np.uint8)
    np.testing.assert_allclose(distorted_alone(image, at_5=1)[:, :-1], image[:, 1:], atol=1)  # across
    np.testing.assert_allclose(distorted_alone(image, at_6=0.5)[:-1], image[1:], atol=1)  # down


def test_shear_moves_each_row_by_its_height_over_the_middle():
    image = np.full((33, 120), 255, np.uint8)
    image[:, 60] = 0
    sheared = distorted_alone(image, at_1=1)
    found = (255 - sheared) @ np.arange(120) / (255 - sheared).sum(axis=1)
    np.testing.assert_allclose(found, 60 - 0.12 * (np.arange(33) - 16), atol=0.05)


def test_a_wave_moves_each_column_by_its_sine():
    image = np.full((40, 160), 255, np.uint8)
    image[18:22] = 0
    ink = 255 - distorted_alone(image, at_10=1)  # steepest, as long as the line is high
    found = np.arange(40) @ ink / ink.sum(axis=0)
    frequency = 2 * np.pi / 40
    wanted = 19.5 - 0.03 / frequency * np.sin(frequency * (np.arange(160) // 4 * 4 + 1.5))
    np.testing.assert_allclose(found, wanted, atol=0.02)


def test_a_wave_along_the_line_stretches_some_of_it_and_squeezes_some():
    image = np.full((40, 160), 255, np.uint8)
    image[:, 2::8] = 0
    stretched = distorted_alone(image, at_7=1)
    gaps = np.diff(np.flatnonzero(stretched[20] < 128))
    assert gaps.min() < 8 < gaps.max()
    assert stretched[5] == pytest.approx(stretched[30], abs=1)


def test_blur_softens_edges_in_its_own_direction_and_keeps_the_ink():
    image = np.full((32, 80), 255, np.uint8)
    image[10:20, 30:50] = 0
    ink = 255.0 - image
    for place, axis in (("at_13", 0), ("at_14", 1)):
        blurred = 255 - distorted_alone(image, **{place: 1})
        assert blurred.sum() == pytest.approx(ink.sum(), rel=0.01)
        steepest = [np.abs(np.diff(blurred, axis=each)).max() for each in (axis, 1 - axis)]
        assert steepest[0] < 245
        assert steepest[1] == pytest.approx(255, abs=2)


def test_grain_is_noise_of_each_line_alone():
    amounts = no_change(2)
    amounts[:, LIGHT] = 1 / 3, 1, 1  # ink 0.1 everywhere, noise of 0.06
    amounts[1, 0] = 0.5
    images = np.full((2, 48, 400, 1), 255, np.uint8)
    noise = distort(images, np.array([400, 400]), tf.constant(amounts)).numpy()[..., 0] - 255 * 0.9
    assert noise.mean(axis=(1, 2)) == pytest.approx([0, 0], abs=0.5)
    assert noise.std(axis=(1, 2)) == pytest.approx([15.3, 15.3], rel=0.02)
    for first, second in ((noise[0], noise[1]), (noise[0, 1:], noise[0, :-1]), (noise[0, :, 1:], noise[0, :, :-1])):
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.03
    np.testing.assert_array_equal(
        distort(images[1:], np.array([400]), tf.constant(amounts[1:])).numpy()[0, ..., 0] - 255 * 0.9, noise[1]
    )
