"""Committed runs: which are found, and what becomes of one whose files were damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from components.predictions import runs
from components.predictions.runs import find_runs, read_predictions, remove_merged, set_aside_damaged


def commit(root: Path, date: str, run_id: str, parts: dict[str, int], **manifest) -> Path:
    folder = root / "predictions" / f"date={date}" / f"run={run_id}"
    folder.mkdir(parents=True)
    files = {}
    for name, rows in parts.items():
        pyarrow.parquet.write_table(
            pyarrow.table({"uri": [f"{run_id}/{name}/{i}" for i in range(rows)]}), folder / name
        )
        files[name] = {"rows": rows, "bytes": (folder / name).stat().st_size, "sha256": ""}
    content = {"run_id": run_id, "scored_at": f"{date}T01:00:00+00:00", "rows": sum(parts.values()), "rejects": {}}
    (folder / "_manifest.json").write_text(json.dumps({**content, "files": files, **manifest}))
    return folder


def found(root: Path, date: str | None = None) -> list[str]:
    return [run.run_id for run in find_runs(str(root / "predictions"), date)]


def test_only_runs_with_a_manifest_are_found_the_oldest_first(tmp_path):
    assert found(tmp_path) == []
    commit(tmp_path, "2026-01-31", "rb", {"a.parquet": 2})
    commit(tmp_path, "2026-01-31", "ra", {"a.parquet": 2}, scored_at="2026-01-31T02:00:00+00:00")
    commit(tmp_path, "2026-01-02", "rc", {})
    (tmp_path / "predictions" / "date=2026-02-01" / "run=rd").mkdir(parents=True)
    (tmp_path / "predictions" / "date=2026-02-01" / "run=file").write_text("")
    (tmp_path / "predictions" / "notes.txt").write_text("")
    assert found(tmp_path) == ["rc", "rb", "ra"]
    assert found(tmp_path, "2026-01-31") == ["rb", "ra"]
    (run, *_) = find_runs(str(tmp_path / "predictions"))
    assert run.date == "2026-01-02"
    assert run.rejects_folder == str(tmp_path / "rejects" / "date=2026-01-02" / "run=rc")


def test_runs_that_were_merged_into_another_are_not_found_as_soon_as_that_one_is_committed(tmp_path):
    for run_id in ("ra", "rb", "rc"):
        commit(tmp_path, "2026-01-31", run_id, {"a.parquet": 1})
    commit(tmp_path, "2026-01-31", "rm", {"a.parquet": 2}, merged=["ra", "rc"])
    assert found(tmp_path) == ["rb", "rm"]


@pytest.mark.parametrize("stopped", ["before it began", "after the manifest", "after the rejects"])
def test_a_removal_of_merged_runs_is_finished_wherever_it_was_stopped(tmp_path, stopped):
    for run_id in ("ra", "rb", "rc"):
        folder = commit(tmp_path, "2026-01-31", run_id, {"a.parquet": 1})
    commit(tmp_path, "2026-01-31", "rm", {"a.parquet": 2}, merged=["ra", "rc", "rgone"])
    for run_id in ("rb", "rc", "rm"):
        rejects = tmp_path / "rejects" / "date=2026-01-31" / f"run={run_id}"
        rejects.mkdir(parents=True)
        (rejects / "rejects-0.parquet").touch()
    other_day = commit(tmp_path, "2026-02-01", "rc", {"a.parquet": 1})
    if stopped == "after the manifest":
        (folder / "_manifest.json").unlink()
    elif stopped == "after the rejects":
        shutil.rmtree(tmp_path / "rejects" / "date=2026-01-31" / "run=rc")
    remove_merged(find_runs(str(tmp_path / "predictions")))
    for kind, left in (("predictions", ["run=rb", "run=rm"]), ("rejects", ["run=rb", "run=rm"])):
        assert sorted(path.name for path in (tmp_path / kind / "date=2026-01-31").iterdir()) == left
    assert other_day.exists()


@pytest.mark.parametrize("damage", ["lost", "cut"])
def test_a_damaged_file_is_taken_out_of_its_run_and_the_others_stay(tmp_path, damage):
    folder = commit(tmp_path, "2026-01-31", "ra", {"a.parquet": 1, "b.parquet": 2, "c.parquet": 4})
    if damage == "lost":
        (folder / "b.parquet").unlink()
    else:
        (folder / "b.parquet").write_bytes((folder / "b.parquet").read_bytes()[:-5])
    (run,) = find_runs(str(tmp_path / "predictions"))
    mended, problems = set_aside_damaged(run)
    assert len(problems) == 1
    assert f"{folder}/b.parquet should have" in problems[0]
    assert mended is not None
    assert (mended.manifest.counts.read, mended.manifest.lost) == (5, 2)
    kept_aside = ["b.parquet.damaged"] if damage == "cut" else []
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(["_manifest.json", "a.parquet", "c.parquet", *kept_aside])
    assert find_runs(str(tmp_path / "predictions")) == [mended]
    assert len(read_predictions(str(folder), ["uri"])) == 5
    assert set_aside_damaged(mended) == (mended, [])


def test_a_run_that_lost_all_its_files_is_no_run_any_more(tmp_path):
    folder = commit(tmp_path, "2026-01-31", "ra", {"a.parquet": 1, "b.parquet": 2})
    for path in folder.glob("*.parquet"):
        path.unlink()
    (run,) = find_runs(str(tmp_path / "predictions"))
    mended, problems = set_aside_damaged(run)
    assert (mended, len(problems)) == (None, 2)
    assert not folder.exists()


def test_a_run_that_lost_all_its_files_still_says_what_was_rejected(tmp_path):
    folder = commit(tmp_path, "2026-01-31", "ra", {"a.parquet": 3}, rejects={"truncated": 1})
    rejects = tmp_path / "rejects" / "date=2026-01-31" / "run=ra" / "rejects-0.parquet"
    rejects.parent.mkdir(parents=True)
    rejects.touch()
    (folder / "a.parquet").unlink()
    (run,) = find_runs(str(tmp_path / "predictions"))
    mended, problems = set_aside_damaged(run)
    assert len(problems) == 1
    assert (mended.manifest.counts.read, mended.manifest.lost, mended.files) == (0, 3, {})
    assert mended.reject_files == [str(rejects)]
    assert find_runs(str(tmp_path / "predictions")) == [mended]


def test_a_run_without_rows_is_whole(tmp_path):
    commit(tmp_path, "2026-01-31", "ra", {}, rejects={"truncated": 1})
    (run,) = find_runs(str(tmp_path / "predictions"))
    assert set_aside_damaged(run) == (run, [])
    assert run.reject_files == []  # pruned


def test_a_damage_that_is_only_looked_for_changes_nothing(tmp_path):
    folder = commit(tmp_path, "2026-01-31", "ra", {"a.parquet": 1, "b.parquet": 2})
    (folder / "b.parquet").unlink()
    before = {path: path.read_bytes() for path in folder.iterdir()}
    (run,) = find_runs(str(tmp_path / "predictions"))
    mended, problems = set_aside_damaged(run, change=False)
    assert mended is not None
    assert (mended.manifest.counts.read, len(problems)) == (1, 1)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_mend_that_is_stopped_is_gone_on_with(tmp_path, monkeypatch):
    folder = commit(tmp_path, "2026-01-31", "ra", {"a.parquet": 1, "b.parquet": 2})
    (folder / "b.parquet").write_bytes(b"damaged")
    (run,) = find_runs(str(tmp_path / "predictions"))
    with monkeypatch.context() as patch:
        patch.setattr(runs.storage, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            set_aside_damaged(run)
    mended, problems = set_aside_damaged(find_runs(str(tmp_path / "predictions"))[0])
    assert mended is not None
    assert (mended.manifest.counts.read, len(problems)) == (1, 1)
    assert list(folder.glob("*.parquet")) == [folder / "a.parquet"]


def test_a_damaged_manifest_is_told_and_its_run_does_not_count(tmp_path):
    folder = commit(tmp_path, "2026-01-31", "ra", {"a.parquet": 1})
    commit(tmp_path, "2026-01-31", "rb", {"a.parquet": 1})
    (folder / "_manifest.json").write_text("{")
    told: list[str] = []
    assert [run.run_id for run in runs.find_all_runs(str(tmp_path / "predictions"), on_damage=told.append)] == ["rb"]
    assert len(told) == 1
    assert f"the manifest of {folder} is damaged" in told[0]
    assert (folder / "a.parquet").exists()
