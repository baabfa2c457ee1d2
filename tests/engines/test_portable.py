"""A job service, and workers in other processes that get this project as staged packages alone."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import duckdb
import pytest

from pipeline.main import EXIT_DONE, EXIT_REFUSED, main

ROOT = Path(__file__).parents[2]
STAGED = f"--setup_file={ROOT}/setup.py"

pytestmark = pytest.mark.slow


@pytest.fixture
def workspace(tmp_path, tiny_model) -> Path:
    """A workspace with the tiny model in use."""
    folder = tmp_path / "ws"
    shutil.copytree(tiny_model, folder / "models" / "tinymodel000")
    for pointer in ("LATEST", "ACCEPTED"):
        (folder / "models" / pointer).write_text("tinymodel000\n")
    return folder


def digests(folder: Path, pattern: str) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob(pattern))}


def read(workspace: Path) -> list[tuple]:
    pattern = f"{workspace}/predictions/*/*/*.parquet"
    columns = "uri, text, confidence, symbol_confidences, width, height, size_bytes, modified, model_id, run_id"
    return duckdb.sql(f"select {columns} from read_parquet('{pattern}') order by uri").fetchall()


def run(workspace: Path, images: Path, *flags: str) -> int:
    return main([f"--workspace={workspace}", f"--images={images}", f"--infer_images={images}", "--height=32", *flags])


def test_ingest_and_infer_give_what_the_local_runner_gives(workspace, tiny_images, portable_engine, tmp_path, capsys):
    local = shutil.copytree(workspace, tmp_path / "local")
    for folder, flags in ((local, []), (workspace, [*portable_engine, STAGED])):
        for step in ("ingest", "infer"):
            assert run(folder, tiny_images, f"--steps={step}", *flags) == EXIT_DONE, capsys.readouterr()
    assert digests(workspace, "datasets/*/*.tfrecord*") == digests(local, "datasets/*/*.tfrecord*") != {}
    assert read(workspace) == read(local)
    assert len(read(workspace)) == 24
    (manifest,) = workspace.glob("predictions/*/*/_manifest.json")
    assert json.loads(manifest.read_text())["matched"] == 24


def test_workers_without_the_project_say_what_to_pass(workspace, tiny_images, portable_engine, capsys):
    assert run(workspace, tiny_images, "--steps=ingest", *portable_engine) == EXIT_REFUSED
    said = capsys.readouterr().err
    assert "the workers lack this project: pass --setup_file=./setup.py" in said
    assert "Traceback" not in said
    assert not list(workspace.glob("datasets/*/manifest.json"))
