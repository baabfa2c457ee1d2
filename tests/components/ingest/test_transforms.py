"""Listing and ingest as Beam jobs, from image files to a dataset that tf.data reads."""

import collections
import dataclasses
import json
import os
import pathlib

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from PIL import Image

from components.ingest import IngestRequest
from components.ingest.transforms import WriteDataset
from components.listing import LabelRules, ListingSummary, list_images, write_listing
from components.listing.transforms import GroupByShard, ListCollection
from components.processes import HelperPool
from components.transforms import GatherOnce
from tests.components.ingest.written import parse_shard
from tfrecords import Charset, DatasetManifest, ImageLimits, SplitFractions, choose_shard, choose_split, storage

FRACTIONS = SplitFractions(0.2, 0.2)
SHARDS = {"train": 3, "validation": 1, "test": 2}
SIDECARS = LabelRules("sidecar")


@pytest.fixture
def roots(tmp_path) -> list[str]:
    """Two folders with 40 labelled images, and one of 0 bytes and one with a name that is not UTF-8."""
    for number in range(40):
        folder = tmp_path / ("first" if number % 3 else "second/sub")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (20, 60 + number), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.gt.txt").write_text(f"line {number}\n")
    (tmp_path / "first" / "empty.png").write_bytes(b"")
    (tmp_path / "first" / "empty.gt.txt").write_text("1")
    odd = tmp_path / "second" / os.fsdecode(b"\xff[1]%")
    Image.new("L", (80, 20)).save(f"{odd}.png")
    pathlib.Path(f"{odd}.gt.txt").write_text("odd one")
    return [str(tmp_path / "first"), str(tmp_path / "second")]


def request(tmp_path: pathlib.Path, listing: ListingSummary, name: str, **changes) -> IngestRequest:
    values = IngestRequest(
        dataset_id=name,
        folder=str(tmp_path / f"unfinished-{name}"),
        destination=str(tmp_path / "datasets" / name),
        images=listing.images,
        shards=SHARDS,
        height=20,
        time_stride=4,
        charset=Charset(tuple(listing.symbols)),
        limits=ImageLimits(),
        max_reject_fraction=0.05,
    )
    return dataclasses.replace(values, **changes)


def write_listings(
    tmp_path: pathlib.Path, roots: list[str], rules: LabelRules = SIDECARS
) -> tuple[ListingSummary, list[str]]:
    """Runs the listing job; returns the summary that it committed, and the listing files."""
    files = [str(tmp_path / "listing" / f"{number}.parquet") for number in range(len(roots))]
    summary = str(tmp_path / "listing" / "summary.json")
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        _ = (
            pipeline
            | beam.Create([([root], file) for root, file in zip(roots, files, strict=True)])
            | ListCollection(summary, rules, FRACTIONS)
        )
    return ListingSummary(**storage.read_json(summary)), files


def ingest(files: list[str], asked: IngestRequest):
    pipeline = beam.Pipeline(runner=FnApiRunner())
    _ = pipeline | beam.Create(files) | WriteDataset(asked, FRACTIONS)
    result = pipeline.run()
    result.wait_until_finish()
    return result


def test_images_become_a_dataset_that_tf_data_reads_back(tmp_path, roots):
    listing, files = write_listings(tmp_path, roots)
    assert listing.images == 42
    assert sum(listing.splits.values()) == 42
    result = ingest(files, request(tmp_path, listing, "id"))

    folder = tmp_path / "datasets" / "id"
    manifest = DatasetManifest.read(str(folder))
    assert (manifest.matched, manifest.rejects) == (42, {"empty_file": 1})
    for name in ("statistics.json", "samples.parquet", "charset.txt"):
        assert (folder / name).exists()
    charset = manifest.read_charset(str(folder))
    expected = {r.uri: r for root in roots for r in list_images(root, SIDECARS) if r.size_bytes}
    seen = set()
    for shard in manifest.shards:
        records = list(tf.data.TFRecordDataset(str(folder / shard.name), compression_type="GZIP").as_numpy_iterator())
        assert len(records) == shard.examples
        for record in records:
            feature = tf.train.Example.FromString(record).features.feature
            reference = expected[feature["uri"].bytes_list.value[0].decode()]
            seen.add(reference.uri)
            assert feature["text"].bytes_list.value[0].decode() == reference.text
            assert charset.decode(feature["label"].int64_list.value) == reference.text
            split = choose_split(reference.split_key, FRACTIONS)
            index = choose_shard(reference.key, SHARDS[split])
            assert shard.name == f"{split}-{index:05d}-of-{SHARDS[split]:05d}.tfrecord.gz"
            image = tf.io.decode_png(feature["image"].bytes_list.value[0])
            assert image.shape == (20, feature["width"].int64_list.value[0], 1)
    assert seen == set(expected)

    counters = {
        counter.key.metric.name: counter.committed
        for counter in result.metrics().query(MetricsFilter().with_namespace("ingest"))["counters"]
    }
    assert counters == {
        "images-matched": 42,
        "examples-written": 41,
        "images-rejected": 1,
        "bytes-written": sum(path.stat().st_size for path in folder.glob("*.tfrecord.gz")),
    }


def test_the_shards_do_not_depend_on_how_the_images_were_listed(tmp_path, roots):
    listing, files = write_listings(tmp_path, roots)
    ingest(files, request(tmp_path, listing, "one"))
    single = tmp_path / "other" / "name.parquet"
    whole = [write_listing([root], f"{single}{root[-1]}", SIDECARS, FRACTIONS).path for root in reversed(roots)]
    ingest(whole, request(tmp_path, listing, "two"))
    one, two = (DatasetManifest.read(str(tmp_path / "datasets" / name)) for name in ("one", "two"))
    assert one.shards == two.shards
    assert len(one.shards) == 6


