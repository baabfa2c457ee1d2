"""The selection of readings for a person to check: of every image its newest one, the least confident first.

Memory does not grow with the predictions: of each row group, only rows that may be among the least
confident are kept, as Arrow.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from components.predictions.runs import open_predictions
from tfrecords import read_uris

ROWS_AT_A_TIME = 20_000
"""The number of rows that are selected together and kept in memory."""
_KEY = [("confidence", "ascending"), ("uri", "ascending"), ("scored_at", "descending")]
_COLUMNS = ["uri", "text", "confidence", "model_id", "run_id", "scored_at"]
_DETAILS = ["symbol_confidences", "alternatives"]


@dataclasses.dataclass(frozen=True)
class DoubtfulText:
    """A reading for a person to check.

    Attributes:
        uri: of the image.
        text: as recognised.
        confidence: posterior of the text, 0 to 1.
        model_id, run_id, scored_at: the model that recognised it, the run of predictions, and the time.
        place: the Parquet file, its row group, and the row in that group.
    """

    uri: str
    text: str
    confidence: float
    model_id: str
    run_id: str
    scored_at: datetime.datetime
    place: tuple[str, int, int]


def find_least_confident(
    files: Sequence[str], datasets: Iterable[str] = (), *, rows_at_a_time: int = ROWS_AT_A_TIME
) -> Iterator[DoubtfulText]:
    """Yields the newest reading of every image, the least confident first, then by URI.

    Every `rows_at_a_time` rows cost two passes over the predictions: one finds the rows, the other
    finds out which of these images were recognised again later.

    Args:
        files: Parquet files of committed predictions.
        datasets: TFRecord files, whose images are left out.
    """
    after: tuple[float, str] | None = None
    datasets = list(datasets)
    while True:
        lowest = _find_lowest(files, after, rows_at_a_time)
        if not lowest.num_rows:
            return
        after = lowest["confidence"][-1].as_py(), lowest["uri"][-1].as_py()
        uris = pyarrow.compute.unique(lowest["uri"])
        newest = dict(zip(*(column.to_pylist() for column in _find_newest(files, uris).columns), strict=True))
        for path in datasets:
            for batch in read_uris(path):
                for uri in batch.filter(_find_members(batch, uris)).to_pylist():
                    newest.pop(uri, None)
        for row in lowest.to_pylist():
            if newest.get(row["uri"]) == row["scored_at"]:
                del newest[row["uri"]]
                place = files[row.pop("file")], row.pop("group"), row.pop("row")
                yield DoubtfulText(**row, place=place)
        if lowest.num_rows < rows_at_a_time:
            return


def count_doubtful(files: Sequence[str], min_confidence: float) -> int:
    """Counts the images whose newest reading has less than a confidence.

    Memory grows with the readings below it alone.

    Args:
        files: Parquet files of committed predictions.
    """
    low: list[pyarrow.Table] = []
    for _, _, table in _read_row_groups(files, ["uri", "confidence", "scored_at"]):
        table = table.filter(table["confidence"].to_numpy() < min_confidence)
        if table.num_rows:
            low.append(table.select(["uri", "scored_at"]))
    if not low:
        return 0
    doubtful = pyarrow.concat_tables(low, promote_options="default")
    newest = _find_newest(files, pyarrow.compute.unique(doubtful["uri"]))
    found = newest.join(doubtful, keys=["uri", "scored_at"], join_type="left semi")
    return found.num_rows


def read_details(readings: Sequence[DoubtfulText]) -> list[dict[str, Any]]:
    """Reads `symbol_confidences` and `alternatives` of readings, in their order."""
    detail_of: dict[tuple[str, int, int], dict[str, Any]] = {}
    for (path, group), places in itertools.groupby(
        sorted(reading.place for reading in readings), lambda place: (place[0], place[1])
    ):
        rows = [row for _, _, row in places]
        with open_predictions(path) as parquet:
            details = parquet.read_row_group(group, columns=_DETAILS).take(rows).to_pylist()
        detail_of.update({(path, group, row): detail for row, detail in zip(rows, details, strict=True)})
    return [detail_of[reading.place] for reading in readings]


def _find_lowest(files: Sequence[str], after: tuple[float, str] | None, count: int) -> pyarrow.Table:
    """Finds the first rows by confidence and URI beyond a given one; of rows equal in both, the newest first.

    Args:
        after: confidence and URI of the last row found before.

    Returns:
        At most `count` rows of `_COLUMNS`, with `row`, `group` and `file`: their places.
    """
    compute = pyarrow.compute
    lowest: pyarrow.Table | None = None
    for number, group, table in _read_row_groups(files, _COLUMNS):
        confidence = table["confidence"]
        keep = compute.is_finite(confidence)
        if after is not None:
            last, uri = pyarrow.scalar(after[0], pyarrow.float32()), after[1]
            beyond = compute.and_(compute.equal(confidence, last), compute.greater(table["uri"], uri))
            keep = compute.and_(keep, compute.or_(compute.greater(confidence, last), beyond))
        if lowest is not None and lowest.num_rows == count:
            keep = compute.and_(keep, compute.less_equal(confidence, lowest["confidence"][-1]))
        rows = np.flatnonzero(keep)
        if len(rows):
            table = table.take(rows).append_column("row", [rows])
            table = table.append_column("group", [np.full(len(rows), group)])
            table = table.append_column("file", [np.full(len(rows), number)])
            both = table if lowest is None else pyarrow.concat_tables([lowest, table])
            lowest = both.sort_by(_KEY).slice(0, count).combine_chunks()
    return pyarrow.table({}) if lowest is None else lowest


def _find_newest(files: Sequence[str], uris: pyarrow.Array) -> pyarrow.Table:
    """Finds when each of some images was recognised last: `uri` and `scored_at`."""
    newest: pyarrow.Table | None = None
    for _, _, table in _read_row_groups(files, ["uri", "scored_at"]):
        table = table.filter(_find_members(table["uri"], uris))
        if table.num_rows:
            both = table if newest is None else pyarrow.concat_tables([newest, table], promote_options="default")
            newest = both.group_by("uri").aggregate([("scored_at", "max")]).rename_columns(["uri", "scored_at"])
    if newest is None:
        raise RuntimeError("the predictions were removed while they were read")
    return newest


def _find_members(values: Any, wanted: pyarrow.Array) -> Any:
    return pyarrow.compute.is_in(values, value_set=wanted)


def _read_row_groups(files: Sequence[str], columns: list[str]) -> Iterator[tuple[int, int, pyarrow.Table]]:
    """Yields some columns of every row group, after the number of its file and its own."""
    for number, path in enumerate(files):
        with open_predictions(path) as parquet:
            for group in range(parquet.num_row_groups):
                yield number, group, parquet.read_row_group(group, columns=columns)
