"""What the steps decide: which model is used, and what is done about what was damaged."""

import dataclasses
import hashlib
import json
import pathlib
import re
import shutil
import signal
import uuid

import fsspec
import pytest

from components.recogniser.manifest import ModelManifest, describe_files
from pipeline.command_line import parse_options
from pipeline.exits import EXIT_DONE, EXIT_INTERRUPTED, EXIT_REFUSED
from pipeline.main import main
from pipeline.steps.evaluate import _explain_refusal
from pipeline.steps.train import find_model
from tests.commands import label_as_read, make_workspace, run_python, start_command
from tfrecords import DatasetManifest


@pytest.fixture
def workspace(tmp_path, tiny_dataset, tiny_model) -> pathlib.Path:
    """A workspace whose latest dataset and model are the tiny ones; the model reads nothing right."""
    return make_workspace(
        tmp_path / "ws", tiny_model, model_id="first", accepted=False, dataset=tiny_dataset, dataset_id="tiny"
    )


def accepted(workspace: pathlib.Path) -> str | None:
    path = workspace / "models" / "ACCEPTED"
    return path.read_text().strip() if path.exists() else None


def evaluate(workspace: pathlib.Path, *argv: str) -> tuple[int, dict]:
    latest = (workspace / "models" / "LATEST").read_text().strip()
    status = main([f"--workspace={workspace}", "--steps=evaluate", *argv])
    return status, json.loads((workspace / "models" / latest / "evaluation.json").read_text())


def evaluation_of(workspace: pathlib.Path) -> pathlib.Path:
    return workspace / "models" / "first" / "evaluation.json"


def make_model_read(workspace: pathlib.Path, **how) -> None:
    """Gives the four test lines the labels that the model reads there."""
    label_as_read(workspace / "datasets" / "tiny", workspace / "models" / "first", **how)


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
    found = _explain_refusal(parse_options([]), cer, "old" if accepted_cer is not None else None, accepted_cer)
    assert found == refused if refused is None else found.startswith(refused)


def test_a_refused_model_is_not_accepted_and_keeps_its_figures(workspace, capsys):
    status, figures = evaluate(workspace)
    assert status == EXIT_REFUSED
    assert not figures["accepted"]
    assert "is above --max_cer=0.2" in figures["refused_because"]
    assert accepted(workspace) is None


def test_a_model_that_reads_no_better_than_a_constant_text_is_refused_whatever_cer_is_allowed(workspace, capsys):
    make_model_read(workspace, ending="x" * 60)
    status, figures = evaluate(workspace, "--max_cer=1")
    constant = figures["constant"]
    assert status == EXIT_REFUSED
    assert constant["cer"] < figures["cer"] < 1
    refused = figures["refused_because"]
    assert refused.startswith(f"it reads no better than a constant text: its CER is {figures['cer']:.2%}, and")
    assert refused.endswith(f"for every line has {constant['cer']:.2%}")
    (page,) = (workspace / "runs").glob("*.html")
    assert re.search(rf"best constant text.*{constant['cer']:.2%}", page.read_text())
    (record,) = (workspace / "runs").glob("*.json")
    assert json.loads(record.read_text())["steps"][0]["figures"]["constant"] == constant
    assert refused in capsys.readouterr().err


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
    assert figures["cer_difference_to_accepted"] == {"cer": 0, "interval": [0, 0]}


def test_a_refused_model_is_never_used_by_inference(workspace, tiny_model, tiny_images, capsys):
    """The latest model reads worse than the accepted one, on purpose; the accepted one goes on reading."""
    shutil.copytree(tiny_model, workspace / "models" / "old")
    (workspace / "models" / "ACCEPTED").write_text("old\n")
    command = [f"--workspace={workspace}", "--steps=evaluate,infer", f"--infer_images={tiny_images}"]
    assert main([*command, "--max_cer=0"]) == EXIT_REFUSED
    assert "is above --max_cer=0" in json.loads(evaluation_of(workspace).read_text())["refused_because"]
    assert accepted(workspace) == "old"
    (manifest,) = workspace.glob("predictions/*/*/_manifest.json")
    assert json.loads(manifest.read_text())["model_id"] == "old"


def test_the_figures_name_every_file_of_the_evaluation(workspace):
    make_model_read(workspace)
    evaluate(workspace, "--max_cer=1")
    first = evaluation_of(workspace).read_text()
    evaluate(workspace, "--max_cer=1")
    figures = json.loads(evaluation_of(workspace).read_text())
    model = workspace / "models" / "first"
    assert set(figures["files"]) == {f"evaluation/{path.name}" for path in (model / "evaluation").iterdir()}
    assert {"evaluation/readings-00000-of-00001.parquet", "evaluation/worst_lines.png"} <= set(figures["files"])
    for name, described in figures["files"].items():
        content = (model / name).read_bytes()
        assert described == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    # The same model on the same lines: the same evaluation, to the byte.
    assert json.loads(first)["files"] == figures["files"]
    # Files of an evaluation are none of the model's: it is the very same one to the training step.
    manifest = ModelManifest.read(str(model))
    assert not set(manifest.files) & set(figures["files"])


