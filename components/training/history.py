"""What a training did, epoch by epoch: as a record, as CSV and for TensorBoard."""

from __future__ import annotations

import csv
import dataclasses
import io
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
        validation_loss: mean over validation examples, nats; those without a finite loss left out.
        cer, wer, exact_match: on the whole validation split; without one, on the training split.
        images_per_second: trained on, by all workers together, validation not counted.
        non_finite: training examples left out of the gradient because their loss was not finite.
        seconds: of training since its start, stops not counted.
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

    @property
    def quality(self) -> tuple[float, float]:
        """What is least in the best epoch: the CER, and among equals the loss."""
        return self.cer, self.validation_loss


def best_epoch(history: Sequence[EpochRecord]) -> int:
    """The number of the best epoch, the first among equals; 0 if there is none."""
    return min(history, key=lambda record: record.quality).epoch if history else 0


def finished(history: Sequence[EpochRecord], epochs: int, patience: int) -> bool:
    """Whether a training is at its end: all epochs done, or none better than the best for `patience` epochs."""
    return len(history) >= epochs or len(history) - best_epoch(history) >= patience


class HistoryWriter:
    """Writes history, after every epoch, to `history.csv` and for TensorBoard.

    Args:
        folder: local; files of an earlier attempt in it are replaced.
        history: what was done before a restart.
    """

    def __init__(self, folder: str, history: Sequence[EpochRecord]):
        import tensorflow as tf

        os.makedirs(folder, exist_ok=True)
        self._csv = os.path.join(folder, HISTORY_NAME)
        self._written: list[EpochRecord] = []
        shutil.rmtree(os.path.join(folder, TENSORBOARD_NAME), ignore_errors=True)
        self._events = tf.summary.create_file_writer(os.path.join(folder, TENSORBOARD_NAME))
        # What tf.summary.scalar sets, without the tensorboard package that it needs.
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
        writer.writerows(dataclasses.asdict(each) for each in self._written)
        storage.write_bytes(self._csv, table.getvalue().encode())
        with self._events.as_default():
            for name, value in values.items():
                if name not in ("epoch", "step"):
                    tf.summary.write(name, tf.constant(value, tf.float32), record.epoch, self._scalar)
        self._events.flush()

    def close(self) -> None:
        """Finishes the event file."""
        self._events.close()
