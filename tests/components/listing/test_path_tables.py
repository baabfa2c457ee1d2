"""Tables that name images by their paths, on a real disk and in an object store, beside the listing of folders."""

import csv
import json
import os
import tracemalloc
import unicodedata
import uuid

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from components.listing import ImageReference, LabelRules, Places, find_roots_and_tables, list_images, list_table
from components.listing.joining import read_label_rows
from components.listing.references import resolve_path
from components.rejects import REASONS
from tests.components.listing.files import put, put_remote
from tfrecords import DataError, storage


@pytest.fixture
def table(tmp_path):
    """Writes `list.csv` beside the folder `lines`, with a column `path`, and returns its path."""

    def write_table(*paths: str, name: str = "list.csv") -> str:
        with open(tmp_path / name, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["path", "note"], *([path, "-"] for path in paths)])
        return str(tmp_path / name)

    return write_table


NEITHER = "is no local path and no gs:// URL: a table cannot name anything else"


def identity(reference: ImageReference) -> tuple[str, int, int]:
    return reference.uri, reference.size_bytes, reference.modified_us


def named(table: str, column: str | None = None) -> list[str]:
    """The URIs of the images that a table names, all of which have to be there."""
    references = list(list_table(table, column))
    assert [reference.problem for reference in references] == [None] * len(references)
    return [reference.uri for reference in references]


def problems(table: str) -> list[tuple[str | None, str | None]]:
    references = list(list_table(table))
    assert all((reference.size_bytes, reference.modified_us) == (0, 0) for reference in references if reference.problem)
    assert {reference.problem for reference in references} - {None} <= REASONS.keys()
    return [(reference.problem, reference.detail) for reference in references]


def refusal(table: str, column: str | None = None) -> str:
    with pytest.raises(DataError) as error:
        list(list_table(table, column))
    assert "\n" not in str(error.value)
    return str(error.value)


# The same images as a folder's


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_a_table_in_the_folder_lists_what_the_folder_lists_to_the_last_field(images, kind):
    put(
        images,
        "a.png",
        "sub/b.png",
        "sub/deep/no suffix",
        "white space.png",
        "ü.png",
        "日本.png",
        content=b"0123456789",
    )
    os.utime(images / "a.png", ns=(1, 1_700_000_000_123_456_789))
    listed = list(list_images(str(images)))
    paths = [os.path.relpath(reference.uri, images) for reference in listed]
    lines = [json.dumps({"size": 1, "Image-Path": path}) for path in paths]
    if kind != "jsonl":
        separator = {"csv": ";", "tsv": "\t"}[kind]
        lines = [f"size{separator}Image Path", *(f"1{separator}{path}" for path in paths)]
    (images / f"list.{kind}").write_text("\n".join(lines), encoding="utf-8")
    assert list(list_table(f"{images}/list.{kind}")) == listed
    assert len(listed) == 6


def test_the_column_may_be_named(images):
    put(images, "a.png", "b.png")
    (images / "list.csv").write_text("path,scan no\na.png,b.png\n")
    assert named(f"{images}/list.csv") == [f"{images}/a.png"]
    assert named(f"{images}/list.csv", "Scan-No") == [f"{images}/b.png"]


def test_images_anywhere_have_the_identity_of_their_folders_listing(tmp_path, images, table):
    put(images, "a.png", "b.png", "c.png", "sub/d.png", "sub/e.png")
    put(tmp_path, "lists/.keep", "beside/f.png")
    path = table("lines//a.png", f"{images}/b.png", f"/{images}/c.png", "lines/sub/../sub/./d.png", "./lines/sub/e.png")
    listed = [identity(reference) for reference in list_images(str(images))]
    assert [identity(reference) for reference in list_table(path)] == listed
    assert named(table("../beside/f.png", name="lists/night.csv")) == [f"{tmp_path}/beside/f.png"]


