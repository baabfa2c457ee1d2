"""The explanation of an image in a workspace in an object store."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.exits import EXIT_DONE
from tests.commands import run_command

pytestmark = pytest.mark.slow
STORED = Path(__file__).parents[1] / "stored" / "workspace_2026_11"


def test_an_image_is_explained_from_a_bucket(store, object_store, capsys):
    for path in STORED.rglob("*"):
        if path.is_file():
            object_store.put(f"{store}/ws/{path.relative_to(STORED)}", path.read_bytes())
    assert run_command(f"{store}/ws", "--steps=explain", "--uri=new/0.png") == EXIT_DONE
    lines = capsys.readouterr().out.splitlines()
    assert "/srv/archive/new/0.png" in lines
    assert any(line.startswith("  2026-11-29T") and "model efd9c7cc074c: " in line for line in lines)
    assert any(f"{store}/ws/review/29626846173d/review.csv; nothing has come back" in line for line in lines)
    assert run_command(f"{store}/ws", "--steps=explain", "--uri=new/none.png") == EXIT_DONE
    assert f"new/none.png is nowhere known in {store}/ws" in capsys.readouterr().out
