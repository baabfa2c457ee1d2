"""Which image a path of a table names, where it does not lead there."""

import pytest

from components.listing.name_matching import NameIndex, make_name_key

IMAGES = ["/d/a/1.png", "/d/b/1.png", "/d/a/2.JPG", "/d/a/x.tif", "/d/a/x.png", "/d/n/Cafe\u0301.png", "/d/n/p.q.png"]


def match(named: str, *images: str, least_folders: int = 0) -> str | None:
    return NameIndex(images or IMAGES).match(named, least_folders).uri


@pytest.mark.parametrize(
    ("named", "uri", "how"),
    [
        ("2.JPG", "/d/a/2.JPG", "by name alone"),
        ("2.jpg", "/d/a/2.JPG", "by name alone"),
        ("other/2.JPG", "/d/a/2.JPG", "by name alone"),
        ("a/2.JPG", "/d/a/2.JPG", "by the end of the path"),
        ("C:/x/A/2.jpg", "/d/a/2.JPG", "by the end of the path"),
        ("./a//1.png", "/d/a/1.png", "by the end of the path"),
        ("b/1.png", "/d/b/1.png", "by the end of the path"),
        ("2", "/d/a/2.JPG", "by name without its suffix"),
        ("a/1", "/d/a/1.png", "by name without its suffix"),
        ("p.q", "/d/n/p.q.png", "by name without its suffix"),
        ("caf\u00e9", "/d/n/Cafe\u0301.png", "by name without its suffix"),
        ("x.tif", "/d/a/x.tif", "by name alone"),
    ],
)
def test_a_path_names_the_image_whose_path_ends_most_like_it(named, uri, how):
    assert NameIndex(IMAGES).match(named)[::2] == (uri, how)


@pytest.mark.parametrize("named", ["1.png", "c/1.png", "1", "x", "a/x"])
def test_a_name_that_several_images_have_names_none(named):
    found = NameIndex(IMAGES).match(named)
    assert found.uri is None
    assert found.how.startswith("several images have this name, such as /d/a/")


@pytest.mark.parametrize("named", ["3.png", "2.png", "p", "", "/", "."])
def test_another_name_or_suffix_names_no_image(named):
    assert NameIndex(IMAGES).match(named).uri is None
    assert NameIndex([]).match(named).how == "there is no image of this name"


def test_of_two_names_that_differ_in_case_the_one_that_is_written_so_counts():
    assert match("a.png", "/d/a.png", "/d/A.png") == "/d/a.png"
    assert match("a.PNG", "/d/a.png", "/d/A.png") is None


def test_an_image_of_another_split_is_another_image():
    assert match("train/1.png", "/d/test/1.png") is None
    assert match("x/train/sub/1.png", "/d/test_images/1.png") is None
    assert match("images/1.png", "/d/test/1.png") == "/d/test/1.png"
    assert match("train/1.png", "/d/training/1.png") == "/d/training/1.png"


def test_some_folders_may_have_to_be_in_common():
    assert match("c/2.JPG", least_folders=1) is None
    assert match("a/2.JPG", least_folders=1) == match("2.JPG", least_folders=1) == "/d/a/2.JPG"


def test_images_and_the_paths_that_name_them_have_one_key():
    assert {make_name_key(name) for name in ("/d/a/X.PNG", "b/x.jpeg", "x", "X.tif")} == {"x"}
    assert make_name_key("a/x.dat") == "x.dat"
