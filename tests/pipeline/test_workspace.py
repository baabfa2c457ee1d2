"""Names of the workspace: the same request, the same ID; pointers are replaced whole."""

import datetime
import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import fsspec
import pytest

from pipeline.console import log_to_console
from pipeline.exits import EXIT_HELD
from pipeline.lock import WorkspaceHeldError
from pipeline.main import main
from pipeline.retention import clear_unfinished
from pipeline.workspace import Workspace, make_id
from tfrecords import DataError, storage

HOLD = """
import sys
from pipeline.workspace import Workspace
with Workspace(sys.argv[1]).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


ROOT = Path(__file__).parents[2]


def test_equal_requests_have_equal_ids_and_any_difference_another():
    assert make_id(a=1, b="x") == make_id(b="x", a=1)
    assert make_id(a=1, b="x") != make_id(a=1, b="y")
    assert len(make_id(a=1)) == 12


def test_a_pointer_names_what_was_written_last(tmp_path):
    workspace = Workspace(str(tmp_path))
    assert workspace.read_pointer("models", "ACCEPTED") is None
    workspace.write_pointer("models", "ACCEPTED", "one")
    workspace.write_pointer("models", "ACCEPTED", "two")
    assert workspace.read_pointer("models", "ACCEPTED") == "two"
    assert os.listdir(tmp_path / "models") == ["ACCEPTED"]


def test_a_workspace_that_cannot_be_made_is_refused_with_its_name(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(DataError, match=r"--workspace=.*file/below cannot be written: Not a directory"),
        Workspace(str(tmp_path / "file" / "below")).lock(),
    ):
        pass


def hold(folder, program=HOLD):
    return subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_second_run_is_refused_while_the_first_holds_the_workspace_and_not_after(tmp_path):
    holder = hold(tmp_path)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(WorkspaceHeldError) as refused, Workspace(str(tmp_path)).lock():
        pass
    assert re.fullmatch(
        rf"another command works in {tmp_path} \(process {holder.pid} on \S+, user \S+, since "
        r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC\): wait for its end, or use another --workspace",
        str(refused.value),
    )
    holder.kill()  # a holder that crashed does not keep the lock
    holder.wait()
    with Workspace(str(tmp_path)).lock():
        pass


def test_a_second_command_is_refused_with_a_status_of_its_own(tmp_path, capsys):
    holder = hold(tmp_path)
    assert holder.stdout.readline() == "held\n"
    assert main([f"--workspace={tmp_path}", "--steps=ingest", f"--images={tmp_path}"]) == EXIT_HELD
    error = capsys.readouterr().err
    assert error.startswith(f"error: another command works in {tmp_path} (process {holder.pid} on ")
    holder.communicate()


HOLD_WITH_CHILDREN = """
import subprocess, sys, time
from components.processes import HelperPool
from pipeline.workspace import Workspace
with Workspace(sys.argv[1]).lock():
    helpers = HelperPool()
    helpers.prepare(time.sleep, 1000, 1)
    children = [helpers._prepared[0]._process, subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL)]
    print(*(child.pid for child in children), flush=True)
    sys.stdin.read()
