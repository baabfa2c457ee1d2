"""The training program: every worker of a `MultiWorkerMirroredStrategy` runs it with the same request.

Keras' own `fit` fails under this strategy with two workers, so `components.training.epochs` writes the loop out.
One worker is a cluster of one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import sys
import zlib
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from components.training.best_epoch import choose_best_epoch, is_finished
from components.training.checkpoints import Checkpoint, Checkpoints
from components.training.data import Examples, load_examples
from components.training.diagnosis import DOUBTFUL_CER, explain_weakness, find_first_reading, get_lowest_cer
from components.training.epochs import EpochLoop
from components.training.history import HistoryWriter
from components.training.inspection import explain_constant_answers, inspect_training
from components.training.learner import Learner, TrainingCluster
from components.training.place import ClusterPlace
from components.training.progress import Progress
from components.training.request import TrainingRequest
from components.training.result import write_model
from components.training.state import CheckpointSaver, TrainingState
from components.training.watchdog import TrainingLost, Watchdog
from tfrecords import Charset, DataError, DatasetManifest

log = logging.getLogger(__name__)

_CHECKED_AT_A_TIME = 10_000  # lines

_LOST = (
    tf.errors.UnavailableError,
    tf.errors.DeadlineExceededError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.InternalError,
    tf.errors.UnknownError,
)


def train(request: TrainingRequest, watchdog: Watchdog | None = None, *, live: bool = False) -> None:
    """Trains a model and, on the chief, writes it to the output folder.

    Resumes from the newest checkpoint, if there is one. Keeps the weights of the epoch that
    `choose_best_epoch` chooses. The chief alone logs progress.

    Args:
        watchdog: hears that the other workers still work with this one.
        live: whether standard output is a terminal that somebody looks at.

    Raises:
        DataError: if the dataset cannot train this model, or training diverges.
        TrainingLost: if other workers or a device are gone.
    """
    try:
        _train(request, watchdog or Watchdog(1), live)
    except tf.errors.ResourceExhaustedError as error:
        raise DataError(
            f"a device has not enough memory for --batch_size={request.batch_size}: give a smaller one "
            f"({_get_first_line(error)})"
        ) from None
    except _LOST as error:
        print(error, file=sys.stderr)
        raise TrainingLost(f"lost the other workers, or a device failed ({type(error).__name__})") from None


def _train(request: TrainingRequest, watchdog: Watchdog, live: bool) -> None:
    start = _Start.find(request)
    if is_finished(start.state.history, request.epochs, request.patience, request.least_steps):
        watchdog.expect(0)  # the other workers are not needed, and may be gone
        if start.is_chief:
            log.info("training had already finished: only the model is still to be written")
            splits = _Splits.load(request, start, watchdog)
            with _open_history(request, start.state):
                pass
            _write_model(request, start, splits)
        return
    log.info(_describe_devices(start.place))
    cluster = _join_cluster(request, start, watchdog)
    splits = _Splits.load(request, start, watchdog)
    learner = _prepare_learner(request, start, cluster, splits, watchdog)
    try:
        _run_epochs(request, start, cluster, learner, splits, live)
    except tf.errors.OpError:
        if splits.train.index.failures:  # it comes through TensorFlow as an error that says little
            raise splits.train.index.failures[0] from None
        raise
    watchdog.expect(0)
    if start.is_chief:
        _log_end(request, start, learner, splits)
        _write_model(request, start, splits)


@dataclasses.dataclass(frozen=True)
class _Start:
    """Everything that a worker knows before it meets the others.

    Attributes:
        place: in the cluster; None for a worker that trains alone.
        manifest: of the dataset.
        dataset_charset: of the dataset, by whose ids its labels are encoded.
        charset: of the model; it has the symbols of the dataset, and those that the request keeps.
        checkpoint: the one to resume from, or None.
        state: of the training, as that checkpoint holds it; changes from here on.
    """

    place: ClusterPlace | None
    manifest: DatasetManifest
    dataset_charset: Charset
    charset: Charset
    checkpoints: Checkpoints
    checkpoint: Checkpoint | None
    state: TrainingState

    @classmethod
    def find(cls, request: TrainingRequest) -> _Start:
        """Reads the manifest of the dataset and the newest checkpoint."""
        manifest = DatasetManifest.read(request.dataset_folder)
        dataset_charset = manifest.read_charset(request.dataset_folder)
        charset = dataset_charset.add(request.kept_symbols)
        place = ClusterPlace.from_environment(os.environ)
        checkpoints = Checkpoints(request.checkpoint_folder)
        checkpoint = checkpoints.find_latest()
        state = TrainingState() if checkpoint is None else TrainingState.from_checkpoint(checkpoint)
        return cls(place, manifest, dataset_charset, charset, checkpoints, checkpoint, state)

    @property
    def is_chief(self) -> bool:
        """Checks whether this worker writes checkpoints and the model, and logs progress."""
        return self.place is None or self.place.is_chief


@dataclasses.dataclass(frozen=True)
class _Splits:
    """The splits of a dataset that a training uses."""

    train: Examples
    validation: Examples

    @classmethod
    def load(cls, request: TrainingRequest, start: _Start, watchdog: Watchdog) -> _Splits:
        """Opens both splits; the first worker of a machine to do so reads their shards once."""
        folder, manifest, index = request.dataset_folder, start.manifest, request.index_folder
        splits = [
            load_examples(folder, manifest, split, index, watchdog.report_alive) for split in ("train", "validation")
        ]
        return cls(*(split.change_charset(start.dataset_charset, start.charset) for split in splits))

    @property
    def judged(self) -> Examples:
        """Lines on which the best epoch is chosen: validation lines, or the training lines if there are none."""
        return self.validation if len(self.validation) else self.train


def _join_cluster(request: TrainingRequest, start: _Start, watchdog: Watchdog) -> TrainingCluster:
    """Waits for all workers, and checks that they are to train the same.

    Raises:
        DataError: if their flags or datasets differ, or the batches cannot be shared.
        TrainingLost: if they do not see the same checkpoints.
    """
    cluster = TrainingCluster.join()  # before anything else of TensorFlow's
    watchdog.expect(request.start_timeout_s)
    _agree_on_start(cluster, request, start)
    if request.batch_size % cluster.replicas:
        raise DataError(
            f"--batch_size={request.batch_size} cannot be shared equally by {cluster.replicas} replicas: "
            f"give a multiple of {cluster.replicas}"
        )
    return cluster


def _prepare_learner(
    request: TrainingRequest, start: _Start, cluster: TrainingCluster, splits: _Splits, watchdog: Watchdog
) -> Learner:
    """Builds the network and, if there is a checkpoint, restores it."""
    steps = _count_steps_per_epoch(request, splits) * request.epochs
    images = len(splits.train)
    learner = Learner(cluster, request, start.charset, start.manifest.height, images, steps, watchdog)
    _refuse_labels_that_never_fit(learner.recogniser, splits.train, request.model)
    if start.is_chief:
        _log_start(cluster, learner, request, start.charset, splits)
    if start.checkpoint is not None:
        learner.restore(start.checkpoint, request.checkpoint_folder)
    if start.state.step and start.is_chief:
        log.info(f"resuming from the checkpoint of step {start.state.step:,} (epoch {len(start.state.history) + 1})")
    watchdog.expect(request.stall_timeout_s)
    return learner


def _run_epochs(
    request: TrainingRequest, start: _Start, cluster: TrainingCluster, learner: Learner, splits: _Splits, live: bool
) -> None:
    """Trains the epochs that are left, with history and checkpoints.

    Raises:
        DataError: if training diverged, or history or checkpoints cannot be written.
        TrainingLost: if somebody ends the training.
    """
    state = start.state
    with (
        _open_history(request, state) if start.is_chief else contextlib.nullcontext() as history,
        Progress(
            request.epochs, _count_steps_per_epoch(request, splits), quiet=not start.is_chief, live=live
        ) as progress,
    ):
        saver = CheckpointSaver(
            start.checkpoints if start.is_chief else None, learner, state, request.checkpoint_every_s
        )
        learner.watchdog.end_gently()
        loop = EpochLoop(request, cluster, learner, splits.train, splits.judged, start.charset, state, saver, progress)
        while not is_finished(state.history, request.epochs, request.patience, request.least_steps):
            loop.run_epoch()
            if history is not None:
                with _explain_write_errors("the history", request.output_folder):
                    history.add(state.history[-1])
            saver.save_if_due()
        saver.save()
        cluster.sum_over_workers([0.0])  # nobody leaves before the last checkpoint is there


def _count_steps_per_epoch(request: TrainingRequest, splits: _Splits) -> int:
    return -(-len(splits.train) // request.batch_size)


@contextlib.contextmanager
def _explain_write_errors(subject: str, folder: str) -> Iterator[None]:
    """Turns a failed write into an error that says why; TensorFlow calls a full disk an exhausted resource.

    Args:
        subject: of the sentence, such as `the model`.

    Raises:
        DataError: for an `OSError` or an error of TensorFlow's inside the block.
    """
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or _get_first_line(error)
        raise DataError(
            f"{subject} cannot be written to {folder}: {reason}; correct that and run the same command to resume"
        ) from error


@contextlib.contextmanager
def _open_history(request: TrainingRequest, state: TrainingState) -> Iterator[HistoryWriter]:
    """Opens the history files, with the epochs that are finished already, and closes them at the end."""
    with _explain_write_errors("the history", request.output_folder):
        writer = HistoryWriter(request.output_folder, state.history)
    yield writer
    with _explain_write_errors("the history", request.output_folder):
        writer.close()


def _write_model(request: TrainingRequest, start: _Start, splits: _Splits) -> None:
    with _explain_write_errors("the model", request.output_folder):
        write_model(request, start.charset, splits.train, splits.validation, start.manifest, start.state)


def _get_first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


# Checks before the first step


def _agree_on_start(cluster: TrainingCluster, request: TrainingRequest, start: _Start) -> None:
    """Raises an error unless all workers train the same thing from the same step."""
    task = {
        **dataclasses.asdict(request),
        # These may differ between workers.
        **dict.fromkeys(("dataset_folder", "output_folder", "checkpoint_folder", "index_folder"), ""),
        "init_from": request.init_from is not None,
        "texts": request.texts is not None,
        "dataset": (start.manifest.dataset_id, start.charset.digest),
    }
    own = np.array([zlib.crc32(json.dumps(task, sort_keys=True).encode()), start.state.step], np.float64)
    same = cluster.sum_over_workers(own.tolist()) == own * cluster.workers
    if not same[0]:
        raise DataError(
            f"the workers were given different things to train: worker {cluster.worker} has --model={request.model} "
            f"--epochs={request.epochs} --batch_size={request.batch_size} --learning_rate={request.learning_rate:g} "
            f"--seed={request.seed} on dataset {start.manifest.dataset_id}; give all of them the same "
            "flags and workspace"
        )
    if not same[1]:
        raise TrainingLost(
            f"the workers do not see the same checkpoints: worker {cluster.worker} would resume from step "
            f"{start.state.step}; the workspace must be a folder that all of them share"
        )


def _refuse_labels_that_never_fit(recogniser: keras.Model, examples: Examples, name: str) -> None:
    """Checks labels against the network's own time steps; one of fixed width may give fewer than ingest counted.

    Raises:
        DataError: if a label needs more time steps than its image gives.
    """
    count, worst, lacking, given = 0, 0, 0, 0
    for start in range(0, len(examples), _CHECKED_AT_A_TIME):
        lines = np.arange(start, min(start + _CHECKED_AT_A_TIME, len(examples)))
        steps = recogniser.get_layer("time_steps")(tf.constant(examples.widths[lines])).numpy()
        missing = examples.count_time_steps(lines) - steps
        count += int(np.count_nonzero(missing > 0))
        if missing.max() > lacking:
            at = int(missing.argmax())
            lacking, worst, given = int(missing[at]), int(lines[at]), int(steps[at])
    if count:
        raise DataError(
            f"--model={name} gives {given} time steps, too few for {count} of {len(examples)} labels: "
            f'"{examples.read_texts([worst])[0]}" of {examples.read_uris([worst])[0]} needs {given + lacking}; '
            "use --model=ctc_conv"
        )


# Log lines


def _describe_devices(place: ClusterPlace | None) -> str:
    """Says what this worker trains on, and whom it waits for."""
    gpus = tf.config.list_physical_devices("GPU")
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", "of unknown kind") for gpu in gpus]
    cores = len(os.sched_getaffinity(0))
    devices = f"{len(gpus)} GPU{'s' * (len(gpus) > 1)} ({', '.join(sorted(set(names)))})" if gpus else "no GPU"
    line = f"found {devices} and {cores} processor core{'s' * (cores > 1)}: training on the {'GPU' if gpus else 'CPU'}"
    others = len(place.addresses) - 1 if place else 0
    return line + (f" once {others} other worker{'s are' if others > 1 else ' is'} there" if others else "")


def _log_start(
    cluster: TrainingCluster,
    learner: Learner,
    request: TrainingRequest,
    charset: Charset,
    splits: _Splits,
) -> None:
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    log.info(
        f"training {request.model} ({learner.model.count_params():,} weights, {charset.classes - 1} symbols) on "
        f"{len(splits.train):,} images for {request.epochs} epochs of "
        f"{_count_steps_per_epoch(request, splits)} steps; {cluster.workers} "
        f"worker{'s' * (cluster.workers > 1)} with {len(cluster.replicas_here)} {devices[0].device_type} each"
    )
    if not len(splits.validation):
        log.info("the validation split is empty: the best epoch is chosen on the training images themselves")


def _log_end(request: TrainingRequest, start: _Start, learner: Learner, splits: _Splits) -> None:
    state, charset = start.state, start.charset
    first = find_first_reading(state.history)
    if first is not None:
        log.info(f"reading began in epoch {first.epoch}, after {first.seconds:.0f} s")
    constant, causes = None, []
    if get_lowest_cer(state.history) > DOUBTFUL_CER:
        learner.recogniser.set_weights(state.best)
        constant = explain_constant_answers(learner.compute_logits, splits.judged, charset)
        if first is None or constant is not None:
            height = start.manifest.height
            causes = inspect_training(request, charset, height, learner.compute_logits, splits.train, splits.validation)
    weakness = explain_weakness(
        state.history,
        request.learning_rate,
        has_validation=len(splits.validation) > 0,
        constant=None if first is None else constant,
        causes=causes,
    )
    if weakness is not None:
        log.warning(weakness)
    epochs = len(state.history)
    best = state.history[choose_best_epoch(state.history) - 1]
    early = f"; stopped after epoch {epochs}: none was better for {request.patience} epochs"
    log.info(
        f"trained for {state.seconds:.0f} s; kept the weights of epoch {best.epoch}, with a CER of {best.cer:.2%}"
        f"{early * (epochs < request.epochs)}"
    )
