"""Workspaces and images in an object store: real HTTP to an emulator of GCS in another process."""

from __future__ import annotations

import pytest

from tfrecords import storage

pytestmark = pytest.mark.slow


def test_files_are_written_listed_read_and_removed(bucket, object_store):
    path = f"{bucket}/folder/x"
    storage.write_bytes(path, b"content")
    assert object_store.objects(bucket) == {"folder/x": b"content"}
    assert storage.list_names(f"{bucket}/folder") == ["x"]
    assert storage.read_bytes(path) == b"content"
    storage.remove_folder(f"{bucket}/folder")
    assert object_store.objects(bucket) == {}
