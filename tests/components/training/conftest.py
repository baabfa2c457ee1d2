"""What tests of training share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands import get_server
from tests.fork_server import ForkedProcess, make_subprocess_module


@pytest.fixture
def training_server() -> str:
    """The address of a server that has imported the training and forks for each process."""
    return get_server()


class WarmWorkers:
    """The training workers that `train_in_processes` starts during a test, forked by a server.

    Attributes:
        prelude: Python code that each of them runs before.
        started: all of them, in order.
    """

    def __init__(self, server: str) -> None:
        self._server = server
        self.prelude = ""
        self.started: list[ForkedProcess] = []

    def start(self, command: list[str], **how: Any) -> ForkedProcess:
        """Starts a worker, in place of `subprocess.Popen`."""
        self.started.append(ForkedProcess(self._server, command, prelude=self.prelude, **how))
        return self.started[-1]

    def skip_export(self) -> None:
        """Lets them train and write everything but the exported model, which takes longer than a short training."""
        self.prelude = "from components.training import result; result.export_model = lambda *_: None"

    def find_running(self) -> list[int]:
        """Returns the IDs of the workers that have not ended, in the order of their start."""
        return [process.pid for process in list(self.started) if os.path.exists(f"/proc/{process.pid}/exe")]


@pytest.fixture
def warm_workers(training_server: str, monkeypatch: pytest.MonkeyPatch) -> WarmWorkers:
    """What starts training workers in this test, instead of new interpreters that import TensorFlow."""
    from components.training import launcher

    workers = WarmWorkers(training_server)
    monkeypatch.setattr(launcher, "subprocess", make_subprocess_module(workers.start))
    return workers


@pytest.fixture
def request_for(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """The fields of a training request for a dataset: a short one, with whatever is to be otherwise."""

    def fields(dataset: Path, **changes: Any) -> dict[str, Any]:
        return {
            "dataset_folder": str(dataset),
            "output_folder": str(tmp_path / "model"),
            "checkpoint_folder": str(tmp_path / "checkpoints"),
            "model": "ctc_conv",
            "epochs": 3,
            "batch_size": 8,
            "learning_rate": 4e-3,
            "patience": 1000,
            "seed": 0,
            "stall_timeout_s": 60.0,
            **changes,
        }

    return fields
