"""Training input: examples from committed shards, and the order of every batch.

The order depends on seed and epoch alone. Every worker computes the same order and takes its own
slice of each global batch. So training does not depend on the number of workers, nor on how the
shards are cut.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from components.training.distort import DISTORTIONS, distort
from components.training.recipes import TIME_STRIDE
from tfrecords import (
    Charset,
    DataError,
    DatasetManifest,
    decode_png,
    examples_to_record_batch,
    pad_lines,
    read_records,
    storage,
)
from tfrecords.manifest import suggest_remedy

_POOL_BATCHES = 32
_RECOGNISED_COLUMNS = 64 * 2048  # pixels of width, of all lines of a batch together


@dataclasses.dataclass(frozen=True)
class Examples:
    """A split in memory, images still compressed.

    Attributes:
        images: PNG bytes, string tensor [n]; training batches and everything else share this one copy.
        widths: pixels, int32 [n].
        labels: all labels one after the other, int32; that of example `i` is
            `labels[offsets[i]:offsets[i + 1]]`.
        offsets: int64 [n + 1].
        texts, uris: the labels as text, and the images' URIs.
    """

    images: tf.Tensor
    widths: np.ndarray
    labels: np.ndarray
    offsets: np.ndarray
    texts: list[str]
    uris: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def label_lengths(self) -> np.ndarray:
        """Symbols in each label, int32 [n]."""
        return np.diff(self.offsets).astype(np.int32)

    def decode_line(self, index: int) -> np.ndarray:
        """Decodes one line to pixels, uint8 [height, width]."""
        return decode_png(self.images[index].numpy())

    def get_label(self, index: int) -> np.ndarray:
        """Returns the symbol ids of one label, int32 [length]."""
        return self.labels[self.offsets[index] : self.offsets[index + 1]]

    def change_charset(self, old: Charset, new: Charset) -> Examples:
        """Returns the same examples with the symbol ids of another charset, which has all symbols of theirs."""
        return dataclasses.replace(self, labels=np.array(new.get_ids(old.symbols), np.int32)[self.labels])


def load_examples(folder: str, manifest: DatasetManifest, split: str) -> Examples:
    """Reads a split of a committed dataset.

    Raises:
        DataError: if a shard is missing, or its checksum is not that of the manifest.
    """
    images: list[tf.Tensor] = []
    widths: list[int] = []
    labels: list[np.ndarray] = []
    lengths: list[int] = []
    texts: list[str] = []
    uris: list[str] = []
    for shard in manifest.shards_of(split):
        path = storage.join(folder, shard.name)
        try:
            digest = storage.compute_checksum(path)
        except FileNotFoundError:
            raise DataError(
                f"{path} is missing, but the manifest beside it names it: {suggest_remedy(folder, 'ingest')}"
            ) from None
        if digest != shard.sha256:
            raise DataError(
                f"{path} has checksum {digest[:12]}, the manifest says {shard.sha256[:12]}: "
                f"{suggest_remedy(folder, 'ingest')}"
            )
        batch = examples_to_record_batch(list(read_records(path)))
        column = dict(zip(batch.schema.names, batch.columns, strict=True))
        images.append(tf.constant(column["image"].flatten().to_numpy(zero_copy_only=False), tf.string))
        widths += column["width"].flatten().to_pylist()
        lengths += column["label_length"].flatten().to_pylist()
        labels.append(column["label"].flatten().to_numpy())
        texts += [text.decode() for text in column["text"].flatten().to_pylist()]
        uris += [uri.decode() for uri in column["uri"].flatten().to_pylist()]
    return Examples(
        images=tf.concat(images, 0) if images else tf.constant([], tf.string),
        widths=np.array(widths, np.int32),
        labels=np.concatenate(labels).astype(np.int32) if labels else np.empty(0, np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        texts=texts,
        uris=uris,
    )


def shuffle_epoch(widths: np.ndarray, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """Shuffles the examples of an epoch into global batches.

    Every example comes once. Examples of the first batch fill up the last one. Within pools of some
    batches, lines of similar width go together to save padding.

    Args:
        widths: pixels, int32 [n].

    Returns:
        Indices of examples, int32 [steps, batch_size].
    """
    chooser = np.random.default_rng([seed, epoch])
    order = chooser.permutation(len(widths)).astype(np.int32)
    order = np.resize(order, -(-len(order) // batch_size) * batch_size)
    pool = _POOL_BATCHES * batch_size
    for start in range(0, len(order), pool):
        part = order[start : start + pool]
        order[start : start + pool] = part[np.argsort(widths[part], kind="stable")]
    return chooser.permutation(order.reshape(-1, batch_size), axis=0)


def make_training_batches(
    examples: Examples,
    *,
    batch_size: int,
    seed: int,
    steps: range,
    replicas: range,
    replica_batch_size: int,
    augment: bool,
) -> tf.data.Dataset:
    """Makes the batches of one worker's replicas, one after the other, for some steps of the training.

    Args:
        batch_size: of the global batch.
        steps: numbers of the global batches, counted from the first of the first epoch.
        replicas: the replicas that this worker runs, as numbers among those of all workers; their
            slices of each global batch come out in turn.
        augment: whether lines are distorted.

    Yields:
        Dictionaries of `images` uint8 [batch, height, width, 1], padded with white to the widest
        of the global batch, `widths` int32 [batch], `labels` int32 [batch, longest],
        `label_lengths` int32 [batch], `indices` int32 [batch] into `examples`.
    """
    images = examples.images
    widths = tf.constant(examples.widths)
    labels = tf.RaggedTensor.from_row_splits(examples.labels, examples.offsets)
    own_slice = slice(replicas.start * replica_batch_size, replicas.stop * replica_batch_size)

    steps_per_epoch = -(-len(examples) // batch_size)

    def plan_epoch(epoch: np.int64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        order = shuffle_epoch(examples.widths, batch_size, seed, int(epoch))
        # All replicas pad to the same width, so that batch statistics do not depend on their number.
        widest = -(-examples.widths[order].max(axis=1) // TIME_STRIDE) * TIME_STRIDE
        distortions = np.random.default_rng([seed, int(epoch), 1]).uniform(-1, 1, (*order.shape, DISTORTIONS))
        first = int(epoch) * steps_per_epoch
        wanted = slice(max(steps.start - first, 0), steps.stop - first)
        return (
            order[wanted, own_slice].reshape(-1),
            np.repeat(widest[wanted].astype(np.int32), order[0, own_slice].size),
            distortions[wanted, own_slice].reshape(-1, DISTORTIONS).astype(np.float32),
        )

    @tf.autograph.experimental.do_not_convert
    def list_lines(epoch: tf.Tensor) -> tf.data.Dataset:
        indices, padded, distortions = tf.numpy_function(plan_epoch, [epoch], (tf.int32, tf.int32, tf.float32))
        return tf.data.Dataset.from_tensor_slices(
            (
                tf.ensure_shape(indices, [None]),
                tf.ensure_shape(padded, [None]),
                tf.ensure_shape(distortions, [None, DISTORTIONS]),
            )
        )

    @tf.autograph.experimental.do_not_convert
    def load(index: tf.Tensor, padded: tf.Tensor, distortion: tf.Tensor) -> dict[str, tf.Tensor]:
        label = labels[index]
        image = tf.io.decode_png(images[index], channels=1)
        return {
            "images": tf.pad(image, [[0, 0], [0, padded - tf.shape(image)[1]], [0, 0]], constant_values=255),
            "widths": widths[index],
            "labels": label,
            "label_lengths": tf.size(label),
            "indices": index,
            "distortions": distortion,
        }

    @tf.autograph.experimental.do_not_convert
    def finish(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        distortions = batch.pop("distortions")
        if augment:
            batch["images"] = distort(batch["images"], batch["widths"], distortions)
        return batch

    epochs = tf.data.Dataset.range(steps.start // steps_per_epoch, -(-steps.stop // steps_per_epoch))
    dataset = epochs.flat_map(list_lines)
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.padded_batch(replica_batch_size, drop_remainder=True)
    return dataset.map(finish, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(4)


def make_evaluation_batches(
    examples: Examples, batch_size: int, part: int = 0, parts: int = 1
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields each example once, lines of similar width together, in smaller batches where lines are very wide.

    Args:
        part, parts: this worker yields batch `part` of every `parts`.

    Yields:
        `images` uint8 [batch, height, width, 1], `widths` int32 [batch], and the indices of
        the examples, int [batch].
    """
    order = np.argsort(examples.widths, kind="stable")
    starts = [0]
    while starts[-1] < len(order):
        widths = examples.widths[order[starts[-1] : starts[-1] + batch_size]]
        fitting = widths * np.arange(1, len(widths) + 1) <= _RECOGNISED_COLUMNS
        starts.append(starts[-1] + max(1, int(fitting.sum())))
    for start, end in list(itertools.pairwise(starts))[part::parts]:
        indices = order[start:end]
        images, widths = pad_lines([examples.decode_line(i) for i in indices], TIME_STRIDE)
        yield images, widths, indices
