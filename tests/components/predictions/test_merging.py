"""Merging runs: the rows of all of them, once, in few files, and a commit that may be stopped anywhere."""

from __future__ import annotations

import datetime
import json
import random
import shutil
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from apache_beam.testing.test_pipeline import TestPipeline as BeamPipeline

from components.predictions import merging
from components.predictions.manifest import PartEntry
from components.predictions.merging import (
    MergeRequest,
    commit_merge,
    group_runs_to_merge,
    plan_merged_files,
    write_merged_file,
)
from components.predictions.runs import CommittedRun, find_runs, read_run, remove_merged
from components.predictions.schema import PREDICTIONS_SCHEMA
from components.predictions.transforms import MergeRuns
from components.rejects import REJECTS_SCHEMA, Reject, make_rejects_table
from tfrecords import DataError, storage

DAY = "2026-03-04"
AT = datetime.datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=datetime.UTC)
LIMITS = {"height": 32, "max_pixels": 5}


EARLIER_SCHEMA = pyarrow.schema(list(PREDICTIONS_SCHEMA)[:-4])
"""Of runs that had neither places of symbols and words nor promises and expected errors."""


def write_run(
    root: Path,
    run_id: str,
    files: list[int],
    rejects: list[str] = (),
    hour: int = 1,
    schema: pyarrow.Schema = PREDICTIONS_SCHEMA,
    **changes,
) -> Path:
    """A committed run with some rows in each file, and a file of rejects for each reason."""
    folder = root / "predictions" / f"date={DAY}" / f"run={run_id}"
    folder.mkdir(parents=True)
    chosen, scored_at = random.Random(run_id), AT.replace(hour=hour)
    described, confidences = {}, []
    for number, count in enumerate(files):
        rows = []
        for row in range(count):
            confidence = float(np.float32(chosen.random()))
            confidences.append(confidence)
            rows.append(
                {
                    "uri": f"/in/ü {run_id}-{number}-{row}.png",
                    "text": f"t{row}",
                    "confidence": confidence,
                    "symbol_confidences": [confidence] * (row % 4),
                    "alternatives": [{"text": "x", "log_probability": -1.5}] * (row % 2),
                    "width": row,
                    "height": 32,
                    "size_bytes": 100 + row,
                    "modified": AT,
                    "model_id": changes.get("model_id", "model"),
                    "run_id": run_id,
                    "scored_at": scored_at,
                    "needs_review": confidence < 0.25,
                    "margin": None if row % 3 else 0.5,
                    "symbol_spans": [{"start": 5 * i, "end": 5 * i + 5} for i in range(row % 4)],
                    "words": [{"text": "t", "confidence": confidence, "start": 0, "end": row}] * (row % 2),
                }
            )
        name = f"part-{number:05d}-of-{len(files):05d}.parquet"
        storage.write_parquet(str(folder / name), pyarrow.Table.from_pylist(rows, schema))
        described[name] = {
            "rows": count,
            "bytes": (folder / name).stat().st_size,
            "sha256": storage.compute_checksum(str(folder / name)),
        }
    for number, reason in enumerate(rejects):
        table = make_rejects_table(
            [Reject(f"/in/{run_id}-{reason}.png", reason, "")],
            step="infer",
            run_id=run_id,
            at=scored_at,
            files=[(number, 1)],
        )
        path = root / "rejects" / f"date={DAY}" / f"run={run_id}" / f"rejects-{number:05d}.parquet"
        storage.write_parquet(str(path), table)
    manifest = {
        "run_id": run_id,
        "model_id": "model",
        "scored_at": scored_at.isoformat(),
        "decoding": ["greedy"],
        "limits": LIMITS,
        "inputs": f"inputs of {run_id}",
        "matched": 1000 + len(confidences) + len(rejects),
        "repeats": 2,
        "skipped": 1000,
        "reread": 3,
        "retried": 1,
        "rows": len(confidences),
        "rejects": {reason: rejects.count(reason) for reason in sorted(set(rejects))},
        "mean_confidence": sum(confidences) / max(len(confidences), 1),
        "needs_review": sum(confidence < 0.25 for confidence in confidences),
        "min_confidence": 0.25,
        "confidence_histogram": np.histogram(np.array(confidences, np.float32), 100, (0, 1))[0].tolist(),
        "least_confident": [],
        "figures": {
            "engines": ["onnx (as asked for)"],
            "model_load_s": 0.5,
            "batches": 1,
            "scoring_s": 1.5,
            "slowest_batch_s": 1.5,
            "shard_s": 2.5,
        },
        "files": described,
    }
    storage.write_json(str(folder / "_manifest.json"), {**manifest, **changes})
    return folder


