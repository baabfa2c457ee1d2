"""Reading a shard of a collection, and committing a run: files, counts, resume, and who can read the result."""

from __future__ import annotations

import dataclasses
import datetime
import json
import select
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import duckdb
import numpy as np
import pandas as pd
import pyarrow.dataset
import pyarrow.parquet
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.test_pipeline import TestPipeline as BeamPipeline
from PIL import Image

from components.counts import Counts
from components.inference import shards as predictions
from components.inference.commit import commit_run
from components.inference.request import InferenceRequest
from components.inference.shards import prepare_recognition, recognise_record_shard, recognise_shard
from components.inference.transforms import RecogniseCollection
from components.listing import ImageReference, list_images, write_listing
from components.predictions.schema import PREDICTIONS_SCHEMA
from components.processes import HelperPool
from components.recogniser.handler import LineModelHandler
from components.recogniser.model import Recognition
from components.rejects import REJECTS_SCHEMA
from tfrecords import DataError, DatasetManifest, ImageLimits, SplitFractions

AT = datetime.datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=datetime.UTC)


@pytest.fixture
def collection(tiny_images, tmp_path) -> Path:
    """The tiny images and, among them, four that cannot be read."""
    folder = shutil.copytree(tiny_images, tmp_path / "images")
    good = (folder / "05-aab1.png").read_bytes()
    (folder / "05-broken.png").write_bytes(good[: len(good) // 2])
    (folder / "07-empty.png").write_bytes(b"")
    (folder / "09-page.png").write_bytes(b"<html>not found</html>")
    (folder / "11-dangling.png").symlink_to(folder / "gone.png")
    return folder


@pytest.fixture
def request_of(tmp_path, tiny_model) -> InferenceRequest:
    return InferenceRequest(
        run_id="rabc123",
        folder=str(tmp_path / "unfinished"),
        destination=str(tmp_path / "predictions" / "date=2026-03-04" / "run=rabc123"),
        rejects_folder=str(tmp_path / "unfinished-rejects"),
        rejects_destination=str(tmp_path / "rejects" / "date=2026-03-04" / "run=rabc123"),
        counts=Counts(matched=28),
        shards=2,
        model_folder=str(tiny_model),
        model_id="tinymodel000",
        height=32,
        limits=ImageLimits(),
        max_reject_fraction=0.2,
        scored_at=AT,
    )


class WidthReader:
    """Reads a line as its width, and keeps how many lines every batch had."""

    def __init__(self):
        self.batches: list[int] = []

    def __call__(self, lines):
        self.batches.append(len(lines))
        return [Recognition(f"w{line.shape[1]}", 0.5, (0.25, 0.75)) for line in lines]


def references_in(folder: Path) -> list[ImageReference]:
    return sorted(list_images(str(folder)), key=lambda reference: reference.key)


def read_all(collection: Path, request: InferenceRequest, read=None):
    references = references_in(collection)
    read = read or WidthReader()
    return [recognise_shard(0, references[:10], request, read), recognise_shard(1, references[10:], request, read)]


def rows_of(*paths: Path) -> list[dict]:
    return [row for path in paths for row in pyarrow.parquet.read_table(path, partitioning=None).to_pylist()]


def test_rows_and_rejects_are_all_images_and_rows_say_what_was_read(collection, request_of, tmp_path):
    first, second = read_all(collection, request_of)
    assert (first.matched, second.matched) == (10, 18)
    assert first.rows + sum(first.rejects.values()) == 10
    assert second.rows + sum(second.rejects.values()) == 18
    assert first.rows + second.rows == 24

    path = tmp_path / "unfinished" / "part-00000-of-00002.parquet"
    assert pyarrow.parquet.read_schema(path).equals(PREDICTIONS_SCHEMA)
    assert first.bytes == path.stat().st_size
    rows = rows_of(path)
    assert [row["uri"] for row in rows] == sorted(row["uri"] for row in rows)
    for row in rows:
        with Image.open(row["uri"]) as image:
            assert (row["width"], row["height"]) == image.size
            assert row["text"] == f"w{round(image.width * 32 / image.height)}"
        source = Path(row["uri"])
        assert row["size_bytes"] == source.stat().st_size
        assert row["modified"].timestamp() == pytest.approx(source.stat().st_mtime, abs=1e-5)
        assert row["symbol_confidences"] == [0.25, 0.75]
        assert row["symbol_spans"] == row["words"] == []
        assert (row["confidence"], row["model_id"], row["run_id"]) == (0.5, "tinymodel000", "rabc123")
        assert row["scored_at"] == AT
    assert first.confidence_sum == pytest.approx(0.5 * len(rows))


def test_a_broken_image_is_rejected_with_its_reason_and_never_fails_its_batch(collection, request_of, tmp_path):
    read_all(collection, request_of)
    rejects = rows_of(*sorted((tmp_path / "unfinished-rejects").iterdir()))
    assert {row["uri"].rpartition("/")[2]: row["reason"] for row in rejects} == {
        "05-broken.png": "truncated",
        "07-empty.png": "empty_file",
        "09-page.png": "not_an_image",
        "11-dangling.png": "unreadable",
    }
    for row in rejects:
        assert (row["step"], row["run_id"], row["at"]) == ("infer", "rabc123", AT)
        assert row["detail"]


def test_an_image_that_vanished_after_it_was_listed_is_a_reject(collection, request_of):
    references = references_in(collection)[:3]
    Path(references[1].uri).unlink()
    summary = recognise_shard(0, references, request_of, WidthReader())
    assert (summary.rows, summary.rejects) == (2, {"unreadable": 1})


def test_a_shard_of_rejects_alone_writes_no_empty_file_of_predictions(collection, request_of, tmp_path):
    broken = [reference for reference in references_in(collection) if "broken" in reference.uri]
    summary = recognise_shard(0, broken, request_of, WidthReader())
    assert (summary.rows, summary.bytes, summary.sha256) == (0, 0, "")
    assert not list((tmp_path / "unfinished").glob("part-*"))


def test_a_finished_shard_is_not_read_again_for_the_same_images(collection, request_of):
    (collection / "11-dangling.png").unlink()
    summaries = read_all(collection, request_of)
    again = WidthReader()
    assert read_all(collection, request_of, again) == summaries
    assert again.batches == []


def test_a_finished_shard_is_read_again_when_one_of_its_images_changed(collection, request_of):
    (collection / "11-dangling.png").unlink()
    read_all(collection, request_of)
    (collection / "00-11.png").write_bytes((collection / "04-b0b.png").read_bytes())
    again = WidthReader()
    first, _ = read_all(collection, request_of, again)
    assert sum(again.batches) == first.rows  # the first shard, and not the second


@pytest.mark.parametrize(
    "lost", ["part-00000-of-00002.parquet", "../unfinished-rejects/rejects-00000-of-00002.parquet"]
)
def test_a_finished_shard_whose_file_is_gone_is_read_again(collection, request_of, tmp_path, lost):
    summaries = read_all(collection, request_of)
    (tmp_path / "unfinished" / lost).unlink()
    assert read_all(collection, request_of) == summaries
    assert (tmp_path / "unfinished" / lost).exists()


def test_reading_a_shard_twice_gives_the_same_bytes(collection, request_of, tmp_path):
    first = read_all(collection, request_of)
    shutil.rmtree(tmp_path / "unfinished")
    assert read_all(collection, request_of) == first


def test_a_committed_run_has_its_files_its_manifest_and_its_rejects_apart(collection, request_of, tmp_path):
    summaries = read_all(collection, request_of)
    commit_run(reversed(summaries), request_of)
    folder = Path(request_of.destination)
    assert sorted(path.name for path in folder.iterdir()) == [
        "_manifest.json",
        "part-00000-of-00002.parquet",
        "part-00001-of-00002.parquet",
    ]
    manifest = json.loads((folder / "_manifest.json").read_text())
    assert (manifest["matched"], manifest["rows"]) == (28, 24)
    assert manifest["rejects"] == {"empty_file": 1, "not_an_image": 1, "truncated": 1, "unreadable": 1}
    assert manifest["mean_confidence"] == pytest.approx(0.5)
    assert manifest["run_id"] == "rabc123"
    assert manifest["model_id"] == "tinymodel000"
    for name, entry in manifest["files"].items():
        assert entry["bytes"] == (folder / name).stat().st_size
        assert entry["rows"] == len(rows_of(folder / name))
    rejects = sorted(Path(request_of.rejects_destination).iterdir())
    assert len(rows_of(*rejects)) == 4
    assert all(pyarrow.parquet.read_schema(path).equals(REJECTS_SCHEMA) for path in rejects)
    assert not (tmp_path / "unfinished").exists()


def test_two_nights_are_one_hive_table_for_duckdb_pandas_and_arrow(collection, request_of, tmp_path):
    commit_run(read_all(collection, request_of), request_of)
    later = dataclasses.replace(
        request_of,
        run_id="rdef456",
        destination=str(tmp_path / "predictions" / "date=2026-03-05" / "run=rdef456"),
        rejects_destination=str(tmp_path / "rejects" / "date=2026-03-05" / "run=rdef456"),
    )
    commit_run(read_all(collection, later), later)

    pattern = tmp_path / "predictions" / "**" / "*.parquet"
    rows = duckdb.sql(
        f"select date::varchar, run, run_id, count(*), count(distinct uri), min(width), "
        f"typeof(any_value(scored_at)), typeof(any_value(symbol_confidences)), typeof(any_value(symbol_spans)) "
        f"from read_parquet('{pattern}', hive_partitioning = true) group by 1, 2, 3 order by 1"
    ).fetchall()
    widths = [row["width"] for row in rows_of(*Path(request_of.destination).glob("*.parquet"))]
    types = ("TIMESTAMP WITH TIME ZONE", "FLOAT[]", 'STRUCT("start" INTEGER, "end" INTEGER)[]')
    assert rows == [
        ("2026-03-04", "rabc123", "rabc123", 24, 24, min(widths), *types),
        ("2026-03-05", "rdef456", "rdef456", 24, 24, min(widths), *types),
    ]

    frame = pd.read_parquet(tmp_path / "predictions")
    assert len(frame) == 48
    assert set(frame["run"].astype(str)) == {"rabc123", "rdef456"}
    assert (frame["text"].str[0] == "w").all()
    assert str(frame["scored_at"].dtype) == "datetime64[us, UTC]"
    assert len(pd.read_parquet(tmp_path / "rejects")) == 8

    table = pyarrow.dataset.dataset(tmp_path / "predictions", partitioning="hive").to_table()
    assert table.num_rows == 48
    assert set(table.column("date").to_pylist()) == {"2026-03-04", "2026-03-05"}
    assert [table.schema.field(field.name).type for field in PREDICTIONS_SCHEMA] == PREDICTIONS_SCHEMA.types


def test_too_many_rejects_refuse_the_run_and_commit_nothing(collection, request_of, tmp_path):
    strict = dataclasses.replace(request_of, max_reject_fraction=0.1)
    summaries = read_all(collection, strict)
    commit_run(summaries, strict)
    refused = json.loads((tmp_path / "unfinished" / "refused.json").read_text())["reason"]
    assert refused.startswith("4 of 28 images (14.3%) were rejected")
    assert "--max_reject_fraction=0.1" in refused
    assert not Path(strict.destination).exists()
    assert not Path(strict.rejects_destination).exists()

    # With more allowed, the same shards are committed, and the refusal is gone.
    commit_run(read_all(collection, request_of), request_of)
    assert not (Path(request_of.destination) / "refused.json").exists()
    assert len(rows_of(*Path(request_of.destination).glob("*.parquet"))) == 24


def test_exactly_the_allowed_fraction_of_rejects_is_committed(collection, request_of):
    exact = dataclasses.replace(request_of, max_reject_fraction=4 / 28)
    commit_run(read_all(collection, exact), exact)
    assert Path(exact.destination).exists()


@pytest.mark.parametrize("changes", [{"matched": 9}, {"rows": 7}, {"rows": 100}])
def test_a_lost_or_doubled_image_is_an_error_and_nothing_is_committed(collection, request_of, changes):
    first, second = read_all(collection, request_of)
    with pytest.raises(RuntimeError, match="an image was lost or doubled"):
        commit_run([dataclasses.replace(first, **changes), second], request_of)
    assert not Path(request_of.destination).exists()


def test_a_lost_shard_is_an_error(collection, request_of):
    with pytest.raises(RuntimeError, match="28 images were listed, 18 reached a shard"):
        commit_run(read_all(collection, request_of)[1:], request_of)


def test_files_of_an_older_attempt_are_not_committed(collection, request_of, tmp_path):
    summaries = read_all(collection, request_of)
    shutil.copy(
        tmp_path / "unfinished" / "part-00000-of-00002.parquet", tmp_path / "unfinished" / "part-00002-of-00003.parquet"
    )
    commit_run(summaries, request_of)
    assert len(list(Path(request_of.destination).glob("*.parquet"))) == 2


def test_a_commit_that_an_engine_repeats_leaves_the_run_whole_and_finishes_the_rejects(collection, request_of):
    summaries = [
        recognise_shard(0, references_in(collection), dataclasses.replace(request_of, shards=1), WidthReader())
    ]
    request = dataclasses.replace(request_of, shards=1)
    commit_run(summaries, request)
    wanted = sorted(path.name for path in Path(request.destination).iterdir())
    shutil.move(request.rejects_destination, request.rejects_folder)  # as if killed between the two moves
    commit_run(summaries, request)
    assert sorted(path.name for path in Path(request.destination).iterdir()) == wanted
    assert len(rows_of(*Path(request.rejects_destination).iterdir())) == 4


def test_a_run_without_rejects_leaves_no_folder_of_rejects(tiny_images, request_of):
    request = dataclasses.replace(request_of, counts=Counts(matched=24))
    commit_run(read_all(tiny_images, request), request)
    assert not Path(request.rejects_destination).exists()


def test_a_collection_read_in_beam_gives_what_the_model_reads_and_counts_every_image(collection, request_of, tmp_path):
    listing = str(tmp_path / "listing.parquet")
    write_listing([str(collection)], listing, None, SplitFractions())
    pipeline = BeamPipeline(runner=FnApiRunner())
    _ = pipeline | beam.Create([listing]) | RecogniseCollection(request_of)
    result = pipeline.run()
    result.wait_until_finish()
    counters = {
        counter.key.metric.name: counter.result
        for counter in result.metrics().query(beam.metrics.MetricsFilter().with_namespace("infer"))["counters"]
    }
    assert counters["images-matched"] == 28
    assert counters["images-read"] == 24
    assert counters["images-rejected"] == 4
    files = list(Path(request_of.destination).glob("*.parquet"))
    assert counters["bytes-written"] == sum(path.stat().st_size for path in files)

    handler = LineModelHandler(request_of.model_folder)
    model = handler.load_model()
    read_all(collection, request_of, lambda lines: handler.run_inference(lines, model))
    wanted = {row["uri"]: row["text"] for row in rows_of(*(tmp_path / "unfinished").glob("*.parquet"))}
    found = {row["uri"]: row["text"] for row in rows_of(*files)}
    assert found == wanted
    assert len({text for text in found.values() if text}) > 10


def test_a_row_does_not_depend_on_the_other_images_of_its_shard(collection, request_of, tmp_path):
    handler = LineModelHandler(request_of.model_folder)
    model = handler.load_model()
    references = references_in(collection)

    def texts(chosen) -> dict[str, str]:
        shutil.rmtree(tmp_path / "unfinished", ignore_errors=True)
        recognise_shard(0, chosen, request_of, lambda lines: handler.run_inference(lines, model))
        return {row["uri"]: row["text"] for row in rows_of(tmp_path / "unfinished" / "part-00000-of-00002.parquet")}

    assert texts(references[::2]).items() < texts(references).items()


def test_rows_have_the_places_of_symbols_and_words_in_pixels_of_the_image(collection, request_of, tmp_path):
    recogniser = request_of.reader("onnx").load()
    recognise_shard(0, references_in(collection), request_of, recogniser.recognise_lines)
    rows = rows_of(tmp_path / "unfinished" / "part-00000-of-00002.parquet")
    assert any(row["height"] != request_of.height for row in rows)
    for row, found in zip(rows, recogniser.recognise([row["uri"] for row in rows]), strict=True):
        assert row["text"] == found.text
        assert [(span["start"], span["end"]) for span in row["symbol_spans"]] == list(found.symbol_spans)
        assert [word["text"] for word in row["words"]] == found.text.split()
        for word, wanted in zip(row["words"], found.words, strict=True):
            assert (word["start"], word["end"]) == (wanted.start, wanted.end)
            assert word["confidence"] == pytest.approx(wanted.confidence, rel=1e-3)
            assert 0 <= word["start"] < word["end"] <= row["width"]
    assert sum(len(row["words"]) for row in rows) > 15


@pytest.fixture
def small_chunks(monkeypatch) -> Iterator[HelperPool]:
    """A job's helper processes, which are worth calling for 5 images."""
    monkeypatch.setattr(predictions, "_CHUNK", 5)
    monkeypatch.setattr(predictions, "_LEAST_CHUNK", 2)
    with HelperPool.open_for_job() as helpers:
        yield helpers


def nobody(lines):
    raise AssertionError("this process scores nothing")


ONNX = {"engine": "onnx", "why": "faster on a CPU", "model_load_s": 0.1}


@pytest.mark.parametrize("prepared", [False, True])
def test_helper_processes_read_what_this_process_reads(collection, request_of, tmp_path, small_chunks, prepared):
    references = references_in(collection)
    part, rejected = "part-00000-of-00002.parquet", "rejects-00000-of-00002.parquet"
    alone = recognise_shard(0, references, request_of, request_of.reader("onnx").load().recognise_lines)
    wanted = rows_of(tmp_path / "unfinished" / part), rows_of(tmp_path / "unfinished-rejects" / rejected)
    for folder in ("unfinished", "unfinished-rejects"):
        shutil.rmtree(tmp_path / folder)
    while small_chunks._idle:  # it has no model
        small_chunks._idle.pop().end()

    folder = shutil.copytree(request_of.model_folder, tmp_path / "model")
    helped = dataclasses.replace(request_of, processes=2, model_folder=str(folder))
    if prepared:
        prepare_recognition(helped, small_chunks)
        assert len(small_chunks._prepared) == 2
        for helper in small_chunks._prepared:
            assert select.select([helper._process.stdout], [], [], 60)[0]
        shutil.rmtree(folder)  # it is loaded, once for all chunks
    summary = recognise_shard(0, references, helped, nobody, ONNX)
    assert small_chunks.has_helpers
    found = rows_of(tmp_path / "unfinished" / part), rows_of(tmp_path / "unfinished-rejects" / rejected)
    assert [(row["uri"], row["text"]) for row in found[0]] == [(row["uri"], row["text"]) for row in wanted[0]]
    for one, other in zip(found[0], wanted[0], strict=True):
        assert one["confidence"] == pytest.approx(other["confidence"], rel=1e-4)
        assert one["symbol_confidences"] == pytest.approx(other["symbol_confidences"], rel=1e-4)
        assert (one["symbol_spans"], len(one["words"])) == (other["symbol_spans"], len(other["words"]))
    assert found[1] == wanted[1]
    assert (summary.matched, summary.rows, summary.rejects) == (alone.matched, alone.rows, alone.rejects)
    assert summary.figures["batches"] >= 6
    assert 0 < summary.figures["slowest_batch_s"] <= summary.figures["scoring_s"]
    assert summary.figures["engine"] == "onnx"


def test_helper_processes_read_the_records_of_a_dataset_too(request_of, tmp_path, small_chunks, tiny_dataset):
    shard = DatasetManifest.read(str(tiny_dataset)).shards_of("train")[0]
    assert shard.examples > 5
    part = tmp_path / "unfinished" / "part-00000-of-00002.parquet"
    where = (0, shard, str(tiny_dataset), AT)
    recognise_record_shard(*where, request_of, request_of.reader("onnx").load().recognise_lines)
    wanted = rows_of(part)
    shutil.rmtree(tmp_path / "unfinished")
    summary = recognise_record_shard(*where, dataclasses.replace(request_of, processes=2), nobody, ONNX)
    assert summary.rows == shard.examples == len(wanted)
    assert [(row["uri"], row["text"]) for row in rows_of(part)] == [(row["uri"], row["text"]) for row in wanted]
    for row in wanted:
        assert len(row["symbol_spans"]) == len(row["text"])
        assert all(span["end"] <= row["width"] for span in row["symbol_spans"]), "of the line as it is stored"


@pytest.mark.parametrize(
    ("images", "available", "helpers"), [(31, 2, 1), (63, 2, 1), (64, 2, 2), (96, 4, 3), (250, 32, 7), (9000, 1, 1)]
)
def test_few_images_are_read_by_few_helpers_or_none(images, available, helpers):
    assert predictions._choose_helpers(images, available) == helpers


def test_a_small_shard_is_recognised_by_this_process_and_one_helper_decodes_it(collection, request_of):
    read, helped = WidthReader(), dataclasses.replace(request_of, processes=2)
    with HelperPool.open_for_job() as helpers:
        prepare_recognition(helped, helpers)
        summary = recognise_shard(0, references_in(collection), helped, read, ONNX)
        assert summary.rows == sum(read.batches) == 24
        assert len(helpers._idle) == 1


def test_an_error_of_this_process_stops_the_helpers_that_decode_ahead(request_of, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    Image.fromarray(np.full((32, 60), 255, np.uint8)).save(folder / "0000.png")
    for number in range(1, 2000):
        (folder / f"{number:04d}.png").hardlink_to(folder / "0000.png")
    with HelperPool.open_for_job() as helpers:
        with pytest.raises(AssertionError, match="scores nothing") as error:
            recognise_shard(0, references_in(folder), dataclasses.replace(request_of, processes=2), nobody)
        assert helpers.has_helpers
    time.sleep(0.5)
    assert error.value is not None  # and with it all that its traceback holds
    assert not helpers.has_helpers


def test_what_an_attempt_rejected_that_was_stopped_is_not_among_the_rejects(collection, request_of, tmp_path):
    bad = ("broken", "empty", "page", "dangling")
    good = [each for each in references_in(collection) if not any(name in each.uri for name in bad)]
    victim = Path(good[3].uri)
    away = victim.rename(tmp_path / "away.png")
    request = dataclasses.replace(request_of, shards=1, counts=Counts(matched=len(good)))
    first = recognise_shard(0, good, request, WidthReader())
    assert first.rejects == {"unreadable": 1}
    Path(request.folder, "_summaries", "00000.json").unlink()
    (Path(request.rejects_folder) / "rejects-00007-of-00009.parquet").write_bytes(b"of a worker that was killed")
    away.rename(victim)
    commit_run([recognise_shard(0, good, request, WidthReader())], request)
    assert not list(Path(request.rejects_destination).glob("*"))
    assert json.loads(Path(request.destination, "_manifest.json").read_text())["rejects"] == {}


def test_tensorflow_is_left_to_this_process(collection, request_of, small_chunks):
    read = WidthReader()
    helped = dataclasses.replace(request_of, processes=2)
    summary = recognise_shard(0, references_in(collection), helped, read, {**ONNX, "engine": "tensorflow"})
    assert summary.rows == sum(read.batches) == 24


def test_a_model_that_was_damaged_is_named_by_a_helper_too(collection, request_of, tiny_model, tmp_path, small_chunks):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "model.onnx").write_bytes(b"not what it was")
    damaged = dataclasses.replace(request_of, model_folder=str(folder), processes=2)
    prepare_recognition(damaged, small_chunks)
    with pytest.raises(DataError, match=r"model\.onnx"):
        recognise_shard(0, references_in(collection), damaged, nobody, ONNX)


def test_threads_keep_the_order_of_many_images(request_of, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(300):
        Image.fromarray(np.full((32, 4 + number), 255, np.uint8)).save(folder / f"{number:03d}.png")
    summary = recognise_shard(0, references_in(folder), request_of, WidthReader())
    assert summary.rows == 300
    rows = rows_of(tmp_path / "unfinished" / "part-00000-of-00002.parquet")
    assert [row["text"] for row in rows] == [f"w{4 + number}" for number in range(300)]
