"""Finding images and their labels on a real disk, and in fsspec's in-memory file system."""

import dataclasses
import datetime
import os
import pathlib
import uuid

import pyarrow.parquet
import pytest

from components.listing import (
    ImageReference,
    ListingSummary,
    choose_label_source,
    find_roots,
    group_roots,
    list_images,
    merge_listings,
    path_of_uri,
    read_image,
    read_listing,
    uri_of_path,
    write_listing,
)
from tfrecords import DataError, SplitFractions, storage

ODD_NAMES = [
    b"plain.png",
    b"a[1].png",
    b"a*b?.png",
    b"with space.png",
    b"two\nlines.png",
    b"100%.png",
    b"100%25.png",
    b"%FF.png",
    "日本 é.png".encode(),
    b"latin-\xe9.png",
    b"\xff\xfe.png",
    b"#fragment?query=1.png",
    b"'quotes\".png",
    b"comma,semicolon;.png",
]
FRACTIONS = SplitFractions()


@pytest.fixture
def images(tmp_path) -> pathlib.Path:
    folder = tmp_path / "lines"
    folder.mkdir()
    return folder


def put(folder: pathlib.Path, *names: str, content: bytes = b"image") -> None:
    """Writes files; an "image" is any bytes here, because listing never looks inside."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def keys(root: pathlib.Path | str) -> list[str]:
    return [reference.key for reference in list_images(str(root))]


def label_of(folder: pathlib.Path, source: str) -> ImageReference:
    """The only image of a folder, with its label."""
    (reference,) = list_images(str(folder), source)
    return reference


# URIs


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_becomes_text_and_is_found_again(tmp_path, name):
    path = os.path.join(os.fsencode(tmp_path), name)
    with open(path, "wb") as file:
        file.write(name)
    (reference,) = list_images(str(tmp_path))
    reference.uri.encode()  # UTF-8, as Beam and Parquet want it
    reference.key.encode()
    assert os.fsencode(path_of_uri(reference.uri)) == path
    assert read_image(reference.uri) == name


def test_different_names_have_different_uris():
    uris = {uri_of_path(os.fsdecode(name)) for name in ODD_NAMES}
    assert len(uris) == len(ODD_NAMES)


def test_an_ordinary_path_is_its_own_uri():
    assert uri_of_path("/scans/a b[1]é.png") == "/scans/a b[1]é.png"


@pytest.mark.parametrize(("name", "uri"), [(b"100%.png", "100%25.png"), (b"\xe9%", "%E9%25")])
def test_percent_signs_and_bytes_that_are_not_utf_8_are_percent_encoded(name, uri):
    assert uri_of_path(os.fsdecode(name)) == uri


def test_a_url_is_not_decoded():
    assert path_of_uri("gs://bucket/a%20b.png") == "gs://bucket/a%20b.png"


# Roots


def test_a_folder_a_file_and_a_glob_are_roots(tmp_path):
    put(tmp_path, "a/1.png", "b/1.png", "c1/1.png", "c2/1.png")
    patterns = f"{tmp_path}/a, {tmp_path}/b/1.png ,{tmp_path}/c*"
    assert find_roots(patterns, flag="--images") == [f"{tmp_path}/{name}" for name in ("a", "b/1.png", "c1", "c2")]


def test_a_glob_may_go_down_any_number_of_folders(tmp_path):
    put(tmp_path, "x/y/lines/1.png", "lines/2.png", "other/3.png")
    assert find_roots(f"{tmp_path}/**/lines", flag="--images") == [f"{tmp_path}/lines", f"{tmp_path}/x/y/lines"]


def test_a_name_with_brackets_is_taken_literally_if_it_exists(tmp_path):
    put(tmp_path, "a[1]/x.png", "a1/x.png")
    assert find_roots(f"{tmp_path}/a[1]", flag="--images") == [f"{tmp_path}/a[1]"]


def test_a_relative_folder_becomes_absolute(tmp_path, monkeypatch):
    put(tmp_path, "lines/1.png")
    monkeypatch.chdir(tmp_path)
    assert find_roots("lines/", flag="--images") == [f"{tmp_path}/lines"]
    assert find_roots("./lines/../lines", flag="--images") == [f"{tmp_path}/lines"]


def test_a_root_inside_another_is_listed_once(tmp_path):
    put(tmp_path, "a/sub/1.png", "ab/2.png")
    patterns = f"{tmp_path}/a/sub,{tmp_path}/ab,{tmp_path}/a,{tmp_path}/a/,{tmp_path}/a/sub/1.png"
    assert find_roots(patterns, flag="--images") == [f"{tmp_path}/a", f"{tmp_path}/ab"]


def test_everything_lies_inside_the_root_folder(tmp_path):
    assert find_roots(f"/,{tmp_path}", flag="--images") == ["/"]


def test_a_pattern_that_matches_nothing_is_named_with_its_flag(tmp_path):
    put(tmp_path, "a/1.png")
    with pytest.raises(DataError) as error:
        find_roots(f"{tmp_path}/a,{tmp_path}/missing-*", flag="--infer_images")
    assert str(error.value).startswith(f"--infer_images: nothing matches '{tmp_path}/missing-*'; give a folder")


@pytest.mark.parametrize("patterns", ["", " ", ",", " , "])
def test_no_pattern_at_all_is_refused(patterns):
    with pytest.raises(DataError, match="--images names no folder"):
        find_roots(patterns, flag="--images")


# Walking


def test_nested_folders_are_walked_in_the_same_order_every_time(images):
    put(images, "b.png", "a.png", "sub/2.png", "sub/10.png", "a/deep/er/1.png")
    assert keys(images) == [
        "lines/a.png",
        "lines/b.png",
        "lines/a/deep/er/1.png",
        "lines/sub/10.png",
        "lines/sub/2.png",
    ]


def test_a_key_starts_at_the_named_folder_so_that_a_collection_can_be_moved(tmp_path):
    put(tmp_path, "here/lines/sub/1.png", "there/lines/sub/1.png")
    assert keys(tmp_path / "here/lines") == keys(tmp_path / "there/lines") == ["lines/sub/1.png"]


def test_hidden_files_and_folders_and_companions_are_not_images(images):
    put(images, ".hidden.png", ".git/a.png", "a.png", "a.gt.txt", "b.TXT", "index.csv", "page.xml", "README.md")
    assert keys(images) == ["lines/a.png"]


def test_a_file_with_any_other_name_counts_as_an_image(images):
    put(images, "a", "b.jpeg", "c.PNG", "d.exe", "e.png.part")
    assert keys(images) == ["lines/a", "lines/b.jpeg", "lines/c.PNG", "lines/d.exe", "lines/e.png.part"]


def test_an_empty_folder_has_no_images(images):
    assert keys(images) == []


def test_one_file_is_a_collection_of_one(images):
    put(images, "a.png", "b.png")
    (reference,) = list_images(str(images / "a.png"))
    assert reference.uri == str(images / "a.png")
    assert reference.key == "lines/a.png"
    assert reference in list(list_images(str(images)))  # the same whether it or its folder was named


def test_single_files_are_listed_together_and_folders_apart(images):
    put(images, "a.png", "b.png")
    put(images / "more", "c.png")
    roots = [str(images / "a.png"), str(images / "b.png"), str(images / "more")]
    assert group_roots(roots) == [roots[2:], roots[:2]]


def test_the_identity_is_size_and_time_of_the_last_change(images):
    put(images, "a.png", content=b"12345")
    os.utime(images / "a.png", ns=(0, 1_790_000_000_123_456_789))
    (reference,) = list_images(str(images))
    assert reference.size_bytes == 5
    assert reference.modified_us == 1_790_000_000_123_456
    assert reference.modified == datetime.datetime(2026, 9, 21, 14, 13, 20, 123_456, datetime.UTC)


def test_a_broken_link_is_listed_and_fails_when_it_is_read(images):
    (images / "broken.png").symlink_to(images / "nowhere")
    (reference,) = list_images(str(images))
    assert reference.key == "lines/broken.png"
    with pytest.raises(FileNotFoundError):
        read_image(reference.uri)


def test_a_link_to_itself_is_listed_and_fails_when_it_is_read(images):
    (images / "loop.png").symlink_to(images / "loop.png")
    (reference,) = list_images(str(images))
    with pytest.raises(OSError, match="symbolic links"):
        read_image(reference.uri)


def test_a_linked_folder_is_entered(tmp_path, images):
    put(tmp_path, "elsewhere/1.png")
    (images / "linked").symlink_to(tmp_path / "elsewhere")
    assert keys(images) == ["lines/linked/1.png"]


def test_a_cycle_of_folder_links_ends_after_one_round(images, monkeypatch):
    put(images, "a.png", "sub/b.png")
    (images / "sub" / "up").symlink_to(images)
    scandir, scanned = os.scandir, []
    monkeypatch.setattr(os, "scandir", lambda path: scanned.append(path) or scandir(path))
    assert keys(images) == ["lines/a.png", "lines/sub/b.png"]
    assert len(scanned) == 3


def test_a_folder_that_is_also_linked_is_listed_once(images):
    put(images, "sub/b.png")
    (images / "again").symlink_to(images / "sub")
    assert len(keys(images)) == 1


def test_a_folder_that_cannot_be_listed_is_named(images, monkeypatch):
    put(images, "a.png", "closed/b.png")
    scandir = os.scandir

    def deny(path):  # as the operating system does without read access; file modes do not stop root
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
    with pytest.raises(
        DataError, match=r"cannot list the folder '.*/closed' \(Permission denied\): give it read access"
    ):
        list(list_images(str(images)))


# Labels


def test_without_a_label_source_no_label_is_looked_for(images):
    put(images, "a.png")
    put(images, "a.txt", content=b"label")
    (reference,) = list_images(str(images))
    assert (reference.text, reference.label_problem, reference.label_detail) == (None, None, None)


@pytest.mark.parametrize("suffix", [".gt.txt", ".txt"])
def test_the_text_file_beside_an_image_is_its_label(images, suffix):
    put(images, "a.b.png")
    put(images, f"a.b{suffix}", content=b"caf\xc3\xa9 1\n")
    assert label_of(images, "sidecar").text == "café 1"


def test_a_gt_txt_file_wins_over_a_txt_file(images):
    put(images, "a.png")
    put(images, "a.txt", content=b"from .txt")
    put(images, "a.gt.txt", content=b"from .gt.txt")
    assert label_of(images, "sidecar").text == "from .gt.txt"


def test_the_text_file_beside_an_image_with_an_odd_name_is_found(images):
    stem = os.path.join(os.fsencode(images), b"100% [1]\xe9")
    for suffix, content in ((b".png", b"image"), (b".gt.txt", b"label")):
        with open(stem + suffix, "wb") as file:
            file.write(content)
    assert label_of(images, "sidecar").text == "label"


def test_the_text_file_beside_an_image_that_was_named_itself_is_its_label(images):
    put(images, "a.png")
    put(images, "a.gt.txt", content=b"label")
    (root,) = find_roots(f"{images}/*.png", flag="--images")
    (reference,) = list_images(root, "sidecar")
    assert reference.text == "label"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"\xef\xbb\xbflabel", "label"),
        (b" two  words \r\n", "two words"),
        ("e\u0301".encode(), "é"),
        (b"first\nsecond\n", "first second"),
    ],
)
def test_a_label_is_stored_in_its_normal_form_without_a_byte_order_mark(images, content, text):
    put(images, "a.png")
    put(images, "a.gt.txt", content=content)
    assert label_of(images, "sidecar").text == text


@pytest.mark.parametrize("content", [b"caf\xe9", b"\xff\xfea\x00"])
def test_a_label_that_is_not_utf_8_is_a_label_problem(images, content):
    put(images, "a.png")
    put(images, "a.gt.txt", content=content)
    reference = label_of(images, "sidecar")
    assert (reference.text, reference.label_problem) == (None, "label_not_text")
    assert "can't decode byte" in reference.label_detail


@pytest.mark.parametrize("content", [b"", b" \n", b"\xef\xbb\xbf\n"])
def test_an_empty_label_is_a_label_problem(images, content):
    put(images, "a.png")
    put(images, "a.gt.txt", content=content)
    reference = label_of(images, "sidecar")
    assert (reference.text, reference.label_problem) == (None, "empty_label")
    assert repr(content) in reference.label_detail


def test_an_image_without_a_text_file_has_no_label_and_says_what_was_looked_for(images):
    put(images, "a.png", "b.txt")
    reference = label_of(images, "sidecar")
    assert (reference.text, reference.label_problem) == (None, "no_label")
    assert reference.label_detail == "no .gt.txt or .txt file lies beside the image"


def test_a_text_file_that_cannot_be_read_is_a_label_problem_and_not_a_crash(images):
    put(images, "a.png")
    (images / "a.gt.txt").symlink_to(images / "nowhere")
    reference = label_of(images, "sidecar")
    assert (reference.text, reference.label_problem) == (None, "no_label")
    assert "cannot be read" in reference.label_detail


@pytest.mark.parametrize(
    ("name", "text"), [(b"AB-12.png", "AB-12"), (b"x.y.jpeg", "x.y"), (b"50%.png", "50%"), ("é.png".encode(), "é")]
)
def test_the_file_name_without_its_last_suffix_is_the_label(images, name, text):
    put(images, os.fsdecode(name))
    assert label_of(images, "filename").text == text


def test_a_file_name_that_is_not_utf_8_is_no_label(images):
    put(images, os.fsdecode(b"caf\xe9.png"))
    assert label_of(images, "filename").label_problem == "label_not_text"


# Choosing the label source


def test_a_label_source_that_was_named_is_not_questioned(images):
    put(images, "a.png")
    assert choose_label_source("sidecar", [str(images)]) == (
        "sidecar",
        "labels come from the sidecar, as --label_source says",
    )


def test_auto_takes_the_text_files_if_every_image_has_one(images):
    put(images, "a.png", "a.gt.txt", "sub/b.png", "sub/b.txt")
    source, why = choose_label_source("auto", [str(images)])
    assert source == "sidecar"
    assert "all of the first 2 have one" in why


def test_auto_takes_the_file_names_if_no_image_has_a_text_file(images):
    put(images, "a.png", "b.png", "README.txt")
    source, why = choose_label_source("auto", [str(images)])
    assert source == "filename"
    assert "none of the first 2 images" in why


def test_auto_refuses_to_guess_if_only_some_images_have_a_text_file(images):
    put(images, "a.png", "a.gt.txt", "b.png", "c.png")
    with pytest.raises(DataError) as error:
        choose_label_source("auto", [str(images)])
    assert str(error.value).startswith("1 of the first 3 images have a text file beside them")
    assert "--label_source=sidecar (images without one are rejected) or --label_source=filename" in str(error.value)


def test_auto_finds_the_text_files_beside_images_that_a_glob_names(images):
    put(images, "a.png", "a.gt.txt", "b.png", "b.gt.txt")
    roots = find_roots(f"{images}/*.png", flag="--images")
    assert choose_label_source("auto", roots)[0] == "sidecar"


# Listing files


def listed(images: pathlib.Path, name: str = "listing.parquet", source: str | None = "sidecar") -> ListingSummary:
    return write_listing([str(images)], str(images.parent / name), source, FRACTIONS)


def test_a_listing_file_gives_back_every_reference(images):
    put(images, "a.png", "sub/b.png", "c.png", os.fsdecode(b"\xe9.png"))
    put(images, "a.txt", content=b"hello")
    put(images, "c.txt", content=b"\xe9")
    summary = listed(images)
    references = list(list_images(str(images), "sidecar"))
    assert len(references) == 4
    assert list(read_listing(summary.path)) == references
    assert pyarrow.parquet.read_table(summary.path)["uri"].to_pylist() == [reference.uri for reference in references]


def test_a_summary_counts_images_splits_and_symbols(images):
    put(images, *(f"{number}.png" for number in range(200)))
    put(images, "0.txt", content=b"abba")
    put(images, "1.txt", content=b"b c")
    summary = listed(images)
    assert summary.images == 200
    assert sum(summary.splits.values()) == 200
    assert set(summary.splits) == {"train", "validation", "test"}
    assert summary.symbols == {" ": 1, "a": 2, "b": 3, "c": 1}
    assert list(summary.symbols) == sorted(summary.symbols)


def test_an_empty_folder_gives_an_empty_listing(images):
    summary = listed(images)
    assert (summary.images, summary.splits, summary.symbols) == (0, {}, {})
    assert list(read_listing(summary.path)) == []


def test_the_digest_does_not_depend_on_where_or_when_it_is_listed(images):
    put(images, "a.png", "b.png")
    first = listed(images, "first.parquet")
    os.utime(images, ns=(1, 1))
    (images / "a.png").chmod(0o600)
    assert (images / "a.png").read_bytes() == b"image"
    put(images, ".hidden", "note.md")
    assert listed(images, "elsewhere/second.parquet").digest == first.digest


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
        lambda images: (images / "a.gt.txt").unlink(),
        lambda images: (images / "a.png").rename(images / "A.png"),
        lambda images: put(images, "b.png"),
    ],
    ids=["size", "time", "label", "no label", "name", "one image more"],
)
def test_the_digest_changes_with_anything_that_matters(images, change):
    put(images, "a.png", "a.gt.txt")
    before = listed(images).digest
    change(images)
    assert listed(images).digest != before


def test_merged_listings_add_up_in_whatever_order_they_come():
    first = ListingSummary("1.parquet", 3, {"train": 2, "test": 1}, {"b": 2}, "aa")
    second = ListingSummary("2.parquet", 2, {"train": 2}, {"a": 1, "b": 1}, "bb")
    merged = merge_listings([first, second])
    assert merged == merge_listings(iter([second, first]))
    assert (merged.path, merged.images) == ("", 5)
    assert merged.splits == {"test": 1, "train": 4}
    assert merged.symbols == {"a": 1, "b": 3}


def test_the_merged_digest_changes_with_any_listing():
    first = ListingSummary("1.parquet", 1, {}, {}, "aa")
    second = ListingSummary("2.parquet", 1, {}, {}, "bb")
    variants = [[first], [first, second], [first, dataclasses.replace(second, digest="cc")]]
    assert len({merge_listings(variant).digest for variant in variants}) == 3


# Object stores


@pytest.fixture(params=["memory:///", "memory://"])
def bucket(request):
    """An empty folder in fsspec's in-memory file system, by its canonical URL and by a shorter one."""
    url = f"{request.param}{uuid.uuid4().hex}"
    yield url
    storage.remove_folder(url)


