"""Listing and joining as Beam jobs on the runner that this machine has, from files to listing files."""

import dataclasses
import json
import os
import random
import uuid
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.test_pipeline import TestPipeline as BeamPipeline
from apache_beam.testing.util import assert_that, equal_to

from components.listing import (
    ImageReference,
    LabelRules,
    ListingSummary,
    PathTables,
    Places,
    TableColumns,
    list_images,
    merge_listings,
    read_listing,
    read_unused_labels,
    write_listing,
)
from components.listing.table_paths import NameRule, PathRule, find_path_rule
from components.listing.transforms import GroupByShard, JoinTables, ListCollection, ListOnce
from components.rejects import Reject
from tests.components.listing.files import put
from tfrecords import DataError, SplitFractions, storage

FRACTIONS = SplitFractions(0.2, 0.2)
NFC, NFD = "Zeile é", "Zeile e\u0301"


def run(sources: list[Any], work: beam.PTransform, summary_path: str) -> ListingSummary:
    """Runs one job; its only output has to be the summary that it wrote."""

    def is_written(outputs: list[ListingSummary]) -> None:
        (summary,) = outputs
        assert dataclasses.asdict(summary) == storage.read_json(summary_path)

    with BeamPipeline(runner=FnApiRunner()) as pipeline:
        assert_that(pipeline | beam.Create(sources) | work, is_written)
    return ListingSummary(**storage.read_json(summary_path))


# Listing


def list_collection(folder: str, roots: list[list[str]], labels: LabelRules | None) -> tuple[ListingSummary, list[str]]:
    files = [f"{folder}/{number}.parquet" for number in range(len(roots))]
    summary_path = f"{folder}/summary.json"
    work = ListCollection(summary_path, labels, FRACTIONS)
    return run(list(zip(roots, files, strict=True)), work, summary_path), files


def test_a_listing_job_writes_a_file_for_each_group_of_roots_and_one_summary(tmp_path):
    put(tmp_path, "1/a.png", "1/sub/b.png", "2/c.png", "2/d.png")
    put(tmp_path, "1/a.txt", "2/c.txt", content=b"abc")
    put(tmp_path, "1/unused.txt", "1/.hidden", "2/page.xml")
    labels = LabelRules("sidecar", split_by="folder")
    roots = [[f"{tmp_path}/1"], [f"{tmp_path}/2/c.png", f"{tmp_path}/2/d.png"]]
    summary, files = list_collection(f"{tmp_path}/listing", roots, labels)
    expected = [[image for root in group for image in list_images(root, labels)] for group in roots]
    assert [list(read_listing(file)) for file in files] == expected
    assert [label.uri for file in files for label in read_unused_labels(file)] == [f"{tmp_path}/1/unused.txt"]
    assert (summary.images, summary.with_sidecar) == (4, 2)
    assert summary.symbols == {"a": 2, "b": 2, "c": 2}
    assert summary.passed_over == {".txt": 2, "hidden": 1}
    assert summary.unused_labels == {"no_image": 1}
    again = [write_listing(group, f"{tmp_path}/again/{n}", labels, FRACTIONS) for n, group in enumerate(roots)]
    assert dataclasses.replace(merge_listings(again), path="") == summary