def runs_of(root: Path) -> list[CommittedRun]:
    return find_runs(str(root / "predictions"), DAY)


def json_of(run: CommittedRun) -> dict:
    return json.loads((Path(run.folder) / "_manifest.json").read_text())


def request_for(root: Path, runs: list[CommittedRun], run_id: str = "mabc") -> MergeRequest:
    return MergeRequest(
        run_id,
        str(root / "unfinished"),
        str(root / "predictions" / f"date={DAY}" / f"run={run_id}"),
        str(root / "unfinished-rejects"),
        str(root / "rejects" / f"date={DAY}" / f"run={run_id}"),
        tuple(run.folder for run in runs),
    )


def merge(root: Path, run_id: str = "mabc", rows_a_file: int = 1_000_000) -> CommittedRun:
    runs = runs_of(root)
    request = request_for(root, runs, run_id)
    commit_merge([write_merged_file(file, request) for file in plan_merged_files(runs, rows_a_file)], request)
    return read_run(request.destination)


def rows_below(folder: Path) -> list[dict]:
    paths = sorted(folder.rglob("*.parquet"))
    return [row for path in paths for row in pyarrow.parquet.read_table(path, partitioning=None).to_pylist()]


def rows_of_three_runs(root: Path) -> list[dict]:
    folder = root / "predictions" / f"date={DAY}"
    return [row for run_id in ("rc", "ra", "rb") for row in rows_below(folder / f"run={run_id}")]


def everything(root: Path) -> dict[str, bytes]:
    """Every committed file, by its path."""
    found = [*(root / "predictions").rglob("*"), *(root / "rejects").rglob("*")]
    return {str(path.relative_to(root)): path.read_bytes() for path in found if path.is_file()}


def three_runs(root: Path) -> None:
    write_run(root, "rc", [30, 7], ["truncated", "unreadable"], hour=1)
    write_run(root, "ra", [5], hour=2)
    write_run(root, "rb", [11, 2], ["truncated"], hour=3, model_id="newer")


def test_a_merged_run_has_the_rows_and_rejects_of_all_unchanged_and_in_their_order(tmp_path):
    three_runs(tmp_path)
    before = [
        row for run in ("rc", "ra", "rb") for row in rows_below(tmp_path / "predictions" / f"date={DAY}/run={run}")
    ]
    rejects = [row for run in ("rc", "rb") for row in rows_below(tmp_path / "rejects" / f"date={DAY}" / f"run={run}")]
    merged = merge(tmp_path)
    assert runs_of(tmp_path) == [merged]
    assert rows_below(tmp_path / "predictions") == before
    assert rows_below(tmp_path / "rejects") == rejects
    assert sorted(everything(tmp_path)) == [
        f"predictions/date={DAY}/run=mabc/_manifest.json",
        f"predictions/date={DAY}/run=mabc/part-00000-of-00001.parquet",
        f"rejects/date={DAY}/run=mabc/rejects-00000-of-00001.parquet",
    ]
    for paths, schema in ((merged.files, PREDICTIONS_SCHEMA), (merged.reject_files, REJECTS_SCHEMA)):
        (path,) = paths
        assert pyarrow.parquet.read_schema(path).equals(schema)
    (described,) = merged.files.values()
    (path,) = merged.files
    assert described == PartEntry(55, storage.get_size(path), storage.compute_checksum(path))
    assert not (tmp_path / "unfinished").exists()


