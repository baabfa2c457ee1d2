"""Where the paths of a label table lead, if not from its own folder."""

import pathlib
import unicodedata

import pytest

from components.listing import LabelRules, TableColumns, find_path_rule
from components.listing.joining import read_label_rows
from components.listing.table_paths import NameRule, PathRule
from tests.components.listing.files import put, put_remote
from tfrecords import DataError

NUMBERS = range(8)


def put_rows(table: pathlib.Path, form: str) -> str:
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text("filename;text\n" + "".join(f"{form.format(number)};words {number}\n" for number in NUMBERS))
    return str(table)


def find(table: str, *roots: pathlib.Path | str) -> PathRule | NameRule | None:
    return find_path_rule(table, TableColumns(), list(map(str, roots)))


def uris(table: str, *roots: pathlib.Path | str) -> list[str]:
    """The images to which the rows of a table lead."""
    return [row.uri for row in read_label_rows(0, LabelRules("table", tables=(table,)), find(table, *roots))]


@pytest.fixture
def images(tmp_path) -> pathlib.Path:
    """A folder `set/images` of numbered images."""
    folder = tmp_path / "set" / "images"
    put(folder, *(f"p{number}.PNG" for number in NUMBERS))
    return folder


@pytest.mark.parametrize("form", ["images/p{}.PNG", "./images/p{}.PNG", "../set/images/p{}.PNG"])
def test_paths_that_lead_from_the_tables_folder_need_no_rule(images, form):
    table = put_rows(images.parent / "labels.csv", form)
    assert find(table, images) is find(table, images.parent) is None


@pytest.mark.parametrize(
    ("place", "form"),
    [
        ("set", "p{}.PNG"),
        ("set", "p{}.png"),
        ("set", "images\\p{}.PNG"),
        ("set", "images\\P{}.png"),
        ("set", "images/p{}.png"),
        ("set", "C:\\Users\\Anna\\set\\images\\p{}.PNG"),
        ("set", "/home/anna/set/images/p{}.PNG"),
        ("set", "train_data/set/images/p{}.PNG"),
        ("set/images", "images/p{}.PNG"),
        ("set/images", "D:\\images\\p{}.png"),
        ("set/images", "p{}.png"),
        ("", "images/p{}.PNG"),
    ],
)
def test_paths_as_other_machines_write_them_lead_to_the_images(tmp_path, images, place, form):
    table = put_rows(tmp_path / place / "labels.csv", form)
    wanted = [f"{images}/p{number}.PNG" for number in NUMBERS]
    assert uris(table, images) == wanted
    if place:
        assert uris(table, images.parent) == wanted


@pytest.mark.parametrize("form", ["no{}.PNG", "other/no{}", "https://host/images/p{}.PNG"])
def test_paths_with_other_names_lead_to_no_images(images, form):
    table = put_rows(images.parent / "labels.csv", form)
    assert find(table, images) is None


@pytest.mark.parametrize(
    "form", ["other/p{}.PNG", "C:\\other\\p{}.png", "/content/drive/MyDrive/p{}.PNG", "p{}", "other/p{}"]
)
def test_paths_that_have_only_names_in_common_with_images_are_joined_by_these(images, form):
    table = put_rows(images.parent / "labels.csv", form)
    assert find(table, images) == NameRule(str(images.parent))


def test_rows_about_other_images_that_exist_are_left_as_they_are(images):
    put(images.parent / "other", *(f"p{number}.PNG" for number in NUMBERS))
    table = put_rows(images.parent / "labels.csv", "other/p{}.PNG")
    assert find(table, images) is None


def test_bare_names_that_two_folders_have_are_refused(images):
    put(images.parent / "more", *(f"p{number}.PNG" for number in NUMBERS))
    table = put_rows(images.parent / "labels.csv", "p{}.PNG")
    with pytest.raises(DataError) as error:
        find(table, images)
    assert str(error.value).startswith(f"the paths in {table} could be those of images in {images.parent}/")
    assert str(error.value).endswith(": write them relative to the folder of the table")


def test_bare_names_of_a_folder_that_is_not_asked_for_lead_to_no_images(tmp_path, images):
    put(tmp_path, "set/more/a.png")
    table = put_rows(images.parent / "labels.csv", "p{}.PNG")
    assert find(table, tmp_path / "set" / "more") is None


def test_a_rule_about_folders_has_to_fit_half_of_the_rows(images):
    for number in NUMBERS[:5]:
        (images / f"p{number}.PNG").unlink()
    table = put_rows(images.parent / "labels.csv", "p{}.PNG")
    assert find(table, images) == NameRule(str(images.parent))


def test_names_of_images_in_an_object_store_count_only_if_no_path_leads_anywhere(bucket):
    put_remote(bucket, *(f"set/images/deep/p{number}.png" for number in NUMBERS))
    for name, form in (("a.csv", "images/deep/p{}.png"), ("b.csv", "deep/p{}.png"), ("c.csv", "q{}.png")):
        rows = "".join(f"{form.format(number)},x\n" for number in NUMBERS)
        put_remote(bucket, f"set/{name}", content=f"path,text\n{rows}".encode())
    assert find(f"{bucket}/set/a.csv", f"{bucket}/set/images") is None
    assert find(f"{bucket}/set/b.csv", f"{bucket}/set/images") == NameRule(f"{bucket}/set")
    assert find_path_rule(f"{bucket}/set/b.csv", TableColumns(), [f"{bucket}/set/images"], in_search=True) is None
    assert find(f"{bucket}/set/c.csv", f"{bucket}/set/images") is None


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_in_another_unicode_form_lead_to_the_images(images, forms):
    written, stored = (unicodedata.normalize(form, "é{}.png") for form in forms)
    put(images, *(stored.format(number) for number in NUMBERS))
    assert find(put_rows(images / "labels.csv", written), images) is None  # the join composes the letters
    table = put_rows(images.parent / "labels.csv", written)
    assert uris(table, images) == [f"{images}/{stored.format(number)}" for number in NUMBERS]


def test_a_name_that_differs_in_case_from_two_images_leads_to_none(images):
    put(images, "P1.png", "p1.png")
    table = put_rows(images.parent / "labels.csv", "images\\p{}.png")
    assert uris(table, images)[:3] == [f"{images}/p0.PNG", f"{images}/p1.png", f"{images}/p2.PNG"]
    (images / "p1.png").rename(images / "p1.Png")
    assert uris(table, images)[1] == f"{images}/p1.png"  # which is not there


def test_bare_names_lead_to_images_in_an_object_store(bucket):
    put_remote(bucket, *(f"set/images/p{number}.png" for number in NUMBERS))
    rows = "".join(f"p{number}.png,x\n" for number in NUMBERS)
    put_remote(bucket, "set/labels.csv", content=f"path,text\n{rows}".encode())
    found = uris(f"{bucket}/set/labels.csv", f"{bucket}/set/images")
    assert [uri.rpartition("set/")[2] for uri in found] == [f"images/p{number}.png" for number in NUMBERS]
