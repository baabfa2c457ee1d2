"""Writing a shard and committing a dataset, on real images and without Beam."""

import collections
import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import numpy as np
import pyarrow.compute
import pyarrow.parquet
import pytest
import tensorflow as tf
from PIL import Image

from components.ingest import IngestRequest, ShardSummary, commit_dataset, write_training_shard
from components.ingest.dataset import describe_or_find_twins, describe_written_shard
from components.ingest.describe import SAMPLES_SCHEMA
from components.listing import ImageReference, LabelRules, list_images, write_listing
from components.processes import HelperPool
from components.rejects import REJECTS_SCHEMA
from tests.components.ingest.written import parse_shard
from tfrecords import (
    Charset,
    DatasetManifest,
    ImageLimits,
    SplitFractions,
    choose_shard,
    choose_split,
    decode_png,
    read_records,
)

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
    return in_order(list_images(str(folder), LabelRules("filename")))


def in_order(listed) -> list[ImageReference]:
    """References as a shard gets them."""
    return sorted(listed, key=lambda reference: (reference.key, reference.uri))


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


def test_a_summary_says_what_became_of_the_shard(images):
    for label in ("abc", "bb", "aaa", "x"):
        draw(images, label)
    summary = write(images, ("validation", 1), shards={"train": 1, "validation": 2, "test": 1})
    path = unfinished(images, "validation-00001-of-00002.tfrecord.gz")
    assert (summary.split, summary.index) == ("validation", 1)
    assert (summary.matched, summary.examples, summary.rejects) == (4, 3, {"symbol_not_in_charset": 1})
    assert summary.bytes == path.stat().st_size
    assert summary.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert summary.groups == {}
    assert unfinished(images, "rejects-validation-00001-of-00002.parquet").exists()
    assert unfinished(images, "summaries/validation-00001-of-00002.json").exists()


def test_examples_are_counted_by_group_and_rejects_are_not(images):
    for label in ("aa", "ab", "bb", "x", "c"):
        draw(images, label)
    groups = {"aa": "second", "ab": "first", "bb": "second", "x": "second", "c": "first"}
    listed = [reference._replace(group=groups[reference.text]) for reference in references(images)]
    summary = write_training_shard(("train", 0), listed, request(images, 5))
    assert list(summary.groups.items()) == [("first", 2), ("second", 2)]


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


def test_the_limits_of_the_request_are_applied(images):
    draw(images, "abc", width=50)
    draw(images, "b", width=120)
    assert reject_of(images, references(images), limits=ImageLimits(max_pixels=2399))["reason"] == "too_large"


def test_an_image_without_a_usable_label_keeps_the_reason_of_the_listing(images):
    draw(images, "abc")
    draw(images, "b")
    good, bad = references(images)
    bad = bad._replace(text=None).reject("several_lines", "as the listing said")
    row = reject_of(images, [good, bad])
    assert (row["reason"], row["detail"]) == ("several_lines", "as the listing said")


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


def test_images_of_two_folders_of_one_name_are_all_written_in_the_order_of_their_places(images):
    expected = []
    for part in ("one", "two"):
        folder = images / part / "lines"
        folder.mkdir(parents=True)
        for label in ("abc", "cba"):
            expected.append(str(draw(folder, label)))
    listed = in_order(
        r for part in ("one", "two") for r in list_images(f"{images}/{part}/lines", LabelRules("filename"))
    )
    assert [reference.key for reference in listed] == ["lines/abc.png"] * 2 + ["lines/cba.png"] * 2
    summary = write_training_shard(("train", 0), listed, request(images, 4))
    assert (summary.examples, summary.rejects) == (4, {})
    uris = [example["uri"] for example in parse_shard(unfinished(images, SHARD))]
    assert uris == [reference.uri for reference in listed]
    assert sorted(uris) == sorted(expected)


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


