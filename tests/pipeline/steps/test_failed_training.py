"""Trainings on labels that are wrong: the step says what is wrong with them, and the model is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.exits import EXIT_DONE, EXIT_REFUSED
from tests.commands import run_command
from tests.rendered import render_codes

pytestmark = pytest.mark.slow

LETTERS = "ABCDEFGHKLMN"
COUNT = 120


def relabel(folder: Path, labels: list[str]) -> Path:
    for path, label in zip(sorted(folder.glob("*.txt")), labels, strict=True):
        path.write_text(label)
    return folder


@pytest.fixture
def images(tmp_path) -> tuple[Path, list[str]]:
    """A folder of images, and what they say."""
    return tmp_path / "images", render_codes(tmp_path / "images", LETTERS, COUNT)


@pytest.mark.parametrize("kind", ["reversed", "off by one"])
def test_a_training_on_labels_that_are_not_those_of_the_images_says_what_they_are(images, tmp_path, capfd, kind):
    folder, codes = images
    relabel(folder, [code[::-1] for code in codes] if kind == "reversed" else [*codes[1:], codes[0]])
    flags = ["--steps=ingest,train", f"--images={folder}", "--epochs=2", "--learning_rate=0.004"]
    assert run_command(tmp_path / "ws", *flags) == EXIT_DONE
    said = capfd.readouterr().out
    cause = "the labels are reversed" if kind == "reversed" else "the labels belong to the file after theirs"
    assert "the model has not begun to read: " in said
    assert f"The likeliest cause: {cause}" in said


def test_a_model_of_labels_that_are_names_with_a_long_prefix_is_refused_whatever_its_cer(images, tmp_path, capfd):
    folder, codes = images
    relabel(folder, [f"word_188_{(number * 7919) % 10_000:04d}" for number in range(len(codes))])
    flags = ["--steps=ingest,train,evaluate", f"--images={folder}", "--epochs=40", "--learning_rate=0.004"]
    assert run_command(tmp_path / "ws", *flags, "--validation_fraction=0.2", "--max_cer=1") == EXIT_REFUSED
    model_id = (tmp_path / "ws" / "models" / "LATEST").read_text().strip()
    figures = json.loads((tmp_path / "ws" / "models" / model_id / "evaluation.json").read_text())
    assert figures["cer"] < 0.5  # it knows the prefix
    assert "it reads no better than a constant text" in figures["refused_because"]
    assert not (tmp_path / "ws" / "models" / "ACCEPTED").exists()
    said = capfd.readouterr().out
    assert 'The likeliest cause: all labels begin with "word_188_"' in said
