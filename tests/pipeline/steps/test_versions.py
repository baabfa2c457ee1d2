"""Each artefact has a version of its own: raising one makes that artefact anew, and no other."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from pathlib import Path

import pytest

from pipeline.exits import EXIT_DONE
from pipeline.main import main

VERSIONS = {
    "dataset": ("pipeline.steps.ingest", "DATASET_VERSION"),
    "model": ("pipeline.steps.train", "MODEL_VERSION"),
    "run": ("pipeline.steps.infer", "RUN_VERSION"),
}


@pytest.fixture
def workspaces(tmp_path, tiny_dataset, tiny_model):
    """Makes workspaces with the tiny dataset, and the tiny model in use."""

    def make(name: str) -> Path:
        folder = tmp_path / name
        shutil.copytree(tiny_dataset, folder / "datasets" / "tinydataset0")
        shutil.copytree(tiny_model, folder / "models" / "tinymodel000")
        (folder / "datasets" / "LATEST").write_text("tinydataset0\n")
        for pointer in ("LATEST", "ACCEPTED"):
            (folder / "models" / pointer).write_text("tinymodel000\n")
        return folder

    return make


def make_ids(workspace: Path, images: Path, capsys) -> dict[str, str]:
    """The ID of the run, the model and the dataset that the same command makes of the same input."""
    assert main([f"--workspace={workspace}", "--steps=infer", f"--infer_images={images}"]) == EXIT_DONE
    (manifest,) = workspace.glob("predictions/*/*/_manifest.json")
    capsys.readouterr()
    assert main([f"--workspace={workspace}", "--plan", "--steps=train", "--model=crnn", "--epochs=1"]) == EXIT_DONE
    (model_id,) = set(re.findall(r"/models/([0-9a-f]{12})\b", capsys.readouterr().out))
    assert main([f"--workspace={workspace}", "--steps=ingest", f"--images={images}", "--height=32"]) == EXIT_DONE
    dataset_id = (workspace / "datasets" / "LATEST").read_text().strip()
    return {"dataset": dataset_id, "model": model_id, "run": json.loads(manifest.read_text())["run_id"]}


def test_raising_one_version_changes_the_ids_of_that_artefact_alone(workspaces, tiny_images, monkeypatch, capsys):
    before = make_ids(workspaces("before"), tiny_images, capsys)
    assert make_ids(workspaces("again"), tiny_images, capsys) == before
    for raised, (module, name) in VERSIONS.items():
        with monkeypatch.context() as patch:
            module = importlib.import_module(module)
            patch.setattr(module, name, getattr(module, name) + 1)
            after = make_ids(workspaces(raised), tiny_images, capsys)
        assert [artefact for artefact in VERSIONS if after[artefact] != before[artefact]] == [raised]
