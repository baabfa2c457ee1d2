"""A step: its protocol, what it gets and what it gives back."""

from __future__ import annotations

import dataclasses
import datetime
import enum
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from components.commit import REFUSED_NAME
from components.rejects import explain_too_many_rejects
from pipeline.options import LinePipelineOptions
from pipeline.steps.alarms import Alarm
from pipeline.workspace import Workspace
from tfrecords import DataError, DatasetManifest, storage


class Outcome(enum.StrEnum):
    """The outcome of a step, planned or real."""

    MADE = "made"
    RESUMED = "resumed"
    """Made from what an earlier command left unfinished."""
    REMADE = "remade"
    """Made again, since a committed one was damaged."""
    REUSED = "reused"
    """There already, made from the very same input."""
    NOTHING = "nothing"
    """There is nothing to do."""


@dataclasses.dataclass(frozen=True)
class Context:
    """The surroundings of a step.

    Attributes:
        options: the flags.
        workspace: the place of all results.
        scratch: the workspace in which listings are written: another one where a step is only planned.
    """

    options: LinePipelineOptions
    workspace: Workspace
    scratch: Workspace

    @property
    def plans(self) -> bool:
        """True if the step is only planned, so that nothing in the workspace may change."""
        return self.scratch is not self.workspace


@dataclasses.dataclass(frozen=True)
class Plan:
    """The plan of a step.

    Attributes:
        outcome: None if that depends on a step before.
        lines: for a person.
    """

    outcome: Outcome | None
    lines: Sequence[str]


@dataclasses.dataclass
class StepResult:
    """The result of a step.

    Attributes:
        summary: one sentence for the log.
        folder: the place of the result.
        figures: counts and measures, for the report.
        outcome: whether the result was made, or was there already.
        refused: why a check failed, or None.
        alarms: the checks that flags asked for, raised or not.
        rejects: counts of the images that were left out, by reason.
        rejects_folder: the folder with their list; None if no list was made.
        summary_figures: the figures of this step in the last line of the log.
        closing: lines for the end of the command.
        place: the name of the folder there; None for the step's usual word.
    """

    summary: str
    folder: str
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)
    outcome: Outcome = Outcome.MADE
    refused: str | None = None
    alarms: list[Alarm] = dataclasses.field(default_factory=list)
    rejects: dict[str, int] = dataclasses.field(default_factory=dict)
    rejects_folder: str | None = None
    summary_figures: dict[str, Any] = dataclasses.field(default_factory=dict)
    closing: Sequence[str] = ()
    place: str | None = None

    @property
    def reused(self) -> bool:
        """True if the result was there before."""
        return self.outcome in (Outcome.REUSED, Outcome.NOTHING)


class Step(Protocol):
    """One step of the command: it reads what the steps before committed, and commits its own result.

    `run` and `plan` resolve the request in the same way, so that a plan says what the command does.
    """

    name: str
    """As `--steps` has it."""
    place: str
    """Name of the result's folder at the end of the command."""

    def run(self, context: Context) -> StepResult:
        """Does the step.

        Raises:
            DataError: if the input is missing, cannot be used, or is refused.
        """

    def plan(self, context: Context) -> Plan:
        """Finds out what `run` would do, and changes nothing.

        Raises:
            DataError: for what `run` would refuse, as far as that can be seen without doing it.
        """

    def count_images(self, figures: Mapping[str, Any]) -> int:
        """Counts the images that the step worked on, for its speed; 0 where it has none."""


class RefusedError(DataError):
    """A step that committed nothing, since a check of the whole of its images failed.

    Attributes:
        rejects: how many images were left out, by reason.
        folder: where they are listed.
    """

    def __init__(self, sentence: str, rejects: dict[str, int], folder: str):
        super().__init__(sentence)
        self.rejects = rejects
        self.folder = folder


def require_test_split(dataset: DatasetManifest) -> None:
    """Raises a `DataError` if no model can be evaluated on a dataset."""
    if not dataset.examples("test"):
        raise DataError(
            f"the test split of dataset {dataset.dataset_id} is empty, so that no model can be evaluated: "
            "ingest more images or raise --test_fraction"
        )


def require_few_rejects(options: LinePipelineOptions, rejects: dict[str, int], matched: int, folder: str) -> None:
    """Raises a `DataError` if more images were rejected than `--max_reject_fraction` allows."""
    if problem := _explain_rejects(options, rejects, matched, folder):
        raise DataError(problem)


def _explain_rejects(options: LinePipelineOptions, rejects: dict[str, int], matched: int, folder: str) -> str | None:
    """Says why the rejects that are listed in a folder are too many; None if they are not."""
    where = f"{folder}/rejects-*.parquet"
    return explain_too_many_rejects(rejects, matched, options.max_reject_fraction, where=where)


def raise_if_refused(folder: str, rejects_folder: str) -> None:
    """Raises a `RefusedError` if a job left a reason for committing nothing in a folder."""
    path = storage.join(folder, REFUSED_NAME)
    if storage.exists(path):
        refused = storage.read_json(path)
        raise RefusedError(refused["reason"], refused["rejects"], rejects_folder)


def plan_refusal(options: LinePipelineOptions, folder: str, matched: int) -> list[str]:
    """Says in a plan whether an earlier attempt was refused, and will be again.

    Args:
        folder: of the unfinished work.
        matched: images that the step counts.
    """
    path = storage.join(folder, REFUSED_NAME)
    if not storage.exists(path):
        return []
    problem = _explain_rejects(options, storage.read_json(path)["rejects"], matched, folder)
    if problem is None:  # --max_reject_fraction allows them now
        return []
    return [f"an earlier command was refused, and so is this one while the images stay as they are: {problem}"]


def format_rejects(rejects: dict[str, int]) -> str:
    """Says how many images were rejected, and why."""
    if not rejects:
        return "none rejected"
    return f"{sum(rejects.values()):,} rejected ({', '.join(f'{count} {reason}' for reason, count in rejects.items())})"


def get_now() -> datetime.datetime:
    """Returns the time, UTC."""
    return datetime.datetime.now(datetime.UTC)
