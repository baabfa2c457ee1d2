"""Finding roots and walking them, on a real disk and in fsspec's in-memory file system."""

import collections
import contextlib
import datetime
import os
import pathlib
import shutil

import pytest

from components.listing import (
    SYSTEM_FOLDERS,
    Boundaries,
    ImageReference,
    LabelRules,
    Places,
    find_roots,
    group_roots,
    list_images,
    read_image,
    uri_to_path,
)
from components.listing.collection import Tally
from tests.components.listing.files import put
from tfrecords import DataError, storage


def keys(root: pathlib.Path | str) -> list[str]:
    return [reference.key for reference in list_images(str(root))]


def tally_of(root: pathlib.Path | str, labels: LabelRules | None = None) -> Tally:
    tally = Tally()
    collections.deque(list_images(str(root), labels, tally), maxlen=0)
    return tally


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


def test_a_name_with_commas_is_taken_literally_if_it_exists(tmp_path, monkeypatch):
    put(tmp_path, "a, b,/1.png", "a/2.png", "b/3.png")
    monkeypatch.chdir(tmp_path)
    assert find_roots(f"{tmp_path}/a, b,", flag="--images") == [f"{tmp_path}/a, b,"]
    assert find_roots("a, b,", flag="--images") == [f"{tmp_path}/a, b,"]
    assert find_roots("a, b", flag="--images") == [f"{tmp_path}/a", f"{tmp_path}/b"]


def test_a_relative_folder_becomes_absolute(tmp_path, monkeypatch):
    put(tmp_path, "lines/1.png")
    monkeypatch.chdir(tmp_path)
    assert find_roots("lines/", flag="--images") == [f"{tmp_path}/lines"]
    assert find_roots("./lines/../lines", flag="--images") == [f"{tmp_path}/lines"]


def test_a_root_inside_another_is_listed_once(tmp_path):
    put(tmp_path, "a/sub/1.png", "ab/2.png")
    patterns = f"{tmp_path}/a/sub,{tmp_path}/ab,{tmp_path}/a,{tmp_path}/a/,{tmp_path}/a/sub/1.png"
    assert find_roots(patterns, flag="--images") == [f"{tmp_path}/a", f"{tmp_path}/ab"]


def test_of_two_names_of_one_folder_the_real_one_is_a_root(tmp_path):
    put(tmp_path, "real/1.png")
    (tmp_path / "a-link").symlink_to(tmp_path / "real")
    assert find_roots(f"{tmp_path}/a-link,{tmp_path}/real", flag="--images") == [f"{tmp_path}/real"]
    assert find_roots(f"{tmp_path}/*", flag="--images") == [f"{tmp_path}/real"]


def test_of_two_links_to_one_folder_the_first_is_a_root(tmp_path):
    put(tmp_path, "elsewhere/real/1.png")
    for name in ("link-b", "link-a", "link-c"):
        (tmp_path / name).symlink_to(tmp_path / "elsewhere" / "real")
    assert find_roots(f"{tmp_path}/link-*", flag="--images") == [f"{tmp_path}/link-a"]


def test_a_link_alone_stays_the_name_of_its_root(tmp_path):
    put(tmp_path, "real/1.png")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert find_roots(f"{tmp_path}/link", flag="--images") == [f"{tmp_path}/link"]
    assert keys(tmp_path / "link") == ["link/1.png"]


def test_a_link_to_a_folder_inside_another_root_is_no_root(tmp_path):
    put(tmp_path, "real/sub/1.png")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "sub")
    assert find_roots(f"{tmp_path}/link,{tmp_path}/real", flag="--images") == [f"{tmp_path}/real"]


def test_a_root_below_a_link_lies_inside_the_folder_that_the_link_leads_to(tmp_path):
    put(tmp_path, "real/sub/1.png")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert find_roots(f"{tmp_path}/link/sub,{tmp_path}/real", flag="--images") == [f"{tmp_path}/real"]
    assert find_roots(f"{tmp_path}/link/sub,{tmp_path}/link", flag="--images") == [f"{tmp_path}/link"]


