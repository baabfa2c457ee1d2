"""Collections in archives: what is listed of them, with labels, keys and problems."""

import collections
import logging
import os

import fsspec
import pytest

from components.listing import ImageReference, LabelRules, Places, find_roots, group_roots, list_images
from components.listing.collection import Tally
from components.listing.shard_keys import get_order, get_shard_key
from tests.components.archives.packing import KINDS, make_tar, pack, put_archive
from tests.components.listing.files import put
from tfrecords import storage

FILES = {f"scans/{name}.png": name.encode() for name in ("ab", "cd", "ef")}


def listed(root, labels: LabelRules | None = None, tally: Tally | None = None) -> list[ImageReference]:
    return list(list_images(str(root), labels, tally))


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_is_listed_like_a_folder_named_alone_or_in_a_folder(tmp_path, kind):
    path = put_archive(tmp_path / "in", kind, FILES)
    alone, inside = listed(path), listed(tmp_path / "in")
    assert alone == inside
    modified_us = os.stat(path).st_mtime_ns // 1000
    assert [(i.uri, i.key, i.size_bytes, i.modified_us) for i in alone] == [
        (f"{path}!/scans/{name}.png", f"in/{kind}!/scans/{name}.png", 2, modified_us) for name in ("ab", "cd", "ef")
    ]


def test_archives_and_files_of_one_folder_are_all_listed(tmp_path):
    put(tmp_path, "0.png", "sub/9.png")
    put_archive(tmp_path, "a.tar", FILES)
    put_archive(tmp_path / "sub", "a.zip", FILES)
    assert [image.uri.removeprefix(f"{tmp_path}/") for image in listed(tmp_path)] == [
        "0.png",
        *(f"a.tar!/{name}" for name in FILES),
        "sub/9.png",
        *(f"sub/a.zip!/{name}" for name in FILES),
    ]


def test_an_archive_in_an_object_store_is_listed_like_a_local_one(tmp_path):
    for kind in KINDS:
        storage.write_bytes(f"memory://packed/{kind}", pack(kind, FILES))
        found = listed(f"memory://packed/{kind}")
        archive = storage.canonicalise(f"memory://packed/{kind}")
        assert [image.uri for image in found] == [f"{archive}!/{name}" for name in FILES]
    assert len(listed("memory://packed")) == len(KINDS) * len(FILES)


@pytest.fixture(autouse=True)
def _empty_store():
    yield
    fsspec.filesystem("memory").store.clear()


def test_what_counts_as_no_image_in_a_folder_counts_as_none_in_an_archive(tmp_path):
    files = {"1.png": b"1", "labels.csv": b"x", ".hidden.png": b"x", "__MACOSX/1.png": b"x", "a/.b/2.png": b"x"}
    tally = Tally()
    path = put_archive(tmp_path, "a.zip", files)
    assert [image.uri for image in listed(path, None, tally)] == [f"{path}!/1.png"]
    assert tally.passed_over == {".csv": 1, "hidden": 3}


@pytest.mark.parametrize("kind", KINDS)
def test_members_have_labels_by_their_names_or_by_text_files_beside_them(tmp_path, kind):
    path = put_archive(tmp_path, kind, {**FILES, "scans/ab.txt": b"first", "scans/cd.gt.txt": b"second"})
    assert [image.text for image in listed(path, LabelRules("filename"))] == ["ab", "cd", "ef"]
    tally = Tally()
    beside = listed(path, LabelRules("sidecar"), tally)
    assert [(image.text, image.problem) for image in beside] == [
        ("first", None),
        ("second", None),
        (None, "no_label"),
    ]
    assert tally.with_sidecar == 2


def test_a_text_file_without_an_image_in_an_archive_is_an_unused_label(tmp_path):
    path = put_archive(tmp_path, "a.tar", {**FILES, "scans/xy.txt": b"lost"})
    tally = Tally()
    listed(path, LabelRules("sidecar"), tally)
    assert [label.uri for label in tally.unused_labels] == [f"{path}!/scans/xy.txt"]


