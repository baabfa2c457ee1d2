"""Writing a shard and committing a dataset, on real images and without Beam."""

import dataclasses
import hashlib
import json
import pathlib

import numpy as np
import pyarrow.parquet
import pytest
import tensorflow as tf
from PIL import Image

from components.ingest import IngestRequest, ShardSummary, commit_dataset, write_training_shard
from components.listing import ImageReference, list_images
from tfrecords import Charset, DatasetManifest, ImageLimits, SplitFractions, decode_png, read_records, split_of

CHARSET = Charset((" ", "a", "b", "c"))
FRACTIONS = SplitFractions(0.25, 0.25)
SHARD = "train-00000-of-00001.tfrecord.gz"


@pytest.fixture
def images(tmp_path) -> pathlib.Path:
    folder = tmp_path / "lines"
    folder.mkdir()
    return folder


def draw(folder: pathlib.Path, label: str, *, width: int = 100, name: str | None = None) -> pathlib.Path:
    """Writes a labelled image, 20 pixels high, whose pixels follow from its label."""
    path = folder / f"{name or label}.png"
    pixels = np.random.default_rng([*map(ord, label)]).integers(0, 256, (20, width), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def references(folder: pathlib.Path) -> list[ImageReference]:
    return sorted(list_images(str(folder), "filename"), key=lambda reference: (reference.key, reference.uri))


def request(images: pathlib.Path, count: int, **changes) -> IngestRequest:
    values = IngestRequest(
        dataset_id="0123456789ab",
        folder=str(images.parent / "unfinished"),
        destination=str(images.parent / "datasets" / "0123456789ab"),
        images=count,
        shards={"train": 1, "validation": 1, "test": 1},
        height=20,
        time_stride=4,
        charset=CHARSET,
        limits=ImageLimits(),
        max_reject_fraction=0.05,
    )
    return dataclasses.replace(values, **changes)


def write(images: pathlib.Path, shard: tuple[str, int] = ("train", 0), **changes) -> ShardSummary:
    listed = references(images)
    return write_training_shard(shard, listed, request(images, len(listed), **changes))


def unfinished(images: pathlib.Path, name: str) -> pathlib.Path:
    return images.parent / "unfinished" / name


def committed(images: pathlib.Path) -> pathlib.Path:
    return images.parent / "datasets" / "0123456789ab"


def rejected(images: pathlib.Path) -> list[dict]:
    """The rows of the only rejects file of the shard `train-00000`."""
    return pyarrow.parquet.read_table(unfinished(images, "rejects-train-00000-of-00001.parquet")).to_pylist()


def reject_of(images: pathlib.Path, listed: list[ImageReference], **changes) -> dict:
    """Writes a shard of which exactly one image is left out; returns that image's row."""
    summary = write_training_shard(("train", 0), listed, request(images, len(listed), **changes))
    assert summary.matched == len(listed)
    assert summary.examples == len(listed) - 1
    (row,) = rejected(images)
    assert summary.rejects == {row["reason"]: 1}
    return row


# Requests


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"height": 7}, "line height must be at least 8 pixels, not 7"),
        ({"time_stride": 0}, "time stride must be at least 1 pixel, not 0"),
    ],
)
def test_a_request_that_cannot_work_is_refused_when_it_is_made(images, change, complaint):
    with pytest.raises(ValueError, match=complaint):
        request(images, 1, **change)


# One shard


def test_a_shard_holds_every_image_as_it_was_with_its_label(images):
    for label in ("abc", "aab", "c b a"):
        draw(images, label)
    summary = write(images)
    (batch,) = tf.data.TFRecordDataset(str(unfinished(images, SHARD)), compression_type="GZIP").batch(10)
    parsed = [tf.train.Example.FromString(record).features.feature for record in batch.numpy()]
    assert [feature["text"].bytes_list.value[0].decode() for feature in parsed] == ["aab", "abc", "c b a"]
    assert [list(feature["label"].int64_list.value) for feature in parsed] == [
        [1, 1, 2],
        [1, 2, 3],
        [3, 0, 2, 0, 1],
    ]
    for feature, reference in zip(parsed, references(images), strict=True):
        original = np.asarray(Image.open(reference.uri))
        np.testing.assert_array_equal(decode_png(feature["image"].bytes_list.value[0]), original)
        assert feature["width"].int64_list.value[0] == original.shape[1]
        assert feature["uri"].bytes_list.value[0].decode() == reference.uri
    assert (summary.matched, summary.examples, summary.rejects) == (3, 3, {})


