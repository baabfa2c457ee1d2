"""Reading a test split, and the figures, rows and pictures of an evaluation."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet
import pytest
from apache_beam import Create
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.test_pipeline import TestPipeline as BeamPipeline

from components.evaluation import plots
from components.evaluation.evaluate import (
    EvaluatedShard,
    EvaluationRequest,
    commit_evaluation,
    compare_cer,
    read_line_counts,
    recognise_test_shard,
)
from components.evaluation.transforms import EvaluateModel
from components.metrics import ErrorCounts
from components.recogniser.handler import LineModelHandler
from components.recogniser.model import Recognition
from tfrecords import (
    DataError,
    DatasetManifest,
    LineExample,
    ShardEntry,
    decode_png,
    encode_example,
    encode_png,
    write_records,
)

PICTURES = {
    *("predictions.png", "worst_lines.png", "confusions.png"),
    *("accuracy_by_length.png", "calibration.png", "acceptance.png"),
}


@pytest.fixture
def request_of(tiny_dataset, tmp_path) -> EvaluationRequest:
    return EvaluationRequest(str(tiny_dataset), "tinydataset0", "tinymodel000", 4, str(tmp_path / "evaluation"))


def shard_of(request: EvaluationRequest, lines: list[tuple[str, str, str, float]], index: int = 0) -> EvaluatedShard:
    """A test shard of lines, each given as URI, truth, what is read on it, and with which confidence."""
    folder = Path(request.dataset_folder)
    name = f"test-{index:05d}-of-00002.tfrecord.gz"
    # The number of a line is in its pixels, so that readings in any order find their line.
    records = [
        encode_example(LineExample(encode_png(np.full((32, 40), number, np.uint8)), 40, (0,), truth, uri))
        for number, (uri, truth, _, _) in enumerate(lines)
    ]
    write_records(str(folder / name), records)
    readings = [Recognition(text, confidence, ()) for _, _, text, confidence in lines]
    return recognise_test_shard(
        ShardEntry(name, "test", len(lines), 0, ""), request, lambda batch: [readings[pixels[0, 0]] for pixels in batch]
    )


@pytest.fixture
def own_request(tmp_path) -> EvaluationRequest:
    """For shards that a test makes itself."""
    (tmp_path / "dataset").mkdir()
    return EvaluationRequest(str(tmp_path / "dataset"), "dataset", "model", 4, str(tmp_path / "evaluation"))


def figures_of(request: EvaluationRequest) -> dict:
    return json.loads((Path(request.folder) / "evaluation.json").read_text())


def rows_of(request: EvaluationRequest, what: str = "*") -> list[tuple]:
    return duckdb.sql(f"select {what} from '{request.folder}/readings-*.parquet' order by uri").fetchall()


def by_width(lines) -> list[Recognition]:
    return [Recognition(f"w{line.shape[1]}", 0.5, ()) for line in lines]


def test_a_shard_gives_each_line_with_its_truth_and_its_own_reading_in_the_order_of_its_records(request_of):
    shard = DatasetManifest.read(request_of.dataset_folder).shards_of("test")[0]
    readings = recognise_test_shard(shard, request_of, by_width)
    assert readings.name == "readings-00000-of-00001.parquet"
    path = Path(request_of.folder) / readings.name
    assert readings.bytes == path.stat().st_size
    rows = pyarrow.parquet.read_table(path).to_pylist()
    assert [row["truth"] for row in rows] == ["0", "a11b", "2c3", "bb"]
    assert readings.rows == len(rows)
    widths = {line.uri: line.pixels.shape[1] for line in readings.candidates}
    for row in rows:
        counts = ErrorCounts.from_texts(row["truth"], row["text"])
        assert row["text"] == f"w{widths[row['uri']]}"
        assert row["confidence"] == 0.5
        assert (row["symbols"], row["symbol_errors"]) == (counts.symbols, counts.symbol_errors)
        assert (row["words"], row["word_errors"]) == (counts.words, counts.word_errors)
        assert row["group"] is None


def test_pixels_are_kept_of_no_more_lines_than_can_be_shown(own_request):
    lines = [(f"{i:03d}.png", "abcd", "abcd" if i % 2 else "abcd"[: i % 5], 0.5) for i in range(200)]
    candidates = shard_of(own_request, lines).candidates
    assert sum(line.right for line in candidates) == 16
    assert len(candidates) <= 16 + 16 + 12
    assert sum(line.symbol_errors == 4 for line in candidates) >= 12
    assert len({line.uri for line in candidates}) == len(candidates)


def test_a_damaged_test_shard_is_refused_by_name(request_of, tmp_path):
    folder = shutil.copytree(request_of.dataset_folder, tmp_path / "dataset")
    shard = DatasetManifest.read(str(folder)).shards_of("test")[0]
    content = (folder / shard.name).read_bytes()
    (folder / shard.name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"test-00000-of-00001\.tfrecord\.gz is damaged"):
        recognise_test_shard(shard, dataclasses.replace(request_of, dataset_folder=str(folder)), by_width)


def test_figures_rows_and_confusions_are_those_of_the_readings(own_request):
    first = shard_of(own_request, [("2.png", "one two", "one two", 0.95), ("0.png", "aab", "ab", 0.85)])
    second = shard_of(own_request, [("3.png", "33", "33", 0.9), ("1.png", "7", "1", 0.1)], index=1)
    commit_evaluation([second, first], own_request)
    figures = figures_of(own_request)
    assert figures["dataset_id"] == "dataset"
    assert figures["model_id"] == "model"
    assert figures["images"] == 4
    assert figures["cer"] == pytest.approx(2 / 13)
    assert figures["wer"] == pytest.approx(2 / 5)
    assert figures["exact_match"] == pytest.approx(1 / 2)
    assert figures["mean_confidence"] == pytest.approx(2.8 / 4)
    assert figures["expected_calibration_error"] == pytest.approx((0.1 + 0.85 + abs(1.85 - 2)) / 4)
    assert figures["counts"]["symbol_errors"] == 2
    for rate in ("cer", "wer", "exact_match"):
        low, high = figures["intervals"][rate]
        assert low < figures[rate] < high
    assert figures["resampled"] == {"units": "lines", "count": 4, "level": 0.95, "resamples": 2000, "note": ""}
    assert [(bucket["from"], bucket["images"], bucket["cer"]) for bucket in figures["by_length"]] == [
        (1, 1, 1),
        (2, 1, 0),
        (3, 1, pytest.approx(1 / 3)),
        (7, 1, 0),
    ]
    assert [bucket["images"] for bucket in figures["by_confidence"]] == [1, 1, 2]
    assert rows_of(own_request, "uri, truth, text, symbol_errors, words, word_errors") == [
        ("0.png", "aab", "ab", 1, 1, 1),
        ("1.png", "7", "1", 1, 1, 1),
        ("2.png", "one two", "one two", 0, 2, 0),
        ("3.png", "33", "33", 0, 1, 0),
    ]
    confusions = pyarrow.parquet.read_table(Path(own_request.folder) / "confusions.parquet").to_pylist()
    assert [(row["truth"], row["read"], row["count"], row["truth_count"], row["examples"]) for row in confusions] == [
        ("7", "1", 1, 1, ["1.png"]),
        ("a", "", 1, 2, ["0.png"]),
    ]
    names = {path.name for path in Path(own_request.folder).iterdir()}
    assert names == {
        "evaluation.json",
        "readings-00000-of-00002.parquet",
        "readings-00001-of-00002.parquet",
        "confusions.parquet",
        "worst_lines.parquet",
        *PICTURES,
    }
    for name in PICTURES:
        assert decode_png((Path(own_request.folder) / name).read_bytes()).size > 10_000


def test_the_same_readings_give_the_same_files_in_any_order_of_shards(own_request, tmp_path):
    lines = [(f"{i}.png", "abc d", "abc d"[: i % 6], i / 20) for i in range(20)]
    contents = []
    for number, order in enumerate([(0, 1), (1, 0)]):
        request = dataclasses.replace(own_request, examples=20, folder=str(tmp_path / f"evaluation-{number}"))
        shards = {part: shard_of(request, lines[10 * part : 10 * part + 10], part) for part in order}
        commit_evaluation([shards[part] for part in order], request)
        contents.append({path.name: path.read_bytes() for path in Path(request.folder).iterdir()})
    assert contents[0] == contents[1]


def test_a_lost_reading_is_an_error_and_there_is_no_evaluation(own_request):
    shard = shard_of(own_request, [(f"{i}.png", "a", "a", 1.0) for i in range(3)])
    with pytest.raises(RuntimeError, match="has 4 examples, but 3 were read"):
        commit_evaluation([shard], own_request)
    assert not (Path(own_request.folder) / "evaluation.json").exists()


def test_a_lost_file_is_an_error_and_there_is_no_evaluation(own_request):
    shard = shard_of(own_request, [(f"{i}.png", "a", "a", 1.0) for i in range(4)])
    (Path(own_request.folder) / shard.name).unlink()
    with pytest.raises(RuntimeError, match="is missing: do all workers share the workspace"):
        commit_evaluation([shard], own_request)
    assert not (Path(own_request.folder) / "evaluation.json").exists()


@pytest.mark.parametrize(
    ("right", "wrong", "shown"), [(20, 20, (8, 8)), (20, 3, (13, 3)), (2, 30, (2, 14)), (1, 1, (1, 1))]
)
def test_picture_shows_sixteen_lines_at_least_half_of_them_wrong(own_request, monkeypatch, right, wrong, shown):
    drawn = []

    def keep(lines, path):
        drawn.extend(line.right for line in lines)
        plot_predictions(lines, path)

    plot_predictions = plots.plot_predictions
    monkeypatch.setattr(plots, "plot_predictions", keep)
    lines = [(f"{i}.png", "a", "a" if i < right else "b", 1.0) for i in range(right + wrong)]
    request = dataclasses.replace(own_request, examples=right + wrong)
    commit_evaluation([shard_of(request, lines)], request)
    assert (drawn.count(True), drawn.count(False)) == shown


def test_the_worst_lines_have_the_most_errors_for_their_length(own_request):
    lines = [("long.png", "x" * 100, "x" * 60, 0.5), ("nothing.png", "abc", "", 0.5), ("right.png", "a", "a", 0.5)]
    lines += [("more.png", "ab", "abcde", 0.5), ("longer.png", "abcd", "", 0.5)]
    request = dataclasses.replace(own_request, examples=5)
    commit_evaluation([shard_of(request, lines)], request)
    worst = pyarrow.parquet.read_table(Path(request.folder) / "worst_lines.parquet").to_pylist()
    assert [row["uri"] for row in worst] == ["more.png", "longer.png", "nothing.png", "long.png"]
    assert [row["symbol_errors"] for row in worst] == [3, 4, 3, 40]
    assert decode_png(worst[0]["image"])[0, 0] == 3


GROUPED = [
    ("/in/books/a/1.png", "ab", "ab", 1.0),
    ("/in/books/a/deep/2.png", "ab", "xx", 1.0),
    ("/in/books/b/3.png", "ab", "ab", 1.0),
    ("/in/books/4.png", "ab", "ab", 1.0),
]


def test_groups_of_a_dataset_that_is_split_by_folder_are_resampled_whole(own_request):
    groups = {"books/a": 2, "books/b": 1, "books": 1}
    request = dataclasses.replace(own_request, split_by="folder", groups=groups)
    commit_evaluation([shard_of(request, GROUPED)], request)
    figures = figures_of(request)
    assert (figures["resampled"]["units"], figures["resampled"]["count"]) == ("groups", 3)
    assert figures["resampled"]["note"].startswith("intervals over so few groups as 3 are too narrow")
    assert [row[0] for row in rows_of(request, '"group"')] == ["books", "books/a", "books/a", "books/b"]


def test_many_groups_are_enough(own_request):
    lines = [(f"/in/{i}/line.png", "ab", "ab", 1.0) for i in range(20)]
    request = dataclasses.replace(own_request, examples=20, split_by="folder", groups={str(i): 1 for i in range(20)})
    commit_evaluation([shard_of(request, lines)], request)
    resampled = figures_of(request)["resampled"]
    assert (resampled["units"], resampled["count"], resampled["note"]) == ("groups", 20, "")


@pytest.mark.parametrize(
    ("split_by", "groups", "note"),
    [
        ("folder", {"books/a": 1, "books/b": 2, "books": 1}, "cannot be told from their URIs"),
        ("writer", {"anna": 2, "bert": 2}, "split by writer, but the groups of its lines cannot be told"),
        ("folder", {}, "cannot be told from their URIs"),
        ("folder", {"in": 4}, "all lines are of one group"),
    ],
)
def test_lines_are_resampled_and_it_is_said_where_groups_are_not_known(own_request, split_by, groups, note):
    request = dataclasses.replace(own_request, split_by=split_by, groups=groups)
    commit_evaluation([shard_of(request, GROUPED)], request)
    resampled = figures_of(request)["resampled"]
    assert (resampled["units"], resampled["count"]) == ("lines", 4)
    assert note in resampled["note"]


def test_two_models_are_compared_on_the_same_lines(own_request, tmp_path):
    lines = [(f"{i}.png", "abcde", "abcde" if i % 3 else "abcxx", 0.5) for i in range(40)]
    folders, figures = [], []
    for number in range(2):
        request = dataclasses.replace(own_request, examples=40, folder=str(tmp_path / f"evaluation-{number}"))
        worse = [(uri, truth, f"y{text[1:]}" if number else text, 0.5) for uri, truth, text, _ in lines]
        commit_evaluation([shard_of(request, worse)], request)
        folders.append(request.folder)
        figures.append(figures_of(request))
    difference = compare_cer(folders[1], folders[0], figures[1])
    assert difference["cer"] == pytest.approx(figures[1]["cer"] - figures[0]["cer"]) == pytest.approx(0.2)
    assert difference["interval"] == pytest.approx((0.2, 0.2))  # every line has one error more


def test_counts_read_back_are_those_of_each_line(own_request):
    shard_of(own_request, [("2.png", "one two", "one tow", 0.75), ("0.png", "aab", "aab", 0.25)])
    lines, groups = read_line_counts(own_request.folder)
    assert groups.to_pylist() == [None, None]
    assert lines.counts.tolist() == [[1, 0, 7, 2, 2, 1], [1, 1, 3, 0, 1, 0]]
    assert lines.confidences.tolist() == [0.75, 0.25]


def test_evaluating_in_beam_reads_what_the_model_reads(request_of, tiny_model, tmp_path):
    shards = DatasetManifest.read(request_of.dataset_folder).shards_of("test")
    pipeline = BeamPipeline(runner=FnApiRunner())
    _ = pipeline | Create(shards) | EvaluateModel(request_of, LineModelHandler(str(tiny_model)))
    result = pipeline.run()
    result.wait_until_finish()
    counted = {
        counter.key.metric.name: counter.result
        for counter in result.metrics().query()["counters"]
        if counter.key.metric.namespace == "evaluate"
    }
    handler = LineModelHandler(str(tiny_model))
    model = handler.load_model()
    wanted = dataclasses.replace(request_of, folder=str(tmp_path / "wanted"))
    recognise_test_shard(shards[0], wanted, lambda lines: handler.run_inference(lines, model))
    assert rows_of(request_of) == rows_of(wanted)
    assert len(rows_of(request_of)) == 4
    assert figures_of(request_of)["images"] == 4
    (path,) = Path(request_of.folder).glob("readings-*")
    assert counted == {"lines-read": 4, "bytes-written": path.stat().st_size}


def test_empty_labels_count_by_what_is_read_on_them_and_are_drawn_among_the_worst(own_request):
    lines = [
        ("a.png", "", "", 0.9),
        ("b.png", "", "xyz", 0.4),
        ("c.png", "abcd", "abcd", 0.9),
        ("d.png", "ab", "", 0.5),
    ]
    commit_evaluation([shard_of(own_request, lines)], own_request)
    figures = figures_of(own_request)
    assert figures["counts"] == dataclasses.asdict(ErrorCounts(4, 2, 6, 5, 2, 2))
    assert figures["cer"] == pytest.approx(5 / 6)
    assert [(row["from"], row["images"], row["exact_match"]) for row in figures["by_length"]] == [
        *((0, 2, 0.5), (2, 1, 0), (4, 1, 1))
    ]
    worst = pyarrow.parquet.read_table(Path(own_request.folder) / "worst_lines.parquet").to_pylist()
    assert [(row["uri"], row["symbol_errors"]) for row in worst] == [("b.png", 3), ("d.png", 2)]
    assert {path.name for path in Path(own_request.folder).glob("*.png")} == PICTURES