def test_a_damaged_archive_is_one_reject_beside_its_readable_members(tmp_path):
    path = put_archive(tmp_path, "a.tar", {**FILES, "z.png": bytes(50_000)})
    os.truncate(path, 20_000)
    problems = {image.uri.removeprefix(path): (image.problem, image.detail) for image in listed(path)}
    reason, detail = problems.pop("")
    assert reason == "damaged_archive"
    assert "4 members of it are known" in detail
    assert problems.pop("!/z.png") == ("unusable_member", "the archive ends before it does")
    assert set(problems.values()) == {(None, None)}


def test_a_member_whose_name_leads_out_is_a_reject_of_that_name(tmp_path):
    path = put_archive(tmp_path, "a.tar", {"../x/1.png": b"1", "2.png": b"2"})
    assert [(image.uri, image.problem) for image in listed(path)] == [
        (f"{path}!/../x/1.png", "unusable_member"),
        (f"{path}!/2.png", None),
    ]


def test_an_archive_that_is_gone_is_an_unreadable_file(tmp_path):
    path = put_archive(tmp_path, "a.tar", FILES)
    os.unlink(path)
    assert [(image.uri, image.problem) for image in listed(path)] == [(path, "unreadable")]


@pytest.mark.parametrize("unpacked", ["", "lines/"], ids=["beside it", "in a folder of its name"])
def test_an_archive_beside_what_was_unpacked_from_it_is_passed_over_unless_it_is_named(tmp_path, caplog, unpacked):
    path = put_archive(tmp_path, "a.zip", FILES)
    os.rename(path, path := f"{tmp_path}/lines.zip")
    for name, content in FILES.items():
        put(tmp_path, unpacked + name, content=content)
    tally = Tally()
    with caplog.at_level(logging.WARNING):
        assert [image.uri for image in listed(tmp_path, None, tally)] == [f"{tmp_path}/{unpacked}{f}" for f in FILES]
    assert "lines.zip is passed over: its files lie unpacked beside it" in caplog.text
    assert tally.passed_over[".zip"] == 1
    assert [image.uri for image in listed(path)] == [f"{path}!/{name}" for name in FILES]


def test_a_file_of_another_size_does_not_make_an_archive_a_packed_copy(tmp_path):
    put_archive(tmp_path, "a.zip", FILES)
    put(tmp_path, *FILES, content=b"another size")
    assert len(listed(tmp_path)) == 2 * len(FILES)


def test_a_few_archives_are_listed_together(tmp_path):
    roots = [put_archive(tmp_path / f"{number:02d}", "a.tar", FILES) for number in range(10)]
    put(tmp_path, "1.png")
    found = find_roots(f"{tmp_path}/*/a.tar,{tmp_path}/1.png", flag="--images")
    assert group_roots(found, Places.from_roots(found)) == [roots[:8], roots[8:], [f"{tmp_path}/1.png"]]


def test_members_of_one_block_share_a_shard_and_come_in_the_order_of_their_places(tmp_path):
    files = {f"{number:05d}.png": bytes(10_000) for number in reversed(range(1_000))}
    (tmp_path / "a.tar").write_bytes(make_tar(files))
    found = listed(f"{tmp_path}/a.tar")
    blocks = collections.Counter(map(get_shard_key, found))
    assert len(blocks) == 3
    assert sum(blocks.values()) == 1_000
    assert [image.uri.rpartition("/")[2] for image in sorted(found, key=get_order)] == list(files)


def test_all_members_of_a_compressed_archive_share_a_shard(tmp_path):
    files = {f"{number:05d}.png": os.urandom(10_000) for number in range(1_000)}
    found = listed(put_archive(tmp_path, "a.tar.gz", files))
    assert len(set(map(get_shard_key, found))) == 1
