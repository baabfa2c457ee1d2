"""Distortions: what they keep of a line, and how much they change."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from components.training.data import Examples, load_examples
from components.training.distort import DISTORTIONS, distort
from tfrecords import DatasetManifest, decode_png, pad_lines


@pytest.fixture(scope="module")
def examples(tiny_dataset) -> Examples:
    folder = str(tiny_dataset)
    return load_examples(folder, DatasetManifest.read(folder), "train")


def line_batch(examples: Examples) -> tuple[tf.Tensor, np.ndarray]:
    images, widths = pad_lines([decode_png(image) for image in examples.images], 4)
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
    assert np.corrcoef(before, after)[0, 1] > 0.8
    assert np.abs(before - after).mean() < 30


@pytest.mark.parametrize("seed", range(4))
def test_the_strongest_shifts_and_tilts_leave_the_ink_inside_the_line(examples, seed):
    """A label must still fit what is left of its line."""
    images, widths = line_batch(examples)
    amounts = np.random.default_rng(seed).choice([-1.0, 1.0], (16, DISTORTIONS)).astype(np.float32)
    amounts[:, 7:] = 1 / 3, -1 / 3, -1  # contrast, brightness and grain as they were
    distorted = distort(images, widths, tf.constant(amounts)).numpy()
    for before, after, width in zip(images.numpy(), distorted, widths, strict=True):
        dark = [(image[:, :width] < 128).sum() for image in (before, after)]
        assert dark[1] > 0.6 * dark[0]