def test_keys_begin_with_the_tables_folder_or_are_the_uri_so_that_none_is_twice(tmp_path, table):
    put(tmp_path, "one/lines/a.png", "two/lines/a.png", "lines/a.png")
    names = ["a.png", "../../two/lines/a.png", f"{tmp_path}/lines/a.png"]
    path = table(*names, "gone.png", "", name="one/lines/list.csv")
    keys = [reference.key for reference in list_table(path)]
    below = ["lines/a.png", f"{tmp_path}/two/lines/a.png", f"{tmp_path}/lines/a.png", "lines/gone.png"]
    assert keys == [*below, "lines/list.csv:5"]
    places = Places.from_roots([path, f"{tmp_path}/lines"])  # another root of that name: both need more of their paths
    assert next(list_table(path, None, places)).key == "one/lines/a.png"
    (listed,) = list_images(f"{tmp_path}/lines", None, None, places)
    assert listed.key == f"{tmp_path.name}/lines/a.png"


def test_links_stay_in_a_uri_as_they_do_in_a_folders_listing(tmp_path, table):
    put(tmp_path, "real/lines/a.png", "real/b.png", "b.png", content=b"image")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "lines").symlink_to(tmp_path / "real" / "lines")
    (tmp_path / "real" / "alias.png").symlink_to("b.png")
    listed = [identity(reference) for reference in list_images(f"{tmp_path}/link")]
    assert [uri for uri, *_ in listed] == [f"{tmp_path}/link/{name}" for name in ("alias.png", "b.png", "lines/a.png")]
    path = table("link/alias.png", "link/lines/../b.png", "link/lines/a.png")
    assert [identity(reference) for reference in list_table(path)] == listed
    # What lies above a linked folder lies above its target, as for every program that opens the path.
    assert named(table("lines/../b.png")) == [f"{tmp_path}/real/b.png"]


def test_a_name_is_found_composed_or_decomposed_but_first_as_the_table_has_it(images, table):
    nfc, nfd = (unicodedata.normalize(form, "Bücher/é.png") for form in ("NFC", "NFD"))
    put(images, nfd)
    assert named(table(f"lines/{nfc}", f"lines/{nfd}")) == [f"{images}/{nfd}"] * 2
    put(images, nfc)
    assert named(table(f"lines/{nfc}", f"lines/{nfd}")) == [f"{images}/{nfc}", f"{images}/{nfd}"]


def test_the_uris_of_predictions_and_rejects_name_their_images_again(images, table):
    put(images, "100%.png", "a%41.png", "a%2541.png", os.fsdecode(b"\xe9.png"), "%00.png")
    uris = [reference.uri for reference in list_images(str(images))]
    assert len(uris) == 5
    (images / "a%2541.png").unlink()  # a name that is a URI of another: what the table says is tried first
    uris.remove(f"{images}/a%252541.png")
    assert sorted(named(table(*uris))) == sorted(uris)
    assert f"{images}/%E9.png" in uris
    put(images, "a%2541.png")
    assert named(table("lines/a%2541.png")) == [f"{images}/a%252541.png"]
    hostile = ["lines/%00", "s9%3A//b/c.png", "%FF%FE", "%"]
    assert [problem for problem, _ in problems(table(*hostile))] == ["unreadable"] * 4


def test_every_name_counts_that_of_a_companion_or_a_hidden_file_too(images, table):
    put(images, "a.txt", "b.csv", ".c.png", ".d/e.JSON")
    assert named(table("lines/a.txt", "lines/b.csv", "lines/.c.png", "lines/.d/e.JSON", "list.csv")) == [
        *(f"{images}/{name}" for name in ("a.txt", "b.csv", ".c.png", ".d/e.JSON")),
        f"{images.parent}/list.csv",
    ]


# Rows that name no image


