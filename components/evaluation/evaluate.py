"""The evaluation of a model: it recognises the held-out images of a dataset, and its errors are counted."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import os
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from components.commit import check_files
from components.evaluation.bootstrap import LEVEL, RESAMPLES, estimate_cer_difference, estimate_rate_intervals
from components.evaluation.confusions import Confusions
from components.evaluation.constant import find_best_constant
from components.evaluation.lines import EvaluatedLine
from components.evaluation.positions import PositionCounts
from components.evaluation.promise import describe_acceptance
from components.expected_errors import calibrate_expected_errors, count_expected_errors
from components.listing.line_places import get_page
from components.metrics import (
    ErrorCounts,
    LineCounts,
    compute_expected_calibration_error,
    rate_by_confidence,
    rate_by_length,
)
from components.recogniser.batches import recognise_in_batches
from components.recogniser.model import Recognition
from tfrecords import ShardEntry, decode_png, read_record_batches, storage
from tfrecords.shards import is_split_by_groups

EVALUATION_NAME = "evaluation.json"
EVALUATION_FOLDER = "evaluation"
"""The folder of the other files of an evaluation, beside `evaluation.json` in a model's folder."""
CONFUSIONS_NAME = "confusions.parquet"
WORST_NAME = "worst_lines.parquet"
PREDICTIONS_PICTURE = "predictions.png"
WORST_PICTURE = "worst_lines.png"
CONFUSIONS_PICTURE = "confusions.png"
LENGTH_PICTURE = "accuracy_by_length.png"
CALIBRATION_PICTURE = "calibration.png"
ACCEPTANCE_PICTURE = "acceptance.png"
CONFUSIONS_SHOWN = 20
_SHOWN, _WORST = 16, 12
_ENOUGH_GROUPS = 20
_READINGS = "readings-"
_ROWS_AT_A_TIME = 10_000
_COUNTED = ("symbols", "symbol_errors", "words", "word_errors")
_LINES_SCHEMA = pyarrow.schema(
    [
        pyarrow.field("uri", pyarrow.string(), nullable=False),
        pyarrow.field("truth", pyarrow.string(), nullable=False),
        pyarrow.field("text", pyarrow.string(), nullable=False),
        pyarrow.field("confidence", pyarrow.float32(), nullable=False),
        *(pyarrow.field(name, pyarrow.int32(), nullable=False) for name in _COUNTED),
        pyarrow.field("group", pyarrow.string()),
        pyarrow.field("expected_errors", pyarrow.float32(), nullable=False),
    ]
)
_WORST_SCHEMA = pyarrow.schema([*list(_LINES_SCHEMA)[:4], _LINES_SCHEMA.field("symbol_errors")]).append(
    pyarrow.field("image", pyarrow.binary(), nullable=False)
)


@dataclasses.dataclass(frozen=True)
class EvaluationRequest:
    """The request for an evaluation: dataset, model and destination.

    Attributes:
        dataset_folder, dataset_id: of a committed dataset; its test split is recognised.
        model_id: of the model that is evaluated.
        examples: number of examples in the test split.
        folder: for `evaluation.json`, the readings, the confusions and the pictures.
        split_by: `image`, `page`, `folder`, `given` or the name of a column: what the dataset keeps together in a
            split.
        groups: number of examples of each group in the test split, by its name; empty if not all are known.
    """

    dataset_folder: str
    dataset_id: str
    model_id: str
    examples: int
    folder: str
    split_by: str = "image"
    groups: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class EvaluatedShard:
    """The summary of one shard; small, so that those of all shards fit in one place.

    Attributes:
        name: of the Parquet file of readings.
        rows, bytes: of that file.
        candidates: the lines that may be shown.
    """

    name: str
    rows: int
    bytes: int
    candidates: list[EvaluatedLine]