def test_a_summary_counts_what_the_shard_holds(images):
    draw(images, "abc", width=100)
    draw(images, "bb", width=100)
    draw(images, "aaa", width=24)
    summary = write(images)
    assert summary.split == "train"
    assert summary.index == 0
    assert summary.widths == {"100": 2, "24": 1}
    assert summary.label_lengths == {"3": 2, "2": 1}
    assert summary.symbols == {"a": 4, "b": 3, "c": 1}
    assert summary.tight_labels == 1
    assert summary.bytes == unfinished(images, SHARD).stat().st_size


def test_a_shard_without_rejects_has_no_rejects_file(images):
    draw(images, "abc")
    write(images)
    assert sorted(path.name for path in (images.parent / "unfinished").iterdir()) == ["summaries", SHARD]


def test_an_image_whose_file_vanished_is_unreadable(images):
    draw(images, "abc")
    gone = draw(images, "bca")
    listed = references(images)
    gone.unlink()
    row = reject_of(images, listed)
    assert (row["uri"], row["reason"]) == (str(gone), "unreadable")
    assert "No such file" in row["detail"]


def test_a_folder_where_an_image_was_is_unreadable(images):
    draw(images, "abc")
    replaced = draw(images, "bca")
    listed = references(images)
    replaced.unlink()
    replaced.mkdir()
    assert reject_of(images, listed)["reason"] == "unreadable"


def test_a_broken_link_is_unreadable(images):
    draw(images, "abc")
    (images / "bca.png").symlink_to(images / "nowhere.png")
    assert reject_of(images, references(images))["reason"] == "unreadable"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda good: b"", "empty_file"),
        (lambda good: b"<html>", "not_an_image"),
        (lambda good: good[: len(good) // 2], "truncated"),
    ],
    ids=["empty", "html", "half"],
)
def test_what_is_no_whole_image_is_left_out_with_its_reason(images, content, reason):
    good = draw(images, "abc").read_bytes()
    (images / "bad.png").write_bytes(content(good))
    row = reject_of(images, references(images), charset=Charset.from_texts(["abcd"]))
    assert (row["uri"], row["reason"]) == (str(images / "bad.png"), reason)


@pytest.mark.parametrize(
    ("size", "limits", "reason"),
    [
        ((100, 3), ImageLimits(), "too_small"),
        ((120, 20), ImageLimits(max_pixels=2399), "too_large"),
        ((120, 20), ImageLimits(max_line_width=119), "too_large"),
    ],
)
def test_the_limits_of_the_request_are_applied(images, size, limits, reason):
    draw(images, "abc", width=50)
    Image.new("L", size).save(images / "b.png")
    assert reject_of(images, references(images), limits=limits)["reason"] == reason


def test_an_animation_is_left_out(images):
    draw(images, "abc")
    frames = [Image.new("L", (100, 20), value) for value in (0, 255)]
    frames[0].save(images / "b.gif", save_all=True, append_images=frames[1:])
    assert reject_of(images, references(images))["reason"] == "several_images"


def test_pixels_without_black_and_white_are_left_out(images):
    draw(images, "abc")
    Image.new("F", (100, 20)).save(images / "b.tiff")
    assert reject_of(images, references(images))["reason"] == "unsupported_pixels"


@pytest.mark.parametrize("problem", ["no_label", "empty_label", "label_not_text"])
def test_an_image_without_a_usable_label_keeps_the_reason_of_the_listing(images, problem):
    draw(images, "abc")
    draw(images, "b")
    good, bad = references(images)
    bad = dataclasses.replace(bad, text=None, label_problem=problem, label_detail="as the listing said")
    row = reject_of(images, [good, bad])
    assert (row["reason"], row["detail"]) == (problem, "as the listing said")


def test_an_image_that_was_listed_without_labels_has_no_label(images):
    draw(images, "abc")
    draw(images, "b")
    good, bad = references(images)
    assert reject_of(images, [good, dataclasses.replace(bad, text=None)])["reason"] == "no_label"


def test_a_label_with_unknown_symbols_is_left_out_and_names_them(images):
    draw(images, "abc")
    draw(images, "bxßx")
    row = reject_of(images, references(images))
    assert row["reason"] == "symbol_not_in_charset"
    assert row["detail"] == "label 'bxßx' has 'x', 'ß': see --charset"


def test_a_label_that_exactly_fits_is_written_and_one_repeat_more_is_left_out(images):
    draw(images, "abca", width=16)  # 4 time steps for 4 symbols
    draw(images, "abcc", width=16)  # and one more between the equal neighbours
    row = reject_of(images, references(images))
    assert (row["uri"], row["reason"]) == (str(images / "abcc.png"), "label_too_long")
    assert "is 4 symbols and needs 5 time steps (1 repeats), but the image is 16 px wide and gives 4" in row["detail"]


