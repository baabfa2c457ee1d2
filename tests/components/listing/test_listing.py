"""Listing files written and read again, and labels of tables joined to images, on a real disk and by URL."""

import dataclasses
import json
import os
import pathlib
import random
import shutil
import unicodedata
import uuid
from collections.abc import Iterable

import pyarrow.parquet
import pytest

from components.listing import (
    ImageReference,
    LabelRules,
    ListingSummary,
    TableColumns,
    find_path_rule,
    list_images,
    merge_listings,
    path_to_uri,
    read_listing,
    read_unused_labels,
    write_listing,
)
from components.listing.joining import LabelRow, join_labels, locate_for_join, normalise_for_join, read_label_rows
from components.rejects import Reject
from components.transforms import pack_blocks, unpack_blocks
from tests.components.listing.files import put, put_remote
from tfrecords import DataError, SplitFractions, choose_shard, storage

FRACTIONS = SplitFractions()
NFC, NFD = "Zeile é", "Zeile e\u0301"
COMPOSED, HALF_COMPOSED, DECOMPOSED = "\u1ec7", "\u00ea\u0323", "e\u0323\u0302"


# Listing files


def listed(images: pathlib.Path, name: str = "listing.parquet", source: str = "sidecar", **rules) -> ListingSummary:
    return write_listing([str(images)], str(images.parent / name), LabelRules(source, **rules), FRACTIONS)


def test_a_listing_file_gives_back_every_reference(images, monkeypatch):
    put(images, "a.png", "sub/b.png", "c.png", "d.png", os.fsdecode(b"\xe9%.png"), "two\nlines.png", "e\u0301.png")
    put(images, "a.txt", content="e\u0323\u0302 שלום \U0001f600 'quoted\" \\".encode())
    put(images, "c.txt", content=b"\xe9")
    put(images, "d.txt", content=b"x" * 501)
    (images / "broken.png").symlink_to(images / "nowhere")
    (images / "closed").mkdir()
    os.utime(images / "a.png", ns=(0, -1_000_000))
    scandir = os.scandir

    def deny(path):
        if str(path) == f"{images}/closed":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
    rules = LabelRules("sidecar", split_by="folder")
    references = list(list_images(str(images), rules))
    assert {reference.problem for reference in references} == {
        *(None, "no_label", "label_not_text", "label_too_long", "unreadable_folder")
    }
    summary = listed(images, split_by="folder")
    assert list(read_listing(summary.path)) == references
    assert summary.images == len(references) == 9
    table = pyarrow.parquet.read_table(summary.path)
    assert table["uri"].to_pylist() == [reference.uri for reference in references]
    assert table.column_names == list(ImageReference._fields)


def test_without_rules_and_groups_a_listing_file_gives_back_the_same_too(images):
    put(images, "a.png", "b.png")
    summary = write_listing([str(images)], f"{images}.parquet", None, FRACTIONS)
    assert list(read_listing(summary.path)) == list(list_images(str(images)))


def test_a_listing_file_holds_several_roots_in_the_order_given(tmp_path):
    put(tmp_path, "1/a.png", "2/b.png", "3/c.png")
    roots = [f"{tmp_path}/{name}" for name in ("2", "3/c.png", "1")]
    summary = write_listing(roots, f"{tmp_path}/listing.parquet", None, FRACTIONS)
    assert [reference.key for reference in read_listing(summary.path)] == ["2/b.png", "3/c.png", "1/a.png"]


def test_a_summary_counts_images_splits_and_symbols(images):
    put(images, *(f"{number}.png" for number in range(200)))
    put(images, "0.txt", content=b"abba")
    put(images, "1.txt", content=b"b c")
    put(images, "2.txt", content=b"\xff")
    put(images, "3.txt", content="e\u0301".encode())
    put(images, "x.txt", "labels.csv", ".hidden")
    summary = listed(images)
    assert summary.images == 200
    assert sum(summary.splits.values()) == 200
    assert set(summary.splits) == {"train", "validation", "test"}
    assert summary.symbols == {" ": 1, "a": 2, "b": 3, "c": 1, "é": 1}
    assert list(summary.symbols) == sorted(summary.symbols)
    assert summary.with_sidecar == 4
    assert summary.passed_over == {".csv": 1, ".txt": 5, "hidden": 1}
    assert summary.unused_labels == {"no_image": 1}


def test_a_summary_counts_problems_and_tells_the_first_of_them_and_of_the_unused_labels(images):
    put(images, "a.png", "b.png", "c.png", "d.png", "a.txt", "y.txt", "x.txt")
    put(images, "b.txt", content=b"\xff")
    summary = listed(images)
    assert summary.problems == {"label_not_text": 1, "no_label": 2}
    problem, unused = summary.examples
    assert problem.startswith(f"{images}/b.png: {images}/b.txt is not UTF-8")
    assert unused == f"{images}/x.txt: no image of its name lies beside it"


def test_a_summary_of_images_without_problems_has_no_examples(images):
    put(images, "a.png", "a.txt")
    assert (listed(images).problems, listed(images).examples) == ({}, [])


def test_the_first_problem_is_told_wherever_it_stands(tmp_path):
    references = [ImageReference(f"/x/{number:05d}.png", f"x/{number:05d}.png", 1, 2) for number in range(4_500)]
    rows = [LabelRow(image.uri, "a", None, 0, number, "", None) for number, image in enumerate(references[:-2])]
    summary = join_labels(references, rows, f"{tmp_path}/joined.parquet", table_rules("/nowhere.csv"), FRACTIONS)
    assert summary.problems == {"no_label": 2}
    (example,) = summary.examples
    assert example.startswith("/x/04498.png: no row of /nowhere.csv ")