def test_a_root_that_cannot_be_listed_ends_the_listing_job_with_its_sentence(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def deny(path):
        if str(path) == f"{tmp_path}/closed":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
    with pytest.raises(DataError, match=r"cannot list the folder '.*/closed'"):
        list_collection(f"{tmp_path}/listing", [[f"{tmp_path}/closed"]], None)


# Images once

DAMAGED = ["", "lines/,damaged", "\0", "s9://bucket/a.png"]
"""Rows that name nothing."""


@pytest.fixture
def list_once(tmp_path):
    """Runs both jobs over the tables `1.csv` and `2.jsonl`, with these rows, and over some folders beside them."""
    tables = PathTables((f"{tmp_path}/1.csv", f"{tmp_path}/2.jsonl"))

    def run_both(first: list[str], second: list[str], *roots: str) -> tuple[ListingSummary, list[ImageReference]]:
        (tmp_path / "1.csv").write_text("".join(f"{row},-\n" for row in ["path", *first, *DAMAGED]))
        (tmp_path / "2.jsonl").write_text("".join(json.dumps({"path": row}) + "\n" for row in second))
        folder = f"{tmp_path}/{uuid.uuid4().hex}"
        sources = [*(f"{tmp_path}/{root}" for root in roots), *tables.paths]
        files = [f"{folder}/{number}.parquet" for number in range(len(sources))]
        work = ListCollection(f"{folder}/listed.json", None, FRACTIONS, Places.from_roots(sources), tables)
        listed = run(
            [([source], file) for source, file in zip(sources, files, strict=True)], work, f"{folder}/listed.json"
        )
        assert (listed.images, listed.repeats) == (sum(len(list(read_listing(file))) for file in files), 0)

        once = [f"{folder}/once-{number}.parquet" for number in range(8)]
        kinds = ["folders"] * len(roots) + ["table"] * 2
        work = ListOnce(f"{folder}/once.json", once, FRACTIONS)
        summary = run(list(zip(kinds, files, strict=True)), work, f"{folder}/once.json")
        of_files = [list(read_listing(file)) for file in once]
        images = [image for listing in of_files for image in listing]
        assert all(of_files), "too few images for a test of several places"
        assert all(listing == sorted(listing, key=lambda image: (image.key, image.uri)) for listing in of_files)
        assert summary.images == len(images) == listed.images - summary.repeats
        assert len({image.key for image in images}) == len(images)
        return summary, images

    return run_both


@pytest.fixture
def lines(tmp_path) -> list[str]:
    """The paths of 101 images, one of them a link to another."""
    put(tmp_path, *(f"lines/{number:03d}.png" for number in range(100)), "real/a.png", "real/b.png", "real/c.png")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "lines" / "alias.png").symlink_to("000.png")
    return [f"lines/{number:03d}.png" for number in range(100)] + ["lines/alias.png"]


def test_an_image_that_several_rows_name_is_listed_once_and_so_is_what_is_not_there(tmp_path, lines, list_once):
    rows = ["link/a.png", "real/a.png", "link/../link/b.png", "gone.png", "./gone.png", "lines", "real/../lines"]
    summary, images = list_once([*lines, *rows], ["lines/007.png", "lines/007.png"])
    uris = sorted(image.uri for image in images if image.problem is None)
    assert uris == sorted(f"{tmp_path}/{name}" for name in [*lines, "real/a.png", "link/b.png"])
    assert summary.repeats == 5  # 007.png twice; a.png, gone.png and the folder once
    assert summary.problems == {"damaged_row": 4, "unreadable": 2}
    table = f"{tmp_path}/1.csv"
    assert {image.detail for image in images if image.problem == "unreadable"} == {
        f"row 106 of {table} names 'gone.png': there is no such file",
        f"row 108 of {table} names 'lines', a folder: name the images in it, or give the folder itself",
    }


def test_the_order_of_rows_and_their_repeats_decide_nothing(lines, list_once):
    rows = [*lines, "link/a.png", "real/a.png"]
    first, _ = list_once(rows, ["lines/007.png"])
    random.Random(1).shuffle(rows)
    second, _ = list_once(rows, ["lines/007.png", "link/a.png"])
    assert (first.repeats, second.repeats) == (2, 3)
    assert (first.images, first.digest) == (second.images, second.digest)


def test_what_a_folder_lists_is_listed_as_if_no_table_named_it(tmp_path, lines, list_once):
    folders = [image for root in ("lines", "link") for image in list_images(f"{tmp_path}/{root}")]
    rows = [*lines, "real/a.png", "link/b.png", "lines/../link/b.png"]
    summary, images = list_once(rows, ["real/c.png"], "lines", "link")
    assert {image for image in images if image.problem is None} == set(folders)
    assert (summary.repeats, summary.images) == (len(rows) + 1, len(folders) + len(DAMAGED))


# Joining


@dataclasses.dataclass
class Collection:
    """Images without labels and tables, and what must become of each.

    Attributes:
        roots: of the images.
        rules: that name the tables.
        outcomes: text, reason and group of each image, by key.
        unused: the labels that no image gets, sorted by URI.
    """

    roots: list[str]
    rules: LabelRules
    outcomes: dict[str, tuple[str | None, str | None, str | None]]
    unused: list[Reject]


