"""LMDB databases of lines, as projects of CRNN recognisers write them: `num-samples`, `image-%09d`, `label-%09d`.

The pages are read here, by `lmdb.h` and `mdb.c` of LMDB 0.9 on machines of 64 bits, little-endian: its library trusts
the file that it maps, and ends the process over a damaged one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pyarrow

from components.archives.columns import ImageColumns
from components.archives.files import ArchiveError, explain_damage, read_range
from components.archives.members import MOST_MEMBERS
from components.archives.rows import LONGEST_TEXT, RowBatch
from tfrecords import storage

_IMAGE, _LABEL, _COUNT = b"image-", b"label-", b"num-samples"
_META_MAGIC, _META_VERSION = 0xBEEFC0DE, 1
_META = struct.Struct("<II")  # behind the page header
_META_BYTES = 152
_PAGE_SIZE_AT, _ROOT_AT, _TRANSACTION_AT = 40, 128, 144
_PAGE = struct.Struct("<8xHHHH")  # padding, flags, and the ends of the free space
_NODE = struct.Struct("<HHHH")  # the size of the data, or a page; flags; the size of the key
_BRANCH, _LEAF = 1, 2
_ELSEWHERE = 1  # flag of a node whose data have pages of their own
_NO_PAGE = (1 << 64) - 1
_LONGEST_VALUE = 256 << 20


class LmdbImages:
    """An LMDB database of lines on a disk; its rows have the numbers that its keys have, mostly from 1.

    Args:
        path: path of its `data.mdb`.

    Raises:
        ArchiveError: if it is damaged, or lies in an object store.
        OSError: if it cannot be read.
    """

    skips = True
    columns = ImageColumns("image-%09d", False, "label-%09d")

    def __init__(self, path: str, size: int):
        if storage.is_remote(path):
            raise ArchiveError("an LMDB database is not read in an object store: copy it to a disk")
        self._path = path
        self._size = size
        with explain_damage():
            self._page_size, self._root = self._read_meta()

    def _read_meta(self) -> tuple[int, int]:
        """Reads the size of pages, and the root of the newest of the two states that a database keeps."""
        found = []
        (page_size,) = struct.unpack_from("<I", self._read(0, _META_BYTES), _PAGE_SIZE_AT)
        if not 512 <= page_size <= 65_536:
            raise ArchiveError("it is damaged, or no LMDB database")
        for place in (0, page_size):
            meta = self._read(place, _META_BYTES)
            if _META.unpack_from(meta, _PAGE.size) == (_META_MAGIC, _META_VERSION):
                (root,), (transaction,) = (struct.unpack_from("<Q", meta, at) for at in (_ROOT_AT, _TRANSACTION_AT))
                found.append((transaction, root))
        if not found:
            raise ArchiveError("it is damaged, or no LMDB database of version 0.9")
        return page_size, max(found)[1]

    def count_rows(self) -> int | None:
        """Counts the rows, as the database says; None if it does not."""
        with explain_damage():
            for key, value in self._find_keys(_COUNT):
                if key != _COUNT:
                    break
                text = self._read_value(value)[:20]
                return int(text) if text.isdigit() else None
        return None

    def read_batches(self, first: int) -> Iterator[RowBatch]:
        """Yields rows from one on, see `ImageTable`."""
        with explain_damage():
            rows = size = 0
            labels = self._find_numbers(_LABEL, first)
            label = next(labels, None)
            for row, value in self._find_numbers(_IMAGE, first):
                while label is not None and label[0] < row:
                    label = next(labels, None)
                text = None
                if label is not None and label[0] == row:
                    size += label[1][1]
                    text = self._read_value(label[1])[:LONGEST_TEXT]
                size += value[1]
                if size > self._size:
                    raise ArchiveError("it is damaged: its values have more bytes than it has itself")
                yield self._make_batch(row, value, text)
                rows += 1
            count = self.count_rows() if first == 0 else None
            if count is not None and count != rows:
                raise ArchiveError(f"it says that it has {count:,} samples, but has {rows:,} images")

    def _make_batch(self, row: int, value: tuple[int, int], text: bytes | None) -> RowBatch:
        problems = {}
        image: bytes | None = None
        if value[1] > _LONGEST_VALUE:
            problems[row] = f"its image has {value[1]:,} bytes, more than {_LONGEST_VALUE:,}"
        else:
            image = self._read_value(value)
        kind = pyarrow.large_binary()
        return RowBatch(row, pyarrow.array([image], kind), pyarrow.array([text], kind), problems)

    def _find_numbers(self, prefix: bytes, first: int) -> Iterator[tuple[int, tuple[int, int]]]:
        """Yields the numbers of keys with a prefix, from one on, each with the place of its value."""
        for key, value in self._find_keys(b"%s%09d" % (prefix, first)):
            if not key.startswith(prefix):
                return
            digits = key[len(prefix) :]
            if len(digits) != 9 or not digits.isdigit() or int(digits) > MOST_MEMBERS:
                raise ArchiveError(f"its key {key[:40]!r} is not like image-000000001, up to {MOST_MEMBERS:,}")
            yield int(digits), value

    def _find_keys(self, first: bytes) -> Iterator[tuple[bytes, tuple[int, int]]]:
        """Yields the keys from one on, in order, each with the place and the size of its value.

        Raises:
            ArchiveError: if the pages do not make a tree.
        """
        before = b""
        waiting = [] if self._root == _NO_PAGE else [self._root]
        left = self._size // self._page_size  # pages, each of which is in the tree once
        while waiting:
            number = waiting.pop()
            left -= 1
            page = self._read_page(number)
            _, flags, lower, _ = _PAGE.unpack_from(page)
            count = (lower - _PAGE.size) // 2
            if left < 0 or not 0 <= count <= len(page) // 2 or flags not in (_BRANCH, _LEAF):
                raise ArchiveError(f"it is damaged: its page {number} is neither a leaf nor a branch")
            nodes = [self._read_node(page, place) for place in struct.unpack_from(f"<{count}H", page, _PAGE.size)]
            if flags & _BRANCH:
                keys = [key for key, _, _, _ in nodes]
                begin = max((index for index, key in enumerate(keys) if index and key <= first), default=0)
                for _, low, high, more in reversed(nodes[begin:]):
                    waiting.append(low | high << 16 | more << 32)
                continue
            for (key, low, high, more), place in zip(
                nodes, struct.unpack_from(f"<{count}H", page, _PAGE.size), strict=True
            ):
                if key <= before and before:
                    raise ArchiveError(f"it is damaged: its page {number} is not in order")  # which ends any circle
                before = key
                if key >= first:
                    data = place + _NODE.size + len(key)
                    yield key, self._find_value(page, number, data, low | high << 16, more)

    def _read_node(self, page: bytes, place: int) -> tuple[bytes, int, int, int]:
        """Reads a node: its key, and the three numbers that say where its value or its page is."""
        low, high, flags, length = _NODE.unpack_from(page, place)
        key = page[place + _NODE.size :][:length]
        if len(key) < length:
            raise ArchiveError("it is damaged: a key ends behind its page")
        return key, low, high, flags

    def _find_value(self, page: bytes, number: int, data: int, size: int, flags: int) -> tuple[int, int]:
        """Finds the place and the size of a value in the file."""
        if flags & ~_ELSEWHERE:
            raise ArchiveError("it has databases within, or several values of a key, and is not read")
        if flags & _ELSEWHERE:
            (number,) = struct.unpack_from("<Q", page, data)
            data = _PAGE.size
        elif data + size > len(page):
            raise ArchiveError("it is damaged: a value ends behind its page")
        place = number * self._page_size + data
        if place + size > self._size:
            raise ArchiveError("it ends before a value does")
        return place, size

    def _read_value(self, value: tuple[int, int]) -> bytes:
        return self._read(*value)

    def _read_page(self, number: int) -> bytes:
        if (number + 1) * self._page_size > self._size:
            raise ArchiveError(f"it ends before its page {number}")
        return self._read(number * self._page_size, self._page_size)

    def _read(self, place: int, length: int) -> bytes:
        content = read_range(self._path, place, length)
        if len(content) < length:
            raise ArchiveError(f"it ends before byte {place + length:,}")
        return content
