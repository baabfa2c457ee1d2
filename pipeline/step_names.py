"""The names of the steps, which the command line knows without importing the steps themselves."""

from __future__ import annotations

import difflib

from pipeline.flag_types import UsageError

STEP_SUMMARIES = {
    "render": "draws texts in many fonts, as labelled images to start from",
    "ingest": "turns labelled images into a dataset",
    "train": "trains a model on the latest dataset",
    "selftrain": "trains a model on confident readings of the accepted one, too",
    "forecast": "forecasts the errors with more labels, from trainings on parts of them",
    "evaluate": "measures the latest model on held-out lines, and accepts or refuses it",
    "infer": "recognises new images with the accepted model",
    "review": "gives doubtful readings, or doubtful labels, to a person to correct",
    "compact": "merges the runs of predictions of one day",
    "export": "writes the newest readings into files for other systems",
    "explain": "tells what the workspace knows of one image",
}
"""What each step does, in the order in which they run: the one list of steps."""
STEPS = tuple(STEP_SUMMARIES)
READ_ONLY_STEPS = frozenset({"explain"})
"""The steps that change nothing. After them alone, nothing is cleared up or pruned either."""
DEFAULT_STEPS = ("ingest", "train", "evaluate", "infer")


def read_steps(text: str) -> str:
    """Returns the value of `--steps` as it is.

    Raises:
        UsageError: if it names a step that does not exist.
    """
    unknown = sorted(split_steps(text) - set(STEPS))
    if unknown:
        near = difflib.get_close_matches(unknown[0], STEPS, 1)
        hint = f"did you mean {near[0]}?" if near else f"steps are {', '.join(STEPS)}"
        raise UsageError(f"--steps={text}: there is no step {unknown[0]!r}; {hint}")
    return text


def split_steps(text: str) -> set[str]:
    """Returns the names in a value of `--steps`."""
    return {step.strip() for step in text.split(",")}
