"""What is removed when it is older than it is to be kept, by the day in its name, and nothing else."""

from __future__ import annotations

import contextlib
import datetime
import io
import uuid
from pathlib import Path

import pytest

from pipeline import retention
from pipeline.command_line import parse_options
from pipeline.console import log_to_console
from pipeline.exits import EXIT_DONE, EXIT_REFUSED
from pipeline.main import main
from pipeline.workspace import Workspace
from tfrecords import StoreError, storage

OLD, LAST, NEW = "2026-03-01", "2026-03-02", "2026-03-31"
"""Thirty days before the test's day is `LAST`."""
NAMES = [
    *(f"{kind}/date={day}/run=ra/{kind}-0.parquet" for kind in ("predictions", "rejects") for day in (OLD, LAST, NEW)),
    *(f"predictions/date={day}/run=ra/_manifest.json" for day in (OLD, LAST, NEW)),
    f"predictions/date={OLD}/run=rb/_manifest.json",
    *(
        f"runs/{day.replace('-', '')}T132911Z-b416c1.{suffix}"
        for day in (OLD, LAST, NEW)
        for suffix in ("html", "json")
    ),
    "runs/20260301T132911Z-0a1b2c.log",
    "runs/worker-1.log",
    "runs/20260301-notes.html",
    "rejects/date=2026-02-31/run=ra/x",
    "rejects/date=never/run=ra/x",
    "predictions/date=2026-3-1/run=ra/x",
    "datasets/20200101/manifest.json",
    "models/date=2020-01-01/manifest.json",
]
GONE = {
    "rejects": [f"rejects/date={OLD}/run=ra/rejects-0.parquet"],
    "records": [
        "runs/20260301T132911Z-0a1b2c.log",
        "runs/20260301T132911Z-b416c1.html",
        "runs/20260301T132911Z-b416c1.json",
    ],
    "predictions": [
        f"predictions/date={OLD}/run=ra/_manifest.json",
        f"predictions/date={OLD}/run=ra/predictions-0.parquet",
        f"predictions/date={OLD}/run=rb/_manifest.json",
    ],
}


@pytest.fixture(params=["local", "store"])
def workspace(request, tmp_path, monkeypatch) -> Workspace:
    """A workspace with files of three days, on the last of them."""
    monkeypatch.setattr(retention, "_get_today", lambda: datetime.date.fromisoformat(NEW) + datetime.timedelta(days=1))
    place = Workspace(str(tmp_path) if request.param == "local" else f"memory://bucket-{uuid.uuid4().hex}/ws")
    for name in NAMES:
        storage.write_bytes(storage.join(place.root, name), b"content")
    return place


def left(workspace: Workspace) -> list[str]:
    if storage.is_remote(workspace.root):
        above = storage.canonicalise(workspace.root) + "/"
        return sorted(file.url.removeprefix(above) for file in storage.find_files(workspace.root))
    root = Path(workspace.root)
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def prune(workspace: Workspace, *flags: str) -> list[str]:
    """Prunes, and returns the lines that a person sees."""
    with contextlib.redirect_stdout(io.StringIO()) as printed, log_to_console():
        retention.prune(parse_options(list(flags)), workspace)
    return printed.getvalue().splitlines()


@pytest.mark.parametrize(
    ("flags", "gone", "sentence"),
    [
        ([], [], None),
        (
            ["--retention_days=30"],
            ["rejects", "records"],
            "pruned days of rejects older than 30: 1, files of run reports older than 30: 3",
        ),
        (
            ["--prediction_retention_days=30"],
            ["predictions"],
            "pruned days of predictions older than 30: 1",
        ),
        (
            ["--retention_days=30", "--prediction_retention_days=31"],
            ["rejects", "records"],
            "pruned days of rejects older than 30: 1, files of run reports older than 30: 3, "
            "days of predictions older than 31: 0",
        ),
    ],
)
def test_only_what_is_older_than_asked_for_goes(workspace, flags, gone, sentence):
    assert prune(workspace, *flags) == ([sentence] if sentence else [])
    removed = {name for kind in gone for name in GONE[kind]}
    assert left(workspace) == sorted(set(NAMES) - removed)
    if not storage.is_remote(workspace.root):
        empty = [path for path in Path(workspace.root).rglob("*") if path.is_dir() and not any(path.iterdir())]
        assert empty == []


