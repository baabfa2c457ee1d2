"""Finding the files that may hold the labels of images, whatever their names and formats are."""

import gzip
import io
import json
import os
import pathlib
import sqlite3
import unicodedata
import zipfile

import pandas
import pytest

from components.listing.label_files import LabelFile, find_label_file
from tests.components.listing.files import put, put_remote

CODES = ["".join("bcdfghkmpx"[int(digit)] for digit in f"{number * 7919 % 100_000:05d}") for number in range(40)]
NAMES = [f"{code}.png" for code in CODES]
TEXTS = {name: f"words of {number}" for number, name in enumerate(NAMES)}


@pytest.fixture
def images(tmp_path) -> pathlib.Path:
    """A folder `set/images` of 40 images whose names could be labels."""
    folder = tmp_path / "set" / "images"
    put(folder, *NAMES)
    return folder


def find(images: pathlib.Path | str, names: list[str] = NAMES, root: str | None = None) -> LabelFile | None:
    return find_label_file([f"{images}/{name}" for name in names], [root or str(images)])


def join_lines(form: str) -> bytes:
    return "".join(form.format(name=name, code=name[:-4], text=text) + "\n" for name, text in TEXTS.items()).encode()


def zip_files(**files: str) -> bytes:
    with io.BytesIO() as packed:
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in files.items():
                archive.writestr(name.replace("__", "/").replace("_xml", ".xml"), text)
        return packed.getvalue()


def make_spreadsheet() -> bytes:
    cells = "".join(f"<si><t>{cell}</t></si>" for pair in TEXTS.items() for cell in pair)
    return zip_files(xl__sharedStrings_xml=f'<?xml version="1.0"?><sst>{cells}</sst>')


def make_open_document() -> bytes:
    rows = "".join(f"<row><cell><p>{name}</p></cell><cell><p>{text}</p></cell></row>" for name, text in TEXTS.items())
    return zip_files(content_xml=f"<body>{rows}</body>")


def make_parquet() -> bytes:
    frame = pandas.DataFrame({"image": NAMES, "words": list(TEXTS.values()), "number": range(len(NAMES))})
    return frame.to_parquet()


def make_database() -> bytes:
    database = sqlite3.connect(":memory:")
    database.execute("create table labels (image text, words text)")
    database.executemany("insert into labels values (?, ?)", TEXTS.items())
    database.commit()
    return database.serialize()


COCO = {
    "images": [{"id": i, "file_name": name, "width": 90} for i, name in enumerate(NAMES)],
    "annotations": [{"id": 1}],
}
CONTENTS = {
    "labels.txt": join_lines("{name} {text}"),
    "rec_gt_train.txt": join_lines("train/{name}\t{text}"),
    "gt.txt": join_lines('{name}, "{text}"'),
    "ground_truth": join_lines("{name}\t{text}"),
    "windows.txt": b"\xef\xbb\xbf" + join_lines("images\\{name};{text}\r"),
    "utf16.txt": join_lines("{name}\t{text}").decode().encode("utf-16"),
    "utf16 without mark.txt": join_lines("{name}\t{text}").decode().encode("utf-16-le"),
    "latin.csv": join_lines("{name},{text} é").decode().encode("latin-1"),
    "lines.txt": join_lines("{code} ok 154 1 408 768 27 51 AT {text}"),
    "text": join_lines("{code} {text}"),
    "labels.json": json.dumps(TEXTS).encode(),
    "by_code.json": json.dumps({name[:-4]: text for name, text in TEXTS.items()}).encode(),
    "labels.jsonl.gz": gzip.compress(join_lines('{{"image": "{name}", "text": "{text}"}}')),
    "instances.json": json.dumps(COCO).encode(),
    "annotations.xml": b"<images>" + join_lines('<image name="{name}"><text>{text}</text></image>') + b"</images>",
    "labels.yaml": join_lines("{name}: {text}"),
    "annotations.xlsx": make_spreadsheet(),
    "annotations.ods": make_open_document(),
    "labels.parquet": make_parquet(),
    "labels.sqlite": make_database(),
    "old.xls": b"\xd0\xcf\x11\xe0" + bytes(600) + "\0\0".join(TEXTS).encode(),
}


WITHOUT_SUFFIXES = ("lines.txt", "text", "by_code.json")


@pytest.mark.parametrize("place", ["set/images", "set", "set/annotations"])
@pytest.mark.parametrize("name", CONTENTS)
def test_a_file_that_mentions_the_images_is_found_whatever_its_name_and_format(tmp_path, images, place, name):
    put(tmp_path / place, name, content=CONTENTS[name])
    counts = place != "set/annotations" or name not in WITHOUT_SUFFIXES  # words alone may be those of anything
    assert find(images) == (LabelFile(f"{tmp_path}/{place}/{name}", 40, 40) if counts else None)


@pytest.mark.parametrize("name", ["gt.txt", "instances.json"])
def test_a_file_anywhere_between_the_root_and_the_images_is_found(tmp_path, images, name):
    put(images / "1" / "2", *NAMES)
    put(images / "1", name, content=CONTENTS[name])
    inner = [f"1/2/{name}" for name in NAMES]
    assert find(images, inner) == LabelFile(f"{images}/1/{name}", 40, 40)
    put(tmp_path, "set/annotations/train/gt.txt", content=CONTENTS["gt.txt"])
    (images / "1" / name).unlink()
    assert find(images, inner, root=f"{tmp_path}/set").path == f"{tmp_path}/set/annotations/train/gt.txt"


