"""What a step is, gets and gives back."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable
from typing import Any

from components.commit import REFUSED_NAME
from components.rejects import explain_too_many_rejects
from pipeline.options import LinePipelineOptions
from pipeline.steps.alarms import Alarm
from pipeline.workspace import Workspace
from tfrecords import DataError, DatasetManifest, storage


@dataclasses.dataclass
class StepResult:
    """What a step did.

    Attributes:
        name: of the step.
        summary: one sentence for the log.
        folder: where the result lies.
        figures: counts and measures, for the report.
        refused: why a check failed, or None.
        reused: whether the result was there already.
        alarms: what a person should be told, and what was asked for and is well.
    """

    name: str
    summary: str
    folder: str
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)
    refused: str | None = None
    reused: bool = False
    alarms: list[Alarm] = dataclasses.field(default_factory=list)


class RefusedError(DataError):
    """A step that committed nothing, since a check of the whole of its images said no.

    Attributes:
        rejects: how many images were left out, by reason.
        folder: where they are listed.
    """

    def __init__(self, sentence: str, rejects: dict[str, int], folder: str):
        super().__init__(sentence)
        self.rejects = rejects
        self.folder = folder


@dataclasses.dataclass(frozen=True)
class Context:
    """What every step gets: options, the workspace, and where to say what happens.

    Attributes:
        say: prints a line.
        show: prints a line over the one that it printed before; None where nobody looks at a terminal.
    """

    options: LinePipelineOptions
    workspace: Workspace
    say: Callable[[str], None]
    show: Callable[[str], None] | None = None


def require_test_split(dataset: DatasetManifest) -> None:
    if not dataset.examples("test"):
        raise DataError(
            f"the test split of dataset {dataset.dataset_id} is empty, so that no model can be evaluated: "
            "ingest more images or raise --test_fraction"
        )


def require_few_rejects(options: LinePipelineOptions, rejects: dict[str, int], matched: int, folder: str) -> None:
    if problem := explain_too_many_rejects(
        rejects, matched, options.max_reject_fraction, where=f"{folder}/rejects-*.parquet"
    ):
        raise DataError(problem)


def is_intact(context: Context, folder: str, sizes: dict[str, int]) -> bool:
    problem = storage.find_missing_or_changed(folder, sizes)
    if problem is None:
        return True
    context.say(f"warning: {problem}: it was damaged after it was committed, and is made again")
    storage.remove_folder(folder)
    return False


def raise_if_refused(folder: str, rejects_folder: str) -> None:
    path = storage.join(folder, REFUSED_NAME)
    if storage.exists(path):
        refused = storage.read_json(path)
        raise RefusedError(refused["reason"], refused["rejects"], rejects_folder)


def format_rejects(rejects: dict[str, int]) -> str:
    if not rejects:
        return "none rejected"
    return f"{sum(rejects.values()):,} rejected ({', '.join(f'{count} {reason}' for reason, count in rejects.items())})"


def get_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
