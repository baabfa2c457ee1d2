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
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from components import plots
from components.evaluation.metrics import ErrorCounts
from components.inference.calibration import ENOUGH_LINES, fit_temperature
from components.inference.decoding import decode_greedily
from components.models import CALIBRATION_NAME, PLOTS_NAME
from components.training.checkpoints import Checkpoint, Checkpoints
from components.training.cluster import ClusterPlace
from components.training.ctc import compute_ctc_loss
from components.training.data import Examples, load_examples, make_evaluation_batches, make_training_batches
from components.training.export import export_model, make_input_signature
from components.training.history import EpochRecord, HistoryWriter, choose_best_epoch, is_finished
from components.training.networks import NETWORKS
from components.training.progress import Progress
from components.training.recipes import RECIPES, Recipe
from components.training.worker import TrainingLost, Watchdog
from tfrecords import Charset, DataError, DatasetManifest, count_adjacent_repeats, storage

LEFT_OUT_NAME = "left_out.json"

_WARM_UP = 0.1
EVALUATION_BATCH = 64
_SHOWN = 16
_LOOK_EVERY = 5
"""Steps between looks at their results; a look waits for the devices."""
_BFLOAT16_FROM = (8, 0)
"""Compute capability from which NVIDIA GPUs multiply bfloat16 faster than float32."""


@dataclasses.dataclass(frozen=True)
class TrainingRequest:
    """What a model is trained from and with; the same on every worker.

    Attributes:
        dataset_folder: of a committed dataset, local.
        output_folder: local; the chief writes the model here.
        checkpoint_folder: local or remote, the same for all workers.
        model: a name in `NETWORKS`.
        epochs, batch_size, learning_rate: `batch_size` is that of all replicas together.
        patience: epochs without a better one after which training ends.
        seed: of the weights' start, the order of examples and the distortions.
        init_from: the `.keras` file, local, of a model of the same network, whose weights are the
            start; or None.
        init_symbols: that model's charset.
        checkpoint_every_s: seconds between checkpoints, which come at the next look or epoch's end.
        start_timeout_s: seconds that a worker waits for the others to come.
        stall_timeout_s: seconds that it waits for them later, such as for one that hangs.
        precision: of the network's arithmetic, a Keras dtype policy; None for what suits the devices.
    """

    dataset_folder: str
    output_folder: str
    checkpoint_folder: str
    model: str
    epochs: int
    batch_size: int
    learning_rate: float
    patience: int
    seed: int
    init_from: str | None = None
    init_symbols: Sequence[str] = ()
    checkpoint_every_s: float = 60.0
    start_timeout_s: float = 600.0
    stall_timeout_s: float = 300.0
    precision: str | None = None


@dataclasses.dataclass(frozen=True)
class TrainingCluster:
    """This worker's place among all."""

    strategy: tf.distribute.MultiWorkerMirroredStrategy
    worker: int
    workers: int

    @classmethod
    def join(cls) -> TrainingCluster:
        """The cluster that `TF_CONFIG` names, once all of it is there, or one of this process alone."""
        place = ClusterPlace.of(os.environ)
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        return cls(strategy, place.worker if place else 0, len(place.addresses) if place else 1)

    @property
    def replicas(self) -> int:
        return self.strategy.num_replicas_in_sync

    @property
    def replicas_here(self) -> range:
        """Which of all replicas this worker runs."""
        each = self.replicas // self.workers
        return range(self.worker * each, (self.worker + 1) * each)

    def sum_over_workers(self, values: Sequence[float]) -> np.ndarray:
        """The sums of every worker's values, float64, on all of them."""
        mine = tf.constant(values, tf.float64)
        first = self.replicas_here.start
        shares = self.strategy.experimental_distribute_values_from_function(
            lambda context: mine if context.replica_id_in_sync_group == first else tf.zeros_like(mine)
        )
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, shares, axis=None).numpy()


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


def _choose_precision() -> str:
    """bfloat16 where every device multiplies it faster than float32; else float32."""
    gpus = tf.config.list_physical_devices("GPU")
    capable = [
        tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) >= _BFLOAT16_FROM
        for gpu in gpus
    ]
    return "mixed_bfloat16" if gpus and all(capable) else "float32"


