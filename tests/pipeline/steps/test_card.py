"""The card that the evaluate step writes into a model's folder, and the report's copy of it."""

from __future__ import annotations

import dataclasses
import html
import shutil
from pathlib import Path

import pytest

from components.recogniser.manifest import ModelManifest
from pipeline.exits import EXIT_DONE, EXIT_REFUSED
from tests.commands import label_as_read, make_workspace, run_command
from tfrecords import DatasetManifest


@pytest.fixture
def workspace(tmp_path, tiny_model, tiny_dataset) -> Path:
    """A workspace whose latest model, from random weights, is not yet evaluated."""
    return make_workspace(tmp_path / "ws", tiny_model, accepted=False, dataset=tiny_dataset)


def evaluate(workspace: Path, *flags: str) -> tuple[int, str]:
    """Evaluates the latest model; returns the exit status and the model's card."""
    status = run_command(workspace, "--steps=evaluate", *flags)
    return status, (workspace / "models" / "tinymodel000" / "card.md").read_text()


def test_a_refused_model_has_a_card_that_says_why_and_a_new_evaluation_replaces_it(workspace):
    status, card = evaluate(workspace)
    assert status == EXIT_REFUSED
    assert "The evaluation **refused** it: it reads no better than a constant text: " in card
    assert "--max_cer=0.2." in card
    assert "- Anything, as long as the evaluation refuses it." in card
    label_as_read(workspace / "datasets" / "tinydataset0", workspace / "models" / "tinymodel000")
    status, card = evaluate(workspace)
    assert status == EXIT_DONE
    assert "The evaluation **accepted** it." in card
    assert "refuse" not in card
    assert "| character error rate (CER) | 0.00% | 0.00% to 0.00% |" in card
    assert "up to 75.0% may still be wrong" in card
    assert "- It was compared with no other model: none was in use." in card


def test_the_card_says_what_the_manifests_say(workspace):
    _, card = evaluate(workspace)
    assert "- Dataset `tinydataset0`: 16 lines to train on and 4 lines to choose the best epoch by." in card
    assert "- Splits: drawn by chance, image by image, copies of an image together." in card
    assert "- Charset of 7 symbols: `0` `1` `2` `3` `a` `b` `c`." in card
    assert "have 1 to 6 symbols." in card
    assert "- Network `ctc_conv`, trained until 2026-01-02 with epochs 0." in card
    assert "On 4 held-out lines of dataset `tinydataset0`, with the decoder `greedy`." in card
    assert "- Fewer than 10 times in the training lines: `0` 5, `a` 6, " in card
    assert "it has no capital letters, space and punctuation." in card
    assert "it was calibrated on 4 lines, fewer than 512." in card
    assert card.count("\n## ") == 5


def test_the_report_shows_the_card_as_it_is(workspace):
    _, card = evaluate(workspace)
    (page,) = (workspace / "runs").glob("*.html")
    assert f'<pre class="card">{card}</pre>' in html.unescape(page.read_text())


def test_the_card_names_the_model_in_use_before_and_the_difference(workspace):
    models = workspace / "models"
    shutil.copytree(models / "tinymodel000", models / "old")
    dataclasses.replace(ModelManifest.read(str(models / "old")), model_id="old").write(str(models / "old"))
    (models / "ACCEPTED").write_text("old\n")
    label_as_read(workspace / "datasets" / "tinydataset0", models / "tinymodel000", ending="b")
    _, card = evaluate(workspace, "--max_cer=1")
    assert "Model `old`, in use before, has a CER of " in card
    assert "The difference is +0.00 points (+0.00 to +0.00)." in card
    assert not (models / "old" / "card.md").exists()


def test_a_model_of_a_dataset_that_is_gone_has_a_card_that_says_so(workspace):
    datasets = workspace / "datasets"
    (datasets / "tinydataset0").rename(datasets / "newdataset00")
    folder = datasets / "newdataset00"
    dataclasses.replace(DatasetManifest.read(str(folder)), dataset_id="newdataset00").write(str(folder))
    (datasets / "LATEST").write_text("newdataset00\n")
    _, card = evaluate(workspace)
    assert "- Dataset `tinydataset0`, which the workspace does not have any more." in card
    assert "The model was trained on another dataset, which may have some of these lines" in card
    assert "Not known: the dataset that it was trained on is gone." in card
