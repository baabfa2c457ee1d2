"""The check whether CTC can align a label with the time steps that an image gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from tfrecords import count_adjacent_repeats

_Width = TypeVar("_Width", int, np.ndarray)


def count_time_steps(width: _Width, time_stride: int) -> _Width:
    """Counts the time steps of a line, or of many: one for every `time_stride` pixels begun."""
    return -(-width // time_stride)


def explain_label_misfit(uri: str, label: Sequence[int], width: int, time_stride: int) -> str | None:
    """Explains why a label does not fit its image; returns None if it fits.

    A label fits if `time_steps >= label_length + adjacent_repeats`, because only equal neighbours need a
    blank between them (Graves et al. 2006, section 3.1).
    """
    steps = count_time_steps(width, time_stride)
    repeats = count_adjacent_repeats(label)
    needed = len(label) + repeats
    if steps >= needed:
        return None
    return (
        f'label of "{uri}" is {len(label)} symbols and needs {needed} time steps ({repeats} repeats), '
        f"but the image is {width} px wide and gives {steps}: "
        "use a greater --height or leave the image out"
    )
