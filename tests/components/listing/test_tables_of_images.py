"""Tables whose rows hold images, listed like the files in them, with the texts of their rows as labels."""

import logging
import os

import fsspec
import pyarrow
import pytest

from components.listing import LabelRules, choose_labels, list_images
from components.listing.collection import Tally
from components.listing.shard_keys import get_order, get_shard_key
from components.listing.tables import TableColumns
from tests.components.archives.tables import TABLE_KINDS, make_table, put_table, write_parquet
from tests.components.listing.files import put
from tfrecords import DataError, storage

ROWS = [(b"00", "first"), (b"111", "second"), (b"2222", None)]


def listed(root: object, labels: LabelRules | None = None, tally: Tally | None = None) -> list:
    return list(list_images(str(root), labels, tally))


@pytest.fixture(autouse=True)
def _empty_store():
    yield
    fsspec.filesystem("memory").store.clear()


@pytest.mark.parametrize("kind", TABLE_KINDS)
def test_a_table_is_listed_like_a_folder_named_alone_or_in_a_folder(tmp_path, kind):
    path = put_table(tmp_path / "in", kind, ROWS)
    alone, inside = listed(path), listed(tmp_path / "in")
    assert alone == inside
    modified_us = os.stat(path).st_mtime_ns // 1000
    assert [(i.uri, i.key, i.size_bytes, i.modified_us) for i in alone] == [
        (f"{path}!/{row:08d}", f"in/{kind}!/{row:08d}", row + 2, modified_us) for row in range(3)
    ]


@pytest.mark.parametrize("kind", TABLE_KINDS)
def test_a_table_in_an_object_store_is_listed_like_a_local_one(kind):
    storage.write_bytes(f"memory://packed/{kind}", make_table(kind, ROWS))
    table = storage.canonicalise(f"memory://packed/{kind}")
    for root in (table, "memory://packed"):
        found = listed(root, LabelRules("sidecar"))
        assert [image.uri for image in found] == [f"{table}!/{row:08d}" for row in range(3)]
        assert [image.text for image in found] == ["first", "second", None]


@pytest.mark.parametrize("kind", TABLE_KINDS)
def test_the_texts_of_rows_are_labels_like_text_files_beside_images(tmp_path, kind, caplog):
    tally = Tally()
    path = put_table(tmp_path, kind, ROWS)
    with caplog.at_level(logging.INFO):
        found = listed(path, LabelRules("sidecar"), tally)
    assert [(image.text, image.problem) for image in found] == [
        ("first", None),
        ("second", None),
        (None, "no_label"),
    ]
    assert (tally.with_sidecar, tally.unused_labels) == (2, [])
    assert f"{path} holds images: they are in the column" in caplog.text


def test_a_text_that_is_no_utf8_is_no_label(tmp_path):
    texts = pyarrow.array([b"caf\xe9"], pyarrow.binary()).view(pyarrow.string())
    (tmp_path / "a.parquet").write_bytes(write_parquet(pyarrow.table({"image": [b"1"], "text": texts})))
    assert [image.problem for image in listed(tmp_path, LabelRules("sidecar"))] == ["label_not_text"]


def test_all_rows_of_a_table_share_a_shard_and_come_in_their_order(tmp_path):
    found = listed(put_table(tmp_path, "a.parquet", [(b"1", None)] * 120))
    assert len(set(map(get_shard_key, found))) == 1
    backwards = list(reversed(found))
    assert sorted(backwards, key=get_order) == found


def test_a_parquet_file_without_images_stays_what_it_was(tmp_path):
    put(tmp_path, "1.png")
    table = pyarrow.table({"path": ["1.png"], "text": ["one"]})
    (tmp_path / "labels.parquet").write_bytes(write_parquet(table))
    (tmp_path / "other.parquet").write_bytes(b"no table")
    tally = Tally()
    assert [image.uri for image in listed(tmp_path, None, tally)] == [f"{tmp_path}/1.png"]
    assert tally.passed_over[".parquet"] == 2
    rules, _ = choose_labels(LabelRules("auto"), [str(tmp_path)])
    assert rules.tables == (f"{tmp_path}/labels.parquet",)


def test_a_damaged_parquet_file_is_a_reject_since_it_may_have_held_images(tmp_path):
    path = put_table(tmp_path, "a.parquet", ROWS)
    os.truncate(path, os.path.getsize(path) - 9)
    ((uri, problem),) = [(image.uri, image.problem) for image in listed(tmp_path)]
    assert (uri, problem) == (path, "damaged_archive")


@pytest.mark.parametrize("kind", TABLE_KINDS)
def test_auto_takes_the_texts_of_the_rows(tmp_path, kind):
    put_table(tmp_path, kind, ROWS[:2])
    rules, why = choose_labels(LabelRules("auto"), [str(tmp_path)])
    assert rules.source == "sidecar"
    assert why == "labels come from the rows that hold the images: all of the first 2 have one"


def test_two_columns_of_texts_are_warned_of_where_labels_are_wanted(tmp_path, caplog):
    table = pyarrow.table({"image": [b"1"], "text": ["a"], "label": ["b"]})
    (tmp_path / "a.parquet").write_bytes(write_parquet(table))
    with caplog.at_level(logging.WARNING):
        listed(tmp_path)
        assert caplog.text == ""
        assert [image.problem for image in listed(tmp_path, LabelRules("sidecar"))] == ["no_label"]
    assert "its columns 'text' and 'label' could all hold the texts" in caplog.text
    assert "--text_column=text" in caplog.text


def test_auto_takes_the_column_that_is_named(tmp_path):
    table = pyarrow.table({"image": [b"1"], "text": ["a"], "label": ["b"]})
    (tmp_path / "a.parquet").write_bytes(write_parquet(table))
    with pytest.raises(DataError, match="no column of which is known to hold their texts: name it with --text_column"):
        choose_labels(LabelRules("auto"), [str(tmp_path)])
    rules, _ = choose_labels(LabelRules("auto", columns=TableColumns(text="label")), [str(tmp_path)])
    assert [image.text for image in listed(tmp_path, rules)] == ["b"]
