"""What the steps decide: which model is used, and what is done about what was damaged."""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys

import pytest

from components.models import ModelManifest
from pipeline.main import EXIT_DONE, EXIT_INTERRUPTED, EXIT_REFUSED, main
from pipeline.options import parse_options
from pipeline.steps import _refusal

RUN_PIPELINE = pathlib.Path(__file__).parents[2] / "run_pipeline.py"


@pytest.fixture
def workspace(tmp_path, tiny_dataset, tiny_model) -> pathlib.Path:
    """A workspace whose latest dataset and model are the tiny ones; the model reads nothing right."""
    folder = tmp_path / "ws"
    shutil.copytree(tiny_dataset, folder / "datasets" / "tiny")
    shutil.copytree(tiny_model, folder / "models" / "first")
    (folder / "datasets" / "LATEST").write_text("tiny\n")
    (folder / "models" / "LATEST").write_text("first\n")
    return folder


def accepted(workspace: pathlib.Path) -> str | None:
    path = workspace / "models" / "ACCEPTED"
    return path.read_text().strip() if path.exists() else None


def evaluate(workspace: pathlib.Path, *argv: str) -> tuple[int, dict]:
    latest = (workspace / "models" / "LATEST").read_text().strip()
    status = main([f"--workspace={workspace}", "--steps=evaluate", *argv])
    return status, json.loads((workspace / "models" / latest / "evaluation.json").read_text())


@pytest.mark.parametrize(
    ("cer", "accepted_cer", "refused"),
    [
        (0.2, None, None),
        (0.21, None, "its CER of 21.00% is above --max_cer=0.2"),
        (0.015, 0.01, None),
        (0.016, 0.01, "its CER of 1.60% is more than --max_cer_regression=0.005 worse than the 1.00% of model old"),
        (0.0, 0.01, None),
    ],
)
def test_a_model_is_refused_above_the_greatest_cer_and_when_it_is_worse_than_the_accepted_one(
    cer, accepted_cer, refused
):
    found = _refusal(parse_options([]), cer, "old" if accepted_cer is not None else None, accepted_cer)
    assert found == refused if refused is None else found.startswith(refused)


def test_a_refused_model_is_not_accepted_and_keeps_its_figures(workspace, capsys):
    status, figures = evaluate(workspace)
    assert status == EXIT_REFUSED
    assert not figures["accepted"]
    assert "is above --max_cer=0.2" in figures["refused_because"]
    assert accepted(workspace) is None


def test_a_model_that_was_accepted_and_now_fails_is_taken_out_of_use(workspace, capsys):
    (workspace / "models" / "ACCEPTED").write_text("first\n")
    status, _ = evaluate(workspace)
    assert status == EXIT_REFUSED
    assert "it had been accepted before, and no model is in use now" in capsys.readouterr().err
    assert accepted(workspace) is None


def test_inference_is_left_out_when_the_only_model_was_refused(workspace, capsys):
    status = main([f"--workspace={workspace}", "--steps=evaluate,infer", f"--infer_images={workspace.parent}/none"])
    captured = capsys.readouterr()
    assert status == EXIT_REFUSED
    assert "nothing is read: no model is accepted" in captured.out
    assert len(captured.err.strip().splitlines()) == 1


@pytest.mark.parametrize("change", ["height", "gone"])
def test_an_accepted_model_that_cannot_be_compared_does_not_block_a_new_one(workspace, tiny_model, capsys, change):
    (workspace / "models" / "ACCEPTED").write_text("old\n")
    if change == "height":
        old = shutil.copytree(tiny_model, workspace / "models" / "old")
        dataclasses.replace(ModelManifest.read(str(old)), height=48).write(str(old))
    _, figures = evaluate(workspace)
    assert "cannot be compared" in capsys.readouterr().out
    assert figures["accepted_before_cer"] is None


def test_an_accepted_model_is_compared_on_the_same_images(workspace, tiny_model, capsys):
    shutil.copytree(tiny_model, workspace / "models" / "old")
    (workspace / "models" / "ACCEPTED").write_text("old\n")
    _, figures = evaluate(workspace)
    assert figures["accepted_before"] == "old"
    assert figures["accepted_before_cer"] == figures["cer"]


def test_a_dataset_that_lost_a_file_is_made_again(tiny_images, tmp_path, capsys):
    command = ["--steps=ingest", f"--images={tiny_images}", f"--workspace={tmp_path}", "--label_source=sidecar"]
    assert main(command) == EXIT_DONE
    (shard,) = (tmp_path / "datasets").glob("*/train-*")
    content = shard.read_bytes()
    shard.write_bytes(content[:-5])
    assert main(command) == EXIT_DONE
    assert "it was damaged after it was committed, and is made again" in capsys.readouterr().out
    assert shard.read_bytes() == content


def test_a_reused_dataset_is_checked_against_the_share_of_rejects_too(tiny_images, tmp_path, capsys):
    images = shutil.copytree(tiny_images, tmp_path / "images")
    (images / "fake.png").write_text("no image")
    (images / "fake.txt").write_text("label")
    command = ["--steps=ingest", f"--images={images}", f"--workspace={tmp_path / 'ws'}"]
    assert main([*command, "--max_reject_fraction=0.5"]) == EXIT_DONE
    assert main([*command, "--max_reject_fraction=0"]) == EXIT_REFUSED
    assert "1 of 25 images (4.0%) were rejected" in capsys.readouterr().err


def test_a_workspace_inside_the_images_is_refused(tiny_images, tmp_path, capsys):
    images = shutil.copytree(tiny_images, tmp_path / "images")
    assert main(["--steps=ingest", f"--images={images}", f"--workspace={images / 'work'}"]) == EXIT_REFUSED
    assert "so that its own pictures would be read as images" in capsys.readouterr().err


def test_an_empty_test_split_is_refused_before_training(tiny_images, tmp_path, capsys):
    command = [f"--images={tiny_images}", f"--workspace={tmp_path}", "--test_fraction=0"]
    assert main(["--steps=ingest,train,evaluate", *command]) == EXIT_REFUSED
    captured = capsys.readouterr()
    assert "raise --test_fraction" in captured.err
    assert "training crnn" not in captured.out


def test_a_failure_that_nobody_foresaw_is_one_sentence_and_a_log(workspace, capsys):
    path = workspace / "datasets" / "tiny" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["shards"][-1]["examples"] += 1  # not what was committed
    path.write_text(json.dumps(manifest))
    assert main([f"--workspace={workspace}", "--steps=evaluate"]) == EXIT_REFUSED
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    (log,) = (workspace / "runs").glob("*.log")
    assert f"RuntimeError; the whole story is in {log}" in errors[0]
    assert "the test split has 5 examples, but 4 were read" in log.read_text()


def test_a_stop_by_the_scheduler_leaves_a_record_that_says_so(workspace):
    command = [sys.executable, str(RUN_PIPELINE), "--steps=train", f"--workspace={workspace}", "--epochs=100000"]
    launcher = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in launcher.stdout:
        if line.startswith("epoch"):
            break
    launcher.terminate()
    _, said = launcher.communicate(timeout=60)
    assert launcher.returncode == EXIT_INTERRUPTED
    assert "interrupted: finished steps are kept" in said
    (record,) = (workspace / "runs").glob("*.json")
    assert json.loads(record.read_text())["status"] == "failed"
