"""The names that stand for an image, and the URIs that they may stand for."""

from __future__ import annotations

import os

import pyarrow
import pytest

from components.lineage.names import CANDIDATES, ImageName
from tfrecords import DataError


def find(given: str, *uris: str) -> list[str]:
    """Finds the URIs that a name may stand for."""
    return [uris[place] for place in ImageName.parse(given).find(pyarrow.chunked_array([list(uris)])).tolist()]


def test_a_path_is_found_as_a_whole_or_as_the_end_of_a_uri_at_a_slash():
    uris = ("/a/b/1.png", "/a/b/11.png", "gs://bucket/b/1.png", "b/1.png", "/a/night.tar/b/1.png")
    assert find("b/1.png", *uris) == ["/a/b/1.png", "gs://bucket/b/1.png", "b/1.png", "/a/night.tar/b/1.png"]
    assert find("./b//1.png", *uris) == find("b/1.png", *uris)
    assert find("/a/b/1.png", *uris) == ["/a/b/1.png"]
    assert find("file:///a/b/1.png", *uris) == ["/a/b/1.png"]
    assert find("file:///a/b%201.png", "/a/b 1.png") == ["/a/b 1.png"]
    assert find("gs://bucket/b/1.png", *uris) == ["gs://bucket/b/1.png"]
    assert find("png", *uris) == find("c/1.png", *uris) == []


def test_names_that_a_uri_writes_in_another_way(tmp_path, monkeypatch):
    assert find("50%.png", "/a/50%25.png") == ["/a/50%25.png"]
    assert find("50%25.png", "/a/50%25.png") == ["/a/50%25.png"]
    latin = os.fsdecode(b"/a/\xe9.png")
    assert find(latin, "/a/%E9.png", "/a/é.png") == ["/a/%E9.png"]
    assert find("é.png", "/a/é.png") == ["/a/é.png"]
    monkeypatch.chdir(tmp_path)
    assert find("../x.png", f"{tmp_path.parent}/x.png", "/other/x.png") == [f"{tmp_path.parent}/x.png"]
    assert find("a_b*.png", "/in/a_b*.png", "/in/axb1.png") == ["/in/a_b*.png"]


def test_the_uri_as_a_whole_wins_over_those_that_end_so():
    name = ImageName.parse("/b/1.png")
    assert name.choose(["/a/b/1.png", "/b/1.png"]) == "/b/1.png"
    assert name.choose(["/a/b/1.png"]) == "/a/b/1.png"
    assert name.choose([]) is None


def test_several_candidates_are_listed_and_many_are_cut():
    name = ImageName.parse("1.png")
    with pytest.raises(DataError, match=r"give more of the path \(/a/1.png, /b/1.png\)"):
        name.choose(["/b/1.png", "/a/1.png"])
    uris = [f"/{number:03d}/1.png" for number in range(100)]
    places = name.find(pyarrow.chunked_array([[*uris, *uris, "1.png"]]))
    assert places.tolist() == [*range(CANDIDATES + 1), *range(100, 100 + CANDIDATES + 1), 200]
    with pytest.raises(DataError, match=r"/019/1.png, …\)"):
        name.choose(uris[: CANDIDATES + 1])
