"""ZIP files: their members, and the bytes of one."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

from components.archives.files import ArchiveChangedError, ArchiveError, ArchiveFile
from components.archives.members import Extent, Member, make_member

MAGICS = (b"PK\x03\x04", b"PK\x05\x06")  # the second one begins an empty ZIP file
_LONGEST_LIST = 64 << 20  # bytes of the list of members at the end of the file
_HEADER = struct.Struct("<4sHHHHHIIIHH")
_MOST_IN_HEADER = _HEADER.size + 2 * 0xFFFF
_ENCRYPTED, _SIZES_FOLLOW = 1, 8
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_MOST_ADDED = 1024  # bytes, by deflate, to what cannot be compressed
_AFTER = 24  # bytes of the descriptor behind a member whose header lacks its sizes


def list_zip(path: str, size: int) -> Iterator[Member]:
    """Lists the members of a ZIP file in the order of their places, without folders.

    Args:
        path: path or URL.
        size: bytes of the archive.

    Raises:
        ArchiveError: if it is damaged.
        OSError: if it cannot be read.
    """
    file: Any = ArchiveFile(path, size, longest_read=_LONGEST_LIST)
    try:
        with zipfile.ZipFile(file) as archive:
            entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
            end: int = archive.start_dir
    except (zipfile.BadZipFile, ValueError, EOFError, struct.error, NotImplementedError) as error:
        raise ArchiveError(f"it is damaged: {error}") from None
    ends = [entry.header_offset for entry in entries[1:]] + [end] * bool(entries)
    for entry, stop in zip(entries, ends, strict=True):
        if entry.is_dir():
            continue
        most = _MOST_IN_HEADER + entry.compress_size + _AFTER
        length = max(0, min(stop - entry.header_offset, most))
        name = entry.filename
        if "\\" in name and "/" not in name:  # packed by a program for Windows
            name = name.replace("\\", "/")
        yield make_member(name, entry.file_size, Extent(entry.header_offset, length), _find_problem(entry))


def _find_problem(entry: zipfile.ZipInfo) -> str | None:
    if entry.flag_bits & _ENCRYPTED:
        return "it is encrypted: unpack the archive"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "it is a link, which is not followed in an archive: pack the file itself"
    if entry.compress_type not in _METHODS:
        name = zipfile.compressor_names.get(entry.compress_type, "an unknown one")  # type: ignore[attr-defined]
        return f"its method of compression is {name}, not deflate: pack the archive again"
    stored = entry.compress_type == zipfile.ZIP_STORED
    if entry.compress_size > entry.file_size + (0 if stored else _MOST_ADDED + entry.file_size // 1000):
        return f"it has {entry.file_size:,} bytes, but takes {entry.compress_size:,} in the archive"
    return None


def read_zip_member(content: bytes, size: int) -> bytes:
    """Reads a member from the bytes of its extent.

    Raises:
        ArchiveChangedError: if no member begins there.
        ArchiveError: if it is damaged.
    """
    if len(content) < _HEADER.size or not content.startswith(MAGICS[0]):
        raise ArchiveChangedError("no member begins here")
    _, _, flags, method, _, _, crc, _, _, name_length, extra_length = _HEADER.unpack_from(content)
    data = memoryview(content)[_HEADER.size + name_length + extra_length :]
    if method == zipfile.ZIP_STORED:
        unpacked = bytes(data[:size])
    else:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            unpacked = inflate.decompress(data, size + 1)
        except zlib.error as error:
            raise ArchiveError(f"it is damaged in its archive: {error}") from None
        if flags & _SIZES_FOLLOW:
            after = inflate.unused_data.removeprefix(b"PK\x07\x08")[:4]
            crc = struct.unpack("<I", after)[0] if len(after) == 4 else 0
    if len(unpacked) != size:
        raise ArchiveError(f"it is damaged in its archive: it does not unpack to {size} bytes")
    if crc and zlib.crc32(unpacked) != crc:
        raise ArchiveError("it is damaged in its archive: its checksum is wrong")
    return unpacked
