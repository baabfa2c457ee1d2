"""Files for the tests of listing."""

import pathlib
import struct
import zipfile
from typing import Any
from xml.sax.saxutils import escape

from tfrecords import storage

_BOOK = """<?xml version="1.0" encoding="UTF-8"?>
<workbook xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"
 xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"><sheets>{}</sheets></workbook>"""
_RELATIONS = """<?xml version="1.0" encoding="UTF-8"?>
<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{}</Relationships>"""
_KIND = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_SHEET = """<?xml version="1.0" encoding="UTF-8"?>
<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>{}</sheetData></worksheet>"""


def put(folder: pathlib.Path, *names: str, content: bytes = b"image") -> None:
    """Writes files; an "image" is any bytes here, because listing never looks inside."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def put_remote(bucket: str, *names: str, content: bytes = b"image") -> None:
    """Writes files below a URL."""
    for name in names:
        storage.write_bytes(storage.join(bucket, name), content)


def write_spreadsheet(path: str, /, **sheets: list[list[Any]]) -> str:
    """Writes an .xlsx file with cells of texts and numbers; None is no cell."""
    listed = "".join(f'<sheet name="{name}" sheetId="{n}" r:id="r{n}"/>' for n, name in enumerate(sheets, 1))
    targets = "".join(
        f'<Relationship Id="r{n}" Type="{_KIND}/worksheet" Target="worksheets/{n}.xml"/>'
        for n in range(1, len(sheets) + 1)
    )
    book = f'<Relationship Id="r1" Type="{_KIND}/officeDocument" Target="xl/workbook.xml"/>'
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("_rels/.rels", _RELATIONS.format(book))
        archive.writestr("xl/workbook.xml", _BOOK.format(listed))
        archive.writestr("xl/_rels/workbook.xml.rels", _RELATIONS.format(targets))
        for number, rows in enumerate(sheets.values(), 1):
            lines = (
                f'<row r="{line}">'
                + "".join(
                    f'<c r="{chr(64 + column)}{line}" {_write_cell(cell)}</c>'
                    for column, cell in enumerate(row, 1)
                    if cell is not None
                )
                + "</row>"
                for line, row in enumerate(rows, 1)
            )
            archive.writestr(f"xl/worksheets/{number}.xml", _SHEET.format("".join(lines)))
    return path


def _write_cell(cell: Any) -> str:
    if isinstance(cell, str):
        return f't="inlineStr"><is><t xml:space="preserve">{escape(cell)}</t></is>'
    return f"><v>{cell}</v>"


_OPEN_DOCUMENT = (
    '<?xml version="1.0" encoding="UTF-8"?><office:document-content '
    'xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0" '
    'xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0" '
    'xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0"><office:body><office:spreadsheet>{}'
    "</office:spreadsheet></office:body></office:document-content>"
)


_MANIFEST = (
    '<?xml version="1.0"?><manifest:manifest xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0">'
    '<manifest:file-entry manifest:full-path="/" '
    'manifest:media-type="application/vnd.oasis.opendocument.spreadsheet"/></manifest:manifest>'
)


def write_open_document(path: str, /, **sheets: list[list[Any]] | str) -> str:
    """Writes an .ods file with cells of texts and numbers, and the empty ones behind them that LibreOffice writes.

    A sheet may also be given as the elements of its rows.
    """
    tables = "".join(
        f'<table:table table:name="{name}">{rows if isinstance(rows, str) else _write_rows(rows)}</table:table>'
        for name, rows in sheets.items()
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet", zipfile.ZIP_STORED)
        archive.writestr("META-INF/manifest.xml", _MANIFEST)
        archive.writestr("content.xml", _OPEN_DOCUMENT.format(tables))
    return path


def _write_rows(rows: list[list[Any]]) -> str:
    empty = '<table:table-cell table:number-columns-repeated="{}"/>'
    lines = (
        f"<table:table-row>{''.join(map(_write_ods_cell, row))}{empty.format(16384 - len(row))}</table:table-row>"
        for row in rows
    )
    below = f'<table:table-row table:number-rows-repeated="{1048576 - len(rows)}">{empty.format(16384)}'
    return f"{''.join(lines)}{below}</table:table-row>"


def _write_ods_cell(cell: Any) -> str:
    if cell is None:
        return "<table:table-cell/>"
    value = (
        'office:value-type="string"' if isinstance(cell, str) else f'office:value-type="float" office:value="{cell}"'
    )
    return f"<table:table-cell {value}><text:p>{escape(str(cell))}</text:p></table:table-cell>"


def write_old_spreadsheet(path: str, /, **sheets: list[list[Any]]) -> str:
    """Writes an .xls file (BIFF8 in a compound file) with cells of texts and numbers; None is no cell."""
    cells = {
        name: [
            (row, column, cell) for row, line in enumerate(rows) for column, cell in enumerate(line) if cell is not None
        ]
        for name, rows in sheets.items()
    }
    pathlib.Path(path).write_bytes(make_old_spreadsheet(cells))
    return path


def make_old_spreadsheet(sheets: dict[str, list[tuple[int, int, Any]]]) -> bytes:
    """Makes an .xls file of cells, each with its row and column."""
    bodies = [_begin(0x10) + b"".join(_make_cell(*cell) for cell in cells) + _record(0x0A) for cells in sheets.values()]

    def make_book(places: list[int]) -> bytes:
        listed = (
            _record(0x85, struct.pack("<IHBB", place, 0, len(name), 0) + name.encode("latin-1"))
            for place, name in zip(places, sheets, strict=True)
        )
        return _begin(0x05) + _record(0x42, struct.pack("<H", 1200)) + b"".join(listed) + _record(0x0A)

    place = len(make_book([0] * len(bodies)))
    places = [place + sum(map(len, bodies[:number])) for number in range(len(bodies))]
    return _make_compound_file(make_book(places) + b"".join(bodies))


def _record(kind: int, content: bytes = b"") -> bytes:
    return struct.pack("<HH", kind, len(content)) + content


def _begin(kind: int) -> bytes:
    return _record(0x0809, struct.pack("<HHHHII", 0x0600, kind, 0x0DBB, 0x07CC, 0, 6))


def _make_cell(row: int, column: int, cell: Any) -> bytes:
    if isinstance(cell, str):
        text = struct.pack("<HB", len(cell), 1) + cell.encode("utf-16-le")
        return _record(0x0204, struct.pack("<HHH", row, column, 15) + text)
    return _record(0x0203, struct.pack("<HHHd", row, column, 15, cell))


def _make_compound_file(stream: bytes) -> bytes:
    """Makes a compound file of one stream, `Workbook`: header, allocation table, directory, and its sectors of 512."""
    stream = stream.ljust(4096, b"\0")
    data = stream + b"\0" * (-len(stream) % 512)
    sectors = len(data) // 512
    tables = 1
    while tables * 128 < tables + 1 + sectors:
        tables += 1
    end, free = 0xFFFFFFFE, 0xFFFFFFFF
    chain = [0xFFFFFFFD] * tables + [end] + [tables + 2 + number for number in range(sectors - 1)] + [end]
    chain += [free] * (tables * 128 - len(chain))
    header = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16) + struct.pack("<5H", 0x3E, 3, 0xFFFE, 9, 6) + bytes(6)
    header += struct.pack("<9I", 0, tables, tables, 0, 4096, end, 0, end, 0)
    header += struct.pack("<109I", *range(tables), *[free] * (109 - tables))

    def make_entry(name: str, kind: int, child: int, start: int, size: int) -> bytes:
        named = name.encode("utf-16-le") + b"\0\0"
        links = struct.pack("<HBBIII", len(named), kind, 1, free, free, child)
        return named.ljust(64, b"\0") + links + bytes(36) + struct.pack("<IQ", start, size)

    directory = make_entry("Root Entry", 5, 1, end, 0) + make_entry("Workbook", 2, free, tables + 1, len(stream))
    return header + struct.pack(f"<{len(chain)}I", *chain) + directory.ljust(512, b"\0") + data