def test_a_shard_is_the_same_to_the_byte_however_many_processes_write_it(images):
    pixels = np.random.default_rng(0).integers(0, 256, (620, 8, 24), np.uint8)
    for number in range(620):
        label = "x" if number % 50 == 7 else f"{'abc'[number % 3]}{'cab'[number // 3 % 3]}"
        path = images / f"{number:03d}-{label}.png"
        Image.fromarray(pixels[number]).save(path, compress_level=0)
    (images / "300-a.png").write_bytes(b"no image")
    listed = in_order(list_images(str(images), LabelRules("filename", pattern="{number}-{label}")))
    folders = {processes: str(images.parent / f"of-{processes}") for processes in (1, 2)}
    summaries, rows = {}, {}
    for processes, folder in folders.items():
        asked = request(images, len(listed), folder=folder, processes=processes)
        with HelperPool.open_for_job() as helpers:
            summaries[processes] = write_training_shard(("train", 0), listed, asked)
            assert helpers.has_helpers
        (rejects,) = pathlib.Path(folder).glob("rejects-*.parquet")
        rows[processes] = pyarrow.parquet.read_table(rejects).drop_columns(["at"])
    assert summaries[1] == summaries[2]
    assert summaries[1].rejects == {"not_an_image": 1, "symbol_not_in_charset": 13}
    assert pathlib.Path(folders[1], SHARD).read_bytes() == pathlib.Path(folders[2], SHARD).read_bytes()
    assert rows[1].equals(rows[2])


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


def test_a_shard_that_an_older_version_finished_is_done_again(images):
    draw(images, "abc")
    first = write(images)
    (path,) = (images.parent / "unfinished" / "summaries").iterdir()
    path.write_text(json.dumps({**json.loads(path.read_text()), "widths": {"100": 1}}))
    unfinished(images, SHARD).write_bytes(b"")
    assert write(images) == first
    assert unfinished(images, SHARD).stat().st_size == first.bytes


# Reading back


def test_a_written_shard_is_read_back_under_keys_that_bring_its_parts_together(images):
    for label in ("abc", "aab", "cab"):
        draw(images, label)
    asked = request(images, 3, shards={"train": 2, "validation": 3, "test": 2})
    summary = write_training_shard(("test", 1), references(images), asked)
    (key, (described, description)), *blocks = describe_written_shard(summary, asked)
    assert key == "shards test 0"
    assert described == [summary]
    assert description.symbols == {"a": 4, "b": 3, "c": 2}
    assert {place.shard for _, place in description.contact_sheet} == {6}
    assert [key for key, _ in blocks] == ["twins 0"]
    assert describe_or_find_twins(key, [(described, description)], asked) == (described, description)
    twins = describe_or_find_twins("twins 0", [block for _, block in blocks], asked)
    assert (twins.conflicting, twins.leaking, twins.shown) == (0, 0, [])


def test_the_number_of_a_shard_tells_its_split(images):
    asked = request(images, 0, shards={"train": 4, "validation": 1, "test": 2})
    assert asked.shard_splits == ["train"] * 4 + ["validation"] + ["test"] * 2
    for split, index in (("train", 3), ("validation", 0), ("test", 0), ("test", 1)):
        assert asked.shard_splits[asked.shard_number(split, index)] == split
    assert [asked.shard_number("test", index) for index in range(2)] == [5, 6]


# Committing


def read_back(summaries: list[ShardSummary], asked: IngestRequest) -> list[Any]:
    """Reads the shards back for the commit, as the Beam job does."""
    together: dict[str, list[Any]] = collections.defaultdict(list)
    for summary in summaries:
        for key, value in describe_written_shard(summary, asked):
            together[key].append(value)
    return [describe_or_find_twins(key, values, asked) for key, values in together.items()]


def commit(summaries: list[ShardSummary], asked: IngestRequest) -> None:
    """Reads the shards back and commits them."""
    commit_dataset(read_back(summaries, asked), asked)


def write_all(images: pathlib.Path, **changes) -> tuple[list[ShardSummary], IngestRequest]:
    """Writes the shards that have images, of every split, as the Beam job does."""
    listed = references(images)
    asked = request(images, len(listed), **changes)
    shards: dict[tuple[str, int], list[ImageReference]] = collections.defaultdict(list)
    for reference in listed:
        split = choose_split(reference.split_key, FRACTIONS)
        shards[split, choose_shard(reference.key, asked.shards[split])].append(reference)
    return [write_training_shard(shard, mine, asked) for shard, mine in shards.items()], asked


