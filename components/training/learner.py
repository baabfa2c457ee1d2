"""The learner: the network on all replicas, its optimiser, and one training step over a global batch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from components.ctc.loss import compute_ctc_loss
from components.training.base_weights import FEW_IMAGES
from components.training.checkpoints import Checkpoint
from components.training.data import Examples, make_training_batches
from components.training.export import make_input_signature
from components.training.networks import find_builder
from components.training.place import ClusterPlace
from components.training.recipes import RECIPES, Recipe
from components.training.request import TrainingRequest
from components.training.watchdog import Watchdog
from tfrecords import Charset, DataError

_WARM_UP = 0.1
_BFLOAT16_FROM = (8, 0)
"""Compute capability from which NVIDIA GPUs multiply bfloat16 faster than float32."""


@dataclasses.dataclass(frozen=True)
class TrainingCluster:
    """The workers that train together, and this worker's place among them."""

    strategy: tf.distribute.MultiWorkerMirroredStrategy
    worker: int
    workers: int

    @classmethod
    def join(cls) -> TrainingCluster:
        """Joins the cluster that `TF_CONFIG` names, once all of it is there, or makes one of this process alone."""
        place = ClusterPlace.from_environment(os.environ)
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        return cls(strategy, place.worker if place else 0, len(place.addresses) if place else 1)

    @property
    def replicas(self) -> int:
        """Number of replicas of all workers together."""
        return self.strategy.num_replicas_in_sync

    @property
    def replicas_here(self) -> range:
        """The replicas that this worker runs, as numbers among all replicas."""
        share = self.replicas // self.workers
        return range(self.worker * share, (self.worker + 1) * share)

    def sum_over_workers(self, values: Sequence[float]) -> np.ndarray:
        """Adds up every worker's values; each worker gets the sums, float64 [values]."""
        own = tf.constant(values, tf.float64)
        first = self.replicas_here.start
        shares = self.strategy.experimental_distribute_values_from_function(
            lambda context: own if context.replica_id_in_sync_group == first else tf.zeros_like(own)
        )
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, shares, axis=None).numpy()


def _choose_precision() -> str:
    """Chooses bfloat16 where every device multiplies it faster than float32, and float32 elsewhere."""
    gpus = tf.config.list_physical_devices("GPU")
    capable = [
        tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) >= _BFLOAT16_FROM
        for gpu in gpus
    ]
    return "mixed_bfloat16" if gpus and all(capable) else "float32"