def test_a_summary_survives_json(images):
    put(images, "a.png", "a.txt", "x.txt", ".hidden")
    summary = listed(images)
    assert ListingSummary(**json.loads(json.dumps(dataclasses.asdict(summary)))) == summary


def test_an_empty_folder_gives_an_empty_listing(images):
    summary = listed(images)
    assert (summary.images, summary.splits, summary.symbols, summary.passed_over) == (0, {}, {}, {})
    assert list(read_listing(summary.path)) == []
    assert list(read_unused_labels(summary.path)) == []


def test_the_images_of_one_group_are_in_one_split(images):
    put(images, *(f"{folder}/{number}.png" for folder in "abc" for number in range(20)))
    splits = {
        folder: set(write_listing([f"{images}/{folder}"], f"{images}.parquet", None, FRACTIONS).splits)
        for folder in "abc"
    }
    assert all(len(found) > 1 for found in splits.values())
    rules = LabelRules("filename", split_by="folder")
    for folder in "abc":
        (count,) = write_listing([f"{images}/{folder}"], f"{images}.parquet", rules, FRACTIONS).splits.values()
        assert count == 20


def test_unused_labels_lie_beside_the_listing_file_in_order(images):
    put(images, "a.png", "a.txt", "z.txt", "b.gt.txt", os.fsdecode(b"100%\xe9.txt"))
    summary = listed(images)
    assert summary.unused_labels == {"no_image": 3}
    assert summary.unused_path == f"{images.parent}/listing.unused.parquet"
    assert list(read_unused_labels(summary.path)) == [
        Reject(f"{images}/{name}", "no_image", "no image of its name lies beside it")
        for name in ("100%25%E9.txt", "b.gt.txt", "z.txt")
    ]


def test_a_listing_file_that_is_written_again_forgets_the_unused_labels_of_before(images):
    put(images, "a.png", "a.txt", "x.txt")
    assert listed(images).unused_labels == {"no_image": 1}
    (images / "x.txt").unlink()
    summary = listed(images)
    assert summary.unused_labels == {}
    assert list(read_unused_labels(summary.path)) == []


def test_listing_files_are_written_and_read_by_url(images):
    put(images, "a.png", "a.txt", "x.txt")
    folder = f"memory://{uuid.uuid4().hex}"
    summary = write_listing([str(images)], f"{folder}/listing.parquet", LabelRules("sidecar"), FRACTIONS)
    assert list(read_listing(summary.path)) == list(list_images(str(images), LabelRules("sidecar")))
    assert [label.uri for label in read_unused_labels(summary.path)] == [f"{images}/x.txt"]
    storage.remove_folder(folder)


# Digests


def test_the_digest_does_not_depend_on_where_or_when_it_is_listed(images):
    put(images, "a.png", "b.png")
    first = listed(images, "first.parquet")
    os.utime(images, ns=(1, 1))
    (images / "a.png").chmod(0o600)
    assert (images / "a.png").read_bytes() == b"image"
    put(images, ".hidden", "note.md")
    assert listed(images, "elsewhere/second.parquet").digest == first.digest


def test_the_digest_does_not_depend_on_the_order_of_the_files_in_the_folder(images):
    names = [
        f"{folder}{number}.{suffix}" for folder in ("", "sub/") for number in range(20) for suffix in ("png", "txt")
    ]
    digests = set()
    for seed in range(3):
        shutil.rmtree(images)
        random.Random(seed).shuffle(names)
        put(images, *names, "unused-2.txt", "unused-1.txt")
        for name in names:
            os.utime(images / name, ns=(0, 10**18))
        digests.add(listed(images).digest)
    assert len(digests) == 1


def change_size(images):
    status = (images / "a.png").stat()
    (images / "a.png").write_bytes(b"larger image")
    os.utime(images / "a.png", ns=(0, status.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        change_size,
        lambda images: os.utime(images / "a.png", ns=(0, 10**18)),
        lambda images: (images / "a.gt.txt").write_bytes(b"other"),
        lambda images: (images / "a.gt.txt").write_bytes(b"\xff"),
        lambda images: (images / "a.gt.txt").unlink(),
        lambda images: (images / "a.png").rename(images / "A.png"),
        lambda images: put(images, "b.png"),
        lambda images: put(images, "b.txt"),
        lambda images: (images / "unused.txt").unlink(),
        lambda images: (images / "unused.txt").rename(images / "unused too.txt"),
    ],
    ids=[
        *("size", "time", "label", "label problem", "no label", "name", "one image more"),
        *("one unused label more", "one unused label less", "name of an unused label"),
    ],
)
def test_the_digest_changes_with_anything_that_matters(images, change):
    put(images, "a.png", "a.gt.txt", "unused.txt")
    before = listed(images).digest
    change(images)
    assert listed(images).digest != before


def test_the_digest_changes_with_the_groups_and_with_the_reason_of_a_rejection(images):
    put(images, "ab.png")
    digests = [
        listed(images, source="filename").digest,
        listed(images, source="filename", split_by="folder").digest,
        listed(images, source="filename", max_label_length=1).digest,
        listed(images, source="filename", pattern="{label}_{id}").digest,
        listed(images, source="filename", pattern="{label}-{id}").digest,
    ]
    assert len(set(digests)) == len(digests)


# Merging


FIRST = ListingSummary("1.parquet", 3, {"train": 2, "test": 1}, {"b": 2}, 1, {".txt": 2}, {"no_image": 1}, "aa")
SECOND = ListingSummary("2.parquet", 2, {"train": 2}, {"a": 1, "b": 1}, 2, {".csv": 1}, {"damaged_row": 3}, "bb")


