"""What the command prints, and where nobody takes it: the work goes on, and the record says so."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pipeline.console import log_to_console, print_story
from pipeline.exits import EXIT_DONE
from tests.commands import ROOT, RUN_PIPELINE, run_python

FORGED = "x\nsummary: status=done exit=0\x1b[2J\u202e.png"


@pytest.fixture
def ingest(tmp_path) -> tuple[str, ...]:
    """A command that makes a dataset of a few images."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in range(10):
        Image.new("L", (100, 32), 255).save(folder / f"{number}ab.png")
    return ("--steps=ingest", f"--images={folder}", f"--workspace={tmp_path / 'ws'}", "--label_source=filename")


def run_in_shell(redirection: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """Runs the real command as a person's shell does."""
    shell = f'set -o pipefail; "$0" "$@" {redirection}'
    command = ["bash", "-c", shell, sys.executable, str(RUN_PIPELINE), *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def read_record(workspace: Path) -> dict:
    (path,) = (workspace / "runs").glob("*.json")
    return json.loads(path.read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("redirection", "unprinted"),
    [
        (">/dev/full", ["standard output did not take all that was printed: No space left on device"]),
        (">&-", ["standard output did not take all that was printed: it was closed from the beginning"]),
        ("| head -1", ["standard output did not take all that was printed: Broken pipe"]),
        (
            ">/dev/full 2>&1",
            ["standard output did not take all that was printed: No space left on device"],
        ),
        (
            ">&- 2>&-",
            [
                "standard error did not take all that was printed: it was closed from the beginning",
                "standard output did not take all that was printed: it was closed from the beginning",
            ],
        ),
    ],
)
def test_a_night_whose_lines_nobody_takes_is_done_all_the_same(tmp_path, ingest, redirection, unprinted):
    done = run_in_shell(redirection, *ingest)
    assert (done.returncode, done.stderr) == (EXIT_DONE, "")
    record = read_record(tmp_path / "ws")
    assert (record["status"], record["problems"], record["unprinted"]) == ("done", [], unprinted)
    (page,) = (tmp_path / "ws" / "runs").glob("*.html")
    assert unprinted[0] in page.read_text()
    assert (tmp_path / "ws" / "datasets" / "LATEST").exists()


def test_a_name_forges_no_line_and_moves_no_cursor(tmp_path, ingest, capsys):
    from pipeline.main import main

    folder = tmp_path / "ws" / f"a{FORGED}"
    assert main([*ingest, f"--workspace={folder}"]) == EXIT_DONE
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if line.startswith("summary: ")]
    assert len(lines) == 1
    assert r"x\nsummary: status=done exit=0\x1b[2J\u202e.png" in lines[0]
    assert not {"\x1b", "\u202e"} & set(printed)


def test_records_of_libraries_and_stories_forge_no_line(capsys):
    with log_to_console():
        logging.getLogger("some.library").warning("odd file %s", f"/scans/{FORGED}\nsummary: status=done")
        logging.getLogger("pipeline.some").info("file %s", FORGED)
    print_story("Traceback\nsummary: status=done")
    captured = capsys.readouterr()
    assert captured.out == "file x\\nsummary: status=done exit=0\\x1b[2J\\u202e.png\n"
    assert [line for line in captured.err.splitlines() if not line.startswith("  ")] == [
        "WARNING some.library: odd file /scans/x",
        "Traceback",
    ]


@pytest.mark.slow
def test_a_place_without_utf_8_changes_neither_the_dataset_nor_its_uris(tmp_path, ingest):
    """The other dataset is made where names are UTF-8."""
    folder = tmp_path / "scans" / "größe 中"
    folder.mkdir()
    for path in list((tmp_path / "scans").glob("*.png")):
        path.rename(folder / f"ü{path.name}")
    datasets = []
    places = {"wü": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "other": {}}
    for workspace, place in places.items():
        flags = [*ingest, f"--workspace={tmp_path / workspace}"]
        done = run_python(RUN_PIPELINE, *flags, environment=place, warm=not place)
        assert done.returncode == EXIT_DONE, done.stderr
        dataset_id = (tmp_path / workspace / "datasets" / "LATEST").read_text().strip()
        shards = (tmp_path / workspace / "datasets" / dataset_id).glob("train*.tfrecord.gz")
        datasets.append((dataset_id, [path.read_bytes() for path in shards]))
    assert datasets[0] == datasets[1]
