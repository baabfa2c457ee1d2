"""The training loop: one program on every worker of a `MultiWorkerMirroredStrategy`.

Keras' own `fit` fails under this strategy with two workers, so the loop is written out.
Every worker runs this module with the same request; one worker is a cluster of one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from components.ctc.decoding import decode_greedily
from components.ctc.loss import compute_ctc_loss
from components.metrics import ErrorCounts
from components.training.checkpoints import Checkpoints
from components.training.data import Examples, load_examples, make_evaluation_batches
from components.training.history import EpochRecord, HistoryWriter, choose_best_epoch, is_finished
from components.training.learner import Learner, TrainingCluster
from components.training.lost import TrainingLost, Watchdog
from components.training.place import ClusterPlace
from components.training.progress import Progress
from components.training.request import TrainingRequest
from components.training.result import EVALUATION_BATCH, write_model
from components.training.state import CheckpointSaver, TrainingState
from tfrecords import Charset, DataError, DatasetManifest, count_adjacent_repeats

_LOOK_EVERY = 5
"""Steps between looks at their results; a look waits for the devices."""


def train(
    request: TrainingRequest,
    say: Callable[[str], None] = print,
    watchdog: Watchdog | None = None,
    *,
    live: bool = False,
) -> None:
    """Trains a model and, on the chief, writes it to the output folder.

    Goes on from the newest checkpoint, if there is one. The weights kept are those that
    `choose_best_epoch` says. Progress goes to `say`, on the chief alone.

    Args:
        watchdog: to be told that the other workers still work with this one.
        live: whether standard output is a terminal that somebody looks at.

    Raises:
        DataError: if the dataset cannot train this model, or training diverges.
        TrainingLost: if other workers or a device are gone.
    """
    try:
        _train(request, say, watchdog or Watchdog(1), live)
    except tf.errors.ResourceExhaustedError as error:
        raise DataError(
            f"a device has not enough memory for --batch_size={request.batch_size}: give a smaller one "
            f"({get_first_line(error)})"
        ) from None
    except _LOST as error:
        print(error, file=sys.stderr)
        raise TrainingLost(f"lost the other workers, or a device failed ({type(error).__name__})") from None


_LOST = (
    tf.errors.UnavailableError,
    tf.errors.DeadlineExceededError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.InternalError,
    tf.errors.UnknownError,
)


def _train(request: TrainingRequest, say: Callable[[str], None], watchdog: Watchdog, live: bool) -> None:
    manifest = DatasetManifest.read(request.dataset_folder)
    charset = manifest.read_charset(request.dataset_folder)
    place = ClusterPlace.of(os.environ)
    chief = place is None or place.chief
    say_here = say
    if not chief:
        say, live = _say_nothing, False
    checkpoints = Checkpoints(request.checkpoint_folder)
    checkpoint = checkpoints.latest(say)
    state = TrainingState() if checkpoint is None else TrainingState.of(checkpoint)
    if is_finished(
        state.history, request.epochs, request.patience
    ):  # nobody else is needed, and the others may be gone
        watchdog.expect(0)
        if chief:
            say("training was finished before; only the model was not written yet")
            examples = load_examples(request.dataset_folder, manifest, "train")
            validation = load_examples(request.dataset_folder, manifest, "validation")
            with explain_write_errors("the model", request.output_folder):
                HistoryWriter(request.output_folder, state.history).close()
                write_model(request, charset, examples, validation, manifest.height, state, say)
        return
    say_here(_describe_devices(place))
    cluster = TrainingCluster.join()  # before anything else of TensorFlow's
    watchdog.expect(request.start_timeout_s)
    _agree_on_start(cluster, request, manifest, charset, state)
    if request.batch_size % cluster.replicas:
        raise DataError(
            f"--batch_size={request.batch_size} cannot be shared equally by {cluster.replicas} replicas: "
            f"give a multiple of {cluster.replicas}"
        )
    examples = load_examples(request.dataset_folder, manifest, "train")
    validation = load_examples(request.dataset_folder, manifest, "validation")
    per_epoch = -(-len(examples) // request.batch_size)
    steps = per_epoch * request.epochs
    learner = Learner(cluster, request, charset, manifest.height, steps, watchdog)
    _refuse_labels_that_never_fit(learner.reader, examples, request.model)
    say(
        f"training {request.model} ({learner.model.count_params():,} weights, {charset.classes - 1} symbols) on "
        f"{len(examples):,} images for {request.epochs} epochs of {per_epoch} steps; {cluster.workers} "
        f"worker{'s' * (cluster.workers > 1)} with {len(cluster.replicas_here)} {_get_device_kind()} each"
    )
    if not len(validation):
        say("the validation split is empty: the best epoch is chosen on the training images themselves")
    if checkpoint is not None:
        learner.restore(checkpoint, request.checkpoint_folder)
    if state.step:
        say(f"going on from the checkpoint of step {state.step:,} (epoch {len(state.history) + 1})")

    watchdog.expect(request.stall_timeout_s)
    progress = Progress(say, request.epochs, per_epoch, live=live)
    with explain_write_errors("the history", request.output_folder):
        writer = HistoryWriter(request.output_folder, state.history) if chief else None
    saver = CheckpointSaver(checkpoints if chief else None, learner, state, request.checkpoint_every_s)
    watchdog.end_gently()
    batches = learner.batches(examples, range(state.step, steps))
    while not is_finished(state.history, request.epochs, request.patience):
        _train_epoch(request, learner, batches, per_epoch, state, progress, saver)
        _close_epoch(
            cluster,
            learner,
            validation if len(validation) else examples,
            charset,
            per_epoch * request.batch_size,
            state,
            saver,
        )
        progress.epoch(
            state.history[-1],
            _estimate_seconds_left(state, steps),
            last=is_finished(state.history, request.epochs, request.patience),
        )
        if writer is not None:
            with explain_write_errors("the history", request.output_folder):
                writer.add(state.history[-1])
        saver.save_if_due()
    saver.save()
    cluster.sum_over_workers([0.0])  # nobody leaves before the last checkpoint is there
    watchdog.expect(0)
    best = state.history[choose_best_epoch(state.history) - 1]
    early = f"; stopped after {len(state.history)}: none was better for {request.patience} epochs"
    say(
        f"trained for {state.seconds:.0f} s; kept are the weights of epoch {best.epoch}, with a CER of {best.cer:.2%}"
        f"{early * (len(state.history) < request.epochs)}"
    )
    if writer is not None:
        with explain_write_errors("the model", request.output_folder):
            writer.close()
            write_model(request, charset, examples, validation, manifest.height, state, say)


@contextlib.contextmanager
def explain_write_errors(what: str, folder: str) -> Iterator[None]:
    """Says of what cannot be written why that is; TensorFlow calls a full disk an exhausted resource."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or get_first_line(error)
        raise DataError(
            f"{what} cannot be written to {folder}: {reason}; mend that, and the same command goes on"
        ) from error


