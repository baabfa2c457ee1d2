"""The rows of a table, and the lines of a file that holds one as text."""

from __future__ import annotations

import codecs
import dataclasses
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tfrecords import DataError

_MAX_LINE_BYTES = 1_000_000
_BYTE_ORDER_MARK = "\ufeff"
_BYTES_AT_A_TIME = 1 << 16
_MARK_DAMAGE = "mark-damaged-utf-16"


def _mark_damage(error: UnicodeError) -> tuple[str, int]:
    """Puts what `surrogateescape` encodes as the byte 0xFF in the place of damaged bytes."""
    assert isinstance(error, UnicodeDecodeError)
    return "\udcff", error.end


codecs.register_error(_MARK_DAMAGE, _mark_damage)
CARRIAGE_RETURN = "a carriage return stands inside the line: lines must end with a line feed"
"""The problem of such a line."""
IDENTIFIERS = ("image_id", "imageid", "img_id", "file_id", "id")
"""Usual names of columns that hold the name of an image without its suffix, or its number."""
_KINDS = {
    bool: "true or false",
    dict: "an object",
    float: "a floating-point number",
    int: "an integer",
    list: "a list",
    str: "a text",
    type(None): "null",
}


@dataclasses.dataclass(frozen=True)
class TableRow:
    """One row of a table; a damaged one has only `place` and `problem`.

    Attributes:
        place: table, and line at which the row begins, counted from 1 as in an editor.
        path: as the table writes it, without white space around it.
        text: the label, not normalised; empty if the cell is empty; None in a table without texts, and in a row of a
            label table that says that its image is to be left out.
        group: without white space around it; None in a table without groups.
        problem: the reason why the row cannot be used, or None.
    """

    place: str
    path: str | None
    text: str | None
    group: str | None
    problem: str | None


class LineTooLongError(Exception):
    """An error about a line with more than `_MAX_LINE_BYTES` bytes, which was skipped."""


class _AsUtf8(io.RawIOBase):
    """A file in UTF-16 with a byte order mark, as UTF-8; what is damaged in it becomes bytes that are not UTF-8."""

    def __init__(self, file: Any) -> None:
        super().__init__()
        self._file = file
        self._start()

    def _start(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-16")(_MARK_DAMAGE)
        self._left = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if (offset, whence) != (0, io.SEEK_SET):
            raise io.UnsupportedOperation("only the first byte can be sought")
        self._start()
        return self._file.seek(0)

    def readinto(self, buffer: Any) -> int:
        while not self._left and not self._ended:
            content = self._file.read(_BYTES_AT_A_TIME)
            self._ended = not content
            self._left = self._decoder.decode(content, self._ended).encode("utf-8", "surrogateescape")
        some = self._left[: len(buffer)]
        buffer[: len(some)] = some
        self._left = self._left[len(some) :]
        return len(some)


class TableLines:
    """The lines of a file as text, with their ends; reading continues after a line that is too long.

    The file is UTF-8, or UTF-16 with a byte order mark, which Excel calls Unicode text.

    Attributes:
        number: of the line read last, from 1.
        last: that line, with its end.
        table: the file's name, for messages.
    """

    def __init__(self, file: Any, table: str) -> None:
        self._is_wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        file.seek(0)
        self._file = io.BufferedReader(_AsUtf8(file) if self._is_wide else file, 1 << 20)
        self.table = table
        self.number = 0
        self.last = ""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(_MAX_LINE_BYTES + 2)
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) > _MAX_LINE_BYTES and len(line.rstrip(b"\r\n")) > _MAX_LINE_BYTES:
            while line and not line.endswith(b"\n"):
                line = self._file.readline(_MAX_LINE_BYTES)
            raise LineTooLongError(f"the line has more than {_MAX_LINE_BYTES:,} bytes")
        try:
            self.last = line.decode().removeprefix(_BYTE_ORDER_MARK)  # joined files have one at each file's start
        except UnicodeDecodeError as error:
            raise self.explain_encoding(f"byte 0x{line[error.start]:02X}") from None
        return self.last

    def explain_encoding(self, problem: str) -> DataError:
        """Makes the error for a table that is not UTF-8."""
        if self._is_wide:
            return DataError(f"line {self.number} of {self.table} is damaged UTF-16: save the table as UTF-8")
        return DataError(
            f"line {self.number} of {self.table} is not UTF-8 ({problem}): save the table as UTF-8, "
            "which Excel calls 'CSV UTF-8'"
        )

    def restart(self) -> None:
        """Starts again with the first line."""
        self._file.seek(0)
        self.number = 0


def read_whole_lines(lines: TableLines) -> Iterator[tuple[str, str | None]]:
    """Yields lines that are not blank, without their ends, each with its problem or None."""
    while True:
        try:
            line = next(lines)
        except StopIteration:
            return
        except LineTooLongError as error:
            yield "", str(error)
        else:
            if line.strip():
                yield line.rstrip("\r\n"), None


def make_row(place: str, path: str, text: str | None = None, group: str | None = None) -> TableRow:
    """Makes a row of the cells that a table has for it; one without a path, or with a NUL byte, is damaged."""
    path = path.strip()
    if not path:
        return TableRow(place, None, None, None, "no path")
    if group is not None:
        group = group.strip()
    if "\0" in path or "\0" in (text or ""):
        return TableRow(place, None, None, None, "it has a NUL byte")
    return TableRow(place, path, text, group, None)


def pick_texts(
    value: Mapping[str, Any], keys: Sequence[str], *, integers: bool = False
) -> tuple[list[str], str | None]:
    """Picks the texts under the keys of path, text and group; an integer is a text, but a path only as an identifier.

    Args:
        integers: whether any path may be an integer.

    Returns:
        The texts, and the problem or None.
    """
    texts = []
    for index, key in enumerate(keys):
        if key not in value:
            return [], f"it has no {key!r}"
        text = value[key]
        if type(text) is int and (index or integers or key.lower() in IDENTIFIERS):
            text = str(text)
        if not isinstance(text, str):
            return [], f"{key!r} is {describe_kind(text)}: write it as a string"
        if re.search("[\ud800-\udfff]", text):
            return [], f"{key!r} has half a surrogate pair"
        texts.append(text)
    return texts, None


def describe_kind(value: object) -> str:
    """Describes the kind of a value that is not what it should be."""
    return _KINDS.get(type(value), f"a {type(value).__name__}")
