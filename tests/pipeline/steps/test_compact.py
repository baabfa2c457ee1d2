"""The compact step by the command: what a day's runs become, and that the infer step skips what it skipped before."""

from __future__ import annotations

import datetime
import importlib
import json
import shutil
import signal
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow.dataset
import pyarrow.parquet
import pytest

from pipeline.exits import EXIT_DONE, EXIT_REFUSED
from pipeline.main import main
from tests.commands import make_workspace, run_python
from tfrecords import storage

DAY = "2026-03-04"


@pytest.fixture
def workspace(tmp_path, tiny_dataset, tiny_model, monkeypatch) -> Path:
    """A workspace with the tiny dataset and the tiny model in use; what is read in this process, is read that day."""
    minutes = iter(range(1000))
    day = datetime.datetime.fromisoformat(f"{DAY}T01:00:00+00:00")
    monkeypatch.setattr(
        importlib.import_module("pipeline.steps.infer"),
        "get_now",
        lambda: day + datetime.timedelta(minutes=next(minutes)),
    )
    return make_workspace(tmp_path / "ws", tiny_model, dataset=tiny_dataset)


@pytest.fixture
def nights(workspace, tiny_images) -> Path:
    """A folder of images that was read three times that day, while it grew; each time an image could not be read."""
    images = workspace.parent / "images"
    images.mkdir()
    names = sorted(tiny_images.glob("*.png"))
    for number, some in enumerate((names[:10], names[10:17], names[17:])):
        for path in some:
            shutil.copy(path, images)
        (images / f"broken-{number}.png").write_bytes(b"no image at all")
        assert infer(workspace, images) == EXIT_DONE
    return images


def infer(workspace: Path, images: Path | str, *flags: str) -> int:
    flags = ("--max_reject_fraction=0.5", *flags)
    return main([f"--workspace={workspace}", "--steps=infer", f"--infer_images={images}", *flags])


def compact(workspace: Path, date: str = DAY) -> int:
    return main([f"--workspace={workspace}", "--steps=compact", f"--date={date}"])


def manifests(workspace: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(workspace.glob("predictions/*/*/_manifest.json"))]


def rows(workspace: Path, kind: str = "predictions") -> list[tuple]:
    """All rows, as DuckDB reads them, but for the run's partition."""
    found = duckdb.sql(f"select * from read_parquet('{workspace}/{kind}/*/*/*.parquet', hive_partitioning=false)")
    return sorted(found.fetchall(), key=repr)


def committed(workspace: Path) -> dict[str, bytes]:
    paths = [*(workspace / "predictions").rglob("*"), *(workspace / "rejects").rglob("*")]
    return {str(path.relative_to(workspace)): path.read_bytes() for path in paths if path.is_file()}


def test_a_day_becomes_one_run_and_what_was_read_before_is_skipped_as_before(workspace, nights, capsys):
    before, rejects = rows(workspace), rows(workspace, "rejects")
    ids = {manifest["run_id"] for manifest in manifests(workspace)}
    assert (len(before), len(rejects), len(ids)) == (24, 3, 3)
    capsys.readouterr()
    assert compact(workspace) == EXIT_DONE
    said = capsys.readouterr().out
    assert f"{DAY}: 3 runs in 3 files merged into 1 run: 24 rows in 1 file" in said
    (manifest,) = manifests(workspace)
    assert set(manifest["merged"]) == ids
    assert (rows(workspace), rows(workspace, "rejects")) == (before, rejects)
    assert sorted(path.name for path in (workspace / "rejects" / f"date={DAY}").iterdir()) == [
        f"run={manifest['run_id']}"
    ]

    assert infer(workspace, nights) == EXIT_DONE
    assert "nothing new: 27 images matched, all of which were read before" in capsys.readouterr().out
    (nights / "new.png").write_bytes((nights / "00-11.png").read_bytes())
    (nights / "broken-1.png").write_bytes(b"another one, which is no image either")
    assert infer(workspace, nights) == EXIT_DONE
    said = capsys.readouterr().out
    assert "28 images matched, 26 skipped as read before, 1 read" in said
    assert "1 rejected (1 not_an_image)" in said


def test_what_could_not_be_read_is_tried_again_after_a_merge_too(workspace, tiny_images, capsys):
    images = shutil.copytree(tiny_images, workspace.parent / "images")
    (images / "gone.png").symlink_to(images / "nowhere.png")
    assert infer(workspace, images) == EXIT_DONE
    assert infer(workspace, images, "--reread") == EXIT_DONE
    assert compact(workspace) == EXIT_DONE
    capsys.readouterr()
    assert infer(workspace, images) == EXIT_DONE
    said = capsys.readouterr().out
    assert "25 images matched, all of which were read before, but for those that still cannot be: 1 rejected" in said


