"""Arrow files whose rows hold images, in the format of files or of streams, as Hugging Face `datasets` saves them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow
import pyarrow.ipc

from components.archives.columns import ImageColumns, choose_columns
from components.archives.files import ArchiveError, ArchiveFile, explain_damage
from components.archives.rows import RowBatch

_MAGIC, _END = b"ARROW1\0\0", b"ARROW1"
_CONTINUATION = b"\xff\xff\xff\xff"
_LONGEST_METADATA = 16 << 20
_LONGEST_BODY = 1 << 30  # of a batch, which is held whole
_SCHEMA, _ROWS = 1, 3  # types of messages; the one between is that of dictionaries


class _Message(NamedTuple):
    """A message of a stream.

    Attributes:
        kind: type of its header.
        content: its bytes before the body, with their length.
        place: of the body.
        body: bytes of the body.
        rows: of a batch.
        compressed: whether the body of a batch is.
    """

    kind: int
    content: bytes
    place: int
    body: int
    rows: int
    compressed: bool


class ArrowImages:
    """An Arrow file whose rows hold images.

    Its messages are read one after the other, and what lies beside the two columns is not decoded. Arrow trusts the
    offsets in a file, so they are checked before a value is read.

    Args:
        path: path or URL.
        size: bytes.
        text_column: name of the column with the texts; None for one of the usual names.

    Raises:
        ArchiveError: if it is damaged, or holds no images.
        OSError: if it cannot be read.
    """

    skips = True

    def __init__(self, path: str, size: int, text_column: str | None = None):
        self._file = ArchiveFile(path, size, longest_read=_LONGEST_BODY)
        self._size = size
        self._is_file = self._file.read(len(_MAGIC)) == _MAGIC
        self._file.seek(len(_MAGIC) if self._is_file else 0)
        with explain_damage():
            message = self._read_message()
            if message is None or message.kind != _SCHEMA or message.body:
                raise ArchiveError("it is damaged, or no Arrow file: it does not begin with a schema")
            self._schema = pyarrow.ipc.read_schema(pyarrow.py_buffer(message.content))
            columns = choose_columns(self._schema, text_column)
        if columns is None:
            raise ArchiveError("no column of it holds the bytes of images")
        self.columns: ImageColumns = columns
        self._schema_message = message.content
        self._begin = self._file.tell()
        names = [name for name in (columns.image, columns.text) if name is not None]
        indices = [self._schema.get_field_index(name) for name in names]
        if min(indices) < 0:
            raise ArchiveError(f"it has several columns named {' or '.join(map(repr, names))}")
        self._options = pyarrow.ipc.IpcReadOptions(included_fields=indices, use_threads=False)

    def count_rows(self) -> int | None:
        """Counts nothing: each batch says by itself how many rows it has."""
        return None

    def read_batches(self, first: int) -> Iterator[RowBatch]:
        """Yields rows from one on, see `ImageTable`; passes over whole batches before it."""
        place, start = self._begin, 0
        while True:
            self._file.seek(place)
            with explain_damage():
                message = self._read_message()
            if message is None:
                break
            if message.kind != _ROWS or message.compressed:
                what = "its batches are compressed" if message.compressed else "it has columns of dictionaries"
                raise ArchiveError(f"{what}, which is not read: write it without")
            if start + message.rows > first:
                with explain_damage():
                    yield self._read_rows(message, start)
            place, start = message.place + message.body, start + message.rows
        if self._is_file:
            self._file.seek(max(0, self._size - len(_END)))
            if self._file.read(len(_END)) != _END:
                raise ArchiveError("it ends before its footer does")

    def _read_message(self) -> _Message | None:
        """Reads a message up to its body; returns None at the end.

        Raises:
            ArchiveError: if there is none, or it leads behind the end of the file.
        """
        begin = self._file.read(len(_CONTINUATION))
        if begin != _CONTINUATION:
            if not begin or self._is_file:  # the footer
                return None
            raise ArchiveError("it is damaged: no message begins where one should")
        length_bytes = self._file.read(4)
        (length,) = struct.unpack("<i", length_bytes)
        if length == 0:
            return None
        if not 8 <= length <= _LONGEST_METADATA:
            raise ArchiveError(f"it is damaged: a message has metadata of {length:,} bytes")
        metadata = self._file.read(length)
        kind, rows, compressed, body = _parse_metadata(metadata)
        place = self._file.tell()
        if len(metadata) < length or not 0 <= body <= self._size - place or rows < 0:
            raise ArchiveError(f"it ends within a message of {body:,} bytes, with {rows:,} rows")
        if body > _LONGEST_BODY:
            raise ArchiveError(f"a batch of it has {body:,} bytes, more than {_LONGEST_BODY:,}: write smaller ones")
        return _Message(kind, begin + length_bytes + metadata, place, body, rows, compressed)

    def _read_rows(self, message: _Message, start: int) -> RowBatch:
        body = self._file.read(message.body)
        stream = b"".join((self._schema_message, message.content, body))
        batch = pyarrow.ipc.open_stream(pyarrow.py_buffer(stream), options=self._options).read_next_batch()
        if batch.num_rows != message.rows:
            raise ArchiveError("it is damaged: a batch has other rows than it says")
        images = batch.column(self.columns.image)
        images.validate()
        if self.columns.nested:
            images = images.flatten()[images.type.get_field_index("bytes")]
        images.validate(full=True)
        texts = None if self.columns.text is None else batch.column(self.columns.text)
        if texts is not None:
            texts.validate()
            if pyarrow.types.is_string(texts.type) or pyarrow.types.is_large_string(texts.type):
                large = pyarrow.types.is_large_string(texts.type)
                texts = texts.view(pyarrow.large_binary() if large else pyarrow.binary())  # UTF-8 is checked later
            texts.validate(full=True)
        return RowBatch(start, images, texts)


def _parse_metadata(metadata: bytes) -> tuple[int, int, bool, int]:
    """Parses the metadata of a message, a flatbuffer as `Message.fbs` of the Arrow format says.

    Returns:
        The type of its header; the rows of a batch, and whether it is compressed; and the bytes of the body.

    Raises:
        ValueError: if the bytes are no such message.
    """
    try:
        root = _read(metadata, "<I", 0)
        kind_at, header_at, body_at = (_find_field(metadata, root, number) for number in (1, 2, 3))
        if not kind_at or not header_at:
            raise ValueError("a message has no header")
        kind = _read(metadata, "<B", kind_at)
        body = _read(metadata, "<q", body_at) if body_at else 0
        if kind != _ROWS:
            return kind, 0, False, body
        header = header_at + _read(metadata, "<I", header_at)
        rows_at, compression_at = _find_field(metadata, header, 0), _find_field(metadata, header, 3)
        return kind, _read(metadata, "<q", rows_at) if rows_at else 0, bool(compression_at), body
    except struct.error as error:
        raise ValueError(f"the metadata of a message are damaged: {error}") from None


def _find_field(data: bytes, table: int, number: int) -> int:
    """Finds the place of a field of a flatbuffer's table; 0 if it is not there."""
    fields = table - _read(data, "<i", table)
    if 4 + 2 * number >= _read(data, "<H", fields):
        return 0
    offset = _read(data, "<H", fields + 4 + 2 * number)
    return table + offset if offset else 0


def _read(data: bytes, form: str, place: int) -> int:
    if place < 0:
        raise ValueError("the metadata of a message lead before its beginning")
    return struct.unpack_from(form, data, place)[0]
