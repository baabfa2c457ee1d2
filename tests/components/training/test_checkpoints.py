"""Checkpoints: what is saved comes back as it was, and a damaged file costs one checkpoint and not the training."""

from __future__ import annotations

import io
import os
import re
import uuid
import zipfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
import requests
from fsspec.implementations.memory import MemoryFileSystem

from components.training.checkpoints import Checkpoint, Checkpoints
from components.training.watchdog import TrainingLost
from tfrecords import DataError, storage

ARRAYS = {
    "model/0": np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 3, 4),
    "model/1": np.array(7, np.int32),
    "model/2": np.zeros((0, 5), np.float32),
    "optimizer/0": np.array(0.1, np.float64),
    "optimizer/1": np.array([3, 2**32 - 1], np.uint32),
    "best/0": np.array([np.nan, -np.inf, 1e-40], np.float32),
    "best/1": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
}
FACTS = {"history": [{"epoch": 1, "cer": 0.1 + 0.2}], "left_out": [4, 11], "loss": 3.5, "text": "Größe"}


@pytest.fixture(params=["local", "memory://"])
def folder(request, tmp_path) -> str:
    """A folder that is not there yet, local or of an object store."""
    return str(tmp_path / "checkpoints") if request.param == "local" else f"memory://{uuid.uuid4().hex}/checkpoints"


@pytest.fixture(autouse=True)
def _no_warning_but_of_damage(caplog, request):
    """Where nothing is damaged, nothing is warned of."""
    yield
    if "damage" not in request.node.name and "pickle" not in request.node.name:
        assert caplog.messages == []


def names(folder: str) -> list[str]:
    return storage.list_names(folder)


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(step, {**ARRAYS, "model/1": np.array(step, np.int32)}, {**FACTS, "step": step})


def saved(folder: str, *steps: int) -> Checkpoints:
    checkpoints = Checkpoints(folder)
    for step in steps:
        checkpoints.save(checkpoint(step))
    return checkpoints


def damage(folder: str, step: int, change) -> str:
    """Puts a changed content in the place of a checkpoint; its path."""
    path = storage.join(folder, f"checkpoint-{step:09d}.npz")
    content = storage.read_bytes(path)
    assert change(content) != content
    storage.write_bytes(path, change(content))
    return path


def with_a_flipped_bit_inside(name: str):
    """Changes one bit in the middle of an array's bytes, and nothing else of the file."""

    def change(content: bytes) -> bytes:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            member = archive.getinfo(f"{name}.npy")
            assert member.compress_type == zipfile.ZIP_STORED
            stored = archive.read(member)
        place = content.index(stored) + len(stored) - ARRAYS[name].nbytes // 2
        return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]

    return change


def test_what_is_saved_comes_back_with_its_types_shapes_and_facts(folder):
    assert saved(folder, 30).folder == folder
    found = Checkpoints(folder).find_latest()
    assert found.step == 30
    assert found.facts == {**FACTS, "step": 30}
    assert list(found.arrays) == list(ARRAYS)
    for name, array in checkpoint(30).arrays.items():
        assert found.arrays[name].dtype == array.dtype, name
        assert found.arrays[name].shape == array.shape, name
        np.testing.assert_array_equal(found.arrays[name], array, err_msg=name)


def test_the_step_of_the_checkpoint_holds_whatever_the_facts_say(folder):
    Checkpoints(folder).save(Checkpoint(8, {}, {"step": 3, "loss": 1.0}))
    found = Checkpoints(folder).find_latest()
    assert (found.step, found.facts, dict(found.arrays)) == (8, {"step": 8, "loss": 1.0}, {})


def test_there_is_none_in_a_folder_that_is_not_there_or_holds_other_files(folder):
    assert Checkpoints(folder).find_latest() is None
    for name in ("checkpoint-12.npz", "checkpoint-000000012.npz.part", "a-checkpoint-000000012.npz", "notes.txt"):
        storage.write_bytes(storage.join(folder, name), b"something else")
    assert Checkpoints(folder).find_latest() is None


