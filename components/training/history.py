"""The history of a training, epoch by epoch: as records, as CSV and for TensorBoard."""

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
