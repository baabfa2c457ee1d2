"""The run report: what was asked and what happened, as JSON for machines and HTML for people."""

from __future__ import annotations

import base64
import collections
import dataclasses
import datetime
import itertools
import json
import os
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

import pyarrow.parquet

from components.evaluation.confusions import align, spell
from components.evaluation.evaluate import (
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
from components.models import PLOTS_NAME
from components.rejects import REASONS
from pipeline.options import LinePipelineOptions
from pipeline.workspace import Workspace, short_id
from tfrecords import SPLITS, DataError, storage
from tfrecords.manifest import STATISTICS_NAME

_PICTURES = {
    "training_samples.png": "Training samples with their labels",
    "curves.png": "Loss and error rates while training",
}
_EVALUATION_PICTURES = {
    PREDICTIONS_PICTURE: "Held-out lines as the model reads them",
    CONFUSIONS_PICTURE: "The most frequent confusions of symbols",
    LENGTH_PICTURE: "Lines read exactly, and CER, by the length of the label",
    CALIBRATION_PICTURE: "Calibration: confidence against the share of lines read exactly",
}
_SECRET = re.compile(
    "secret|token|password|access_key|connection_string|notify_url"
)  # as Beam's flags for object stores are
_DOUBTFUL = 24
_ROWS_LOOKED_AT = 100_000
_REJECTS_SHOWN = 8  # of each reason
_REJECT_FILES_READ, _REJECTS_READ = 50, 5000
_BARS, _SYMBOLS_SHOWN = 48, 300
_LONG = 500  # pixels of a line that gets a wide place on the page
_SAMPLES = {
    "contact_sheet": "Drawn by chance",
    "longest": "The longest labels",
    "strangest": "The strangest: room for their label, or what is in the image, is far from the others'",
    "twins": "Identical images with different labels, or in different splits",
}


@dataclasses.dataclass
class RunRecord:
    """What `runs/ID.json` holds.

    Attributes:
        run: the ID of this run of the command.
        status: `done`, `alarm` (done, and a person should look), `refused` (a check said no) or `failed` (the input
            cannot be used).
        workspace: where it ran.
        options: every flag of ours, and Beam's that were given, without what only their owner may know.
        started_at, finished_at: ISO 8601, UTC.
        seconds: from start to finish.
        steps: each step's result, and how long it took.
        alarms: what was asked for with flags, raised or not.
        problems: one sentence each, as printed.
    """

    run: str
    status: str
    workspace: str
    options: dict[str, Any]
    started_at: str
    finished_at: str = ""
    seconds: float = 0.0
    steps: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)
    alarms: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @classmethod
    def start(cls, options: LinePipelineOptions, workspace: str) -> RunRecord:
        """A run that starts now."""
        now = datetime.datetime.now(datetime.UTC)
        ours = options.get_all_options(current_only=True)
        given = {**options.get_all_options(drop_default=True), **ours}
        given = {name: "(not told)" if _SECRET.search(name) else given[name] for name in sorted(given)}
        run = f"{now:%Y%m%dT%H%M%SZ}-{short_id(at=now.isoformat(), pid=os.getpid())[:6]}"
        return cls(run, "done", workspace, json.loads(json.dumps(given, default=str)), now.isoformat())

    def add(self, result: dict[str, Any], seconds: float) -> None:
        """A step that came to its end."""
        alarms = result.pop("alarms")
        self.alarms += alarms
        self.steps.append({**result, "seconds": round(seconds, 3)})
        if self.status == "done" and any(alarm["raised"] for alarm in alarms):
            self.status = "alarm"
        if result["refused"] is not None:
            self.status = "refused"
            self.problems.append(f"{result['name']}: the new model is not used, because {result['refused']}")

    def fail(self, problem: str) -> None:
        """A step that could not come to its end."""
        self.status = "failed"
        self.problems.append(problem)


def write(record: RunRecord, workspace: Workspace) -> dict[str, str]:
    """Writes `runs/ID.json` and `runs/ID.html`.

    Returns:
        The two paths, by what they are; empty if the workspace cannot be written.
    """
    finished = datetime.datetime.now(datetime.UTC)
    record.finished_at = finished.isoformat()
    record.seconds = round((finished - datetime.datetime.fromisoformat(record.started_at)).total_seconds(), 3)
    paths = {
        "run report": workspace.run_record(record.run, "html"),
        "run record": workspace.run_record(record.run, "json"),
    }
    try:
        storage.write_json(paths["run record"], dataclasses.asdict(record))
        storage.write_bytes(paths["run report"], _page(record, workspace).encode(errors="backslashreplace"))
    except (OSError, DataError) as error:
        record.fail(f"the run report cannot be written: {error}")
        return {}
    return paths


def _page(record: RunRecord, workspace: Workspace) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(os.path.dirname(__file__)), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda value: f"{value:.2%}"
    environment.filters["number"] = lambda value: f"{value:,}"
    environment.filters["spell"] = spell
    environment.filters["name"] = _name
    steps = {step["name"]: step for step in record.steps}
    read = "infer" in steps and steps["infer"]["figures"]["rows"] > 0
    model_folder = (steps.get("evaluate") or steps.get("train") or {}).get("folder")
    return environment.get_template("report.html.j2").render(
        record=record,
        steps=steps,
        pictures=_pictures(storage.join(model_folder, PLOTS_NAME), _PICTURES) if model_folder else [],
        evaluation=_evaluation(storage.join(steps["evaluate"]["folder"], EVALUATION_FOLDER))
        if "evaluate" in steps
        else None,
        doubtful=_doubtful(steps["infer"]["folder"]) if read else [],
        looked_at=min(_ROWS_LOOKED_AT, steps["infer"]["figures"]["rows"]) if read else 0,
        rejects=_rejects(steps, workspace),
        dataset=_dataset(steps["ingest"]["folder"]) if "ingest" in steps else None,
        reasons=REASONS,
    )