def test_the_newest_wins_and_the_one_before_it_is_kept(folder):
    checkpoints = saved(folder, 9, 10, 11, 100)
    assert names(folder) == ["checkpoint-000000011.npz", "checkpoint-000000100.npz"]
    assert checkpoints.find_latest().step == 100


def test_saving_a_step_again_replaces_it(folder):
    checkpoints = saved(folder, 5, 6)
    checkpoints.save(Checkpoint(6, {"model/0": np.ones(2)}, {"loss": 2.0}))
    assert names(folder) == ["checkpoint-000000005.npz", "checkpoint-000000006.npz"]
    assert checkpoints.find_latest().facts == {"loss": 2.0, "step": 6}


def test_the_beginning_is_a_checkpoint_too(folder):
    assert saved(folder, 0).find_latest().step == 0


DAMAGES = {
    "empty": lambda content: b"",
    "cut off at the beginning": lambda content: content[:100],
    "cut off in the middle": lambda content: content[: len(content) // 2],
    "without its last byte": lambda content: content[:-1],
    "of zeros": lambda content: bytes(len(content)),
    "no archive": lambda content: b"this is no checkpoint",
    "one bit of the weights": with_a_flipped_bit_inside("model/0"),
    "one bit of the seeds": with_a_flipped_bit_inside("optimizer/1"),
    "facts": lambda content: content.replace(b'"loss"', b'"lass"'),
}


@pytest.mark.parametrize("change", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_newest_file_is_named_and_the_one_before_it_is_taken(folder, change, caplog):
    checkpoints = saved(folder, 10, 20)
    path = damage(folder, 20, change)
    found = checkpoints.find_latest()
    assert found.step == 10
    np.testing.assert_array_equal(found.arrays["model/0"], ARRAYS["model/0"])
    (warning,) = caplog.records
    assert warning.levelname == "WARNING"
    assert warning.message == f"{path} is damaged: resuming from the checkpoint before it, if there is one"


def test_when_all_are_damaged_each_is_named_and_there_is_none(folder, caplog):
    checkpoints = saved(folder, 10, 20)
    paths = [
        damage(folder, 20, DAMAGES["cut off in the middle"]),
        damage(folder, 10, DAMAGES["one bit of the weights"]),
    ]
    assert checkpoints.find_latest() is None
    assert len(caplog.messages) == 2
    for path, sentence in zip(paths, caplog.messages, strict=True):
        assert path in sentence


def test_damaged_checkpoints_do_not_push_out_those_of_the_steps_before_them(folder):
    checkpoints = saved(folder, 100, 150)
    for step in (100, 150):
        damage(folder, step, DAMAGES["cut off in the middle"])
    for step in (0, 10, 20):
        checkpoints.save(checkpoint(step))
        assert checkpoints.find_latest().step == step
    assert names(folder) == ["checkpoint-000000010.npz", "checkpoint-000000020.npz"]


def test_a_pickle_in_an_archive_is_never_run(folder, tmp_path, caplog):
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "was run"), "w")

    checkpoints = saved(folder, 10)
    content = io.BytesIO()
    np.savez(content, facts=np.frombuffer(b'{"step": 20}', np.uint8), trap=np.array([Trap()], object))
    storage.write_bytes(storage.join(folder, "checkpoint-000000020.npz"), content.getvalue())
    assert checkpoints.find_latest().step == 10
    assert "checkpoint-000000020.npz is damaged" in caplog.messages[0]
    assert not (tmp_path / "was run").exists()
    content.seek(0)
    with np.load(content, allow_pickle=True) as file:  # the trap is a real one
        file["trap"][0].close()
    assert (tmp_path / "was run").exists()


def test_what_a_killed_writer_left_goes_with_the_next_save(folder):
    checkpoints = saved(folder, 10)
    storage.write_bytes(storage.join(folder, f"{storage.TEMPORARY_PREFIX}x.tmp"), b"half a checkpoint")
    storage.write_bytes(storage.join(folder, "notes.txt"), b"not ours")
    assert checkpoints.find_latest().step == 10
    checkpoints.save(checkpoint(20))
    assert names(folder) == ["checkpoint-000000010.npz", "checkpoint-000000020.npz", "notes.txt"]