def test_rows_of_earlier_versions_get_the_columns_that_they_lack_without_values(tmp_path):
    write_run(tmp_path, "ra", [5], hour=1, schema=EARLIER_SCHEMA)
    write_run(tmp_path, "rb", [6], hour=2)
    before = [row for run in runs_of(tmp_path) for row in rows_below(Path(run.folder))]
    (path,) = merge(tmp_path).files
    assert pyarrow.parquet.read_schema(path).equals(PREDICTIONS_SCHEMA)
    rows = rows_below(tmp_path / "predictions")
    assert rows == [
        {"symbol_spans": None, "words": None, "accepted": None, "expected_cer": None, **row} for row in before
    ]
    assert [row["symbol_spans"] is None for row in rows] == [True] * 5 + [False] * 6


def test_the_manifest_has_sums_where_they_mean_something_and_the_history_has_every_run(tmp_path):
    three_runs(tmp_path)
    runs = {run.run_id: json_of(run) for run in runs_of(tmp_path)}
    rows = sorted((row["confidence"], row["uri"], row["text"]) for row in rows_below(tmp_path / "predictions"))
    manifest = json_of(merge(tmp_path))
    assert (manifest["matched"], manifest["rows"], manifest["rejects"]) == (58, 55, {"truncated": 2, "unreadable": 1})
    assert (manifest["skipped"], manifest["repeats"], manifest["reread"], manifest["retried"]) == (0, 0, 9, 3)
    assert (manifest["model_id"], manifest["min_confidence"]) == (None, 0.25)
    assert (manifest["decoding"], manifest["limits"]) == (["greedy"], LIMITS)
    assert manifest["scored_at"] == runs["rb"]["scored_at"]
    assert manifest["mean_confidence"] == pytest.approx(sum(row[0] for row in rows) / 55)
    assert manifest["needs_review"] == sum(run["needs_review"] for run in runs.values())
    histograms = [run["confidence_histogram"] for run in runs.values()]
    assert manifest["confidence_histogram"] == np.sum(histograms, axis=0).tolist()
    assert manifest["least_confident"] == [list(row) for row in rows[:50]]
    assert manifest["merged"] == ["rc", "ra", "rb"]
    assert [entry["run_id"] for entry in manifest["history"]] == ["rc", "ra", "rb"]
    for entry in manifest["history"]:
        was = runs[entry["run_id"]]
        assert entry == {name: was[name] for name in entry}
        assert set(was) - set(entry) == {"files", "decoding", "limits", "least_confident"}


def test_what_was_merged_before_is_merged_again_with_what_came_later(tmp_path):
    write_run(tmp_path, "ra", [5], ["truncated"], hour=1)
    write_run(tmp_path, "rb", [6], hour=2)
    first = merge(tmp_path, "mone")
    write_run(tmp_path, "rc", [4], ["too_small"], hour=3)
    rows, rejects = rows_below(tmp_path / "predictions"), rows_below(tmp_path / "rejects")
    second = merge(tmp_path, "mtwo")
    assert second.manifest.merged == ("ra", "rb", "mone", "rc")
    assert second.manifest.history[:2] == first.manifest.history
    assert [run.run_id for run in second.readings] == ["ra", "rb", "rc"]
    assert (second.manifest.counts.read, second.manifest.counts.matched) == (15, 17)
    assert runs_of(tmp_path) == [second]
    by_uri = {row["uri"]: row for row in rows}
    assert {row["uri"]: row for row in rows_below(tmp_path / "predictions")} == by_uri
    assert len(rows_below(tmp_path / "predictions")) == len(rows) == 15
    assert sorted(row["uri"] for row in rows_below(tmp_path / "rejects")) == sorted(row["uri"] for row in rejects)


def test_only_what_was_read_in_the_same_way_is_merged(tmp_path):
    for run_id, changes in {
        "ra": {},
        "rb": {"decoding": ["beam", 10]},
        "rc": {"model_id": "other"},
        "rd": {"decoding": ["beam", 10]},
        "re": {"limits": {**LIMITS, "height": 48}},
    }.items():
        write_run(tmp_path, run_id, [1], **changes)
    old = write_run(tmp_path, "rf", [1]) / "_manifest.json"
    manifest = json.loads(old.read_text())
    for name in ("decoding", "limits"):
        del manifest[name]
    old.write_text(json.dumps(manifest))
    assert [[run.run_id for run in group] for group in group_runs_to_merge(runs_of(tmp_path))] == [
        ["ra", "rc"],
        ["rb", "rd"],
    ]