def test_other_tools_see_one_table_with_every_image_once(workspace, nights):
    assert compact(workspace) == EXIT_DONE
    (run_id,) = (manifest["run_id"] for manifest in manifests(workspace))
    folder = workspace / "predictions"
    table = f"read_parquet('{folder}/**/*.parquet', hive_partitioning = true)"
    assert duckdb.sql(f"select count(*), count(distinct uri) from {table}").fetchall() == [(24, 24)]
    partitions = duckdb.sql(f'select distinct "date", "run" from {table}').fetchall()
    assert [(str(date), run) for date, run in partitions] == [(DAY, run_id)]
    frame = pd.read_parquet(folder)
    assert (len(frame), frame["uri"].nunique(), frame["run_id"].nunique()) == (24, 24, 3)
    dataset = pyarrow.dataset.dataset(folder, partitioning="hive")
    assert dataset.count_rows() == 24
    assert dataset.to_table(columns=["uri", "date", "run"]).num_rows == 24


def test_a_day_with_one_run_has_nothing_to_merge_and_the_same_command_again_neither(workspace, nights, capsys):
    assert compact(workspace) == EXIT_DONE
    before = committed(workspace)
    capsys.readouterr()
    assert compact(workspace) == EXIT_DONE
    assert f"{DAY}: nothing to merge, since there is one run: 24 rows in 1 file" in capsys.readouterr().out
    assert committed(workspace) == before


def test_a_merged_day_is_merged_again_with_what_was_read_later(workspace, nights, capsys):
    assert compact(workspace) == EXIT_DONE
    shutil.copy(nights / "00-11.png", nights / "later.png")
    assert infer(workspace, nights) == EXIT_DONE
    before, rejects = rows(workspace), rows(workspace, "rejects")
    assert compact(workspace) == EXIT_DONE
    assert "2 runs in 2 files merged into 1 run: 25 rows in 1 file" in capsys.readouterr().out
    (manifest,) = manifests(workspace)
    assert (len(manifest["merged"]), len(manifest["history"])) == (5, 4)
    assert (rows(workspace), rows(workspace, "rejects")) == (before, rejects)
    assert infer(workspace, nights) == EXIT_DONE
    assert "nothing new: 28 images" in capsys.readouterr().out


def test_runs_that_were_read_in_another_way_stay_apart(workspace, nights, capsys):
    assert infer(workspace, nights, "--decoder=beam") == EXIT_DONE
    assert compact(workspace) == EXIT_DONE
    assert "4 runs in 4 files merged into 2 runs: 48 rows in 2 files" in capsys.readouterr().out
    assert sorted(manifest["decoding"] for manifest in manifests(workspace)) == [["beam", 10], ["greedy"]]
    assert compact(workspace) == EXIT_DONE
    assert "nothing to merge, since each of 2 runs was read with another decoder" in capsys.readouterr().out
    for flags in ([], ["--decoder=beam"]):
        assert infer(workspace, nights, *flags) == EXIT_DONE
        assert "nothing new: 27 images" in capsys.readouterr().out


def test_a_split_of_a_dataset_is_found_in_a_merged_run_with_its_own_figures(workspace, nights, capsys):
    assert infer(workspace, "dataset:LATEST:test") == EXIT_DONE
    split = max(manifests(workspace), key=lambda manifest: manifest["scored_at"])
    assert compact(workspace) == EXIT_DONE
    capsys.readouterr()
    assert infer(workspace, "dataset:LATEST:test") == EXIT_DONE
    assert f"run {split['run_id']}: 4 images matched, 4 read" in (said := capsys.readouterr().out)
    assert "it was there already" in said
    assert len(manifests(workspace)) == 1

    (part,) = workspace.glob("predictions/*/*/*.parquet")
    part.unlink()  # nobody knows whose rows were in it
    assert infer(workspace, "dataset:LATEST:test") == EXIT_DONE
    assert "it was there already" not in capsys.readouterr().out


def test_a_day_without_runs_has_nothing_to_merge(workspace, capsys):
    assert compact(workspace, "2026-03-05") == EXIT_DONE
    assert "2026-03-05: nothing to merge, since no run of that day is committed" in capsys.readouterr().out


@pytest.mark.parametrize("whole", [True, False])
def test_what_was_merged_is_removed_only_if_the_merge_is_whole(workspace, nights, capsys, tmp_path, whole):
    """The merge was stopped when its result was in place, and before what it was made of went."""
    before = sorted(rows(workspace))
    aside = shutil.copytree(workspace / "predictions", tmp_path / "aside")
    aside_rejects = shutil.copytree(workspace / "rejects", tmp_path / "aside-rejects")
    assert compact(workspace) == EXIT_DONE
    shutil.copytree(aside, workspace / "predictions", dirs_exist_ok=True)
    shutil.copytree(aside_rejects, workspace / "rejects", dirs_exist_ok=True)
    if not whole:
        (merged,) = workspace.glob("predictions/*/run=m*/*.parquet")
        merged.write_bytes(merged.read_bytes()[:-9])
    capsys.readouterr()
    assert infer(workspace, nights) == EXIT_DONE
    said = capsys.readouterr().out
    assert "nothing new" in said
    assert ("is damaged: it is removed, and those count again" in said) != whole
    assert sorted(rows(workspace)) == before
    assert len(list(workspace.glob("predictions/*/run=m*"))) == whole


