"""The manifest of a dataset."""

import dataclasses
import json

import pytest

from tfrecords import Charset, DataError, DatasetManifest, ShardEntry

CHARSET = Charset((" ", "a", "é"))


def manifest(**changes) -> DatasetManifest:
    values = DatasetManifest(
        dataset_id="0123456789ab",
        height=32,
        time_stride=4,
        charset_sha256=CHARSET.digest,
        matched=13,
        rejects={"truncated": 2, "unreadable": 1},
        unused_labels={"damaged_row": 1, "no_image": 4},
        shards=(
            ShardEntry("test-00000-of-00001.tfrecord.gz", "test", 1, 90, "cc"),
            ShardEntry("train-00000-of-00002.tfrecord.gz", "train", 4, 400, "aa"),
            ShardEntry("train-00001-of-00002.tfrecord.gz", "train", 5, 500, "bb"),
        ),
        other_files={"charset.txt": 5, "rejects-train-00000-of-00002.parquet": 700},
        reject_files=("rejects-train-00000-of-00002.parquet",),
        warnings=("the validation split is empty: too few",),
        created_at="2026-01-02T03:04:05+00:00",
    )
    return dataclasses.replace(values, **changes)


def test_a_manifest_survives_its_file(tmp_path):
    manifest().write(str(tmp_path))
    assert DatasetManifest.read(str(tmp_path)) == manifest()


def test_examples_are_counted_by_split():
    assert manifest().counts == {"train": 9, "validation": 0, "test": 1}
    assert manifest().examples("train") == 9


def test_the_shards_of_a_split_are_its_own_in_order():
    assert [shard.sha256 for shard in manifest().shards_of("train")] == ["aa", "bb"]
    assert manifest().shards_of("validation") == []


def test_a_folder_without_a_manifest_holds_no_dataset(tmp_path):
    with pytest.raises(FileNotFoundError):
        DatasetManifest.read(str(tmp_path))


@pytest.mark.parametrize("version", [0, 1, 3, None])
def test_a_manifest_of_another_version_is_refused_with_both_versions(tmp_path, version):
    manifest().write(str(tmp_path))
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": version}))
    with pytest.raises(
        DataError,
        match=rf"manifest\.json has schema version {version}, .* reads 2: .*delete ",
    ):
        DatasetManifest.read(str(tmp_path))


def test_a_damaged_manifest_is_named(tmp_path):
    (tmp_path / "manifest.json").write_text('{"height": 3')
    with pytest.raises(DataError, match=r"manifest\.json is not valid JSON .*delete its folder and run again"):
        DatasetManifest.read(str(tmp_path))


def test_the_charset_of_the_dataset_is_read(tmp_path):
    (tmp_path / "charset.txt").write_text(CHARSET.to_file_text(), encoding="utf-8")
    assert manifest().read_charset(str(tmp_path)) == CHARSET


def test_another_charset_than_the_dataset_was_written_with_is_refused_with_both_digests(tmp_path):
    other = Charset((" ", "a", "e"))
    (tmp_path / "charset.txt").write_text(other.to_file_text(), encoding="utf-8")
    with pytest.raises(DataError) as error:
        manifest().read_charset(str(tmp_path))
    for part in (
        "charset.txt",
        other.digest[:12],
        CHARSET.digest[:12],
        f"delete {tmp_path} and run",
    ):
        assert part in str(error.value)
