"""Which readings are given to a person first."""

import datetime
import pathlib
import random

import numpy as np
import pyarrow
import pyarrow.parquet

from components.predictions.schema import PREDICTIONS_SCHEMA
from components.review.selection import count_doubtful, find_least_confident, read_details
from tfrecords import LineExample, encode_example, write_records

NIGHT = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)


def put(path: pathlib.Path, rows: list[tuple[str, float]], night: int = 0, *, group_rows: int = 3, **changes) -> str:
    """Writes predictions of one night as the infer step does."""
    values = [
        {
            "uri": uri,
            "text": f"text {night} of {uri}",
            "confidence": confidence,
            "symbol_confidences": [confidence, 1.0],
            "alternatives": [{"text": f"other of {uri}", "log_probability": -1.0}],
            "width": 1,
            "height": 1,
            "size_bytes": 1,
            "modified": NIGHT,
            "model_id": "m",
            "run_id": f"r{night}",
            "scored_at": NIGHT + datetime.timedelta(days=night),
            "needs_review": False,
            **changes,
        }
        for uri, confidence in rows
    ]
    table = pyarrow.Table.from_pylist(values, PREDICTIONS_SCHEMA)
    pyarrow.parquet.write_table(table, path, row_group_size=group_rows)
    return str(path)


def found(files, *datasets: str, **how) -> list[tuple[str, str]]:
    return [(reading.uri, reading.run_id) for reading in find_least_confident(files, datasets, **how)]


def test_the_least_confident_come_first_then_the_first_uri(tmp_path):
    file = put(tmp_path / "a", [("d", 0.5), ("b", 0.25), ("é", 0.25), ("a", 0.75), ("c", 0.25)])
    assert [uri for uri, _ in found([file])] == ["b", "c", "é", "d", "a"]


def test_of_several_readings_of_an_image_the_newest_counts_whatever_the_order_of_the_files(tmp_path):
    first = put(tmp_path / "a", [("sure now", 0.1), ("unsure now", 0.9), ("gone", 0.5)])
    second = put(tmp_path / "b", [("sure now", 0.95), ("unsure now", 0.2), ("new", 0.3)], night=1)
    expected = [("unsure now", "r1"), ("new", "r1"), ("gone", "r0"), ("sure now", "r1")]
    assert found([first, second]) == found([second, first]) == expected


def test_doubtful_are_the_images_whose_newest_reading_is_below_a_confidence(tmp_path):
    first = put(tmp_path / "a", [("sure now", 0.1), ("unsure now", 0.9), ("gone", 0.5), ("at the limit", 0.6)])
    second = put(tmp_path / "b", [("sure now", 0.95), ("unsure now", 0.2), ("none", float("nan"))], night=1)
    for files in ([first, second], [second, first]):
        assert [count_doubtful(files, limit) for limit in (0.2, 0.3, 0.6, 0.7, 1.0)] == [0, 1, 2, 3, 4]


def test_rounds_of_any_size_find_what_sorting_everything_finds(tmp_path):
    chooser = random.Random(7)
    nights: list[dict[str, float]] = [
        {f"image {chooser.randrange(40)}": chooser.randrange(6) / 8 for _ in range(30)} for _ in range(5)
    ]
    files = [put(tmp_path / str(night), list(rows.items()), night) for night, rows in enumerate(nights)]
    newest = {uri: (confidence, night) for night, rows in enumerate(nights) for uri, confidence in rows.items()}
    order = sorted(newest, key=lambda uri: (newest[uri][0], uri))
    expected = [(uri, f"r{newest[uri][1]}") for uri in order]
    for rows_at_a_time in (1, 2, 7, 1000):
        assert found(files, rows_at_a_time=rows_at_a_time) == expected


def test_images_of_a_dataset_and_readings_without_a_confidence_are_left_out(tmp_path):
    file = put(tmp_path / "a", [("learned", 0.1), ("new", 0.2), ("none", float("nan"))])
    records = [encode_example(LineExample(b"", 1, (0,), "a", uri)) for uri in ("other", "learned")]
    write_records(str(tmp_path / "train.tfrecord.gz"), records)
    assert found([file], str(tmp_path / "train.tfrecord.gz")) == [("new", "r0")]


def test_details_come_in_the_order_of_the_readings(tmp_path):
    files = [
        put(tmp_path / str(n), [(f"{n}{letter}", random.Random(f"{n}{letter}").random()) for letter in "abcdefgh"])
        for n in "12"
    ]
    readings = list(find_least_confident(files))
    assert len(readings) == 16
    for reading, detail in zip(readings, read_details(readings), strict=True):
        assert detail["symbol_confidences"] == [reading.confidence, 1.0]
        assert detail["alternatives"][0]["text"] == f"other of {reading.uri}"


def test_memory_does_not_grow_with_the_predictions(tmp_path):
    def write(number: int) -> str:
        rows = 20_000
        columns = {
            "uri": [f"/collection/{number:03d}/{row:06d}.png" for row in range(rows)],
            "text": ["some text"] * rows,
            "confidence": np.random.default_rng(number).random(rows, np.float32),
            "model_id": ["m"] * rows,
            "run_id": ["r"] * rows,
            "scored_at": [NIGHT] * rows,
        }
        fields = {name: PREDICTIONS_SCHEMA.field(name).type for name in columns}
        table = pyarrow.table({name: pyarrow.array(columns[name], fields[name]) for name in columns})
        pyarrow.parquet.write_table(table, tmp_path / str(number), row_group_size=5_000)
        return str(tmp_path / str(number))

    files = [write(number) for number in range(16)]
    peaks = []
    before = pyarrow.default_memory_pool()
    for some in (files[:2], files):
        pool = pyarrow.proxy_memory_pool(before)
        pyarrow.set_memory_pool(pool)
        try:
            readings = find_least_confident(some, rows_at_a_time=2_000)
            first = [next(readings).confidence for _ in range(100)]
            readings.close()
        finally:
            pyarrow.set_memory_pool(before)
        assert first == sorted(first)
        peaks.append(pool.max_memory())
    assert 0 < peaks[1] < 1.5 * peaks[0]
