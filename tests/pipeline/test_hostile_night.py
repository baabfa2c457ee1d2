"""A night among files made to end it, and helpers that hang: the command goes on, or ends when it is told to."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import duckdb
import pytest
from PIL import Image

from components.processes.states import read_processor_seconds
from pipeline.exits import EXIT_DONE, EXIT_INTERRUPTED
from tests.bombs import BOMBS, make_exif_bomb, make_gif_bomb
from tests.commands import make_workspace, start_command
from tests.victims import list_processes

pytestmark = pytest.mark.slow

GOOD = 1000
MOST_MEMORY = 2_000_000_000  # bytes of all processes of the command together


@pytest.fixture
def workspace(tmp_path, tiny_dataset, tiny_model) -> Path:
    """A workspace with the tiny model in use."""
    return make_workspace(tmp_path / "ws", tiny_model, dataset=tiny_dataset)


@pytest.fixture
def scans(tmp_path) -> Path:
    """A folder of good images."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in range(GOOD):
        Image.new("L", (60 + number % 40, 20), 230).save(folder / f"{number:04d}.png")
    return folder


def measure_memory(pid: int) -> int:
    """The bytes of a process in memory, and its share of those that others use, too; 0 once it is gone."""
    try:
        return 1024 * int(re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)[1])
    except (OSError, TypeError):
        return 0


def watch_memory(process: subprocess.Popen, peak: list[int]) -> None:
    while process.poll() is None:
        peak[0] = max(peak[0], sum(map(measure_memory, [process.pid, *list_processes(process.pid)])))
        time.sleep(0.05)


def infer(workspace: Path, scans: Path, *flags: str) -> subprocess.Popen:
    return start_command(
        f"--workspace={workspace}",
        "--steps=infer",
        f"--infer_images={scans}",
        "--max_decode_seconds=2",
        "--max_reject_fraction=0.5",
        *flags,
        warm=False,
    )


def test_a_night_among_bombs_reads_every_good_image_and_names_every_bomb(workspace, scans):
    names = {**BOMBS, "exif.png": make_exif_bomb}
    for name, make in names.items():
        (scans / name).write_bytes(make())
    (scans / "grown.png").write_bytes((scans / "0000.png").read_bytes())
    os.truncate(scans / "grown.png", 3_000_000_000)
    process, peak = infer(workspace, scans), [0]
    watcher = threading.Thread(target=watch_memory, args=(process, peak))
    watcher.start()
    said, errors = process.communicate(timeout=500)
    watcher.join()
    assert process.returncode == EXIT_DONE, said + errors
    read = duckdb.sql(f"select uri from read_parquet('{workspace}/predictions/*/*/*.parquet')").fetchall()
    rejects = duckdb.sql(f"select uri, reason from read_parquet('{workspace}/rejects/**/*.parquet')").fetchall()
    assert {Path(uri).name for (uri,) in read} == {*(f"{number:04d}.png" for number in range(GOOD)), "exif.png"}
    assert {Path(uri).name for uri, _ in rejects} == {*BOMBS, "grown.png"}
    assert {reason for _, reason in rejects} == {"too_large", "too_slow"}
    assert 100_000_000 < peak[0] < MOST_MEMORY
    (report,) = (workspace / "runs").glob("*.html")
    assert report.stat().st_size < 2_000_000


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_whose_helpers_hang_ends_at_the_first_signal_with_record_and_summary(number, workspace, scans):
    (scans / "comment.gif").write_bytes(make_gif_bomb(20_000_000))
    process = infer(workspace, scans, "--max_decode_seconds=300")
    until = time.monotonic() + 120
    helpers: list[int] = []
    while not helpers:  # at work on the image that takes minutes
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.2)
        helpers = [pid for pid in list_processes(process.pid) if read_processor_seconds(pid) > 6]
    for helper in list_processes(process.pid):
        os.kill(helper, signal.SIGSTOP)
    process.send_signal(number)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == EXIT_INTERRUPTED
    assert "error: interrupted: what is finished is kept" in errors
    assert f"exit={EXIT_INTERRUPTED}" in said.splitlines()[-1]
    (record,) = (workspace / "runs").glob("*.json")
    assert "interrupted" in record.read_text()
