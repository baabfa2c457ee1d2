"""The report of a command: its request and its results, as JSON for machines and HTML for people."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import itertools
import unicodedata
from collections.abc import Iterable
from typing import Any

import pyarrow.compute
import pyarrow.parquet

from components.evaluation.card import CARD_NAME
from components.evaluation.confusions import align_texts, spell_symbol
from components.evaluation.evaluate import (
    ACCEPTANCE_PICTURE,
    CALIBRATION_PICTURE,
    CONFUSIONS_NAME,
    CONFUSIONS_PICTURE,
    CONFUSIONS_SHOWN,
    EVALUATION_FOLDER,
    LENGTH_PICTURE,
    PREDICTIONS_PICTURE,
    WORST_NAME,
)
from components.ingest.dataset import UNUSED_LABELS_NAME
from components.ingest.describe import SAMPLES_NAME
from components.ingest.statistics import RARE
from components.pages import open_templates
from components.processes import map_in_threads
from components.recogniser.manifest import PLOTS_NAME, ModelManifest
from components.rejects import REASONS
from pipeline.report.nights import compare_confidences, find_nights
from pipeline.report.record import CommandRecord
from pipeline.report.thumbnails import Thumbnail, draw_files, draw_lines, make_data_url
from pipeline.workspace import Workspace
from tfrecords import SPLITS, DataError, ImageLimits, storage
from tfrecords.manifest import STATISTICS_NAME

_PICTURES = {
    "training_samples.png": "Training samples with their labels",
    "distortions.png": "Training lines, and how the network sees them: distorted anew each time",
    "curves.png": "Loss and error rates during training",
}
_EVALUATION_PICTURES = {
    PREDICTIONS_PICTURE: "Held-out lines as the model recognised them",
    CONFUSIONS_PICTURE: "The most frequent confusions of symbols",
    LENGTH_PICTURE: "Lines recognised exactly, and CER, by the length of the label",
    CALIBRATION_PICTURE: "Calibration: confidence against the share of lines recognised exactly",
    ACCEPTANCE_PICTURE: "Promises: how many texts can be accepted without a look, at which share of wrong ones",
}
_REJECTS_SHOWN = 8  # of each reason
_REJECT_FILES_READ = 200  # in search of these
_NO_IMAGES = ("unreadable_folder", "no_image", "damaged_row")  # reasons of what cannot be drawn
_NOT_DRAWN = ("too_large", "too_slow", "crashed")  # reasons of what was too much to be decoded, and would be so again
_TOO_MUCH = "decoding it was too much before"
_THREADS = 8
_HEIGHT = 48  # pixels of a line, where its model is gone
_BARS, _SYMBOLS_SHOWN = 48, 300
_LONG = 500  # pixels of a line that gets a wide place on the page
_SAMPLES = {
    "contact_sheet": "Drawn by chance",
    "longest": "The longest labels",
    "strangest": "The strangest: the room for the label, or the content of the image, is far from that of the others",
    "twins": "Identical images with different labels, or in different splits",
}


def write_report(record: CommandRecord, workspace: Workspace) -> dict[str, str]:
    """Writes `runs/ID.json` and `runs/ID.html`.

    Returns:
        The two paths, each under its name for a person; empty if the workspace cannot be written.
    """
    steps = {step["name"]: step for step in record.steps}
    dataset = _describe_dataset(steps["ingest"]["folder"]) if "ingest" in steps else None
    if dataset is not None:
        unused = collections.Counter(dataset["statistics"]["unused_labels"])
        record.rejects["ingest"] = dict(collections.Counter(record.rejects["ingest"]) + unused)
    if "infer" in steps:
        figures = steps["infer"]["figures"]
        record.used.update(_describe_model(workspace, figures.get("model_id")))
        record.nights = find_nights(workspace, figures.get("run_id"), figures.get("min_confidence", 0.0))
    finished = datetime.datetime.now(datetime.UTC)
    record.finished_at = finished.isoformat()
    record.seconds = round((finished - datetime.datetime.fromisoformat(record.started_at)).total_seconds(), 3)
    paths = {
        "run report": workspace.run_record(record.run, "html"),
        "run record": workspace.run_record(record.run, "json"),
    }
    try:
        storage.write_json(paths["run record"], dataclasses.asdict(record))
        page = _render(record, steps, dataset, workspace)
        storage.write_bytes(paths["run report"], page.encode(errors="backslashreplace"))
    except (OSError, DataError) as error:
        record.fail(f"the run report cannot be written: {error}")
        return {}
    return paths


def _render(
    record: CommandRecord, steps: dict[str, dict[str, Any]], dataset: dict[str, Any] | None, workspace: Workspace
) -> str:
    """Returns the page as HTML."""
    environment = open_templates(__file__)
    environment.filters["percent"] = lambda value: f"{value:.2%}"
    environment.filters["number"] = lambda value: f"{value:,}"
    environment.filters["measure"] = _format_measure
    environment.filters["spell"] = spell_symbol
    environment.filters["name"] = _name_symbol
    model_folder = (steps.get("evaluate") or steps.get("train") or {}).get("folder")
    return environment.get_template("report.html.j2").render(
        record=record,
        steps=steps,
        alarms=sorted(record.alarms, key=lambda alarm: not alarm["raised"]),
        pictures=_read_pictures(storage.join(model_folder, PLOTS_NAME), _PICTURES) if model_folder else [],
        evaluation=_describe_evaluation(steps["evaluate"]["folder"]) if "evaluate" in steps else None,
        nothing_new="infer" in steps and steps["infer"]["folder"] == workspace.all_predictions,
        confidences=compare_confidences(record.nights),
        least_confident=_draw_least_confident(steps["infer"]["figures"], record, workspace.archives)
        if "infer" in steps
        else [],
        rejects=_group_rejects(record, workspace.archives),
        dataset=dataset,
        reasons=REASONS,
        long=_LONG,
    )


def _describe_model(workspace: Workspace, model_id: str | None) -> dict[str, Any]:
    """Returns the page's facts about the model that recognised the images, if there is one."""
    if model_id is None:
        return {}
    try:
        model = ModelManifest.read(workspace.model(model_id))
    except (FileNotFoundError, DataError):
        return {"model_id": model_id}
    return {
        "model_id": model_id,
        "network": model.model,
        "dataset_id": model.dataset_id,
        "trained_at": model.created_at,
        "height": model.height,
    }