@pytest.mark.parametrize("workspace", ["local"], indirect=True)
def test_manifests_of_a_day_go_before_any_of_its_files(workspace, monkeypatch):
    """Whatever stops it: no run counts that lost a file, and the next time it is finished."""

    def stop(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(storage, "remove_folder", stop)
        with pytest.raises(KeyboardInterrupt):
            prune(workspace, "--prediction_retention_days=30")
    found = [name for name in left(workspace) if name.startswith(f"predictions/date={OLD}")]
    assert found == [f"predictions/date={OLD}/run=ra/predictions-0.parquet"]
    assert prune(workspace, "--prediction_retention_days=30") == ["pruned days of predictions older than 30: 1"]
    assert left(workspace) == sorted(set(NAMES) - set(GONE["predictions"]))


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied", "the file"), StoreError("no answer")])
@pytest.mark.parametrize("workspace", ["local"], indirect=True)
def test_what_cannot_be_removed_is_a_warning_and_no_failure(workspace, monkeypatch, error):
    asked = []

    def refuse(path):
        asked.append(path)
        raise error

    monkeypatch.setattr(storage, "remove_file", refuse)
    said = prune(workspace, "--retention_days=30")
    if isinstance(error, OSError):
        assert said[0] == "pruned days of rejects older than 30: 1, files of run reports older than 30: 0"
        assert said[1].startswith("warning: what is older than it is to be kept could not all be removed: ")
        assert said[1].endswith("the file: Permission denied, and 2 more")
    else:
        assert said[0] == "pruned days of rejects older than 30: 1"
        assert said[1] == "warning: what is older than it is to be kept could not all be removed: no answer"
        assert len(asked) == 1


@pytest.mark.parametrize("workspace", ["local"], indirect=True)
@pytest.mark.parametrize(
    ("asked", "status"), [(["--steps=compact", "--date=2026-03-31"], EXIT_DONE), (["--steps=evaluate"], EXIT_REFUSED)]
)
def test_the_command_prunes_after_a_good_run_alone(workspace, capsys, asked, status):
    manifest = {"run_id": "ra", "scored_at": f"{NEW}T01:00:00+00:00", "rows": 0, "rejects": {}, "files": {}}
    storage.write_json(f"{workspace.root}/predictions/date={NEW}/run=ra/_manifest.json", manifest)
    for name in (name for name in NAMES if "_manifest" in name and f"date={NEW}" not in name):
        run_id, day = name.split("/")[2].removeprefix("run="), name.split("/")[1].removeprefix("date=")
        content = {**manifest, "run_id": f"{run_id}{day}", "scored_at": f"{day}T01:00:00+00:00"}
        storage.write_json(storage.join(workspace.root, name), content)
    flags = ["--retention_days=30", "--prediction_retention_days=30"]
    assert main([f"--workspace={workspace.root}", *asked, *flags]) == status
    removed = {name for names in GONE.values() for name in names} if status == EXIT_DONE else set()
    assert set(NAMES) - set(left(workspace)) == removed
    assert (
        "pruned days of rejects older than 30: 1, files of run reports older than 30: 3" in capsys.readouterr().out
    ) == (status == EXIT_DONE)


def put_days(workspace: Workspace, kind: str, *days: str) -> None:
    for day in days:
        storage.write_bytes(f"{workspace.root}/{kind}/date={day}/run=ra/_manifest.json", b"{}")


@pytest.mark.parametrize("workspace", ["local"], indirect=True)
@pytest.mark.parametrize("nights", [1, 40], ids=["the first night", "the fortieth night"])
def test_a_clock_that_is_years_ahead_removes_nothing(workspace, monkeypatch, nights):
    """A night first commits its own run, of a day by the same clock."""
    began = datetime.date(2099, 1, 1)
    put_days(workspace, "predictions", *(str(began + datetime.timedelta(days=night)) for night in range(nights)))
    today = began + datetime.timedelta(days=nights - 1)
    monkeypatch.setattr(retention, "_get_today", lambda: today)
    before = left(workspace)
    flags = ["--retention_days=300", "--prediction_retention_days=300"]
    said = prune(workspace, *flags)
    assert left(workspace) == before
    assert said == [
        f"warning: no {noun} were removed, though {older} of {of} are older than 300: nothing is there from between "
        f"{NEW} and 2099-01-01; set the clock of this machine right, which says {today}, or give "
        "--max_prune_fraction=1 once"
        for noun, older, of in (
            ("days of rejects", 3, 3),
            ("files of run reports", 7, 7),
            ("days of predictions", 3, 3 + nights),
        )
    ]
    assert len(prune(workspace, *flags, "--max_prune_fraction=1")) == 1
    assert not any(NEW in name for name in left(workspace) if name.startswith(("predictions/", "rejects/")))


@pytest.mark.parametrize("workspace", ["local"], indirect=True)
def test_more_than_the_stated_share_does_not_go_at_once(workspace):
    put_days(workspace, "predictions", "2026-02-27", "2026-02-28")
    before = left(workspace)
    assert prune(workspace, "--prediction_retention_days=30") == [
        "warning: no days of predictions were removed, though 3 of 5 are older than 30, more than "
        "--max_prune_fraction=0.5 of all; set the clock of this machine right, which says 2026-04-01, or give "
        "--max_prune_fraction=1 once"
    ]
    assert left(workspace) == before
    assert prune(workspace, "--prediction_retention_days=30", "--max_prune_fraction=0.6") == [
        "pruned days of predictions older than 30: 3"
    ]


@pytest.mark.parametrize("workspace", ["local"], indirect=True)
def test_more_days_than_any_calendar_has_keep_everything(workspace):
    assert prune(workspace, "--prediction_retention_days=9999999999") == [
        "pruned days of predictions older than 9999999999: 0"
    ]


@pytest.mark.parametrize("workspace", ["local"], indirect=True)
def test_one_run_a_year_is_no_wrong_clock(workspace, monkeypatch):
    put_days(workspace, "predictions", "2027-03-31")
    monkeypatch.setattr(retention, "_get_today", lambda: datetime.date(2027, 3, 31))
    said = prune(workspace, "--prediction_retention_days=30", "--max_prune_fraction=0.9")
    assert said == ["pruned days of predictions older than 30: 3"]