def test_files_are_filled_up_to_a_number_of_rows_and_a_greater_one_stays_alone(tmp_path):
    write_run(tmp_path, "ra", [4, 5, 6, 25, 1, 9], ["truncated"] * 3)
    files = plan_merged_files(runs_of(tmp_path), 10)
    assert [[source.rows for source in file.sources] for file in files[:4]] == [[4, 5], [6], [25], [1, 9]]
    assert [(file.kind, len(file.sources)) for file in files[4:]] == [("rejects", 3)]
    assert [file.name for file in files][:2] == ["part-00000-of-00004.parquet", "part-00001-of-00004.parquet"]
    merged = merge(tmp_path, rows_a_file=10)
    assert [part.rows for part in merged.files.values()] == [9, 6, 25, 10]
    assert merged.manifest.counts.read == 50


def test_row_groups_are_full_but_for_the_last_whatever_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr(merging, "ROW_GROUP_ROWS", 10)
    three_runs(tmp_path)
    rows = rows_of_three_runs(tmp_path)
    merged = merge(tmp_path)
    (path,) = merged.files
    about = pyarrow.parquet.read_metadata(path)
    assert [about.row_group(number).num_rows for number in range(about.num_row_groups)] == [10] * 5 + [5]
    assert {about.row_group(0).column(number).compression for number in range(about.num_columns)} == {"ZSTD"}
    assert rows_below(tmp_path / "predictions") == rows
    assert merged.manifest.least_confident == sorted([r["confidence"], r["uri"], r["text"]] for r in rows)[:50]


def test_the_same_runs_give_the_same_bytes(tmp_path):
    found = []
    for place in (tmp_path / "one", tmp_path / "two"):
        three_runs(place)
        merge(place)
        found.append(everything(place))
    assert found[0] == found[1]


def test_runs_of_rejects_alone_are_merged_and_pruned_rejects_are_no_obstacle(tmp_path):
    write_run(tmp_path, "ra", [], ["truncated"])
    write_run(tmp_path, "rb", [], ["too_small"])
    shutil.rmtree(tmp_path / "rejects" / f"date={DAY}" / "run=ra")
    merged = merge(tmp_path)
    assert (merged.manifest.counts.read, merged.files) == (0, {})
    assert merged.manifest.counts.rejects == {"too_small": 1, "truncated": 1}
    assert [row["reason"] for row in rows_below(tmp_path / "rejects")] == ["too_small"]


@pytest.mark.parametrize("kind", ["predictions", "rejects"])
def test_a_file_that_is_not_what_was_committed_is_one_sentence_and_nothing_is_changed(tmp_path, kind):
    three_runs(tmp_path)
    path = next((tmp_path / kind / f"date={DAY}" / "run=rc").glob("*.parquet"))
    content = bytearray(path.read_bytes())
    content[-20] ^= 255
    path.write_bytes(content)
    before = everything(tmp_path)
    with pytest.raises(DataError, match=rf"^{path} (has checksum|is damaged).*delete it and run again") as error:
        merge(tmp_path)
    assert "\n" not in str(error.value)
    assert everything(tmp_path) == before


