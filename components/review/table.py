"""The review table: doubtful readings as CSV, which a person corrects and ingest reads as a label table."""

from __future__ import annotations

from collections.abc import Sequence

from components.listing import path_to_uri, uri_to_path
from components.review.selection import DoubtfulText
from tfrecords import storage

COLUMNS = ("path", "text", "confidence", "read", "alternatives", "run_id", "model_id", "dataset")
BYTE_ORDER_MARK = "\ufeff"
"""The mark without which Excel takes UTF-8 for another encoding."""
LINE_END = "\r\n"
_BETWEEN = " | "


def format_table(rows: Sequence[tuple[str, str, str]]) -> str:
    """Formats the whole file, from rows as `split_row` returns them."""
    header = ",".join(map(quote_cell, COLUMNS))
    lines = [header, *(before + quote_cell(protect_cell(text)) + after for before, text, after in rows)]
    return BYTE_ORDER_MARK + "".join(line + LINE_END for line in lines)


def split_row(reading: DoubtfulText, alternatives: Sequence[str], dataset_id: str) -> tuple[str, str, str]:
    """Splits a row into the part before the cell of its text, the text, and the part after that cell."""
    after = (
        f"{reading.confidence:.4f}",
        *map(protect_cell, (reading.text, _BETWEEN.join(alternatives), reading.run_id, reading.model_id, dataset_id)),
    )
    return f"{quote_cell(name_image(reading.uri))},", reading.text, "".join(f",{quote_cell(cell)}" for cell in after)


def protect_cell(text: str) -> str:
    """Makes a spreadsheet take a cell for text, whatever it looks like."""
    return f"\t{text}" if text else ""


def quote_cell(cell: str) -> str:
    """Quotes a cell as CSV does."""
    doubled = cell.replace('"', '""')
    return f'"{doubled}"'


def name_image(uri: str) -> str:
    """Names an image for a table: by its path, or by its URI if the path is no plain text."""
    path = uri_to_path(uri)
    if storage.is_remote(uri) or (path.isprintable() and path == path.strip()):
        return path
    # Percent-encode what a table cannot hold. Line breaks and bytes that are no text are not printable.
    return "".join(
        symbol if symbol.isprintable() and symbol != " " else "".join(f"%{byte:02X}" for byte in symbol.encode())
        for symbol in path_to_uri(path)
    )


TABLE_NAME, PAGE_NAME = "review.csv", "review.html"
