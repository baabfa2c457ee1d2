"""Rows of predictions as an Arrow table."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet

from components.inference.request import InferenceRequest
from components.predictions.schema import PREDICTIONS_SCHEMA, TIMESTAMP
from components.recogniser.model import Recognition


class ImageFile(NamedTuple):
    """File of an image, as it was listed."""

    uri: str
    size_bytes: int
    modified_us: int


class RecognisedLine(NamedTuple):
    """Width and height of an image in pixels, and the text that was recognised on it."""

    width: int
    height: int
    reading: Recognition


def make_predictions_table(
    rows: Sequence[tuple[ImageFile, RecognisedLine]],
    confidences: np.ndarray,
    needs_review: np.ndarray,
    request: InferenceRequest,
) -> pyarrow.Table:
    """Builds the rows of one shard, column by column: dictionaries, one for each row, take longer than recognition."""
    count = len(rows)
    files, reads = zip(*rows, strict=True)
    uris, sizes, modified = zip(*files, strict=True)
    widths, heights, readings = zip(*reads, strict=True)
    columns = {
        "uri": uris,
        "text": [reading.text for reading in readings],
        "confidence": confidences,
        "symbol_confidences": _make_lists([reading.symbol_confidences for reading in readings], _make_floats),
        "alternatives": _make_lists([reading.alternatives for reading in readings], _make_alternatives),
        "width": widths,
        "height": heights,
        "size_bytes": sizes,
        "modified": pyarrow.array(modified, pyarrow.int64()).cast(TIMESTAMP),
        "model_id": pyarrow.repeat(request.model_id, count),
        "run_id": pyarrow.repeat(request.run_id, count),
        "scored_at": pyarrow.repeat(pyarrow.scalar(request.scored_at, TIMESTAMP), count),
        "needs_review": needs_review,
        "margin": [reading.margin for reading in readings],
    }
    return pyarrow.table(
        {field.name: pyarrow.array(columns[field.name], field.type) for field in PREDICTIONS_SCHEMA},
        schema=PREDICTIONS_SCHEMA,
    )


def _make_lists(rows: Sequence[Sequence[Any]], to_array: Callable[[list[Any]], pyarrow.Array]) -> pyarrow.Array:
    offsets = np.cumsum([0, *map(len, rows)])
    return pyarrow.ListArray.from_arrays(
        pyarrow.array(offsets, pyarrow.int32()), to_array(list(itertools.chain.from_iterable(rows)))
    )


def _make_floats(values: list[float]) -> pyarrow.Array:
    return pyarrow.array(np.array(values, np.float32))


def _make_alternatives(pairs: list[tuple[str, float]]) -> pyarrow.Array:
    texts, log_probabilities = zip(*pairs, strict=True) if pairs else ((), ())
    fields = PREDICTIONS_SCHEMA.field("alternatives").type.value_type
    columns = [pyarrow.array(texts, pyarrow.string()), _make_floats(list(log_probabilities))]
    return pyarrow.StructArray.from_arrays(columns, fields=list(fields))
