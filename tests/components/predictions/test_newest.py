"""Which of several readings of an image counts."""

from __future__ import annotations

import random

import pytest

from components.predictions.newest import find_newest_rows
from tests.readings import write_run
from tfrecords import DataError


def find(files, **how) -> list[list[bool]]:
    return [mask.tolist() for mask in find_newest_rows([str(path) for path in files], **how)]


def put(folder, uris, night) -> str:
    (path,) = write_run(folder, [{"uri": uri, "text": "a"} for uri in uris], night).glob("*.parquet")
    return path


def test_the_newest_reading_of_each_image_counts_whatever_the_order_of_the_files(tmp_path):
    first, second = put(tmp_path, "abc", 0), put(tmp_path, "bd", 1)
    assert find([first, second]) == [[True, False, True], [True, True]]
    assert find([second, first]) == [[True, True], [True, False, True]]


def test_of_equally_new_readings_the_last_counts(tmp_path):
    assert find([put(tmp_path, "aab", 0)]) == [[False, True, True]]


@pytest.mark.parametrize("rows_at_a_time", [1, 7, 1000])
def test_every_image_is_found_once_in_any_number_of_passes(tmp_path, rows_at_a_time):
    chooser = random.Random(3)
    nights = [[f"image {chooser.randrange(40)}" for _ in range(25)] for _ in range(4)]
    files = [put(tmp_path, uris, night) for night, uris in enumerate(nights)]
    masks = find(files, rows_at_a_time=rows_at_a_time)
    newest = {}
    for night, uris in enumerate(nights):
        newest |= {uri: (night, row) for row, uri in enumerate(uris)}
    expected = [[newest[uri] == (night, row) for row, uri in enumerate(uris)] for night, uris in enumerate(nights)]
    assert masks == expected


def test_nothing_and_a_damaged_file(tmp_path):
    assert find([]) == []
    path = put(tmp_path, "ab", 0)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="is damaged"):
        find([path])