_STOPPED = """
import os, signal, sys
from tfrecords import storage

def stop(*_):
    os.kill(os.getpid(), signal.SIGKILL)

move, write = storage.move_folder, storage.write_json
if sys.argv[1] == "before the files":
    storage.move_folder = lambda source, target: stop() if target.endswith("/evaluation") else move(source, target)
elif sys.argv[1] == "before the figures":
    storage.write_json = lambda path, value: stop() if path.endswith("first/evaluation.json") else write(path, value)
else:
    from pipeline.workspace import Workspace
    Workspace.write_pointer = stop
from pipeline.main import main
main(sys.argv[2:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before the files", "before the figures", "before the pointer"])
def test_a_kill_at_any_moment_never_mixes_two_evaluations(workspace, moment):
    """The process really ends there, by SIGKILL; what is left is a whole evaluation or none."""
    make_model_read(workspace)
    evaluate(workspace, "--max_cer=1")
    before = json.loads(evaluation_of(workspace).read_text())
    (workspace / "models" / "ACCEPTED").unlink()
    # Another dataset, whose labels are others: every file of its evaluation differs.
    folder = shutil.copytree(workspace / "datasets" / "tiny", workspace / "datasets" / "other")
    label_as_read(folder, workspace / "models" / "first", ending="y")
    (workspace / "datasets" / "LATEST").write_text("other\n")
    done = run_python("-c", _STOPPED, moment, f"--workspace={workspace}", "--steps=evaluate", "--max_cer=1")
    assert done.returncode == -signal.SIGKILL, done.stderr
    model = workspace / "models" / "first"
    assert accepted(workspace) is None
    if moment == "before the pointer":
        figures = json.loads(evaluation_of(workspace).read_text())
        assert figures["files"] != before["files"]
        for name, described in figures["files"].items():
            assert hashlib.sha256((model / name).read_bytes()).hexdigest() == described["sha256"]
    else:
        assert not evaluation_of(workspace).exists()
    _, figures = evaluate(workspace, "--max_cer=1")
    assert figures["files"] != before["files"]
    assert accepted(workspace) == "first"


def test_an_evaluation_that_cannot_be_written_is_one_sentence_and_the_former_one_is_whole(workspace, capsys):
    make_model_read(workspace)
    evaluate(workspace, "--max_cer=1")
    before = json.loads(evaluation_of(workspace).read_text())
    (workspace / "unfinished").write_text("a file where a folder has to be")
    assert main([f"--workspace={workspace}", "--steps=evaluate", "--max_cer=1"]) == EXIT_REFUSED
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert json.loads(evaluation_of(workspace).read_text()) == before
    for name, described in before["files"].items():
        content = (workspace / "models" / "first" / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == described["sha256"]


def test_the_summary_says_how_far_the_figures_may_be_off(workspace, capsys):
    make_model_read(workspace)
    evaluate(workspace, "--max_cer=1")
    assert re.search(
        r"model first on 4 held-out images: CER \d+\.\d\d% \(\d+\.\d to \d+\.\d%\), "
        r"exact match \d+\.\d% \(\d+ to \d+%\); accepted",
        capsys.readouterr().out,
    )


def test_groups_of_folders_are_resampled_and_the_report_says_so(workspace, tiny_images, capsys):
    folder = workspace / "datasets" / "tiny"
    path = folder / "statistics.json"
    statistics = json.loads(path.read_text())
    statistics["split_by"] = "folder"
    statistics["splits"]["test"] |= {"groups": 2, "largest_groups": {"books/a": 3, "books/b": 1}}
    path.write_text(json.dumps(statistics))
    places = ("a/1", "a/2", "a/3", "b/4")
    make_model_read(workspace, uris=[f"/in/books/{place}.png" for place in places])
    _, figures = evaluate(workspace)
    assert (figures["resampled"]["units"], figures["resampled"]["count"]) == ("groups", 2)
    (page,) = (workspace / "runs").glob("*.html")
    assert "2,000 resamples of 2 groups; intervals over so few groups as 2 are too narrow" in page.read_text()


def test_a_dataset_that_lost_a_file_is_made_again(tiny_images, tmp_path, capsys):
    command = ["--steps=ingest", f"--images={tiny_images}", f"--workspace={tmp_path}", "--label_source=sidecar"]
    assert main(command) == EXIT_DONE
    (shard,) = (tmp_path / "datasets").glob("*/train-*")
    content = shard.read_bytes()
    shard.write_bytes(content[:-5])
    assert main(command) == EXIT_DONE
    assert "it was damaged after it was committed, and is made again" in capsys.readouterr().out
    assert shard.read_bytes() == content


@pytest.mark.parametrize(("lost", "again"), [("plots/curves.png", False), ("model.onnx", True), ("charset.txt", True)])
def test_a_model_counts_as_damaged_without_what_it_reads_with_and_stays_where_it_is(workspace, lost, again):
    """A training of hours comes before a new one: until then the accepted model, if it can, goes on reading."""
    folder = workspace / "models" / "first"
    (folder / "plots").mkdir()
    (folder / "plots" / "curves.png").write_bytes(b"a picture")
    manifest = ModelManifest.read(str(folder))
    (folder / "manifest.json").unlink()
    dataclasses.replace(manifest, files=describe_files(str(folder))).write(str(folder))
    (folder / lost).unlink()
    found, damage = find_model(str(folder))
    assert (found is None) == again
    assert (damage is not None) == again
    assert (folder / "model.keras").exists()


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
    assert "training ctc_conv" not in captured.out


@pytest.mark.parametrize("step", ["train", "evaluate"])
def test_a_dataset_that_lost_its_statistics_is_refused_with_the_way_out(workspace, capsys, step):
    path = workspace / "datasets" / "tiny" / "statistics.json"
    path.unlink()
    assert main([f"--workspace={workspace}", f"--steps={step}"]) == EXIT_REFUSED
    wanted = f"error: {path} is missing, but the manifest beside it names it: delete {path.parent} and run the ingest"
    assert wanted in capsys.readouterr().err


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
    launcher = start_command("--steps=train", f"--workspace={workspace}", "--epochs=100000")
    for line in launcher.stdout:
        if line.startswith("epoch"):
            break
    launcher.terminate()
    _, said = launcher.communicate(timeout=60)
    assert launcher.returncode == EXIT_INTERRUPTED
    assert "interrupted: what is finished is kept" in said
    (record,) = (workspace / "runs").glob("*.json")
    assert json.loads(record.read_text())["status"] == "failed"


# Starting from another model


def refusal_of_training(workspace, capsys, *flags: str) -> str:
    assert main([f"--workspace={workspace}", "--steps=train", *flags]) == EXIT_REFUSED
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, captured.err
    assert [path.name for path in (workspace / "models").iterdir() if path.is_dir()] == ["first"]
    assert not list(workspace.glob("unfinished/*"))
    return errors[0]


@pytest.mark.parametrize(
    "name", ["0123456789ab", "LATEST", "nowhere/at/all", "../datasets/tiny", "memory://none/model"]
)
def test_a_start_that_is_no_model_is_refused(workspace, capsys, name):
    assert refusal_of_training(workspace, capsys, f"--init_from={name}") == (
        f"error: --init_from={name} is neither the ID of a model in {workspace}/models nor the folder of a model"
    )


@pytest.mark.parametrize("by", ["ID", "folder", "url"])
def test_a_start_of_another_network_is_refused_however_it_is_named(workspace, capsys, by):
    memory = fsspec.filesystem("memory")
    url = f"memory://{uuid.uuid4().hex}/first"
    memory.put(str(workspace / "models" / "first"), url, recursive=True)
    name = {"ID": "first", "folder": str(workspace / "models" / "first"), "url": url}[by]
    assert refusal_of_training(workspace, capsys, f"--init_from={name}", "--model=crnn_v1") == (
        f"error: --init_from={name} is a model of the network ctc_conv, which cannot be the start of --model=crnn_v1: "
        "leave --model out"
    )


def test_a_start_that_reads_lines_of_another_height_is_refused(workspace, capsys):
    folder = workspace / "models" / "first"
    dataclasses.replace(ModelManifest.read(str(folder)), height=48).write(str(folder))
    dataset_id = DatasetManifest.read(str(workspace / "datasets" / "tiny")).dataset_id
    assert refusal_of_training(workspace, capsys, "--init_from=first") == (
        f"error: --init_from=first reads lines of height 48, but those of dataset {dataset_id} are 32 pixels high: "
        "ingest with --height=48"
    )


@pytest.mark.parametrize(("name", "sentence"), [("model.keras", "has checksum"), ("charset.txt", "charset.txt")])
def test_a_start_whose_files_are_damaged_is_refused(workspace, capsys, name, sentence):
    path = workspace / "models" / "first" / name
    path.write_bytes(path.read_bytes() + b"x\n")
    assert main([f"--workspace={workspace}", "--steps=train", "--init_from=first"]) == EXIT_REFUSED
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert str(path) in error
    assert sentence in error
