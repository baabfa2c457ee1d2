"""Nights that end in the middle: killed, with a full disk, or with files that come and go under the command's hands.

`python -m tests.crashes` does as many kills as one likes.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import duckdb
import pytest

from tests.commands import start_command
from tests.crashes import NIGHTS, Undisturbed, moments, run, what_is_there
from tests.small_disks import find_obstacle_to_small_disks
from tests.victims import Blow

pytestmark = pytest.mark.slow

NAMES = [night.name for night in NIGHTS]
KILLS = [(NAMES.index("train"), 0.9), *(moment for moment in moments(20, len(NIGHTS), 1) if moment[0] != 1)][:7]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Undisturbed:
    return Undisturbed(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize(("night", "fraction"), KILLS)
def test_a_killed_night_is_made_up_for_by_the_same_command(undisturbed, tmp_path, night, fraction):
    undisturbed.kill(night, fraction, tmp_path / "workspace")


def test_a_night_that_is_killed_again_and_again_gets_there(undisturbed, tmp_path):
    undisturbed.kill(NAMES.index("infer"), 0.5, tmp_path / "workspace", kills=3)


@pytest.mark.parametrize(
    ("night", "fraction", "blow"),
    [
        ("ingest", 0.4, Blow("helper", signal.SIGKILL)),
        ("infer", 0.5, Blow("helper", signal.SIGSTOP)),
        ("infer again", 0.1, Blow("helper", signal.SIGKILL, every=True)),
        ("train", 0.5, Blow("worker", signal.SIGSTOP)),
    ],
    ids=str,
)
def test_a_helper_or_worker_that_somebody_killed_or_stopped_is_replaced(undisturbed, tmp_path, night, fraction, blow):
    undisturbed.strike(NAMES.index(night), fraction, blow, tmp_path / "workspace")


@pytest.mark.tool.with_args(find_obstacle_to_small_disks)
@pytest.mark.parametrize(("night", "spare_kib"), [("ingest", 60), ("infer", 24), ("infer again", 60)])
def test_a_full_disk_is_one_sentence_and_the_same_command_makes_up_for_it(undisturbed, tmp_path, night, spare_kib):
    said = undisturbed.fill_disk(NAMES.index(night), spare_kib, tmp_path / "workspace")
    assert "status=1" in said
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert any("No space left on device" in line for line in errors), said
    assert "Traceback" not in said


def test_files_that_come_and_go_while_the_command_runs_are_each_accounted_for_once(undisturbed, tmp_path):
    workspace, new = tmp_path / "workspace", undisturbed.collection.new
    undisturbed.restore(NAMES.index("infer"), workspace)
    flags = undisturbed.collection.flags(workspace, NIGHTS[NAMES.index("infer")])
    process = start_command(*flags, stderr=None, start_new_session=True)
    assert process.stdout is not None
    assert any(line.startswith("recognising ") for line in process.stdout)
    os.killpg(process.pid, signal.SIGSTOP)  # all images are listed; few or none are read
    time.sleep(0.2)
    listed = {str(path) for path in new.iterdir()}
    gone = sorted(new.iterdir())[::90]
    for path in gone:
        path.unlink()
    (new / "changed under its hands.png").write_bytes((new / "00001.png").read_bytes())
    os.killpg(process.pid, signal.SIGCONT)
    process.communicate(timeout=120)
    assert process.returncode == 0
    found = accounted_for(workspace)
    assert sorted(found) == sorted(listed)
    (manifest,) = workspace.glob("predictions/*/*/_manifest.json")
    figures = json.loads(manifest.read_text())
    assert figures["matched"] == figures["rows"] + sum(figures["rejects"].values()) == len(listed)
    assert figures["rejects"].get("unreadable", 0) <= len(gone)

    assert run(flags).status == 0
    again = accounted_for(workspace)
    assert sorted(again) == sorted([*listed, str(new / "changed under its hands.png")])
    assert not any("unfinished" in name for name in what_is_there(workspace)["names"])


def accounted_for(workspace: Path) -> list[str]:
    """The URI of every row of the predictions and the rejects of the infer step."""
    found = []
    for kind in ("predictions", "rejects"):
        pattern = f"{workspace}/{kind}/*/*/*.parquet"
        found += [uri for (uri,) in duckdb.sql(f"select uri from read_parquet('{pattern}')").fetchall()]
    return found
