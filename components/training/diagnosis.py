"""The diagnosis of a training from its history: when reading began, and what would help where it went badly."""

from __future__ import annotations

import math
from collections.abc import Sequence

from components.training.best_epoch import choose_best_epoch
from components.training.history import EpochRecord

_READING_CER = 0.5
"""A network reads when its CER is below this.

Before that it knows how often symbols occur and when one is due, but not what they look like: it gives much the same
answer for every image. On number plates, whose symbols stand in fixed places, such an answer had a CER of 66 %.
"""
_GOOD_CER = 0.02
DOUBTFUL_CER = 0.05
"""A constant text may have a CER above this; below it, a model reads."""
_SAME_LOSS = 0.8


def find_first_reading(history: Sequence[EpochRecord]) -> EpochRecord | None:
    """Finds the epoch in which reading began; None if it did not."""
    return next((record for record in history if record.cer < _READING_CER), None)


def has_never_begun(history: Sequence[EpochRecord], least_steps: int) -> bool:
    """Checks whether reading never began in a training that took as many steps as it needs; 0 if that is not known."""
    return bool(history) and history[-1].step >= least_steps > 0 and find_first_reading(history) is None


def get_lowest_cer(history: Sequence[EpochRecord]) -> float:
    """Returns the lowest CER of all epochs; infinity without any."""
    return min((record.cer for record in history), default=math.inf)


def explain_weakness(
    history: Sequence[EpochRecord],
    learning_rate: float,
    *,
    has_validation: bool,
    constant: str | None = None,
    causes: Sequence[str] = (),
) -> str | None:
    """Says in one sentence why a finished training went badly, and what would help; None if it went well.

    Args:
        learning_rate: that it was trained with.
        has_validation: whether CER and validation loss are of lines that were not trained on.
        constant: why the model reads no better than a constant text; None if it reads better.
        causes: that were found for a training that reads nothing, the likeliest first.
    """
    if not history:
        return None
    best = history[choose_best_epoch(history) - 1]
    if find_first_reading(history) is None or constant is not None:
        never = f"its CER was never below {get_lowest_cer(history):.0%}"
        said = f"the model has not begun to read: {constant or never}"
        if causes:
            also = f". Perhaps also: {'; '.join(causes[1:])}" if causes[1:] else ""
            return f"{said}. The likeliest cause: {causes[0]}{also}"
        return (
            f"{said}. The likely "
            "causes: the labels are not those of the images (plots/training_samples.png beside the model shows some of "
            "both), the images are too few, or the lines too low for their symbols (--height of the ingest step). If "
            f"they are right, try --learning_rate={learning_rate / 4:g} and more --epochs"
        )
    underfitted = best.train_loss > _SAME_LOSS * best.validation_loss
    if has_validation and underfitted and best.cer > _GOOD_CER:
        return (
            f"the model is underfitted: its loss on the training lines, {best.train_loss:.1f}, is about that on the "
            f"validation lines, {best.validation_loss:.1f}, and its CER is {best.cer:.1%}. More --epochs than "
            f"{len(history)} or a larger --model will help more than further images"
        )
    return None