def test_every_row_is_one_reference_and_says_what_is_wrong_with_it(tmp_path, images, table):
    put(images, "a.png", "b.png/c.png")
    (images / "broken.png").symlink_to("nowhere")
    (images / "loop.png").symlink_to("loop.png")
    rows = ["lines/a.png", "lines/gone.png", "lines/b.png", "lines", ".", "lines/sub/..", "", "lines/a.png/d.png"]
    rows += ["lines/broken.png", "lines/loop.png", "x" * 300, "s9://bucket/e.png", "C:\\scans\\f.png", "lines/a.png/"]
    path = table(*rows)
    with open(path, "a", encoding="utf-8") as file:
        file.write("lines/a.png,too,many\r\npath,note\r\n")
    a_folder = "a folder: name the images in it, or give the folder itself"
    assert problems(path) == [
        (None, None),
        ("unreadable", f"row 3 of {path} names 'lines/gone.png': there is no such file"),
        ("unreadable", f"row 4 of {path} names 'lines/b.png', {a_folder}"),
        ("unreadable", f"row 5 of {path} names 'lines', {a_folder}"),
        ("unreadable", f"row 6 of {path} names '.', {a_folder}"),
        ("unreadable", f"row 7 of {path} names 'lines/sub/..', {a_folder}"),
        ("damaged_row", f"row 8 of {path}: no path"),
        ("unreadable", f"row 9 of {path} names 'lines/a.png/d.png': Not a directory"),
        ("unreadable", f"row 10 of {path} names 'lines/broken.png': there is no such file"),
        ("unreadable", f"row 11 of {path} names 'lines/loop.png': Too many levels of symbolic links"),
        ("unreadable", f"row 12 of {path} names '{'x' * 80}…': File name too long"),
        ("damaged_row", f"row 13 of {path}: 's9://bucket/e.png' {NEITHER}"),
        ("unreadable", f"row 14 of {path} names 'C:\\\\scans\\\\f.png': there is no such file"),
        (None, None),
        (
            "damaged_row",
            f"row 16 of {path}: it has 3 cells instead of 2: perhaps a path has a comma and is not quoted",
        ),
        ("damaged_row", f"row 17 of {path}: it repeats the header"),
    ]
    uris = [reference.uri for reference in list_table(path)]
    assert uris[:6] == [*(f"{images}/{n}.png" for n in ("a", "gone", "b")), str(images), str(tmp_path), str(images)]
    assert (uris[6], uris[11], uris[13]) == (path, path, f"{images}/a.png")


