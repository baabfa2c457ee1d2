"""The state of a training, and the saver that keeps it in checkpoints."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np

from components.training.checkpoints import Checkpoint, Checkpoints
from components.training.history import EpochRecord
from components.training.learner import Learner, pick_arrays
from components.training.watchdog import TrainingLost


@dataclasses.dataclass
class TrainingState:
    """Everything that says how far a training is, except what the network and the optimiser hold.

    Attributes:
        step: batches trained on.
        history: finished epochs.
        loss, finite: sum and number of the finite losses in the current epoch.
        epoch_seconds: of training in the current epoch.
        seconds: since the start, validation included, stops not counted.
        left_out: indices of training examples whose loss was not finite at least once.
        best: the weights of the epoch that would be kept now.
    """

    step: int = 0
    history: list[EpochRecord] = dataclasses.field(default_factory=list)
    loss: float = 0.0
    finite: float = 0.0
    epoch_seconds: float = 0.0
    seconds: float = 0.0
    left_out: set[int] = dataclasses.field(default_factory=set)
    best: list[np.ndarray] = dataclasses.field(default_factory=list)

    def collect_facts(self) -> dict[str, Any]:
        """Collects everything but the weights, as JSON has it."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del plain["best"]
        return {**plain, "history": list(map(dataclasses.asdict, self.history)), "left_out": sorted(self.left_out)}

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> TrainingState:
        """Restores the state that a checkpoint holds."""
        facts = dict(checkpoint.facts)
        facts["history"] = [EpochRecord(**record) for record in facts["history"]]
        facts["left_out"] = set(facts["left_out"])
        return cls(**facts, best=pick_arrays("best", checkpoint))


class CheckpointSaver:
    """A writer of checkpoints; it writes the first one at once, to find out whether that is possible.

    Args:
        checkpoints: None on every worker but the chief, which alone writes.
        every_s: seconds between checkpoints.
    """

    def __init__(self, checkpoints: Checkpoints | None, learner: Learner, state: TrainingState, every_s: float):
        self._checkpoints, self._learner, self._state, self._every_s = checkpoints, learner, state, every_s
        self.save()

    def save_if_due(self) -> None:
        """Saves if the last checkpoint is old enough, or if somebody ends the training.

        Raises:
            TrainingLost: if somebody ends the training.
        """
        ended = self._learner.watchdog.asked_to_end
        if ended or time.monotonic() - self._saved >= self._every_s:
            self.save()
        if ended:
            raise TrainingLost("was asked to end by SIGTERM")

    def save(self) -> None:
        """Writes a checkpoint of the current state, if this worker writes them."""
        if self._checkpoints is not None:
            arrays = self._learner.collect_arrays(self._state.best)
            self._checkpoints.save(Checkpoint(self._state.step, arrays, self._state.collect_facts()))
        self._saved = time.monotonic()
