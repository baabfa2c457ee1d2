"""The training loop: one program on every worker of a `MultiWorkerMirroredStrategy`.

Keras' own `fit` fails under this strategy with two workers, so the loop is written out.
Every worker runs this module with the same request; one worker is a cluster of one.
"""

from __future__ import annotations

import csv
import dataclasses
import os
import time
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from components import plots
from components.evaluation.metrics import ErrorCounts
from components.inference.decoding import greedy_decode
from components.models import PLOTS_NAME, SAVED_MODEL_NAME
from components.training.ctc import ctc_loss
from components.training.data import Examples, load_examples, reading_batches, training_batches
from components.training.export import export_saved_model, reading_signature
from components.training.networks import NETWORKS
from components.training.recipes import RECIPES, Recipe
from tfrecords import Charset, DataError, DatasetManifest, adjacent_repeats

HISTORY_NAME = "history.csv"
KERAS_NAME = "model.keras"

_WARM_UP = 0.1
_READING_BATCH = 64
_SHOWN = 16
_SAY_EVERY_S = 0.5


@dataclasses.dataclass(frozen=True)
class TrainingRequest:
    """What a model is trained from and with; the same on every worker.

    Attributes:
        dataset_folder: of a committed dataset, local.
        output_folder: local; the chief writes the model here.
        model: a name in `NETWORKS`.
        epochs, batch_size, learning_rate: `batch_size` is that of all replicas together.
        seed: of the weights' start, the order of examples and the distortions.
        collective_timeout_s: seconds after which a worker that waits for the others gives up.
    """

    dataset_folder: str
    output_folder: str
    model: str
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    collective_timeout_s: float = 120.0


@dataclasses.dataclass(frozen=True)
class EpochRecord:
    """One row of `history.csv`.

    Attributes:
        epoch: from 1.
        learning_rate: at the end of the epoch.
        train_loss: mean over training examples, nats.
        validation_loss: mean over validation examples, nats; those without a finite loss left out.
        cer, exact_match: on the validation split; without one, on the training split.
        images_per_second: trained on, by all workers together, validation not counted.
        non_finite: training examples left out of the gradient because their loss was not finite.
        seconds: since training started.
    """

    epoch: int
    learning_rate: float
    train_loss: float
    validation_loss: float
    cer: float
    exact_match: float
    images_per_second: float
    non_finite: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class _Cluster:
    """This worker's place among all."""

    strategy: tf.distribute.MultiWorkerMirroredStrategy
    worker: int
    workers: int

    @classmethod
    def join(cls, collective_timeout_s: float) -> _Cluster:
        """The cluster that `TF_CONFIG` names, or one of this process alone."""
        options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=collective_timeout_s)
        strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
        resolver = strategy.cluster_resolver
        cluster = resolver.cluster_spec().as_dict()
        if unknown := set(cluster) - {"chief", "worker"}:
            raise DataError(f"TF_CONFIG names tasks that do not train here: {', '.join(sorted(unknown))}")
        chiefs = len(cluster.get("chief", []))  # a scheduler may call the first worker so
        rank = (resolver.task_id or 0) + (chiefs if resolver.task_type == "worker" else 0)
        return cls(strategy, rank, max(chiefs + len(cluster.get("worker", [])), 1))

    @property
    def chief(self) -> bool:
        return self.worker == 0

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