def test_rows_of_an_older_schema_get_the_columns_that_were_added_since(tmp_path):
    three_runs(tmp_path)
    path = tmp_path / "rejects" / f"date={DAY}" / "run=rb" / "rejects-00000.parquet"
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(path, partitioning=None).drop_columns(["modified"]), path)
    merge(tmp_path)
    assert [row["modified"] is None for row in rows_below(tmp_path / "rejects")] == [False, False, True]
    folder = write_run(tmp_path, "rz", [2], hour=9)
    (part,) = folder.glob("*.parquet")
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(part, partitioning=None).drop_columns(["text"]), part)
    manifest = json.loads((folder / "_manifest.json").read_text())
    manifest["files"][part.name] |= {"sha256": storage.compute_checksum(str(part)), "bytes": part.stat().st_size}
    (folder / "_manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=f"{part} has no column text: another version"):
        merge(tmp_path, "mtwo")


@pytest.mark.parametrize("wrong", ["lost", "double", "rejects"])
def test_a_row_that_is_lost_or_doubled_is_not_committed(tmp_path, wrong):
    three_runs(tmp_path)
    runs = runs_of(tmp_path)
    request = request_for(tmp_path, runs)
    files = plan_merged_files(runs, 20)
    assert [file.kind for file in files] == ["part", "part", "part", "rejects"]
    taken = {"lost": files[1:], "double": [files[0], *files], "rejects": files[:-1]}[wrong]
    before = everything(tmp_path)
    with pytest.raises(RuntimeError, match="something was lost or doubled"):
        commit_merge([write_merged_file(file, request) for file in taken], request)
    assert everything(tmp_path) == before


class StoppedError(Exception):
    pass


_CHANGES = ("move_folder", "remove_folder", "remove_file", "write_json")


@pytest.mark.parametrize("again", ["the commit", "the command"])
def test_a_commit_that_is_stopped_anywhere_ends_as_one_that_was_not(tmp_path, monkeypatch, again):
    """Before and after each call that changes files: until the new run is committed the old ones count, then it."""
    three_runs(tmp_path / "undisturbed")
    merge(tmp_path / "undisturbed", rows_a_file=20)
    expected = everything(tmp_path / "undisturbed")
    moments = 0
    for stop_at in range(100):
        root = tmp_path / str(stop_at)
        three_runs(root)
        runs = runs_of(root)
        request = request_for(root, runs)
        calls = iter(range(1000))

        def stopping(call, calls=calls, stop_at=stop_at):
            def stopped(*args):
                if next(calls) == stop_at:
                    raise StoppedError
                result = call(*args)
                if next(calls) == stop_at:
                    raise StoppedError
                return result

            return stopped

        summaries = [write_merged_file(file, request) for file in plan_merged_files(runs, 20)]
        with monkeypatch.context() as patch:
            for name in _CHANGES:
                patch.setattr(storage, name, stopping(getattr(storage, name)))
            try:
                commit_merge(summaries, request)
                break
            except StoppedError:
                moments += 1
        assert [run.run_id for run in runs_of(root)] in (["rc", "ra", "rb"], ["mabc"])
        assert sum(run.manifest.counts.read for run in runs_of(root)) == 55
        rejected = [path for run in runs_of(root) for path in run.reject_files]
        assert sum(pyarrow.parquet.read_metadata(path).num_rows for path in rejected) == 3
        if again == "the commit":  # as an engine does, which knows only the summaries
            commit_merge(summaries, request)
        elif len(runs_of(root)) == 3:  # the whole step again
            commit_merge([write_merged_file(file, request) for file in plan_merged_files(runs, 20)], request)
        else:  # what every later step does
            remove_merged(runs_of(root))
        assert everything(root) == expected
    assert moments >= 20


def test_the_job_merges_several_groups_of_runs_at_once(tmp_path):
    three_runs(tmp_path)
    for run_id in ("rx", "ry"):
        write_run(tmp_path, run_id, [3], decoding=["beam", 10])
    groups = group_runs_to_merge(runs_of(tmp_path))
    requests = []
    for number, group in enumerate(groups):
        request = request_for(tmp_path, group, f"m{number}")
        folders = {"folder": f"{request.folder}-{number}", "rejects_folder": f"{request.rejects_folder}-{number}"}
        requests.append(MergeRequest(**{**vars(request), **folders}))
    files = [(number, file) for number, group in enumerate(groups) for file in plan_merged_files(group)]
    with BeamPipeline() as pipeline:
        pipeline | beam.Create(files) | MergeRuns(requests)
    assert {run.run_id: run.manifest.counts.read for run in runs_of(tmp_path)} == {"m0": 55, "m1": 6}
