"""The review table: doubtful readings as CSV, which a person corrects and ingest reads as a label table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from components.listing import path_to_uri, uri_to_path
from tfrecords import storage

COLUMNS = ("path", "text", "confidence", "read", "alternatives", "run_id", "model_id", "dataset")
BYTE_ORDER_MARK = "\ufeff"
"""The mark without which Excel takes UTF-8 for another encoding."""
LINE_END = "\r\n"
_BETWEEN = " | "


def format_table(rows: Sequence[tuple[str, str, str]]) -> str:
    """Formats the whole file, from rows as `ReviewRow.split` returns them."""
    header = ",".join(map(quote_cell, COLUMNS))
    lines = [header, *(before + quote_cell(protect_cell(text)) + after for before, text, after in rows)]
    return BYTE_ORDER_MARK + "".join(line + LINE_END for line in lines)


@dataclasses.dataclass(frozen=True)
class ReviewRow:
    """One row of the table.

    Attributes:
        uri: of the image.
        text: for a person to correct.
        confidence: posterior of `read`, 0 to 1.
        read: as recognised.
        alternatives: other texts.
        run_id: the run of predictions; empty for a check of labels.
        model_id: of the model that recognised it, or of the check.
        dataset_id: the dataset to which corrections are added.
    """

    uri: str
    text: str
    confidence: float
    read: str
    alternatives: Sequence[str]
    run_id: str
    model_id: str
    dataset_id: str

    def split(self) -> tuple[str, str, str]:
        """Splits the row into the part before the cell of its text, the text, and the part after that cell."""
        texts = (self.read, _BETWEEN.join(self.alternatives), self.run_id, self.model_id, self.dataset_id)
        after = (f"{self.confidence:.4f}", *map(protect_cell, texts))
        return f"{quote_cell(name_image(self.uri))},", self.text, "".join(f",{quote_cell(cell)}" for cell in after)


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
