"""TFRecord files, plain or compressed by gzip, whose examples hold images."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from typing import Any

import pyarrow

from components.archives.columns import ImageColumns, choose_text
from components.archives.files import ArchiveError, ArchiveFile, explain_damage, read_range
from components.archives.rows import LONGEST_TEXT, RowBatch
from components.archives.tar import GZIP, UnpackedFile
from tfrecords.shards import compute_masked_crc

_IMAGE_FEATURES = ("image/encoded", "image")
_PREFIX = "image/"  # of the features of an image, as of its text
_HEADER = struct.Struct("<Q4s")
_CHECKSUM_BYTES = 4
_LONGEST_RECORD = 256 << 20
_ROWS_LOOKED_AT = 10  # for the names of features
_ROWS_AT_A_TIME, _BYTES_AT_A_TIME = 64, 16 << 20
_VARINT, _EIGHT_BYTES, _WITH_LENGTH, _FOUR_BYTES = 0, 1, 2, 5


class TFRecordImages:
    """A TFRecord file of `tf.train.Example` records, each with an image.

    Args:
        path: path or URL.
        size: bytes.
        text_column: name of the feature with the texts; None for one of the usual names, such as `image/text`.

    Raises:
        ArchiveError: if it is damaged, or its first examples hold no images.
        OSError: if it cannot be read.
    """

    skips = False

    def __init__(self, path: str, size: int, text_column: str | None = None):
        self._path = path
        self._size = size
        self._compressed = read_range(path, 0, len(GZIP)) == GZIP
        names: dict[str, None] = {}
        rows = 0
        try:
            for _, features, _ in itertools.islice(self._read_examples(0), _ROWS_LOOKED_AT):
                rows += 1
                names.update(dict.fromkeys(features))
        except ArchiveError:
            if not rows:
                raise
        image = next((name for name in _IMAGE_FEATURES if name in names or not rows), None)
        if image is None:
            found = ", ".join(repr(name[:40]) for name in itertools.islice(names, 10)) or "none of bytes"
            raise ArchiveError(f"its examples have no feature {' or '.join(_IMAGE_FEATURES)}, but {found}")
        short = {name.removeprefix(_PREFIX): name for name in names if name not in _IMAGE_FEATURES}
        if text_column is not None:
            text_column = text_column.removeprefix(_PREFIX)
        text, unclear = choose_text(list(short), text_column)
        self.columns = ImageColumns(image, False, None if text is None else short[text], unclear)

    def count_rows(self) -> int | None:
        """Counts nothing: the file does not say how many records it has."""
        return None

    def read_batches(self, first: int) -> Iterator[RowBatch]:
        """Yields rows from one on, see `ImageTable`."""
        rows = _Rows(first)
        failure = None
        try:
            for row, features, problem in self._read_examples(first):
                image, text = features.get(self.columns.image), features.get(self.columns.text or "")
                rows.add(image, text, problem)
                if rows.are_enough():
                    yield rows.make_batch()
                    rows = _Rows(row + 1)
        except ArchiveError as error:
            failure = error
        if rows.images:
            yield rows.make_batch()
        if failure is not None:
            raise failure

    def _read_examples(self, first: int) -> Iterator[tuple[int, dict[str, memoryview], str | None]]:
        """Yields for each record its number, the features of bytes in it, and why it cannot be read, or None."""
        for row, record in self._read_records(first):
            if isinstance(record, str):
                yield row, {}, record
                continue
            try:
                features = parse_example(record)
            except ValueError as error:
                yield row, {}, f"its record is no tf.train.Example: {error}"
            else:
                yield row, features, None

    def _read_records(self, first: int) -> Iterator[tuple[int, bytes | str]]:
        """Yields each record from one on with its number, or why it cannot be read."""
        file: Any = ArchiveFile(self._path, self._size, longest_read=_LONGEST_RECORD + _CHECKSUM_BYTES)
        read = file.read
        if self._compressed:
            with explain_damage():
                file = UnpackedFile(self._path, self._size, GZIP)
            read = file.read_content
        for row in itertools.count():
            header = read(_HEADER.size)
            if not header:
                return
            if len(header) < _HEADER.size:
                raise ArchiveError(f"it ends within record {row:,}")
            length, checksum = _HEADER.unpack(header)
            if checksum != compute_masked_crc(header[:8]):
                raise ArchiveError(
                    f"the checksum of the length of record {row:,} is wrong: it is damaged, or no TFRecord file"
                )
            end = file.tell() + length + _CHECKSUM_BYTES
            if not self._compressed and end > self._size:
                raise ArchiveError(f"it ends within record {row:,}, which has {length:,} bytes")
            if row < first or length > _LONGEST_RECORD:
                if file.seek(end) != end:
                    raise ArchiveError(f"it ends within record {row:,}, which has {length:,} bytes")
                if row >= first:
                    yield row, f"its record has {length:,} bytes, more than {_LONGEST_RECORD:,}"
                continue
            body = read(length + _CHECKSUM_BYTES)
            if len(body) < length + _CHECKSUM_BYTES:
                raise ArchiveError(f"it ends within record {row:,}, which has {length:,} bytes")
            right = body[length:] == compute_masked_crc(body[:length])
            yield row, body[:length] if right else "its record is damaged: its checksum is wrong"


class _Rows:
    """Rows that become a batch.

    Args:
        first: number of the first one.
    """

    def __init__(self, first: int):
        self._first = first
        self.images: list[bytes | None] = []
        self._texts: list[bytes | None] = []
        self._problems: dict[int, str] = {}
        self._size = 0

    def add(self, image: memoryview | None, text: memoryview | None, problem: str | None) -> None:
        """Adds a row."""
        if problem is not None:
            self._problems[self._first + len(self.images)] = problem
        self.images.append(None if image is None else bytes(image))
        self._texts.append(None if text is None else bytes(text[:LONGEST_TEXT]))
        self._size += len(image or b"")

    def are_enough(self) -> bool:
        """Tells whether these are enough for a batch."""
        return len(self.images) == _ROWS_AT_A_TIME or self._size > _BYTES_AT_A_TIME

    def make_batch(self) -> RowBatch:
        """Makes a batch of the rows."""
        kind = pyarrow.large_binary()
        images, texts = pyarrow.array(self.images, kind), pyarrow.array(self._texts, kind)
        return RowBatch(self._first, images, texts, self._problems)


def parse_example(record: bytes) -> dict[str, memoryview]:
    """Parses a serialised `tf.train.Example`: the features that are one value of bytes, by their names.

    The wire format is that of `tensorflow/core/example/example.proto`.

    Raises:
        ValueError: if the bytes are no such example.
    """
    found = {}
    for features in _read_messages(memoryview(record), 1):
        for entry in _read_messages(features, 1):
            name = b"".join(_read_messages(entry, 1)).decode()
            values = [
                value
                for feature in _read_messages(entry, 2)
                for values in _read_messages(feature, 1)
                for value in _read_messages(values, 1)
            ]
            if len(values) == 1:
                found[name] = values[0]
    return found


def _read_messages(data: memoryview, wanted: int) -> Iterator[memoryview]:
    """Yields what has a length among the fields of a message, and the number wanted.

    Raises:
        ValueError: if the bytes are no message.
    """
    place = 0
    while place < len(data):
        tag, place = _read_varint(data, place)
        kind = tag & 7
        if kind == _VARINT:
            _, place = _read_varint(data, place)
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            place += 8 if kind == _EIGHT_BYTES else 4
        elif kind == _WITH_LENGTH:
            length, place = _read_varint(data, place)
            if length > len(data) - place:
                raise ValueError(f"a field of {length:,} bytes ends behind its end")
            if tag >> 3 == wanted:
                yield data[place : place + length]
            place += length
        else:
            raise ValueError(f"a field has the wire type {kind}")
    if place > len(data):
        raise ValueError("a field ends behind its end")


def _read_varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        if place >= len(data):
            raise ValueError("a number ends behind its end")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise ValueError("a number has more than 64 bits")
