"""Where exported files lie, and what they are called."""

from __future__ import annotations

import os

import pytest

from components.export.places import mirror_path, name_files


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/scans/1912/0007.jpg", "scans/1912/0007.jpg"),
        ("/scans/a/../b/0007.jpg", "scans/b/0007.jpg"),
        ("gs://archive/1912/0007.jpg", "gs/archive/1912/0007.jpg"),
        ("gs://archive//../etc/./x.jpg", "gs/archive/%/%2E%2E/etc/%2E/x.jpg"),
        ("/scans/Straße 50%.png", "scans/Straße 50%.png"),
        (os.fsdecode(b"/scans/\xff%.png"), "scans/%FF%25.png"),
    ],
)
def test_the_folders_of_the_collection_are_mirrored(path, expected):
    assert mirror_path(path) == expected


def test_long_names_are_cut_and_stay_different():
    names = [mirror_path(f"/scans/{'ä' * 125}{end}.jpg").removeprefix("scans/") for end in "xy"]
    assert names[0] != names[1]
    assert all(len(name.encode()) <= 240 for name in names)


def name(*names: str, suffix: str | None = ".txt") -> list[str]:
    return list(name_files({f"/scans/{name}": name for name in names}, suffix).values())


def test_images_that_differ_in_the_suffix_alone_keep_it():
    assert name("b.jpg", "a.tif", "b.tif") == ["b.jpg.txt", "a.txt", "b.tif.txt"]
    assert len(set(name("a", "a.png", "a.jpg", "a.png.png"))) == 4
    assert name("p.xml", "p.XML", suffix=None) == ["p.xml", "p.XML"]


@pytest.mark.parametrize("suffix", [".txt", None])
def test_two_spellings_of_a_path_have_a_file_each(suffix):
    assert mirror_path("/scans/a.png") == mirror_path("/scans/b/../a.png")
    found = name_files({"/scans/a.png": "a.png", "/scans/b/../a.png": "a.png"}, suffix)
    assert len(set(found.values())) == 2
