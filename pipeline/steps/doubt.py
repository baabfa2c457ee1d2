"""Doubtful readings: the confidence from which on a text needs no look, by `--min_confidence` and `--target_error`."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from components.evaluation.evaluate import EVALUATION_NAME
from components.evaluation.promise import Promise, explain_no_promise, make_promise
from pipeline.options import LinePipelineOptions
from pipeline.workspace import Workspace
from tfrecords import DataError, storage

log = logging.getLogger(__name__)

_ABOVE_ALL = 2.0
"""A confidence that no text has."""


@dataclasses.dataclass(frozen=True)
class Doubt:
    """The rule that says which readings a person has to look at.

    Attributes:
        least_confidence: readings with less are doubtful.
        reason: what asks for it, for a sentence such as "12 are below --min_confidence=0.8".
        promise: what is promised of the others; None if nothing was asked for.
    """

    least_confidence: float
    reason: str
    promise: Promise | None = None

    def describe_accepted(self, accepted: int) -> str:
        """Says how many texts are accepted under the promise; empty without one."""
        if self.promise is None:
            return ""
        if self.promise.threshold is None:
            return "; none accepted, since nothing can be promised of them"
        promise = self.promise
        return f"; {accepted:,} accepted, at most {promise.target_error:.3g} of them wrong ({promise.level:.0%} sure)"


def find_doubt(options: LinePipelineOptions, workspace: Workspace, model_id: str, decoding: list[Any] | None) -> Doubt:
    """Finds out which readings of a model are doubtful. Warns if what `--target_error` asks for cannot be promised.

    Args:
        decoding: how its logits become text; None for any way.

    Raises:
        DataError: if the model's evaluation does not say what can be promised of such readings.
    """
    asked = f"below --min_confidence={options.min_confidence:g}"
    if options.target_error is None:
        return Doubt(options.min_confidence, asked)
    acceptance = _read_acceptance(workspace, model_id, decoding)
    promise = make_promise(acceptance, options.target_error)
    if promise.threshold is None:
        log.warning(explain_no_promise(acceptance, options.target_error))
        return Doubt(_ABOVE_ALL, f"not accepted, since --target_error={options.target_error:g} cannot be kept", promise)
    if acceptance["note"]:
        log.warning(f"--target_error={options.target_error:g} may promise too much: {acceptance['note']}")
    if options.min_confidence > promise.threshold:
        return Doubt(options.min_confidence, asked, promise)
    reason = f"below the {promise.threshold:.6g} that --target_error={options.target_error:g} needs"
    return Doubt(promise.threshold, reason, promise)


def read_error_factor(workspace: Workspace, model_id: str, decoding: list[Any]) -> float | None:
    """Reads by what expected symbol errors of a model are multiplied; None if its evaluation does not say.

    Args:
        decoding: how its logits become text; the evaluation says nothing of another way.
    """
    evaluation = read_evaluation(workspace, model_id)
    if evaluation is None or "expected_errors" not in evaluation or evaluation["decoding"] != decoding:
        return None
    return evaluation["expected_errors"]["factor"]


def read_evaluation(workspace: Workspace, model_id: str) -> dict[str, Any] | None:
    """Reads the evaluation of a model; returns None if it has none that can be read."""
    try:
        return storage.read_json(storage.join(workspace.model(model_id), EVALUATION_NAME))
    except (FileNotFoundError, DataError):
        return None


def _read_acceptance(workspace: Workspace, model_id: str, decoding: list[Any] | None) -> dict[str, Any]:
    """Reads what the evaluation of a model says of accepted texts."""
    path = storage.join(workspace.model(model_id), EVALUATION_NAME)
    again = "run the evaluate step again (--steps=evaluate)"
    try:
        evaluation = storage.read_json(path)
        acceptance, evaluated = evaluation["acceptance"], evaluation["decoding"]
    except (FileNotFoundError, KeyError):
        raise DataError(
            f"--target_error needs what {path} says of accepted texts, and an earlier version wrote that, or it is "
            f"gone: {again}"
        ) from None
    if decoding is not None and evaluated != decoding:
        raise DataError(
            f"--target_error promises nothing of texts that are decoded in another way than the evaluation of model "
            f"{model_id} decoded them ({' '.join(map(str, evaluated))}, now {' '.join(map(str, decoding))}): {again} "
            "with these flags"
        )
    return acceptance