def _describe_dataset(folder: str) -> dict[str, Any]:
    """Returns the page's facts, charts and samples of a dataset."""
    statistics = storage.read_json(storage.join(folder, STATISTICS_NAME))
    samples = _read_table(storage.join(folder, SAMPLES_NAME)).to_pylist()
    statistics["splits"] = splits = {split: statistics["splits"][split] for split in SPLITS}
    by_count = sorted(statistics["symbols"].items(), key=lambda item: (-item[1], item[0]))
    return {
        "statistics": statistics,
        "widths": _make_bars(histogram for split in splits.values() for histogram in split["widths"]),
        "label_lengths": _make_bars(histogram for split in splits.values() for histogram in split["label_lengths"]),
        "symbols": [
            {
                "symbol": symbol,
                "name": _name_symbol(symbol),
                "counts": {split: splits[split]["symbols"].get(symbol, 0) for split in splits},
                "rare": splits["train"]["symbols"].get(symbol, 0) < RARE,
            }
            for symbol, _ in by_count[:_SYMBOLS_SHOWN]
        ],
        "long": any(pixels > _LONG for pixels, _ in splits["train"]["widths"]),
        "symbols_left_out": max(0, len(by_count) - _SYMBOLS_SHOWN),
        "samples": [
            (title, [{**row, "source": make_data_url(row["image"])} for row in samples if row["role"] == role])
            for role, title in _SAMPLES.items()
        ],
    }


