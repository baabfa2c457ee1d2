"""The steps of the command: each reads what is committed in the workspace and commits its own result."""

from collections.abc import Container

from pipeline.steps.compact import CompactStep
from pipeline.steps.evaluate import EvaluateStep
from pipeline.steps.infer import InferStep
from pipeline.steps.ingest import IngestStep
from pipeline.steps.review import ReviewStep
from pipeline.steps.step import Step
from pipeline.steps.train import TrainStep

STEPS: tuple[Step, ...] = (IngestStep(), TrainStep(), EvaluateStep(), InferStep(), ReviewStep(), CompactStep())
"""All steps, in the order of `pipeline.step_names`, in which they run."""


def choose_steps(names: Container[str]) -> tuple[Step, ...]:
    """Returns the steps with these names, in their order."""
    return tuple(step for step in STEPS if step.name in names)
