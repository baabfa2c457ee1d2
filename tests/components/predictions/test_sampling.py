"""The sample of recognised images."""

import datetime

import pytest

from components.predictions.sampling import sample_recognised_images
from tests.components.review.test_selection import NIGHT, put
from tfrecords import DataError, LineExample, encode_example, write_records

NAMES = [f"{number:03d}" for number in range(200)]


def drawn(files, count, **how):
    return [image.uri for image in sample_recognised_images(files, count, **how)]


def test_a_sample_depends_on_the_images_alone_and_a_smaller_one_is_part_of_a_larger(tmp_path):
    one = put(tmp_path / "all", [(name, 0.5) for name in NAMES])
    parts = [put(tmp_path / f"part{i}", [(name, 0.1) for name in NAMES[i::3]], group_rows=7) for i in range(3)]
    sample = drawn([one], 50)
    assert len(sample) == len(set(sample)) == 50
    assert sample == sorted(sample)
    assert drawn(parts, 50) == drawn(reversed(parts), 50) == sample
    assert set(drawn(parts, 20)) < set(sample)
    assert drawn([one], 500) == NAMES
    # By chance, a quarter of 200 has 3 of the first 10 or so.
    assert 0 < len(set(sample) & set(NAMES[:40])) < 30


def test_images_of_a_dataset_are_left_out(tmp_path):
    files = [put(tmp_path / "a", [(name, 0.5) for name in NAMES])]
    shard = str(tmp_path / "train.tfrecord.gz")
    write_records(shard, [encode_example(LineExample(b"", 1, (0,), "x", name)) for name in NAMES[:190]])
    assert drawn(files, 50, without=[shard]) == NAMES[190:]
    assert drawn(files[:0], 50, without=[shard]) == []


def test_an_image_that_was_recognised_twice_is_drawn_once_as_it_was_last(tmp_path):
    later = NIGHT + datetime.timedelta(days=2)
    first = put(tmp_path / "a", [("same", 0.5), ("other", 0.5)])
    second = put(tmp_path / "b", [("same", 0.5)], size_bytes=7, modified=later)
    other, same = sample_recognised_images([first, second], 10)
    assert (other.uri, other.size_bytes) == ("other", 1)
    assert (same.uri, same.size_bytes, same.modified) == ("same", 7, later)


def test_a_damaged_file_is_named_with_the_way_out(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"PAR1 and nothing else PAR1")
    with pytest.raises(DataError, match=r"/a is damaged .* run the infer step"):
        sample_recognised_images([str(path)], 10)
