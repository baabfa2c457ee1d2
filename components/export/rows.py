"""Readings as rows of tables: JSON Lines and CSV."""

from __future__ import annotations

import csv
import datetime
import io
import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

from components.export.readings import Reading

_COLUMNS = ("uri", "text", "confidence", "needs_review", "width", "height", "model_id", "run_id", "scored_at", "words")


def format_jsonl(readings: Iterable[Reading]) -> Iterator[bytes]:
    """Formats readings as JSON Lines, UTF-8."""
    for reading in readings:
        yield json.dumps(_describe(reading), ensure_ascii=False).encode() + b"\n"


def format_csv(readings: Iterable[Reading]) -> Iterator[bytes]:
    """Formats readings as CSV (RFC 4180), UTF-8, with a header; words stand in their cell as JSON."""
    yield _format_cells(_COLUMNS)
    for reading in readings:
        row = _describe(reading)
        row["needs_review"] = "true" if row["needs_review"] else "false"
        row["words"] = "" if row["words"] is None else json.dumps(row["words"], ensure_ascii=False)
        yield _format_cells("" if row[name] is None else row[name] for name in _COLUMNS)


def _format_cells(cells: Iterable[object]) -> bytes:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue().encode()


def _describe(reading: Reading) -> dict[str, Any]:
    scored_at = datetime.datetime.fromtimestamp(reading.scored_us / 1e6, datetime.UTC)
    words = None
    if reading.words is not None:
        words = [{**word._asdict(), "confidence": round_confidence(word.confidence)} for word in reading.words]
    return {
        **{name: getattr(reading, name) for name in _COLUMNS[:-2]},
        "confidence": round_confidence(reading.confidence),
        "scored_at": scored_at.isoformat(timespec="seconds"),
        "words": words,
    }


def round_confidence(confidence: float | None) -> float | None:
    """Rounds a confidence to four digits; None for one that is not known, or no number."""
    if confidence is None or not math.isfinite(confidence):
        return None
    return round(min(max(confidence, 0.0), 1.0), 4)
