"""The history of a training, epoch by epoch: as records, as CSV and for TensorBoard."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import os
import shutil
from collections.abc import Sequence

from tfrecords import storage

HISTORY_NAME = "history.csv"
TENSORBOARD_NAME = "tensorboard"


@dataclasses.dataclass(frozen=True)
class EpochRecord:
    """One row of `history.csv`.

    Attributes:
        epoch: from 1.
        step: batches trained on, to the end of this epoch.
        learning_rate: at the end of the epoch.
        train_loss: mean over training examples, nats.
        validation_loss: mean over the validation examples with a finite loss, nats.
        cer, wer, exact_match: on the whole validation split, or on the training split if that is empty.
        images_per_second: images that all workers together trained on, validation not counted.
        non_finite: training examples left out of the gradient because their loss was not finite.
        seconds: of training since its start, stops not counted.
        symbol_errors: the errors that the CER counts.
    """

    epoch: int
    step: int
    learning_rate: float
    train_loss: float
    validation_loss: float
    cer: float
    wer: float
    exact_match: float
    images_per_second: float
    non_finite: int
    seconds: float
    symbol_errors: int


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


def is_finished(history: Sequence[EpochRecord], epochs: int, patience: int) -> bool:
    """Checks whether a training is at its end.

    It is, if all epochs are done, or if the last `patience` epochs brought no lower CER, nor a lower validation loss
    at the same CER.
    """
    lowest = min(history, key=lambda record: (record.cer, record.validation_loss)).epoch if history else 0
    return len(history) >= epochs or len(history) - lowest >= patience


class HistoryWriter:
    """A writer of the history, after every epoch, to `history.csv` and for TensorBoard.

    Args:
        folder: local; files of an earlier attempt in it are replaced.
        history: epochs from before a restart.
    """

    def __init__(self, folder: str, history: Sequence[EpochRecord]):
        import tensorflow as tf

        os.makedirs(folder, exist_ok=True)
        self._csv = os.path.join(folder, HISTORY_NAME)
        self._written: list[EpochRecord] = []
        shutil.rmtree(os.path.join(folder, TENSORBOARD_NAME), ignore_errors=True)
        self._events = tf.summary.create_file_writer(os.path.join(folder, TENSORBOARD_NAME))
        # As tf.summary.scalar does, but without the tensorboard package that it needs.
        self._scalar = tf.compat.v1.SummaryMetadata(
            plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"), data_class=1
        )
        for record in history:
            self.add(record)

    def add(self, record: EpochRecord) -> None:
        """Adds one epoch."""
        import tensorflow as tf

        self._written.append(record)
        values = dataclasses.asdict(record)
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, list(values))
        writer.writeheader()
        writer.writerows(dataclasses.asdict(earlier) for earlier in self._written)
        storage.write_bytes(self._csv, table.getvalue().encode())
        with self._events.as_default():
            for name, value in values.items():
                if name not in ("epoch", "step"):
                    tf.summary.write(name, tf.constant(value, tf.float32), record.epoch, self._scalar)
        self._events.flush()

    def close(self) -> None:
        """Finishes the event file."""
        self._events.close()