class Learner:
    """The network on all replicas with its optimiser, and the same network for reading."""

    def __init__(
        self,
        cluster: TrainingCluster,
        request: TrainingRequest,
        charset: Charset,
        height: int,
        steps: int,
        watchdog: Watchdog,
    ):
        self.watchdog = watchdog
        self._cluster, self._request = cluster, request
        build, recipe = NETWORKS[request.model], RECIPES[request.model]
        keras.utils.set_random_seed(request.seed)
        with cluster.strategy.scope():
            before = keras.config.dtype_policy()
            keras.config.set_dtype_policy(request.precision or _choose_precision())
            try:
                self.model = build(charset.classes, height, cluster.replicas > 1)
            finally:
                keras.config.set_dtype_policy(before)
            self.optimizer = _make_optimizer(request, recipe, steps)
            self.optimizer.build(self.model.trainable_variables)
        # What reads validation lines and is exported knows nothing of the strategy or of bfloat16.
        self.reader = build(charset.classes, height, False)
        if request.init_from is not None:
            copy_weights(self.model, request.init_from, request.init_symbols, charset)
        self.step = _make_training_step(
            cluster.strategy, self.model, self.optimizer, request.batch_size, recipe.clip_norm
        )
        self.read = make_logits_function(self.reader, height)

    def batches(self, examples: Examples, steps: range) -> Iterator:
        """The global batches of some steps, this worker's slices of them."""
        request, replicas = self._request, self._cluster.replicas
        return iter(
            self._cluster.strategy.distribute_datasets_from_function(
                lambda _context: make_training_batches(
                    examples,
                    batch_size=request.batch_size,
                    seed=request.seed,
                    steps=steps,
                    replicas=self._cluster.replicas_here,
                    replica_batch_size=request.batch_size // replicas,
                    augment=RECIPES[request.model].augment,
                )
            )
        )

    def gather(self, values: Any) -> np.ndarray:
        """Every replica's values, one after the other."""
        return self._cluster.strategy.gather(values, axis=0).numpy()

    def arrays(self, best: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Weights, optimiser and random state, and the best weights so far, by name."""
        groups = {"model": self.model.variables, "optimizer": self.optimizer.variables, "best": best}
        return {
            f"{group}/{i}": keras.ops.convert_to_numpy(value)
            for group, values in groups.items()
            for i, value in enumerate(values)
        }

    def restore(self, checkpoint: Checkpoint, checkpoint_folder: str) -> None:
        """Puts everything back as it was; on every worker."""
        for group, variables in (("model", self.model.variables), ("optimizer", self.optimizer.variables)):
            values = pick_arrays(group, checkpoint)
            if [value.shape for value in values] != [tuple(variable.shape) for variable in variables]:
                raise DataError(
                    "the checkpoint to go on from is of another network or optimiser: delete "
                    f"{checkpoint_folder} to start anew"
                )
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)


def pick_arrays(group: str, checkpoint: Checkpoint) -> list[np.ndarray]:
    count = sum(name.startswith(f"{group}/") for name in checkpoint.arrays)
    return [checkpoint.arrays[f"{group}/{i}"] for i in range(count)]


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


def copy_weights(model: keras.Model, path: str, symbols: Sequence[str], charset: Charset) -> None:
    """Copies the weights of a trained model into another of the same network, symbol by symbol.

    Symbols that both charsets have, and the blank, keep their weights; new ones keep their random
    start; symbols that only the old model knows are dropped.

    Args:
        path: of the trained model's `.keras` file.
        symbols: that the trained model knows, in its order.
        charset: of `model`.

    Raises:
        DataError: if it is another network, or one for lines of another height.
    """
    old = keras.saving.load_model(path, compile=False, safe_mode=True)
    places = {symbol: i for i, symbol in enumerate((*symbols, None))}  # None stands for the blank, the last class
    classes = [(new, places[symbol]) for new, symbol in enumerate((*charset.symbols, None)) if symbol in places]
    new_classes, old_classes = map(list, zip(*classes, strict=True))
    if len(model.layers) != len(old.layers):
        raise DataError(f"the model in {path} is of another network than {model.name}")
    for layer, old_layer in zip(model.layers, old.layers, strict=True):
        weights, old_weights = layer.get_weights(), old_layer.get_weights()
        if layer.name == "logits":
            for mine, its in zip(weights, old_weights, strict=True):
                mine[..., new_classes] = its[..., old_classes]
            old_weights = weights
        if [mine.shape for mine in weights] != [its.shape for its in old_weights]:
            raise DataError(f"the model in {path} is {old.name} of another size than {model.name} here")
        layer.set_weights(old_weights)


def _make_optimizer(request: TrainingRequest, recipe: Recipe, steps: int) -> keras.optimizers.Optimizer:
    rate = request.learning_rate
    if recipe.one_cycle:
        warm_up = max(1, int(steps * _WARM_UP))
        rate = keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=rate / 25,
            decay_steps=max(1, steps - warm_up),
            alpha=0.01,
            warmup_target=rate,
            warmup_steps=warm_up,
        )
    if recipe.weight_decay:
        optimizer = keras.optimizers.AdamW(rate, weight_decay=recipe.weight_decay)
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        return optimizer
    return keras.optimizers.Adam(rate)


def _make_training_step(
    strategy: tf.distribute.Strategy, model: keras.Model, optimizer, batch_size: int, clip_norm: float
) -> Callable:
    """One step over a global batch.

    The gradient is that of the sum of all finite losses divided by the global batch size,
    whatever the number of replicas; it is summed over replicas before it is clipped.

    Returns:
        A function of the iterator to the summed loss, the number of examples with a finite
        loss, both of the global batch, and, on each replica, int32 [n], the indices of its
        examples without one, -1 in the place of the others.
    """
    replicas = strategy.num_replicas_in_sync
    shapes = [*(variable.shape for variable in model.trainable_variables), tf.TensorShape([]), tf.TensorShape([])]

    def on_replica(batch):
        with tf.GradientTape() as tape:
            outputs = model([batch["images"], batch["widths"]], training=True)
            losses = compute_ctc_loss(outputs["logits"], outputs["time_steps"], batch["labels"], batch["label_lengths"])
            finite = tf.math.is_finite(losses)
            losses = tf.where(finite, losses, 0.0)
            loss = tf.reduce_sum(losses) / batch_size
        gradients = tape.gradient(loss, model.trainable_variables)
        # Summed before they are clipped, in one piece; the optimiser sums what it is given once more.
        parts = [*gradients, tf.reduce_sum(losses), tf.reduce_sum(tf.cast(finite, tf.float32))]
        flat = tf.concat([tf.reshape(part, [-1]) for part in parts], 0)
        flat = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, flat)
        split = tf.split(flat, [shape.num_elements() for shape in shapes])
        *gradients, loss, count = (tf.reshape(piece, shape) for piece, shape in zip(split, shapes, strict=True))
        norm = tf.linalg.global_norm(gradients)
        scale = tf.where(norm > clip_norm, clip_norm / norm, 1.0) / replicas
        usable = tf.math.is_finite(norm)  # else the whole batch is left out
        gradients = [tf.where(usable, gradient * scale, 0.0) for gradient in gradients]
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return (
            tf.where(usable, loss, 0.0),
            tf.where(usable, count, 0.0),
            tf.where(finite & usable, -1, batch["indices"]),
        )

    @tf.function
    def step(iterator):
        loss, finite, left_out = strategy.run(on_replica, args=(next(iterator),))
        loss, finite = (strategy.experimental_local_results(each)[0] for each in (loss, finite))
        return loss, finite, left_out

    return step


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


def make_logits_function(reader: keras.Model, height: int) -> Callable:
    """The network without dropout: images uint8 [batch, height, width, 1] and widths to logits and time steps."""

    @tf.function(input_signature=make_input_signature(height))
    def read(images, widths):
        outputs = reader([images, widths], training=False)
        return outputs["logits"], outputs["time_steps"]

    return read


def _fit_temperature(read: Callable, validation: Examples) -> float:
    """What the logits are divided by so that confidences are calibrated, found on a part of the validation split."""
    parts = max(1, len(validation) // ENOUGH_LINES)
    return fit_temperature(
        (*(output.numpy() for output in read(images, widths)), [validation.label(i).tolist() for i in indices])
        for images, widths, indices in make_evaluation_batches(validation, EVALUATION_BATCH, 0, parts)
    )


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
            f'"{examples.texts[worst]}" of {examples.uris[worst]} needs {needed[worst]}; use --model=crnn'
        )


def write_model(
    request: TrainingRequest,
    charset: Charset,
    examples: Examples,
    validation: Examples,
    height: int,
    state: TrainingState,
    say: Callable[[str], None],
) -> None:
    folder = request.output_folder
    os.makedirs(os.path.join(folder, PLOTS_NAME), exist_ok=True)
    reader = NETWORKS[request.model](charset.classes, height, False)
    reader.set_weights(state.best)
    temperature = _fit_temperature(make_logits_function(reader, height), validation)
    storage.write_json(os.path.join(folder, CALIBRATION_NAME), {"temperature": temperature})
    export_model(reader, charset, height, folder, temperature)
    if state.left_out:
        uris = sorted(examples.uris[i] for i in state.left_out)
        storage.write_json(os.path.join(folder, LEFT_OUT_NAME), uris)
        say(
            f"warning: {len(uris)} images had a loss or a gradient that was not finite and were left out of those "
            f"steps; {LEFT_OUT_NAME} beside the model lists them: {', '.join(uris[:3])}{', …' * (len(uris) > 3)}"
        )
    plots.plot_history(state.history, os.path.join(folder, PLOTS_NAME, "curves.png"))
    chosen = np.random.default_rng(request.seed).permutation(len(examples))[:_SHOWN].tolist()
    plots.plot_training_samples(examples, chosen, os.path.join(folder, PLOTS_NAME, "training_samples.png"))
