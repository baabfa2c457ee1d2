"""Archives: their members by name and by place, and those that were made to break a night."""

import gzip
import io
import itertools
import os
import random
import struct
import tarfile
import zipfile

import pytest

from components.archives.contents import ArchiveContent, list_archive
from components.archives.files import ArchiveChangedError, ArchiveError
from components.archives.lookup import read_member
from components.archives.members import Member
from components.archives.paths import MemberPath, find_member_path, is_archive, strip_archive_suffix
from components.archives.reading import WantedMember, group_neighbours, read_members
from tests.components.archives.packing import KINDS, compress_zstd, make_tar, make_zip, put_archive

NOISE = random.Random(7).randbytes(300_000)
FILES = {
    "b/2.png": NOISE[:70_000],
    "b/1.png": NOISE[70_000:70_003],
    "1.png": b"",
    "1.txt": "Grüße".encode(),
    "größe.png": NOISE[:1_000] * 50,
}


def look(path: str, index_folder: str | None = None) -> ArchiveContent:
    status = os.stat(path)
    return list_archive(path, status.st_size, status.st_mtime_ns // 1000, index_folder)


def read_all(path: str, members: list[Member]) -> dict[str, bytes | ArchiveError]:
    """Reads members in the order of their places."""
    placed = sorted((member for member in members if member.extent), key=lambda member: member.extent.offset)
    read = read_members(path, [WantedMember(member.extent, member.size) for member in placed])
    return dict(zip((member.name for member in placed), read, strict=True))


def problems(path: str) -> dict[str, str | None]:
    return {member.name: member.problem for member in look(path).members}


# Paths


@pytest.mark.parametrize(
    ("path", "archive", "name"),
    [
        ("/scans/a.tar!/1.png", "/scans/a.tar", "1.png"),
        ("gs://b/a.TAR.GZ!/x/1.png", "gs://b/a.TAR.GZ", "x/1.png"),
        ("a.zip!/b.zip!/1.png", "a.zip", "b.zip!/1.png"),
        ("/a.tgz!/two\nlines!/1", "/a.tgz", "two\nlines!/1"),
    ],
)
def test_the_path_of_a_member_names_its_archive_and_its_name(path, archive, name):
    assert find_member_path(path) == MemberPath(archive, name)


@pytest.mark.parametrize("path", ["/a.tar", "/a.tar!", "/a.tar!/", "/wow!/1.png", "/a.tar/1.png", "/a.png!/1.png"])
def test_other_paths_are_those_of_files(path):
    assert find_member_path(path) is None


def test_an_archive_is_known_by_its_suffix():
    assert list(map(is_archive, ["a.tar", "A.ZIP", "a.tar.zst", "a.png", "tar"])) == [True, True, True, False, False]
    assert strip_archive_suffix("scans.2024.tar.gz") == "scans.2024"


# Listing and reading


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_of_any_kind_gives_back_its_files(tmp_path, kind):
    path = put_archive(tmp_path, kind, FILES)
    content = look(path)
    assert content.problem is None
    assert [member.name for member in content.members] == sorted(FILES)
    assert [member.size for member in content.members] == [len(FILES[name]) for name in sorted(FILES)]
    assert read_all(path, content.members) == FILES
    assert {member.name: member.text for member in content.members if member.text} == {"1.txt": FILES["1.txt"]}


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_is_read_by_its_path(tmp_path, kind):
    path = put_archive(tmp_path, kind, FILES)
    assert read_member(MemberPath(path, "b/2.png")) == FILES["b/2.png"]
    with pytest.raises(FileNotFoundError):
        read_member(MemberPath(path, "b/3.png"))
    with pytest.raises(OSError, match="more than the 100"):
        read_member(MemberPath(path, "b/2.png"), 100)


@pytest.mark.parametrize("kind", ["a.tar.gz", "a.tar.zst"])
def test_a_compressed_archive_is_read_on_from_where_it_was_left_and_again_from_its_beginning(tmp_path, kind):
    path = put_archive(tmp_path, kind, {f"{number}.png": bytes([number]) * 9_000 for number in range(50)})
    placed = sorted(look(path).members, key=lambda member: member.extent.offset)
    wanted = [WantedMember(member.extent, member.size) for member in placed]
    for start, stop in [(0, 10), (10, 20), (40, 50), (5, 15)]:
        read = list(read_members(path, wanted[start:stop]))
        assert read == [bytes([number]) * 9_000 for number in range(start, stop)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_archive_has_no_members(tmp_path, kind):
    assert look(put_archive(tmp_path, kind, {})) == ArchiveContent([], None)


def test_the_format_is_what_the_bytes_say(tmp_path):
    (tmp_path / "a.tar").write_bytes(gzip.compress(make_tar(FILES)))
    (tmp_path / "b.tgz").write_bytes(make_zip(FILES))
    for name in ("a.tar", "b.tgz"):
        assert read_all(f"{tmp_path}/{name}", look(f"{tmp_path}/{name}").members) == FILES


def test_members_beside_each_other_are_read_together(tmp_path):
    path = put_archive(tmp_path, "a.tar", {f"{number:03d}.png": NOISE[:100_000] for number in range(100)})
    groups = list(group_neighbours([WantedMember(m.extent, m.size) for m in look(path).members]))
    assert len(groups) == 3
    assert list(map(len, itertools.chain(groups))) == [41, 41, 18]


def test_extended_headers_carry_long_names_and_sizes(tmp_path):
    names = {f"{'x' * 150}/{'y' * 120}.png": b"long", "ü" * 90 + ".png": b"umlauts"}
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(tmp_path / "a.tar", "w", format=form) as archive:
            for name, content in names.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        assert read_all(f"{tmp_path}/a.tar", look(f"{tmp_path}/a.tar").members) == names


def test_a_zip_whose_sizes_follow_the_members_is_read(tmp_path):
    class Pipe(io.RawIOBase):
        def __init__(self, file):
            self.file = file

        def writable(self):
            return True

        def write(self, data):
            return self.file.write(data)

    with open(tmp_path / "a.zip", "wb") as file, zipfile.ZipFile(Pipe(file), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    assert read_all(f"{tmp_path}/a.zip", look(f"{tmp_path}/a.zip").members) == FILES


def test_of_members_with_one_name_the_last_counts(tmp_path):
    first, second = make_tar({"1.png": b"old"}), make_tar({"1.png": b"new, and longer"})
    (tmp_path / "a.tar").write_bytes(first[:1024] + second)
    members = look(f"{tmp_path}/a.tar").members
    assert read_all(f"{tmp_path}/a.tar", members) == {"1.png": b"new, and longer"}


def test_names_are_written_without_detours(tmp_path):
    path = put_archive(tmp_path, "a.tar", {"./a//b/./1.png": b"1"})
    assert [member.name for member in look(path).members] == ["a/b/1.png"]


def test_a_zip_made_on_windows_may_have_backslashes(tmp_path):
    (tmp_path / "a.zip").write_bytes(make_zip({"aXb.png": b"1"}).replace(b"aXb", b"a\\b"))
    assert read_all(f"{tmp_path}/a.zip", look(f"{tmp_path}/a.zip").members) == {"a/b.png": b"1"}


def test_names_that_are_not_utf8_are_escaped(tmp_path):
    (tmp_path / "a.tar").write_bytes(make_tar({"cafX.png": b"1"}))
    content = bytearray((tmp_path / "a.tar").read_bytes())
    content[3] = 0xE9
    content[148:156] = b"%06o\0 " % (sum(content[:148]) + 8 * 32 + sum(content[156:512]))
    (tmp_path / "a.tar").write_bytes(content)
    assert read_all(f"{tmp_path}/a.tar", look(f"{tmp_path}/a.tar").members) == {"caf%E9.png": b"1"}


# Hostile archives


def test_names_that_lead_out_links_and_inner_archives_are_not_read(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("../evil.png", "/etc/passwd", "a/../../b.png", "inner.zip", "1.png"):
            entry = tarfile.TarInfo(name)
            entry.size = 1
            archive.addfile(entry, io.BytesIO(b"x"))
        for name, kind in (
            ("link.png", tarfile.SYMTYPE),
            ("hard.png", tarfile.LNKTYPE),
            ("pipe.png", tarfile.FIFOTYPE),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
    found = problems(f"{tmp_path}/a.tar")
    assert found.pop("1.png") is None
    out = "its name leads out of the archive"
    assert found["../evil.png"] == found["a/../../b.png"] == found["etc/passwd"] == out
    assert "an archive within an archive" in found["inner.zip"]
    assert "is a link" in found["link.png"]
    assert "is a link" in found["hard.png"]
    assert found["pipe.png"] == "it is no regular file"


def test_encrypted_linked_and_strangely_compressed_members_of_a_zip_are_not_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("lzma.png", b"x" * 99, zipfile.ZIP_LZMA)
        archive.writestr("secret.png", b"x")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    entry = content.index(b"PK\1\2", content.index(b"PK\1\2", content.index(b"PK\1\2") + 1) + 1)
    content[entry + 8] |= 1
    (tmp_path / "a.zip").write_bytes(content)
    found = problems(f"{tmp_path}/a.zip")
    assert "is a link" in found["link.png"]
    assert "lzma" in found["lzma.png"]
    assert "encrypted" in found["secret.png"]


@pytest.mark.parametrize("kind", ["a.tar", "a.tar.gz", "a.tar.zst"])
def test_the_members_before_the_end_of_a_truncated_archive_are_read(tmp_path, kind):
    files = {f"{number}.png": NOISE[40_000 * number :][:40_000] for number in range(7)}
    path = put_archive(tmp_path, kind, files)
    os.truncate(path, os.path.getsize(path) * 6 // 7)
    content = look(path)
    assert "damaged" in (content.problem or "")
    read = read_all(path, content.members)
    assert sum(outcome == files[name] for name, outcome in read.items()) >= 3
    assert all(outcome == files[name] or isinstance(outcome, ArchiveError) for name, outcome in read.items())


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 5000, b"PK\3\4" + b"\0" * 500, b"\x1f\x8b" + b"\0" * 99, NOISE])
def test_what_is_no_archive_has_a_problem_and_no_members(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content)
    found = look(f"{tmp_path}/a.tar")
    assert found.members == []
    assert found.problem


def test_an_archive_that_unpacks_to_far_more_than_images_do_is_left(tmp_path):
    zeros = gzip.compress(bytes(1 << 20), 9)
    header = tarfile.TarInfo("bomb.png")
    header.size = 400 << 20
    (tmp_path / "a.tgz").write_bytes(gzip.compress(make_tar({"1.png": b"1"})[:1024] + header.tobuf()) + zeros * 400)
    content = look(f"{tmp_path}/a.tgz")
    assert content.problem == "it unpacks to more than 200 times its size"
    assert read_all(f"{tmp_path}/a.tgz", content.members[:1]) == {"1.png": b"1"}


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE])
def test_a_header_that_claims_gigabytes_is_not_read(tmp_path, kind):
    header = tarfile.TarInfo("1.png")
    header.type, header.size = kind, 6 << 30
    for content in (header.tobuf(), gzip.compress(header.tobuf())):
        with open(tmp_path / "a.tar", "wb") as file:
            file.write(content)
            file.truncate(7 << 30)
        assert "header of 6,442,450,9" in (look(f"{tmp_path}/a.tar").problem or "")


def test_a_member_of_a_negative_size_does_not_turn_the_listing_into_a_circle(tmp_path):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo("1.png")
        entry.pax_headers = {"size": "-5120"}
        archive.addfile(entry)
    (tmp_path / "a.tar").write_bytes(packed.getvalue())
    assert "damaged" in (look(f"{tmp_path}/a.tar").problem or "")


def test_a_thousand_headers_of_headers_are_no_stack_overflow(tmp_path):
    name = tarfile.TarInfo("x")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, 2
    (tmp_path / "a.tar").write_bytes((name.tobuf() + b"y\0".ljust(512, b"\0")) * 5_000)
    assert "damaged" in (look(f"{tmp_path}/a.tar").problem or "")


def test_a_zip_that_says_other_sizes_than_it_has_is_found_out(tmp_path):
    content = bytearray(make_zip({"1.png": b"x" * 5_000}))
    entry = content.index(b"PK\1\2")
    content[entry + 24 : entry + 28] = struct.pack("<I", 90)
    (tmp_path / "a.zip").write_bytes(content)
    (outcome,) = read_all(f"{tmp_path}/a.zip", look(f"{tmp_path}/a.zip").members).values()
    assert isinstance(outcome, ArchiveError)
    assert "does not unpack to 90 bytes" in str(outcome)


def test_a_damaged_member_of_a_zip_is_found_out_by_its_checksum(tmp_path):
    content = make_zip({"1.png": b"hello world"}, zipfile.ZIP_STORED).replace(b"hello world", b"hello_world", 1)
    (tmp_path / "a.zip").write_bytes(content)
    (outcome,) = read_all(f"{tmp_path}/a.zip", look(f"{tmp_path}/a.zip").members).values()
    assert "checksum" in str(outcome)


def test_a_small_file_that_takes_much_of_a_zip_is_not_read(tmp_path):
    content = bytearray(make_zip({"1.png": NOISE}))
    entry = content.index(b"PK\1\2")
    content[entry + 24 : entry + 28] = struct.pack("<I", 90)
    (tmp_path / "a.zip").write_bytes(content)
    assert "it has 90 bytes, but takes 300," in problems(f"{tmp_path}/a.zip")["1.png"]


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_archives_give_problems_and_nothing_else(tmp_path, kind):
    path = put_archive(tmp_path, kind, FILES)
    whole = (tmp_path / kind).read_bytes()
    draw = random.Random(kind)
    for _ in range(60):
        content = bytearray(whole)
        for _ in range(draw.choice([1, 3, 30])):
            content[draw.randrange(len(content)) if draw.random() < 0.5 else draw.randrange(600)] = draw.randrange(256)
        with open(path, "wb") as file:
            file.write(content[: draw.choice([len(content), draw.randrange(len(content))])])
        read_all(path, look(path).members)


# Indexes


def test_an_archive_that_did_not_change_is_not_opened_again(tmp_path):
    path = put_archive(tmp_path, "a.tar", FILES)
    first = look(path, f"{tmp_path}/indexes")
    status = os.stat(path)
    with open(path, "r+b") as file:
        file.write(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert look(path, f"{tmp_path}/indexes") == first
    os.utime(path, ns=(0, status.st_mtime_ns + 1_000))
    assert look(path, f"{tmp_path}/indexes").members == []


def test_a_problem_is_in_the_index_too(tmp_path):
    path = put_archive(tmp_path, "a.tar", {"../1.png": b"1", "2.png": NOISE})
    os.truncate(path, 20_000)
    first = look(path, f"{tmp_path}/indexes")
    assert first.problem
    assert first.members[0].problem
    assert first == look(path, f"{tmp_path}/indexes")


def test_a_damaged_index_is_made_again(tmp_path):
    path = put_archive(tmp_path, "a.zip", FILES)
    first = look(path, f"{tmp_path}/indexes")
    (index,) = (tmp_path / "indexes").iterdir()
    for damage in (b"", b"PAR1", index.read_bytes()[:-20], b"x" + index.read_bytes()[1:-30] + bytes(30)):
        index.write_bytes(damage)
        assert look(path, f"{tmp_path}/indexes") == first


def test_a_member_is_not_read_from_an_archive_that_has_changed(tmp_path):
    for kind in ("a.tar", "a.zip"):
        path = put_archive(tmp_path, kind, FILES)
        members = look(path).members
        put_archive(tmp_path, kind, {"other.png": NOISE, **FILES})
        outcomes = read_all(path, members)
        assert any(isinstance(outcome, ArchiveChangedError) for outcome in outcomes.values())
        assert all(isinstance(o, ArchiveError) or o == FILES[name] for name, o in outcomes.items())


def test_zstd_by_any_name(tmp_path):
    (tmp_path / "a.tzst").write_bytes(compress_zstd(make_tar(FILES)) * 1)
    assert read_all(f"{tmp_path}/a.tzst", look(f"{tmp_path}/a.tzst").members) == FILES
