"""The weights from which trainings start: with few labels those that come with the program."""

import json
import shutil

import pytest

from components.training import base_weights
from pipeline.command_line import parse_options
from pipeline.exits import EXIT_DONE
from pipeline.steps import training_start
from pipeline.steps.training_start import find_start, is_base
from pipeline.workspace import Workspace
from tests.commands import make_workspace, run_command
from tfrecords import Charset, DataError, DatasetManifest


@pytest.fixture
def base(tmp_path, tiny_model, monkeypatch):
    """Base weights for `ctc_conv` at the height of the tiny dataset."""
    shutil.copytree(tiny_model, tmp_path / "base" / "ctc_conv")
    monkeypatch.setattr(base_weights, "_FOLDER", str(tmp_path / "base"))
    return str(tmp_path / "base" / "ctc_conv")


def start_of(tiny_dataset, tmp_path, *flags, symbols=5.0):
    """The start that a command finds for the tiny dataset."""
    options = parse_options([f"--workspace={tmp_path}", "--steps=train", *flags])
    manifest = DatasetManifest.read(str(tiny_dataset))
    return find_start(options, Workspace(str(tmp_path)), manifest, str(tiny_dataset), symbols)


def test_few_images_of_known_symbols_start_from_base(tiny_dataset, tmp_path, base, monkeypatch):
    start = start_of(tiny_dataset, tmp_path)
    assert start[0] == base
    assert is_base(start)
    assert start_of(tiny_dataset, tmp_path, "--init_from=base") == start
    assert start_of(tiny_dataset, tmp_path, "--init_from=none") is None
    assert start_of(tiny_dataset, tmp_path, symbols=40.0) is None  # there are none for that network
    monkeypatch.setattr(training_start, "FEW_IMAGES", 16)
    assert start_of(tiny_dataset, tmp_path) is None
    assert not is_base(None)


def test_lines_of_another_height_or_of_other_symbols_start_at_random(tiny_dataset, tmp_path, base):
    path = tmp_path / "base" / "ctc_conv" / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "height": 48}))
    assert start_of(tiny_dataset, tmp_path) is None
    with pytest.raises(DataError, match="--init_from=base reads lines of height 48"):
        start_of(tiny_dataset, tmp_path, "--init_from=base")
    other = Charset(("0", "1", "x", "y"))
    (path.parent / "charset.txt").write_text(other.to_file_text())
    path.write_text(json.dumps({**content, "charset_sha256": other.digest}))
    assert start_of(tiny_dataset, tmp_path) is None  # it knows two of seven
    assert is_base(start_of(tiny_dataset, tmp_path, "--init_from=base"))


def test_a_network_without_base_weights_is_refused_where_they_are_asked_for(tiny_dataset, tmp_path, base):
    with pytest.raises(DataError, match="no base weights of the network ocr_model_v1"):
        start_of(tiny_dataset, tmp_path, "--init_from=base", "--model=ocr_model_v1")
    assert start_of(tiny_dataset, tmp_path, "--model=ocr_model_v1") is None


@pytest.mark.slow
def test_a_training_from_base_says_so(tiny_dataset, tiny_model, tmp_path, base, capsys):
    workspace = make_workspace(tmp_path / "ws", tiny_model, dataset=tiny_dataset)
    flags = ("--steps=train", "--epochs=1")
    assert run_command(workspace, *flags, "--plan") == EXIT_DONE
    assert "training starts from the base weights" in capsys.readouterr().out
    assert run_command(workspace, *flags) == EXIT_DONE
    said = capsys.readouterr().out
    assert "since there are fewer than 500 images to train on" in said
    assert "from the base weights" in said
    model_id = (workspace / "models" / "LATEST").read_text().strip()
    options = json.loads((workspace / "models" / model_id / "manifest.json").read_text())["options"]
    assert options["init_from"] == "tinymodel000"
    assert options["learning_rate"] == pytest.approx(0.002)


@pytest.mark.slow
def test_a_model_that_was_trained_before_is_found_and_not_trained_again(
    tiny_dataset, tiny_model, tmp_path, base, capsys
):
    workspace = make_workspace(tmp_path / "ws", tiny_model, dataset=tiny_dataset)
    flags = ("--steps=train", "--epochs=1")
    assert run_command(workspace, *flags, "--init_from=none") == EXIT_DONE
    model_id = (workspace / "models" / "LATEST").read_text()
    capsys.readouterr()
    for extra in (["--plan"], []):
        assert run_command(workspace, *flags, *extra) == EXIT_DONE
        assert "there already" in capsys.readouterr().out
    assert (workspace / "models" / "LATEST").read_text() == model_id
