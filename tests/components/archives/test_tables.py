"""Tables of images: their rows as members, and those that were made to break a night."""

import gzip
import os
import random
import struct

import numpy as np
import pyarrow
import pyarrow.ipc
import pytest

from components.archives.columns import ImageColumns, choose_columns
from components.archives.contents import ArchiveContent, list_archive
from components.archives.files import ArchiveChangedError, ArchiveError
from components.archives.lookup import read_member
from components.archives.members import Extent, Member
from components.archives.paths import MemberPath, find_member_path, is_archive, may_be_table
from components.archives.reading import WantedMember, read_members
from tests.components.archives.tables import (
    HUGGING_FACE,
    TABLE_KINDS,
    frame,
    make_arrow_table,
    make_example,
    make_table,
    pack_bytes,
    pack_field,
    put_table,
    write_arrow,
    write_parquet,
)
from tfrecords.example import LineExample, encode_example
from tfrecords.shards import compute_masked_crc, write_records

NOISE = random.Random(7).randbytes(100_000)
ROWS = [(NOISE[number * 900 :][: 400 + number], f"line {number}") for number in range(95)]


def look(path: str, index_folder: str | None = None, text_column: str | None = None) -> ArchiveContent:
    status = os.stat(path)
    return list_archive(path, status.st_size, status.st_mtime_ns // 1000, index_folder, text_column)


def want(members: list[Member]) -> list[WantedMember]:
    return [WantedMember(member.extent, member.size) for member in members if member.extent]


def read_all(path: str, members: list[Member]) -> list[bytes | ArchiveError]:
    return list(read_members(path, want(members)))


def put_parquet(folder, rows: int = 3, **columns) -> str:
    (folder / "a.parquet").write_bytes(write_parquet(pyarrow.table(columns)))
    return f"{folder}/a.parquet"


# Names


def test_a_table_is_known_by_its_suffix_and_its_rows_have_paths():
    assert [may_be_table(name) for name in ("a.parquet", "A.PARQUET", "parquet", "a.parquet.png")] == [True] * 2 + [
        False
    ] * 2
    assert not is_archive("a.parquet")
    assert find_member_path("gs://b/a.parquet!/00000017") == MemberPath("gs://b/a.parquet", "00000017")


# Listing and reading


@pytest.mark.parametrize("kind", TABLE_KINDS)
def test_a_table_of_any_kind_gives_back_its_images_and_texts(tmp_path, kind):
    path = put_table(tmp_path, kind, ROWS)
    content = look(path)
    assert content.problem is None
    assert content.holds_images
    assert [member.name for member in content.members] == [f"{number:08d}" for number in range(len(ROWS))]
    assert [(member.size, member.text) for member in content.members] == [(len(i), t.encode()) for i, t in ROWS]
    assert read_all(path, content.members) == [image for image, _ in ROWS]


@pytest.mark.parametrize("kind", TABLE_KINDS)
def test_a_row_is_read_by_its_path(tmp_path, kind):
    path = put_table(tmp_path, kind, ROWS)
    assert read_member(MemberPath(path, "00000042")) == ROWS[42][0]
    with pytest.raises(FileNotFoundError):
        read_member(MemberPath(path, "00000095"))


@pytest.mark.parametrize("kind", TABLE_KINDS)
def test_rows_are_read_on_from_where_it_was_left_and_again_from_any_other(tmp_path, kind):
    path = put_table(tmp_path, kind, ROWS)
    members = look(path).members
    for start, stop, step in [(0, 10, 1), (10, 30, 1), (70, 95, 3), (5, 15, 1), (0, 95, 41)]:
        assert read_all(path, members[start:stop:step]) == [image for image, _ in ROWS[start:stop:step]]


def test_a_row_far_away_is_read_without_the_row_groups_before_it(tmp_path):
    rows = [(bytes([number % 251]) * (number % 7), None) for number in range(3_000)]
    path = put_table(tmp_path, "a.parquet", rows)
    members = look(path).members
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[2_000:4_000] = bytes(2_000)  # pages of some of the first groups
    (tmp_path / "a.parquet").write_bytes(content)
    assert read_all(path, [members[1], members[2_500]]) == [b"\1", rows[2_500][0]]


@pytest.mark.parametrize("in_stream", [False, True])
def test_an_arrow_file_of_other_columns_too_is_read(tmp_path, in_stream):
    table = make_arrow_table(ROWS).append_column("size", pyarrow.array(range(len(ROWS))))
    table = table.append_column("tags", pyarrow.array([["a", "b"]] * len(ROWS))).select([3, 2, 1, 0])
    (tmp_path / "a.arrow").write_bytes(write_arrow(table, in_stream=in_stream))
    members = look(f"{tmp_path}/a.arrow").members
    assert read_all(f"{tmp_path}/a.arrow", members) == [image for image, _ in ROWS]
    assert [member.text for member in members] == [text.encode() for _, text in ROWS]


def test_compressed_arrow_files_and_dictionaries_are_refused(tmp_path):
    table = make_arrow_table(ROWS)
    (tmp_path / "a.arrow").write_bytes(write_arrow(table, compression="zstd"))
    assert look(f"{tmp_path}/a.arrow").problem == "its batches are compressed, which is not read: write it without"
    table = table.append_column("class", pyarrow.array(["a"] * len(ROWS)).dictionary_encode())
    (tmp_path / "a.arrow").write_bytes(write_arrow(table))
    assert "it has columns of dictionaries" in (look(f"{tmp_path}/a.arrow").problem or "")


def test_an_arrow_file_without_images_or_of_another_kind_has_a_problem(tmp_path):
    (tmp_path / "a.arrow").write_bytes(write_arrow(pyarrow.table({"text": ["a"]})))
    assert look(f"{tmp_path}/a.arrow").problem == "no column of it holds the bytes of images"
    (tmp_path / "a.arrow").write_bytes(b"something else")
    assert "no message begins" in (look(f"{tmp_path}/a.arrow").problem or "")


@pytest.mark.parametrize("body", [10 << 30, -8, 1 << 62])
def test_a_batch_that_claims_another_length_is_not_read(tmp_path, body):
    content = write_arrow(make_arrow_table(ROWS[:10]), in_stream=True)
    messages = pyarrow.ipc.MessageReader.open_stream(content)
    messages.read_next_message()
    place = content.index(struct.pack("<q", messages.read_next_message().body.size))
    (tmp_path / "a.arrow").write_bytes(content[:place] + struct.pack("<q", body) + content[place + 8 :])
    assert f"it ends within a message of {body:,} bytes" in (look(f"{tmp_path}/a.arrow").problem or "")


def test_a_record_with_a_wrong_checksum_is_one_problem(tmp_path):
    path = put_table(tmp_path, "a.tfrecord", ROWS)
    content = (tmp_path / "a.tfrecord").read_bytes()
    (tmp_path / "a.tfrecord").write_bytes(content.replace(ROWS[3][0][10:300], bytes(290)))
    members = look(path).members
    assert members[3].problem == "its record is damaged: its checksum is wrong"
    assert read_all(path, members) == [image for image, _ in ROWS[:3] + ROWS[4:]]


def test_a_record_with_a_wrong_length_ends_the_file(tmp_path):
    path = put_table(tmp_path, "a.tfrecord", ROWS)
    content = bytearray((tmp_path / "a.tfrecord").read_bytes())
    content[0] ^= 1
    (tmp_path / "a.tfrecord").write_bytes(content)
    assert "the checksum of the length of record 0 is wrong" in (look(path).problem or "")


@pytest.mark.parametrize("kind", ["a.tfrecord", "a.tfrecord.gz"])
def test_a_record_that_claims_gigabytes_is_not_read(tmp_path, kind):
    length = struct.pack("<Q", 10 << 30)
    content = frame([make_example(ROWS[0])]) + length + compute_masked_crc(length) + b"x" * 1_000
    (tmp_path / kind).write_bytes(gzip.compress(content) if kind.endswith(".gz") else content)
    found = look(f"{tmp_path}/{kind}")
    assert found.problem == "it ends within record 1, which has 10,737,418,240 bytes"
    assert len(found.members) == 1


def test_a_record_that_is_no_example_is_one_problem(tmp_path):
    (tmp_path / "a.tfrecord").write_bytes(frame([make_example(ROWS[0]), b"\x0a\xff\x01x", b"\x0b", b""]))
    found = look(f"{tmp_path}/a.tfrecord")
    assert [member.problem for member in found.members] == [
        None,
        "its record is no tf.train.Example: a field of 255 bytes ends behind its end",
        "its record is no tf.train.Example: a field has the wire type 3",
        "its row holds no bytes of an image",
    ]


def test_the_features_of_a_dataset_of_this_project_are_known(tmp_path):
    line = LineExample(image=b"png", width=3, label=(1, 2), text="ab", uri="x/1.png")
    write_records(f"{tmp_path}/train-00000-of-00001.tfrecord.gz", [encode_example(line)])
    found = look(f"{tmp_path}/train-00000-of-00001.tfrecord.gz")
    assert found.columns == ImageColumns("image", False, "text")
    assert [(member.size, member.text) for member in found.members] == [(3, b"ab")]


def test_the_feature_of_texts_may_be_named(tmp_path):
    def make(**features: bytes) -> bytes:
        entries = (pack_field(1, name.encode()) + pack_field(2, pack_bytes(v)) for name, v in features.items())
        return pack_field(1, b"".join(pack_field(1, entry) for entry in entries))

    features = {"image/encoded": b"1", "image/text": b"a", "image/label": b"b", "note": b"c"}
    (tmp_path / "a.tfrecord").write_bytes(frame([make(**features)]))
    path = f"{tmp_path}/a.tfrecord"
    assert "say which with --text_column=text" in (look(path).columns.unclear or "")
    for column, text in (("image/label", b"b"), ("text", b"a"), ("note", b"c")):
        assert look(path, None, column).members[0].text == text
    (tmp_path / "a.tfrecord").write_bytes(frame([make(audio=b"1")]))
    assert look(path).problem == "its examples have no feature image/encoded or image, but 'audio'"


@pytest.mark.parametrize("kind", TABLE_KINDS)
def test_a_row_without_an_image_has_a_problem_and_one_without_a_text_has_none(tmp_path, kind):
    path = put_table(tmp_path, kind, [(None, "a"), (b"", "b"), (b"1", None), (b"2", "")])
    assert look(path).members == [
        Member("00000000", 0, None, "its row holds no bytes of an image", b"a"),
        Member("00000001", 0, Extent(1, None), None, b"b"),
        Member("00000002", 1, Extent(2, None), None, None),
        Member("00000003", 1, Extent(3, None), None, b""),
    ]


def test_the_row_of_a_file_that_is_only_named_has_no_bytes(tmp_path):
    images = pyarrow.array([{"bytes": None, "path": "1.png"}, {"bytes": b"2", "path": None}], HUGGING_FACE)
    first, second = look(put_parquet(tmp_path, image=images)).members
    assert first.problem == "its row holds no bytes of an image"
    assert second.problem is None


@pytest.mark.parametrize("kind", ["a.parquet", "bytes.parquet", "a.tfrecords.gz", "a.arrow", "stream.arrow"])
def test_a_table_without_rows_has_no_members(tmp_path, kind):
    content = look(put_table(tmp_path, kind, []))
    assert (content.members, content.problem) == ([], None)


@pytest.mark.parametrize("kind", TABLE_KINDS)
def test_a_table_that_changed_is_found_out(tmp_path, kind):
    path = put_table(tmp_path, kind, ROWS)
    members = look(path).members
    put_table(tmp_path, kind, ROWS[5:20])
    outcomes = read_all(path, members)
    assert len(outcomes) == len(ROWS)
    assert all(isinstance(outcome, ArchiveChangedError) for outcome in outcomes)


# Columns


def columns_of(**kinds: pyarrow.DataType) -> ImageColumns | None:
    return choose_columns(pyarrow.schema(list(kinds.items())))


def test_the_column_of_images_is_told_by_its_type_and_then_by_its_name():
    text, binary = pyarrow.string(), pyarrow.binary()
    assert columns_of(id=text, scan=HUGGING_FACE, label=text) == ImageColumns("scan", True, "label")
    assert columns_of(image=HUGGING_FACE, mask=HUGGING_FACE) == ImageColumns("image", True)
    assert columns_of(hash=binary, jpg=pyarrow.large_binary(), gt=text) == ImageColumns("jpg", False, "gt")
    assert columns_of(path=text, text=text, image=text) is None
    assert columns_of(image=pyarrow.list_(binary)) is None
    with pytest.raises(ArchiveError, match="'scan' and 'mask' could all hold the images"):
        columns_of(scan=HUGGING_FACE, mask=HUGGING_FACE)


def test_two_columns_of_texts_are_no_guess_and_one_is_named_by_the_flag(tmp_path):
    path = put_parquet(tmp_path, image=[b"1"], text=["a"], label=["b"], number=[7], other=["c"])
    assert look(path).members[0].text is None
    assert "say which with --text_column=text" in (look(path).columns.unclear or "")
    for column, text in (("label", b"b"), ("Other", b"c"), ("number", b"7")):
        assert look(path, None, column).members[0].text == text
    missing = look(path, None, "missing").columns
    assert missing.text is None
    assert "no column of texts named as --text_column=missing says" in (missing.unclear or "")


def test_integers_may_be_classes_and_are_no_texts_unless_they_are_named(tmp_path):
    path = put_parquet(tmp_path, image=[b"1"], label=[3])
    assert look(path).columns == ImageColumns("image")
    assert look(path, None, "label").members[0].text == b"3"


# Indexes


def blank(path: str) -> None:
    """Overwrites a file with zeros, as old as it was."""
    status = os.stat(path)
    with open(path, "r+b") as file:
        file.write(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("kind", TABLE_KINDS)
def test_a_table_that_did_not_change_is_not_opened_again(tmp_path, kind):
    path = put_table(tmp_path, kind, [*ROWS, (None, None)])
    index = str(tmp_path / "index")
    first, named = look(path, index), look(path, index, "text")
    blank(path)
    assert look(path, index) == first
    assert look(path, index, "text") == named
    assert look(path).members == []


def test_neither_is_a_parquet_file_without_images(tmp_path):
    path = put_parquet(tmp_path, path=["1.png"], text=["a"])
    index = str(tmp_path / "index")
    assert look(path, index) == ArchiveContent([], None, None, holds_images=False)
    os.chmod(path, 0)
    blanked = os.stat(path)
    os.unlink(path)
    assert not list_archive(path, blanked.st_size, blanked.st_mtime_ns // 1000, index).holds_images


# Hostile tables


def test_what_is_no_parquet_file_holds_no_images(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"path,text\n")
    assert not look(f"{tmp_path}/a.parquet").holds_images


@pytest.mark.parametrize("kind", TABLE_KINDS)
def test_an_empty_or_truncated_table_has_a_problem(tmp_path, kind):
    path = put_table(tmp_path, kind, ROWS)
    size = os.path.getsize(path)
    for left in (size - 1, size // 2, 9):
        os.truncate(path, left)
        content = look(path)
        assert content.problem
        outcomes = read_all(path, content.members)
        assert outcomes == [image for image, _ in ROWS][: len(outcomes)]


@pytest.mark.parametrize("kind", TABLE_KINDS)
def test_a_damaged_table_never_breaks_the_listing_or_the_reading(tmp_path, kind):
    content = make_table(kind, ROWS)
    chance = random.Random(11)
    path = tmp_path / kind
    members = [Member(f"{n:08d}", len(i), Extent(n, None)) for n, (i, _) in enumerate(ROWS)]
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(chance.choice([1, 1, 3, 20])):
            damaged[chance.randrange(len(damaged))] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        path.write_bytes(damaged[: chance.choice([len(damaged), len(damaged), chance.randrange(len(damaged))])])
        found = look(str(path))
        assert len(found.members) <= len(ROWS) + 200
        outcomes = read_all(str(path), members)
        assert len(outcomes) == len(ROWS)
        for outcome in outcomes:
            assert isinstance(outcome, bytes | ArchiveError)


def test_a_parquet_file_that_unpacks_to_far_more_than_images_do_is_left(tmp_path):
    table = pyarrow.table({"image": [bytes(150 << 20)], "text": ["a"]})
    (tmp_path / "a.parquet").write_bytes(write_parquet(table, compression="zstd", use_dictionary=False))
    assert look(f"{tmp_path}/a.parquet").problem == "it unpacks to more than 200 times its size"


def test_a_value_that_all_rows_share_is_held_once(tmp_path):
    big = bytes(20 << 20)
    same = pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(2_000, np.int32)), pyarrow.array([big]))
    (tmp_path / "a.parquet").write_bytes(
        write_parquet(pyarrow.table({"image": same}), compression="none", store_schema=False)
    )
    before = pyarrow.default_memory_pool().max_memory()
    content = look(f"{tmp_path}/a.parquet")
    assert {member.size for member in content.members} == {20 << 20}
    assert len(content.members) == 2_000
    assert pyarrow.default_memory_pool().max_memory() < before + (200 << 20)


def test_a_table_of_too_many_rows_is_left_before_it_is_read(tmp_path):
    rows = pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(1_000_001, np.int32)), pyarrow.array([b"1"]))
    (tmp_path / "a.parquet").write_bytes(write_parquet(pyarrow.table({"image": rows}), store_schema=False))
    content = look(f"{tmp_path}/a.parquet")
    assert content.members == []
    assert content.problem == "it has more than 1,000,000 rows: write them to several files"


def test_texts_that_are_no_labels_are_cut_or_refused(tmp_path):
    path = put_parquet(tmp_path, image=[b"1"], text=["x" * 100_000])
    assert look(path).members[0].text == b"x" * 65_536
    path = put_parquet(tmp_path, image=[b"1"] * 5_000, text=["x" * 100_000] * 5_000)
    assert "its texts have more than" in (look(path).problem or "")