@pytest.fixture
def collection(tmp_path) -> Collection:
    """Two folders, one of them reached through a link, and three tables of three kinds."""
    put(tmp_path, *(f"lines/{number}.png" for number in range(30)), "lines/100%.png", "lines/sub/x.png")
    put(tmp_path, f"lines/{NFC}.png", f"lines/{NFD}.png", f"lines/{NFD} alone.png", "lines/no row.png")
    put(tmp_path, "real/a.png", "real/b.png", "real/c.png", "real/d.png", "real/e.png", "elsewhere/f.png")
    put(tmp_path, os.fsdecode(b"lines/\xe9.png"))
    (tmp_path / "link").symlink_to(tmp_path / "real")

    csv_rows = ["path,text,page"]
    csv_rows += [f"{'./' if number % 2 else ''}{number}.png,text {number},page {number // 10}" for number in range(30)]
    csv_rows += [f"{NFC}.png,composed,p", f"{NFD}.png,decomposed,p", f"{NFC} alone.png,alone,p"]
    csv_rows += ["too,many,cells,here", ",no path,p", "gone.png,x,p", "../elsewhere/f.png,x,p"]
    (tmp_path / "lines" / "labels.csv").write_text("\n".join(csv_rows))

    json_rows = [
        ("lines/100%.png", " two\t words\n", "p"),
        ("lines/sub/../sub/x.png", "e\u0323\u0302", "Blatt e\u0301"),
        ("lines/0.png", "text  0 ", "page 0"),
        ("lines/1.png", "something else", "page 0"),
        (f"{tmp_path}/lines/2.png", "text 2", "page 9"),
        ("link/a.png", "one\ntwo", "p"),
        ("real/b.png", "", "p"),
        (f"{tmp_path}/link/c.png", "x" * 21, "p"),
    ]
    (tmp_path / "labels.jsonl").write_text(
        "".join(json.dumps({"path": path, "text": text, "page": page}) + "\n" for path, text, page in json_rows)
    )
    (tmp_path / "real" / "labels.tsv").write_text("page\ttext\tpath\n\tx\td.png\np\tbell\x07\te.png\n")

    outcomes: dict[str, tuple[str | None, str | None, str | None]] = {
        f"lines/{number}.png": (f"text {number}", None, f"page {number // 10}") for number in range(30)
    }
    outcomes |= {
        "lines/1.png": (None, "conflicting_labels", None),
        "lines/2.png": (None, "conflicting_labels", None),
        "lines/100%25.png": ("two words", None, "p"),
        "lines/sub/x.png": ("\u1ec7", None, "Blatt é"),
        f"lines/{NFC}.png": ("composed", None, "p"),
        f"lines/{NFD}.png": ("decomposed", None, "p"),
        f"lines/{NFD} alone.png": ("alone", None, "p"),
        "lines/no row.png": (None, "no_label", None),
        "lines/%E9.png": (None, "no_label", None),
        "link/a.png": (None, "several_lines", "p"),
        "link/b.png": (None, "empty_label", "p"),
        "link/c.png": (None, "label_too_long", "p"),
        "link/d.png": (None, "no_group", None),
        "link/e.png": (None, "label_not_text", "p"),
    }
    tables = (f"{tmp_path}/lines/labels.csv", f"{tmp_path}/labels.jsonl", f"{tmp_path}/link/labels.tsv")
    return Collection(
        roots=[f"{tmp_path}/lines", f"{tmp_path}/link"],
        rules=LabelRules(
            "table", tables=tables, columns=TableColumns(group="page"), split_by="page", max_label_length=20
        ),
        outcomes=outcomes,
        unused=[
            Reject(
                f"{tmp_path}/elsewhere/f.png",
                "no_image",
                f"row 38 of {tables[0]}: the image that it names is not among those of --images",
            ),
            Reject(
                f"{tmp_path}/lines/gone.png",
                "no_image",
                f"row 37 of {tables[0]}: there is no such image",
            ),
            Reject(
                tables[0],
                "damaged_row",
                f"row 35 of {tables[0]}: it has 4 cells instead of 3: perhaps a text has a comma and is not quoted",
            ),
            Reject(tables[0], "damaged_row", f"row 36 of {tables[0]}: no path"),
        ],
    )


def write_listings(folder: str, collection: Collection) -> list[str]:
    return [
        write_listing([root], f"{folder}/{number}.parquet", collection.rules, FRACTIONS).path
        for number, root in enumerate(collection.roots)
    ]


