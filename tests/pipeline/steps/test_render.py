"""The render step: texts become a labelled collection that ingest reads as it is."""

import json
import shutil
from pathlib import Path

import matplotlib
import pytest

from pipeline.exits import EXIT_DONE, EXIT_USAGE
from tests.commands import run_command
from tfrecords import DatasetManifest


@pytest.fixture
def flags(tmp_path) -> list[str]:
    """Flags for twelve images of three texts in one face."""
    (tmp_path / "fonts").mkdir()
    shutil.copy(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", tmp_path / "fonts")
    (tmp_path / "texts.txt").write_text("one\ntwo\nđường 3\n", encoding="utf-8")
    texts, fonts = f"--texts={tmp_path / 'texts.txt'}", f"--fonts={tmp_path / 'fonts'}"
    return ["--steps=render", texts, fonts, "--render_count=12"]


def test_texts_become_images_that_ingest_reads(tmp_path, flags, capsys):
    workspace = tmp_path / "ws"
    assert run_command(workspace, *flags, "--plan") == EXIT_DONE
    assert "render 12 images of 3 texts in 1 faces" in capsys.readouterr().out
    assert not (workspace / "rendered").exists()
    assert run_command(workspace, *flags) == EXIT_DONE
    (folder,) = (workspace / "rendered").iterdir()
    assert f"train on them with --images={folder}" in capsys.readouterr().out
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["images"], manifest["texts"], manifest["faces"]) == (12, 3, 1)
    assert not list(workspace.glob("unfinished/*"))
    # They are there now, and other flags make others.
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    for extra in ([], ["--plan"]):
        assert run_command(workspace, *flags, *extra) == EXIT_DONE
        assert "there already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert run_command(workspace, *flags, "--seed=1") == EXIT_DONE
    assert len(list((workspace / "rendered").iterdir())) == 2
    assert run_command(workspace, "--steps=ingest", f"--images={folder}") == EXIT_DONE
    dataset = workspace / "datasets" / (workspace / "datasets" / "LATEST").read_text().strip()
    assert sum(DatasetManifest.read(str(dataset)).counts.values()) == 12


def test_what_is_missing_is_said_before_anything_starts(tmp_path, flags, capsys):
    assert run_command(tmp_path / "ws", "--steps=render") == EXIT_USAGE
    assert "say which, as --texts=FILE" in capsys.readouterr().err
    assert run_command(tmp_path / "ws", *flags, "--fonts=/nowhere") == EXIT_USAGE
    assert "--fonts=/nowhere is not a local folder" in capsys.readouterr().err
    assert run_command(tmp_path / "ws", *flags, "--backgrounds=/nowhere") == EXIT_USAGE
    assert "--backgrounds=/nowhere is not a local folder" in capsys.readouterr().err