@pytest.mark.parametrize("root", ["real", "link"])
@pytest.mark.parametrize("way", ["real", "link"])
def test_a_file_lies_inside_a_root_whichever_name_of_the_folder_it_is_given_by(tmp_path, root, way):
    put(tmp_path, "real/1.png", "real/sub/2.png")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    patterns = f"{tmp_path}/{root},{tmp_path}/{way}/1.png,{tmp_path}/{way}/sub/2.png"
    assert find_roots(patterns, flag="--images") == [f"{tmp_path}/{root}"]


def test_a_file_given_by_two_names_of_its_folder_is_listed_once(tmp_path):
    put(tmp_path, "real/1.png", "real/2.png")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    roots = find_roots(f"{tmp_path}/link/*.png,{tmp_path}/real/*.png", flag="--images")
    assert roots == [f"{tmp_path}/real/1.png", f"{tmp_path}/real/2.png"]


def test_a_link_to_an_image_is_an_image_of_its_own_as_it_is_in_a_folder(images):
    put(images, "1.png")
    (images / "2.png").symlink_to(images / "1.png")
    assert find_roots(f"{images}/*.png", flag="--images") == [f"{images}/1.png", f"{images}/2.png"]
    assert keys(images) == ["lines/1.png", "lines/2.png"]


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


def test_single_files_are_listed_together_and_folders_apart(images):
    put(images, "a.png", "b.png")
    put(images / "more", "c.png")
    roots = [str(images / "a.png"), str(images / "b.png"), str(images / "more")]
    assert group_roots(roots, Places.from_roots(roots)) == [roots[2:], roots[:2]]


def test_many_single_files_are_listed_by_the_ten_thousand():
    roots = [f"/nowhere/{number}.png" for number in range(20_001)]
    groups = group_roots(roots, Places.from_roots(roots))
    assert [len(group) for group in groups] == [10_000, 10_000, 1]
    assert [root for group in groups for root in group] == roots


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


def test_two_folders_of_one_name_are_both_kept(tmp_path):
    put(tmp_path, "here/lines/1.png", "there/lines/1.png")
    roots = find_roots(f"{tmp_path}/*/lines", flag="--images")
    references = [reference for root in roots for reference in list_images(root)]
    assert [reference.key for reference in references] == ["lines/1.png", "lines/1.png"]
    assert [reference.uri for reference in references] == [
        f"{tmp_path}/{name}/lines/1.png" for name in ("here", "there")
    ]
    assert [reference.problem for reference in references] == [None, None]


def test_hidden_files_and_folders_and_companions_are_not_images(images):
    put(images, ".hidden.png", ".git/a.png", "a.png", "a.gt.txt", "b.TXT", "index.csv", "page.xml", "README.md")
    assert keys(images) == ["lines/a.png"]


def test_a_hidden_folder_or_file_that_was_named_itself_is_listed(tmp_path):
    put(tmp_path, ".cache/a.png", ".cache/.b.png")
    assert keys(tmp_path / ".cache") == [".cache/a.png"]
    assert keys(tmp_path / ".cache" / "a.png") == [".cache/a.png"]
    assert keys(tmp_path / ".cache" / ".b.png") == [".cache/.b.png"]


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


def test_the_identity_is_size_and_time_of_the_last_change(images):
    put(images, "a.png", content=b"12345")
    os.utime(images / "a.png", ns=(0, 1_790_000_000_123_456_789))
    (reference,) = list_images(str(images))
    assert reference.size_bytes == 5
    assert reference.modified_us == 1_790_000_000_123_456
    assert reference.modified == datetime.datetime(2026, 9, 21, 14, 13, 20, 123_456, datetime.UTC)


# Links


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


@pytest.mark.parametrize("target", [".", "..", "../sub"])
def test_a_cycle_of_folder_links_ends_after_one_round(images, monkeypatch, target):
    put(images, "a.png", "sub/b.png")
    (images / "sub" / "again").symlink_to(target)
    scandir, scanned = os.scandir, []
    monkeypatch.setattr(os, "scandir", lambda path: scanned.append(path) or scandir(path))
    assert keys(images) == ["lines/a.png", "lines/sub/b.png"]
    assert scanned == [str(images), str(images / "sub")]


