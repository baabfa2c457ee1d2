"""A commit: what readers see before and after it, and what it leaves when it is refused or killed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from components.commit import Commit
from tfrecords import storage


@dataclasses.dataclass(frozen=True)
class Note:
    """The shortest manifest."""

    text: str

    def write(self, folder: str) -> None:
        storage.write_json(storage.join(folder, "note.json"), {"text": self.text})


@pytest.fixture
def commit(tmp_path) -> Commit:
    """A folder with two files, one of which is left over, and what a resume needs."""
    folder = tmp_path / "unfinished"
    (folder / "summaries").mkdir(parents=True)
    for name in ("part", "left", "started", "summaries/0.json"):
        (folder / name).write_text(name)
    return Commit(str(folder), str(tmp_path / "done" / "1"), "note.json", working=("summaries", "started"))


def names(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def test_a_folder_is_moved_whole_with_its_manifest(commit):
    assert not commit.already_done()
    commit.check({"part": 4})
    commit.keep(["part"])
    assert names(commit.folder) == ["part", "started", "summaries"]
    commit.finish(Note("hello"), remove=("summaries",))
    assert commit.already_done()
    assert names(commit.destination) == ["note.json", "part", "started"]
    assert not Path(commit.folder).exists()


def test_a_file_that_is_not_as_it_was_written_stops_the_commit(commit):
    with pytest.raises(RuntimeError, match="part should have 5 bytes"):
        commit.check({"part": 5})


def test_a_refusal_leaves_its_reason_and_what_was_done(commit):
    commit.refuse("too many", {"truncated": 3})
    assert json.loads((Path(commit.folder) / "refused.json").read_text()) == {
        "reason": "too many",
        "rejects": {"truncated": 3},
    }
    assert not commit.already_done()
    assert {"part", "summaries", "started"} < set(names(commit.folder))


@pytest.mark.parametrize("killed_in", ["remove_folder", "move_folder"])
def test_a_commit_that_is_killed_shows_nothing_and_is_repeated(commit, monkeypatch, killed_in):
    with monkeypatch.context() as patch:
        patch.setattr(storage, killed_in, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            commit.finish(Note("hello"), remove=("summaries",))
    assert not commit.already_done()
    commit.keep(["part"])  # the manifest of the first attempt is no file of the second
    assert "note.json" not in names(commit.folder)
    commit.finish(Note("hello again"), remove=("summaries",))
    assert json.loads((Path(commit.destination) / "note.json").read_text()) == {"text": "hello again"}
