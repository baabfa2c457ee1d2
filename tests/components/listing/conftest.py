"""A folder of images for the tests of listing."""

import pathlib

import pytest


@pytest.fixture
def images(tmp_path) -> pathlib.Path:
    """An empty folder, `lines`."""
    folder = tmp_path / "lines"
    folder.mkdir()
    return folder
