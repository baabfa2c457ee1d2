"""LMDB databases of lines: their rows as members, and those that were made to break a night."""

import os
import random
import struct

import pytest

from components.archives.contents import ArchiveContent, list_archive
from components.archives.files import ArchiveError
from components.archives.lookup import read_member
from components.archives.members import Extent, Member
from components.archives.paths import MemberPath, find_member_path, may_be_table
from components.archives.reading import WantedMember, read_members
from components.listing import LabelRules, list_images
from components.listing.collection import Tally
from tests.components.archives.lmdb_pages import PAGE, make_lines, make_lmdb, put_lmdb
from tfrecords import storage

NOISE = random.Random(7).randbytes(100_000)
ROWS = [(NOISE[number * 90 :][: (number * 997) % 9_000], f"line {number}") for number in range(900)]


def look(path: str, index_folder: str | None = None) -> ArchiveContent:
    status = os.stat(path)
    return list_archive(path, status.st_size, status.st_mtime_ns // 1000, index_folder)


def read_all(path: str, members: list[Member]) -> list[bytes | ArchiveError]:
    return list(read_members(path, [WantedMember(m.extent, m.size) for m in members if m.extent]))


def test_a_database_is_known_by_its_name():
    assert [may_be_table(name) for name in ("data.mdb", "/x/data.mdb", "/x/other.mdb", "/x/mydata.mdb")] == [
        *(True, True),
        *(False, False),
    ]
    assert find_member_path("/x/data.mdb!/00000001") == MemberPath("/x/data.mdb", "00000001")


def test_a_database_gives_back_its_images_and_labels(tmp_path):
    path = put_lmdb(tmp_path, ROWS)
    content = look(path)
    assert content.problem is None
    assert [member.name for member in content.members] == [f"{number:08d}" for number in range(1, 901)]
    assert [(member.size, member.text) for member in content.members] == [(len(i), t.encode()) for i, t in ROWS]
    assert read_all(path, content.members) == [image for image, _ in ROWS]
    for start, stop, step in [(700, 705, 1), (3, 9, 2), (9, 12, 1)]:
        assert read_all(path, content.members[start:stop:step]) == [image for image, _ in ROWS[start:stop:step]]
    assert read_member(MemberPath(path, "00000042")) == ROWS[41][0]


def test_a_database_is_listed_with_its_labels_and_without_its_lock(tmp_path):
    path = put_lmdb(tmp_path / "lines", [(b"1", "one"), (b"2", None)])
    tally = Tally()
    found = list(list_images(str(tmp_path), LabelRules("sidecar"), tally))
    assert [(image.uri, image.text, image.problem) for image in found] == [
        (f"{path}!/00000001", "one", None),
        (f"{path}!/00000002", None, "no_label"),
    ]
    assert tally.passed_over[".mdb"] == 1


def test_an_empty_database_has_no_members(tmp_path):
    (tmp_path / "data.mdb").write_bytes(make_lmdb({}))
    assert look(f"{tmp_path}/data.mdb").members == []
    assert look(f"{tmp_path}/data.mdb").problem is None


def test_a_database_that_did_not_change_is_not_opened_again(tmp_path):
    path, index = put_lmdb(tmp_path, ROWS), str(tmp_path / "index")
    first, status = look(path, index), os.stat(path)
    with open(path, "r+b") as file:
        file.write(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert look(path, index) == first
    assert look(path).problem == "it is damaged, or no LMDB database"


def test_images_that_are_missing_make_a_problem(tmp_path):
    path = put_lmdb(tmp_path, [(b"1", "one"), (None, "two"), (b"3", "three")])
    content = look(path)
    assert content.problem == "it says that it has 3 samples, but has 2 images"
    assert [member.text for member in content.members] == [b"one", b"three"]


def test_keys_of_another_kind_are_refused(tmp_path):
    (tmp_path / "data.mdb").write_bytes(make_lmdb({b"image-1x3456789": b"1"}))
    assert "its key b'image-1x3456789' is not like image-000000001" in (look(f"{tmp_path}/data.mdb").problem or "")


def test_a_database_in_an_object_store_is_refused():
    content = make_lmdb(make_lines(ROWS[:3]))
    storage.write_bytes("memory://lines/data.mdb", content)
    found = list_archive("memory://lines/data.mdb", len(content), 0)
    assert found.problem == "an LMDB database is not read in an object store: copy it to a disk"


def test_a_tree_that_leads_into_itself_ends(tmp_path):
    content = bytearray(make_lmdb(make_lines(ROWS)))
    (root,) = struct.unpack_from("<Q", content, PAGE + 128)
    first = root * PAGE + struct.unpack_from("<H", content, root * PAGE + 16)[0]
    content[first : first + 6] = struct.pack("<HHH", root & 0xFFFF, root >> 16, 0)
    (tmp_path / "data.mdb").write_bytes(content)
    assert look(f"{tmp_path}/data.mdb").problem


def test_values_that_share_their_pages_are_no_way_to_gigabytes(tmp_path):
    content = bytearray(make_lmdb({b"image-%09d" % number: b"x" * 3_000 for number in range(1, 41)}))
    (root,) = struct.unpack_from("<Q", content, PAGE + 128)
    for at in struct.unpack_from("<40H", content, root * PAGE + 16):
        node = root * PAGE + at
        content[node : node + 4] = struct.pack("<HH", 100_000 & 0xFFFF, 100_000 >> 16)
        content[node + 23 : node + 31] = struct.pack("<Q", 2)
    (tmp_path / "data.mdb").write_bytes(content)
    assert "more bytes than it has itself" in (look(f"{tmp_path}/data.mdb").problem or "")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_damaged_database_never_breaks_the_listing_or_the_reading(tmp_path, seed):
    content = make_lmdb(make_lines(ROWS[:60]))
    chance = random.Random(seed)
    path = tmp_path / "data.mdb"
    members = [Member(f"{n:08d}", len(i), Extent(n, None)) for n, (i, _) in enumerate(ROWS[:60], 1)]
    for _ in range(100):
        damaged = bytearray(content)
        for _ in range(chance.choice([1, 3, 30])):
            damaged[chance.randrange(len(damaged))] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
            page = chance.randrange(len(damaged) // PAGE) * PAGE
            damaged[page + chance.randrange(64)] = chance.randrange(256)
        path.write_bytes(damaged[: chance.choice([len(damaged), len(damaged), chance.randrange(len(damaged))])])
        assert len(look(str(path)).members) <= 60
        outcomes = read_all(str(path), members)
        assert len(outcomes) == 60
        assert all(isinstance(outcome, bytes | ArchiveError) for outcome in outcomes)