def put_remote(bucket: str, *names: str) -> None:
    for name in names:
        storage.write_bytes(storage.join(bucket, name), b"image of " + name.encode())


def test_a_url_is_a_root_and_so_is_a_glob_of_urls(bucket):
    put_remote(bucket, "lines-1/a.png", "lines-2/b.png", "other/c.png")
    assert find_roots(f"{bucket}/other/", flag="--images") == [f"{bucket}/other"]
    matches = find_roots(f"{bucket}/lines-*", flag="--images")
    assert [match.rpartition("/")[2] for match in matches] == ["lines-1", "lines-2"]
    with pytest.raises(DataError, match=r"--images: nothing matches 'memory://.*/missing'"):
        find_roots(f"{bucket}/missing", flag="--images")


def test_remote_images_are_listed_with_their_labels_and_can_be_read(bucket):
    put_remote(bucket, "lines/b.png", "lines/sub/a.png", "lines/.hidden.png", "lines/page.xml")
    storage.write_bytes(f"{bucket}/lines/sub/a.gt.txt", b"label")
    without, labelled = list_images(f"{bucket}/lines", "sidecar")
    assert (without.label_problem, labelled.text) == ("no_label", "label")
    assert labelled.size_bytes == len(b"image of lines/sub/a.png")
    assert read_image(labelled.uri) == b"image of lines/sub/a.png"


def test_a_remote_key_starts_at_the_named_folder_as_a_local_one_does(bucket):
    put_remote(bucket, "lines/b.png", "lines/sub/a.png")
    assert keys(f"{bucket}/lines") == ["lines/b.png", "lines/sub/a.png"]


def test_remote_hidden_folders_are_skipped_as_local_ones_are(bucket):
    put_remote(bucket, "lines/.thumbnails/a.png", "lines/b.png")
    assert [reference.uri.rpartition("/")[2] for reference in list_images(f"{bucket}/lines")] == ["b.png"]


def test_a_remote_image_that_was_changed_has_another_identity(images):
    put(images, "a.png")
    (before,) = list_images(images.as_uri())
    os.utime(images / "a.png", ns=(0, 1_500_000_000_000_000_000))
    (after,) = list_images(images.as_uri())
    assert after.modified_us == 1_500_000_000_000_000
    assert after != before