def test_a_file_that_was_lost_is_taken_out_first_and_its_images_are_read_again(workspace, nights, capsys):
    lost = sorted(workspace.glob("predictions/*/*/*.parquet"))[0]
    gone = pyarrow.parquet.read_metadata(lost).num_rows
    lost.unlink()
    assert compact(workspace) == EXIT_DONE
    said = capsys.readouterr().out
    assert f"warning: {lost} should have" in said
    (manifest,) = manifests(workspace)
    assert manifest["rows"] == 24 - gone
    assert infer(workspace, nights) == EXIT_DONE
    assert f"27 images matched, {27 - gone} skipped as read before, {gone} read" in capsys.readouterr().out
    assert duckdb.sql(
        f"select count(*), count(distinct uri) from '{workspace}/predictions/*/*/*.parquet'"
    ).fetchall() == [(24, 24)]


def test_a_file_with_other_bytes_stops_the_merge_in_one_sentence_and_the_runs_stay(workspace, nights, capsys):
    damaged = sorted(workspace.glob("predictions/*/*/*.parquet"))[1]
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    before = committed(workspace)
    capsys.readouterr()
    assert compact(workspace) == EXIT_REFUSED
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {damaged} has checksum ")
    assert committed(workspace) == before
    damaged.unlink()
    assert compact(workspace) == EXIT_DONE
    assert infer(workspace, nights) == EXIT_DONE
    assert len(rows(workspace)) == 24


_STOPPED = """
import os, signal, sys
from tfrecords import storage

def stop(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def stopping(function, when, after):
    def stopped(*args):
        if not when(*args):
            return function(*args)
        if after:
            function(*args)
        stop()
    return stopped

moment, after = sys.argv[1].partition(" ")[2], sys.argv[1].startswith("after")
name, when = {
    "the rejects move": ("move_folder", lambda _, target: "/rejects/" in target),
    "the run moves": ("move_folder", lambda _, target: "/predictions/" in target),
    "rejects go": ("remove_folder", lambda path: "/rejects/date=" in path and "/run=r" in path),
    "a run goes": ("remove_folder", lambda path: "/predictions/date=" in path and "/run=r" in path),
    "half a run goes": ("remove_folder", lambda path: "/predictions/date=" in path and "/run=r" in path),
}[moment]
if moment == "half a run goes":
    remove = storage.remove_folder
    def remove_half(path):
        if not when(path):
            return remove(path)
        os.unlink(path + "/_manifest.json")
        stop()
    storage.remove_folder = remove_half
else:
    setattr(storage, name, stopping(getattr(storage, name), when, after))
from pipeline.main import main
main(sys.argv[2:])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "again"),
    [
        ("before the rejects move", "compact"),
        ("after the rejects move", "compact"),
        ("after the rejects move", "infer"),
        ("after the run moves", "compact"),
        ("after the run moves", "infer"),
        ("after rejects go", "infer"),
        ("after a run goes", "compact"),
        ("after half a run goes", "infer"),
    ],
)
def test_a_kill_at_any_moment_loses_and_doubles_nothing(workspace, nights, capsys, moment, again):
    """The process really ends there, by SIGKILL; another step, or the same command, ends what it began."""
    undisturbed = shutil.copytree(workspace, workspace.parent / "undisturbed")
    assert compact(undisturbed) == EXIT_DONE
    done = run_python("-c", _STOPPED, moment, f"--workspace={workspace}", "--steps=compact", f"--date={DAY}")
    assert done.returncode == -signal.SIGKILL, done.stderr
    capsys.readouterr()
    if again == "infer":
        assert infer(workspace, nights) == EXIT_DONE
        assert "nothing new: 27 images matched" in capsys.readouterr().out
    assert compact(workspace) == EXIT_DONE
    assert committed(workspace) == committed(undisturbed)
    assert storage.list_names(str(workspace / "unfinished")) == []


@pytest.mark.slow
def test_what_is_read_after_a_kill_is_merged_too_and_no_rejects_are_left_over(workspace, nights, capsys):
    """The merge that was stopped had another name: of its rejects, which were in their place, nothing is left."""
    command = ["before the run moves", f"--workspace={workspace}", "--steps=compact", f"--date={DAY}"]
    done = run_python("-c", _STOPPED, *command)
    assert done.returncode == -signal.SIGKILL
    assert len(list((workspace / "rejects" / f"date={DAY}").iterdir())) == 4
    shutil.copy(nights / "00-11.png", nights / "later.png")
    assert infer(workspace, nights) == EXIT_DONE
    assert compact(workspace) == EXIT_DONE
    (manifest,) = manifests(workspace)
    assert [path.name for path in (workspace / "rejects" / f"date={DAY}").iterdir()] == [f"run={manifest['run_id']}"]
    assert len(rows(workspace)) == 25
    assert len(rows(workspace, "rejects")) == 3
