"""What becomes of the runs of a day, and of what is old, in an object store."""

from __future__ import annotations

import io
import time
import types

import pyarrow
import pyarrow.parquet
import pytest

from pipeline import retention
from pipeline.exits import EXIT_DONE, EXIT_REFUSED
from pipeline.workspace import Workspace
from tests.engines.places import run
from tfrecords import storage

pytestmark = pytest.mark.slow


@pytest.fixture
def nights(store, object_store) -> str:
    """A bucket whose images were read twice in a day, each time with one that is none; the day."""
    for number in range(2):
        object_store.put(f"{store}/lines/broken-{number}.png", b"no image at all")
        if number:
            object_store.put(f"{store}/lines/more.png", object_store.get(f"{store}/lines/00-11.png"))
        assert run(store, "infer", "--max_reject_fraction=0.5") == EXIT_DONE
    days = storage.list_names(f"{store}/ws/predictions")
    if len(days) > 1:
        pytest.skip("midnight, UTC, came between the two runs")
    return days[0].removeprefix("date=")


def rows(store: str, kind: str) -> list[dict]:
    urls = [file.url for file in storage.find_files(f"{store}/ws/{kind}") if file.url.endswith(".parquet")]
    found = []
    for url in urls:
        found += pyarrow.parquet.read_table(io.BytesIO(storage.read_bytes(url))).to_pylist()
    return sorted(found, key=lambda row: row["uri"])


def runs(store: str, day: str) -> list[str]:
    return storage.list_names(f"{store}/ws/predictions/date={day}", "run=")


def test_a_day_is_merged_and_what_was_read_is_skipped_as_before(store, nights, capsys):
    before, rejects = rows(store, "predictions"), rows(store, "rejects")
    assert (len(before), len(rejects), len(runs(store, nights))) == (25, 2, 2)
    assert run(store, "compact", f"--date={nights}") == EXIT_DONE
    assert "2 runs in 2 files merged into 1 run: 25 rows in 1 file" in capsys.readouterr().out
    assert (rows(store, "predictions"), rows(store, "rejects")) == (before, rejects)
    assert storage.list_names(f"{store}/ws/rejects/date={nights}") == runs(store, nights)
    assert len(runs(store, nights)) == 1
    assert storage.list_names(f"{store}/ws/unfinished") == []
    assert run(store, "infer") == EXIT_DONE
    assert "nothing new: 27 images matched" in capsys.readouterr().out
    assert run(store, "compact", f"--date={nights}") == EXIT_DONE
    assert "nothing to merge, since there is one run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("moment", "again"),  # rejects are copied and removed, then a part and the manifest, then the two merged runs go
    [(2, "infer"), (5, "compact"), (9, "infer")],
)
def test_a_store_that_refuses_at_any_moment_of_the_commit_loses_and_doubles_nothing(
    store, nights, object_store, proxy, capsys, moment, again
):
    """From some copy or deletion on, nothing is changed any more, as if the process had been killed there."""
    before, rejects = rows(store, "predictions"), rows(store, "rejects")
    changes = []

    def refuse(request):
        if request.name == "ws/.lock":
            return None
        if request.kind in ("copy", "delete") or (changes and request.kind == "write"):
            changes.append(request)
            return 403 if len(changes) >= moment else None
        return None

    proxy.fault = refuse
    assert run(store, "compact", f"--date={nights}") == EXIT_REFUSED
    proxy.fault = lambda request: None
    assert len(changes) >= moment
    for step in dict.fromkeys((again, "compact")):
        capsys.readouterr()
        assert run(store, step, f"--date={nights}" if step == "compact" else "--seed=0") == EXIT_DONE
        if step == "infer":
            assert "nothing new: 27 images matched" in capsys.readouterr().out
    assert (rows(store, "predictions"), rows(store, "rejects")) == (before, rejects)
    assert len(runs(store, nights)) == 1
    assert storage.list_names(f"{store}/ws/rejects/date={nights}") == runs(store, nights)


def test_what_is_older_than_asked_for_is_pruned(store, nights, object_store, capsys):
    for name in (
        "predictions/date=2026-01-01/run=ra/_manifest.json",
        "predictions/date=2026-01-01/run=ra/part-0.parquet",
        "rejects/date=2026-01-01/run=ra/rejects-0.parquet",
        "runs/20260101T010101Z-abc123.html",
    ):
        object_store.put(
            f"{store}/ws/{name}", b'{"run_id": "ra", "scored_at": "", "rows": 0, "files": {}, "rejects": {}}'
        )
    flags = ["--retention_days=60", "--prediction_retention_days=60"]
    assert run(store, "compact", f"--date={nights}", *flags) == EXIT_DONE
    assert (
        "pruned days of rejects older than 60: 1, files of run reports older than 60: 1, days of predictions older "
        "than 60: 1"
    ) in capsys.readouterr().out
    assert not [name for name in object_store.objects(f"{store}/ws") if "2026-01-01" in name or "20260101" in name]
    assert len(rows(store, "predictions")) == 25


@pytest.mark.parametrize(("days", "left"), [(6, ["listing-1", "training-1"]), (8, ["training-1"]), (31, [])])
def test_what_stopped_runs_left_goes_after_a_while(bucket, object_store, monkeypatch, days, left):
    for name in ("unfinished/listing-1/00000.parquet", "unfinished/training-1/checkpoint", "datasets/LATEST"):
        object_store.put(f"{bucket}/ws/{name}", b"x")
    later = time.time() + days * 24 * 3600
    monkeypatch.setattr(retention, "time", types.SimpleNamespace(time=lambda: later))
    retention.clear_unfinished(Workspace(f"{bucket}/ws"))
    assert storage.list_names(f"{bucket}/ws/unfinished") == left
    assert storage.exists(f"{bucket}/ws/datasets/LATEST")
