"""Splits and shards by hash, and TFRecord files."""

import collections
import gzip
import hashlib

import pytest
import tensorflow as tf

from tfrecords import DataError, SplitFractions, choose_shard, choose_split, name_shard, read_records, write_records

KEYS = [f"lines/{number:05d}.png" for number in range(20_000)]
RECORDS = [b"", b"x", b"hello world " * 50, bytes(range(256)) * 40]


@pytest.mark.parametrize(
    ("key", "split", "of_4", "of_1000"),
    [
        ("a.png", "train", 2, 290),
        ("lines/0001.png", "train", 3, 403),
        ("scans/日本.png", "train", 2, 354),
        ("z/1.png", "train", 3, 143),
        ("z/2.png", "test", 1, 389),
        ("v/4.png", "validation", 0, 548),
    ],
)
def test_the_hash_never_changes_silently(key, split, of_4, of_1000):
    assert choose_split(key, SplitFractions()) == split
    assert choose_shard(key, 4) == of_4
    assert choose_shard(key, 1000) == of_1000


def test_the_hash_is_a_salted_sha_256():
    digest = hashlib.sha256(b"shard\0lines/0001.png").digest()
    assert choose_shard("lines/0001.png", 1000) == int.from_bytes(digest[:8], "big") % 1000


@pytest.mark.parametrize(("validation", "test"), [(0.1, 0.1), (0.05, 0.3), (0, 0.2), (0.2, 0)])
def test_each_split_gets_about_its_share(validation, test):
    counts = collections.Counter(choose_split(key, SplitFractions(validation, test)) for key in KEYS)
    assert counts["validation"] / len(KEYS) == pytest.approx(validation, abs=0.01)
    assert counts["test"] / len(KEYS) == pytest.approx(test, abs=0.01)
    assert counts.total() == len(KEYS)
    assert (counts["validation"] == 0) == (validation == 0)
    assert (counts["test"] == 0) == (test == 0)


def test_shards_are_about_equal_inside_every_split():
    for split in ("train", "validation", "test"):
        mine = [key for key in KEYS if choose_split(key, SplitFractions()) == split]
        counts = collections.Counter(choose_shard(key, 4) for key in mine)
        assert sorted(counts) == [0, 1, 2, 3]
        assert min(counts.values()) > 0.85 * len(mine) / 4


def test_a_greater_test_share_takes_no_test_image_away():
    small, large = SplitFractions(0.1, 0.1), SplitFractions(0.1, 0.2)
    tested = {key for key in KEYS if choose_split(key, small) == "test"}
    assert tested < {key for key in KEYS if choose_split(key, large) == "test"}


def test_a_key_alone_decides_so_that_added_images_move_none():
    alone = [(choose_split(key, SplitFractions()), choose_shard(key, 7)) for key in KEYS[:50]]
    for key in KEYS[50:500]:
        choose_split(key, SplitFractions())
    assert [(choose_split(key, SplitFractions()), choose_shard(key, 7)) for key in KEYS[:50]] == alone


@pytest.mark.parametrize(("validation", "test"), [(-0.1, 0.1), (0.1, -0.1), (1, 0), (0, 1), (0.5, 0.5), (0.9, 0.2)])
def test_shares_that_leave_nothing_to_train_on_are_refused_with_their_values(validation, test):
    with pytest.raises(ValueError, match=rf"validation_fraction={validation} and test_fraction={test} must"):
        SplitFractions(validation, test)


def test_a_shard_name_has_its_number_and_how_many_there_are():
    assert name_shard("train", 3, 12, "tfrecord.gz") == "train-00003-of-00012.tfrecord.gz"


def test_records_come_back_as_they_were_written(tmp_path):
    path = str(tmp_path / "new folder" / "x.tfrecord.gz")
    assert write_records(path, iter(RECORDS))[0] == len(RECORDS)
    assert list(read_records(path)) == RECORDS


def test_tensorflow_reads_our_files(tmp_path):
    path = str(tmp_path / "x.tfrecord.gz")
    write_records(path, RECORDS)
    assert list(tf.data.TFRecordDataset(path, compression_type="GZIP").as_numpy_iterator()) == RECORDS


def test_we_read_tensorflows_files(tmp_path):
    path = str(tmp_path / "x.tfrecord.gz")
    with tf.io.TFRecordWriter(path, "GZIP") as writer:
        for record in RECORDS:
            writer.write(record)
    assert list(read_records(path)) == RECORDS


