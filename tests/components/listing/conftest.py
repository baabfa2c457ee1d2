"""Folders for the tests of listing, on disk and in an object store."""

import pathlib
import uuid

import pytest

from tfrecords import storage


@pytest.fixture
def images(tmp_path) -> pathlib.Path:
    """An empty folder, `lines`."""
    folder = tmp_path / "lines"
    folder.mkdir()
    return folder


@pytest.fixture(params=["memory:///", "memory://"])
def bucket(request):
    """An empty folder in fsspec's in-memory file system, by its canonical URL and by a shorter one."""
    url = f"{request.param}{uuid.uuid4().hex}"
    yield url
    storage.remove_folder(url)
