"""The review page, with a picture and a text field for each doubtful line."""

from __future__ import annotations

import base64
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from rapidfuzz.distance import Levenshtein

from components.lines import read_referenced_line
from components.listing import ImageReference
from components.pages import open_templates
from components.processes import map_in_threads
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
_THREADS, _AHEAD = 16, 64


def choose_with_images(
    doubtful: Iterator[_Doubtful], count: int, limits: ImageLimits
) -> tuple[list[tuple[_Doubtful, bytes]], int]:
    """Chooses the first doubtful texts or labels whose images can still be read.

    Returns:
        The chosen ones, each with its image as PNG, and the number of those passed over because their images cannot
        be read any more.
    """
    chosen: list[tuple[_Doubtful, bytes]] = []
    gone = 0
    draw = functools.partial(_draw_line, limits=limits)
    while len(chosen) < count and (part := list(itertools.islice(doubtful, count - len(chosen)))):
        for one, png in zip(part, map_in_threads(draw, part, _THREADS, ahead=_AHEAD), strict=True):
            if png is None:
                gone += 1
            else:
                chosen.append((one, png))
    return chosen, gone


def _draw_line(doubtful: DoubtfulText | CheckedLabel, limits: ImageLimits) -> bytes | None:
    line = read_referenced_line(ImageReference(doubtful.uri, "", 0, 0), _PAGE_HEIGHT, limits)
    return None if isinstance(line, Reject) else encode_png(line.pixels)


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
) -> None:
    """Writes `review.csv` and `review.html`.

    Args:
        lines: what the page shows of each row: `png`, `read`, `confidence` and `alternatives`; of labels also `label`,
            `label_confidence` and `reading`. `read` and `label` are stretches of text, as `mark_doubtful` makes them.
        of_labels: whether it is labels of the dataset that are doubtful, and not readings.
    """
    split_rows = [row.split() for row in rows]
    storage.write_bytes(storage.join(folder, TABLE_NAME), format_table(split_rows).encode())
    page = render_page(
        review_id=review_id,
        dataset_id=dataset_id,
        of_labels=of_labels,
        lines=[
            {
                **line,
                "source": f"data:image/png;base64,{base64.b64encode(line['png']).decode()}",
                "uri": row.uri,
                "text": row.text,
                "before": before,
                "after": after,
            }
            for row, line, (before, _, after) in zip(rows, lines, split_rows, strict=True)
        ],
    )
    storage.write_bytes(storage.join(folder, PAGE_NAME), page.encode())


def render_page(**values: Any) -> str:
    """Renders the page as HTML.

    Args:
        values: of the template: `review_id`, `dataset_id`, `lines`, and `of_labels`: whether it is labels of the
            dataset that are doubtful.
    """
    table = {"mark": BYTE_ORDER_MARK, "header": ",".join(map(quote_cell, COLUMNS)), "line_end": LINE_END}
    names = ("text", "before", "after", *(("reading",) if values["of_labels"] else ()))
    lines = [{name: line[name] for name in names} for line in values["lines"]]
    page = open_templates(__file__).get_template("review.html.j2")
    return page.render(table=table, table_name=TABLE_NAME, lines_of_table=lines, **values)
