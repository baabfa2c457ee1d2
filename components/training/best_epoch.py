"""The choice of the best epoch, whose weights are kept, and the end of a training."""

from __future__ import annotations

import math
from collections.abc import Sequence

from components.training.history import EpochRecord


def choose_best_epoch(history: Sequence[EpochRecord]) -> int:
    """Chooses the epoch whose weights are kept; returns its number, or 0 if there is none.

    It is the last epoch whose CER cannot be told from the lowest: its symbol errors are within one standard error of
    the fewest, by the rule of Breiman et al. 1984 ("Classification and Regression Trees", section 3.4.3). The
    standard error of a count `n` of rare errors is the square root of `n`; here it is that of `n + 1`, because no error
    at all may be luck. Where nothing else decides, later weights are better: the learning rate falls, and a validation
    split of few lines may be recognised without an error by chance.
    """
    if not history:
        return 0
    fewest = min(record.symbol_errors for record in history)
    return max(record.epoch for record in history if record.symbol_errors <= fewest + math.sqrt(fewest + 1))


def is_finished(history: Sequence[EpochRecord], epochs: int, patience: int, least_steps: int = 0) -> bool:
    """Checks whether a training is at its end.

    It is, if all epochs are done, or if the last `patience` epochs brought no lower CER, nor a lower validation loss
    at the same CER, and at least `least_steps` steps were taken.
    """
    if not history:
        return False
    lowest = min(history, key=lambda record: (record.cer, record.validation_loss)).epoch
    return len(history) >= epochs or (len(history) - lowest >= patience and history[-1].step >= least_steps)
