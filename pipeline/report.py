"""The run report: what was asked and what happened, as JSON for machines and HTML for people."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import os
from typing import Any

import pyarrow.parquet

from components.models import PLOTS_NAME
from pipeline.options import LinePipelineOptions
from pipeline.workspace import Workspace, short_id
from tfrecords import DataError, storage

_PICTURES = {
    "training_samples.png": "Training samples with their labels",
    "curves.png": "Loss and error rates while training",
    "predictions.png": "Held-out lines as the model reads them",
}
_DOUBTFUL = 24
_ROWS_LOOKED_AT = 100_000
_REJECTS_SHOWN = 50


@dataclasses.dataclass
class RunRecord:
    """What `runs/ID.json` holds.

    Attributes:
        run: the ID of this run of the command.
        status: `done`, `refused` (a check said no) or `failed` (the input cannot be used).
        workspace: where it ran.
        options: every flag of ours, and Beam's that were given.
        started_at, finished_at: ISO 8601, UTC.
        seconds: from start to finish.
        steps: each step's result, and how long it took.
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

    @classmethod
    def start(cls, options: LinePipelineOptions, workspace: str) -> RunRecord:
        """A run that starts now."""
        now = datetime.datetime.now(datetime.UTC)
        ours = options.get_all_options(current_only=True)
        given = {**options.get_all_options(drop_default=True), **ours}
        run = f"{now:%Y%m%dT%H%M%SZ}-{short_id(at=now.isoformat(), pid=os.getpid())[:6]}"
        return cls(run, "done", workspace, {name: given[name] for name in sorted(given)}, now.isoformat())

    def add(self, result: dict[str, Any], seconds: float) -> None:
        """A step that came to its end."""
        self.steps.append({**result, "seconds": round(seconds, 3)})
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
        storage.write_bytes(paths["run report"], _page(record, workspace).encode())
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
    steps = {step["name"]: step for step in record.steps}
    model_folder = (steps.get("evaluate") or steps.get("train") or {}).get("folder")
    return environment.get_template("report.html.j2").render(
        record=record,
        steps=steps,
        pictures=_pictures(model_folder) if model_folder else [],
        doubtful=_doubtful(steps["infer"]["folder"]) if "infer" in steps else [],
        looked_at=min(_ROWS_LOOKED_AT, steps["infer"]["figures"]["rows"]) if "infer" in steps else 0,
        rejects=_rejects(steps, workspace),
    )


def _pictures(model_folder: str) -> list[dict[str, str]]:
    found = []
    for name, caption in _PICTURES.items():
        try:
            content = storage.read_bytes(storage.join(model_folder, PLOTS_NAME, name))
        except FileNotFoundError:
            continue
        found.append({"caption": caption, "source": _data_url(content)})
    return found


def _doubtful(folder: str) -> list[dict[str, Any]]:
    """The least confident rows among the first, with their images."""
    from components.listing import read_image
    from pipeline.steps import read_predictions
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
    rows: list[dict[str, Any]] = []
    for folder in folders:
        for name in storage.list_names(folder):
            if name.startswith("rejects-") and len(rows) < _REJECTS_SHOWN:
                with storage.open_to_read(storage.join(folder, name)) as file:
                    rows += pyarrow.parquet.read_table(file).to_pylist()
    return rows[:_REJECTS_SHOWN]


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
