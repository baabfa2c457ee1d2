"""The table of predictions: its columns, and the figures of its rows that a run's manifest has."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow
import pyarrow.parquet

ROW_GROUP_ROWS = 100_000
CONFIDENCE_BINS = 100  # of equal width, from 0 to 1
LEAST_CONFIDENT = 50  # rows of a run that its manifest lists
TIMESTAMP = pyarrow.timestamp("us", tz="UTC")
_SPAN = [("start", pyarrow.int32()), ("end", pyarrow.int32())]
PREDICTIONS_SCHEMA = pyarrow.schema(
    [
        pyarrow.field("uri", pyarrow.string(), nullable=False),
        pyarrow.field("text", pyarrow.string(), nullable=False),
        pyarrow.field("confidence", pyarrow.float32(), nullable=False),
        pyarrow.field("symbol_confidences", pyarrow.list_(pyarrow.float32()), nullable=False),
        pyarrow.field(
            "alternatives",
            pyarrow.list_(pyarrow.struct([("text", pyarrow.string()), ("log_probability", pyarrow.float32())])),
            nullable=False,
        ),
        pyarrow.field("width", pyarrow.int32(), nullable=False),
        pyarrow.field("height", pyarrow.int32(), nullable=False),
        pyarrow.field("size_bytes", pyarrow.int64(), nullable=False),
        pyarrow.field("modified", TIMESTAMP, nullable=False),
        pyarrow.field("model_id", pyarrow.string(), nullable=False),
        pyarrow.field("run_id", pyarrow.string(), nullable=False),
        pyarrow.field("scored_at", TIMESTAMP, nullable=False),
        pyarrow.field("needs_review", pyarrow.bool_(), nullable=False),
        pyarrow.field("margin", pyarrow.float32()),
        pyarrow.field("symbol_spans", pyarrow.list_(pyarrow.struct(_SPAN))),
        pyarrow.field(
            "words",
            pyarrow.list_(pyarrow.struct([("text", pyarrow.string()), ("confidence", pyarrow.float32()), *_SPAN])),
        ),
        pyarrow.field("accepted", pyarrow.bool_()),
        pyarrow.field("expected_cer", pyarrow.float32()),
    ]
)


class RowSummary(Protocol):
    """Figures of some rows, such as a `RecognisedShard` or a `MergedSummary`."""

    @property
    def rows(self) -> int: ...
    @property
    def confidence_sum(self) -> float: ...
    @property
    def needs_review(self) -> int: ...
    @property
    def confidence_histogram(self) -> list[int]: ...
    @property
    def least_confident(self) -> list[list[Any]]: ...


def summarise_rows(parts: Sequence[RowSummary]) -> dict[str, Any]:
    """Returns those fields of a `RunManifest` that describe all its rows, from summaries of parts of them."""
    no_rows = [0] * CONFIDENCE_BINS
    least_confident = itertools.chain.from_iterable(part.least_confident for part in parts)
    return {
        "mean_confidence": sum(part.confidence_sum for part in parts) / max(sum(part.rows for part in parts), 1),
        "needs_review": sum(part.needs_review for part in parts),
        "confidence_histogram": np.sum([no_rows, *(part.confidence_histogram for part in parts)], axis=0).tolist(),
        "least_confident": sorted(least_confident)[:LEAST_CONFIDENT],
    }
