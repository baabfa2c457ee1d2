"""Rows of predictions as an Arrow table."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet

from components.expected_errors import count_expected_errors, estimate_cer
from components.inference.request import InferenceRequest
from components.predictions.schema import PREDICTIONS_SCHEMA, TIMESTAMP
from components.recogniser.model import Recognition
from components.recogniser.words import find_words


class ImageFile(NamedTuple):
    """File of an image, as it was listed."""

    uri: str
    size_bytes: int
    modified_us: int


class RecognisedLine(NamedTuple):
    """The text that was recognised on an image.

    Attributes:
        width, height: of the image, in pixels.
        scale: pixels of the image for a pixel of its line, in which the reading has its spans.
        reading: the text.
    """

    width: int
    height: int
    scale: float
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
    widths, heights, scales, readings = zip(*reads, strict=True)
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
        **_make_places(readings, scales),
        "accepted": pyarrow.nulls(count, pyarrow.bool_()) if request.target_error is None else ~needs_review,
        "expected_cer": _estimate_cer(readings, confidences, request.error_factor),
    }
    return pyarrow.table(
        {field.name: pyarrow.array(columns[field.name], field.type) for field in PREDICTIONS_SCHEMA},
        schema=PREDICTIONS_SCHEMA,
    )


def _estimate_cer(readings: Sequence[Recognition], confidences: np.ndarray, factor: float | None) -> pyarrow.Array:
    if factor is None:
        return pyarrow.nulls(len(readings), pyarrow.float32())
    errors = count_expected_errors([reading.symbol_confidences for reading in readings], confidences)
    return pyarrow.array(estimate_cer(errors, np.array([len(reading.text) for reading in readings]), factor))


def _make_lists(rows: Sequence[Sequence[Any]], to_array: Callable[[list[Any]], pyarrow.Array]) -> pyarrow.Array:
    return _split([len(row) for row in rows], to_array(list(itertools.chain.from_iterable(rows))))


def _split(lengths: Sequence[int] | np.ndarray, values: pyarrow.Array) -> pyarrow.Array:
    offsets = np.cumsum([0, *lengths])
    return pyarrow.ListArray.from_arrays(pyarrow.array(offsets, pyarrow.int32()), values)


def _make_floats(values: list[float]) -> pyarrow.Array:
    return pyarrow.array(np.array(values, np.float32))


def _make_alternatives(pairs: list[tuple[str, float]]) -> pyarrow.Array:
    texts, log_probabilities = zip(*pairs, strict=True) if pairs else ((), ())
    return _make_structs("alternatives", [texts, np.array(log_probabilities, np.float32)])


def _make_places(readings: Sequence[Recognition], scales: Sequence[float]) -> dict[str, pyarrow.Array]:
    """Makes the columns with the places of symbols and of words, in pixels of the images.

    Args:
        scales: pixels of the image for a pixel of the line in which a reading has its places.
    """
    lengths = [len(reading.edges) for reading in readings]
    edges = np.array(list(itertools.chain.from_iterable(reading.edges for reading in readings)), float)
    spans = np.round(edges * np.repeat(scales, lengths)).astype(np.int32).reshape(-1, 2)
    with_places = [reading for reading in readings if reading.edges]
    confidences = itertools.chain.from_iterable(reading.symbol_confidences for reading in with_places)
    texts = [reading.text if reading.edges else "" for reading in readings]
    words = find_words(texts, np.array(list(confidences)), spans, [reading.exponent for reading in readings])
    columns = [words.texts, words.confidences.astype(np.float32), words.starts, words.ends]
    return {
        "symbol_spans": _split([length // 2 for length in lengths], _make_structs("symbol_spans", list(spans.T))),
        "words": _split(words.counts, _make_structs("words", columns)),
    }


def _make_structs(column: str, values: Sequence[Any]) -> pyarrow.Array:
    """Makes structs of a column's lists from their fields."""
    fields = list(PREDICTIONS_SCHEMA.field(column).type.value_type)
    arrays = [pyarrow.array(each, field.type) for each, field in zip(values, fields, strict=True)]
    return pyarrow.StructArray.from_arrays(arrays, fields=fields)
