"""The figures of a command for Prometheus, read by its own client."""

from __future__ import annotations

import json
import math
import os
import shutil
import stat
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.command_line import parse_options
from pipeline.exits import EXIT_ALARM, EXIT_DONE, EXIT_HELD, EXIT_REFUSED
from pipeline.main import main
from pipeline.options import UsageError
from pipeline.report.metrics_file import format_metrics
from pipeline.workspace import Workspace

Samples = dict[str, dict[tuple[str, ...], float]]


def parse(text: str) -> Samples:
    """Parses the text as Prometheus does: the values of each metric by its labels, the workspace left out."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.type == "gauge"
        assert family.documentation.endswith(".")
        assert family.name not in found
        found[family.name.removeprefix("ctc_line_reader_")] = {
            tuple(value for label, value in sample.labels.items() if label != "workspace"): sample.value
            for sample in family.samples
        }
    return found


@pytest.fixture
def lines(tmp_path, tiny_images) -> Path:
    """Twelve images, and a file that is none."""
    folder = tmp_path / "lines"
    folder.mkdir()
    for path in sorted(tiny_images.glob("*.png"))[:12]:
        shutil.copy2(path, folder)
    (folder / "fake.png").write_text("no image")
    return folder


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "collector" / "line_reader.prom"


def night(workspace: Path, lines: Path, file: Path, *flags: str) -> tuple[int, Samples]:
    flags = ("--steps=infer", f"--infer_images={lines}", "--max_reject_fraction=0.5", *flags)
    status = main([f"--workspace={workspace}", f"--metrics_file={file}", *flags])
    return status, parse(file.read_text())


def test_the_figures_of_a_night_are_those_of_its_record(workspace, lines, file):
    status, found = night(workspace, lines, file, "--min_confidence=1", "--alarm_needs_review_fraction=0.5")
    assert status == EXIT_ALARM
    (path,) = (workspace / "runs").glob("*.json")
    record = json.loads(path.read_text())
    (step,) = record["steps"]
    figures = step["figures"]
    assert found["matched_images"] == {("infer",): 13}
    assert found["skipped_images"] == {(): 0}
    assert found["read_images"] == {(): 12}
    assert found["rejected_images"] == {("infer", "not_an_image"): 1}
    assert found["needs_review_images"] == {(): figures["needs_review"]}
    assert figures["needs_review"] > 0
    assert found["mean_confidence"] == {(): figures["mean_confidence"]}
    assert found["status"] == {("done",): 0, ("alarm",): 1, ("refused",): 0, ("failed",): 0, ("held",): 0}
    assert found["exit_status"] == {(): EXIT_ALARM}
    assert found["duration_seconds"] == {(): record["seconds"]}
    assert found["step_duration_seconds"] == {("infer",): step["seconds"]}
    assert found["step_images_per_second"] == {("infer",): step["images_per_s"]}
    assert found["alarm_raised"][("needs_review_fraction",)] == 1
    assert found["alarm_limit"][("needs_review_fraction",)] == 0.5
    assert found["last_end_timestamp_seconds"] == found["last_success_timestamp_seconds"]
    assert stat.S_IMODE(file.stat().st_mode) & 0o444 == 0o444 & ~os.umask(os.umask(0))  # another user reads it
    assert os.listdir(file.parent) == [file.name]


def test_a_command_that_fails_keeps_the_time_of_the_last_success(workspace, lines, file):
    _, first = night(workspace, lines, file)
    status, second = night(workspace, lines.parent / "gone", file)
    assert status == EXIT_REFUSED
    assert second["status"][("failed",)] == 1
    assert second["last_success_timestamp_seconds"] == first["last_success_timestamp_seconds"]
    assert second["last_end_timestamp_seconds"][()] > first["last_end_timestamp_seconds"][()]
    assert "read_images" not in second
    status, third = night(workspace, lines, file)
    assert status == EXIT_DONE
    assert third["last_success_timestamp_seconds"][()] > second["last_end_timestamp_seconds"][()]
    assert (third["skipped_images"], third["read_images"]) == ({(): 13}, {(): 0})
    assert "mean_confidence" not in third


def test_a_command_that_finds_the_workspace_held_says_so(workspace, lines, file):
    with Workspace(str(workspace)).lock(wait_s=0, end=pytest.fail):
        status, found = night(workspace, lines, file)
    assert status == EXIT_HELD
    assert found["status"][("held",)] == 1
    assert "last_success_timestamp_seconds" not in found


def test_the_figures_of_other_steps_are_there(workspace, tiny_images, file):
    flags = ["--steps=ingest,evaluate", f"--images={tiny_images}", "--max_cer=0.0001", "--height=32"]
    assert main([f"--workspace={workspace}", f"--metrics_file={file}", *flags]) == EXIT_REFUSED
    found = parse(file.read_text())
    assert found["matched_images"] == {("ingest",): 24}
    assert sum(found["dataset_images"].values()) == 24
    assert {split for (split,) in found["dataset_images"]} == {"train", "validation", "test"}
    assert found["evaluated_images"][()] == found["dataset_images"][("test",)]
    assert found["cer"][()] > 0.0001
    assert 0 <= found["exact_match_ratio"][()] <= 1
    assert found["model_accepted"] == {(): 0}
    assert found["status"][("refused",)] == 1


@pytest.mark.parametrize("place", ['/a "b"\\c', "/line\nbreak", "/größe", "/{x=y} 1"])
def test_any_workspace_is_a_label(place):
    record = {"workspace": place, "status": "failed", "exit": 1, "problems": []}
    for family in text_string_to_metric_families(format_metrics(record, 3.5)):
        assert {sample.labels["workspace"] for sample in family.samples} == {place}


def test_a_time_of_success_is_kept_to_the_microsecond():
    record = {"workspace": "/w", "status": "failed", "exit": 1}
    found = parse(format_metrics(record, 1795994536.689906))
    assert found["last_success_timestamp_seconds"] == {(): 1795994536.689906}
    assert math.isclose(found["last_end_timestamp_seconds"][()], time.time(), abs_tol=60)


def test_a_file_that_cannot_be_written_is_said_and_changes_no_status(workspace, lines, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "x.prom"
    flags = ["--steps=infer", f"--infer_images={lines}", "--max_reject_fraction=0.5"]
    assert main([f"--workspace={workspace}", f"--metrics_file={path}", *flags]) == EXIT_DONE
    assert f"error: --metrics_file={path} was not written: " in capsys.readouterr().err


@pytest.mark.parametrize("path", ["metrics.txt", "gs://bucket/x.prom"])
def test_a_file_that_nothing_would_read_is_refused(path):
    with pytest.raises(UsageError, match=f"--metrics_file={path} must be a local file whose name ends in .prom"):
        parse_options([f"--metrics_file={path}"])
