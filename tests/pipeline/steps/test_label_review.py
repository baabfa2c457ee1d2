"""Labels that are likely wrong are given out, corrected, and take the place of the wrong ones."""

import json
from pathlib import Path

import pyarrow.parquet
import pytest

from components.review import folds
from components.review.labels import find_suspects
from pipeline.exits import EXIT_DONE, EXIT_REFUSED
from tests.browser import OpenPage, needs_browser, start_browser
from tests.commands import make_workspace, run_command
from tests.conftest import LABELS
from tests.pipeline.steps.test_review import latest, reviews, rows_of, save, texts

FLAGS = ("--review=labels", "--epochs=1", "--height=32")


@pytest.fixture(scope="module")
def checked(tmp_path_factory, tiny_dataset, tiny_model) -> Path:
    """A workspace in which the labels of the tiny dataset were checked once, by two models of one epoch.

    These read next to nothing, so that nearly every label is given out.
    """
    workspace = make_workspace(tmp_path_factory.mktemp("labels") / "ws", tiny_model, dataset=tiny_dataset)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folds, "_MANY_LINES", 20)
        assert run_command(workspace, "--steps=review", "--review_count=3", *FLAGS) == EXIT_DONE
    return workspace


@pytest.fixture(autouse=True)
def _two_folds(monkeypatch):
    monkeypatch.setattr(folds, "_MANY_LINES", 20)


@pytest.mark.slow
def test_labels_are_given_out_once_the_most_suspicious_first(checked, capsys):
    first = reviews(checked)[0]
    table = pyarrow.parquet.read_table(first / "labels.parquet")
    assert sorted(table["label"].to_pylist()) == sorted(LABELS)
    suspects = find_suspects(table)
    assert len(suspects) > 6
    rows = rows_of(first / "review.csv")
    assert [row["text"].strip() for row in rows] == [suspect.label for suspect in suspects[:3]]
    assert [row["read"].strip() for row in rows] == [suspect.reading for suspect in suspects[:3]]
    assert [float(row["confidence"]) for row in rows] == [round(suspect.confidence, 4) for suspect in suspects[:3]]
    assert {row["dataset"].strip() for row in rows} == {"tinydataset0"}
    assert not list(checked.glob("unfinished/*"))
    # The next ones come without training, and the plan says so.
    before = sorted(checked.rglob("*"))
    assert run_command(checked, "--steps=review", "--review_count=4", "--plan", *FLAGS) == EXIT_DONE
    said = capsys.readouterr().out
    assert "give out the 4 next labels of dataset tinydataset0 that are likely wrong" in said
    assert sorted(checked.rglob("*")) == before
    assert run_command(checked, "--steps=review", "--review_count=4", *FLAGS) == EXIT_DONE
    assert "training" not in capsys.readouterr().out
    (second,) = [review for review in reviews(checked) if review != first]
    assert [row["text"].strip() for row in rows_of(second / "review.csv")] == [each.label for each in suspects[3:7]]


@pytest.mark.slow
def test_corrected_labels_take_the_place_of_the_wrong_ones_and_others_stay(checked, tmp_path, capsys):
    first = reviews(checked)[0]
    before = texts(checked / "datasets" / "tinydataset0")
    rows = rows_of(first / "review.csv")
    rows[0]["text"], rows[1]["text"] = "a0", ""
    save(tmp_path / "corrected.csv", rows)
    flags = (f"--label_source={tmp_path / 'corrected.csv'}", "--height=32")
    assert run_command(checked, "--steps=ingest", *flags) == EXIT_DONE
    (corrected,) = [uri for uri in before if uri.endswith(Path(rows[0]["path"]).name)]
    assert texts(latest(checked)) == {**before, corrected: "a0"}
    # Another dataset is another check; a label that a person had is not given out again.
    capsys.readouterr()
    assert run_command(checked, "--steps=review", "--plan", *FLAGS) == EXIT_DONE
    assert "2 of 2 are to be trained" in capsys.readouterr().out


def test_a_plan_says_what_is_to_be_trained(tmp_path, tiny_dataset, tiny_model, capsys):
    workspace = make_workspace(tmp_path / "ws", tiny_model, dataset=tiny_dataset)
    before = sorted(workspace.rglob("*"))
    assert run_command(workspace, "--steps=review", "--plan", *FLAGS) == EXIT_DONE
    said = capsys.readouterr().out
    assert "check the 24 labels of dataset tinydataset0: each is read by a model that did not train on it" in said
    assert "2 of 2 are to be trained" in said
    assert "epochs 1" in said
    assert sorted(workspace.rglob("*")) == before


def test_too_few_lines_are_refused_in_one_sentence(tmp_path, tiny_dataset, tiny_model, capsys):
    workspace = make_workspace(tmp_path / "ws", tiny_model, dataset=tiny_dataset)
    manifest = workspace / "datasets" / "tinydataset0" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["shards"] = content["shards"][:1]
    manifest.write_text(json.dumps(content))
    assert run_command(workspace, "--steps=review", *FLAGS) == EXIT_REFUSED
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "has 9 lines" in said
    assert "that takes at least 20" in said


@pytest.mark.slow
@needs_browser
def test_the_page_shows_label_and_reading_and_takes_the_reading_at_a_click(checked, tmp_path):
    (first, *_) = reviews(checked)
    rows = rows_of(first / "review.csv")
    with start_browser() as browser:
        opened = OpenPage(browser, (first / "review.html").as_uri())
        page = opened.page
        assert [box.input_value() for box in page.locator("input").all()] == [row["text"].strip() for row in rows]
        shown = page.locator(".read bdi").all_text_contents()
        assert shown == [text.strip() for row in rows for text in (row["text"], row["read"])]
        assert "3 images whose labels are most likely wrong" in page.content()
        page.locator(".take").nth(1).click()
        assert page.locator("input").nth(1).input_value() == rows[1]["read"].strip()
        page.locator("input").nth(2).fill("")
        states = page.locator(".state").all_text_contents()
        assert (states[0], states[2]) == ("", "✓ label kept")
        assert page.locator("#count").text_content() == "2 of 3 checked"
        with page.expect_download() as waiting:
            page.locator("#download").click()
        waiting.value.save_as(tmp_path / "review.csv")
        assert [row["text"].strip() for row in rows_of(tmp_path / "review.csv")] == ["", rows[1]["read"].strip(), ""]
        assert (opened.requests, opened.console) == ([], [])
