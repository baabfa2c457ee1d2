"""Copies that a desktop or a browser makes: their names, and the labels and splits that they get."""

import pathlib

import pytest

from components.listing import ImageReference, LabelRules, list_images, write_listing
from components.listing.collection import Tally
from components.listing.copies import find_original, find_original_name
from tests.components.listing.files import put, put_remote
from tfrecords import SplitFractions

COPIES = (
    *("AB12 (2)", "AB12 (13)", "AB12 - Copy", "AB12 - Copy (2)", "AB12 copy", "AB12 copy 2", "AB12 (copy)"),
    *("AB12 (another copy)", "AB12 (3rd copy)", "Copy of AB12", "Copy (2) of AB12", "AB12 - Kopie", "Kopie von AB12"),
    *("AB12 – Kopie (3)", "AB12 - copie", "Copia de AB12", "AB12 - Копия", "AB12 のコピー", "AB12 - 副本"),
    *("AB12 (2) - Copy", "AB12 - Copy - Copy", "AB12 (1) (1)"),
)


def label_all(folder: pathlib.Path | str, tally: Tally | None = None, **rules) -> dict[str, ImageReference]:
    listed = list_images(str(folder), LabelRules("filename", **rules), tally)
    return {reference.uri.rpartition("/")[2]: reference for reference in listed}


@pytest.mark.parametrize("name", COPIES)
def test_the_names_of_copies_are_known(name):
    assert find_original_name(name) == "AB12"
    assert find_original(name, {"AB12"}) == "AB12"


@pytest.mark.parametrize("name", ["AB12", "AB12_1", "(2)", "copy", "Copyright", "photocopy", "f(2)", "AB12 (2024)"])
def test_other_names_are_those_of_no_copies(name):
    assert find_original_name(name) is None


@pytest.mark.parametrize("name", [*COPIES, "AB12_1", "AB12_02", "AB12(2)"])
def test_a_copy_has_the_label_and_the_split_of_its_original(images, name):
    put(images, "AB12.png", f"{name}.jpg", "CD34.png")
    tally = Tally()
    labelled = label_all(images, tally)
    assert [reference.text for reference in labelled.values()].count("AB12") == 2
    assert labelled[f"{name}.jpg"].split_key == labelled["AB12.png"].split_key != labelled["CD34.png"].split_key
    assert tally.copies == 1
    listing = write_listing([str(images)], f"{images.parent}/0.parquet", LabelRules("filename"), SplitFractions())
    assert listing.copies == 1


@pytest.mark.parametrize("name", ["AB12 (2)", "AB12 - Copy", "Copy of AB12"])
def test_a_copy_without_its_original_is_rejected(images, name):
    put(images, f"{name}.png", "other/AB12.png")
    reference = label_all(images)[f"{name}.png"]
    assert (reference.text, reference.problem) == (None, "no_label")
    assert reference.detail == (
        f"its name, {name!r}, is that of a copy, and no image 'AB12' lies beside it: rename it, or label it in a table"
    )


@pytest.mark.parametrize("name", ["AB12_1", "AB12(2)"])
def test_a_counter_without_an_original_may_be_a_part_of_the_label(images, name):
    put(images, f"{name}.png")
    assert label_all(images)[f"{name}.png"].text == name


def test_a_pattern_says_itself_what_a_counter_is(images):
    put(images, "AB12.png", "AB12_1.png", "AB12_2 (2).png")
    labels = {name: (r.text, r.problem) for name, r in label_all(images, pattern="{label}_{id}").items()}
    assert labels == {
        "AB12.png": (None, "no_label"),
        "AB12_1.png": ("AB12", None),
        "AB12_2 (2).png": ("AB12", None),
    }
    put(images, "7-AB12.png", "7-AB12 (2).png", "7-AB12_1.png")
    labelled = label_all(images, pattern="{id}-{label}")
    assert [labelled[f"7-AB12{end}.png"].text for end in ("", " (2)", "_1")] == ["AB12", "AB12", "AB12_1"]


def test_copies_stay_with_their_folder_if_folders_are_kept_together(images):
    put(images, "book/AB12.png", "book/AB12 (2).png")
    tally = Tally()
    assert {reference.group for reference in label_all(images, tally, split_by="folder").values()} == {"lines/book"}
    assert tally.copies == 1


def test_copies_among_single_files_and_in_object_stores_are_known_too(images, bucket):
    put(images, "AB12.png", "AB12 (2).png")
    assert label_all(images / "AB12 (2).png")["AB12 (2).png"].text == "AB12"
    put_remote(bucket, "lines/AB12.png", "lines/AB12 - Copy.png")
    labelled = label_all(f"{bucket}/lines")
    assert [reference.text for reference in labelled.values()] == ["AB12", "AB12"]
    assert len({reference.split_key for reference in labelled.values()}) == 1
