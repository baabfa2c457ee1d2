"""Files, local and by fsspec's in-memory file system."""

import hashlib
import os
import stat
import subprocess
import sys
import uuid

import fsspec
import pyarrow
import pyarrow.parquet
import pytest

from tfrecords import DataError, storage


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
    """An empty folder's name: a local one, and one that fsspec serves."""
    if request.param == "local":
        yield str(tmp_path / "folder")
        return
    url = f"memory://{uuid.uuid4().hex}"
    yield url
    storage.remove_folder(url)


def crash_while_writing(path: str, error: BaseException) -> None:
    with storage.open_atomically(path) as file:
        file.write(b"half")
        file.flush()
        raise error


def test_a_crash_while_writing_leaves_no_file_and_no_temporary_file(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        crash_while_writing(str(tmp_path / "x"), KeyboardInterrupt())
    assert os.listdir(tmp_path) == []


def test_a_crash_while_rewriting_leaves_the_old_file_whole(folder):
    path = storage.join(folder, "x")
    storage.write_bytes(path, b"old content")
    with pytest.raises(OSError, match="the disk is full"):
        crash_while_writing(path, OSError("the disk is full"))
    assert storage.read_bytes(path) == b"old content"
    assert storage.list_names(folder) == ["x"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(folder):
    path = storage.join(folder, "x")
    storage.write_bytes(path, b"the old and longer content")
    with storage.open_atomically(path) as file:
        file.write(b"new")
        file.flush()
        assert storage.read_bytes(path) == b"the old and longer content"
    assert storage.read_bytes(path) == b"new"


def test_who_reads_the_old_file_while_it_is_replaced_reads_it_to_its_end(tmp_path):
    path = str(tmp_path / "x")
    storage.write_bytes(path, b"old content")
    with storage.open_to_read(path) as file:
        start = os.read(file.fileno(), 3)
        storage.write_bytes(path, b"NEW CONTENT")
        assert start + file.read() == b"old content"


def test_a_file_that_is_being_written_does_not_exist_yet(folder):
    path = storage.join(folder, "x")
    with storage.open_atomically(path) as file:
        file.write(b"half")
        assert not storage.exists(path)
    assert storage.exists(path)


def test_writing_in_an_object_store_leaves_no_temporary_file_on_this_machine(tmp_path):
    code = "from tfrecords import storage; storage.write_bytes('memory://x/y', b'1')"
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert os.listdir(tmp_path) == []


def test_a_written_file_has_the_permissions_that_any_new_file_gets(tmp_path):
    (tmp_path / "ordinary").write_bytes(b"")
    storage.write_bytes(str(tmp_path / "ours"), b"")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ordinary", "ours")}
    assert len(modes) == 1


def test_bytes_are_read_as_written_and_their_size_and_checksum_known(folder):
    path = storage.join(folder, "a", "b", "x.bin")
    storage.write_bytes(path, b"\x00\xff\n")
    assert storage.read_bytes(path) == b"\x00\xff\n"
    with storage.open_to_read(path) as file:
        assert file.read() == b"\x00\xff\n"
    assert storage.get_size(path) == 3
    assert storage.compute_checksum(path) == hashlib.sha256(b"\x00\xff\n").hexdigest()


def test_fsspec_itself_reads_what_was_written_to_a_url():
    url = f"memory://{uuid.uuid4().hex}/x"
    storage.write_bytes(url, b"content")
    with fsspec.open(url, "rb") as file:
        assert file.read() == b"content"


def test_names_are_listed_sorted_and_a_missing_folder_has_none(folder):
    for name in ("b.txt", "a[1].txt", "sub/deep/c.txt"):
        storage.write_bytes(storage.join(folder, name), b"1")
    assert storage.list_names(folder) == ["a[1].txt", "b.txt", "sub"]
    assert storage.list_names(folder + "/") == ["a[1].txt", "b.txt", "sub"]
    assert storage.list_names(storage.join(folder, "missing")) == []


def test_a_missing_file_is_file_not_found(folder):
    path = storage.join(folder, "missing")
    assert not storage.exists(path)
    for read in (storage.read_bytes, storage.read_json):
        with pytest.raises(FileNotFoundError):
            read(path)


def test_removing_what_is_not_there_is_no_error(folder):
    storage.remove_file(storage.join(folder, "missing"))
    storage.remove_folder(storage.join(folder, "missing"))


def test_a_removed_file_or_folder_is_gone_and_its_neighbours_stay(folder):
    for name in ("x", "sub/y", "submarine/z"):
        storage.write_bytes(storage.join(folder, name), b"1")
    storage.remove_file(storage.join(folder, "x"))
    storage.remove_folder(storage.join(folder, "sub"))
    assert storage.list_names(folder) == ["submarine"]


def test_a_file_is_copied_between_any_two_places(folder, tmp_path):
    source, there, back = str(tmp_path / "source"), storage.join(folder, "sub", "x"), str(tmp_path / "back")
    storage.write_bytes(source, bytes(3_000_000))
    storage.copy_file(source, there)
    storage.copy_file(there, back)
    assert storage.compute_checksum(back) == storage.compute_checksum(there) == storage.compute_checksum(source)


def test_a_copied_folder_has_every_file_below_it(folder, tmp_path):
    for name in ("a", "sub/b", "sub/deep/c"):
        storage.write_bytes(str(tmp_path / "source" / name), name.encode())
    storage.copy_folder(str(tmp_path / "source"), folder)
    for name in ("a", "sub/b", "sub/deep/c"):
        assert storage.read_bytes(storage.join(folder, name)) == name.encode()


def test_a_moved_folder_is_whole_at_its_new_place_and_gone_from_the_old(folder):
    source, destination = storage.join(folder, "unfinished"), storage.join(folder, "new", "final")
    for name in ("manifest.json", "a", "sub/b"):
        storage.write_bytes(storage.join(source, name), name.encode())
    storage.move_folder(source, destination)
    assert storage.list_names(destination) == ["a", "manifest.json", "sub"]
    assert storage.read_bytes(storage.join(destination, "sub", "b")) == b"sub/b"
    assert not storage.exists(source)


def test_moving_a_folder_replaces_what_an_unfinished_commit_left(folder):
    source, destination = storage.join(folder, "unfinished"), storage.join(folder, "final")
    storage.write_bytes(storage.join(destination, "stale"), b"1")
    storage.write_bytes(storage.join(source, "fresh"), b"2")
    storage.move_folder(source, destination)
    assert storage.list_names(destination) == ["fresh"]


def test_a_folder_that_is_not_there_takes_nothing_away_where_it_should_go(folder):
    destination = storage.join(folder, "final")
    storage.write_bytes(storage.join(destination, "x"), b"1")
    with pytest.raises(FileNotFoundError):
        storage.move_folder(storage.join(folder, "unfinished"), destination)
    assert storage.list_names(destination) == ["x"]


def test_a_folder_is_moved_to_a_name_without_any_slash(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage.write_bytes("source/x", b"1")
    storage.move_folder("source", "destination")
    assert storage.read_bytes("destination/x") == b"1"


def test_a_local_name_is_taken_as_it_is_with_no_wildcards(tmp_path):
    for name in ("a*b[1]?.txt", "with space\nand line", "100%.txt"):
        storage.write_bytes(str(tmp_path / name), name.encode())
        assert storage.read_bytes(str(tmp_path / name)) == name.encode()


def test_json_is_written_readable_with_sorted_keys(folder):
    path = storage.join(folder, "x.json")
    storage.write_json(path, {"b": [1, None], "a": "日本"})
    assert storage.read_json(path) == {"a": "日本", "b": [1, None]}
    assert storage.read_bytes(path).decode() == '{\n  "a": "日本",\n  "b": [\n    1,\n    null\n  ]\n}\n'


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_a_file_that_is_not_json_is_named(folder, content):
    path = storage.join(folder, "x.json")
    storage.write_bytes(path, content)
    with pytest.raises(DataError, match=r"x\.json is not valid JSON .*delete its folder and run again"):
        storage.read_json(path)


def test_a_table_is_written_as_zstd_parquet(tmp_path):
    path = str(tmp_path / "x.parquet")
    storage.write_parquet(path, pyarrow.table({"a": [1, 2]}))
    file = pyarrow.parquet.ParquetFile(path)
    assert file.read().to_pydict() == {"a": [1, 2]}
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"


def test_a_scheme_that_nothing_serves_is_named():
    with pytest.raises(DataError, match=r"cannot use 'nope://bucket/x': .*nope"):
        storage.open_filesystem("nope://bucket/x")


@pytest.mark.parametrize(
    ("path", "remote"), [("gs://bucket/a", True), ("/a/b", False), ("a:b", False), ("C:/a", False)]
)
def test_a_path_is_remote_if_it_has_a_scheme(path, remote):
    assert storage.is_remote(path) == remote


def test_paths_are_joined_with_one_slash():
    assert storage.join("gs://bucket/a/", "b", "c.txt") == "gs://bucket/a/b/c.txt"
    assert storage.join("a", "b") == "a/b"


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("gs://bucket/a b.png", "gs://bucket/a b.png"),
        ("gcs://bucket/a.png", "gs://bucket/a.png"),
        ("memory://a/b", "memory:///a/b"),
        ("memory:///a/b", "memory:///a/b"),
    ],
)
def test_a_url_has_one_spelling_and_no_connection_is_needed_for_it(url, canonical):
    assert storage.canonicalise(url) == canonical


def test_a_scheme_that_nothing_serves_is_refused_by_name():
    with pytest.raises(DataError, match="nonsense://a"):
        storage.canonicalise("nonsense://a")
