"""The steps of the command: each reads what is committed in the workspace and commits its own result."""

import importlib
from collections.abc import Container

from pipeline import step_names
from pipeline.steps.step import Step


def _load_step(name: str) -> Step:
    """Returns the step of a name: `train` is class `TrainStep` in `train.py`."""
    return getattr(importlib.import_module(f"{__name__}.{name}"), f"{name.capitalize()}Step")()


STEPS: tuple[Step, ...] = tuple(map(_load_step, step_names.STEPS))
"""All steps, in the order in which they run."""


def choose_steps(names: Container[str]) -> tuple[Step, ...]:
    """Returns the steps with these names, in their order."""
    return tuple(step for step in STEPS if step.name in names)
