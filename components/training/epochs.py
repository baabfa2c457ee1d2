"""The training loop: the steps of an epoch, and what the validation lines say after it."""

from __future__ import annotations

import dataclasses
import math
import time

import keras
import numpy as np

from components.ctc.decoding import decode_greedily
from components.ctc.loss import compute_ctc_loss
from components.metrics import ErrorCounts
from components.training.best_epoch import choose_best_epoch, is_finished
from components.training.data import RECOGNISED_BATCH, Examples, make_ordered_batches
from components.training.history import EpochRecord
from components.training.learner import Learner, TrainingCluster
from components.training.progress import Progress
from components.training.request import TrainingRequest
from components.training.state import CheckpointSaver, TrainingState
from tfrecords import Charset, DataError

_LOOK_EVERY = 5
"""Steps between looks at their results; a look waits for the devices."""


class EpochLoop:
    """The epochs of a training that are left, one after the other, on every worker alike.

    Args:
        train: the training split.
        judged: the lines that are recognised after each epoch, to choose the best one.
        state: how far the training is; each step and each epoch is added to it.
    """

    def __init__(
        self,
        request: TrainingRequest,
        cluster: TrainingCluster,
        learner: Learner,
        train: Examples,
        judged: Examples,
        charset: Charset,
        state: TrainingState,
        saver: CheckpointSaver,
        progress: Progress,
    ):
        self._request, self._cluster, self._learner = request, cluster, learner
        self._judged, self._charset = judged, charset
        self._state, self._saver, self._progress = state, saver, progress
        self._steps_per_epoch = -(-len(train) // request.batch_size)
        self._steps = self._steps_per_epoch * request.epochs
        self._batches = learner.make_batches(train, range(state.step, self._steps))

    def run_epoch(self) -> None:
        """Takes the steps that are left of an epoch, evaluates it and adds it to the history.

        Raises:
            DataError: if training diverged.
            TrainingLost: if somebody ends the training.
        """
        self._take_steps()
        self._evaluate()
        request = self._request
        last = is_finished(self._state.history, request.epochs, request.patience, request.least_steps)
        self._progress.log_epoch(self._state.history[-1], self._estimate_seconds_left(), last=last)

    def _take_steps(self) -> None:
        state, learner = self._state, self._learner
        epoch_end = (len(state.history) + 1) * self._steps_per_epoch
        started = time.monotonic()
        pending: list[tuple] = []
        while state.step < epoch_end:
            pending.append(learner.take_step(self._batches))
            learner.watchdog.report_alive()
            if len(pending) < _LOOK_EVERY and state.step + len(pending) < epoch_end:
                continue
            self._add_results(pending)
            pending.clear()
            now = time.monotonic()
            state.epoch_seconds += now - started
            state.seconds += now - started
            started = now
            self._show_progress(self._steps_per_epoch - (epoch_end - state.step))
            if state.step < epoch_end:  # at the end of an epoch, its evaluation comes first
                self._saver.save_if_due()

    def _add_results(self, pending: list[tuple]) -> None:
        """Adds the losses of some steps to the state, and the examples that they left out."""
        state = self._state
        for loss, finite, left_out in pending:
            state.loss += float(loss)
            state.finite += float(finite)
            if float(finite) < self._request.batch_size:  # the same on every worker, so that all of them gather
                state.left_out.update(index for index in self._learner.gather(left_out).tolist() if index >= 0)
        state.step += len(pending)

    def _show_progress(self, steps_done: int) -> None:
        """Shows how far the epoch is, after so many of its steps."""
        state = self._state
        self._progress.show_step(
            len(state.history) + 1,
            steps_done,
            state.loss / max(state.finite, 1),
            steps_done * self._request.batch_size / state.epoch_seconds,
            self._estimate_seconds_left(),
        )

    def _evaluate(self) -> None:
        """Recognises the judged lines and adds the epoch to the history."""
        state, learner = self._state, self._learner
        images = self._steps_per_epoch * self._request.batch_size
        started = time.monotonic()
        learner.recogniser.set_weights(learner.model.get_weights())
        try:
            counts, validation_loss = self._validate()
        except ValueError as error:
            raise DataError(f"training diverged in epoch {len(state.history) + 1}: {error}") from None
        state.seconds += time.monotonic() - started
        state.history.append(
            EpochRecord(
                epoch=len(state.history) + 1,
                step=state.step,
                learning_rate=float(keras.ops.convert_to_numpy(learner.optimizer.learning_rate)),
                train_loss=state.loss / max(state.finite, 1),
                validation_loss=validation_loss,
                cer=counts.cer,
                wer=counts.wer,
                exact_match=counts.exact_match,
                images_per_second=images / state.epoch_seconds,
                non_finite=round(images - state.finite),
                seconds=state.seconds,
                symbol_errors=counts.symbol_errors,
            )
        )
        state.loss = state.finite = state.epoch_seconds = 0.0
        if choose_best_epoch(state.history) == len(state.history):
            state.best = learner.recogniser.get_weights()

    def _validate(self) -> tuple[ErrorCounts, float]:
        """Counts errors and computes the mean loss; each worker recognises its share, and all get the sums.

        Raises:
            ValueError: if the network gives logits that are not finite.
        """
        examples, cluster = self._judged, self._cluster
        counts = ErrorCounts()
        loss_sum = finite = 0.0
        batches = make_ordered_batches(examples, RECOGNISED_BATCH, cluster.worker, cluster.workers)
        for images, widths, indices in batches:
            logits, time_steps = self._learner.compute_logits(images, widths)
            self._learner.watchdog.report_alive()
            self._saver.save_if_due()
            labels, lengths = examples.get_labels(indices)
            losses = compute_ctc_loss(logits, time_steps, labels, lengths).numpy()
            loss_sum += float(losses[np.isfinite(losses)].sum())
            finite += float(np.isfinite(losses).sum())
            readings = decode_greedily(logits.numpy(), time_steps.numpy())
            for decoded, text in zip(readings, examples.read_texts(indices), strict=True):
                counts += ErrorCounts.from_texts(text, self._charset.decode(decoded.ids))
        *total, loss_sum, finite = cluster.sum_over_workers([*dataclasses.astuple(counts), loss_sum, finite])
        return ErrorCounts(*map(round, total)), float(loss_sum / finite) if finite else math.inf

    def _estimate_seconds_left(self) -> float:
        return self._state.seconds / max(self._state.step, 1) * (self._steps - self._state.step)
