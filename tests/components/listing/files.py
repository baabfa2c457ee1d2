"""Files for the tests of listing."""

import pathlib
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