def _train_epoch(
    request: TrainingRequest,
    learner: Learner,
    batches: Iterator,
    per_epoch: int,
    state: TrainingState,
    progress: Progress,
    saver: CheckpointSaver,
) -> None:
    """The steps of an epoch, or those that are left of it."""
    epoch = len(state.history) + 1
    until = epoch * per_epoch
    started = time.monotonic()
    pending: list[tuple] = []
    while state.step < until:
        pending.append(learner.step(batches))
        learner.watchdog.alive()
        if len(pending) < _LOOK_EVERY and state.step + len(pending) < until:
            continue
        for loss, finite, left_out in pending:
            state.loss += float(loss)
            state.finite += float(finite)
            if float(finite) < request.batch_size:  # the same on every worker, so that all of them gather
                state.left_out.update(index for index in learner.gather(left_out).tolist() if index >= 0)
        state.step += len(pending)
        pending.clear()
        now = time.monotonic()
        state.epoch_seconds += now - started
        state.seconds += now - started
        started = now
        done = per_epoch - (until - state.step)
        progress.step(
            epoch,
            done,
            state.loss / max(state.finite, 1),
            done * request.batch_size / state.epoch_seconds,
            _estimate_seconds_left(state, per_epoch * request.epochs),
        )
        if state.step < until:  # at the end it is first read what the epoch has brought
            saver.save_if_due()


def _close_epoch(
    cluster: TrainingCluster,
    learner: Learner,
    validation: Examples,
    charset: Charset,
    images: int,
    state: TrainingState,
    saver: CheckpointSaver,
) -> None:
    """Reads the validation lines and adds the epoch, with so many images trained on, to the history."""
    started = time.monotonic()
    learner.reader.set_weights(learner.model.get_weights())
    try:
        counts, validation_loss = _validate(cluster, learner, validation, charset, saver)
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
        state.best = learner.reader.get_weights()


def _say_nothing(_line: str) -> None:
    pass