def join(
    folder: str,
    listings: list[str],
    rules: LabelRules,
    places: int,
    seed: int | None = None,
    path_rules: Sequence[PathRule | NameRule | None] = (),
) -> tuple[ListingSummary, list[ImageReference], list[Reject]]:
    """Runs the job; returns the summary, and images and unused labels of all places together."""
    sources: list[tuple[str, Any]] = [("listing", path) for path in listings]
    sources += [("table", number) for number in range(len(rules.tables))]
    if seed is not None:
        random.Random(seed).shuffle(sources)
    destinations = [f"{folder}/labelled-{number}.parquet" for number in range(places)]
    summary_path = f"{folder}/labelled.json"
    summary = run(sources, JoinTables(summary_path, destinations, rules, FRACTIONS, path_rules), summary_path)
    written = [path for path in destinations if storage.exists(path)]
    images = [image for path in written for image in read_listing(path)]
    unused = [label for path in written for label in read_unused_labels(path)]
    assert len(images) == summary.images
    return (
        summary,
        sorted(images, key=lambda image: image.uri),
        sorted(unused, key=lambda label: (label.uri, label.detail)),
    )


@pytest.mark.parametrize("places", [1, 5])
def test_a_join_gives_every_image_its_label_or_a_reason_and_every_row_an_image_or_a_place(tmp_path, collection, places):
    listings = write_listings(f"{tmp_path}/listing", collection)
    summary, images, unused = join(f"{tmp_path}/joined", listings, collection.rules, places)
    assert {image.key: (image.text, image.problem, image.group) for image in images} == collection.outcomes
    assert unused == collection.unused
    assert summary.images == len(collection.outcomes)
    assert summary.unused_labels == {"damaged_row": 2, "no_image": 2}
    assert sum(summary.splits.values()) == summary.images
    texts = "".join(text or "" for text, _, _ in collection.outcomes.values())
    assert summary.symbols == {symbol: texts.count(symbol) for symbol in sorted(set(texts))}


def test_a_join_changes_nothing_of_an_image_but_its_label_and_group(tmp_path, collection):
    listings = write_listings(f"{tmp_path}/listing", collection)
    _, images, _ = join(f"{tmp_path}/joined", listings, collection.rules, 3)
    before = sorted((image for path in listings for image in read_listing(path)), key=lambda image: image.uri)
    assert [image._replace(text=None, problem=None, detail=None, group=None) for image in images] == before


def test_the_order_of_inputs_and_the_number_of_places_do_not_change_what_a_join_gives(tmp_path, collection):
    listings = write_listings(f"{tmp_path}/listing", collection)
    joined = {
        (places, seed): join(f"{tmp_path}/{places}-{seed}", listings, collection.rules, places, seed)
        for places, seed in ((1, 0), (4, 1), (4, 2), (40, 3))
    }
    (_, images, unused), *others = joined.values()
    assert [other[1:] for other in others] == [(images, unused)] * 3
    assert joined[4, 1][0] == joined[4, 2][0]  # the digest, too
    counts = [
        (summary.images, summary.splits, summary.symbols, summary.unused_labels) for summary, _, _ in joined.values()
    ]
    assert counts == counts[:1] * 4


def test_how_images_are_spread_over_listing_files_does_not_change_what_a_join_gives(tmp_path, collection):
    listings = write_listings(f"{tmp_path}/listing", collection)
    together = write_listing(collection.roots, f"{tmp_path}/listing/all.parquet", collection.rules, FRACTIONS).path
    first = join(f"{tmp_path}/first", listings, collection.rules, 2)
    assert join(f"{tmp_path}/second", [together], collection.rules, 2) == first


def test_rows_that_name_images_by_the_ends_of_their_paths_meet_them_in_any_place(tmp_path):
    images = [f"set/{folder}/{number}.PNG" for folder in "ab" for number in range(20)]
    put(tmp_path, *images, *(f"set/c/one {number}.jpg" for number in range(20)))
    rows = [f"C:\\{number}\\{folder}\\{number}.png,{folder}{number}" for folder in "ab" for number in range(20)]
    rows += [f"one {number},c{number}" for number in range(20)] + ["3.png,several", "gone,z"]
    (tmp_path / "names.csv").write_text("\n".join(["path,text", *rows]) + "\n")
    (tmp_path / "set" / "paths.csv").write_text("path,text\nc/one 1.jpg,c1\nc/one 2.jpg,other\n")
    tables = (f"{tmp_path}/names.csv", f"{tmp_path}/set/paths.csv")
    rules = LabelRules("table", tables=tables)
    path_rules = [find_path_rule(table, rules.columns, [f"{tmp_path}/set"]) for table in tables]
    assert path_rules == [NameRule(str(tmp_path)), None]
    listing = write_listing([f"{tmp_path}/set"], f"{tmp_path}/listing/0.parquet", rules, FRACTIONS).path
    joined = {places: join(f"{tmp_path}/{places}", [listing], rules, places, None, path_rules) for places in (1, 7)}
    summary, found, unused = joined[7]
    assert joined[1][1:] == (found, unused)
    texts = {image.key: image.text for image in found}
    assert {key: texts[key] for key in images} == {
        f"set/{folder}/{number}.PNG": f"{folder}{number}" for folder in "ab" for number in range(20)
    }
    assert [image.problem for image in found if image.text is None] == ["conflicting_labels"]
    assert texts["set/c/one 1.jpg"] == "c1"
    assert summary.matched == {"by name without its suffix": 20, "by path": 2, "by the end of the path": 40}
    assert [(label.uri, label.detail.partition(": ")[2][:32]) for label in unused] == [
        ("3.png", "several images have this name, s"),
        ("gone", "there is no image of this name"),
    ]