def test_the_width_after_scaling_decides_whether_a_label_fits(images):
    draw(images, "abcc", width=16)
    assert write(images, height=25).examples == 1  # 16x20 becomes 20x25: five time steps


def test_of_images_with_one_key_the_first_is_written_and_the_others_name_it(images):
    first = draw(images, "abc")
    (images / "more").mkdir()
    second, third = (draw(images / "more", "abc", name=name) for name in ("b", "c"))
    listed = [
        dataclasses.replace(reference, key="lines/abc.png", text="abc")
        for reference in sorted(list_images(str(images), "filename"), key=lambda reference: reference.uri)
    ]
    summary = write_training_shard(("train", 0), listed, request(images, 3))
    assert (summary.examples, summary.rejects) == (1, {"duplicate_key": 2})
    rows = rejected(images)
    assert [row["uri"] for row in rows] == [str(second), str(third)]
    assert all(row["detail"] == f'its key "lines/abc.png" is already that of "{first}"' for row in rows)


def test_every_image_is_written_or_rejected(images):
    for label in ("a", "b", "c", "x", "y"):
        draw(images, label)
    (images / "ab.png").write_bytes(b"")
    (images / "ba.png").write_bytes(b"text")
    summary = write(images)
    assert summary.rejects == {"empty_file": 1, "not_an_image": 1, "symbol_not_in_charset": 2}
    assert summary.matched == summary.examples + sum(summary.rejects.values()) == 7
    assert len(rejected(images)) == 4
    assert {(row["step"], row["run_id"]) for row in rejected(images)} == {("ingest", "0123456789ab")}


def test_a_shard_written_again_has_the_same_bytes(images):
    for label in ("abc", "aab", "cab", "b a"):
        draw(images, label)
    first = write(images, folder=str(images.parent / "first"))
    second = write(images, folder=str(images.parent / "second"))
    assert (images.parent / "first" / SHARD).read_bytes() == (images.parent / "second" / SHARD).read_bytes()
    assert first == second


# Resuming


def test_a_finished_shard_is_not_done_again(images):
    path = draw(images, "abc")
    draw(images, "bca")
    first = write(images)
    listed = references(images)
    path.unlink()  # nothing is read again
    before = unfinished(images, SHARD).stat().st_mtime_ns
    assert write_training_shard(("train", 0), listed, request(images, 2)) == first
    assert unfinished(images, SHARD).stat().st_mtime_ns == before


def test_a_shard_whose_inputs_changed_is_done_again(images):
    draw(images, "abc")
    first = write(images)
    draw(images, "bca")
    second = write(images)
    assert (first.examples, second.examples) == (1, 2)
    assert len(list(read_records(str(unfinished(images, SHARD))))) == 2


def test_a_shard_whose_file_is_gone_is_done_again(images):
    draw(images, "abc")
    first = write(images)
    unfinished(images, SHARD).unlink()
    assert write(images) == first
    assert unfinished(images, SHARD).exists()


def test_a_shard_that_was_stopped_before_its_summary_is_done_again(images):
    draw(images, "abc")
    first = write(images)
    unfinished(images, SHARD).write_bytes(b"half")
    for summary in (images.parent / "unfinished" / "summaries").iterdir():
        summary.unlink()
    assert write(images) == first
    assert len(list(read_records(str(unfinished(images, SHARD))))) == 1


# Committing


def write_all(images: pathlib.Path, **changes) -> tuple[list[ShardSummary], IngestRequest]:
    """Writes the shards of every split that has images, as the Beam job does."""
    listed = references(images)
    asked = request(images, len(listed), **changes)
    splits: dict[str, list[ImageReference]] = {}
    for reference in listed:
        splits.setdefault(split_of(reference.key, FRACTIONS), []).append(reference)
    return [write_training_shard((split, 0), mine, asked) for split, mine in splits.items()], asked