def test_a_file_without_records_is_readable_by_both(tmp_path):
    path = str(tmp_path / "x.tfrecord.gz")
    assert write_records(path, [])[0] == 0
    assert list(read_records(path)) == []
    assert list(tf.data.TFRecordDataset(path, compression_type="GZIP").as_numpy_iterator()) == []


def test_equal_records_give_equal_files_whatever_the_name(tmp_path):
    first, second = tmp_path / "first.gz", tmp_path / "other" / "second.gz"
    results = [write_records(str(path), RECORDS) for path in (first, second)]
    assert first.read_bytes() == second.read_bytes()
    assert results[0] == results[1]


def test_records_are_framed_by_gzip_but_not_compressed_again(tmp_path):
    path = tmp_path / "x.tfrecord.gz"
    records = [bytes(100_000), b"image" * 1000]
    write_records(str(path), records)
    plain = gzip.decompress(path.read_bytes())
    assert len(plain) == sum(16 + len(record) for record in records)
    assert len(plain) < path.stat().st_size < 1.001 * len(plain) + 50
    assert records[1] in path.read_bytes()


def test_the_gzip_header_holds_neither_a_name_nor_a_time(tmp_path):
    path = tmp_path / "x.tfrecord.gz"
    write_records(str(path), RECORDS)
    assert path.read_bytes()[:8] == b"\x1f\x8b\x08\0\0\0\0\0"


def test_the_size_and_checksum_returned_are_those_of_the_file(tmp_path):
    path = tmp_path / "x.tfrecord.gz"
    _, size, sha256 = write_records(str(path), RECORDS)
    assert size == path.stat().st_size
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_records_that_fail_half_way_leave_no_file(tmp_path):
    def records():
        yield b"first"
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        write_records(str(tmp_path / "x.tfrecord.gz"), records())
    assert list(tmp_path.iterdir()) == []


def test_every_flipped_byte_of_the_content_is_found(tmp_path):
    path = tmp_path / "x.tfrecord.gz"
    write_records(str(path), [b"hello world " * 20, b"second"])
    plain = bytearray(gzip.decompress(path.read_bytes()))
    for position in range(len(plain)):
        damaged = plain.copy()
        damaged[position] ^= 0x10
        path.write_bytes(gzip.compress(damaged))
        with pytest.raises(
            DataError, match=r"record [01] of .*x\.tfrecord\.gz is damaged .* run the ingest step again"
        ):
            list(read_records(str(path)))


def test_every_flipped_byte_of_the_compressed_file_is_found(tmp_path):
    path = tmp_path / "x.tfrecord.gz"
    write_records(str(path), [b"hello world " * 20, b"second"])
    whole = path.read_bytes()
    for position in range(10, len(whole)):  # the first ten bytes are the gzip header
        damaged = bytearray(whole)
        damaged[position] ^= 0x55
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"of .*x\.tfrecord\.gz is damaged"):
            list(read_records(str(path)))


def test_a_file_that_ends_early_is_found_wherever_it_ends(tmp_path):
    path = tmp_path / "x.tfrecord.gz"
    write_records(str(path), RECORDS[1:3])
    whole = path.read_bytes()
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"record \d of .*x\.tfrecord\.gz is damaged"):
            list(read_records(str(path)))


def test_a_file_of_0_bytes_is_damaged_and_not_an_empty_shard(tmp_path):
    path = tmp_path / "x.tfrecord.gz"
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"x\.tfrecord\.gz is damaged"):
        list(read_records(str(path)))


def test_the_damaged_record_is_named_and_those_before_it_are_read(tmp_path):
    path = tmp_path / "x.tfrecord.gz"
    write_records(str(path), [b"first", b"second", b"third"])
    damaged = gzip.decompress(path.read_bytes()).replace(b"third", b"thirD")
    path.write_bytes(gzip.compress(damaged))
    records = read_records(str(path))
    assert [next(records), next(records)] == [b"first", b"second"]
    with pytest.raises(DataError, match=r"record 2 of .*checksum of its data is wrong"):
        next(records)


def test_a_file_that_is_not_gzipped_is_damaged(tmp_path):
    path = tmp_path / "x.tfrecord.gz"
    path.write_bytes(b"plain text")
    with pytest.raises(DataError, match=r"record 0 of .*damaged"):
        list(read_records(str(path)))


def test_a_file_that_is_gone_is_not_called_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        list(read_records(str(tmp_path / "gone.tfrecord.gz")))