def recognise_test_shard(
    shard: ShardEntry, request: EvaluationRequest, recognise: Callable[[Sequence[np.ndarray]], Iterable[Recognition]]
) -> EvaluatedShard:
    """Recognises one TFRecord file of the test split, and writes the readings in the order of its records.

    Args:
        recognise: lines uint8 [height, width] to recognitions, in their order.

    Raises:
        DataError: if the file is damaged.
    """
    rows: list[dict[str, Any]] = []
    candidates: list[EvaluatedLine] = []
    find_group = _GroupFinder(request.groups)
    for batch in read_record_batches(storage.join(request.dataset_folder, shard.name)):
        images, texts, uris = (
            batch.column(batch.schema.get_field_index(name)).flatten().to_pylist() for name in ("image", "text", "uri")
        )
        lines = ((i, decode_png(image)) for i, image in enumerate(images))
        evaluated = []
        readings = sorted(recognise_in_batches(lines, recognise), key=lambda tagged: tagged[0])
        confidences = np.array([reading.confidence for _, reading in readings])
        expected_errors = count_expected_errors([reading.symbol_confidences for _, reading in readings], confidences)
        for (i, reading), expected in zip(readings, expected_errors.tolist(), strict=True):
            uri, truth = uris[i].decode(), texts[i].decode()
            counts = ErrorCounts.from_texts(truth, reading.text)
            evaluated.append(
                EvaluatedLine(uri, truth, reading.text, reading.confidence, counts.symbol_errors, images[i])
            )
            rows.append(
                {
                    "uri": uri,
                    "truth": truth,
                    "text": reading.text,
                    "confidence": reading.confidence,
                    **{name: getattr(counts, name) for name in _COUNTED},
                    "group": find_group(uri),
                    "expected_errors": expected,
                }
            )
        candidates = _choose_candidates([*candidates, *evaluated])
    name = f"{_READINGS}{shard.name.removeprefix('test-').partition('.')[0]}.parquet"
    path = storage.join(request.folder, name)
    storage.write_parquet(path, pyarrow.Table.from_pylist(rows, _LINES_SCHEMA))
    return EvaluatedShard(name, len(rows), storage.get_size(path), candidates)


def commit_evaluation(shards: Iterable[EvaluatedShard], request: EvaluationRequest) -> None:
    """Writes the figures, the confusions and the pictures beside the readings.

    Raises:
        RuntimeError: if not every example of the test split was recognised once.
    """
    shards = list(shards)
    total = sum(shard.rows for shard in shards)
    if total != request.examples:
        raise RuntimeError(f"the test split has {request.examples} examples, but {total} were read")
    check_files(request.folder, {shard.name: shard.bytes for shard in shards})
    lines, names = read_line_counts(request.folder)
    resampled, groups = _choose_resampling(names, request)
    calibration_error = compute_expected_calibration_error(lines.confidences, lines.get_column("exact"))
    confusions, positions = _count_errors(request.folder)
    storage.write_parquet(storage.join(request.folder, CONFUSIONS_NAME), confusions)
    constant = find_best_constant(lambda: _read_pairs(request.folder))
    figures = {
        "dataset_id": request.dataset_id,
        "model_id": request.model_id,
        "images": lines.total.images,
        "cer": lines.total.cer,
        "wer": lines.total.wer,
        "exact_match": lines.total.exact_match,
        "counts": dataclasses.asdict(lines.total),
        "constant": dataclasses.asdict(constant),
        "intervals": estimate_rate_intervals(lines, groups),
        "resampled": resampled,
        "mean_confidence": float(lines.confidences.mean(dtype=np.float64)),
        "expected_calibration_error": calibration_error,
        "by_length": rate_by_length(lines),
        "by_confidence": rate_by_confidence(lines),
        "by_position": positions.compute_rates(),
        "acceptance": describe_acceptance(lines, groups) | {"note": resampled["note"]},
        "expected_errors": calibrate_expected_errors(lines, _read_expected_errors(request.folder)),
    }
    shown = _choose_candidates(
        [line for shard in sorted(shards, key=lambda shard: shard.name) for line in shard.candidates]
    )
    worst = [{**dataclasses.asdict(line), "image": line.png} for line in _choose_worst(shown)]
    storage.write_parquet(storage.join(request.folder, WORST_NAME), pyarrow.Table.from_pylist(worst, _WORST_SCHEMA))
    _plot_lines(request.folder, figures, confusions.slice(0, CONFUSIONS_SHOWN).to_pylist(), shown)
    storage.write_json(storage.join(request.folder, EVALUATION_NAME), figures)


