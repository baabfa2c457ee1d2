"""The review page, with a picture and a text field for each doubtful line."""

from __future__ import annotations

import base64
import dataclasses
import functools
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from rapidfuzz.distance import Levenshtein

from components.lines import Content, map_in_order, read_referenced_line
from components.listing import ImageReference
from components.pages import open_templates
from components.rejects import Reject
from components.review.labels import CheckedLabel
from components.review.selection import DoubtfulText
from components.review.table import (
    BYTE_ORDER_MARK,
    COLUMNS,
    LINE_END,
    PAGE_NAME,
    TABLE_NAME,
    ReviewRow,
    format_table,
    quote_cell,
)
from tfrecords import ImageLimits, encode_png, storage

_Doubtful = TypeVar("_Doubtful", DoubtfulText, CheckedLabel)
_DOUBTFUL_SYMBOL = 0.9
"""The confidence below which a symbol is marked."""
_PAGE_HEIGHT = 64
"""The height of a line on the page, pixels."""
_LEAST_HEIGHT = 24
"""The height to which a long line is shrunk for the page at most, pixels."""
_LEAST_MODEL_HEIGHT = 16
_PICTURE_BYTES = 100_000
"""A picture of more bytes is shrunk and compressed with losses, so that a page stays small."""
_QUALITY = 60


def choose_with_images(
    doubtful: Iterator[_Doubtful], count: int, limits: ImageLimits, vertical: bool
) -> tuple[list[tuple[_Doubtful, bytes]], int]:
    """Chooses the first doubtful texts or labels whose images can still be read.

    Args:
        vertical: whether the text of the images runs from top to bottom.

    Returns:
        The chosen ones, each with its image as PNG or JPEG, and the number of those passed over because their images
        cannot be read any more.
    """
    chosen: list[tuple[_Doubtful, bytes]] = []
    gone = 0
    # The line was not too wide at the model's height, which may be less than the page's.
    limits = dataclasses.replace(limits, max_line_width=limits.max_line_width * _PAGE_HEIGHT // _LEAST_MODEL_HEIGHT)
    draw = functools.partial(_draw_line, limits=limits, vertical=vertical)
    while len(chosen) < count and (part := list(itertools.islice(doubtful, count - len(chosen)))):
        references = [ImageReference(one.uri, "", 0, 0) for one in part]
        for one, picture in zip(part, map_in_order(draw, references, 1, limits), strict=True):
            if picture is None:
                gone += 1
            else:
                chosen.append((one, picture))
    return chosen, gone


def _draw_line(reference: ImageReference, content: Content, limits: ImageLimits, vertical: bool) -> bytes | None:
    """Draws the line of an image as PNG; as a smaller JPEG if that would have more than `_PICTURE_BYTES`."""
    line = read_referenced_line(reference, content, _PAGE_HEIGHT, limits, vertical)
    if isinstance(line, Reject):
        return None
    pixels = np.rot90(line.pixels, -1) if vertical else line.pixels  # a person reads it upright
    picture = encode_png(pixels)
    height = _PAGE_HEIGHT
    while len(picture) > _PICTURE_BYTES and height > _LEAST_HEIGHT:
        height = max(_LEAST_HEIGHT, height * 3 // 4)
        size = [max(1, side * height // _PAGE_HEIGHT) for side in reversed(pixels.shape)]
        output = io.BytesIO()
        Image.fromarray(pixels).resize(size).save(output, "JPEG", quality=_QUALITY)
        picture = output.getvalue()
    return picture


def mark_doubtful(text: str, confidences: Sequence[float]) -> list[tuple[str, bool]]:
    """Splits a text into stretches of symbols that are all doubtful (True) or all certain (False)."""
    if len(confidences) != len(text):
        return [(text, False)] if text else []
    pairs = zip(text, (confidence < _DOUBTFUL_SYMBOL for confidence in confidences), strict=True)
    stretches = itertools.groupby(pairs, lambda pair: pair[1])
    return [("".join(symbol for symbol, _ in stretch), doubtful) for doubtful, stretch in stretches]


def mark_differing(text: str, other: str) -> list[tuple[str, bool]]:
    """Splits a text into stretches of symbols that another text lacks (True) or has too (False)."""
    steps = Levenshtein.opcodes(text, other)
    return [
        (text[step.src_start : step.src_end], step.tag != "equal") for step in steps if step.src_end > step.src_start
    ]


def write_table_and_page(
    folder: str,
    rows: Sequence[ReviewRow],
    lines: Sequence[Mapping[str, Any]],
    *,
    review_id: str,
    dataset_id: str,
    of_labels: bool = False,
    vertical: bool = False,
) -> None:
    """Writes `review.csv` and `review.html`.

    Args:
        lines: what the page shows of each row: `picture` (PNG or JPEG), `read`, `confidence` and `alternatives`; of
            labels also `label`, `label_confidence` and `reading`. `read` and `label` are stretches of text, as
            `mark_doubtful` makes them.
        of_labels: whether it is labels of the dataset that are doubtful, and not readings.
        vertical: whether the text of the images runs from top to bottom.
    """
    split_rows = [row.split() for row in rows]
    storage.write_bytes(storage.join(folder, TABLE_NAME), format_table(split_rows).encode())
    page = render_page(
        review_id=review_id,
        dataset_id=dataset_id,
        of_labels=of_labels,
        vertical=vertical,
        lines=[
            {
                **line,
                "source": _make_data_url(line["picture"]),
                "uri": row.uri,
                "text": row.text,
                "before": before,
                "after": after,
            }
            for row, line, (before, _, after) in zip(rows, lines, split_rows, strict=True)
        ],
    )
    storage.write_bytes(storage.join(folder, PAGE_NAME), page.encode())


def _make_data_url(picture: bytes) -> str:
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def render_page(**values: Any) -> str:
    """Renders the page as HTML.

    Args:
        values: of the template: `review_id`, `dataset_id`, `lines`, `of_labels`: whether it is labels of the
            dataset that are doubtful, and `vertical`: whether the text of the images runs from top to bottom.
    """
    table = {"mark": BYTE_ORDER_MARK, "header": ",".join(map(quote_cell, COLUMNS)), "line_end": LINE_END}
    names = ("text", "before", "after", *(("reading",) if values["of_labels"] else ()))
    lines = [{name: line[name] for name in names} for line in values["lines"]]
    page = open_templates(__file__).get_template("review.html.j2")
    return page.render(table=table, table_name=TABLE_NAME, lines_of_table=lines, **values)
