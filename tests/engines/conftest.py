"""Real engines in processes of their own, whose workers have this project's dependencies, but not the project."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.proxy import Proxy, proxy_of
from tests.engines.services import (
    ObjectStore,
    PortableEngine,
    emulated_store,
    make_worker_python,
    portable_service,
)


@pytest.fixture(scope="session")
def worker_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that imports everything that this one does, except for this project."""
    return make_worker_python(tmp_path_factory.mktemp("worker-environment"))


@pytest.fixture(scope="module")
def portable_engine(worker_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PortableEngine]:
    """An engine for the tests of one module."""
    folder = tmp_path_factory.mktemp("engine")
    with portable_service(worker_python, folder) as engine:
        yield engine


@pytest.fixture(scope="module")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """An emulator of GCS in another process, to which this process and its children talk until the module's end."""
    with emulated_store(tmp_path_factory.mktemp("object-store")) as store:
        yield store


@pytest.fixture
def bucket(object_store: ObjectStore) -> str:
    """The `gs://` URL of an empty bucket."""
    return object_store.make_bucket()


@pytest.fixture
def proxy(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy in front of the emulator, through which this process and its children go for the time of a test."""
    with proxy_of(object_store.endpoint) as between:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", between.endpoint)
        yield between


@pytest.fixture
def store(object_store: ObjectStore, tiny_images: Path, tiny_model: Path) -> str:
    """A bucket with the tiny images in `lines`, and a workspace `ws` in which the tiny model is in use."""
    return make_store(object_store, tiny_images, tiny_model)


@pytest.fixture(scope="module")
def refused_store(object_store: ObjectStore, tiny_images: Path, tiny_model: Path) -> str:
    """The same, for tests in which nothing can be written."""
    return make_store(object_store, tiny_images, tiny_model)


def make_store(object_store: ObjectStore, images: Path, model: Path) -> str:
    bucket = object_store.make_bucket()
    for path in sorted(images.iterdir()):
        object_store.put(f"{bucket}/lines/{path.name}", path.read_bytes())
    put_model(object_store, bucket, model)
    return bucket


def put_model(object_store: ObjectStore, bucket: str, model: Path) -> None:
    for path in sorted(model.rglob("*")):
        if path.is_file() and "saved_model" not in path.parts:  # nothing here reads with it
            object_store.put(f"{bucket}/ws/models/first/{path.relative_to(model)}", path.read_bytes())
    for pointer in ("LATEST", "ACCEPTED"):
        object_store.put(f"{bucket}/ws/models/{pointer}", b"first\n")
