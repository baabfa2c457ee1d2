"""Reading a test split, and the figures, rows and picture of an evaluation."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pyarrow.parquet
import pytest
from apache_beam import Create
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.test_pipeline import TestPipeline as BeamPipeline

from components.evaluation import evaluate
from components.evaluation.evaluate import EvaluationRequest, commit_evaluation, read_test_shard
from components.evaluation.transforms import EvaluateModel
from components.inference.handler import LineModelHandler, Reading
from tfrecords import DataError, DatasetManifest, decode_png, encode_png


@pytest.fixture
def request_of(tiny_dataset, tmp_path) -> EvaluationRequest:
    return EvaluationRequest(str(tiny_dataset), "tinydataset0", "tinymodel000", 4, str(tmp_path / "evaluation"))


def reading(truth: str, text: str, confidence: float, number: int, *, shown: bool = False):
    png = encode_png(np.full((32, 40), number, np.uint8)) if shown else None
    return evaluate.EvaluatedLine(f"{number:03d}.png", truth, text, confidence, png)


def by_width(lines) -> list[Reading]:
    return [Reading(f"w{line.shape[1]}", 0.5, ()) for line in lines]


def test_a_shard_gives_each_line_with_its_truth_and_its_own_reading_sorted_by_uri(request_of, tiny_images):
    manifest = DatasetManifest.read(request_of.dataset_folder)
    readings = read_test_shard(manifest.shards_of("test")[0], request_of, by_width)
    assert [reading.uri for reading in readings] == sorted(reading.uri for reading in readings)
    assert [reading.truth for reading in readings] == ["0", "a11b", "2c3", "bb"]
    for one in readings:
        assert one.png is not None
        assert one.text == f"w{decode_png(one.png).shape[1]}"
        assert not one.right


def test_pixels_are_kept_of_no_more_lines_than_can_be_shown(request_of, monkeypatch):
    monkeypatch.setattr(evaluate, "_SHOWN", 1)
    shard = DatasetManifest.read(request_of.dataset_folder).shards_of("test")[0]
    truths = [line.truth for line in read_test_shard(shard, request_of, by_width)]
    answers = iter(range(4))

    def two_right(lines):
        return [Reading(truths[i] if (i := next(answers)) % 2 else "?", 0.5, ()) for _ in lines]

    # Whatever the order in which widths are scored, at most one right and one wrong line keep their pixels.
    readings = read_test_shard(shard, request_of, two_right)
    for right in (True, False):
        assert sum(line.png is not None for line in readings if line.right == right) <= 1
    assert any(line.png is not None for line in readings)


def test_a_damaged_test_shard_is_refused_by_name(request_of, tmp_path):
    folder = shutil.copytree(request_of.dataset_folder, tmp_path / "dataset")
    shard = DatasetManifest.read(str(folder)).shards_of("test")[0]
    content = (folder / shard.name).read_bytes()
    (folder / shard.name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"test-00000-of-00001\.tfrecord\.gz is damaged"):
        read_test_shard(shard, dataclasses.replace(request_of, dataset_folder=str(folder)), by_width)


def test_figures_and_rows_are_those_of_the_readings(request_of, tmp_path):
    shards = [
        [reading("one two", "one two", 0.95, 2), reading("aab", "ab", 0.85, 0)],
        [reading("33", "33", 0.9, 3), reading("7", "1", 0.1, 1)],
    ]
    commit_evaluation(shards, request_of)
    figures = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    assert figures["dataset_id"] == "tinydataset0"
    assert figures["model_id"] == "tinymodel000"
    assert figures["images"] == 4
    assert figures["cer"] == pytest.approx(2 / 13)
    assert figures["wer"] == pytest.approx(2 / 5)
    assert figures["exact_match"] == pytest.approx(1 / 2)
    assert figures["mean_confidence"] == pytest.approx(2.8 / 4)
    assert figures["expected_calibration_error"] == pytest.approx((0.1 + 0.85 + abs(1.85 - 2)) / 4)
    assert figures["counts"]["symbol_errors"] == 2
    rows = pyarrow.parquet.read_table(tmp_path / "evaluation" / "test_readings.parquet").to_pylist()
    assert [(row["uri"], row["truth"], row["text"], row["symbol_errors"]) for row in rows] == [
        ("000.png", "aab", "ab", 1),
        ("001.png", "7", "1", 1),
        ("002.png", "one two", "one two", 0),
        ("003.png", "33", "33", 0),
    ]


def test_a_lost_reading_is_an_error_and_nothing_is_written(request_of, tmp_path):
    with pytest.raises(RuntimeError, match="has 4 examples, but 3 were read"):
        commit_evaluation([[reading("a", "a", 1, i) for i in range(3)]], request_of)
    assert not (tmp_path / "evaluation").exists()


@pytest.mark.parametrize(
    ("right", "wrong", "shown"), [(20, 20, (8, 8)), (20, 3, (13, 3)), (2, 30, (2, 14)), (1, 1, (1, 1))]
)
def test_picture_shows_sixteen_lines_at_least_half_of_them_wrong(
    request_of, tmp_path, monkeypatch, right, wrong, shown
):
    drawn = []

    def keep(lines, path):
        drawn.extend(truth == text for _, truth, text, _ in lines)
        plot_predictions(lines, path)

    from components import plots

    plot_predictions = plots.plot_predictions
    monkeypatch.setattr(plots, "plot_predictions", keep)
    readings = [reading("a", "a", 1, i, shown=True) for i in range(right)]
    readings += [reading("a", "b", 1, 100 + i, shown=True) for i in range(wrong)]
    commit_evaluation([readings], dataclasses.replace(request_of, examples=right + wrong))
    assert (drawn.count(True), drawn.count(False)) == shown
    assert decode_png((tmp_path / "evaluation" / "predictions.png").read_bytes()).size > 10_000


def test_evaluating_in_beam_reads_what_the_model_reads(request_of, tiny_model, tmp_path):
    shards = DatasetManifest.read(request_of.dataset_folder).shards_of("test")
    with BeamPipeline(runner=FnApiRunner()) as pipeline:
        _ = pipeline | Create(shards) | EvaluateModel(request_of, str(tiny_model))
    handler = LineModelHandler(str(tiny_model))
    model = handler.load_model()
    wanted = read_test_shard(shards[0], request_of, lambda lines: handler.run_inference(lines, model))
    rows = pyarrow.parquet.read_table(tmp_path / "evaluation" / "test_readings.parquet").to_pylist()
    assert [(row["uri"], row["truth"], row["text"]) for row in rows] == [(r.uri, r.truth, r.text) for r in wanted]
    assert json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())["images"] == 4
