"""The export step by the command: which files it writes, which it leaves, and what it says of the rest."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import duckdb
import pyarrow.parquet
import pytest

from components.export import exporting
from pipeline.exits import EXIT_DONE, EXIT_REFUSED, EXIT_USAGE
from pipeline.options import LinePipelineOptions
from pipeline.plan import PlannedWorkspace
from pipeline.steps.export import ExportStep
from pipeline.steps.step import Context, Outcome
from pipeline.workspace import Workspace
from tests.commands import run_command
from tests.readings import MODEL, write_run

WORDS = [
    {"text": "zwei", "confidence": 0.5, "start": 2, "end": 40},
    {"text": "Worte", "confidence": 1, "start": 50, "end": 98},
]


def export(workspace: Path, name: str) -> int:
    return run_command(workspace, "--steps=export", f"--format={name}")


def read_files(workspace: Path, name: str) -> dict[str, bytes]:
    """The exported files, without the records of the export."""
    folder = workspace / "export" / name
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in paths
        if not path.relative_to(folder).parts[0].startswith("_")
    }


def list_states(workspace: Path) -> dict[str, tuple[int, int]]:
    """Number and time of each file of the export, which a writing changes."""
    paths = [path for path in (workspace / "export").rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def read_manifest(workspace: Path, name: str) -> dict:
    return json.loads((workspace / "export" / name / "_manifest.json").read_text())


def parse_rows(files: dict[str, bytes]) -> list[tuple]:
    """URI, text and run of each row of JSON Lines."""
    rows = map(json.loads, b"".join(files.values()).decode().splitlines())
    return sorted((row["uri"], row["text"], row["run_id"]) for row in rows)


@pytest.fixture
def lines(tmp_path) -> Path:
    """A folder of images, of which only the names matter."""
    folder = tmp_path / "lines"
    (folder / "b").mkdir(parents=True)
    for name in ("0.png", "1.png", "b/2.png", "b/3.png"):
        (folder / name).write_bytes(b"image")
    return folder


@pytest.fixture
def workspace(tmp_path, lines) -> Path:
    """Two nights of readings; the second one read an image again."""
    folder = tmp_path / "work"
    rows = [
        {"uri": f"{lines}/0.png", "text": "eins", "confidence": 0.25},
        {"uri": f"{lines}/1.png", "text": 'mit "Anführung", Komma', "confidence": float("nan")},
        {"uri": f"{lines}/b/2.png", "text": "=1+1"},
    ]
    write_run(folder, rows, places=False)
    write_run(
        folder,
        [
            {"uri": f"{lines}/0.png", "text": "zwei Worte", "words": WORDS},
            {"uri": f"{lines}/b/3.png", "text": "", "needs_review": True},
        ],
        night=1,
    )
    return folder


def test_text_files_lie_in_the_folders_of_the_collection(workspace, lines, capsys):
    assert export(workspace, "txt") == EXIT_DONE
    assert "4 files written, 0 unchanged: 4 readings as txt, none rejected" in capsys.readouterr().out
    below = str(lines).lstrip("/")
    assert read_files(workspace, "txt") == {
        f"{below}/0.txt": b"zwei Worte\n",
        f"{below}/1.txt": 'mit "Anführung", Komma\n'.encode(),
        f"{below}/b/2.txt": b"=1+1\n",
        f"{below}/b/3.txt": b"\n",
    }
    manifest = read_manifest(workspace, "txt")
    assert (manifest["readings"], manifest["exported"], manifest["rejects"], manifest["files"]) == (4, 4, {}, 4)
    assert manifest["runs"] == ["run000000000", "run000000001"]


def test_tables_have_each_image_once_with_its_newest_reading(workspace, lines):
    for name in ("csv", "jsonl"):
        assert export(workspace, name) == EXIT_DONE
        assert len(read_files(workspace, name)) == 2
    rows = {}
    for content in read_files(workspace, "csv").values():
        rows |= {row["uri"]: row for row in csv.DictReader(content.decode().splitlines())}
    lines_of_json = b"".join(read_files(workspace, "jsonl").values()).decode().splitlines()
    values = {value["uri"]: value for value in map(json.loads, lines_of_json)}
    assert sorted(rows) == sorted(values) == [f"{lines}/{name}.png" for name in ("0", "1", "b/2", "b/3")]
    for uri, row in rows.items():
        assert row["text"] == values[uri]["text"]
        assert (json.loads(row["words"]) if row["words"] else None) == values[uri]["words"]
    first = values[f"{lines}/0.png"]
    assert (first["text"], first["confidence"], first["words"]) == ("zwei Worte", 0.875, WORDS)
    assert (first["model_id"], first["run_id"], first["needs_review"]) == (MODEL, "run000000001", False)
    assert first["scored_at"] == "2026-03-02T00:00:00+00:00"
    assert (values[f"{lines}/1.png"]["confidence"], rows[f"{lines}/1.png"]["confidence"]) == (None, "")
    found = duckdb.sql(f"select uri, text from read_csv('{workspace}/export/csv/**/*.csv')").fetchall()
    assert dict(found)[f"{lines}/b/2.png"] == "=1+1"


@pytest.mark.parametrize("name", ["txt", "csv", "jsonl"])
def test_a_second_export_writes_nothing_and_one_after_a_night_what_is_new(workspace, lines, name, capsys):
    assert export(workspace, name) == EXIT_DONE
    before, first = list_states(workspace), read_files(workspace, name)
    capsys.readouterr()
    assert export(workspace, name) == EXIT_DONE
    assert "nothing new to export" in capsys.readouterr().out
    assert list_states(workspace) == before
    write_run(workspace, [{"uri": f"{lines}/b/2.png", "text": "neu"}], night=2)
    assert export(workspace, name) == EXIT_DONE
    written = "1 file written, 3 unchanged:" if name == "txt" else "2 files written, 1 unchanged:"
    assert written in capsys.readouterr().out
    after = read_files(workspace, name)
    assert b"neu" in b"".join(after.values())
    assert b"=1+1" not in b"".join(after.values())
    changed = [path for path in after if after[path] != first.get(path)]
    assert len(changed) == (1 if name == "txt" else 2)
    assert read_manifest(workspace, name)["exported"] == 4


def test_a_merge_of_runs_leaves_every_reading_once(workspace, lines):
    write_run(workspace, [{"uri": f"{lines}/b/2.png", "text": "neu"}], night=2)
    for folder in sorted(workspace.glob("predictions/date=2026-03-0[23]")):
        for run in folder.iterdir():
            (workspace / "predictions" / "date=2026-03-01").mkdir(exist_ok=True)
            run.rename(workspace / "predictions" / "date=2026-03-01" / run.name)
    assert export(workspace, "jsonl") == EXIT_DONE
    assert export(workspace, "txt") == EXIT_DONE
    texts, tables = read_files(workspace, "txt"), read_files(workspace, "jsonl")
    states = list_states(workspace)
    assert run_command(workspace, "--steps=compact", "--date=2026-03-01") == EXIT_DONE
    assert export(workspace, "jsonl") == EXIT_DONE
    assert len(read_files(workspace, "jsonl")) == 1
    before, after = (parse_rows(files) for files in (tables, read_files(workspace, "jsonl")))
    assert after == before
    assert export(workspace, "txt") == EXIT_DONE
    assert read_files(workspace, "txt") == texts
    kept = {path for path in states if path.endswith(".txt")}
    assert all(list_states(workspace)[path] == states[path] for path in kept)


def test_an_image_of_the_same_name_makes_both_keep_their_suffixes(workspace, lines, capsys):
    assert export(workspace, "txt") == EXIT_DONE
    write_run(workspace, [{"uri": f"{lines}/0.jpg", "text": "jpg"}], night=2)
    assert export(workspace, "txt") == EXIT_DONE
    assert "2 files written, 3 unchanged, 1 removed" in capsys.readouterr().out
    files = {Path(path).name: content for path, content in read_files(workspace, "txt").items()}
    assert (files["0.png.txt"], files["0.jpg.txt"]) == (b"zwei Worte\n", b"jpg\n")
    assert "0.txt" not in files


def test_files_that_are_gone_are_written_again_and_a_damaged_record_costs_nothing(workspace, lines, capsys):
    assert export(workspace, "txt") == EXIT_DONE
    files = read_files(workspace, "txt")
    (workspace / "export" / "txt" / str(lines).lstrip("/") / "1.txt").unlink()
    for path in (workspace / "export" / "txt" / "_index").iterdir():
        path.write_bytes(b"damaged")
    capsys.readouterr()
    assert export(workspace, "txt") == EXIT_DONE
    assert "1 file written, 3 unchanged" in capsys.readouterr().out
    assert read_files(workspace, "txt") == files


@pytest.mark.parametrize("name", ["txt", "csv"])
@pytest.mark.parametrize("writes", [0, 1, 3, 5])
def test_an_export_that_is_stopped_anywhere_leaves_whole_files_and_is_resumed(
    workspace, tmp_path, monkeypatch, name, writes
):
    """Every file is written by one call, so each of these calls is where it may stop."""
    undisturbed = shutil.copytree(workspace, tmp_path / "undisturbed")
    assert export(undisturbed, name) == EXIT_DONE
    expected = read_files(undisturbed, name)
    left = iter(range(writes))
    open_atomically = exporting.storage.open_atomically

    def stop(path: str):
        if "/export/" in path and next(left, None) is None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).with_name(".unfinished-x.tmp").write_bytes(b"half")  # as a kill in the middle leaves it
            raise KeyboardInterrupt
        return open_atomically(path)

    with monkeypatch.context() as patch:
        patch.setattr(exporting.storage, "open_atomically", stop)
        export(workspace, name)
    for path, content in read_files(workspace, name).items():
        assert path.endswith(".tmp") or expected[path] == content
    assert export(workspace, name) == EXIT_DONE
    assert read_files(workspace, name) == expected
    assert export(workspace, name) == EXIT_DONE


def test_a_plan_says_what_the_command_does(workspace, tmp_path):
    options = LinePipelineOptions([f"--workspace={workspace}", "--steps=export", "--format=txt"])
    planned = Context(options, PlannedWorkspace(str(workspace)), Workspace(str(tmp_path / "scratch")))
    before = sorted(path for path in workspace.rglob("*"))
    plan = ExportStep().plan(planned)
    assert plan.outcome is Outcome.MADE
    assert "write up to 4 files" in plan.lines[-1]
    assert sorted(path for path in workspace.rglob("*")) == before
    real = Context(options, Workspace(str(workspace)), Workspace(str(workspace)))
    assert ExportStep().run(real).figures["files_written"] == 4
    plan = ExportStep().plan(planned)
    assert (plan.outcome, plan.lines[-1]) == (Outcome.NOTHING, "nothing to write")


def test_what_cannot_be_exported_is_refused_in_one_sentence(tmp_path, capsys):
    assert export(tmp_path, "txt") == EXIT_REFUSED
    assert "nothing was read yet" in capsys.readouterr().err
    assert run_command(tmp_path, "--steps=export") == EXIT_USAGE
    assert "say which, as --format=" in capsys.readouterr().err
    assert run_command(tmp_path, "--steps=infer", "--infer_images=x", "--format=txt") == EXIT_USAGE
    assert "is for the export step" in capsys.readouterr().err


def test_readings_of_an_earlier_version_are_exported(tmp_path):
    stored = Path(__file__).parents[2] / "stored" / "workspace_2026_11"
    workspace = Path(shutil.copytree(stored, tmp_path / "work"))
    for name in ("txt", "jsonl"):
        assert export(workspace, name) == EXIT_DONE
    texts = {Path(path).stem: content.decode().strip() for path, content in read_files(workspace, "txt").items()}
    assert texts == {"0": "0a1", "1": "b2", "2": "c31", "3": "12", "4": "0a1", "5": "b2", "6": "b2"}
    rows = b"".join(read_files(workspace, "jsonl").values()).decode().splitlines()
    assert {Path(row["uri"]).stem: row["text"] for row in map(json.loads, rows)} == texts
    assert pyarrow.parquet.read_table(next((workspace / "export" / "txt" / "_index").iterdir())).num_rows == 7
