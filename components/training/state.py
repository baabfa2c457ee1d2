"""How far a training is, and its checkpoints."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np

from components.training.checkpoints import Checkpoint, Checkpoints
from components.training.history import EpochRecord
from components.training.learner import Learner, pick_arrays
from components.training.lost import TrainingLost


@dataclasses.dataclass
class TrainingState:
    """How far a training is, besides what the network and the optimiser hold.

    Attributes:
        step: batches trained on.
        history: finished epochs.
        loss, finite: sums over the epoch that is under way: the finite losses, and their number.
        epoch_seconds: of training in the epoch that is under way.
        seconds: since the start, validation included, stops not counted.
        left_out: indices of training examples whose loss was ever not finite.
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

    def facts(self) -> dict[str, Any]:
        """All but the weights, as JSON has it."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del plain["best"]
        return {**plain, "history": list(map(dataclasses.asdict, self.history)), "left_out": sorted(self.left_out)}

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> TrainingState:
        """The state that a checkpoint holds."""
        facts = dict(checkpoint.facts)
        facts["history"] = [EpochRecord(**record) for record in facts["history"]]
        facts["left_out"] = set(facts["left_out"])
        return cls(**facts, best=pick_arrays("best", checkpoint))


class CheckpointSaver:
    """Writes checkpoints, on the chief alone; the first at once, to find out whether that can be done."""

    def __init__(self, checkpoints: Checkpoints | None, learner: Learner, state: TrainingState, every_s: float):
        self._checkpoints, self._learner, self._state, self._every_s = checkpoints, learner, state, every_s
        self.save()

    def save_if_due(self) -> None:
        """Saves after a time, or where somebody ends the training."""
        ended = self._learner.watchdog.asked_to_end
        if ended or time.monotonic() - self._saved >= self._every_s:
            self.save()
        if ended:
            raise TrainingLost("was asked to end by SIGTERM")

    def save(self) -> None:
        if self._checkpoints is not None:
            arrays = self._learner.arrays(self._state.best)
            self._checkpoints.save(Checkpoint(self._state.step, arrays, self._state.facts()))
        self._saved = time.monotonic()
