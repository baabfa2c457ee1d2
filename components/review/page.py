"""The review page, with a picture and a text field for each doubtful line."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

from components.lines import read_referenced_line
from components.listing import ImageReference
from components.processes import map_in_threads
from components.rejects import Reject
from components.review.selection import DoubtfulText
from components.review.table import BYTE_ORDER_MARK, COLUMNS, LINE_END, TABLE_NAME, quote_cell
from tfrecords import ImageLimits, encode_png

_DOUBTFUL_SYMBOL = 0.9
"""The confidence below which a symbol is marked."""
_PAGE_HEIGHT = 64
"""The height of a line on the page, pixels."""
_THREADS, _AHEAD = 16, 64


def choose_with_images(
    readings: Iterator[DoubtfulText], count: int, limits: ImageLimits
) -> tuple[list[tuple[DoubtfulText, bytes]], int]:
    """Chooses the first readings whose images can still be read.

    Returns:
        The readings, each with its image as PNG, and the number of readings passed over because their images cannot
        be read any more.
    """
    chosen: list[tuple[DoubtfulText, bytes]] = []
    gone = 0
    draw = functools.partial(_draw_line, limits=limits)
    while len(chosen) < count and (part := list(itertools.islice(readings, count - len(chosen)))):
        for reading, png in zip(part, map_in_threads(draw, part, _THREADS, ahead=_AHEAD), strict=True):
            if png is None:
                gone += 1
            else:
                chosen.append((reading, png))
    return chosen, gone


def _draw_line(reading: DoubtfulText, limits: ImageLimits) -> bytes | None:
    line = read_referenced_line(ImageReference(reading.uri, "", 0, 0), _PAGE_HEIGHT, limits)
    return None if isinstance(line, Reject) else encode_png(line.pixels)


def mark_doubtful(text: str, confidences: Sequence[float]) -> list[tuple[str, bool]]:
    """Splits a text into stretches of symbols that are all doubtful (True) or all certain (False)."""
    if len(confidences) != len(text):
        return [(text, False)] if text else []
    pairs = zip(text, (confidence < _DOUBTFUL_SYMBOL for confidence in confidences), strict=True)
    stretches = itertools.groupby(pairs, lambda pair: pair[1])
    return [("".join(symbol for symbol, _ in stretch), doubtful) for doubtful, stretch in stretches]


def render_page(**values: Any) -> str:
    """Renders the page as HTML.

    Args:
        values: of the template: `review_id`, `dataset_id` and `lines`.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(os.path.dirname(__file__)), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    table = {"mark": BYTE_ORDER_MARK, "header": ",".join(map(quote_cell, COLUMNS)), "line_end": LINE_END}
    lines = [{name: line[name] for name in ("text", "before", "after")} for line in values["lines"]]
    page = environment.get_template("review.html.j2")
    return page.render(table=table, table_name=TABLE_NAME, lines_of_table=lines, **values)
