"""What tests of training share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


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