def draw_many(images: pathlib.Path, count: int = 24) -> None:
    for number in range(count):
        label = "".join("abc"[number // 3**place % 3] for place in range(3))
        draw(images, label)


def test_a_committed_dataset_is_complete_and_its_manifest_agrees_with_its_files(images):
    draw_many(images)
    summaries, asked = write_all(images)
    commit_dataset(summaries, asked)
    folder = committed(images)
    manifest = DatasetManifest.read(str(folder))
    assert sorted(path.name for path in folder.iterdir()) == [
        "charset.txt",
        "manifest.json",
        "statistics.json",
        "test-00000-of-00001.tfrecord.gz",
        "train-00000-of-00001.tfrecord.gz",
        "validation-00000-of-00001.tfrecord.gz",
    ]
    assert not (images.parent / "unfinished").exists()
    for shard in manifest.shards:
        data = (folder / shard.name).read_bytes()
        assert shard.bytes == len(data)
        assert shard.sha256 == hashlib.sha256(data).hexdigest()
        assert shard.examples == len(list(read_records(str(folder / shard.name))))
    assert manifest.matched == sum(manifest.counts.values()) == 24
    assert (manifest.height, manifest.time_stride, manifest.dataset_id) == (20, 4, "0123456789ab")
    assert manifest.read_charset(str(folder)) == CHARSET
    assert (manifest.rejects, manifest.reject_files, manifest.warnings) == ({}, (), ())


def test_the_statistics_add_up_for_every_split(images):
    draw_many(images)
    summaries, asked = write_all(images)
    commit_dataset(summaries, asked)
    statistics = json.loads((committed(images) / "statistics.json").read_text())
    manifest = DatasetManifest.read(str(committed(images)))
    assert (statistics["dataset_id"], statistics["matched"]) == ("0123456789ab", 24)
    for split, part in statistics["splits"].items():
        examples = manifest.examples(split)
        assert part["examples"] == examples
        assert part["widths"] == [[100, examples]]
        assert part["label_lengths"] == [[3, examples]]
        assert sum(part["symbols"].values()) == 3 * examples
        assert part["rejects"] == {}


def test_widths_in_the_statistics_are_sorted_as_numbers(images):
    for label, width in (("a", 9 * 4), ("b", 100), ("c", 1000)):
        draw(images, label, width=width)
    summary = write(images)
    commit_dataset([summary], request(images, 3))
    statistics = json.loads((committed(images) / "statistics.json").read_text())
    assert statistics["splits"]["train"]["widths"] == [[36, 1], [100, 1], [1000, 1]]


def test_rejects_are_kept_with_the_dataset_and_counted_in_its_manifest(images):
    draw_many(images)
    (images / "b.png").write_bytes(b"")
    summaries, asked = write_all(images)
    commit_dataset(summaries, asked)
    manifest = DatasetManifest.read(str(committed(images)))
    assert manifest.matched == 25
    assert manifest.rejects == {"empty_file": 1}
    (name,) = manifest.reject_files
    (row,) = pyarrow.parquet.read_table(committed(images) / name).to_pylist()
    assert (row["uri"], row["reason"]) == (str(images / "b.png"), "empty_file")


def test_too_many_rejects_refuse_the_dataset_with_the_counts(images):
    for label in ("a", "b", "c"):
        draw(images, label)
    (images / "x.png").write_bytes(b"")
    (images / "ab.png").write_bytes(b"")
    commit_dataset([write(images)], request(images, 5))
    reason = json.loads(unfinished(images, "refused.json").read_text())["reason"]
    assert "2 of 5 images (40.0%) were rejected (1 empty_file, 1 symbol_not_in_charset)" in reason
    assert "--max_reject_fraction=0.05" in reason
    assert f"{images.parent}/unfinished/rejects-*.parquet" in reason
    assert not committed(images).exists()
    assert len(rejected(images)) == 2


def test_a_refused_dataset_is_committed_when_more_rejects_are_allowed_without_doing_its_shards_again(images):
    for label in ("a", "b", "x"):
        draw(images, label)
    commit_dataset([write(images)], request(images, 3))
    before = unfinished(images, SHARD).stat().st_mtime_ns
    commit_dataset([write(images, max_reject_fraction=0.5)], request(images, 3, max_reject_fraction=0.5))
    assert (committed(images) / SHARD).stat().st_mtime_ns == before
    assert not (committed(images) / "refused.json").exists()
    assert DatasetManifest.read(str(committed(images))).rejects == {"symbol_not_in_charset": 1}


def test_a_dataset_with_nothing_to_train_on_is_refused(images):
    draw(images, "a")
    commit_dataset([write(images, ("test", 0))], request(images, 1))
    reason = json.loads(unfinished(images, "refused.json").read_text())["reason"]
    assert reason == "none of the 1 images is left for training: give more images"
    assert not committed(images).exists()


@pytest.mark.parametrize("listed", [2, 4])
def test_a_lost_or_doubled_image_stops_the_commit_with_the_numbers(images, listed):
    for label in ("a", "b", "c"):
        draw(images, label)
    summary = write(images)
    with pytest.raises(RuntimeError, match=rf"{listed} images were listed, 3 reached a shard, 3 were written and 0"):
        commit_dataset([summary], request(images, listed))
    assert not committed(images).exists()


def test_an_image_that_is_neither_written_nor_rejected_stops_the_commit(images):
    for label in ("a", "b", "c"):
        draw(images, label)
    summary = dataclasses.replace(write(images), examples=2)
    with pytest.raises(RuntimeError, match="an image was lost or doubled"):
        commit_dataset([summary], request(images, 3))


def test_stale_files_of_another_shard_count_are_removed(images):
    draw_many(images)
    stale = ["train-00001-of-00007.tfrecord.gz", "rejects-train-00001-of-00007.parquet", "refused.json"]
    for name in stale:
        unfinished(images, name).parent.mkdir(exist_ok=True)
        unfinished(images, name).write_bytes(b"stale")
    summaries, asked = write_all(images)
    commit_dataset(summaries, asked)
    assert not [name for name in stale if (committed(images) / name).exists()]


def test_the_rejects_of_an_earlier_attempt_are_not_kept(images):
    draw(images, "a")
    bad = images / "b.png"
    bad.write_bytes(b"")
    write(images)
    draw(images, "b")
    commit_dataset([write(images)], request(images, 2))
    assert DatasetManifest.read(str(committed(images))).reject_files == ()
    assert not list(committed(images).glob("rejects-*"))


def test_the_temporary_file_of_a_killed_worker_does_not_get_into_the_dataset(images):
    draw(images, "a")
    summary = write(images)
    unfinished(images, ".unfinished-k1ll3d.tmp").write_bytes(b"half a shard")
    commit_dataset([summary], request(images, 1))
    assert sorted(path.name for path in committed(images).iterdir()) == [
        "charset.txt",
        "manifest.json",
        "statistics.json",
        SHARD,
    ]


def test_a_shard_without_any_example_is_not_part_of_the_dataset(images):
    draw(images, "a")
    train = write(images)
    (images.parent / "lines2").mkdir()
    draw(images.parent / "lines2", "x")
    (listed,) = references(images.parent / "lines2")
    test = write_training_shard(("test", 0), [listed], request(images, 2))
    commit_dataset([train, test], request(images, 2, max_reject_fraction=0.9))
    manifest = DatasetManifest.read(str(committed(images)))
    assert [shard.name for shard in manifest.shards] == [SHARD]
    assert manifest.reject_files == ("rejects-test-00000-of-00001.parquet",)
    assert not (committed(images) / "test-00000-of-00001.tfrecord.gz").exists()


def test_a_commit_that_an_engine_repeats_leaves_the_dataset_whole(images):
    draw_many(images)
    summaries, asked = write_all(images)
    commit_dataset(summaries, asked)
    before = sorted(path.name for path in committed(images).iterdir())
    commit_dataset(summaries, asked)
    assert sorted(path.name for path in committed(images).iterdir()) == before


def test_shards_are_named_in_the_same_order_whatever_the_order_of_the_summaries(images):
    draw_many(images)
    summaries, asked = write_all(images)
    commit_dataset(reversed(summaries), asked)
    assert [shard.split for shard in DatasetManifest.read(str(committed(images))).shards] == [
        "train",
        "validation",
        "test",
    ]


# Warnings


def test_an_empty_split_is_warned_of(images):
    draw(images, "a")
    commit_dataset([write(images)], request(images, 1))
    assert DatasetManifest.read(str(committed(images))).warnings == (
        "the validation split is empty: there are too few images for it",
        "the test split is empty: there are too few images for it",
    )


def test_tight_labels_are_warned_of_with_their_number(images):
    draw(images, "abc", width=28)  # 7 time steps, 2 * 3 + 1
    draw(images, "cba", width=29)  # 8
    commit_dataset([write(images)], request(images, 2))
    warnings = DatasetManifest.read(str(committed(images))).warnings
    assert [warning for warning in warnings if warning.startswith("1 labels fit their images but leave no room")]


def test_a_symbol_that_is_tested_but_never_trained_is_warned_of(images):
    draw(images, "a")
    train = write(images)
    (images.parent / "tested").mkdir()
    draw(images.parent / "tested", "abc")
    test = write_training_shard(("test", 0), references(images.parent / "tested"), request(images, 2))
    commit_dataset([train, test], request(images, 2))
    warnings = DatasetManifest.read(str(committed(images))).warnings
    assert "2 symbols of the test split never occur in the training split and cannot be learned: 'b' 'c'" in warnings
