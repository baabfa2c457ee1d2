"""Accepted texts by the command: what is promised of them, what is marked, and what is said."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import duckdb
import pytest

from pipeline.exits import EXIT_DONE, EXIT_REFUSED, EXIT_USAGE
from pipeline.main import main
from tests.commands import make_workspace


@pytest.fixture
def workspace(tmp_path, tiny_dataset, tiny_model) -> Path:
    """A workspace with the tiny model in use, evaluated on the dataset that it was made for."""
    folder = make_workspace(tmp_path / "ws", tiny_model, dataset=tiny_dataset)
    pointer = folder / "models" / "ACCEPTED"
    accepted = pointer.read_text()
    assert run(folder, "evaluate", "--max_cer=1") == EXIT_REFUSED  # its weights are random
    pointer.write_text(accepted)
    return folder


def run(workspace: Path, step: str, *flags: object) -> int:
    return main([f"--workspace={workspace}", f"--steps={step}", *map(str, flags)])


def find_newest(workspace: Path, pattern: str) -> Path:
    return max(workspace.glob(pattern), key=lambda path: path.stat().st_mtime_ns)


def edit_evaluation(workspace: Path, **changes: object) -> None:
    (path,) = workspace.glob("models/*/evaluation.json")
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def pretend_readings(workspace: Path, threshold: float, lines: int = 1000) -> None:
    """Writes the evaluation of a model that reads all lines above a confidence, and none below it."""
    curve = [
        {"threshold": threshold, "accepted": lines, "counted_as": lines, "wrong": 0, "bound": 0.003},
        {"threshold": 0.0, "accepted": 2 * lines, "counted_as": 2 * lines, "wrong": lines, "bound": 0.52},
    ]
    acceptance = {"level": 0.95, "lines": 2 * lines, "similarity": None, "note": "", "curve": curve}
    edit_evaluation(workspace, acceptance=acceptance)


def read_rows(workspace: Path, run_id: str) -> list[tuple]:
    found = f"{workspace}/predictions/*/run={run_id}/*.parquet"
    return duckdb.sql(f"select confidence, accepted, needs_review from '{found}' order by uri").fetchall()


def test_rows_from_the_promised_confidence_on_are_accepted_and_the_others_need_a_review(
    workspace, tiny_images, tmp_path, capsys
):
    images = shutil.copytree(tiny_images, tmp_path / "images")  # for a review, which leaves out those of the dataset
    assert run(workspace, "infer", f"--infer_images={images}") == EXIT_DONE
    plain = json.loads(find_newest(workspace, "predictions/*/*/_manifest.json").read_text())
    assert "target_error" not in plain
    before = read_rows(workspace, plain["run_id"])
    assert {accepted for _, accepted, _ in before} == {None}
    confidences = sorted(confidence for confidence, _, _ in before)
    threshold = confidences[10]
    assert confidences[9] < threshold
    pretend_readings(workspace, threshold)
    capsys.readouterr()

    asked = ("infer", f"--infer_images={images}", "--target_error=0.01")
    assert run(workspace, *asked) == EXIT_DONE  # what was read before is judged anew
    reason = f"below the {threshold:.6g} that --target_error=0.01 needs"
    assert f"; 10 readings of earlier runs are {reason} and need a review" in capsys.readouterr().out

    assert run(workspace, *asked, "--reread") == EXIT_DONE
    manifest = json.loads(find_newest(workspace, "predictions/*/*/_manifest.json").read_text())
    assert manifest["run_id"] != plain["run_id"]
    assert (manifest["target_error"], manifest["min_confidence"], manifest["needs_review"]) == (0.01, threshold, 10)
    for confidence, accepted, needs_review in read_rows(workspace, manifest["run_id"]):
        assert accepted == (confidence >= threshold) == (not needs_review)
    said = f"; 14 accepted, at most 0.01 of them wrong (95% sure); 10 {reason} need a review"
    assert said in capsys.readouterr().out
    page = find_newest(workspace, "runs/*.html").read_text()
    assert re.search(r"<b>14</b> are accepted under --target_error=0.01: a promise by 2,000 held-out lines", page)

    assert run(workspace, "review", "--target_error=0.01", "--review_count=100", "--plan") == EXIT_DONE
    assert "give out the 10 least confident readings" in capsys.readouterr().out


def test_a_greater_least_confidence_than_the_promise_needs_wins(workspace, tiny_images):
    pretend_readings(workspace, 0.0001)
    flags = (f"--infer_images={tiny_images}", "--target_error=0.01", "--min_confidence=1", "--reread")
    assert run(workspace, "infer", *flags) == EXIT_DONE
    manifest = json.loads(find_newest(workspace, "predictions/*/*/_manifest.json").read_text())
    assert (manifest["min_confidence"], manifest["needs_review"]) == (1, 24)
    assert {accepted for _, accepted, _ in read_rows(workspace, manifest["run_id"])} == {False}


def test_nothing_is_accepted_where_nothing_can_be_promised(workspace, tiny_images, capsys):
    assert run(workspace, "infer", f"--infer_images={tiny_images}", "--target_error=0.001") == EXIT_DONE
    said = capsys.readouterr().out
    assert (
        "warning: no text is accepted, since --target_error=0.001 cannot be promised: it takes at least 2,995" in said
    )
    assert "; none accepted, since nothing can be promised of them; 24 not accepted, since" in said
    manifest = json.loads(find_newest(workspace, "predictions/*/*/_manifest.json").read_text())
    assert manifest["needs_review"] == 24
    assert {accepted for _, accepted, _ in read_rows(workspace, manifest["run_id"])} == {False}


def test_the_evaluation_says_how_many_texts_a_promise_accepts(workspace, capsys):
    capsys.readouterr()
    assert run(workspace, "evaluate", "--max_cer=1", "--target_error=0.001") == EXIT_REFUSED
    said = capsys.readouterr().out
    assert "no text can be accepted under --target_error=0.001" in said
    assert "held-out lines, all of them accepted and right, and there are 4" in said
    (path,) = workspace.glob("models/*/evaluation.json")
    assert json.loads(path.read_text())["acceptance"]["lines"] == 4
    assert (path.parent / "evaluation" / "acceptance.png").is_file()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"acceptance": None}, "an earlier version wrote that"),
        ({"decoding": ["beam", 5, ""]}, r"in another way .* \(beam 5 , now greedy.*run the evaluate step again"),
    ],
)
def test_an_evaluation_that_does_not_cover_the_readings_is_refused_with_the_way_out(
    workspace, tiny_images, capsys, changes, sentence
):
    edit_evaluation(workspace, **changes)
    flags = (f"--infer_images={tiny_images}", "--target_error=0.01")
    assert run(workspace, "infer", *flags) == EXIT_REFUSED
    assert re.search(sentence, capsys.readouterr().err)
    assert not list(workspace.glob("predictions/*/*/_manifest.json"))


@pytest.mark.parametrize("value", ["0", "1", "-0.1", "x"])
def test_a_share_that_is_none_or_all_is_refused(workspace, value):
    assert run(workspace, "infer", f"--target_error={value}") == EXIT_USAGE


def test_each_row_has_the_cer_that_its_symbols_let_expect(workspace, tiny_images):
    edit_evaluation(workspace, expected_errors={"factor": 0.25, "buckets": []})
    assert run(workspace, "infer", f"--infer_images={tiny_images}") == EXIT_DONE
    found = f"{workspace}/predictions/*/*/*.parquet"
    rows = duckdb.sql(f"select text, confidence, symbol_confidences, expected_cer from '{found}'").fetchall()
    for text, confidence, symbols, expected_cer in rows:
        errors = sum(1 - symbol for symbol in symbols) if text else 1 - confidence
        assert expected_cer == pytest.approx(min(1, 0.25 * errors / max(1, len(text))), abs=1e-6)


@pytest.mark.parametrize("changes", [{"expected_errors": None}, {"decoding": ["beam", 5, ""]}])
def test_rows_have_no_expected_cer_where_the_evaluation_says_nothing_of_it(workspace, tiny_images, changes):
    edit_evaluation(workspace, **changes)
    assert run(workspace, "infer", f"--infer_images={tiny_images}") == EXIT_DONE
    found = f"{workspace}/predictions/*/*/*.parquet"
    assert duckdb.sql(f"select count(*), count(expected_cer) from '{found}'").fetchall() == [(24, 0)]