def test_a_file_that_cannot_be_looked_at_is_unreadable_with_the_reason(images, table, monkeypatch):
    put(images, "a.png")
    look = os.stat

    def deny(path, *args, **kwargs):
        if str(path).endswith("lines/a.png"):
            raise PermissionError(13, "Permission denied", path)
        return look(path, *args, **kwargs)

    path = table("lines/a.png")
    monkeypatch.setattr(os, "stat", deny)
    assert problems(path) == [("unreadable", f"row 2 of {path} names 'lines/a.png': Permission denied")]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "list.csv",
            b"scan,note\na.png,-\n",
            "begin the table with a header line such as path, or say with --path_column",
        ),
        ("list.csv", b"scan\na.png\n", "has no path column: its first line has 'scan' and none of path, file_name"),
        ("list.jsonl", b'{"scan": "a.png"}\n', "its first object has 'scan'"),
        ("list.csv", b"", "is empty: begin the table with a header line such as path"),
        ("list.csv", b"path\n", "has no rows"),
        ("list.tsv", b"path\n\xe9.png\n", "line 2 of {table} is not UTF-8 (byte 0xE9)"),
        ("list.csv", "path\na.png\n".encode("utf-16-le"), "is not UTF-8"),
        ("list.csv", "path\na.png\n".encode("utf-16")[:-1], "line 2 of {table} is damaged UTF-16"),
        ("list.csv", b'path,note\n"a.png,-\nb.png,-\n', "row 2 of {table} has a quotation mark that is not closed"),
        ("list.csv", None, "the table {table} does not exist"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_in_one_sentence(tmp_path, name, content, said):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    assert said.format(table=path) in refusal(str(path))


def test_a_column_that_is_not_there_is_refused_with_those_that_are(images):
    (images / "list.csv").write_text("path,note\na.png,-\n")
    message = refusal(f"{images}/list.csv", "scan")
    assert message == f"--path_column=scan: {images}/list.csv has no such column; its first line has 'path', 'note'"


@pytest.mark.parametrize(
    "content", ["a.png\nb,c.png\n", "a.png,x\nb.png,y\n", "x;a.png\ny;b.png\n", "\ufeff./a.png\r\n./b.png\r\n"]
)
def test_a_table_needs_no_header_where_its_first_line_names_a_file(images, content):
    put(images, "a.png", "b.png")
    (images / "list.csv").write_text(content, newline="")
    first, second = list_table(f"{images}/list.csv")
    assert first.uri == f"{images}/a.png"
    assert second.problem == ("damaged_row" if content.startswith("a.png\n") else None)


# Object stores


def test_remote_images_have_the_identity_of_their_folders_listing_and_keep_their_order(bucket):
    names = [f"{number % 7}/{number:03d}.png" for number in range(600)]
    put_remote(f"{bucket}/lines", *names)
    listed = sorted(list_images(f"{bucket}/lines"), key=lambda reference: reference.uri[-7:])
    storage.write_bytes(f"{bucket}/lines/list.csv", "\n".join(["path", *names]).encode())
    assert list(list_table(f"{bucket}/lines/list.csv")) == listed
    storage.write_bytes(
        f"{bucket}/lists/list.csv", "\n".join(["path", *(f"../lines/{name}" for name in names)]).encode()
    )
    assert [identity(reference) for reference in list_table(f"{bucket}/lists/list.csv")] == list(map(identity, listed))


def test_a_remote_table_may_name_local_images_and_those_of_its_bucket(images, bucket):
    put(images, "a.png", "b.png")
    put_remote(bucket, "lines/c.png")
    canonical = f"memory:///{bucket.rpartition('/')[2]}"
    wanted = [f"{images}/a.png", f"{canonical}/lines/c.png", f"{images}/b.png"]
    remote = f"{bucket}/list.csv"
    for name in ("lines/c.png", f"{bucket}/lines/c.png"):
        storage.write_bytes(remote, f"path\n{images}/a.png\n{name}\nfile://{images}/b.png\n".encode())
        assert named(remote) == wanted
    assert next(list_table(remote)).key == f"{images}/a.png"


def test_rows_that_name_no_remote_image_say_what_is_wrong(bucket):
    put_remote(bucket, "lines/a.png")
    path = f"memory:///{bucket.rpartition('/')[2]}/list.csv"
    storage.write_bytes(path, b"path,note\nlines/gone.png,-\nlines,-\n,-\n")
    assert problems(f"{bucket}/list.csv") == [
        ("unreadable", f"row 2 of {path} names 'lines/gone.png': there is no such file"),
        ("unreadable", f"row 3 of {path} names 'lines', a folder: name the images in it, or give the folder itself"),
        ("damaged_row", f"row 4 of {path}: no path"),
    ]
    folder = path.removesuffix("/list.csv")
    assert [reference.uri for reference in list_table(path)] == [f"{folder}/lines/gone.png", f"{folder}/lines", path]


class _RefusedError(Exception):
    """As gcsfs raises it."""

    code = 400


class _Store(MemoryFileSystem):
    """An object store that refuses some names, as Cloud Storage does, and is out of order for others."""

    protocol = "strictmemory"

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("strictmemory://", "memory://"))

    def info(self, path, **kwargs):
        if "!" in path:
            raise _RefusedError("Invalid bucket name")
        if "?" in path:
            raise ValueError("Bad Request")
        if "x-401" in path:
            raise RuntimeError("no credentials")
        return super().info(path, **kwargs)