def test_merged_listings_add_up_in_whatever_order_they_come():
    merged = merge_listings([FIRST, SECOND])
    assert merged == merge_listings(iter([SECOND, FIRST]))
    assert (merged.path, merged.images, merged.with_sidecar) == ("", 5, 3)
    assert list(merged.splits.items()) == [("test", 1), ("train", 4)]
    assert list(merged.symbols.items()) == [("a", 1), ("b", 3)]
    assert list(merged.passed_over.items()) == [(".csv", 1), (".txt", 2)]
    assert list(merged.unused_labels.items()) == [("damaged_row", 3), ("no_image", 1)]


def test_merged_listings_count_all_problems_and_tell_the_first_three():
    listings = [
        dataclasses.replace(
            FIRST, path=f"{number}.parquet", problems={"no_label": number}, examples=[f"a {number}", "b"]
        )
        for number in (3, 1, 2)
    ]
    merged = merge_listings([*listings, SECOND])
    assert merged.problems == {"no_label": 6}
    assert merged.examples == ["a 1", "b", "a 2"]


def test_the_merged_digest_changes_with_any_listing():
    variants = [[FIRST], [FIRST, SECOND], [FIRST, dataclasses.replace(SECOND, digest="cc")]]
    assert len({merge_listings(variant).digest for variant in variants}) == 3


# Blocks


def numbered(count: int) -> list[LabelRow]:
    return [LabelRow(f"/{number}.png", "é" * (number % 5), None, 0, number, "", None) for number in range(count)]


def test_rows_come_in_blocks_of_equal_keys_in_their_order():
    rows = numbered(10)
    blocks = [
        (key, list(unpack_blocks([block], LabelRow))) for key, block in pack_blocks(rows, lambda row: row.row % 3)
    ]
    assert blocks == [(0, rows[0::3]), (1, rows[1::3]), (2, rows[2::3])]
    assert list(pack_blocks([], lambda row: row.row)) == []


