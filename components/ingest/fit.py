"""Whether CTC can align a label with the time steps that an image gives."""

from __future__ import annotations

from collections.abc import Sequence

from tfrecords import adjacent_repeats


def time_steps(width: int, time_stride: int) -> int:
    """Time steps of a line: one for every `time_stride` pixels begun."""
    return -(-width // time_stride)


def label_problem(uri: str, label: Sequence[int], width: int, time_stride: int) -> str | None:
    """Why a label does not fit its image, or None if it does.

    A label fits if `time_steps >= label_length + adjacent_repeats`: the blank is needed
    only between equal neighbours (Graves et al. 2006, section 3.1).
    """
    steps = time_steps(width, time_stride)
    repeats = adjacent_repeats(label)
    needed = len(label) + repeats
    if steps >= needed:
        return None
    return (
        f'label of "{uri}" is {len(label)} symbols and needs {needed} time steps ({repeats} repeats), '
        f"but the image is {width} px wide and gives {steps}: "
        "use a greater --height or leave the image out"
    )


def breaks_sufficient_rule(label: Sequence[int], width: int, time_stride: int) -> bool:
    """Whether a label that may well fit is tighter than `time_steps > 2 * label_length + 1`.

    Room for a blank around every symbol is never needed, but its lack makes training slower.
    """
    return time_steps(width, time_stride) <= 2 * len(label) + 1