class Learner:
    """The network on all replicas with its optimiser, and the same network for recognition.

    Args:
        height: of the lines, pixels.
        images: to train on.
        steps: of the whole training, for the schedule of the learning rate.

    Attributes:
        model: the network that is trained.
        recogniser: the same network without strategy, dropout or bfloat16; its weights are set for each evaluation.
        take_step: one training step, as `_make_training_step` makes it.
        compute_logits: of `recogniser`, as `make_logits_function` makes it.
    """

    def __init__(
        self,
        cluster: TrainingCluster,
        request: TrainingRequest,
        charset: Charset,
        height: int,
        images: int,
        steps: int,
        watchdog: Watchdog,
    ):
        self.watchdog = watchdog
        self._cluster, self._request = cluster, request
        build, recipe = find_builder(request.model, request.init_from), RECIPES[request.model]
        keras.utils.set_random_seed(request.seed)
        with cluster.strategy.scope():
            before = keras.config.dtype_policy()
            keras.config.set_dtype_policy(request.precision or _choose_precision())
            try:
                self.model = build(charset.classes, height, cluster.replicas > 1)
            finally:
                keras.config.set_dtype_policy(before)
            if request.from_base and images < FEW_IMAGES and recipe.dropout_from_base is not None:
                _set_dropout(self.model, recipe.dropout_from_base)
            self.optimizer = _make_optimizer(request, recipe, steps)
            self.optimizer.build(self.model.trainable_variables)
        # The network that recognises validation lines and is exported knows nothing of the strategy or of bfloat16.
        self.recogniser = build(charset.classes, height, False)
        if request.init_from is not None:
            copy_weights(self.model, request.init_from, request.init_symbols, charset)
        self.take_step = _make_training_step(
            cluster.strategy, self.model, self.optimizer, request.batch_size, recipe.clip_norm
        )
        self.compute_logits = make_logits_function(self.recogniser, height)

    def make_batches(self, examples: Examples, steps: range) -> Iterator:
        """Makes the global batches of some steps; yields this worker's slices of them."""
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
        """Gathers every replica's values, one after the other."""
        return self._cluster.strategy.gather(values, axis=0).numpy()

    def collect_arrays(self, best: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Collects weights, optimiser and random state, and the best weights so far, by name."""
        groups = {"model": self.model.variables, "optimizer": self.optimizer.variables, "best": best}
        return {
            f"{group}/{i}": keras.ops.convert_to_numpy(value)
            for group, values in groups.items()
            for i, value in enumerate(values)
        }

    def restore(self, checkpoint: Checkpoint, checkpoint_folder: str) -> None:
        """Restores weights, optimiser and random state; every worker has to do so.

        Raises:
            DataError: if the checkpoint is of another network or optimiser.
        """
        for group, variables in (("model", self.model.variables), ("optimizer", self.optimizer.variables)):
            values = pick_arrays(group, checkpoint)
            if [value.shape for value in values] != [tuple(variable.shape) for variable in variables]:
                raise DataError(
                    "the checkpoint to resume from is of another network or optimiser: delete "
                    f"{checkpoint_folder} to start anew"
                )
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)


def pick_arrays(group: str, checkpoint: Checkpoint) -> list[np.ndarray]:
    """Picks the arrays of one group (`model`, `optimizer` or `best`) out of a checkpoint, in their order."""
    count = sum(name.startswith(f"{group}/") for name in checkpoint.arrays)
    return [checkpoint.arrays[f"{group}/{i}"] for i in range(count)]


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
    class_of = {symbol: i for i, symbol in enumerate((*symbols, None))}  # None stands for the blank, the last class
    classes = [(new, class_of[symbol]) for new, symbol in enumerate((*charset.symbols, None)) if symbol in class_of]
    new_classes, old_classes = map(list, zip(*classes, strict=True))
    if len(model.layers) != len(old.layers):
        raise DataError(f"the model in {path} is of another network than {model.name}")
    for layer, old_layer in zip(model.layers, old.layers, strict=True):
        weights, old_weights = layer.get_weights(), old_layer.get_weights()
        if layer.name == "logits":
            for new_weight, old_weight in zip(weights, old_weights, strict=True):
                new_weight[..., new_classes] = old_weight[..., old_classes]
            old_weights = weights
        if [weight.shape for weight in weights] != [weight.shape for weight in old_weights]:
            raise DataError(f"the model in {path} is {old.name} of another size than {model.name} here")
        layer.set_weights(old_weights)


def _set_dropout(model: keras.Model, share: float) -> None:
    """Sets the share of values that every dropout layer of a network leaves out."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = share


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
    """Makes one step over a global batch.

    The loss is the sum of all finite losses divided by the global batch size, whatever the number of
    replicas. Its gradient is summed over replicas before it is clipped.

    Returns:
        A function that takes the iterator. It returns the summed loss and the number of examples with
        a finite loss, both of the global batch, and on each replica int32 [n]: the indices of its
        examples without a finite loss, and -1 in the place of the others.
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

    @tf.function(autograph=False)
    def step(iterator):
        loss, finite, left_out = strategy.run(on_replica, args=(next(iterator),))
        loss, finite = (strategy.experimental_local_results(value)[0] for value in (loss, finite))
        return loss, finite, left_out

    return step


def make_logits_function(recogniser: keras.Model, height: int) -> Callable:
    """Makes a function that runs a network without dropout.

    Returns:
        A function of images uint8 [batch, height, width, 1] and widths int32 [batch]; it returns logits
        float32 [batch, time, classes] and time steps int32 [batch].
    """

    @tf.function(input_signature=make_input_signature(height), autograph=False)
    def compute_logits(images, widths):
        outputs = recogniser([images, widths], training=False)
        return outputs["logits"], outputs["time_steps"]

    return compute_logits
