"""The usual causes of a training that reads nothing, each with its evidence in the labels, readings and images."""

from __future__ import annotations

import collections
import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from components.evaluation.constant import find_common_start
from components.metrics import compute_edit_distance
from tfrecords.directions import VISUAL, has_right_to_left

_STANDARD_ERRORS = 3
"""By which readings have to be nearer to other labels than to their own, so that it is no chance."""
_LEAST_LINES = 20
_BLANK_CONTRAST = 24  # grey levels between the darkest and the lightest pixel, at most
_MANY = 0.3  # of the lines
_OFTEN = 10  # times that a symbol has to occur in the training lines
_NARROW, _WIDE = 0.15, 2.5  # heights of the line for each symbol
_VARIED = 0.15  # standard deviation for each mean, from which lengths or widths say something
_RELATED = 0.3  # correlation of widths and lengths, which is above 0.8 where labels are right


@dataclasses.dataclass(frozen=True)
class LabelledLines:
    """The lines that a model was trained and judged on.

    Attributes:
        uris, labels: of every line.
        widths: pixels, int [lines].
        height: pixels of every line.
        trained: the number of training lines, which come first.
        direction: how symbols were taken to stand on the images, one of `tfrecords.directions.DIRECTIONS`.
    """

    uris: Sequence[str]
    labels: Sequence[str]
    widths: np.ndarray
    height: int
    trained: int
    direction: str = VISUAL


def find_causes(
    lines: LabelledLines, readings: Sequence[dict[int, str]], pixels: Sequence[np.ndarray]
) -> Iterator[str]:
    """Yields sentences about why a training reads nothing, the likeliest cause first.

    Args:
        readings: by several models, of some lines by their numbers: the trained one, and the one that it started from.
        pixels: some of the lines whose labels are not empty, uint8 [height, width] each.
    """
    yield from _find_mirrored(lines, readings)
    yield from _find_shifted(lines, readings)
    yield from _find_blank(pixels)
    yield from _find_constant(lines)
    yield from _find_wrong_order(lines)
    yield from _find_wrong_widths(lines)
    yield from _find_rare(lines)
    yield from _find_inverted(pixels)


def sort_naturally(uris: Sequence[str]) -> list[int]:
    """Returns the numbers of URIs in the order in which a person lists them: `9.png` before `10.png`."""

    def split(number: int) -> list[tuple[bool, int, str]]:
        parts = re.split(r"(\d+)", uris[number])
        return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]

    return sorted(range(len(uris)), key=split)


def _compare(pairs: Sequence[tuple[str, str, str]]) -> tuple[float, float] | None:
    """Compares readings with their labels and with other texts.

    Args:
        pairs: reading, label and other text of each line.

    Returns:
        The CER against the labels and against the other texts; None unless the others are nearer, by more than chance.
        The test is a paired one: the sum of differences over the root of the sum of their squares.
    """
    own = np.array([compute_edit_distance(label, reading) for reading, label, _ in pairs])
    other = np.array([compute_edit_distance(text, reading) for reading, _, text in pairs])
    gain = own - other
    if len(pairs) < _LEAST_LINES or gain.sum() <= _STANDARD_ERRORS * np.sqrt((gain**2).sum()):
        return None
    symbols, others = (max(1, sum(map(len, texts))) for texts in list(zip(*pairs, strict=True))[1:])
    return own.sum() / symbols, other.sum() / others


def _find_mirrored(lines: LabelledLines, readings: Sequence[dict[int, str]]) -> Iterator[str]:
    found = []
    for reading in readings:
        pairs = [(text, lines.labels[i], lines.labels[i][::-1]) for i, text in reading.items()]
        if rates := _compare(pairs):
            found.append((rates[1], rates[0], len(pairs)))
    if found:
        rate, own, count = min(found)
        yield (
            f"the labels are reversed: readings of {count:,} lines are nearer to the labels from their end to their "
            f"beginning (CER {rate:.0%}) than to the labels (CER {own:.0%}); the first symbol of a label has to be the "
            "leftmost one of its image"
        )


def _find_wrong_order(lines: LabelledLines) -> Iterator[str]:
    written = sum(map(has_right_to_left, lines.labels))
    if written <= _MANY * len(lines.labels):
        return
    if lines.direction == VISUAL:
        taken, remedy = "as seen, from left to right", "if they are typed as a person reads, leave it out"
    else:
        taken, remedy = "as a person reads", "if they are typed as seen, from left to right, give visual"
    yield (
        f"{written:,} of {len(lines.labels):,} labels have right-to-left letters, and were taken to be typed {taken}: "
        f"look at --base_direction of the ingest step; {remedy}"
    )


