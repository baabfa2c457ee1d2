"""The index of a training set: lines are read in place, and whatever is wrong with a shard is said with its name."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from components.training import line_index
from components.training.data import load_examples
from components.training.line_index import open_line_index
from tests.written_examples import SHARD, describe_shards, write_dataset, write_shard
from tfrecords import Charset, DataError, DatasetManifest, LineExample, encode_example

CHARSET = Charset(tuple("abc"))
SPLITS = ("train", "validation")


def write_lines(folder: Path, count: int = 40) -> tuple[DatasetManifest, list[bytes], list[str]]:
    """Writes lines whose images are bytes by chance, some longer than a block of gzip."""
    chooser = np.random.default_rng(count)
    images = [chooser.bytes(int(size)) for size in chooser.choice([1, 3000, 90_000], count)]
    texts = ["".join(chooser.choice(list("abc"), chooser.integers(0, 9))) for _ in range(count)]
    return write_dataset(folder, CHARSET, images, range(count), texts), images, texts


def rewrite(folder: Path, manifest: DatasetManifest, content: bytes) -> DatasetManifest:
    """Writes other content into the shard, with a manifest that agrees to it."""
    (folder / SHARD).write_bytes(content)
    (shard,) = manifest.shards
    other = dataclasses.replace(shard, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    return dataclasses.replace(manifest, shards=(other,))


def compress(folder: Path, manifest: DatasetManifest) -> DatasetManifest:
    return rewrite(folder, manifest, gzip.compress(gzip.decompress((folder / SHARD).read_bytes())))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("at_a_time", [(1000, 8 << 20), (7, 8 << 20), (1000, 100_000)])
def test_lines_are_read_in_any_order_as_they_were_written(compressed, at_a_time, tmp_path, monkeypatch):
    monkeypatch.setattr(line_index, "_RECORDS_AT_A_TIME", at_a_time[0])
    monkeypatch.setattr(line_index, "_BYTES_AT_A_TIME", at_a_time[1])
    manifest, images, texts = write_lines(tmp_path)
    if compressed:
        manifest = compress(tmp_path, manifest)
    examples = load_examples(str(tmp_path), manifest, "train")
    order = np.random.default_rng(0).permutation(40)
    assert examples.read_images(order) == [images[i] for i in order]
    assert examples.read_texts(order) == [texts[i] for i in order]
    assert examples.read_uris(order) == [str(i) for i in order]
    assert examples.widths.tolist() == list(range(40))
    labels, lengths = examples.get_labels(order)
    assert [CHARSET.decode(label[:length]) for label, length in zip(labels, lengths, strict=True)] == [
        texts[i] for i in order
    ]
    assert [CHARSET.decode(examples.get_label(i)) for i in order] == [texts[i] for i in order]
    assert examples.count_time_steps(order).tolist() == [
        len(texts[i]) + sum(a == b for a, b in zip(texts[i], texts[i][1:], strict=False)) for i in order
    ]


def test_lines_of_several_shards_follow_each_other_and_empty_shards_have_none(tmp_path):
    examples = [
        [
            encode_example(LineExample(f"{shard}{n}".encode(), n + 1, (n % 3,), "abc"[n % 3], f"{shard}/{n}"))
            for n in range(count)
        ]
        for shard, count in enumerate((0, 3, 0, 2, 0))
    ]
    shards = [write_shard(tmp_path / f"train-{number}.tfrecord.gz", some) for number, some in enumerate(examples)]
    index = load_examples(str(tmp_path), describe_shards(tmp_path, CHARSET, shards), "train")
    assert len(index) == 5
    assert index.read_uris(range(5)) == ["1/0", "1/1", "1/2", "3/0", "3/1"]
    assert index.read_images([4, 0]) == [b"31", b"10"]


def test_a_split_of_empty_shards_has_no_lines(tmp_path):
    manifest = describe_shards(tmp_path, CHARSET, [write_shard(tmp_path / SHARD, [])])
    assert len(load_examples(str(tmp_path), manifest, "train")) == 0


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda content: content[: len(content) // 2], "record 0 of .*"),
        (lambda content: b"", "record 0 of .*the file has 0 bytes"),
        (lambda content: content[:5000] + b"\xff" + content[5001:], "checksum of its data is wrong"),
        (lambda content: gzip.compress(b"no record at all"), "record 0 of .*checksum of its length is wrong"),
    ],
    ids=["cut off", "empty file", "other byte", "no records"],
)
def test_a_damaged_shard_whose_checksum_agrees_is_refused_by_name(damage, sentence, tmp_path):
    images = [np.random.default_rng(0).bytes(20_000)]
    manifest = write_dataset(tmp_path, CHARSET, images, [1], ["abc"])
    manifest = rewrite(tmp_path, manifest, damage((tmp_path / SHARD).read_bytes()))
    with pytest.raises(DataError, match=sentence) as raised:
        load_examples(str(tmp_path), manifest, "train")
    assert SHARD in str(raised.value)


def test_records_that_are_no_lines_are_refused_by_name(tmp_path):
    good = encode_example(LineExample(b"image", 1, (0,), "a", "a"))
    without_image = encode_example(LineExample(b"image", 1, (0,), "a", "a")).replace(b"image", b"imago", 1)
    for record in (b"\xff\xff\xff", without_image):
        manifest = describe_shards(tmp_path, CHARSET, [write_shard(tmp_path / SHARD, [good, record])])
        with pytest.raises(DataError, match=rf"records 0 to 1 of .*{SHARD}"):
            load_examples(str(tmp_path), manifest, "train")


def test_a_shard_that_changes_during_the_training_is_noticed_where_it_is_read(tmp_path):
    manifest, images, _ = write_lines(tmp_path)
    examples = load_examples(str(tmp_path), manifest, "train")
    unread = load_examples(str(tmp_path), manifest, "train")
    content = (tmp_path / SHARD).read_bytes()
    changed = next(i for i, image in enumerate(images) if len(image) == 3000 and image in content)
    at = content.index(images[changed])
    with open(tmp_path / SHARD, "r+b") as file:
        os.pwrite(file.fileno(), bytes([content[at] ^ 1]), at)
    assert examples.read_images([changed - 1, changed + 1]) == [images[changed - 1], images[changed + 1]]
    with pytest.raises(DataError, match=rf"{SHARD} has changed since.*run the ingest step again"):
        examples.read_images([changed])
    assert len(examples.index.failures) == 1
    (tmp_path / SHARD).unlink()
    with pytest.raises(DataError, match=rf"{SHARD} cannot be read \(No such file"):
        unread.read_images([0])


def test_an_index_is_built_once_and_again_when_a_shard_is_another(tmp_path, monkeypatch):
    folder, index = tmp_path / "dataset", str(tmp_path / "index")
    manifest, images, _ = write_lines(folder)
    calls: list[str] = []
    read = line_index.read_records
    monkeypatch.setattr(line_index, "read_records", lambda path: calls.append(path) or read(path))

    def read_first() -> bytes:
        return load_examples(str(folder), manifest, "train", index).read_images([0])[0]

    assert read_first() == read_first() == images[0]
    assert len(calls) == 1
    manifest, images, _ = write_lines(folder, 41)
    assert read_first() == images[0]
    assert len(calls) == 2
    for name in ("index.json", "places"):
        (Path(index) / "train" / name).unlink()
        assert read_first() == images[0]
    assert len(calls) == 4
    os.truncate(Path(index) / "train" / "widths", 8)
    assert read_first() == images[0]
    assert len(calls) == 5
    assert sorted(os.listdir(Path(index) / "train")) == [".lock", "index.json", "labels", "offsets", "places", "widths"]


def test_an_index_that_cannot_be_written_is_said_with_its_place(tmp_path, monkeypatch):
    manifest, _, _ = write_lines(tmp_path / "dataset")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"the index of the train lines cannot be written to .*file/train: Not a dir"):
        load_examples(str(tmp_path / "dataset"), manifest, "train", str(tmp_path / "file"))


def test_a_temporary_index_goes_with_its_examples(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    manifest, images, _ = write_lines(tmp_path)
    examples = load_examples(str(tmp_path), compress(tmp_path, manifest), "train")
    assert len(os.listdir(tmp_path / "temporary")) == 1
    assert examples.read_images([3]) == [images[3]]
    del examples
    assert not os.listdir(tmp_path / "temporary")


def test_processes_that_want_the_same_index_wait_for_the_one_that_builds_it(tmp_path, tiny_dataset):
    import fcntl
    import threading

    folder = shutil.copytree(tiny_dataset, tmp_path / "dataset")
    manifest = DatasetManifest.read(str(folder))
    place = tmp_path / "index" / "train"
    place.mkdir(parents=True)
    waited = threading.Event()
    found = []

    def open_index() -> None:
        found.append(open_line_index(str(folder), manifest, "train", str(tmp_path / "index"), waited.set))

    with open(place / ".lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=open_index)
        thread.start()
        assert waited.wait(30)
        assert not found
    thread.join(30)
    assert len(found[0]) == 16