def draw_many(images: pathlib.Path, count: int = 24) -> None:
    for number in range(count):
        label = "".join("abc"[number // 3**place % 3] for place in range(3))
        draw(images, label)


def test_a_committed_dataset_is_complete_and_its_manifest_agrees_with_its_files(images):
    draw_many(images)
    charset = Charset(("a", "b", "c"))
    summaries, asked = write_all(images, charset=charset)
    commit(summaries, asked)
    folder = committed(images)
    manifest = DatasetManifest.read(str(folder))
    assert sorted(path.name for path in folder.iterdir()) == [
        "charset.txt",
        "manifest.json",
        "samples.parquet",
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
    assert manifest.read_charset(str(folder)) == charset
    assert (manifest.rejects, manifest.unused_labels, manifest.reject_files, manifest.warnings) == ({}, {}, (), ())


def test_the_statistics_agree_with_the_manifest_and_with_what_the_shards_hold(images):
    draw_many(images)
    (images / "cc.png").write_bytes(b"no image")
    draw(images, "xx")
    summaries, asked = write_all(
        images,
        shards={"train": 2, "validation": 1, "test": 2},
        max_reject_fraction=1.0,
        label_source="the file names",
        passed_over={".txt": 3},
    )
    commit(summaries, asked)
    folder = committed(images)
    statistics = json.loads((folder / "statistics.json").read_text())
    manifest = DatasetManifest.read(str(folder))
    assert (statistics["dataset_id"], statistics["matched"]) == ("0123456789ab", 26)
    assert statistics["rejects"] == manifest.rejects == {"not_an_image": 1, "symbol_not_in_charset": 1}
    assert (statistics["label_source"], statistics["passed_over"]) == ("the file names", {".txt": 3})
    assert (statistics["split_by"], statistics["unused_labels"]) == ("image", {})
    rejects: collections.Counter[str] = collections.Counter()
    for split, part in statistics["splits"].items():
        examples = [example for shard in manifest.shards_of(split) for example in parse_shard(folder / shard.name)]
        assert part["examples"] == manifest.examples(split) == len(examples)
        assert part["widths"] == [[100, len(examples)]]
        assert part["label_lengths"] == [[3, len(examples)]]
        assert part["symbols"] == collections.Counter("".join(example["text"] for example in examples))
        assert (part["groups"], part["largest_groups"]) == (0, {})
        rejects.update(part["rejects"])
    assert rejects == manifest.rejects
    assert sum(part["examples"] for part in statistics["splits"].values()) == 24
    assert sum(statistics["symbols"].values()) == 3 * 24
    assert statistics["symbols_without_image"] == [" "]


def test_the_warnings_of_the_manifest_follow_from_the_statistics(images):
    for label in ("aaa", "abc"):
        draw(images, label, width=28)
    commit([write(images)], request(images, 2))
    assert [warning.split(" (")[0] for warning in DatasetManifest.read(str(committed(images))).warnings] == [
        "the validation split is empty: there are too few images for it",
        "the test split is empty: there are too few images for it",
        "2 labels fit their images but leave no room for a blank around every symbol",
        "3 symbols occur",
        "1 symbol occurs",
    ]


def test_samples_are_kept_with_the_dataset_and_are_examples_of_it(images):
    draw_many(images)
    draw(images, "abab")
    summaries, asked = write_all(images)
    commit(summaries, asked)
    table = pyarrow.parquet.read_table(committed(images) / "samples.parquet")
    assert table.schema.equals(SAMPLES_SCHEMA)
    examples = {
        (path.name.split("-")[0], example["uri"]): example
        for path in committed(images).glob("*.tfrecord.gz")
        for example in parse_shard(path)
    }
    assert len(examples) == 25
    for sample in table.to_pylist():
        example = examples[sample["split"], sample["uri"]]
        assert {name: sample[name] for name in ("text", "width", "image")} == {
            name: example[name] for name in ("text", "width", "image")
        }
    assert set(table["role"].to_pylist()) == {"contact_sheet", "longest", "strangest"}
    assert table.filter(pyarrow.compute.field("role") == "longest")["text"][0].as_py() == "abab"


def test_identical_images_are_found_across_the_shards_of_all_splits(images):
    draw_many(images)
    copies = images.parent / "copies"
    copies.mkdir()
    draw(copies, "abc")
    draw(copies, "abc", name="cc")
    asked = request(images, 26)
    shards = {("train", 0): references(images), ("test", 0): references(copies)}
    commit([write_training_shard(shard, listed, asked) for shard, listed in shards.items()], asked)
    statistics = json.loads((committed(images) / "statistics.json").read_text())
    assert statistics["identical_images"]["with_other_labels"] == 3
    table = pyarrow.parquet.read_table(committed(images) / "samples.parquet")
    twins = [row for row in table.to_pylist() if row["role"] == "twins"]
    assert {row["text"] for row in twins} == {"abc", "cc"}
    assert len({row["image"] for row in twins}) == 1


def test_labels_that_no_image_got_are_kept_with_the_dataset(images):
    folders = [images / "first", images / "second"]
    for folder in folders:
        folder.mkdir()
        draw(folder, "abc", name="line")
        (folder / "line.gt.txt").write_text("abc")
        (folder / "lost.gt.txt").write_text("cba")
    listings = [str(images.parent / f"{folder.name}.parquet") for folder in folders]
    for folder, listing in zip(folders, listings, strict=True):
        write_listing([str(folder)], listing, LabelRules("sidecar"), FRACTIONS)
    listed = in_order(reference for folder in folders for reference in list_images(str(folder), LabelRules("sidecar")))
    asked = request(images, 2, listings=tuple(listings), unused_labels={"no_image": 2})
    commit([write_training_shard(("train", 0), listed, asked)], asked)
    table = pyarrow.parquet.read_table(committed(images) / "unused_labels.parquet")
    assert table.schema.equals(REJECTS_SCHEMA)
    assert [(row["uri"], row["reason"]) for row in table.to_pylist()] == [
        (str(folder / "lost.gt.txt"), "no_image") for folder in folders
    ]
    assert set(table["run_id"].to_pylist()) == {"0123456789ab"}
    manifest = DatasetManifest.read(str(committed(images)))
    statistics = json.loads((committed(images) / "statistics.json").read_text())
    assert manifest.unused_labels == statistics["unused_labels"] == {"no_image": 2}
    assert (manifest.matched, manifest.rejects) == (2, {})
    assert any("2 labels belong to no image" in warning for warning in manifest.warnings)


def test_rejects_are_kept_with_the_dataset_and_counted_in_its_manifest(images):
    draw_many(images)
    (images / "b.png").write_bytes(b"")
    summaries, asked = write_all(images)
    commit(summaries, asked)
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
    commit([write(images)], request(images, 5))
    reason = json.loads(unfinished(images, "refused.json").read_text())["reason"]
    assert "2 of 5 images (40.0%) were rejected (1 empty_file, 1 symbol_not_in_charset)" in reason
    assert "--max_reject_fraction=0.05" in reason
    assert f"{images.parent}/unfinished/rejects-*.parquet" in reason
    assert not committed(images).exists()
    assert len(rejected(images)) == 2


def test_a_refused_dataset_is_committed_when_more_rejects_are_allowed_without_doing_its_shards_again(images):
    for label in ("a", "b", "x"):
        draw(images, label)
    commit([write(images)], request(images, 3))
    before = unfinished(images, SHARD).stat().st_mtime_ns
    commit([write(images, max_reject_fraction=0.5)], request(images, 3, max_reject_fraction=0.5))
    assert (committed(images) / SHARD).stat().st_mtime_ns == before
    assert not (committed(images) / "refused.json").exists()
    assert DatasetManifest.read(str(committed(images))).rejects == {"symbol_not_in_charset": 1}


def test_a_dataset_with_nothing_to_train_on_is_refused(images):
    draw(images, "a")
    commit([write(images, ("test", 0))], request(images, 1))
    reason = json.loads(unfinished(images, "refused.json").read_text())["reason"]
    assert reason == "none of the 1 images is left for training: give more images"
    assert not committed(images).exists()


@pytest.mark.parametrize("listed", [2, 4])
def test_a_lost_or_doubled_image_stops_the_commit_with_the_numbers(images, listed):
    for label in ("a", "b", "c"):
        draw(images, label)
    summary = write(images)
    with pytest.raises(RuntimeError, match=rf"{listed} images were listed, 3 reached a shard, 3 were written and 0"):
        commit([summary], request(images, listed))
    assert not committed(images).exists()


def test_an_image_that_is_neither_written_nor_rejected_stops_the_commit(images):
    for label in ("a", "b", "c"):
        draw(images, label)
    summary = dataclasses.replace(write(images), examples=2)
    with pytest.raises(RuntimeError, match="an image was lost or doubled"):
        commit([summary], request(images, 3))


def test_stale_files_of_another_shard_count_are_removed(images):
    draw_many(images)
    stale = ["train-00001-of-00007.tfrecord.gz", "rejects-train-00001-of-00007.parquet", "refused.json"]
    for name in stale:
        unfinished(images, name).parent.mkdir(exist_ok=True)
        unfinished(images, name).write_bytes(b"stale")
    summaries, asked = write_all(images)
    commit(summaries, asked)
    assert not [name for name in stale if (committed(images) / name).exists()]


def test_the_rejects_of_an_earlier_attempt_are_not_kept(images):
    draw(images, "a")
    bad = images / "b.png"
    bad.write_bytes(b"")
    write(images)
    draw(images, "b")
    commit([write(images)], request(images, 2))
    assert DatasetManifest.read(str(committed(images))).reject_files == ()
    assert not list(committed(images).glob("rejects-*"))


def test_the_temporary_file_of_a_killed_worker_does_not_get_into_the_dataset(images):
    draw(images, "a")
    summary = write(images)
    unfinished(images, ".unfinished-k1ll3d.tmp").write_bytes(b"half a shard")
    commit([summary], request(images, 1))
    assert sorted(path.name for path in committed(images).iterdir()) == [
        "charset.txt",
        "manifest.json",
        "samples.parquet",
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
    commit([train, test], request(images, 2, max_reject_fraction=0.9))
    manifest = DatasetManifest.read(str(committed(images)))
    assert [shard.name for shard in manifest.shards] == [SHARD]
    assert manifest.reject_files == ("rejects-test-00000-of-00001.parquet",)
    assert not (committed(images) / "test-00000-of-00001.tfrecord.gz").exists()


def test_a_commit_that_an_engine_repeats_changes_nothing(images):
    draw_many(images)
    (images / "cc.png").write_bytes(b"no image")
    summaries, asked = write_all(images)
    settled = read_back(summaries, asked)

    def state() -> dict[str, tuple[int, bytes]]:
        return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in committed(images).iterdir()}

    commit_dataset(settled, asked)
    before = state()
    assert len(before) == 8
    commit_dataset(settled, asked)
    commit_dataset(iter(settled[::-1]), asked)
    assert state() == before


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.tfrecord.gz")}


def test_added_images_change_only_the_shards_that_they_fall_into(images):
    shards = {"train": 8, "validation": 4, "test": 4}
    draw_many(images, 27)
    commit(*write_all(images, shards=shards))
    before = contents(committed(images))
    added = [f"lines/{draw(images, label).name}" for label in ("abab", "caca", "bcbc")]
    larger = images.parent / "larger"
    commit(*write_all(images, shards=shards, destination=str(larger)))
    after = contents(larger)
    fallen = set()
    for key in added:
        split = choose_split(key.removesuffix(".png"), FRACTIONS)
        fallen.add(f"{split}-{choose_shard(key, shards[split]):05d}-of-{shards[split]:05d}.tfrecord.gz")
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == fallen
    assert len(fallen) < len(before)
    assert sum(DatasetManifest.read(str(larger)).counts.values()) == 30


def test_a_collection_that_is_written_with_another_number_of_shards_leaves_none_of_the_old_ones(images):
    draw_many(images, 27)
    (images / "cc.png").write_bytes(b"no image")
    write_all(images, shards={"train": 4, "validation": 2, "test": 2})
    assert len(list((images.parent / "unfinished").glob("*-of-00004.tfrecord.gz"))) == 4
    summaries, asked = write_all(images, shards={"train": 2, "validation": 2, "test": 1})
    commit(summaries, asked)
    manifest = DatasetManifest.read(str(committed(images)))
    assert sorted(contents(committed(images))) == sorted(shard.name for shard in manifest.shards)
    assert sorted(path.name for path in committed(images).glob("rejects-*")) == sorted(manifest.reject_files)
    assert not list(committed(images).glob("*-of-00004.*"))
    assert sum(manifest.counts.values()) == 27


def test_shards_are_named_in_the_same_order_whatever_the_order_of_the_summaries(images):
    draw_many(images)
    summaries, asked = write_all(images)
    commit(summaries[::-1], asked)
    assert [shard.split for shard in DatasetManifest.read(str(committed(images))).shards] == [
        "train",
        "validation",
        "test",
    ]
