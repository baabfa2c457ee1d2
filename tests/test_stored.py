"""What an earlier version wrote stays readable: a stored workspace is read, and a copy of it is continued."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow
import pyarrow.dataset
import pyarrow.parquet
import pytest

from components.listing import ImageReference, read_listing, write_references
from components.predictions.runs import find_runs, read_predictions
from components.predictions.schema import PREDICTIONS_SCHEMA
from components.predictions.unread import SkipRule, Source, keep_unread, list_identities
from components.recogniser.manifest import ModelManifest
from pipeline.exits import EXIT_DONE
from pipeline.main import main
from tests.docs.pages import find_blocks
from tfrecords import DatasetManifest, read_records, read_uris

STORED = Path(__file__).parent / "stored" / "workspace_2026_11"
DATASET, MODEL, DAY = "b05d32ff9e98", "efd9c7cc074c", "2026-11-29"
MERGED, BY_BEAM, LAST = "m45e6cb6d1005", "rf022eef1f72e", "re32435fc0ddd"
NEW = "/srv/archive/new"
TEXTS = {"0": "0a1", "1": "b2", "2": "c31", "3": "12", "4": "0a1", "5": "b2", "6": "b2"}
"""What the model read on the seven images, by any decoder."""


@pytest.fixture
def workspace(tmp_path) -> Path:
    return Path(shutil.copytree(STORED, tmp_path / "workspace"))


def run(workspace: Path, *flags: str) -> dict:
    """The result of the one step of a command that goes well, from its run record."""
    earlier = set((workspace / "runs").iterdir())
    assert main([f"--workspace={workspace}", *flags]) == EXIT_DONE
    (record,) = (path for path in (workspace / "runs").iterdir() if path not in earlier and path.suffix == ".json")
    (step,) = json.loads(record.read_text())["steps"]
    return step


def test_the_dataset_is_read_with_its_charset_and_every_record():
    folder = STORED / "datasets" / DATASET
    dataset = DatasetManifest.read(str(folder))
    assert dataset.counts == {"train": 18, "validation": 3, "test": 3}
    assert (dataset.matched, dataset.rejects, dataset.height, dataset.time_stride) == (24, {}, 32, 4)
    assert dataset.read_charset(str(folder)).symbols == tuple("0123abc")
    for shard in dataset.shards:
        assert len(list(read_records(str(folder / shard.name)))) == shard.examples
    uris = [
        uri for shard in dataset.shards for batch in read_uris(str(folder / shard.name)) for uri in batch.to_pylist()
    ]
    assert len(set(uris)) == 24
    assert {uri.rpartition("/")[0] for uri in uris} == {"/srv/archive/lines"}


def test_the_model_recognises_the_test_lines_of_the_dataset_as_its_evaluation_did(workspace):
    folder = workspace / "models" / MODEL
    model = ModelManifest.read(str(folder))
    assert (model.dataset_id, model.height) == (DATASET, 32)
    assert model.read_charset(str(folder)).symbols == tuple("0123abc")
    step = run(workspace, "--steps=infer", "--infer_images=dataset:LATEST:test")
    assert (step["figures"]["matched"], step["figures"]["rows"], step["figures"]["rejects"]) == (3, 3, {})
    assert [engine.split()[0] for engine in step["figures"]["figures"]["engines"]] == ["onnx"]
    (evaluated,) = (folder / "evaluation").glob("readings-*.parquet")
    before = {row["uri"]: row for row in pyarrow.parquet.read_table(evaluated).to_pylist()}
    now = {row["uri"]: row for row in read_predictions(step["folder"], ["uri", "text", "confidence"])}
    assert {uri: row["text"] for uri, row in now.items()} == {uri: row["text"] for uri, row in before.items()}
    for uri, row in now.items():
        assert row["confidence"] == pytest.approx(before[uri]["confidence"], rel=1e-3)


def test_a_training_of_the_same_dataset_finds_the_model_by_its_id(workspace):
    step = run(workspace, "--steps=train", "--model=crnn", "--epochs=40")
    assert step["reused"]
    assert step["figures"]["model_id"] == MODEL


def test_the_runs_are_found_with_their_rows_and_rejects():
    runs = {found.run_id: found for found in find_runs(str(STORED / "predictions"))}
    assert list(runs) == [MERGED, BY_BEAM, LAST]
    assert {run_id: len(read_predictions(found.folder, ["uri"])) for run_id, found in runs.items()} == {
        MERGED: 5,
        BY_BEAM: 6,
        LAST: 2,
    }
    rows = [row for found in runs.values() for row in read_predictions(found.folder, ["uri", "text"])]
    assert {row["uri"]: row["text"] for row in rows} == {f"{NEW}/{name}.png": text for name, text in TEXTS.items()}
    assert [entry.run_id for entry in runs[MERGED].readings] == ["r6fe2b4f33637", "r8cab77fb44b2"]
    assert runs[LAST].readings == [runs[LAST]]
    assert [len(found.reject_files) for found in runs.values()] == [1, 0, 0]


def test_what_was_read_in_the_same_way_is_merged_and_the_rest_stays(workspace):
    before = {path.name: read_predictions(str(path), ["uri", "text", "confidence"]) for path in runs_below(workspace)}
    step = run(workspace, "--steps=compact", f"--date={DAY}")
    figures = step["figures"]
    assert [figures[name] for name in ("runs_before", "runs", "files_before", "files", "rows")] == [3, 2, 3, 2, 13]
    (merged,) = {path.name for path in runs_below(workspace)} - {f"run={BY_BEAM}"}
    (folder,) = (path for path in runs_below(workspace) if path.name == merged)
    rows = read_predictions(str(folder), ["uri", "text", "confidence"])
    assert rows == before[f"run={MERGED}"] + before[f"run={LAST}"]
    manifest = json.loads((folder / "_manifest.json").read_text())
    assert manifest["merged"] == ["r6fe2b4f33637", "r8cab77fb44b2", MERGED, LAST]
    assert [(entry["run_id"], entry["rows"], entry["skipped"]) for entry in manifest["history"]] == [
        ("r6fe2b4f33637", 4, 0),
        ("r8cab77fb44b2", 1, 5),
        (LAST, 2, 6),
    ]
    assert (manifest["matched"], manifest["rows"], manifest["rejects"]) == (8, 7, {"not_an_image": 1})
    assert len(list((workspace / "rejects" / f"date={DAY}" / merged).glob("*.parquet"))) == 1
    assert run(workspace, "--steps=compact", f"--date={DAY}")["reused"]


def test_rows_of_now_and_of_earlier_runs_open_as_one_table_with_and_without_places(workspace):
    run(workspace, "--steps=infer", "--infer_images=dataset:LATEST:test")
    predictions = workspace / "predictions"
    (block,) = (block for block in find_blocks("sql") if block.page == "docs/reading.md")
    with duckdb.connect() as connection:
        assert connection.execute(block.text.replace("'workspace/", f"'{workspace}/")).fetchall()
        newest = connection.sql("select uri, symbol_spans, words from newest_readings")
        assert newest.types[1:] == [
            'STRUCT("start" INTEGER, "end" INTEGER)[]',
            'STRUCT("text" VARCHAR, confidence FLOAT, "start" INTEGER, "end" INTEGER)[]',
        ]
        rows = newest.fetchall()
    assert len(rows) == len({uri for uri, _, _ in rows}) == len(TEXTS) + 3
    assert {uri for uri, spans, _ in rows if spans is None} == {f"{NEW}/{name}.png" for name in TEXTS}
    assert all((spans is None) == (words is None) for _, spans, words in rows)

    parts = pyarrow.dataset.dataset(predictions, partitioning="hive")
    schema = pyarrow.unify_schemas([part.physical_schema for part in parts.get_fragments()] + [parts.schema])
    table = pyarrow.dataset.dataset(predictions, schema=schema, partitioning="hive").to_table()
    places = [(row["text"], row["symbol_spans"], row["words"]) for row in table.to_pylist() if row["words"] is not None]
    assert (table.num_rows, len(places)) == (13 + 3, 3)
    for text, spans, words in places:
        assert len(spans) == len(text)
        assert [word["text"] for word in words] == text.split()
    frame = pd.read_parquet(predictions)  # of the columns of the first run
    assert set(PREDICTIONS_SCHEMA.names) - {"symbol_spans", "words", "accepted", "expected_cer"} <= set(frame.columns)
    assert len(frame) == table.num_rows


def test_a_review_gives_out_what_no_review_did_or_says_that_its_images_are_gone(workspace, capsys):
    figures = run(workspace, "--steps=review")["figures"]
    assert (figures["runs"], figures["dataset_id"]) == (3, DATASET)
    said = capsys.readouterr().out
    if Path(NEW).exists():
        review = json.loads((workspace / "review" / figures["review_id"] / "manifest.json").read_text())
        assert review["given_out"] == [[f"{NEW}/{name}.png", MODEL, "b2"] for name in (5, 6)]
    else:
        assert (figures["images"], figures["unreadable"]) == (0, 2)  # five of the seven were given out before
        assert "2 images that were to be reviewed cannot be read any more" in said


def test_images_that_are_as_they_were_are_skipped_and_changed_ones_are_not(tmp_path):
    same, changed = references_as_stored(), [reference._replace(size_bytes=9) for reference in references_as_stored()]
    assert unread(tmp_path, same, "greedy") == []
    assert unread(tmp_path, changed, "greedy") == [reference.uri for reference in changed]
    assert unread(tmp_path, same, "beam") == [f"{NEW}/6.png"]


def test_the_dataset_grows_by_new_images_from_its_records_alone(workspace, tiny_images, tmp_path):
    images = tmp_path / "lines"
    images.mkdir()
    for path in sorted(tiny_images.iterdir())[:12]:
        shutil.copy(path, images)
    flags = (f"--images={images}", f"--add_to={DATASET}", "--height=32")
    step = run(workspace, "--steps=ingest", *flags)
    figures = step["figures"]
    assert (figures["matched"], figures["kept"], figures["added_to"], figures["rejects"]) == (30, 24, DATASET, {})
    assert (workspace / "datasets" / "LATEST").read_text() == f"{figures['dataset_id']}\n"
    grown = DatasetManifest.read(step["folder"])
    records = [record for shard in grown.shards for record in read_records(f"{step['folder']}/{shard.name}")]
    old = DatasetManifest.read(str(STORED / "datasets" / DATASET))
    kept = [record for shard in old.shards for record in read_records(f"{STORED}/datasets/{DATASET}/{shard.name}")]
    assert len(records) == 30
    assert set(kept) <= set(records)


def runs_below(workspace: Path) -> list[Path]:
    return sorted((workspace / "predictions" / f"date={DAY}").iterdir())


def references_as_stored() -> list[ImageReference]:
    """The eight files as the runs have seen them, sorted by URI."""
    found = {}
    for kind in ("predictions", "rejects"):
        for path in STORED.glob(f"{kind}/*/*/*.parquet"):
            table = pyarrow.parquet.ParquetFile(path).read(["uri", "size_bytes", "modified"])
            for row in table.to_pylist():
                key = f"new/{row['uri'].rpartition('/')[2]}"
                modified_us = round(row["modified"].timestamp() * 1e6)
                found[row["uri"]] = ImageReference(row["uri"], key, row["size_bytes"], modified_us)
    return [found[uri] for uri in sorted(found)]


def unread(tmp_path: Path, references: list[ImageReference], decoder: str) -> list[str]:
    """The URIs that are left of some images, when a decoder is to read them; rejects count for every decoder."""
    listing, left = str(tmp_path / "listing.parquet"), str(tmp_path / "unread.parquet")
    write_references(references, listing, None)
    sources = [Source("listing", listing)]
    for path in STORED.glob("predictions/*/*/_manifest.json"):
        if json.loads(path.read_text())["decoding"][0] == decoder:
            sources += [Source("predictions", str(part)) for part in path.parent.glob("*.parquet")]
    sources += [Source("rejects", str(path)) for path in STORED.glob("rejects/*/*/*.parquet")]
    blocks = [block for source in sources for _, block in list_identities(source, 1, SkipRule(MODEL, 0.0))]
    summary = keep_unread(blocks, left)
    assert summary.listing.images + summary.skipped == len(references)
    return [reference.uri for reference in read_listing(left)] if summary.listing.images else []