def test_a_table_that_cannot_be_read_ends_the_join_with_its_sentence(tmp_path, collection):
    listings = write_listings(f"{tmp_path}/listing", collection)
    (tmp_path / "bad.csv").write_bytes(b"path,text,page\na.png,x,1\nb.png,caf\xe9,1\n")
    rules = dataclasses.replace(collection.rules, tables=(*collection.rules.tables, f"{tmp_path}/bad.csv"))
    with pytest.raises(DataError, match=r"line 3 of .*/bad\.csv is not UTF-8 \(byte 0xE9\)"):
        join(f"{tmp_path}/joined", listings, rules, 2)


def test_a_join_whose_table_names_no_image_rejects_every_image_and_reports_every_row(tmp_path):
    put(tmp_path, "lines/a.png", "lines/b.png")
    (tmp_path / "labels.csv").write_text("path,text\na.png,x\nb.png,y\n")
    rules = LabelRules("table", tables=(f"{tmp_path}/labels.csv",))
    listing = write_listing([f"{tmp_path}/lines"], f"{tmp_path}/listing.parquet", rules, FRACTIONS).path
    summary, images, unused = join(f"{tmp_path}/joined", [listing], rules, 2)
    assert [image.problem for image in images] == ["no_label"] * 2
    assert [label.reason for label in unused] == ["no_image"] * 2
    assert (summary.images, summary.symbols) == (2, {})


@pytest.mark.parametrize("scheme", ["memory:///", "memory://"])
def test_a_join_reads_and_writes_in_object_stores(scheme):
    bucket = f"{scheme}{uuid.uuid4().hex}"
    for name in ("a.png", "sub/b.png", f"{NFD}.png", "100%.png", "no row.png"):
        storage.write_bytes(f"{bucket}/lines/{name}", b"image")
    content = f"path,text\na.png,w\n./sub/../sub/b.png,x\n{NFC}.png,y\n{bucket}/lines/100%.png,z\ngone.png,v\n"
    storage.write_bytes(f"{bucket}/lines/labels.csv", content.encode())
    rules = LabelRules("table", tables=(f"{bucket}/lines/labels.csv",))
    listing = write_listing([f"{bucket}/lines"], f"{bucket}/work/listing.parquet", rules, FRACTIONS).path
    _, images, unused = join(f"{bucket}/work", [listing], rules, 3)
    texts = {image.uri.partition("/lines/")[2]: image.text for image in images}
    assert texts == {"a.png": "w", "sub/b.png": "x", f"{NFD}.png": "y", "100%.png": "z", "no row.png": None}
    assert [(label.reason, label.uri.rpartition("/")[2]) for label in unused] == [("no_image", "gone.png")]
    storage.remove_folder(bucket)


# Grouping


def test_listed_images_come_together_by_shard_in_the_order_of_their_keys_and_uris(tmp_path):
    for place in "bca":
        put(tmp_path, *(f"{place}/lines/{number:02d}.png" for number in range(30)))
    listings = [
        write_listing([f"{tmp_path}/{place}/lines"], f"{tmp_path}/{place}.parquet", None, FRACTIONS).path
        for place in "bca"
    ]
    expected = {
        shard: [
            next(list_images(f"{tmp_path}/{place}/lines/{number:02d}.png"))
            for number in range(shard, 30, 4)
            for place in "abc"
        ]
        for shard in range(4)
    }
    with BeamPipeline(runner=FnApiRunner()) as pipeline:
        shards = pipeline | beam.Create(listings) | GroupByShard(lambda image: int(image.key[-6:-4]) % 4)
        assert_that(shards, equal_to(list(expected.items())))
