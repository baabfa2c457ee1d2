"""Text in files of any kind, read within bounds, to find out which of them speak of images."""

from __future__ import annotations

import codecs
import dataclasses
import html
import io
import re
import unicodedata
import urllib.parse
import zipfile
import zlib

import pyarrow
import pyarrow.parquet

from components.listing.references import read_regular_file
from tfrecords import StoreError, storage

MAX_BYTES = 4_000_000
"""Most bytes of a file that are looked at, and most bytes of text that are unpacked from one."""

_MAX_ZIP_BYTES = 16_000_000  # the list of what is inside stands at the end
_MAX_MEMBERS = 1_000
_PARQUET_ROWS = 20_000
_PARQUET_BYTES = 16 * MAX_BYTES  # of the first row group, unpacked; what has more holds more than labels
_LOOKED_AT_FIRST = 8_192
_ENCODINGS = ("cp1252", "gb18030", "cp1251", "shift_jis")  # of files that are not UTF-8: any may be the right one
_IMAGE_SIGNATURES = (
    *(b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51"),
    *(b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"),
)
_TEXT_SUFFIXES = (".xml", ".txt", ".csv", ".tsv", ".json", ".jsonl", ".html", ".yaml", ".yml", ".rels")


@dataclasses.dataclass(frozen=True)
class Content:
    """The text that was read of a file.

    Attributes:
        text: in NFC.
        share: of the file that was read, above 0 and at most 1.
        binary: whether it is no text, so that names in it may stand between any bytes.
    """

    text: str
    share: float
    binary: bool = False


def read_content(path: str) -> Content | None:
    """Reads the text in a file: plain, packed, a spreadsheet, Parquet, or the bytes of another kind of file.

    Args:
        path: local path or URL.

    Returns:
        None for an image, an empty file, and one that cannot be read.
    """
    try:
        content = read_regular_file(path, MAX_BYTES)
        if not content or _is_image(content):
            return None
        size = len(content) if len(content) < MAX_BYTES else storage.get_size(path)
        if content.startswith(b"PK\x03\x04"):
            whole = content if size == len(content) else read_regular_file(path, _MAX_ZIP_BYTES + 1)
            return Content(_compose(_unzip(whole)), 1) if len(whole) <= _MAX_ZIP_BYTES else None
        if content.startswith(b"PAR1"):
            return _read_parquet(path)
    except StoreError:
        raise
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error, pyarrow.ArrowException):
        return None  # a damaged or locked file tells nothing; NotImplementedError is a RuntimeError
    share = len(content) / size
    if content.startswith(b"\x1f\x8b"):
        content = _gunzip(content)
    text = _decode(content)
    if text is not None:
        return Content(_compose(text), share)
    wide = (part.decode("utf-16-le", "replace") for part in (content, content[1:]))
    return Content(_compose("\n".join([content.decode("latin-1"), *wide])), share, binary=True)


def fold_name(name: str) -> str:
    """Writes a name in NFC and without case, as two spellings of it share."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _is_image(content: bytes) -> bool:
    return content.startswith(_IMAGE_SIGNATURES) or (content[:4] == b"RIFF" and content[8:12] == b"WEBP")


def _decode(content: bytes) -> str | None:
    """Decodes a text, whose end may be cut off; returns None for what is no text."""
    first = content[:_LOOKED_AT_FIRST]
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace")
    if b"\0" in first:
        for encoding, zeros in (("utf-16-le", first[1::2]), ("utf-16-be", first[::2])):
            if zeros.count(0) > 0.4 * len(zeros) and zeros.count(0) > 0.9 * first.count(0):
                return content.decode(encoding, "replace")
        return None
    try:
        return codecs.getincrementaldecoder("utf-8-sig")().decode(content)
    except UnicodeDecodeError:
        return "\n".join(content.decode(encoding, "replace") for encoding in _ENCODINGS)


def _compose(text: str) -> str:
    """Writes a text in NFC, and what is escaped in it a second time without escapes."""
    if "\\u" in text:
        text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), text)
    if re.search("%[0-9A-Fa-f]{2}", text):
        text = f"{text}\n{urllib.parse.unquote(text)}"
    if "&" in text and "<" in text:
        text = html.unescape(text)
    return unicodedata.normalize("NFC", text)


def _unzip(content: bytes) -> str:
    """Reads the texts in a ZIP file, such as a spreadsheet, without the tags of XML."""
    texts, left = [], MAX_BYTES
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.infolist()[:_MAX_MEMBERS]:
            if left > 0 and member.filename.lower().endswith(_TEXT_SUFFIXES):
                with archive.open(member) as file:
                    text = file.read(left)
                left -= len(text)
                texts.append(re.sub("<[^<>]*>", "\n", _decode(text) or ""))
    return html.unescape("\n".join(texts))


def _gunzip(content: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(content, MAX_BYTES)
    except zlib.error:
        return b""


def _read_parquet(path: str) -> Content | None:
    """Reads the texts in the first rows of a Parquet file, one row a line."""
    with storage.open_to_read(path) as file, pyarrow.parquet.ParquetFile(file) as table:
        metadata = table.metadata
        if not metadata.num_row_groups or not metadata.row_group(0).num_rows:
            return None
        # Asked for the metadata of a column, the library ends the process if they are damaged.
        texts = [field.path for field in table.schema if str(field.logical_type) == "String"]
        if not texts or not 0 <= metadata.row_group(0).total_byte_size <= _PARQUET_BYTES:
            return None
        batch = next(table.iter_batches(_PARQUET_ROWS, [0], columns=texts), None)
        rows = [] if batch is None else batch.to_pylist()  # none in a damaged file
        lines = ["\t".join(map(str, _list_values(row))) for row in rows]
        return Content(_compose("\n".join(lines)), len(rows) / max(metadata.num_rows, 1))


def _list_values(value: object) -> list[object]:
    if isinstance(value, dict):
        return [text for inner in value.values() for text in _list_values(inner)]
    return [value]
