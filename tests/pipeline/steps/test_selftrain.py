"""The accepted model's confident readings train the next one."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet
import pytest

from pipeline.exits import EXIT_DONE, EXIT_LOST, EXIT_REFUSED, EXIT_USAGE
from pipeline.steps import selftrain
from tests.commands import make_workspace, run_command

FLAGS = ("--steps=selftrain", "--epochs=1", "--height=32")


@pytest.fixture
def workspace(tmp_path, tiny_dataset, tiny_model, tiny_images) -> Path:
    """A workspace with the tiny model in use, the dataset that it was made for, and a run of twelve other images."""
    folder = tmp_path / "night"
    folder.mkdir()
    for number, path in enumerate(sorted(tiny_images.glob("*.png"))[:12]):
        shutil.copy2(path, folder / f"n{number}.png")
    workspace = make_workspace(tmp_path / "ws", tiny_model, dataset=tiny_dataset)
    assert run_command(workspace, "--steps=infer", f"--infer_images={folder},{tiny_images}") == EXIT_DONE
    return workspace


def read_rows(workspace: Path) -> list[tuple[str, float, str]]:
    """URI, confidence and text of the committed predictions."""
    tables = map(pyarrow.parquet.read_table, workspace.glob("predictions/*/*/*.parquet"))
    return [(row["uri"], row["confidence"], row["text"]) for table in tables for row in table.to_pylist()]


def read_pointers(workspace: Path) -> tuple[str, str]:
    return tuple((workspace / "models" / name).read_text().strip() for name in ("LATEST", "ACCEPTED"))  # type: ignore[return-value]


@pytest.mark.slow
def test_a_model_trains_on_what_the_accepted_one_read_and_says_so(workspace, capsys):
    assert run_command(workspace, *FLAGS, "--selftrain_rounds=1", "--plan") == EXIT_DONE
    said = capsys.readouterr().out
    assert "model tinymodel000 reads 12 unlabelled images" in said
    assert read_pointers(workspace) == ("tinymodel000", "tinymodel000")
    assert run_command(workspace, *FLAGS, "--selftrain_rounds=1") == EXIT_DONE
    said = capsys.readouterr().out
    model_id, accepted = read_pointers(workspace)
    assert accepted == "tinymodel000"
    assert "--steps=evaluate decides whether it is used" in said
    folder = workspace / "models" / model_id
    taught = pyarrow.parquet.read_table(folder / "taught_labels.parquet").to_pylist()
    night = {uri: (confidence, text) for uri, confidence, text in read_rows(workspace) if "night" in uri}
    most_confident = sorted(night, key=lambda uri: -night[uri][0])[:6]
    assert {row["uri"]: row["text"] for row in taught} == {
        uri: night[uri][1] for uri in most_confident if night[uri][1]
    }
    assert {row["model_id"] for row in taught} == {"tinymodel000"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["model_id"] == model_id
    assert manifest["options"]["teacher"] == "tinymodel000"
    assert manifest["options"]["taught"] == [len(taught)]
    assert "taught_labels.parquet" in manifest["files"]
    assert not list(workspace.glob("unfinished/*"))
    # The same command finds it, and its plan says so.
    assert run_command(workspace, *FLAGS, "--selftrain_rounds=1", "--plan") == EXIT_DONE
    assert "is there already" in capsys.readouterr().out
    assert run_command(workspace, *FLAGS, "--selftrain_rounds=1") == EXIT_DONE
    assert "it was there already" in capsys.readouterr().out
    # The evaluation decides about it as about any other: after one epoch it reads nothing.
    assert run_command(workspace, "--steps=evaluate", "--max_cer=1", "--max_cer_regression=1") == EXIT_REFUSED
    assert "no better than a constant text" in capsys.readouterr().err
    assert read_pointers(workspace) == (model_id, "tinymodel000")


@pytest.mark.slow
def test_a_lost_round_is_trained_again_and_a_finished_one_is_not(workspace, trainings, capsys):
    flags = (*FLAGS, "--selftrain_rounds=2")
    assert run_command(workspace, *flags) == EXIT_LOST
    capsys.readouterr()
    assert run_command(workspace, *flags, "--plan") == EXIT_DONE
    assert "resume: 1 of 2 trainings are finished" in capsys.readouterr().out
    assert run_command(workspace, *flags) == EXIT_DONE
    assert len(trainings) == 3
    model_id, _ = read_pointers(workspace)
    taught = pyarrow.parquet.read_table(workspace / "models" / model_id / "taught_labels.parquet").to_pylist()
    assert {row["model_id"] for row in taught} == {f"{model_id}-1"}
    counts = json.loads((workspace / "models" / model_id / "manifest.json").read_text())["options"]["taught"]
    assert len(counts) == 2
    assert counts[1] == len(taught)
    assert not list(workspace.glob("unfinished/*"))


def test_a_model_that_reads_nothing_teaches_nothing(workspace, monkeypatch, capsys):
    monkeypatch.setattr(selftrain, "label_confident_lines", lambda *_: [])
    assert run_command(workspace, *FLAGS) == EXIT_DONE
    assert "none of 12 unlabelled images can teach: model tinymodel000 reads nothing" in capsys.readouterr().out
    assert read_pointers(workspace) == ("tinymodel000", "tinymodel000")


def test_without_an_image_that_is_not_in_the_dataset_nothing_is_trained(
    tmp_path, tiny_dataset, tiny_model, tiny_images, capsys
):
    workspace = make_workspace(tmp_path / "ws", tiny_model, dataset=tiny_dataset)
    assert run_command(workspace, "--steps=infer", f"--infer_images={tiny_images}") == EXIT_DONE
    for flags in (["--plan"], []):
        assert run_command(workspace, *FLAGS, *flags) == EXIT_DONE
        assert "no image can teach" in capsys.readouterr().out


def test_what_is_missing_is_said_with_the_way_out(tmp_path, tiny_dataset, tiny_model, capsys):
    workspace = make_workspace(tmp_path / "ws", tiny_model, dataset=tiny_dataset)
    for flags in (["--plan"], []):
        assert run_command(workspace, *FLAGS, *flags) == EXIT_REFUSED
        assert "run the infer step first" in capsys.readouterr().err
    (workspace / "models" / "ACCEPTED").unlink()
    assert run_command(workspace, *FLAGS) == EXIT_REFUSED
    assert "only such a one may teach" in capsys.readouterr().err
    assert run_command(workspace, "--steps=train,selftrain") == EXIT_USAGE
    assert "train and selftrain each make a model" in capsys.readouterr().err