def test_a_dataset_with_too_many_rejects_is_refused_and_the_job_still_ends(tmp_path, roots):
    listing, files = write_listings(tmp_path, roots)
    asked = request(tmp_path, listing, "id", max_reject_fraction=0.0)
    ingest(files, asked)
    refused = json.loads((tmp_path / "unfinished-id" / "refused.json").read_text())
    assert refused["reason"].startswith("1 of 42 images (2.4%) were rejected (1 empty_file)")
    assert not (tmp_path / "datasets" / "id").exists()


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.tfrecord.gz")}


def test_no_group_lies_in_two_splits(tmp_path):
    root = tmp_path / "books"
    images: collections.Counter[str] = collections.Counter()
    for number in range(90):
        folder = root / f"book {number % 15}" / ("pages" if number % 4 else ".")
        folder.mkdir(parents=True, exist_ok=True)
        images[f"books/book {number % 15}"] += 1
        pixels = np.random.default_rng(number).integers(0, 256, (20, 60), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("ab")
    assert len(images) == 15
    listing, files = write_listings(tmp_path, [str(root)], LabelRules("sidecar", split_by="folder"))
    ingest(files, request(tmp_path, listing, "id", split_by="folder"))
    folder = tmp_path / "datasets" / "id"
    manifest = DatasetManifest.read(str(folder))
    splits_of: dict[str, set[str]] = collections.defaultdict(set)
    found: collections.Counter[str] = collections.Counter()
    for shard in manifest.shards:
        for example in parse_shard(folder / shard.name):
            group = "/".join(os.path.relpath(example["uri"], tmp_path).split("/")[:2])
            splits_of[group].add(shard.split)
            found[group] += 1
    assert found == images
    assert all(len(splits) == 1 for splits in splits_of.values())
    assert set.union(*splits_of.values()) == {"train", "validation", "test"}
    statistics = json.loads((folder / "statistics.json").read_text())
    assert statistics["split_by"] == "folder"
    for split, part in statistics["splits"].items():
        mine = {group: images[group] for group, splits in splits_of.items() if splits == {split}}
        assert part["groups"] == len(mine)
        assert part["largest_groups"] == mine
        assert part["examples"] == sum(mine.values())


def test_a_dataset_is_the_same_to_the_byte_however_many_processes_a_worker_may_occupy(tmp_path):
    root = tmp_path / "lines"
    root.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (1000, 8, 24), np.uint8)
    for number in range(1000):
        Image.fromarray(pixels[number]).save(root / f"{number:03d}-{'ab'[number % 2]}.png", compress_level=0)
    (root / "100-a.png").write_bytes(b"no image")
    rules = LabelRules("filename", pattern="{number}-{label}")
    listing, files = write_listings(tmp_path, [str(root)], rules)
    datasets = []
    for processes in (1, 2):
        shards = {"train": 1, "validation": 1, "test": 1}
        with HelperPool.open_for_job() as helpers:
            ingest(files, request(tmp_path, listing, f"of-{processes}", shards=shards, height=8, processes=processes))
            assert helpers.has_helpers
        datasets.append(tmp_path / "datasets" / f"of-{processes}")
    one, two = datasets
    assert len(contents(one)) == 3
    assert contents(one) == contents(two)
    assert (one / "samples.parquet").read_bytes() == (two / "samples.parquet").read_bytes()
    first, second = (DatasetManifest.read(str(folder)) for folder in datasets)
    assert first.shards == second.shards
    assert first.rejects == second.rejects == {"not_an_image": 1}


def test_images_that_are_added_change_only_the_shards_that_they_fall_into(tmp_path, roots):
    listing, files = write_listings(tmp_path, roots)
    ingest(files, request(tmp_path, listing, "before"))
    pixels = np.random.default_rng(99).integers(0, 256, (20, 90), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "first" / "99.png")
    (tmp_path / "first" / "99.gt.txt").write_text("line 9\n")
    listing, files = write_listings(tmp_path, roots)
    assert listing.images == 43
    ingest(files, request(tmp_path, listing, "after"))
    before, after = (contents(tmp_path / "datasets" / name) for name in ("before", "after"))
    split = choose_split("first/99", FRACTIONS)
    fallen = f"{split}-{choose_shard('first/99.png', SHARDS[split]):05d}-of-{SHARDS[split]:05d}.tfrecord.gz"
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] != after[name]] == [fallen]


def test_each_reference_is_grouped_once_with_its_shard_in_order_of_its_key(tmp_path, roots):
    path = str(tmp_path / "listing.parquet")
    write_listing([roots[0]], path, SIDECARS, FRACTIONS)
    references = list(list_images(roots[0], SIDECARS))

    def check(groups):
        assert [reference for _, group in sorted(groups) for reference in group] == sorted(
            references, key=lambda reference: (reference.size_bytes % 3, reference.key)
        )

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        groups = pipeline | beam.Create([path]) | GroupByShard(lambda reference: reference.size_bytes % 3)
        assert_that(groups, check)


def test_what_is_gathered_is_committed_once_with_everything():
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        total = pipeline | beam.Create(range(100)) | beam.Reshuffle() | GatherOnce(lambda numbers: sum(numbers))
        assert_that(total, equal_to([4950]))