class FailingStore(MemoryFileSystem):
    """An object store whose client has errors of its own."""

    protocol = "failing"

    class UnavailableError(Exception):
        pass

    def ls(self, path, detail=True, **options):
        raise self.UnavailableError("503, try again")

    put_file = ls


def test_an_object_store_that_fails_loses_the_training_but_is_no_fault_of_the_data():
    fsspec.register_implementation("failing", FailingStore, clobber=True)
    checkpoints = Checkpoints("failing://bucket/checkpoints")
    for use in (lambda: checkpoints.save(checkpoint(12)), lambda: checkpoints.find_latest()):
        with pytest.raises(TrainingLost, match=r"failing://bucket/checkpoints: UnavailableError: 503, try again$"):
            use()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError("timed out"), TrainingLost),
        (requests.ConnectionError("name resolution failed"), TrainingLost),
        (OSError(104, "Connection reset by peer"), TrainingLost),
        (PermissionError(13, "Forbidden"), DataError),
        (FileNotFoundError(2, "No such bucket"), DataError),
    ],
)
def test_a_network_that_is_gone_for_a_while_loses_the_training_and_a_refusal_ends_it(error, kind):
    """Most errors of a network are `OSError`s, as those of a local disk are."""

    class Broken(fsspec.AbstractFileSystem):
        protocol = "broken"

        def open(self, path, mode="rb", **options):
            raise error

    fsspec.register_implementation("broken", Broken, clobber=True)
    with pytest.raises(kind, match=r"broken://bucket/checkpoints: .*(timed|name|reset|Forbidden|bucket)"):
        Checkpoints("broken://bucket/checkpoints").save(checkpoint(12))


def test_a_store_that_nothing_serves_is_refused_and_not_tried_again():
    checkpoints = Checkpoints("nosuch://bucket/checkpoints")
    for use in (lambda: checkpoints.save(checkpoint(12)), lambda: checkpoints.find_latest()):
        with pytest.raises(DataError, match="cannot use 'nosuch://"):
            use()


def test_a_folder_that_cannot_be_written_is_one_sentence_with_the_reason(tmp_path):
    (tmp_path / "file").write_text("in the way")
    folder = str(tmp_path / "file" / "checkpoints")
    with pytest.raises(DataError) as refusal:
        Checkpoints(folder).save(checkpoint(12))
    assert re.fullmatch(
        rf"the checkpoint of step 12 \(0\.0 MB\) cannot be written to {folder}: Not a directory; "
        "correct that and run the same command to resume from the last one",
        str(refusal.value),
    )
    with pytest.raises(DataError, match=rf"^the checkpoints cannot be read in {folder}: Not a directory$"):
        Checkpoints(folder).find_latest()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_without_permission_is_one_sentence_with_the_reason(tmp_path):
    saved(str(tmp_path / "checkpoints"), 10)
    (tmp_path / "checkpoints").chmod(0o500)
    with pytest.raises(DataError, match=r"step 20 .* cannot be written to .*: Permission denied; correct that"):
        saved(str(tmp_path / "checkpoints"), 20)
    assert Checkpoints(str(tmp_path / "checkpoints")).find_latest().step == 10


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_write_that_fails_leaves_the_checkpoints_before_it_and_nothing_half(tmp_path, monkeypatch):
    """The disk is full: the system says so when the bytes are flushed."""
    folder = tmp_path / "checkpoints"
    checkpoints = saved(str(folder), 10, 20)
    before = {path: path.read_bytes() for path in folder.iterdir()}

    def on_a_full_disk(descriptor: int, mode: str):
        os.close(descriptor)
        return open("/dev/full", mode)

    monkeypatch.setattr(storage.os, "fdopen", on_a_full_disk)
    with pytest.raises(DataError, match=r"checkpoint-0+30.npz cannot be written: No space left on device: make room"):
        checkpoints.save(checkpoint(30))
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert checkpoints.find_latest().step == 20