def _make_bars(histogram: Iterable[list[int]]) -> list[dict[str, int]]:
    """Bins a histogram of whole numbers into `_BARS` equally wide bars at most: `start`, `end` and `count` of each."""
    counts: collections.Counter[int] = collections.Counter()
    for value, count in histogram:
        counts[value] += count
    if not counts:
        return []
    low, high = min(counts), max(counts)
    width = -(-(high - low + 1) // _BARS)
    bars = [{"start": start, "end": start + width - 1, "count": 0} for start in range(low, high + 1, width)]
    for value, count in counts.items():
        bars[(value - low) // width]["count"] += count
    return bars


def _describe_evaluation(model_folder: str) -> dict[str, Any]:
    """Returns the card, pictures, confusions and worst lines of an evaluated model."""
    folder = storage.join(model_folder, EVALUATION_FOLDER)
    confusions, worst = (_read_table(storage.join(folder, name)) for name in (CONFUSIONS_NAME, WORST_NAME))
    return {
        "card": storage.read_bytes(storage.join(model_folder, CARD_NAME)).decode(),
        "pictures": _read_pictures(folder, _EVALUATION_PICTURES),
        "confusions": confusions.slice(0, CONFUSIONS_SHOWN).to_pylist(),
        "pairs": confusions.num_rows,
        "worst": [
            {**row, "source": make_data_url(row["image"]), "sides": _mark_differences(row["truth"], row["text"])}
            for row in worst.to_pylist()
        ],
    }


def _mark_differences(truth: str, recognised: str) -> dict[str, list[tuple[bool, str]]]:
    """Splits truth and recognised text into pieces that agree and pieces that differ; these show their spaces."""
    runs = [
        (differs, list(pairs))
        for differs, pairs in itertools.groupby(align_texts(truth, recognised), lambda p: p[0] != p[1])
    ]
    return {
        name: [
            (differs, text.replace(" ", "␣") if differs else text)
            for differs, pairs in runs
            if (text := "".join(pair[side] for pair in pairs))
        ]
        for side, name in enumerate(("truth", "recognised"))
    }


def _read_table(path: str) -> pyarrow.Table:
    with storage.open_to_read(path) as file:
        return pyarrow.parquet.read_table(file)


def _name_symbol(symbol: str) -> str:
    return f"U+{ord(symbol):04X} {unicodedata.name(symbol, '')}"


def _read_pictures(folder: str, captions: dict[str, str]) -> list[dict[str, str]]:
    pictures = []
    for name, caption in captions.items():
        try:
            content = storage.read_bytes(storage.join(folder, name))
        except FileNotFoundError:
            continue
        pictures.append({"caption": caption, "source": make_data_url(content)})
    return pictures


def _draw_least_confident(figures: dict[str, Any], record: CommandRecord, archives: str) -> list[dict[str, Any]]:
    """Draws the least confident rows of a run, with their images as the model saw them."""
    rows = [
        {"confidence": confidence, "uri": uri, "text": text}
        for confidence, uri, text in figures.get("least_confident", ())
    ]
    limits = ImageLimits(
        max_pixels=record.options["max_pixels"],
        max_bytes=record.options["max_bytes"],
        max_line_width=record.options["max_line_width"],
        max_decode_seconds=record.options["max_decode_seconds"],
        max_decode_memory=record.options["max_decode_memory"],
    )
    images = draw_lines([row["uri"] for row in rows], record.used.get("height", _HEIGHT), limits, archives)
    return [{**row, "image": image} for row, image in zip(rows, images, strict=True)]


def _group_rejects(record: CommandRecord, archives: str) -> list[dict[str, Any]]:
    """Groups the rejects by step and reason, the most frequent first, with some images of each."""
    groups: list[dict[str, Any]] = []
    for name, counts in record.rejects.items():
        if not counts:
            continue
        folder = record.reject_folders[name]
        rows = _read_some_rejects(folder, counts)
        groups += [
            {"step": name, "reason": reason, "count": count, "folder": folder, "rows": rows[reason]}
            for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        ]
    for group in groups:
        if group["reason"] in _NOT_DRAWN:
            group["rows"] = [{**row, "image": Thumbnail(problem=_TOO_MUCH)} for row in group["rows"]]
    drawable = [row for group in groups if group["reason"] not in _NO_IMAGES + _NOT_DRAWN for row in group["rows"]]
    for row, image in zip(drawable, draw_files([row["uri"] for row in drawable], archives), strict=True):
        row["image"] = image
    return groups


def _read_some_rejects(folder: str, counts: dict[str, int]) -> dict[str, list[dict[str, Any]]]:
    """Reads the first rejects of each reason."""
    names = [name for name in storage.list_names(folder) if name.startswith(("rejects-", UNUSED_LABELS_NAME))]
    rows_by_reason: dict[str, list[dict[str, Any]]] = {reason: [] for reason in counts}

    def read(name: str) -> pyarrow.Table:
        with storage.open_to_read(storage.join(folder, name)) as file:
            return pyarrow.parquet.read_table(file, columns=["uri", "reason", "detail"])

    for table in map_in_threads(read, names[:_REJECT_FILES_READ], _THREADS, ahead=_THREADS):
        for reason, rows in rows_by_reason.items():
            if len(rows) < _REJECTS_SHOWN:
                of_reason = table.filter(pyarrow.compute.equal(table["reason"], reason))
                rows += of_reason.slice(0, _REJECTS_SHOWN - len(rows)).to_pylist()
        if all(len(rows) == min(_REJECTS_SHOWN, counts[reason]) for reason, rows in rows_by_reason.items()):
            break
    for rows in rows_by_reason.values():
        rows.sort(key=lambda row: row["uri"])
        for row in rows:
            row["image"] = Thumbnail()
    return rows_by_reason


def _format_measure(value: Any) -> str:
    """Formats a number for a person."""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