def train(request: TrainingRequest, say: Callable[[str], None] = print) -> None:
    """Trains a model and, on the chief, writes it to the output folder.

    The weights kept are those of the epoch with the lowest CER on the validation split.
    Progress goes to `say`, on the chief alone.

    Raises:
        DataError: if the dataset cannot train this model, or training diverges.
    """
    manifest = DatasetManifest.read(request.dataset_folder)
    charset = manifest.read_charset(request.dataset_folder)
    cluster = _Cluster.join(request.collective_timeout_s)
    if request.batch_size % cluster.replicas:
        raise DataError(f"--batch_size={request.batch_size} cannot be shared equally by {cluster.replicas} replicas")
    examples = load_examples(request.dataset_folder, manifest, "train")
    validation = load_examples(request.dataset_folder, manifest, "validation")
    steps_per_epoch = -(-len(examples) // request.batch_size)

    build, recipe = NETWORKS[request.model], RECIPES[request.model]
    keras.utils.set_random_seed(request.seed)
    with cluster.strategy.scope():
        model = build(charset.classes, manifest.height, cluster.replicas > 1)
        optimizer = _optimizer(request, recipe, steps_per_epoch * request.epochs)
        optimizer.build(model.trainable_variables)
    # What reads validation lines and is exported knows nothing of the strategy.
    reader = build(charset.classes, manifest.height, False)
    _refuse_labels_that_never_fit(reader, examples, request.model)
    if cluster.chief:
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        say(
            f"training {request.model} ({model.count_params():,} weights, {charset.classes - 1} symbols) on "
            f"{len(examples):,} images for {request.epochs} epochs of {steps_per_epoch} steps; {cluster.workers} "
            f"worker{'s' * (cluster.workers > 1)} with {len(cluster.replicas_here)} {devices[0].device_type} each"
        )
        if not len(validation):
            say("the validation split is empty: the best epoch is chosen on the training images themselves")
    batches = cluster.strategy.distribute_datasets_from_function(
        lambda _context: training_batches(
            examples,
            batch_size=request.batch_size,
            seed=request.seed,
            epochs=range(request.epochs),
            replicas=cluster.replicas_here,
            replica_batch_size=request.batch_size // cluster.replicas,
            augment=recipe.augment,
        )
    )
    step = _training_step(cluster.strategy, model, optimizer, request.batch_size, recipe.clip_norm)
    read = _reading_function(reader, manifest.height)
    iterator = iter(batches)
    history: list[EpochRecord] = []
    best_weights: list[np.ndarray] = []
    left_out: set[str] = set()
    started = said = time.monotonic()
    for epoch in range(1, request.epochs + 1):
        epoch_started = time.monotonic()
        steps = [step(iterator) for _ in range(steps_per_epoch)]
        loss, finite = np.sum([[float(loss), float(finite)] for loss, finite, _ in steps], axis=0)
        trained_s = time.monotonic() - epoch_started
        left_out.update(examples.uris[i] for _, _, indices in steps for i in indices.numpy() if i >= 0)
        reader.set_weights(model.get_weights())
        try:
            counts, validation_loss = _validate(cluster, read, validation if len(validation) else examples, charset)
        except ValueError as error:
            raise DataError(f"training diverged in epoch {epoch}: {error}") from None
        record = EpochRecord(
            epoch=epoch,
            learning_rate=float(keras.ops.convert_to_numpy(optimizer.learning_rate)),
            train_loss=loss / max(finite, 1),
            validation_loss=validation_loss,
            cer=counts.cer,
            exact_match=counts.exact_match,
            images_per_second=steps_per_epoch * request.batch_size / trained_s,
            non_finite=int(steps_per_epoch * request.batch_size - finite),
            seconds=time.monotonic() - started,
        )
        if not history or _quality(record) < min(map(_quality, history)):
            best_weights = reader.get_weights()
        history.append(record)
        if cluster.chief and (time.monotonic() - said > _SAY_EVERY_S or epoch in (1, request.epochs)):
            said = time.monotonic()
            say(_progress(record, request.epochs))
    if cluster.chief:
        if left_out:
            say(
                f"{len(left_out)} images had a loss that was not finite and were left out of those steps: "
                f"{', '.join(sorted(left_out)[:10])}"
            )
        reader.set_weights(best_weights)
        _write_model(request, reader, examples, manifest.height, history)


def _quality(record: EpochRecord) -> tuple[float, float]:
    """What is least in the best epoch."""
    return record.cer, record.validation_loss


def _progress(record: EpochRecord, epochs: int) -> str:
    minutes, seconds = divmod(round(record.seconds / record.epoch * (epochs - record.epoch)), 60)
    return (
        f"epoch {record.epoch:>{len(str(epochs))}}/{epochs}  loss {record.train_loss:7.3f}  "
        f"validation loss {record.validation_loss:7.3f}  CER {record.cer:7.2%}  exact {record.exact_match:6.1%}  "
        f"{record.images_per_second:5.0f} images/s  {minutes}:{seconds:02d} left"
    )


def _optimizer(request: TrainingRequest, recipe: Recipe, steps: int) -> keras.optimizers.Optimizer:
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


def _training_step(
    strategy: tf.distribute.Strategy, model: keras.Model, optimizer, batch_size: int, clip_norm: float
) -> Callable:
    """One step over a global batch.

    The gradient is that of the sum of all finite losses divided by the global batch size,
    whatever the number of replicas; it is summed over replicas before it is clipped.

    Returns:
        A function of the iterator to the summed loss, the number of examples with a finite
        loss, and, int32 [n], the indices of the others, -1 where there was none.
    """
    replicas = strategy.num_replicas_in_sync

    def on_replica(batch):
        with tf.GradientTape() as tape:
            outputs = model([batch["images"], batch["widths"]], training=True)
            losses = ctc_loss(outputs["logits"], outputs["time_steps"], batch["labels"], batch["label_lengths"])
            finite = tf.math.is_finite(losses)
            losses = tf.where(finite, losses, 0.0)
            loss = tf.reduce_sum(losses) / batch_size
        gradients = tape.gradient(loss, model.trainable_variables)
        context = tf.distribute.get_replica_context()
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        norm = tf.linalg.global_norm(gradients)
        scale = tf.where(norm > clip_norm, clip_norm / norm, 1.0) / replicas
        usable = tf.math.is_finite(norm)  # else the whole batch is left out
        finite &= usable
        gradients = [tf.where(usable, gradient * scale, 0.0) for gradient in gradients]
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return (
            tf.reduce_sum(losses),
            tf.reduce_sum(tf.cast(finite, tf.float32)),
            tf.where(finite, -1, batch["indices"]),
        )

    @tf.function
    def step(iterator):
        loss, finite, left_out = strategy.run(on_replica, args=(next(iterator),))
        return (
            strategy.reduce(tf.distribute.ReduceOp.SUM, loss, axis=None),
            strategy.reduce(tf.distribute.ReduceOp.SUM, finite, axis=None),
            strategy.gather(left_out, axis=0),
        )

    return step


def _validate(cluster: _Cluster, read: Callable, examples: Examples, charset: Charset) -> tuple[ErrorCounts, float]:
    """Error counts and mean loss over a whole split; each worker reads its share, and all get the sums.

    Raises:
        ValueError: if the network gives logits that are not finite.
    """
    counts = ErrorCounts()
    loss_sum = finite = 0.0
    for images, widths, indices in reading_batches(examples, _READING_BATCH, cluster.worker, cluster.workers):
        logits, time_steps = read(images, widths)
        lengths = examples.label_lengths[indices]
        labels = np.zeros((len(indices), lengths.max()), np.int32)
        for row, i in zip(labels, indices, strict=True):
            row[: len(examples.label(i))] = examples.label(i)
        losses = ctc_loss(logits, time_steps, labels, lengths).numpy()
        loss_sum += float(losses[np.isfinite(losses)].sum())
        finite += float(np.isfinite(losses).sum())
        for decoded, i in zip(greedy_decode(logits.numpy(), time_steps.numpy()), indices, strict=True):
            counts += ErrorCounts.of(examples.texts[i], charset.decode(decoded.ids))
    *total, loss_sum, finite = cluster.sum_over_workers([*dataclasses.astuple(counts), loss_sum, finite])
    return ErrorCounts(*map(round, total)), float(loss_sum / max(finite, 1))


def _reading_function(reader: keras.Model, height: int) -> Callable:
    """The network without dropout: images uint8 [batch, height, width, 1] and widths to logits and time steps."""

    @tf.function(input_signature=reading_signature(height))
    def read(images, widths):
        outputs = reader([images, widths], training=False)
        return outputs["logits"], outputs["time_steps"]

    return read


def _refuse_labels_that_never_fit(reader: keras.Model, examples: Examples, name: str) -> None:
    """A network of fixed width may give fewer time steps than the stride that ingest checked against."""
    steps = reader.get_layer("time_steps")(tf.constant(examples.widths)).numpy()
    repeats = np.array([adjacent_repeats(examples.label(i).tolist()) for i in range(len(examples))])
    needed = examples.label_lengths + repeats
    if (needed > steps).any():
        worst = int(np.argmax(needed - steps))
        raise DataError(
            f"--model={name} gives {steps[worst]} time steps, too few for {np.count_nonzero(needed > steps)} of "
            f"{len(examples)} labels: "
            f'"{examples.texts[worst]}" of {examples.uris[worst]} needs {needed[worst]}; use --model=crnn'
        )


def _write_model(
    request: TrainingRequest,
    reader: keras.Model,
    examples: Examples,
    height: int,
    history: list[EpochRecord],
) -> None:
    folder = request.output_folder
    os.makedirs(os.path.join(folder, PLOTS_NAME), exist_ok=True)
    reader.save(os.path.join(folder, KERAS_NAME))
    export_saved_model(reader, height, os.path.join(folder, SAVED_MODEL_NAME))
    with open(os.path.join(folder, HISTORY_NAME), "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(EpochRecord)])
        writer.writeheader()
        writer.writerows(dataclasses.asdict(record) for record in history)
    plots.plot_history(history, os.path.join(folder, PLOTS_NAME, "curves.png"))
    chosen = np.random.default_rng(request.seed).permutation(len(examples))[:_SHOWN].tolist()
    plots.plot_training_samples(examples, chosen, os.path.join(folder, PLOTS_NAME, "training_samples.png"))