def _find_shifted(lines: LabelledLines, readings: Sequence[dict[int, str]]) -> Iterator[str]:
    neighbours = list(pairwise(sort_naturally(lines.uris)))
    before, after = {i: earlier for earlier, i in neighbours}, dict(neighbours)
    found = []
    for reading in readings:
        for owner, of_label, neighbour in (("after", "before", before), ("before", "after", after)):
            pairs = [
                (text, lines.labels[i], lines.labels[neighbour[i]]) for i, text in reading.items() if i in neighbour
            ]
            if rates := _compare(pairs):
                found.append((rates[1], rates[0], owner, of_label, len(pairs)))
    if found:
        rate, own, owner, of_label, count = min(found)
        yield (
            f"the labels belong to the file {owner} theirs: readings of {count:,} lines are nearer to the label of the "
            f"file {of_label} (CER {rate:.0%}) than to their own (CER {own:.0%}); look for a row that was lost or "
            "added where labels were put together"
        )


def _find_blank(pixels: Sequence[np.ndarray]) -> Iterator[str]:
    blank = sum(int(line.max()) - int(line.min()) < _BLANK_CONTRAST for line in pixels)
    if blank > _MANY * len(pixels):
        yield (
            f"{blank:,} of {len(pixels):,} lines are blank: their lightest and darkest pixels differ by less than "
            f"{_BLANK_CONTRAST} of 255 grey levels"
        )


def _find_constant(lines: LabelledLines) -> Iterator[str]:
    count = len(lines.labels)
    label, most = collections.Counter(lines.labels).most_common(1)[0]
    if most > max(_MANY * count, 1):
        yield f'{most:,} of {count:,} labels are "{label}", so that a model learns to answer that'
        return
    prefix = find_common_start(lines.labels)
    shared = len(prefix) * count / max(1, sum(map(len, lines.labels)))
    if shared > _MANY:
        names = sum(
            os.path.basename(uri).startswith(label) for uri, label in zip(lines.uris, lines.labels, strict=True)
        )
        yield (
            f'all labels begin with "{prefix}", which is {shared:.0%} of their symbols, so that a model learns to '
            "answer that" + ("; they are the names of the files: see --label_source" if names == count else "")
        )


def _find_wrong_widths(lines: LabelledLines) -> Iterator[str]:
    lengths = np.array([len(label) for label in lines.labels])
    lengths, widths = lengths[lengths > 0], np.asarray(lines.widths)[lengths > 0]  # a blank field may be of any width
    if not len(lengths):
        return
    room = float(np.median(widths / lengths)) / lines.height
    shape = f"a symbol has {room * lines.height:.0f} pixels of width at a height of {lines.height}, in the middle"
    if room < _NARROW:
        yield f"the labels are much longer than the images allow: {shape}; they may have the text of several lines"
    elif room > _WIDE:
        yield f"the labels are much shorter than the images allow: {shape}; they may lack much of what the images show"
    if len(lengths) < _LEAST_LINES or min(lengths.std() / lengths.mean(), widths.std() / widths.mean()) < _VARIED:
        return
    correlation = float(np.corrcoef(lengths, widths)[0, 1])
    if correlation < _RELATED:
        yield (
            f"the labels are not those of the images: longer labels do not have wider images (correlation "
            f"{correlation:.2f}, 1 is the most)"
        )


def _find_rare(lines: LabelledLines) -> Iterator[str]:
    counts = collections.Counter("".join(lines.labels[: lines.trained]))
    rare = sum(count < _OFTEN for count in counts.values())
    if rare > len(counts) / 2:
        yield (
            f"there are too few lines for so many symbols: {rare:,} of {len(counts):,} symbols occur fewer than "
            f"{_OFTEN} times in {lines.trained:,} training lines"
        )


def _find_inverted(pixels: Sequence[np.ndarray]) -> Iterator[str]:
    light = sum(float(line.mean()) > float(np.median(line)) and float(np.median(line)) < 128 for line in pixels)
    if light > _MANY * len(pixels):
        rest = "" if light == len(pixels) else ", the others are dark on light"
        yield f"{light:,} of {len(pixels):,} lines are inverted, light on dark{rest}: turn all lines the same way"