"""


def test_a_crashed_holders_children_do_not_keep_the_lock(tmp_path):
    """Helpers, and any other process, that are busy while the one that started them is killed."""
    holder = hold(tmp_path, HOLD_WITH_CHILDREN)
    children = [int(child) for child in holder.stdout.readline().split()]
    try:
        holder.kill()
        holder.wait()
        with Workspace(str(tmp_path)).lock():
            states = [Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] for child in children]
        assert set(states) <= {"R", "S", "D"}  # they live on
        assert len(states) == 2
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)


def test_a_workspace_in_a_store_without_conditions_is_said_not_to_be_locked(capsys):
    with log_to_console(), Workspace("memory://x/ws").lock(), Workspace("memory://x/ws").lock():
        pass
    sentence = (
        "warning: memory://x/ws is not locked, which only gs:// and local folders can be: see to it that no other "
        "command works in it"
    )
    assert capsys.readouterr().out.splitlines() == [sentence] * 2


def test_what_killed_writers_left_is_cleared_and_nothing_else(tmp_path):
    workspace = Workspace(str(tmp_path))
    workspace.write_pointer("datasets", "LATEST", "one")
    workspace.write_pointer("models", "LATEST", "two")
    for name in (
        "archives/.unfinished-b.tmp",
        "datasets/.unfinished-abc.tmp",
        "models/.unfinished-d.tmp",
        "models/two/.unfinished-e.tmp",
        "models/two/evaluation.json",
        "runs/.unfinished-x.tmp",
        "unfinished/dataset-one/train",
        "runs/a.json",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    clear_unfinished(workspace)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["datasets/LATEST", "models/LATEST", "models/two/evaluation.json", "runs/a.json"]


@pytest.mark.parametrize(("days", "kept"), [(2, True), (40, False)])
def test_a_stopped_training_is_kept_for_a_month_from_its_last_checkpoint(tmp_path, days, kept):
    workspace = Workspace(str(tmp_path))
    checkpoints = tmp_path / "unfinished" / "training-abc" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "checkpoint-000000012.npz").touch()
    for folder, age in ((checkpoints, days), (checkpoints.parent, 60)):
        os.utime(folder, (time.time() - age * 24 * 3600,) * 2)
    clear_unfinished(workspace)
    assert checkpoints.exists() == kept


@pytest.mark.parametrize(
    ("days", "left"),
    [
        (6, ["file", "listing-1", "run-old-and-new", "training-1"]),
        (8, ["run-old-and-new", "training-1"]),
        (29, ["run-old-and-new", "training-1"]),
        (31, ["run-old-and-new"]),
    ],
)
def test_in_a_store_what_is_in_work_is_kept_for_a_week_and_a_training_for_a_month(days, left):
    place = f"memory://bucket-{uuid.uuid4().hex}"
    workspace = Workspace(f"{place}/ws")
    store = fsspec.filesystem("memory")
    at = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=days)
    for name in ("file", "listing-1/0.parquet", "run-old-and-new/a", "training-1/checkpoints/a"):
        storage.write_bytes(storage.join(workspace.all_unfinished, name), b"x")
        store.store[store._strip_protocol(storage.join(workspace.all_unfinished, name))].created = at
    storage.write_bytes(storage.join(workspace.all_unfinished, "run-old-and-new/b"), b"x")
    storage.write_bytes(f"{place}/ws/datasets/LATEST", b"x")
    storage.write_bytes(f"{place}/unfinished/other", b"x")
    clear_unfinished(workspace)
    assert storage.list_names(workspace.all_unfinished) == left
    assert storage.list_names(f"{place}/ws") == ["datasets", "unfinished"]
    assert storage.exists(f"{place}/unfinished/other")


def test_a_file_system_without_locks_is_one_sentence(tmp_path, monkeypatch):
    def refuse(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    refusal = r"lies on a file system without locks \(No locks available\)"
    with pytest.raises(DataError, match=refusal), Workspace(str(tmp_path)).lock():
        pass


@pytest.mark.parametrize("name", ["../../elsewhere", "..", ".", "a/b", "/etc", "a\\b", "a\nb"])
def test_no_name_leads_out_of_the_workspace(tmp_path, name):
    workspace = Workspace(str(tmp_path))
    for find in (workspace.model, workspace.dataset, lambda name: workspace.holds("models", name)):
        with pytest.raises(DataError, match=r"is no ID of one of the (models|datasets) in "):
            find(name)
    storage.write_bytes(f"{tmp_path}/models/ACCEPTED", f"{name}\n".encode())
    with pytest.raises(DataError, match=r"/models/ACCEPTED holds .*, which is no ID: "):
        workspace.read_pointer("models", "ACCEPTED")