def test_a_folder_that_is_also_linked_is_listed_once(images):
    put(images, "sub/b.png")
    (images / "again").symlink_to(images / "sub")
    assert len(keys(images)) == 1


@pytest.mark.parametrize(
    ("links", "listed", "passed_over"),
    [
        ("all", ["a.png", "file.png", "folder/1.png"], 0),
        ("files", ["a.png", "file.png"], 1),
        ("none", ["a.png"], 2),
    ],
)
def test_links_are_followed_as_the_flag_says(tmp_path, images, links, listed, passed_over):
    put(tmp_path, "elsewhere/1.png")
    put(images, "a.png")
    (images / "folder").symlink_to(tmp_path / "elsewhere")
    (images / "file.png").symlink_to("a.png")
    tally = Tally()
    places = Places.from_roots([str(images)], Boundaries(links))
    assert [image.key for image in list_images(str(images), None, tally, places)] == [f"lines/{x}" for x in listed]
    assert tally.passed_over["link"] == passed_over


@pytest.mark.parametrize(
    "target", ["/proc", "/sys/kernel", "/dev", "/proc/self/task", "{workspace}", "{workspace}/models"]
)
def test_no_link_leads_into_the_system_or_the_workspace(tmp_path, images, caplog, target):
    put(images, "a.png")
    put(tmp_path, "ws/models/m/plots/curves.png", "ws/b.png")
    workspace = f"{tmp_path}/ws"
    target = target.format(workspace=workspace)
    (tmp_path / "between").symlink_to(target)
    (images / "folder").symlink_to(tmp_path / "between")
    tally = Tally()
    boundaries = Boundaries(closed=(*SYSTEM_FOLDERS, workspace))
    places = Places.from_roots([str(images)], boundaries)
    assert [image.key for image in list_images(str(images), None, tally, places)] == ["lines/a.png"]
    assert tally.passed_over["link"] == 1
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{images}/folder leads into /")


@pytest.mark.parametrize("target", ["/", "/proc/self/root", "//", "/tmp/.."])
def test_a_link_to_the_whole_machine_is_not_followed(images, target):
    put(images, "a.png")
    (images / "all").symlink_to(target)
    tally = Tally()
    assert [image.key for image in list_images(str(images), None, tally)] == ["lines/a.png"]
    assert tally.passed_over["link"] == 1


def test_the_system_is_closed_to_a_link_to_a_folder_above_it_too(tmp_path, images):
    put(tmp_path, "machine/closed/1.png", "machine/open/2.png")
    (images / "all").symlink_to(tmp_path / "machine")
    places = Places.from_roots([str(images)], Boundaries(closed=(f"{tmp_path}/machine/closed",)))
    assert [image.key for image in list_images(str(images), None, None, places)] == ["lines/all/open/2.png"]


@pytest.mark.parametrize("target", ["/proc/self/environ", "/dev/zero", "{workspace}/models/m/plots/curves.png"])
@pytest.mark.parametrize("labels", [None, *(LabelRules(source) for source in ("filename", "sidecar"))])
def test_a_link_to_a_file_of_the_system_or_the_workspace_is_unreadable(tmp_path, images, target, labels):
    put(tmp_path, "ws/models/m/plots/curves.png")
    target = target.format(workspace=f"{tmp_path}/ws")
    (images / "a.png").symlink_to(target)
    put(images, "a.txt", content=b"label")
    places = Places.from_roots([str(images)], Boundaries(closed=(*SYSTEM_FOLDERS, f"{tmp_path}/ws")))
    (image,) = list_images(str(images), labels, None, places)
    assert (image.problem, image.text, image.size_bytes) == ("unreadable", None, 0)
    assert "is a link that leads into /" in (image.detail or "")


