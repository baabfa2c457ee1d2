"""The record of one command: its request and its results."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import re
from typing import Any

from pipeline.engines.jobs import describe_runner
from pipeline.options import LinePipelineOptions
from pipeline.steps.step import Step, StepResult
from pipeline.workspace import make_id

# Beam's flags for object stores, and an address that may be a password itself.
_SECRET = re.compile("secret|token|password|access_key|connection_string|notify_url")
_PACKAGES = (
    "ctc-line-reader",
    "apache-beam",
    "keras",
    "numpy",
    "onnxruntime",
    "pillow",
    "pyarrow",
    "tensorflow",
    "tfx-bsl",
)


@dataclasses.dataclass
class CommandRecord:
    """The content of `runs/ID.json`.

    Attributes:
        run: the ID of this command.
        status: `done`, `alarm` (done, but an alarm was raised), `refused` (a check failed) or `failed` (the input
            cannot be used).
        workspace: where it ran.
        options: every flag of this project, and Beam's that were given; secrets are blotted out.
        started_at, finished_at: ISO 8601, UTC.
        seconds: from start to finish.
        steps: each step's result, its seconds, and its images a second.
        problems: one sentence each, as printed.
        alarms: every check of the night's figures: `name`, `sentence`, `measured`, `limit`, and whether it was
            `raised`.
        used: the `runner`, the `versions` of packages, and, if a model recognised images, its `model_id`, `network`,
            `dataset_id`, `trained_at` and the `height` of its lines.
        rejects: counts of the images that were left out, by step and reason.
        reject_folders: the folders with their lists, by step.
        nights: the last runs of the infer step, the oldest first, each with its figures, whether it is `tonight`'s,
            and whether tonight's is `compared` with it: runs of the same model and decoding. `confidence_shares` is
            the share of its rows in each of `CONFIDENCE_BARS` bars of equal width from 0 to 1.
        unprinted: one sentence for each of standard output and error that did not take all that was printed.
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
    used: dict[str, Any] = dataclasses.field(default_factory=dict)
    rejects: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    reject_folders: dict[str, str] = dataclasses.field(default_factory=dict)
    nights: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    unprinted: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def start(cls, options: LinePipelineOptions, workspace: str) -> CommandRecord:
        """Starts the record of a command that begins now."""
        now = datetime.datetime.now(datetime.UTC)
        ours = options.get_all_options(current_only=True)
        given = {**options.get_all_options(drop_default=True), **ours}
        given = {name: "(not told)" if _SECRET.search(name) else given[name] for name in sorted(given)}
        run = f"{now:%Y%m%dT%H%M%SZ}-{make_id(at=now.isoformat(), pid=os.getpid())[:6]}"
        used = {"runner": describe_runner(options), "versions": _find_versions()}
        return cls(run, "done", workspace, json.loads(json.dumps(given, default=str)), now.isoformat(), used=used)

    def add(self, step: Step, result: StepResult, seconds: float) -> None:
        """Adds a finished step."""
        name = result.place or step.name
        self.add_alarms([dataclasses.asdict(alarm) for alarm in result.alarms])
        images = step.count_images(result.figures)
        speed = round(images / seconds, 1) if images and seconds and not result.reused else None
        self.steps.append(
            {
                "name": name,
                "summary": result.summary,
                "folder": result.folder,
                "figures": result.figures,
                "refused": result.refused,
                "reused": result.reused,
                "outcome": result.outcome,
                "seconds": round(seconds, 3),
                "images_per_s": speed,
            }
        )
        if result.rejects_folder is not None:
            self.add_rejects(name, result.rejects, result.rejects_folder)
        if result.refused is not None:
            self.status = "refused"
            self.problems.append(f"{name}: the new model is not used, because {result.refused}")

    def add_alarms(self, alarms: list[dict[str, Any]]) -> None:
        """Adds the alarms that flags asked for, raised or not."""
        self.alarms += alarms
        if self.status == "done" and any(alarm["raised"] for alarm in alarms):
            self.status = "alarm"

    def add_rejects(self, step: str, counts: dict[str, int], folder: str) -> None:
        """Adds what a step left out, even if the step failed."""
        self.rejects[step] = counts
        self.reject_folders[step] = folder

    def fail(self, problem: str) -> None:
        """Records that the command failed."""
        self.status = "failed"
        self.problems.append(problem)


def _find_versions() -> dict[str, str]:
    """Finds the versions of Python and of the main packages that are installed."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # this program, when it is run from its sources
    return versions
