"""The steps. Each reads what is committed in the workspace and commits its own result."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.steps.compact import compact
from pipeline.steps.evaluate import evaluate
from pipeline.steps.infer import infer
from pipeline.steps.ingest import ingest
from pipeline.steps.review import review
from pipeline.steps.step import Context, StepResult
from pipeline.steps.train import train

STEP_FUNCTIONS: dict[str, Callable[[Context], StepResult]] = {
    "ingest": ingest,
    "train": train,
    "evaluate": evaluate,
    "infer": infer,
    "review": review,
    "compact": compact,
}