@pytest.mark.parametrize("form", ["{}.txt", "gt_{}.txt", "{}.gt.json", "{}.xml", "{}_gt.txt"])
@pytest.mark.parametrize("place", ["images", "labels", "labels/train"])
def test_files_that_are_named_like_the_images_are_found(images, form, place):
    folder = images.parent / place
    put(folder, *(form.format(code) for code in CODES[:30]), "classes.txt", content=b"0 0.5 0.5 0.1 0.2")
    found = find(images)
    assert (os.path.dirname(found.path), found.mentioned, found.files) == (str(folder), 30, 30)


def test_a_folder_labels_beside_a_folder_images_above_is_looked_at(tmp_path):
    put(tmp_path / "set/images/train/1", *NAMES)
    put(tmp_path / "set/labels/train/1", *(f"{code}.txt" for code in CODES), content=b"0 0.5 0.5 0.1 0.2")
    found = find(tmp_path / "set/images/train/1")
    assert (os.path.dirname(found.path), found.files) == (f"{tmp_path}/set/labels/train/1", 40)


def test_names_are_found_in_another_unicode_form_and_case_and_escaped(images):
    names = [f"Schlüssel {code} & é.PNG" for code in CODES]
    put(images, *names)
    for content in (
        join_lines("Schlüssel {code} & é.png\t{text}"),
        unicodedata.normalize("NFD", join_lines("Schlüssel {code} & é.png\t{text}").decode()).encode(),
        json.dumps(dict.fromkeys(names, "x")).encode(),
        join_lines("/data/Schl%C3%BCssel%20{code}%20%26%20%C3%A9.png {text}"),
    ):
        put(images, "labels", content=content)
        assert find(images, names) == LabelFile(f"{images}/labels", 40, 40)


def test_a_tenth_of_the_images_is_enough_and_less_is_not(images):
    put(images, "notes.txt", content=b"".join(join_lines("{name} {text}").splitlines(keepends=True)[:4]))
    assert find(images).mentioned == 4
    put(images, "notes.txt", content=b"".join(join_lines("{name} {text}").splitlines(keepends=True)[:3]))
    assert find(images) is None


def test_names_inside_other_names_are_no_mentions(images):
    names = [f"{number}.png" for number in range(20)]
    put(images, "other.txt", content=b"".join(b"x%d.png %d.png.old and more\n" % (n, n) for n in range(20)))
    assert find(images, names) is None


@pytest.mark.parametrize(
    "content",
    [
        join_lines("{name}"),
        join_lines("./images/{name}"),
        join_lines("{code}"),
        json.dumps(NAMES, indent=1).encode(),
        b"For example, bbbbb.png is the picture of bbbbb.\n",
        b"",
        b"\x89PNG" + join_lines("{name} {text}"),
        b"PK\x03\x04" + join_lines("{name} {text}"),
        b"PAR1" + join_lines("{name} {text}"),
        b"\x1f\x8b" + join_lines("{name} {text}"),
    ],
    ids=["list", "list of paths", "list of words", "JSON list", "prose", *("empty", "image", "ZIP", "Parquet", "gzip")],
)
def test_lists_of_names_and_damaged_files_are_no_labels(images, content):
    put(images, "file", content=content)
    assert find(images) is None


def test_rows_about_other_images_of_the_same_names_are_no_mentions(tmp_path, images):
    put(tmp_path / "set" / "Other", *NAMES)
    put(tmp_path / "set", "truth.txt", content=join_lines("Other/{name}\t{text}"))
    assert find(images) is None
    put(tmp_path / "set" / "Other", "labels.txt", content=join_lines("{name}\t{text}"))
    assert find(images) is None


def test_what_a_workspace_holds_is_no_mention(images):
    for workspace in (images.parent / "workspace", images.parent):
        for name in ("unfinished/listing-1/0.txt", "runs/1.html", "datasets/1/statistics.json"):
            put(workspace, name, content=join_lines("{name} {text}"))
        assert find(images) is None
    put(images.parent, "labels.txt", content=join_lines("{name} {text}"))
    assert find(images).path == f"{images.parent}/labels.txt"


def test_a_large_file_is_read_in_part_and_what_was_read_is_enough(images, monkeypatch):
    monkeypatch.setattr("components.listing.contents.MAX_BYTES", 2_000)
    lines = [f"elsewhere-{number}.png some other words\n".encode() for number in range(2_000)]
    put(images, "labels.txt", content=join_lines("{name} {text}")[:300] + b"".join(lines))
    assert 3 <= find(images).mentioned < 20


def test_special_files_and_folders_that_cannot_be_read_are_passed_over(tmp_path, images):
    os.mkfifo(images / "pipe.txt")
    (images / "broken").symlink_to("nowhere")
    put(images, ".hidden.txt", content=join_lines("{name} {text}"))
    (images / "folder.txt").mkdir()
    assert find(images) is None


def test_files_in_an_object_store_are_found(bucket):
    put_remote(bucket, *(f"set/images/{name}" for name in NAMES))
    assert find(f"{bucket}/set/images") is None
    put_remote(bucket, "set/labels.txt", content=join_lines("{name} {text}"))
    assert find(f"{bucket}/set/images").path == f"{bucket}/set/labels.txt"


def test_a_table_without_rows_is_no_label_file(images):
    content = pandas.DataFrame({"name": ["x"], "text": ["y"]})[:0].astype("string").to_parquet()
    (images.parent / "empty.parquet").write_bytes(content)
    assert find(images) is None