def compare_cer(folder: str, accepted_folder: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Compares the CER of two evaluations on the same test split, line by line.

    Args:
        folder, accepted_folder: of the readings of the new and of the accepted model.
        figures: of the new model's evaluation; the same units are resampled here as there.

    Returns:
        `cer`, the CER of the new model minus that of the accepted one, and its bootstrap `interval`.
    """
    (new, names), (old, _) = read_line_counts(folder), read_line_counts(accepted_folder)
    groups = _number_groups(names) if figures["resampled"]["units"] == "groups" else None
    return {"cer": new.total.cer - old.total.cer, "interval": estimate_cer_difference(new, old, groups)}


def read_line_counts(folder: str) -> tuple[LineCounts, pyarrow.ChunkedArray]:
    """Reads the counts of every reading in a folder, in the order of its files, and the names of their groups."""
    columns = ["confidence", *_COUNTED, "group"]
    table = pyarrow.Table.from_batches(
        _read_batches(folder, columns), pyarrow.schema([_LINES_SCHEMA.field(name) for name in columns])
    )
    symbols, symbol_errors, words, word_errors = (table.column(name).to_numpy() for name in _COUNTED)
    # A line is exact if, and only if, none of its symbols is wrong.
    exact = symbol_errors == 0
    counts = np.stack([np.ones_like(symbols), exact, symbols, symbol_errors, words, word_errors], axis=1)
    return LineCounts(counts.astype(np.int64), table.column("confidence").to_numpy()), table.column("group")


def _number_groups(names: pyarrow.ChunkedArray) -> np.ndarray:
    """Numbers groups, int [lines]: lines of one name have the same number."""
    return pyarrow.compute.index_in(names, pyarrow.compute.unique(names)).to_numpy()


class _GroupFinder:
    """The finder of a URI's group: the longest of the given names that is a part of its folder's or page's path."""

    def __init__(self, groups: Iterable[str]):
        self._groups = frozenset(groups)
        self._of_folder: dict[str, str | None] = {}

    def __call__(self, uri: str) -> str | None:
        if not self._groups:
            return None
        page = get_page(uri)
        folder = uri.rpartition("/")[0] if page == uri else page
        if folder not in self._of_folder:
            parts = folder.split("/")
            bounds = itertools.combinations(range(len(parts) + 1), 2)
            names = ("/".join(parts[start:end]) for start, end in bounds)
            self._of_folder[folder] = max(self._groups.intersection(names), key=len, default=None)
        return self._of_folder[folder]


def _choose_resampling(
    names: pyarrow.ChunkedArray, request: EvaluationRequest
) -> tuple[dict[str, Any], np.ndarray | None]:
    """Chooses what the bootstrap resamples.

    Returns:
        A description, and the group of each line, int [lines], or None to resample single lines.
    """
    groups, note = None, ""
    sizes = {count["values"]: count["counts"] for count in names.value_counts().to_pylist()}
    if not is_split_by_groups(request.split_by):
        pass
    elif sizes != request.groups:
        note = (
            f"the dataset is split by {request.split_by}, but the groups of its lines cannot be told from their URIs: "
            "the intervals are too narrow if lines of one group are alike"
        )
    elif len(sizes) == 1:
        note = "all lines are of one group: the intervals say nothing of other groups"
    else:
        groups = _number_groups(names)
        if len(sizes) < _ENOUGH_GROUPS:
            note = f"intervals over so few groups as {len(sizes)} are too narrow (Cameron, Gelbach and Miller 2008)"
    return {
        "units": "lines" if groups is None else "groups",
        "count": len(names) if groups is None else len(sizes),
        "resamples": RESAMPLES,
        "level": LEVEL,
        "note": note,
    }, groups


def _read_batches(folder: str, columns: list[str]) -> Iterator[pyarrow.RecordBatch]:
    for name in storage.list_names(folder):
        if name.startswith(_READINGS):
            with storage.open_to_read(storage.join(folder, name)) as file:
                yield from pyarrow.parquet.ParquetFile(file).iter_batches(_ROWS_AT_A_TIME, columns=columns)


def _read_pairs(folder: str) -> Iterator[tuple[str, str]]:
    """Yields label and reading of every line."""
    for batch in _read_batches(folder, ["truth", "text"]):
        yield from zip(*(batch.column(name).to_pylist() for name in ("truth", "text")), strict=True)


def _read_expected_errors(folder: str) -> np.ndarray:
    """Reads the expected errors of every reading in a folder, float32 [lines], in the order of `read_line_counts`."""
    parts = [batch.column("expected_errors").to_numpy() for batch in _read_batches(folder, ["expected_errors"])]
    return np.concatenate(parts)


def _count_errors(folder: str) -> tuple[pyarrow.Table, PositionCounts]:
    """Counts the confusions of symbols, and the errors by their places."""
    confusions, positions = Confusions(), PositionCounts()
    for batch in _read_batches(folder, ["truth", "text", "uri"]):
        for truth, text, uri in zip(
            *(batch.column(name).to_pylist() for name in ("truth", "text", "uri")), strict=True
        ):
            confusions.add(truth, text, uri)
            positions.add(truth, text)
    return confusions.to_table(), positions


def _choose_candidates(lines: Sequence[EvaluatedLine]) -> list[EvaluatedLine]:
    """Chooses the lines that may be shown; those of a whole are among those of its parts."""
    chosen = [*_choose_worst(lines), *_draw_by_chance(lines, right=True), *_draw_by_chance(lines, right=False)]
    return list({line.uri: line for line in chosen}.values())


def _choose_worst(lines: Iterable[EvaluatedLine]) -> list[EvaluatedLine]:
    """Chooses the lines with the most symbol errors for their length, the worst first."""
    wrong = (line for line in lines if not line.right)
    return heapq.nsmallest(
        _WORST, wrong, key=lambda line: (-line.symbol_errors / max(1, len(line.truth)), -line.symbol_errors, line.uri)
    )


def _draw_by_chance(lines: Iterable[EvaluatedLine], *, right: bool) -> list[EvaluatedLine]:
    """Draws some right or wrong lines, always the same, from all over the split."""
    matching = (line for line in lines if line.right == right)
    return heapq.nsmallest(_SHOWN, matching, key=lambda line: (zlib.crc32(line.uri.encode()), line.uri))


def _plot_lines(
    folder: str, figures: dict[str, Any], confusions: list[dict[str, Any]], candidates: list[EvaluatedLine]
) -> None:
    from components.evaluation import plots

    right, wrong = _draw_by_chance(candidates, right=True), _draw_by_chance(candidates, right=False)
    shown = wrong[: max(_SHOWN // 2, _SHOWN - len(right))]
    shown += right[: _SHOWN - len(shown)]
    with tempfile.TemporaryDirectory() as scratch:
        plots.plot_predictions(shown, os.path.join(scratch, PREDICTIONS_PICTURE))
        plots.plot_worst_lines(_choose_worst(candidates), os.path.join(scratch, WORST_PICTURE))
        plots.plot_confusions(confusions, os.path.join(scratch, CONFUSIONS_PICTURE))
        plots.plot_accuracy_by_length(figures["by_length"], os.path.join(scratch, LENGTH_PICTURE))
        plots.plot_calibration(
            figures["by_confidence"],
            figures["expected_calibration_error"],
            os.path.join(scratch, CALIBRATION_PICTURE),
        )
        plots.plot_acceptance(figures["acceptance"], os.path.join(scratch, ACCEPTANCE_PICTURE))
        storage.copy_folder(scratch, folder)