def get_first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _describe_devices(place: ClusterPlace | None) -> str:
    """What this worker can train on, and whom it waits for."""
    gpus = tf.config.list_physical_devices("GPU")
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", "of unknown kind") for gpu in gpus]
    cores = len(os.sched_getaffinity(0))
    found = f"{len(gpus)} GPU{'s' * (len(gpus) > 1)} ({', '.join(sorted(set(names)))})" if gpus else "no GPU"
    said = f"found {found} and {cores} processor core{'s' * (cores > 1)}: training on the {'GPU' if gpus else 'CPU'}"
    others = len(place.addresses) - 1 if place else 0
    return said + (f", when {others} other worker{'s are' if others > 1 else ' is'} there" if others else "")


def _get_device_kind() -> str:
    return (tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU"))[0].device_type


def _estimate_seconds_left(state: TrainingState, steps: int) -> float:
    return state.seconds / max(state.step, 1) * (steps - state.step)


def _agree_on_start(
    cluster: TrainingCluster,
    request: TrainingRequest,
    manifest: DatasetManifest,
    charset: Charset,
    state: TrainingState,
) -> None:
    """Raises an error unless all workers train the same thing from the same step."""
    what = {
        **dataclasses.asdict(request),
        **dict.fromkeys(("dataset_folder", "output_folder", "checkpoint_folder"), ""),  # each may have its own
        "init_from": request.init_from is not None,
        "dataset": (manifest.dataset_id, charset.digest),
    }
    mine = np.array([zlib.crc32(json.dumps(what, sort_keys=True).encode()), state.step], np.float64)
    same = cluster.sum_over_workers(mine.tolist()) == mine * cluster.workers
    if not same[0]:
        raise DataError(
            f"the workers were given different things to train: worker {cluster.worker} has --model={request.model} "
            f"--epochs={request.epochs} --batch_size={request.batch_size} --learning_rate={request.learning_rate:g} "
            f"--seed={request.seed} on dataset {manifest.dataset_id}; give all of them the same flags and workspace"
        )
    if not same[1]:
        raise TrainingLost(
            f"the workers do not see the same checkpoints: worker {cluster.worker} would go on from step {state.step}; "
            "the workspace must be a folder that all of them share"
        )


def _validate(
    cluster: TrainingCluster, learner: Learner, examples: Examples, charset: Charset, saver: CheckpointSaver
) -> tuple[ErrorCounts, float]:
    """Error counts and mean loss over a whole split; each worker reads its share, and all get the sums.

    Raises:
        ValueError: if the network gives logits that are not finite.
    """
    counts = ErrorCounts()
    all_lengths = examples.label_lengths
    loss_sum = finite = 0.0
    for images, widths, indices in make_evaluation_batches(examples, EVALUATION_BATCH, cluster.worker, cluster.workers):
        logits, time_steps = learner.read(images, widths)
        learner.watchdog.alive()
        saver.save_if_due()
        lengths = all_lengths[indices]
        labels = np.zeros((len(indices), lengths.max()), np.int32)
        for row, i in zip(labels, indices, strict=True):
            row[: len(examples.label(i))] = examples.label(i)
        losses = compute_ctc_loss(logits, time_steps, labels, lengths).numpy()
        loss_sum += float(losses[np.isfinite(losses)].sum())
        finite += float(np.isfinite(losses).sum())
        for decoded, i in zip(decode_greedily(logits.numpy(), time_steps.numpy()), indices, strict=True):
            counts += ErrorCounts.of(examples.texts[i], charset.decode(decoded.ids))
    *total, loss_sum, finite = cluster.sum_over_workers([*dataclasses.astuple(counts), loss_sum, finite])
    return ErrorCounts(*map(round, total)), float(loss_sum / finite) if finite else math.inf


def _refuse_labels_that_never_fit(reader: keras.Model, examples: Examples, name: str) -> None:
    """A network of fixed width may give fewer time steps than the stride that ingest checked against."""
    steps = reader.get_layer("time_steps")(tf.constant(examples.widths)).numpy()
    repeats = np.array([count_adjacent_repeats(examples.label(i).tolist()) for i in range(len(examples))])
    needed = examples.label_lengths + repeats
    if (needed > steps).any():
        worst = int(np.argmax(needed - steps))
        raise DataError(
            f"--model={name} gives {steps[worst]} time steps, too few for {np.count_nonzero(needed > steps)} of "
            f"{len(examples)} labels: "
            f'"{examples.texts[worst]}" of {examples.uris[worst]} needs {needed[worst]}; use --model=ctc_conv'
        )