def test_a_name_that_an_object_store_refuses_is_unreadable_but_a_store_that_fails_ends_the_run():
    fsspec.register_implementation("strictmemory", _Store, clobber=True)
    path = f"strictmemory:///{uuid.uuid4().hex}/list.csv"
    storage.write_bytes(path, b"path\na!/b.png\na?/b.png\na/b.png\n")
    assert problems(path) == [
        ("unreadable", f"row 2 of {path} names 'a!/b.png': its name is refused (Invalid bucket name)"),
        ("unreadable", f"row 3 of {path} names 'a?/b.png': its name is refused (Bad Request)"),
        ("unreadable", f"row 4 of {path} names 'a/b.png': there is no such file"),
    ]
    storage.write_bytes(path, b"path\nx-401/b.png\n")
    with pytest.raises(RuntimeError, match="no credentials"):
        list(list_table(path))


def test_memory_does_not_grow_with_the_rows(images):
    put(images, "a.png")
    path = images / "list.csv"
    with open(path, "w", encoding="utf-8") as file:
        file.write("path\n")
        file.writelines("a.png\n" for _ in range(20_000))
    tracemalloc.start()
    try:
        count = sum(1 for _ in list_table(str(path)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 20_000
    assert peak < 3_000_000


# Which tables are named


def found(patterns: str) -> tuple[list[str], list[str]]:
    return find_roots_and_tables(patterns, flag="--infer_images")


def test_tables_are_told_from_folders_files_and_globs(tmp_path, images):
    put(tmp_path, "lists/1.csv", "lists/2.CSV", "lists/a.png", "more.jsonl", "lines/in.tsv", "lines/a.png", "x,y.csv")
    (tmp_path / "folder.csv").mkdir()
    lists = f"{tmp_path}/lists"
    assert found(f"{lists}/1.csv") == ([], [f"{lists}/1.csv"])
    assert found(f"{lists}/*.csv,{tmp_path}/more.jsonl") == ([], [f"{lists}/1.csv", f"{tmp_path}/more.jsonl"])
    # A table in a folder that is given too is still a table.
    assert found(f"{images}, {images}/in.tsv") == ([str(images)], [f"{images}/in.tsv"])
    # What a glob or a folder matches by the way is a companion, as ever.
    assert found(f"{lists}/*") == ([f"{lists}/{name}" for name in ("1.csv", "2.CSV", "a.png")], [])
    assert found(f"{tmp_path}/folder.csv") == ([f"{tmp_path}/folder.csv"], [])
    assert found(f"{tmp_path}/x,y.csv") == ([], [f"{tmp_path}/x,y.csv"])


def test_a_table_with_two_names_is_read_once(tmp_path):
    put(tmp_path, "real/list.csv")
    (tmp_path / "link").symlink_to("real")
    assert found(f"{tmp_path}/link/list.csv,{tmp_path}/*/list.csv") == ([], [f"{tmp_path}/real/list.csv"])


def test_tables_are_named_by_url_too(bucket):
    put_remote(bucket, "lists/1.csv", "lists/2.csv", "lines/a.png")
    canonical = f"memory:///{bucket.rpartition('/')[2]}"
    tables = [f"{canonical}/lists/1.csv", f"{canonical}/lists/2.csv"]
    assert found(f"{bucket}/lists/*.csv,{bucket}/lines") == ([f"{canonical}/lines"], tables)
    assert found(f"{bucket}/lists/1.csv") == ([], tables[:1])


def test_a_table_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"--infer_images: nothing matches '.*/list.csv'; give a folder, a file or"):
        found(f"{tmp_path}/list.csv")
    (tmp_path / "broken.csv").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"--infer_images: the table .*/broken.csv is not a file: correct its path"):
        found(f"{tmp_path}/broken.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match=r"the table .*/pipe.csv is not a file"):
        found(f"{tmp_path}/pipe.csv")


# Rows that lead elsewhere


@pytest.mark.parametrize(
    "row",
    [
        "ftp://127.0.0.1:1/a.png",
        "http://127.0.0.1:1/a.png",
        "https://[::1/a.png",
        "github://org:repo@main/a.png",
        "filecache://x",
        "filecache::file:///etc/hostname",
        "simplecache::http://127.0.0.1:1/a.png",
        "zip://x::http://127.0.0.1:1/x.zip",
        "memory://nowhere/a.png",
        "s3://bucket/a.png",
        "file://elsewhere/a.png",
        "://",
        "data://,a",
        "a\0b.png",
        "\x1b[2J://a",
    ],
)
def test_a_row_that_is_neither_a_path_nor_a_gs_url_is_damaged_and_opens_nothing(images, row, monkeypatch):
    def refuse(*arguments, **how):
        raise AssertionError("a file system was opened")

    monkeypatch.setattr("tfrecords.storage.object_store.open_filesystem", refuse)
    put(images, "a.png")
    path = images / "list.jsonl"
    path.write_text("".join(json.dumps({"path": name}) + "\n" for name in (row, "a.png")))
    (first, reason), (second, _) = problems(str(path))
    assert (first, second) == ("damaged_row", None)
    assert reason.startswith(f"row 1 of {path}: ")
    labels = LabelRules("table", tables=(str(images / "labels.jsonl"),))
    (images / "labels.jsonl").write_text(json.dumps({"path": row, "text": "x"}) + "\n")
    assert [bool(label.problem) for label in read_label_rows(0, labels)] == [True]


@pytest.mark.parametrize("before", ["file://", "file:", "FILE://", "file://localhost", "/", "//"])
def test_a_local_path_is_one_image_however_it_is_written(images, before):
    put(images, "a b%20.png", "c d.png")
    names = [f"{before}{images}/a b%20.png", f"{before}{images}/c d.png"]
    if before.lower().startswith("file"):
        names.append(f"{before}{images}/c%20d.png")
    path = images / "list.jsonl"
    path.write_text("".join(json.dumps({"path": name}) + "\n" for name in names))
    wanted = [f"{images}/a b%2520.png", f"{images}/c d.png", f"{images}/c d.png"][: len(names)]
    assert named(str(path)) == wanted
    labels = LabelRules("table", tables=(str(images / "labels.jsonl"),))
    (images / "labels.jsonl").write_text("".join(json.dumps({"path": n, "text": "x"}) + "\n" for n in names))
    assert [label.uri for label in read_label_rows(0, labels)] == wanted


def test_a_gs_url_is_kept_whatever_is_in_it():
    for url in ("gs://bucket/a b%20.png", "gs://bucket/x::http://host/a#1.png", "GS://bucket/a.png", "gcs://bucket/a"):
        assert resolve_path("/scans", url) == f"gs://{url.partition('://')[2]}"


@pytest.mark.parametrize("row", ["/proc/self/environ", "/sys/kernel/mm", "/dev/zero", "/dev/../proc/self/environ"])
def test_a_row_names_no_file_of_the_operating_system(images, row):
    (images / "link.png").symlink_to(row)
    path = images / "list.csv"
    path.write_text(f"path\n{row}\n{images}/link.png\nlink.png\n/proc/self/root/etc/hostname\n")
    assert [reason for reason, _ in problems(str(path))] == ["unreadable"] * 4


@pytest.mark.parametrize("xml", ["/proc/self/mountinfo", "../" * 30 + "proc/self/mountinfo", "/dev/zero"])
def test_nor_does_the_page_file_of_a_line_lie_among_them(images, xml):
    put(images, "a.png")
    path = images / "list.csv"
    path.write_text(f"path\na.png#xml={xml}&line=l1\n")
    ((reason, detail),) = problems(str(path))
    assert reason == "unreadable"
    assert "where no image is read" in detail
