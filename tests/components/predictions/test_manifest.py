"""The manifest of a run: what is written, and what earlier versions wrote that is read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from components.counts import Counts
from components.predictions.manifest import NewerRunError, PartEntry, RunFigures, RunManifest, RunTimes
from components.predictions.runs import find_all_runs
from tfrecords import DataError

TIMES = RunTimes(["onnx (faster on a CPU)"], 0.1, 3, 0.2, 0.1, 1.5)
RUN = RunManifest(
    run_id="ra",
    model_id="model",
    scored_at="2026-03-04T05:06:07+00:00",
    counts=Counts(matched=9, read=2, rejects={"truncated": 1}, skipped=6, repeats=4, reread=1, retried=2),
    mean_confidence=0.5,
    needs_review=1,
    min_confidence=0.25,
    confidence_histogram=[1, 1],
    inputs="digest",
    figures=TIMES,
    files={"part-0.parquet": PartEntry(2, 100, "ab")},
    decoding=["beam", 10],
    limits={"height": 32},
    least_confident=[[0.25, "/in/1.png", "a"]],
)
WITHOUT_VERSION = {
    "run_id": "ra",
    "model_id": "model",
    "scored_at": "2026-03-04T05:06:07+00:00",
    "decoding": ["beam", 10],
    "limits": {"height": 32},
    "inputs": "digest",
    "matched": 9,
    "repeats": 4,
    "skipped": 6,
    "reread": 1,
    "retried": 2,
    "rows": 2,
    "rejects": {"truncated": 1},
    "mean_confidence": 0.5,
    "needs_review": 1,
    "min_confidence": 0.25,
    "confidence_histogram": [1, 1],
    "least_confident": [[0.25, "/in/1.png", "a"]],
    "figures": {
        "engines": ["onnx (faster on a CPU)"],
        "model_load_s": 0.1,
        "batches": 3,
        "scoring_s": 0.2,
        "slowest_batch_s": 0.1,
        "shard_s": 1.5,
    },
    "files": {"part-0.parquet": {"rows": 2, "bytes": 100, "sha256": "ab"}},
}
"""What the file had before it said its version."""


def write(folder: Path, content: object) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "_manifest.json").write_text(json.dumps(content))
    return str(folder)


def read_json(folder: str | Path) -> dict:
    return json.loads((Path(folder) / "_manifest.json").read_text())


def test_a_file_without_a_version_is_read_and_written_again_with_the_same_fields(tmp_path):
    folder = write(tmp_path / "run=ra", WITHOUT_VERSION)
    assert RunManifest.read(folder) == RUN
    RUN.write(folder)
    assert read_json(folder) == {**WITHOUT_VERSION, "schema_version": 2}
    assert RunManifest.read(folder) == RUN


def test_the_oldest_files_are_read_with_defaults(tmp_path):
    needed = ("run_id", "scored_at", "rows", "rejects", "files")
    folder = write(tmp_path / "run=ra", {name: WITHOUT_VERSION[name] for name in needed})
    found = RunManifest.read(folder)
    assert found.counts == Counts(matched=3, read=2, rejects={"truncated": 1})
    assert (found.lost, found.merged, found.history, found.mean_confidence, found.needs_review) == (0, (), (), 0, 0)
    unknown = ("model_id", "decoding", "limits", "inputs", "min_confidence", "confidence_histogram", "figures")
    assert [getattr(found, name) for name in (*unknown, "least_confident")] == [None] * 8
    assert not found.is_read_like(found)
    found.write(folder)
    assert RunManifest.read(folder) == found
    # An earlier version took what is there, even if it says nothing, for what is known.
    assert not {"decoding", "limits", "history", "merged", "lost", "confidence_histogram"} & read_json(folder).keys()


def test_a_merged_run_says_null_where_its_runs_do_not_agree_and_has_typed_entries(tmp_path):
    entries = [
        RunFigures(**{field.name: getattr(run, field.name) for field in dataclasses.fields(RunFigures)})
        for run in (RUN, dataclasses.replace(RUN, run_id="rb", model_id="other", lost=3, figures=None))
    ]
    merged = dataclasses.replace(
        RUN,
        run_id="mc",
        model_id=None,
        min_confidence=None,
        inputs=None,
        figures=None,
        merged=("ra", "rb"),
        history=tuple(entries),
    )
    folder = tmp_path / "run=mc"
    merged.write(str(folder))
    assert RunManifest.read(str(folder)) == merged
    content = read_json(folder)
    assert (content["model_id"], content["min_confidence"]) == (None, None)
    assert "figures" not in content
    assert content["merged"] == ["ra", "rb"]
    not_kept = ("files", "decoding", "limits", "least_confident")
    assert content["history"][0] == {name: WITHOUT_VERSION[name] for name in WITHOUT_VERSION if name not in not_kept}
    assert content["history"][1]["lost"] == 3


def test_a_run_is_read_like_another_if_model_and_decoding_are_the_same():
    assert RUN.is_read_like(dataclasses.replace(RUN, run_id="rb", limits={}))
    assert not RUN.is_read_like(dataclasses.replace(RUN, model_id="other"))
    assert not RUN.is_read_like(dataclasses.replace(RUN, decoding=["greedy"]))
    nobody = dataclasses.replace(RUN, model_id=None)
    assert not nobody.is_read_like(nobody)
    assert RUN.is_read_with(model_id="model", decoding=["beam", 10], limits={"height": 32})
    assert not RUN.is_read_with(model_id="model", decoding=["beam", 10], limits={"height": 48})


def test_a_newer_version_is_refused_and_not_taken_for_damaged(tmp_path):
    folder = write(tmp_path / "date=2026-03-04" / "run=ra", {**WITHOUT_VERSION, "schema_version": 3})
    with pytest.raises(NewerRunError, match=rf"^{folder}/_manifest.json has schema version 3, this program reads 2: "):
        RunManifest.read(folder)
    warnings: list[str] = []
    with pytest.raises(NewerRunError):
        find_all_runs(str(tmp_path), on_damage=warnings.append)
    assert warnings == []


@pytest.mark.parametrize("content", [[], {}, {**WITHOUT_VERSION, "files": None}])
def test_a_file_without_what_every_run_has_is_damaged(tmp_path, content):
    folder = write(tmp_path, content)
    with pytest.raises(DataError, match=rf"^{folder}/_manifest.json was damaged"):
        RunManifest.read(folder)
