"""Committed runs of predictions with given readings, as the infer step writes them."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from components.counts import Counts
from components.listing.collection import read_size_and_time
from components.listing.references import uri_to_path
from components.predictions.manifest import PartEntry, RunManifest
from components.predictions.schema import PREDICTIONS_SCHEMA

FIRST_NIGHT = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
MODEL = "b0bb1e5c0de5"
_SPAN = [("start", pyarrow.int32()), ("end", pyarrow.int32())]
PLACES = {
    "symbol_spans": pyarrow.list_(pyarrow.struct(_SPAN)),
    "words": pyarrow.list_(pyarrow.struct([("text", pyarrow.string()), ("confidence", pyarrow.float32()), *_SPAN])),
}
"""Columns that older runs have not."""


def write_run(
    workspace: Path, rows: Sequence[Mapping[str, Any]], night: int = 0, *, places: bool = True, parts: int = 1
) -> Path:
    """Commits a run of readings that were taken in some night; returns its folder.

    Args:
        rows: `uri`, `text` and any other columns; what is missing is as of a usual reading. Size and time are those of
            the files now.
        places: whether the columns of symbols and words are there.
        parts: number of files.
    """
    run_id, scored_at = f"run{night:09d}", FIRST_NIGHT + datetime.timedelta(days=night)
    folder = workspace / "predictions" / f"date={scored_at:%Y-%m-%d}" / f"run={run_id}"
    folder.mkdir(parents=True)
    schema = PREDICTIONS_SCHEMA
    for name, kind in PLACES.items():
        number = schema.get_field_index(name)
        schema = schema if number < 0 else schema.remove(number)
        schema = schema.append(pyarrow.field(name, kind)) if places else schema
    values = [_fill(row, run_id, scored_at) for row in rows]
    files = {}
    for part in range(parts):
        path = folder / f"part-{part:05d}-of-{parts:05d}.parquet"
        table = pyarrow.Table.from_pylist(values[part::parts], schema)
        pyarrow.parquet.write_table(table, path, row_group_size=3 if len(rows) < 1000 else 100_000)
        files[path.name] = PartEntry(table.num_rows, path.stat().st_size)
    RunManifest(
        run_id=run_id,
        scored_at=scored_at.isoformat(),
        counts=Counts(matched=len(rows), read=len(rows)),
        model_id=MODEL,
        decoding=["greedy"],
        limits={"height": 32},
        files=files,
    ).write(str(folder))
    return folder


def _fill(row: Mapping[str, Any], run_id: str, scored_at: datetime.datetime) -> dict[str, Any]:
    size, modified_us = 1, 0
    if Path(uri_to_path(row["uri"].partition("#")[0])).exists():
        size, modified_us = read_size_and_time(uri_to_path(row["uri"]))
    return {
        "confidence": 0.875,
        "symbol_confidences": [0.9] * len(row["text"]),
        "alternatives": [],
        "width": 100,
        "height": 30,
        "size_bytes": size,
        "modified": datetime.datetime.fromtimestamp(0, datetime.UTC) + datetime.timedelta(microseconds=modified_us),
        "model_id": MODEL,
        "run_id": run_id,
        "scored_at": scored_at,
        "needs_review": False,
        **row,
    }
