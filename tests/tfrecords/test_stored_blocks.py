"""Content of shards is read in place, from any byte to any other."""

from __future__ import annotations

import gzip
import os

import numpy as np
import pytest

from tfrecords.shards import read_records, write_records
from tfrecords.stored_blocks import find_stored_blocks, read_stored


@pytest.mark.parametrize(
    "sizes",
    [[], [0], [1, 2, 3], [5000] * 60, [70_000, 3, 200_000, 65_535, 1], [36_000] * 5],
    ids=["no record", "an empty record", "small records", "many blocks", "records over blocks", "a record a block"],
)
def test_parts_of_what_write_records_wrote_are_the_content(sizes, tmp_path):
    chooser = np.random.default_rng(len(sizes))
    path = str(tmp_path / "shard.gz")
    write_records(path, [chooser.bytes(size) for size in sizes])
    with gzip.open(path) as file:
        content = file.read()
    blocks = find_stored_blocks(path)
    assert blocks is not None
    assert blocks.sizes.sum() == len(content)
    if not content:
        return
    starts = np.concatenate([chooser.integers(0, len(content), 200), [0, len(content) - 1]])
    ends = [int(chooser.integers(start, len(content) + 1)) for start in starts]
    positions, rooms = blocks.locate(starts)
    with open(path, "rb") as file:
        for start, end, position, room in zip(starts, ends, positions.tolist(), rooms.tolist(), strict=True):
            assert read_stored(file.fileno(), position, room, end - start) == content[start:end]


def test_files_that_another_program_compressed_or_joined_have_no_stored_blocks(tmp_path):
    for name, content in (
        ("compressed", gzip.compress(b"a" * 1000)),
        ("two members", gzip.compress(b"a", 0) + gzip.compress(b"b", 0)),
        ("no gzip", b"a" * 1000),
        ("empty", b""),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        assert find_stored_blocks(str(path)) is None, name


@pytest.mark.parametrize("left", [0, 5, 10, 14, 15, 1000, -9, -8, -1])
def test_a_file_that_was_cut_off_has_no_stored_blocks(left, tmp_path):
    path = tmp_path / "shard.gz"
    write_records(str(path), [os.urandom(3000)] * 40)
    path.write_bytes(path.read_bytes()[:left])
    assert find_stored_blocks(str(path)) is None


def test_reading_behind_the_end_of_a_file_returns_less(tmp_path):
    path = tmp_path / "shard.gz"
    write_records(str(path), [b"a" * 100])
    with open(path, "rb") as file:
        assert len(read_stored(file.fileno(), 15, 10, 1000)) < 1000
        assert read_stored(file.fileno(), 10_000, 10, 1000) == b""


def test_a_record_of_more_bytes_than_any_line_has_is_refused_by_name(tmp_path, monkeypatch):
    from tfrecords import shards
    from tfrecords.errors import DataError

    path = str(tmp_path / "shard.gz")
    write_records(path, [b"a", b"b" * 1001])
    monkeypatch.setattr(shards, "_MOST_RECORD_BYTES", 1000)
    with pytest.raises(DataError, match=r"record 1 of .*shard\.gz is damaged \(it has 1,001 bytes, more than 1,000\)"):
        list(read_records(path))