def test_what_is_named_inside_a_closed_folder_is_open(tmp_path):
    put(tmp_path, "ws/sample/1.png", "ws/models/2.png")
    (tmp_path / "ws/sample/self.png").symlink_to("1.png")
    (tmp_path / "ws/sample/other.png").symlink_to("../models/2.png")
    root = f"{tmp_path}/ws/sample"
    places = Places.from_roots([root], Boundaries(closed=(f"{tmp_path}/ws",)))
    found = {image.key: image.problem for image in list_images(root, None, None, places)}
    assert found == {"sample/1.png": None, "sample/self.png": None, "sample/other.png": "unreadable"}


# What cannot be listed


def deny(monkeypatch: pytest.MonkeyPatch, *folders: pathlib.Path) -> None:
    """Forbids to list some folders, as the operating system does without read access; file modes do not stop root."""
    scandir, closed = os.scandir, {str(folder) for folder in folders}

    def denied(path):
        if str(path) in closed:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)


def test_a_root_that_cannot_be_listed_is_an_error_that_names_it(images, monkeypatch):
    put(images, "a.png")
    deny(monkeypatch, images)
    with pytest.raises(DataError) as error:
        list(list_images(str(images)))
    assert str(error.value) == (
        f"cannot list the folder '{images}' (Permission denied): give it read access or leave it out"
    )


@pytest.mark.parametrize("labels", [None, *(LabelRules(source) for source in ("filename", "sidecar"))])
def test_a_folder_below_that_cannot_be_listed_is_one_rejected_reference_among_the_images(images, monkeypatch, labels):
    put(images, "a.png", "b/1.png", "closed/2.png", "closed/sub/3.png", "d/4.png")
    deny(monkeypatch, images / "closed")
    references = list(list_images(str(images), labels))
    assert [reference.key for reference in references] == [
        "lines/a.png",
        "lines/b/1.png",
        "lines/closed/",
        "lines/d/4.png",
    ]
    assert references[2] == ImageReference(
        uri=f"{images}/closed/",
        key="lines/closed/",
        size_bytes=0,
        modified_us=0,
        problem="unreadable_folder",
        detail="the folder cannot be listed (Permission denied), so the images in it are unknown",
    )


def test_the_name_of_a_folder_that_cannot_be_listed_is_text(images, monkeypatch):
    odd = images / os.fsdecode(b"100%\xe9")
    odd.mkdir()
    deny(monkeypatch, odd)
    (reference,) = list_images(str(images), LabelRules("sidecar", split_by="folder"))
    assert (reference.uri, reference.key) == (f"{images}/100%25%E9/", "lines/100%25%E9/")
    assert reference.group == "lines/100%25%E9"


