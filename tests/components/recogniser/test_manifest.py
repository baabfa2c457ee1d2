from __future__ import annotations

import hashlib
import json
import re
import shutil
import uuid
from pathlib import Path

import pytest

from components.recogniser.manifest import SCHEMA_VERSION, ModelManifest, describe_files, get_first_name
from tfrecords import Charset, DataError, storage

FILES = {
    "charset.txt": b"a\nb\n",
    "model.onnx": b"onnx",
    "saved_model/saved_model.pb": b"graph",
    "saved_model/variables/v.data": b"weights",
    "saved_model/variables/variables.index": b"index",
}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A committed model of a few small files."""
    folder = tmp_path / "model"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    manifest = ModelManifest(
        model_id="m1",
        dataset_id="d1",
        model="ctc_conv",
        height=32,
        time_stride=4,
        temperature=1.5,
        charset_sha256=Charset(("a", "b")).digest,
        options={"epochs": 3, "learning_rate": 1e-3},
        files=describe_files(str(folder)),
        created_at="2026-03-04T05:06:07+00:00",
    )
    manifest.write(str(folder))
    return folder


def test_files_are_described_by_path_bytes_and_checksum(folder):
    (folder / "manifest.json").unlink()
    wanted = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in FILES.items()
    }
    found = describe_files(str(folder))
    assert found == wanted
    assert list(found) == sorted(found)


def test_a_manifest_reads_back_as_it_was_written(folder):
    manifest = ModelManifest.read(str(folder))
    assert manifest.options == {"epochs": 3, "learning_rate": 1e-3}
    again = folder.parent / "again"
    manifest.write(str(again))
    assert ModelManifest.read(str(again)) == manifest
    assert manifest.read_charset(str(folder)) == Charset(("a", "b"))


@pytest.mark.parametrize(
    ("written", "read"), [("crnn", "ctc_conv"), ("crnn_large", "ctc_conv_large"), ("crnn_v1", "crnn_v1")]
)
def test_a_network_has_its_present_name_whatever_an_older_manifest_calls_it(folder, written, read):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text()) | {"model": written, "options": {"model": written, "epochs": 3}}
    path.write_text(json.dumps(manifest))
    found = ModelManifest.read(str(folder))
    assert (found.model, found.options) == (read, {"model": read, "epochs": 3})
    assert get_first_name(read) == written


def test_a_folder_without_a_manifest_holds_no_model(folder):
    (folder / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError):
        ModelManifest.read(str(folder))


def change_manifest(folder: Path, **fields) -> None:
    """Gives fields of a manifest other values; None takes one out."""
    path = folder / "manifest.json"
    content = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


@pytest.mark.parametrize("version", [0, None, "2"])
def test_a_model_of_an_unknown_version_is_refused_with_both_versions(folder, version):
    change_manifest(folder, schema_version=version)
    with pytest.raises(DataError, match=f"schema version {version}, this program reads {SCHEMA_VERSION}: delete "):
        ModelManifest.read(str(folder))


def test_a_model_of_a_newer_version_is_refused_with_both_ways_out(folder):
    change_manifest(folder, schema_version=SCHEMA_VERSION + 1)
    refusal = (
        f"schema version {SCHEMA_VERSION + 1}, this program reads {SCHEMA_VERSION}: "
        "install the newer version of it that wrote this, or delete .* and run the train step again"
    )
    with pytest.raises(DataError, match=refusal):
        ModelManifest.read(str(folder))


@pytest.mark.parametrize(
    ("version", "missing", "time_stride", "temperature"),
    [(1, ("time_stride", "temperature"), 4, 1.0), (2, ("temperature",), 8, 1.0), (3, (), 8, 1.5)],
)
def test_a_model_of_an_older_version_still_reads_with_the_values_that_it_implied(
    folder, version, missing, time_stride, temperature
):
    change_manifest(folder, **{"schema_version": version, "time_stride": 8, **dict.fromkeys(missing)})
    manifest = ModelManifest.read(str(folder))
    assert (manifest.schema_version, manifest.time_stride, manifest.temperature) == (version, time_stride, temperature)
    assert manifest.height == 32


def test_a_manifest_that_is_no_json_is_refused(folder):
    (folder / "manifest.json").write_text('{"model_id": ')
    with pytest.raises(DataError, match=r"manifest\.json is not valid JSON"):
        ModelManifest.read(str(folder))


@pytest.mark.parametrize("name", ["../../.bashrc", "/etc/passwd", "model.keras/../../x", "saved_model//x", "."])
def test_a_manifest_that_names_a_file_elsewhere_is_refused(folder, name):
    change_manifest(folder, files={"charset.txt": {"bytes": 4, "sha256": "0"}, name: {"bytes": 1, "sha256": "0"}})
    with pytest.raises(DataError, match=f"names a file that is not in its folder: {name}$"):
        ModelManifest.read(str(folder))


def test_another_charset_is_refused_with_both_digests(folder):
    (folder / "charset.txt").write_text("a\nc\n")
    wanted, found = Charset(("a", "b")).digest[:12], Charset(("a", "c")).digest[:12]
    with pytest.raises(DataError, match=f"has digest {found}, but the manifest beside it says {wanted}"):
        ModelManifest.read(str(folder)).read_charset(str(folder))


def test_local_files_are_checked_where_they_are(folder):
    assert ModelManifest.read(str(folder)).fetch(str(folder), "saved_model") == str(folder / "saved_model")


def test_a_missing_file_is_refused_by_name(folder):
    (folder / "saved_model" / "saved_model.pb").unlink()
    with pytest.raises(DataError, match=r"saved_model/saved_model\.pb is missing.*train step again"):
        ModelManifest.read(str(folder)).fetch(str(folder), "saved_model")


def test_a_damaged_file_of_the_same_size_is_refused_by_name(folder):
    (folder / "saved_model" / "variables" / "v.data").write_bytes(b"weightz")
    with pytest.raises(DataError, match=r"saved_model/variables/v\.data has checksum .* damaged or replaced"):
        ModelManifest.read(str(folder)).fetch(str(folder), "saved_model")


def test_only_files_below_the_prefix_are_needed(folder):
    (folder / "charset.txt").unlink()
    ModelManifest.read(str(folder)).fetch(str(folder), "saved_model")


def test_a_remote_model_is_copied_and_checked(folder):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    root = f"memory://{folder.parent.name}"
    try:
        memory.put(str(folder), root, recursive=True)
        manifest = ModelManifest.read(root)
        local = Path(manifest.fetch(root, "saved_model"))
        try:
            assert (local / "saved_model.pb").read_bytes() == b"graph"
            assert (local / "variables" / "v.data").read_bytes() == b"weights"
            assert not (local.parent / "charset.txt").exists()
        finally:
            shutil.rmtree(local.parent)
        memory.pipe_file(f"{root}/saved_model/saved_model.pb", b"grape")
        with pytest.raises(DataError, match=r"saved_model\.pb has checksum"):
            manifest.fetch(root, "saved_model")
    finally:
        memory.rm(root, recursive=True)


@pytest.mark.parametrize("place", ["local", "remote"])
@pytest.mark.parametrize(
    ("unnamed", "wanted"),
    [
        ("saved_model/saved_model.pb", "saved_model"),
        ("saved_model/variables/variables.index", "saved_model"),
        ("model.onnx", "model.onnx"),
    ],
)
def test_what_the_manifest_does_not_name_is_not_loaded(folder, place, unnamed, wanted):
    """A model is a program: somebody may have replaced a file, and taken its checksum out."""
    change_manifest(folder, files={name: file for name, file in describe_files(str(folder)).items() if name != unnamed})
    root = str(folder)
    if place == "remote":
        root = f"memory://{uuid.uuid4().hex}/model"
        storage.copy_folder(str(folder), root)
    with pytest.raises(DataError, match=rf"does not name {re.escape(unnamed)}, which would be loaded"):
        ModelManifest.read(root).fetch(root, wanted)


def test_a_file_that_somebody_added_to_a_saved_model_is_refused(folder):
    (folder / "saved_model" / "saved_model.cpb").write_bytes(b"another graph")
    with pytest.raises(DataError, match=r"does not name saved_model/saved_model\.cpb, which would be loaded"):
        ModelManifest.read(str(folder)).fetch(str(folder), "saved_model")


@pytest.mark.parametrize("files", [[], "all", {"model.onnx": {}}, {"model.onnx": "0"}, {"model.onnx": {"sha256": 1}}])
def test_a_manifest_without_checksums_is_refused(folder, files):
    change_manifest(folder, files=files)
    with pytest.raises(DataError, match="does not give the checksums of the model's files"):
        ModelManifest.read(str(folder))


@pytest.mark.parametrize("temperature", [0, -1.5, float("nan"), float("inf"), "2", [1.0]])
def test_a_temperature_that_is_no_number_above_zero_is_refused(folder, temperature):
    change_manifest(folder, temperature=temperature)
    with pytest.raises(DataError, match="must be a number above 0"):
        ModelManifest.read(str(folder))