@pytest.mark.parametrize("count", [1, 1_999, 2_000, 2_001, 25_000])
def test_no_block_has_more_than_two_thousand_rows_and_no_row_is_lost(count):
    rows = numbered(count)
    blocks = list(pack_blocks(iter(rows), lambda row: row.row % 2))
    assert max(sum(1 for _ in unpack_blocks([block], LabelRow)) for _, block in blocks) <= 2_000
    assert len(blocks) <= 2 * -(-count // 2_000)  # an engine asks its price for every block
    for key in (0, 1):
        assert list(unpack_blocks((block for found, block in blocks if found == key), LabelRow)) == rows[key::2]


def test_references_of_every_kind_come_out_of_blocks_as_they_went_in():
    references = [
        ImageReference("/a%25.png", "a%25.png", 1, -2, text="é \U0001f600", group="Blatt 7"),
        ImageReference("gs://b/a.png", "b/a.png", 2**40, 2**60, problem="no_label", detail="why"),
    ]
    blocks = [block for _, block in pack_blocks(references, lambda reference: reference.key)]
    assert list(unpack_blocks(blocks, ImageReference)) == references
    assert all(type(reference) is ImageReference for reference in unpack_blocks(blocks, ImageReference))


# Tables


def table_rules(*tables: str, group: str | None = None, **rules) -> LabelRules:
    split_by = rules.pop("split_by", group or "image")
    return LabelRules("table", tables=tables, columns=TableColumns(group=group), split_by=split_by, **rules)


def put_table(path: pathlib.Path, *rows: tuple[str, ...], header: tuple[str, ...] = ("path", "text", "page")) -> str:
    """Writes a `.jsonl` table, in which any text can stand; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(dict(zip(header, row, strict=False))) + "\n" for row in rows))
    return str(path)


@dataclasses.dataclass
class Joined:
    """What became of images and rows."""

    summary: ListingSummary
    images: dict[str, ImageReference]
    unused: list[Reject]

    @property
    def texts(self) -> dict[str, str | None]:
        return {key: image.text for key, image in self.images.items()}

    @property
    def problems(self) -> dict[str, str | None]:
        return {key: image.problem for key, image in self.images.items()}


def join(roots: pathlib.Path | str | list, *tables: str, destination: str | None = None, **rules) -> Joined:
    """Joins all images below the roots and all rows of the tables at one place."""
    asked = table_rules(*tables, **rules)
    roots = [str(root) for root in (roots if isinstance(roots, list) else [roots])]
    references = [reference for root in roots for reference in list_images(root, asked)]
    rows = [row for number in range(len(tables)) for row in read_label_rows(number, asked)]
    destination = destination or f"{os.path.dirname(roots[0])}/joined.parquet"
    summary = join_labels(references, rows, destination, asked, FRACTIONS)
    written = list(read_listing(destination))
    assert len(written) == len(references) == summary.images
    assert sorted(image.uri for image in written) == sorted(reference.uri for reference in references)
    keys = [image.key for image in written]
    named = {image.key if keys.count(image.key) == 1 else image.uri: image for image in written}
    return Joined(summary, named, list(read_unused_labels(destination)))


def test_a_row_on_its_way_names_where_its_image_has_to_be(images):
    put(images, "a.png")
    table = put_table(images / "labels.jsonl", ("a.png", " x ", "7"), ("b.png",))
    first, second = read_label_rows(0, table_rules(table, group="page"))
    assert first == LabelRow(f"{images}/a.png", " x ", "7", 0, 0, f"row 1 of {table}", None)
    assert second == LabelRow(table, "", None, 0, 1, f"row 2 of {table}", "it has no 'text'")


def test_a_table_that_cannot_be_read_is_an_error_with_its_name(images):
    with pytest.raises(DataError, match=r"missing\.csv does not exist"):
        list(read_label_rows(0, table_rules(f"{images}/missing.csv")))


@pytest.mark.parametrize(
    "path", ["a.png", "./a.png", "sub/../a.png", "../lines/a.png", "{lines}/a.png", "{lines}/sub/../../lines/./a.png"]
)
def test_a_path_in_a_table_is_relative_to_the_table_or_absolute(images, path):
    put(images, "a.png", "sub/b.png")
    table = put_table(images / "labels.jsonl", (path.format(lines=images), "x"))
    joined = join(images, table)
    assert joined.texts == {"lines/a.png": "x", "lines/sub/b.png": None}
    assert joined.unused == []


def test_a_table_may_lie_in_any_folder(tmp_path, images):
    put(images, "a.png", "sub/b.png")
    above = put_table(tmp_path / "labels.jsonl", ("lines/a.png", "x"))
    beside = put_table(tmp_path / "tables" / "labels.jsonl", ("../lines/sub/b.png", "y"))
    assert join(images, above, beside).texts == {"lines/a.png": "x", "lines/sub/b.png": "y"}


@pytest.mark.parametrize("root", ["lines", "link"])
@pytest.mark.parametrize("table", ["lines/labels.jsonl", "link/labels.jsonl"])
@pytest.mark.parametrize("path", ["a.png", "../lines/a.png", "{tmp}/lines/a.png", "{tmp}/link/a.png", "in/../a.png"])
def test_images_and_tables_meet_by_whatever_names_of_a_folder_they_are_reached(tmp_path, images, root, table, path):
    put(images, "a.png", "in/b.png")
    (tmp_path / "link").symlink_to(images)
    put_table(images / "labels.jsonl", (path.format(tmp=tmp_path), "x"))
    joined = join(tmp_path / root, f"{tmp_path}/{table}")
    assert joined.images[f"{root}/a.png"].text == "x"
    assert joined.unused == []


def test_two_points_after_a_link_lead_above_the_folder_that_it_leads_to(tmp_path, images):
    put(tmp_path, "elsewhere/a.png", "elsewhere/deep/b.png")
    put(images, "a.png")
    (images / "link").symlink_to(tmp_path / "elsewhere" / "deep")
    table = put_table(images / "labels.jsonl", ("link/../a.png", "x"))
    joined = join([images, tmp_path / "elsewhere"], table)
    assert joined.texts["elsewhere/a.png"] == "x"
    assert joined.texts["lines/a.png"] is None


def test_a_link_to_an_image_is_an_image_of_its_own(images):
    put(images, "a.png")
    (images / "b.png").symlink_to(images / "a.png")
    table = put_table(images / "labels.jsonl", ("a.png", "x"), ("b.png", "y"))
    assert join(images, table).texts == {"lines/a.png": "x", "lines/b.png": "y"}


def test_an_image_that_is_reached_from_two_roots_gets_its_label_at_both(tmp_path):
    put(tmp_path, "1/shared/a.png", "2/b.png")
    (tmp_path / "2" / "shared").symlink_to(tmp_path / "1" / "shared")
    table = put_table(tmp_path / "labels.jsonl", ("1/shared/a.png", "x"), ("2/b.png", "y"))
    joined = join([tmp_path / "1", tmp_path / "2"], table)
    assert joined.texts == {"1/shared/a.png": "x", "2/b.png": "y", "2/shared/a.png": "x"}


def test_folders_of_one_name_do_not_share_their_rows(tmp_path):
    put(tmp_path, "1/lines/a.png", "2/lines/a.png")
    tables = [put_table(tmp_path / name / "lines" / "labels.jsonl", ("a.png", name)) for name in ("1", "2")]
    joined = join([tmp_path / "1" / "lines", tmp_path / "2" / "lines"], *tables)
    assert joined.texts == {f"{tmp_path}/{name}/lines/a.png": name for name in ("1", "2")}


@pytest.mark.parametrize(
    "name",
    [
        *("with space.png", "a[1].png", "a*b?.png", "100%.png", "100%25.png", "%FF.png", "#fragment?query=1.png"),
        *(
            "'quotes\".png",
            "comma,semicolon;.png",
            "two\nlines.png",
            "back\\slash.png",
            "日本 é.png",
            "no suffix",
            "1.5",
        ),
    ],
)
def test_any_name_that_is_text_can_stand_in_a_table(images, name):
    put(images, name)
    table = put_table(images / "labels.jsonl", (name, "x"))
    joined = join(images, table)
    assert joined.texts == {f"lines/{path_to_uri(name)}": "x"}
    assert joined.unused == []


def test_a_path_with_percent_signs_is_a_name_and_no_encoding(images):
    put(images, "a b.png", os.fsdecode(b"\xe9.png"))
    table = put_table(images / "labels.jsonl", ("a%20b.png", "x"), ("%E9.png", "y"))
    joined = join(images, table)
    assert set(joined.problems.values()) == {"no_label"}
    assert {label.reason for label in joined.unused} == {"no_image"}


# Composed and decomposed names


@pytest.mark.parametrize(("on_disk", "in_table"), [(NFC, NFD), (NFD, NFC), (NFC, NFC), (NFD, NFD)])
@pytest.mark.parametrize("in_folder", [False, True])
def test_a_name_is_found_however_its_letters_are_composed(images, on_disk, in_table, in_folder):
    disk_name, table_name = (f"{name}/a.png" if in_folder else f"{name}.png" for name in (on_disk, in_table))
    put(images, disk_name)
    joined = join(images, put_table(images / "labels.jsonl", (table_name, "x")))
    assert joined.texts == {f"lines/{disk_name}": "x"}
    assert joined.unused == []


def test_of_two_images_whose_names_differ_in_composition_alone_each_gets_its_own_row(images):
    put(images, f"{NFC}.png", f"{NFD}.png")
    table = put_table(images / "labels.jsonl", (f"{NFD}.png", "decomposed"), (f"{NFC}.png", "composed"))
    joined = join(images, table)
    assert joined.texts == {f"lines/{NFC}.png": "composed", f"lines/{NFD}.png": "decomposed"}
    assert joined.unused == []


def test_of_two_such_images_one_row_labels_the_one_that_it_names_exactly(images):
    put(images, f"{NFC}.png", f"{NFD}.png")
    joined = join(images, put_table(images / "labels.jsonl", (f"{NFD}.png", "x")))
    assert joined.texts == {f"lines/{NFC}.png": None, f"lines/{NFD}.png": "x"}
    assert joined.images[f"lines/{NFC}.png"].problem == "no_label"


def test_a_row_that_could_name_either_of_two_images_is_given_to_none(images):
    put(images, f"{COMPOSED}.png", f"{DECOMPOSED}.png")
    joined = join(images, put_table(images / "labels.jsonl", (f"{HALF_COMPOSED}.png", "x")))
    assert set(joined.problems.values()) == {"no_label"}
    assert [label.reason for label in joined.unused] == ["no_image"]


@pytest.mark.parametrize(("texts", "problem"), [(("x", "x"), None), (("x", "y"), "conflicting_labels")])
def test_two_spellings_of_one_name_in_a_table_are_two_rows_of_one_image(images, texts, problem):
    put(images, f"{NFC}.png")
    table = put_table(images / "labels.jsonl", (f"{NFC}.png", texts[0]), (f"{NFD}.png", texts[1]))
    joined = join(images, table)
    assert joined.problems == {f"lines/{NFC}.png": problem}
    assert joined.unused == []


def test_the_place_where_images_and_rows_meet_does_not_depend_on_composition_or_links(tmp_path, images):
    put(images, f"{NFD}/100%.png")
    (tmp_path / "link").symlink_to(images)
    table = put_table(tmp_path / "labels.jsonl", (f"link/{NFC}/100%.png", "x"), (f"lines/{NFD}/../{NFD}/100%.png", "x"))
    places = {normalise_for_join(row.uri) for row in read_label_rows(0, table_rules(table))}
    for root in (images, tmp_path / "link"):
        (reference,) = list_images(str(root))
        places.add(normalise_for_join(locate_for_join(reference)))
    assert len(places) == 1


# Several rows of one image


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("a.png", "two words", "7"), ("a.png", "two words", "7")),
        (("a.png", "two words", "7"), ("./a.png", " two  words ", " 7 ")),
        (("a.png", "é", "7"), ("a.png", "e\u0301", "7")),
        (("a.png", "x", "Blatt é"), ("a.png", "x", "Blatt e\u0301")),
        (("a.png", "x", "Blatt 7"), ("a.png", "x", "Blatt  7")),
    ],
)
@pytest.mark.parametrize("tables", [1, 2])
def test_two_rows_that_say_the_same_are_one(images, first, second, tables):
    put(images, "a.png")
    if tables == 1:
        names = [put_table(images / "labels.jsonl", first, second)]
    else:
        names = [put_table(images / f"{number}.jsonl", row) for number, row in enumerate((first, second))]
    joined = join(images, *names, group="page")
    image = joined.images["lines/a.png"]
    assert (image.problem, image.detail) == (None, None)
    assert image.text == unicodedata.normalize("NFC", " ".join(first[1].split()))
    assert joined.unused == []


@pytest.mark.parametrize("tables", [1, 2])
def test_two_rows_that_differ_are_a_conflict_that_names_both(images, tables):
    put(images, "a.png", "b.png")
    rows = [("a.png", "x"), ("b.png", "y"), ("a.png", "X")]
    if tables == 1:
        names = [put_table(images / "labels.jsonl", *rows)] * 2
        second = f"row 3 of {names[0]}"
        joined = join(images, names[0])
    else:
        names = [put_table(images / "1.jsonl", *rows[:2]), put_table(images / "2.jsonl", rows[2])]
        second = f"row 1 of {names[1]}"
        joined = join(images, *names)
    assert joined.images["lines/a.png"]._replace(size_bytes=0, modified_us=0) == ImageReference(
        uri=f"{images}/a.png",
        key="lines/a.png",
        size_bytes=0,
        modified_us=0,
        problem="conflicting_labels",
        detail=f"row 1 of {names[0]} says 'x', {second} says 'X': leave one of them",
    )
    assert joined.images["lines/b.png"].text == "y"
    assert joined.unused == []


def test_the_first_difference_among_many_rows_is_told(images):
    put(images, "a.png")
    table = put_table(images / "labels.jsonl", *(("a.png", text) for text in ("x", "x", "y", "z")))
    assert f"row 1 of {table} says 'x', row 3 of {table} says 'y'" in join(images, table).images["lines/a.png"].detail


def test_rows_of_different_groups_are_a_conflict_if_groups_are_read(images):
    put(images, "a.png")
    table = put_table(images / "labels.jsonl", ("a.png", "x", "7"), ("a.png", "x", "8"))
    assert join(images, table).problems == {"lines/a.png": None}
    image = join(images, table, group="page").images["lines/a.png"]
    assert image.problem == "conflicting_labels"
    assert "says 'x' of group '7', row 2" in image.detail
    assert "says 'x' of group '8'" in image.detail


@pytest.mark.parametrize(
    "rows",
    [
        [("x" * 300_000, "7"), ("y" * 300_000, "7")],
        [("x", "7" * 300_000), ("x", "8" * 300_000)],
        [("x\n" * 300_000, "7")],
        [("x" * 300_000, "7")],
    ],
)
def test_the_detail_of_long_cells_is_short(images, rows):
    put(images, "a.png")
    table = put_table(images / "labels.jsonl", *(("a.png", *row) for row in rows))
    image = join(images, table, group="page").images["lines/a.png"]
    assert image.problem is not None
    assert len(image.detail) < 1_000


# Rows and images without each other


def test_an_image_without_a_row_has_no_label(images):
    put(images, "a.png", "b.png", "b.txt")
    table = put_table(images / "labels.jsonl", ("a.png", "x"))
    image = join(images, table).images["lines/b.png"]
    assert (image.text, image.problem, image.detail) == (
        None,
        "no_label",
        f"no row of {table} that can be read names it",
    )
    image = join(images, table, table).images["lines/b.png"]
    assert image.detail == f"no row of {table} and {table} that can be read names it"


def test_a_row_without_an_image_says_whether_the_image_is_elsewhere_or_nowhere(tmp_path, images):
    put(images, "a.png", "note.md")
    put(tmp_path, "elsewhere/100%.png")
    table = put_table(
        tmp_path / "labels.jsonl",
        *(("lines/a.png", "x"), ("elsewhere/100%.png", "y"), ("missing.png", "z"), ("lines/note.md", "w")),
        *(("elsewhere", "v"), ("file:///nowhere/a.png", "u")),
    )
    joined = join(images, table)
    assert joined.texts == {"lines/a.png": "x"}
    not_among, nowhere = "the image that it names is not among those of --images", "there is no such image"
    assert joined.unused == [
        Reject("/nowhere/a.png", "no_image", f"row 6 of {table}: {nowhere}"),
        Reject(f"{tmp_path}/elsewhere", "no_image", f"row 5 of {table}: {nowhere}"),
        Reject(f"{tmp_path}/elsewhere/100%25.png", "no_image", f"row 2 of {table}: {not_among}"),
        Reject(f"{tmp_path}/lines/note.md", "no_image", f"row 4 of {table}: {not_among}"),
        Reject(f"{tmp_path}/missing.png", "no_image", f"row 3 of {table}: {nowhere}"),
    ]
    assert joined.summary.unused_labels == {"no_image": 5}


def test_a_row_that_names_a_url_which_nothing_here_serves_does_not_end_the_join(images):
    put(images, "a.png")
    table = put_table(images / "labels.jsonl", ("nonsense://nowhere/a.png", "y"), ("a.png", "x"))
    joined = join(images, table)
    assert joined.texts == {"lines/a.png": "x"}
    (label,) = joined.unused
    assert label.reason in ("no_image", "damaged_row")
    assert label.detail.startswith(f"row 1 of {table}: ")


@pytest.mark.parametrize("path", ["sub", "sub/", ".", "..", "a.png/", "a.png/x", "/", "x" * 5_000, "y/" * 3_000])
def test_a_path_that_is_no_files_is_a_row_without_an_image(images, path):
    put(images, "a.png", "sub/b.png")
    joined = join(images, put_table(images / "labels.jsonl", (path, "x")))
    assert set(joined.problems.values()) == {"no_label"}
    assert [label.reason for label in joined.unused] == ["no_image"]


def test_damaged_rows_are_unused_labels_with_their_place(images):
    put(images, "a.png", "b.png")
    table = str(images / "labels.csv")
    pathlib.Path(table).write_text("path,text,page\na.png,x,y,1\n,z,1\na.png,x,1\nb.png\n")
    joined = join(images, table)
    assert joined.texts == {"lines/a.png": "x", "lines/b.png": None}
    assert joined.unused == [
        Reject(
            table,
            "damaged_row",
            f"row 2 of {table}: it has 4 cells instead of 3: perhaps a text has a comma and is not quoted",
        ),
        Reject(table, "damaged_row", f"row 3 of {table}: no path"),
        Reject(table, "damaged_row", f"row 5 of {table}: it has only 1 of 3 cells"),
    ]
    assert joined.summary.unused_labels == {"damaged_row": 3}


def test_a_table_whose_name_is_not_utf_8_is_joined_and_written_about(images):
    put(images, "a.png", "b.png")
    table = os.fsdecode(os.path.join(os.fsencode(images), b"caf\xe9.csv"))
    pathlib.Path(table).write_text("path,text\na.png,x\ndamaged\nmissing.png,y\n")
    joined = join(images, table)
    assert joined.texts == {"lines/a.png": "x", "lines/b.png": None}
    assert sorted(label.reason for label in joined.unused) == ["damaged_row", "no_image"]


def test_a_folder_that_cannot_be_listed_keeps_its_reason(images, monkeypatch):
    put(images, "a.png", "closed/b.png")
    table = put_table(images / "labels.jsonl", ("a.png", "x"), ("closed/b.png", "y"), ("closed", "z"))
    scandir = os.scandir

    def deny(path):
        if str(path) == f"{images}/closed":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
    joined = join(images, table)
    assert joined.problems == {"lines/a.png": None, "lines/closed/": "unreadable_folder"}
    assert "Permission denied" in joined.images["lines/closed/"].detail
    assert [label.uri for label in joined.unused] == [f"{images}/closed", f"{images}/closed/b.png"]


def test_nothing_to_join_gives_an_empty_listing(tmp_path):
    summary = join_labels([], [], f"{tmp_path}/joined.parquet", table_rules("/nowhere.csv"), FRACTIONS)
    assert (summary.images, summary.unused_labels) == (0, {})
    assert list(read_listing(summary.path)) == []


def test_more_images_than_are_written_at_a_time_are_all_written_in_order(tmp_path):
    references = [ImageReference(f"/x/{number:05d}.png", f"x/{number:05d}.png", 1, 2) for number in range(25_000)]
    rows = [LabelRow(image.uri, "a", None, 0, number, f"row {number}", None) for number, image in enumerate(references)]
    rules = table_rules("/nowhere.csv")
    summary = join_labels(references[::-1], rows, f"{tmp_path}/joined.parquet", rules, FRACTIONS)
    assert (summary.images, summary.symbols) == (25_000, {"a": 25_000})
    assert list(read_listing(summary.path)) == [image._replace(text="a") for image in references]


# Texts and groups of tables


@pytest.mark.parametrize(
    ("cell", "text", "problem"),
    [
        (" two  words ", "two words", None),
        ("e\u0323\u0302", "\u1ec7", None),
        ("m\u0303", "m\u0303", None),
        ("ﬁ²", "ﬁ²", None),
        ("שלום", "שלום", None),
        ("12345678901", None, "label_too_long"),
        ("", None, "empty_label"),
        (" \n", None, "empty_label"),
        ("one\ntwo", None, "several_lines"),
        ("one\n", "one", None),
        ("bell\x07", None, "label_not_text"),
    ],
)
def test_the_rule_for_text_holds_for_tables(images, cell, text, problem):
    put(images, "a.png")
    joined = join(images, put_table(images / "labels.jsonl", ("a.png", cell)), max_label_length=10)
    image = joined.images["lines/a.png"]
    assert (image.text, image.problem) == (text, problem)
    assert joined.summary.symbols == {symbol: text.count(symbol) for symbol in sorted(set(text or ""))}


@pytest.mark.parametrize("cell", ["", " \n"])
def test_an_empty_cell_is_a_label_where_empty_ones_are_kept(images, cell):
    put(images, "a.png", "b.png", "c.png")
    table = put_table(images / "labels.jsonl", ("a.png", cell), ("b.png", "x"))
    joined = join(images, table, keep_empty=True)
    assert {uri: image.text for uri, image in joined.images.items()} == {
        "lines/a.png": "",
        "lines/b.png": "x",
        "lines/c.png": None,
    }
    assert joined.problems["lines/c.png"] == "no_label", "a missing row says nothing of the image"


def test_an_empty_cell_and_a_text_disagree(images):
    put(images, "a.png")
    table = put_table(images / "labels.jsonl", ("a.png", ""), ("a.png", "x"))
    assert join(images, table, keep_empty=True).problems == {"lines/a.png": "conflicting_labels"}


def test_the_group_of_an_image_is_the_value_in_the_named_column(images):
    put(images, "a.png", "b.png", "sub/c.png")
    table = put_table(
        images / "labels.jsonl", ("a.png", "x", " Blatt  e\u0301 "), ("b.png", "y", "Blatt é"), ("sub/c.png", "z", "8")
    )
    joined = join(images, table, group="page")
    assert [image.group for image in joined.images.values()] == ["Blatt é", "Blatt é", "8"]
    assert [image.split_key for image in joined.images.values()] == ["Blatt é", "Blatt é", "8"]


def test_the_images_of_one_value_are_in_one_split(images):
    put(images, *(f"{number}.png" for number in range(30)))
    rows = [(f"{number}.png", "x", "the same page") for number in range(30)]
    table = put_table(images / "labels.jsonl", *rows)
    assert len(join(images, table).summary.splits) > 1
    assert list(join(images, table, group="page").summary.splits.values()) == [30]


@pytest.mark.parametrize("cell", ["", " ", "\t", "\u3000"])
def test_an_image_whose_row_has_no_group_is_rejected_if_groups_are_read(images, cell):
    put(images, "a.png", "b.png")
    table = put_table(images / "labels.jsonl", ("a.png", "x", cell), ("b.png", "y", "0"))
    joined = join(images, table, group="page")
    assert joined.images["lines/b.png"].group == "0"
    image = joined.images["lines/a.png"]
    assert (image.text, image.problem, image.group) == (None, "no_group", None)
    assert image.detail == f"row 1 of {table} has nothing in the column of --split_by=page"
    assert join(images, table).problems == {"lines/a.png": None, "lines/b.png": None}


def test_an_image_with_a_group_and_without_a_usable_text_keeps_its_group(images):
    put(images, "a.png")
    table = put_table(images / "labels.jsonl", ("a.png", "", "7"))
    image = join(images, table, group="page").images["lines/a.png"]
    assert (image.problem, image.group) == ("empty_label", "7")


def test_the_folders_of_images_can_be_their_groups_though_labels_come_from_tables(images):
    put(images, "a.png", "sub/b.png")
    table = put_table(images / "labels.jsonl", ("a.png", "x"), ("sub/b.png", "y"))
    joined = join(images, table, split_by="folder")
    assert [(image.text, image.group) for image in joined.images.values()] == [("x", "lines"), ("y", "lines/sub")]


# Order


def mixed_collection(folder: pathlib.Path) -> tuple[list[ImageReference], list[LabelRow], LabelRules]:
    """Images and rows of which every kind of outcome comes."""
    names = [f"{number}.png" for number in range(40)]
    put(folder, *names, f"{NFC}.png", f"{NFD}.png", "no-row.png")
    rows = [(name, f"text {name}", f"page {number // 10}") for number, name in enumerate(names)]
    rows += [("0.png", "text 0.png", "page 0"), ("1.png", "other", "page 0"), ("2.png", "text 2.png", "page 9")]
    rows += [(f"{NFC}.png", "x", ""), (f"{NFD}.png", "y", "page 1"), ("missing.png", "z", "page 1"), ("damaged.png",)]
    tables = [put_table(folder / f"{number}.jsonl", *rows[number::2]) for number in range(2)]
    rules = table_rules(*tables, group="page")
    read = [row for number in range(2) for row in read_label_rows(number, rules)]
    return list(list_images(str(folder), rules)), read, rules


def outcome(destinations: Iterable[str]) -> tuple[list[ImageReference], list[Reject]]:
    """The union of listing files and of their unused labels."""
    destinations = list(destinations)
    images = [image for path in destinations for image in read_listing(path)]
    unused = [label for path in destinations for label in read_unused_labels(path)]
    return sorted(images, key=str), sorted(unused, key=str)


def test_the_order_in_which_images_and_rows_come_does_not_matter(tmp_path, images):
    references, rows, rules = mixed_collection(images)
    summaries, files = [], []
    for seed in range(4):
        if seed:
            random.Random(seed).shuffle(references)
            random.Random(seed).shuffle(rows)
        path = f"{tmp_path}/{seed}/joined.parquet"
        summaries.append(dataclasses.replace(join_labels(references, rows, path, rules, FRACTIONS), path=""))
        files.append((list(read_listing(path)), list(read_unused_labels(path))))
    assert summaries[1:] == summaries[:1] * 3
    assert files[1:] == files[:1] * 3
    assert {image.problem for image in files[0][0]} == {None, "no_label", "no_group", "conflicting_labels"}
    assert {label.reason for label in files[0][1]} == {"no_image", "damaged_row"}


@pytest.mark.parametrize("count", [2, 3, 16])
def test_the_number_of_places_at_which_images_and_rows_meet_does_not_matter(tmp_path, images, count):
    references, rows, rules = mixed_collection(images)
    join_labels(references, rows, f"{tmp_path}/all.parquet", rules, FRACTIONS)
    destinations = [f"{tmp_path}/{number}.parquet" for number in range(count)]
    for place, destination in enumerate(destinations):
        join_labels(
            [image for image in references if choose_shard(normalise_for_join(locate_for_join(image)), count) == place],
            [row for row in rows if choose_shard(normalise_for_join(row.uri), count) == place],
            destination,
            rules,
            FRACTIONS,
        )
    assert outcome(destinations) == outcome([f"{tmp_path}/all.parquet"])


@pytest.mark.parametrize(
    ("rows", "group"),
    [
        ([("a.png", "X", "7")], None),
        ([("a.png", "x", "7")], "page"),
        ([("a.png", "x", "8")], "page"),
        ([("a.png", "x", "")], "page"),
        ([("a.png", "x", "7"), ("b.png", "y", "7")], None),
        ([("a.png", "x", "7"), ("c.png", "y", "7")], None),
        ([("a.png", "x", "7"), ("", "y", "7")], None),
        ([("a.png", "x", "7"), ("a.png", "y", "7")], None),
    ],
    ids=[
        *("another text", "group", "another group", "no group", "row without an image", "another row without an image"),
        *("damaged row", "conflict"),
    ],
)
def test_the_digest_of_joined_labels_changes_with_anything_that_matters(images, rows, group):
    put(images, "a.png")
    before = join(images, put_table(images / "labels.jsonl", ("a.png", "x", "7"))).summary.digest
    again = join(images, put_table(images / "labels.jsonl", ("./a.png", " x", "8"))).summary.digest
    assert again == before
    after = join(images, put_table(images / "labels.jsonl", *rows), group=group).summary.digest
    assert after != before


# Object stores


@pytest.mark.parametrize("path", ["a b%.png", "./a b%.png", "sub/../a b%.png", "../lines/a b%.png", "{lines}/a b%.png"])
def test_a_table_in_an_object_store_names_images_relative_to_itself_or_by_url(bucket, path):
    put_remote(bucket, "lines/a b%.png", "lines/sub/b.png")
    content = f"path,text\n{path.format(lines=f'{bucket}/lines')},x\nmissing.png,y\n"
    put_remote(bucket, "lines/labels.csv", content=content.encode())
    joined = join(f"{bucket}/lines", f"{bucket}/lines/labels.csv", destination=f"{bucket}/joined.parquet")
    assert joined.texts == {"lines/a b%25.png": "x", "lines/sub/b.png": None}
    assert [label.reason for label in joined.unused] == ["no_image"]


def test_a_table_in_an_object_store_names_images_on_disk_and_in_its_own_bucket(images, bucket):
    put(images, "a.png")
    put_remote(bucket, "lines/b.png")
    put_remote(bucket, "labels.csv", content=f"path,text\n{images}/a.png,y\n{bucket}/lines/b.png,x\n".encode())
    joined = join([images, f"{bucket}/lines"], f"{bucket}/labels.csv")
    assert joined.texts == {"lines/a.png": "y", "lines/b.png": "x"}


def test_composition_does_not_matter_in_object_stores_either(bucket):
    put_remote(bucket, f"lines/{NFD}.png")
    put_remote(bucket, "lines/labels.csv", content=f"path,text\n{NFC}.png,x\n".encode())
    joined = join(f"{bucket}/lines", f"{bucket}/lines/labels.csv", destination=f"{bucket}/joined.parquet")
    assert joined.texts == {f"lines/{NFD}.png": "x"}


def test_an_image_that_a_list_marks_as_cut_out_wrongly_is_left_out_and_listed(images):
    put(images, "a01/w-00.png", "a01/w-01.png", "a01/w-02.png")
    table = images / "words.txt"
    table.write_text(
        "".join(f"w-0{number} {state} 154 408 768 27 51 AT x\n" for number, state in ((0, "ok"), (1, "err")))
    )
    rules = table_rules(str(table))
    references = list(list_images(str(images), rules))
    rows = read_label_rows(0, rules, find_path_rule(str(table), rules.columns, [str(images)]))
    summary = join_labels(references, rows, f"{images.parent}/joined.parquet", rules, FRACTIONS)
    assert (summary.images, summary.left_out, summary.problems) == (2, 1, {"no_label": 1})
    assert [(image.key, image.text) for image in read_listing(summary.path)] == [
        ("lines/a01/w-00.png", "x"),
        ("lines/a01/w-02.png", None),
    ]
    assert list(read_unused_labels(summary.path)) == [
        Reject(
            f"{images}/a01/w-01.png",
            "damaged_row",
            f"row 2 of {table}: it is marked as cut out wrongly, so its image is left out",
        )
    ]