def _dataset(folder: str) -> dict[str, Any]:
    """What the page says and shows of a dataset."""
    statistics = storage.read_json(storage.join(folder, STATISTICS_NAME))
    samples = _read_table(storage.join(folder, SAMPLES_NAME)).to_pylist()
    statistics["splits"] = splits = {split: statistics["splits"][split] for split in SPLITS}
    by_count = sorted(statistics["symbols"].items(), key=lambda item: (-item[1], item[0]))
    return {
        "statistics": statistics,
        "widths": _bars(histogram for split in splits.values() for histogram in split["widths"]),
        "label_lengths": _bars(histogram for split in splits.values() for histogram in split["label_lengths"]),
        "symbols": [
            {
                "symbol": symbol,
                "name": _name(symbol),
                "counts": {split: splits[split]["symbols"].get(symbol, 0) for split in splits},
                "rare": splits["train"]["symbols"].get(symbol, 0) < RARE,
            }
            for symbol, _ in by_count[:_SYMBOLS_SHOWN]
        ],
        "long": any(pixels > _LONG for pixels, _ in splits["train"]["widths"]),
        "symbols_left_out": max(0, len(by_count) - _SYMBOLS_SHOWN),
        "samples": [
            (title, [{**row, "source": _data_url(row["image"])} for row in samples if row["role"] == role])
            for role, title in _SAMPLES.items()
        ],
    }


def _bars(histogram: Iterable[list[int]]) -> list[dict[str, int]]:
    """A histogram of whole numbers as at most `_BARS` bars of equal width: `start`, `end` and `count` of each."""
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


def _evaluation(folder: str) -> dict[str, Any]:
    """What the page shows of an evaluation besides its figures."""
    confusions, worst = (_read_table(storage.join(folder, name)) for name in (CONFUSIONS_NAME, WORST_NAME))
    return {
        "pictures": _pictures(folder, _EVALUATION_PICTURES),
        "confusions": confusions.slice(0, CONFUSIONS_SHOWN).to_pylist(),
        "pairs": confusions.num_rows,
        "worst": [
            {**row, "source": _data_url(row["image"]), "sides": _marked(row["truth"], row["text"])}
            for row in worst.to_pylist()
        ],
    }


def _marked(truth: str, read: str) -> dict[str, list[tuple[bool, str]]]:
    """Truth and reading as runs of symbols that are equal in both, or marked, in which a space can be seen."""
    runs = [(differs, list(pairs)) for differs, pairs in itertools.groupby(align(truth, read), lambda p: p[0] != p[1])]
    return {
        name: [
            (differs, text.replace(" ", "␣") if differs else text)
            for differs, pairs in runs
            if (text := "".join(pair[side] for pair in pairs))
        ]
        for side, name in enumerate(("truth", "read"))
    }


def _read_table(path: str) -> pyarrow.Table:
    with storage.open_to_read(path) as file:
        return pyarrow.parquet.read_table(file)


def _name(symbol: str) -> str:
    return f"U+{ord(symbol):04X} {unicodedata.name(symbol, '')}"


def _pictures(folder: str, captions: dict[str, str]) -> list[dict[str, str]]:
    found = []
    for name, caption in captions.items():
        try:
            content = storage.read_bytes(storage.join(folder, name))
        except FileNotFoundError:
            continue
        found.append({"caption": caption, "source": _data_url(content)})
    return found


def _doubtful(folder: str) -> list[dict[str, Any]]:
    """The least confident rows among the first, with their images."""
    from components.inference.runs import read_predictions
    from components.listing import read_image
    from tfrecords import ImageLimits, ImageRejected, encode_png, read_line

    rows = read_predictions(folder, ["uri", "text", "confidence"], _ROWS_LOOKED_AT)
    shown = sorted(rows, key=lambda row: (row["confidence"], row["uri"]))[:_DOUBTFUL]
    for row in shown:
        try:
            row["source"] = _data_url(encode_png(read_line(read_image(row["uri"]), 48, ImageLimits()).pixels))
        except (OSError, ImageRejected):
            row["source"] = ""  # gone since it was read
    return shown


def _rejects(steps: dict[str, Any], workspace: Workspace) -> list[dict[str, Any]]:
    folders = []
    if "ingest" in steps:
        folders.append(steps["ingest"]["folder"])
    if "infer" in steps:
        folders.append(workspace.rejects_of(steps["infer"]["folder"]))
    shown: collections.Counter[tuple[str, str]] = collections.Counter()
    rows: list[dict[str, Any]] = []
    for folder in folders:
        names = [name for name in storage.list_names(folder) if name.startswith(("rejects-", UNUSED_LABELS_NAME))]
        for name in names[-_REJECT_FILES_READ:]:
            with storage.open_to_read(storage.join(folder, name)) as file:
                first = next(pyarrow.parquet.ParquetFile(file).iter_batches(_REJECTS_READ))
            for row in first.to_pylist():
                shown[row["step"], row["reason"]] += 1
                if shown[row["step"], row["reason"]] <= _REJECTS_SHOWN:
                    rows.append(row)
    return sorted(rows, key=lambda row: (row["step"], row["reason"], row["uri"]))


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
