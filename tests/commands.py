"""What tests of the command share: a workspace for it, and the command in this process or in one of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.main import main

ROOT = Path(__file__).parents[1]
RUN_PIPELINE = ROOT / "run_pipeline.py"


def make_workspace(
    folder: Path,
    model: Path,
    *,
    model_id: str = "tinymodel000",
    accepted: bool = True,
    dataset: Path | None = None,
    dataset_id: str = "tinydataset0",
) -> Path:
    """Makes a workspace with copies of a model, in use if it is accepted, and of a dataset.

    Returns:
        The folder, so that a fixture is one line.
    """
    shutil.copytree(model, folder / "models" / model_id)
    for pointer in ("LATEST", "ACCEPTED")[: 1 + accepted]:
        (folder / "models" / pointer).write_text(f"{model_id}\n")
    if dataset is not None:
        shutil.copytree(dataset, folder / "datasets" / dataset_id)
        (folder / "datasets" / "LATEST").write_text(f"{dataset_id}\n")
    return folder


def run_command(workspace: Path | str, *flags: object) -> int:
    """Runs the command in this process; returns its exit status."""
    return main([f"--workspace={workspace}", *map(str, flags)])


def start_command(*flags: object, environment: dict[str, str] | None = None, **how: Any) -> subprocess.Popen[str]:
    """Starts `python run_pipeline.py` with pipes for what it prints, as text.

    Args:
        environment: variables beside those of this process.
        how: as `subprocess.Popen` has it.
    """
    how = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **how}
    program = [sys.executable, "-u", str(RUN_PIPELINE), *map(str, flags)]
    return subprocess.Popen(program, env={**os.environ, **(environment or {})}, **how)
