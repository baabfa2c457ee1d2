"""The causes of a training that reads nothing, found in labels, readings and images that have them."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from components.training.causes import LabelledLines, find_causes, sort_naturally

HEIGHT = 48


def draw(text: str, *, ground: int = 230, ink: int = 30) -> np.ndarray:
    """A line as a dataset has it, uint8 [48, width]."""
    font = ImageFont.load_default(34)
    image = Image.new("L", (round(font.getlength(text)) + 16, HEIGHT), ground)
    ImageDraw.Draw(image).text((8, 2), text, font=font, fill=ink)
    return np.asarray(image)


def make_texts(count: int = 200, alphabet: str = "ABCDEFGHKLMN", shortest: int = 3, longest: int = 9) -> list[str]:
    chooser = random.Random(3)
    return ["".join(chooser.choices(alphabet, k=chooser.randint(shortest, longest))) for _ in range(count)]


TEXTS = make_texts()
"""What the images say."""


def misread(text: str, share: float, seed: int) -> str:
    chooser = random.Random(seed)
    return "".join(chooser.choice("ABCDEFGHKLMN") if chooser.random() < share else symbol for symbol in text)


def causes(labels: list[str], readings: list[str] | None = None, pixels: list[np.ndarray] | None = None) -> list[str]:
    """The causes that are found for images of `TEXTS` with these labels, of which 180 are for training."""
    images = [draw(text) for text in TEXTS[: len(labels)]] if pixels is None else pixels
    widths = np.array([image.shape[1] for image in images])
    uris = [f"/in/{number}.png" for number in range(len(labels))]
    lines = LabelledLines(uris, labels, widths, HEIGHT, len(labels) * 9 // 10)
    read = [dict(enumerate(readings))] if readings is not None else []
    return list(find_causes(lines, read, images[:60]))


def test_labels_that_are_right_have_no_cause():
    assert causes(TEXTS, [misread(text, 0.9, i) for i, text in enumerate(TEXTS)]) == []
    assert causes(TEXTS, ["AB"] * len(TEXTS)) == []


@pytest.mark.parametrize("share", [0.1, 0.85], ids=["read well", "hardly read"])
def test_reversed_labels_are_found_by_readings_that_are_nearer_to_the_mirrored_ones(share):
    found = causes([text[::-1] for text in TEXTS], [misread(text, share, i) for i, text in enumerate(TEXTS)])
    assert re.match(
        r"the labels are reversed: readings of 200 lines .* \(CER \d+%\) than to the labels \(CER", found[0]
    )


@pytest.mark.parametrize(
    ("shift", "sentence"),
    [(1, "the labels belong to the file after theirs"), (-1, "the labels belong to the file before theirs")],
)
def test_labels_that_are_off_by_one_are_found_by_the_labels_of_the_files_beside(shift, sentence):
    # The label of file 5 is the text of file 6 for a shift of 1.
    labels = [TEXTS[(number + shift) % len(TEXTS)] for number in range(len(TEXTS))]
    found = causes(labels, [misread(text, 0.3, i) for i, text in enumerate(TEXTS)])
    assert found[0].startswith(sentence)
    assert f"the label of the file {'before' if shift == 1 else 'after'} (CER " in found[0]


def test_readings_of_chance_are_near_to_no_labels():
    guesses = make_texts(len(TEXTS))[::-1]
    assert causes(TEXTS, guesses) == []


def test_files_are_in_the_order_in_which_a_person_lists_them():
    names = ["a10.png", "a9.png", "a1.png", "b.png", "a9b.png"]
    assert [names[i] for i in sort_naturally(names)] == ["a1.png", "a9.png", "a9b.png", "a10.png", "b.png"]


def test_one_label_on_many_lines_and_a_common_beginning_are_named():
    assert causes(["AB"] * 120 + TEXTS[120:])[0].startswith('120 of 200 labels are "AB"')
    found = causes([f"word_188_{number:04d}" for number in range(200)])
    assert found[0].startswith('all labels begin with "word_188_0", which is 77% of their symbols')
    assert "names of the files" not in found[0]


def test_labels_that_are_the_names_of_the_files_are_named_as_such():
    lines = LabelledLines(
        [f"/in/img_{i}.png" for i in range(100, 200)],
        [f"img_{i}" for i in range(100, 200)],
        np.full(100, 200),
        HEIGHT,
        90,
    )
    assert "they are the names of the files: see --label_source" in next(find_causes(lines, [], []))


def test_labels_of_other_images_have_lengths_that_widths_contradict():
    shuffled = random.Random(0).sample(TEXTS, len(TEXTS))
    (found,) = causes(shuffled)
    assert found.startswith("the labels are not those of the images: longer labels do not have wider images")


def test_labels_much_longer_or_shorter_than_their_images_are_named():
    assert causes([text * 8 for text in TEXTS])[0].startswith(
        "the labels are much longer than the images allow: a symbol"
    )
    assert causes([text[0] for text in make_texts(200, shortest=9)], pixels=[draw("ABCDEFGHK")] * 200)[0].startswith(
        "the labels are much shorter than the images allow: a symbol has"
    )


def test_blank_and_inverted_images_are_named():
    blank = [draw(text, ground=230, ink=215) for text in TEXTS]
    assert causes(TEXTS, pixels=blank)[0].startswith("60 of 60 lines are blank")
    mixed = [draw(text, ground=20, ink=220) if i % 2 else draw(text) for i, text in enumerate(TEXTS)]
    assert causes(TEXTS, pixels=mixed)[0].startswith(
        "30 of 60 lines are inverted, light on dark, the others are dark on"
    )


def test_too_few_lines_for_the_symbols_are_named():
    signs = [chr(0x4E00 + i) for i in range(500)]
    chooser = random.Random(0)
    labels = ["".join(chooser.choices(signs, k=len(text))) for text in TEXTS]
    (found,) = causes(labels)
    assert re.match(
        r"there are too few lines for so many symbols: \d+ of \d+ symbols occur fewer than 10 times in 180 tr", found
    )


def test_the_likeliest_cause_comes_first():
    reversed_and_few = [text[::-1] for text in TEXTS[:30]]
    found = causes(reversed_and_few, TEXTS[:30])
    assert found[0].startswith("the labels are reversed")


def test_blank_fields_with_empty_labels_are_no_cause():
    labels = ["" if i % 4 == 0 else text for i, text in enumerate(TEXTS)]
    pixels = [np.full((HEIGHT, 900), 200, np.uint8) if not label else draw(label) for label in labels]
    lines = LabelledLines(
        [f"/in/{i}.png" for i in range(len(labels))],
        labels,
        np.array([image.shape[1] for image in pixels]),
        HEIGHT,
        len(labels) * 9 // 10,
    )
    read = {i: misread(label, 0.9, i) for i, label in enumerate(labels)}
    assert not list(find_causes(lines, [read], [draw(label) for label in labels if label]))
    empty = LabelledLines(lines.uris, [""] * len(labels), lines.widths, HEIGHT, lines.trained)
    (cause,) = find_causes(empty, [dict.fromkeys(read, "")], [])
    assert 'labels are "", so that' in cause