@pytest.fixture
def longest_folder(images):
    """The folder below `images` whose path is the longest that can be listed, and an open handle of it."""
    path, handle = str(images), os.open(images, os.O_RDONLY)
    while len(path) < 3900:
        name = "x" * 100
        os.mkdir(name, dir_fd=handle)
        inside = os.open(name, os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        path, handle = f"{path}/{name}", inside
    yield path, handle
    os.close(handle)
    shutil.rmtree(images / ("x" * 100))


def test_a_folder_whose_path_is_too_long_is_one_rejected_reference(images, longest_folder):
    path, handle = longest_folder
    put(images, "a.png", "z/b.png")
    os.mkdir("y" * 250, dir_fd=handle)
    first, too_long, last = list_images(str(images))
    assert (first.key, last.key) == ("lines/a.png", "lines/z/b.png")
    assert (too_long.problem, too_long.uri) == ("unreadable_folder", f"{path}/{'y' * 250}/")
    assert "File name too long" in too_long.detail


def test_a_file_whose_path_is_too_long_does_not_end_the_listing(images, longest_folder):
    path, handle = longest_folder
    put(images, "a.png", "z/b.png")
    os.close(os.open("y" * 250, os.O_CREAT | os.O_WRONLY, dir_fd=handle))
    first, too_long, last = list_images(str(images))
    assert (first.key, last.key) == ("lines/a.png", "lines/z/b.png")
    assert too_long.uri == f"{path}/{'y' * 250}"
    with pytest.raises(OSError, match="too long"):
        read_image(too_long.uri)


def test_a_file_that_is_deleted_while_its_folder_is_listed_does_not_end_the_listing(images, monkeypatch):
    put(images, "a.png", "b.png", "c.png")
    scandir = os.scandir

    @contextlib.contextmanager
    def scan_and_delete(path):
        with scandir(path) as scanned:
            entries = list(scanned)
        (images / "b.png").unlink()
        yield entries

    monkeypatch.setattr(os, "scandir", scan_and_delete)
    assert {"lines/a.png", "lines/c.png"} <= set(keys(images))


# What is passed over


def test_files_that_are_no_images_are_counted_by_suffix(images):
    put(images, "a.png", "a.gt.txt", "b.TXT", "labels.csv", "sub/page.xml", "sub/c.txt", ".DS_Store", "sub/.git/HEAD")
    assert tally_of(images).passed_over == {".txt": 3, ".csv": 1, ".xml": 1, "hidden": 2}
    assert tally_of(images, LabelRules("sidecar")).passed_over == {".txt": 3, ".csv": 1, ".xml": 1, "hidden": 2}


def test_a_companion_that_was_named_itself_is_counted_too(images):
    put(images, "a.png", "a.txt")
    assert tally_of(images / "a.txt").passed_over == {".txt": 1, "hidden": 0}
    assert keys(images / "a.txt") == []


def test_nothing_is_passed_over_where_all_are_images(images):
    put(images, "a.png", "sub/b.png")
    assert tally_of(images).passed_over.total() == 0


@pytest.mark.parametrize("source", ["filename", "sidecar"])
def test_images_with_a_text_file_are_counted_wherever_labels_come_from(images, source):
    put(images, "a.png", "a.txt", "b.png", "sub/c.png", "sub/c.gt.txt", "sub/c.txt", "d.txt")
    assert tally_of(images, LabelRules(source)).with_sidecar == 2
    roots = find_roots(f"{images}/**/*.png", flag="--images")
    assert sum(tally_of(root, LabelRules(source)).with_sidecar for root in roots) == 2


def test_the_tallies_of_several_roots_add_up(tmp_path):
    put(tmp_path, "1/a.png", "1/a.txt", "1/x.txt", "2/b.png", "2/b.txt", "2/y.txt", "2/.z")
    tally = Tally()
    for root in ("1", "2"):
        list(list_images(f"{tmp_path}/{root}", LabelRules("sidecar"), tally))
    assert (tally.with_sidecar, tally.passed_over) == (2, {".txt": 4, "hidden": 1})
    assert [reject.uri for reject in tally.unused_labels] == [f"{tmp_path}/1/x.txt", f"{tmp_path}/2/y.txt"]


# Labels, and groups


def test_without_rules_no_label_is_looked_for(images):
    put(images, "a.png")
    put(images, "a.txt", content=b"label")
    (reference,) = list_images(str(images))
    assert (reference.text, reference.problem, reference.detail, reference.group) == (None, None, None, None)


def test_labels_of_tables_are_not_looked_for_while_listing(images):
    put(images, "a.png", "a.txt", "labels.csv")
    (reference,) = list_images(str(images), LabelRules("table", tables=(f"{images}/labels.csv",)))
    assert (reference.text, reference.problem) == (None, None)
    assert tally_of(images, LabelRules("table", tables=(f"{images}/labels.csv",))).unused_labels == []


@pytest.mark.parametrize("source", ["filename", "sidecar", "table"])
def test_split_by_folder_makes_a_group_of_each_folder_in_the_named_one_with_all_below_it(images, source):
    put(images, "a.png", "b.png", "sub/c.png", "sub/deep/d.png", os.fsdecode(b"\xe9%/e.png"))
    labels = LabelRules(source, split_by="folder")
    groups = {reference.key: reference.group for reference in list_images(str(images), labels)}
    assert groups == {
        "lines/a.png": "lines",
        "lines/b.png": "lines",
        "lines/sub/c.png": "lines/sub",
        "lines/sub/deep/d.png": "lines/sub",
        "lines/%E9%25/e.png": "lines/%E9%25",
    }


def test_split_by_folder_groups_single_files_by_the_folder_that_they_lie_in(images):
    put(images, "a.png", "b.png", "sub/c.png")
    labels = LabelRules("filename", split_by="folder")
    roots = find_roots(f"{images}/**/*.png", flag="--images")
    groups = {reference.key: reference.group for root in roots for reference in list_images(root, labels)}
    assert groups == {"lines/a.png": "lines", "lines/b.png": "lines", "sub/c.png": "sub"}


@pytest.mark.parametrize("split_by", ["image", "page"])
def test_otherwise_listing_makes_no_groups(images, split_by):
    put(images, "a.png", "sub/b.png")
    labels = LabelRules("filename", split_by=split_by)
    assert {reference.group for reference in list_images(str(images), labels)} == {None}


# Object stores


def put_remote(bucket: str, *names: str) -> None:
    for name in names:
        storage.write_bytes(storage.join(bucket, name), b"image of " + name.encode())


def test_a_url_is_a_root_and_so_is_a_glob_of_urls_each_in_its_canonical_spelling(bucket):
    put_remote(bucket, "lines-1/a.png", "lines-2/b.png", "other/c.png")
    canonical = f"memory:///{bucket.rpartition('/')[2]}"
    assert find_roots(f"{bucket}/other/", flag="--images") == [f"{canonical}/other"]
    assert find_roots(f"{bucket}/other/c.png", flag="--images") == [f"{canonical}/other/c.png"]
    assert find_roots(f"{bucket}/lines-*", flag="--images") == [f"{canonical}/lines-1", f"{canonical}/lines-2"]
    with pytest.raises(DataError, match=r"--images: nothing matches 'memory://.*/missing'"):
        find_roots(f"{bucket}/missing", flag="--images")


def test_remote_images_are_listed_with_their_labels_and_can_be_read(bucket):
    put_remote(bucket, "lines/b.png", "lines/sub/a.png", "lines/.hidden.png", "lines/page.xml")
    storage.write_bytes(f"{bucket}/lines/sub/a.gt.txt", b"label")
    without, labelled = list_images(f"{bucket}/lines", LabelRules("sidecar"))
    assert (without.problem, labelled.text) == ("no_label", "label")
    assert labelled.size_bytes == len(b"image of lines/sub/a.png")
    assert read_image(labelled.uri) == b"image of lines/sub/a.png"


def test_a_remote_image_that_was_named_itself_is_listed_with_its_label(bucket):
    put_remote(bucket, "lines/a.png", "lines/b.png", "lines/.cache/c.png")
    storage.write_bytes(f"{bucket}/lines/a.gt.txt", b"label")
    (labelled,) = list_images(f"{bucket}/lines/a.png", LabelRules("sidecar", split_by="folder"))
    assert (labelled.key, labelled.text, labelled.group) == ("lines/a.png", "label", "lines")
    (without,) = list_images(f"{bucket}/lines/b.png", LabelRules("sidecar"))
    assert without.problem == "no_label"


def test_a_remote_image_that_was_named_itself_is_listed_though_its_folder_is_hidden(bucket):
    put_remote(bucket, "lines/.cache/c.png")
    assert keys(f"{bucket}/lines/.cache") == [".cache/c.png"]
    assert keys(f"{bucket}/lines/.cache/c.png") == [".cache/c.png"]


def test_what_is_passed_over_and_unused_is_counted_in_object_stores_too(bucket):
    put_remote(bucket, "lines/a.png", "lines/a.gt.txt", "lines/x.txt", "lines/.hidden.png", "lines/.git/HEAD")
    put_remote(bucket, "lines/sub/b.png", "lines/sub/page.xml")
    tally = tally_of(f"{bucket}/lines", LabelRules("sidecar"))
    assert tally.passed_over == {".txt": 2, ".xml": 1, "hidden": 2}
    assert tally.with_sidecar == 1
    assert [uri_to_path(label.uri).rpartition("/")[2] for label in tally.unused_labels] == ["x.txt"]


def test_a_remote_key_and_group_start_at_the_named_folder_as_local_ones_do(bucket):
    put_remote(bucket, "lines/b.png", "lines/sub/a.png")
    assert keys(f"{bucket}/lines") == ["lines/b.png", "lines/sub/a.png"]
    references = list_images(f"{bucket}/lines", LabelRules("filename", split_by="folder"))
    assert [reference.group for reference in references] == ["lines", "lines/sub"]


def test_a_key_is_the_same_on_a_disk_and_in_an_object_store(images, bucket):
    names = ["100%.png", "with space.png", "日本 é.png", "sub/%FF.png", "#fragment?query=1.png"]
    put(images, *names)
    put_remote(bucket, *(f"lines/{name}" for name in names))
    rules = LabelRules("filename", split_by="folder")
    local, remote = (
        [(image.key, image.group) for image in list_images(root, rules)] for root in (str(images), f"{bucket}/lines")
    )
    assert local == remote


def test_remote_hidden_folders_are_skipped_as_local_ones_are(bucket):
    put_remote(bucket, "lines/.thumbnails/a.png", "lines/b.png")
    assert [reference.uri.rpartition("/")[2] for reference in list_images(f"{bucket}/lines")] == ["b.png"]


def test_a_url_that_was_named_in_two_spellings_is_one_root(bucket):
    put_remote(bucket, "lines/a.png")
    roots = find_roots(f"{bucket}/lines,{bucket}/lin*", flag="--images")
    assert len(roots) == 1


def test_a_remote_image_that_was_changed_has_another_identity(images):
    put(images, "a.png")
    (before,) = list_images(images.as_uri())
    os.utime(images / "a.png", ns=(0, 1_500_000_000_000_000_000))
    (after,) = list_images(images.as_uri())
    assert after.modified_us == 1_500_000_000_000_000
    assert after != before


# Several roots


def listed_together(*roots: pathlib.Path, **rules) -> list[ImageReference]:
    found = find_roots(",".join(map(str, roots)), flag="--images")
    places = Places.from_roots(found)
    return [
        reference for root in found for reference in list_images(root, LabelRules("filename", **rules), places=places)
    ]


def test_roots_of_one_name_have_keys_that_tell_them_apart_and_groups_of_their_own(tmp_path):
    put(tmp_path, "one/lines/a.png", "two/lines/a.png", "three/lines/a.png")
    listed = listed_together(*(tmp_path / name / "lines" for name in ("one", "two", "three")), split_by="folder")
    assert [reference.key for reference in listed] == ["one/lines/a.png", "three/lines/a.png", "two/lines/a.png"]
    assert [reference.group for reference in listed] == ["one/lines", "three/lines", "two/lines"]


def test_another_root_of_another_name_changes_no_key(tmp_path):
    put(tmp_path, "one/a.png", "deep/two/b.png")
    assert [reference.key for reference in listed_together(tmp_path / "one")] == ["one/a.png"]
    both = listed_together(tmp_path / "one", tmp_path / "deep" / "two")
    assert {reference.key for reference in both} == {"one/a.png", "two/b.png"}


def test_a_link_in_one_root_to_another_doubles_no_image(tmp_path):
    put(tmp_path, "one/a.png", "two/b.png", "two/sub/c.png", "elsewhere/d.png")
    (tmp_path / "one" / "link").symlink_to(tmp_path / "two")
    (tmp_path / "one" / "deep link").symlink_to(tmp_path / "two" / "sub")
    (tmp_path / "one" / "out").symlink_to(tmp_path / "elsewhere")
    listed = listed_together(tmp_path / "one", tmp_path / "two")
    assert [reference.key for reference in listed] == ["one/a.png", "one/out/d.png", "two/b.png", "two/sub/c.png"]


def test_a_link_to_a_hidden_folder_of_a_root_is_followed(tmp_path):
    put(tmp_path, "one/.store/a.png")
    (tmp_path / "one" / "shown").symlink_to(tmp_path / "one" / ".store")
    assert [reference.key for reference in listed_together(tmp_path / "one")] == ["one/shown/a.png"]


@pytest.mark.parametrize("name", ["line.png", "line.bin.png", "line.nrm.png", "line.tif", "line"])
def test_pictures_of_one_line_are_split_together(tmp_path, name):
    put(tmp_path, f"lines/{name}")
    (reference,) = listed_together(tmp_path / "lines")
    assert reference.split_key == "lines/line"
