"""Training input: examples from committed shards, and the order of every batch.

The order depends on seed and epoch alone. Every worker computes the same order and takes its own
slice of each global batch. So training does not depend on the number of workers, nor on how the
shards are cut.
"""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from components.training.distort import DISTORTIONS, distort
from components.training.line_index import LineIndex, open_line_index
from components.training.recipes import TIME_STRIDE
from tfrecords import (
    Charset,
    DatasetManifest,
    decode_png,
    examples_to_record_batch,
    pad_lines,
    storage,
)

_POOL_BATCHES = 32
_LINES_AT_A_TIME = 256  # that are read together
RECOGNISED_BATCH = 64  # lines, at most, that are recognised together
_RECOGNISED_COLUMNS = 64 * 2048  # pixels of width, of all lines of a batch together


@dataclasses.dataclass(frozen=True)
class Examples:
    """A split on disk: images and texts are read when they are asked for.

    Attributes:
        index: where the lines are, with widths and labels.
        symbol_ids: int32 [symbols], the id that each symbol of the index has here; None if it is the same one.
    """

    index: LineIndex
    symbol_ids: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.index)

    @property
    def widths(self) -> np.ndarray:
        """Pixels, int32 [n], memory-mapped."""
        return self.index.widths

    @property
    def label_lengths(self) -> np.ndarray:
        """Symbols in each label, int32 [n]."""
        return np.diff(self.index.offsets).astype(np.int32)

    def read_images(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:
        """Reads the PNG bytes of some lines."""
        return self.index.read_images(indices)

    def decode_lines(self, indices: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """Decodes some lines to pixels, uint8 [height, width] each."""
        return list(map(decode_png, self.read_images(indices)))

    def decode_line(self, index: int) -> np.ndarray:
        """Decodes one line to pixels, uint8 [height, width]."""
        return self.decode_lines([index])[0]

    def read_texts(self, indices: Sequence[int] | np.ndarray) -> list[str]:
        """Reads the labels of some lines as text."""
        return self._read_strings(indices, "text")

    def read_uris(self, indices: Sequence[int] | np.ndarray) -> list[str]:
        """Reads the URIs of some lines' images."""
        return self._read_strings(indices, "uri")

    def _read_strings(self, indices: Sequence[int] | np.ndarray, feature: str) -> list[str]:
        found: list[str] = []
        for start in range(0, len(indices), _LINES_AT_A_TIME):
            batch = examples_to_record_batch(self.index.read_records(indices[start : start + _LINES_AT_A_TIME]))
            values = batch.column(batch.schema.get_field_index(feature)).flatten().to_pylist()
            found += [value.decode() for value in values]
        return found

    def get_label(self, index: int) -> np.ndarray:
        """Returns the symbol ids of one label, int32 [length]."""
        offsets = self.index.offsets
        return self._translate(self.index.labels[offsets[index] : offsets[index + 1]])

    def get_labels(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the symbol ids of some labels, int32 [lines, longest], 0 behind their ends, and int32 [lines]."""
        offsets = self.index.offsets
        lengths = offsets[indices + 1] - offsets[indices]
        inside = np.arange(lengths.max(initial=0)) < lengths[:, None]
        labels = np.zeros(inside.shape, np.int32)
        first = np.cumsum(lengths) - lengths
        places = np.arange(lengths.sum()) + np.repeat(offsets[indices] - first, lengths)
        labels[inside] = self._translate(self.index.labels[places])
        return labels, lengths.astype(np.int32)

    def count_time_steps(self, indices: np.ndarray) -> np.ndarray:
        """Counts the time steps that some labels need, int [lines]: their symbols, and a blank between equal ones."""
        labels, lengths = self.get_labels(indices)
        inside = np.arange(1, labels.shape[1]) < lengths[:, None]
        return lengths + np.count_nonzero((labels[:, 1:] == labels[:, :-1]) & inside, axis=1)

    def _translate(self, labels: np.ndarray) -> np.ndarray:
        return labels if self.symbol_ids is None else self.symbol_ids[labels]

    def change_charset(self, old: Charset, new: Charset) -> Examples:
        """Returns the same examples with the symbol ids of another charset, which has all symbols of theirs."""
        return dataclasses.replace(self, symbol_ids=np.array(new.get_ids(old.symbols), np.int32))


def load_examples(
    folder: str,
    manifest: DatasetManifest,
    split: str,
    index_folder: str | None = None,
    report_alive: Callable[[], None] = lambda: None,
) -> Examples:
    """Opens a split of a committed dataset.

    Args:
        folder: local.
        index_folder: local, for the index of its lines, which later calls and other processes use too; None for a
            temporary one.
        report_alive: is called again and again while the shards are read for the first time.

    Raises:
        DataError: if a shard is missing, or its checksum is not that of the manifest.
    """
    if index_folder is not None:
        return Examples(open_line_index(folder, manifest, split, index_folder, report_alive))
    temporary = tempfile.mkdtemp(prefix="index-")
    try:
        index = open_line_index(folder, manifest, split, temporary, report_alive)
    except BaseException:
        storage.remove_folder(temporary)
        raise
    weakref.finalize(index, storage.remove_folder, temporary)
    return Examples(index)


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
    order = np.arange(len(widths), dtype=np.int32)
    chooser.shuffle(order)
    if len(order) % batch_size:
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
    own_slice = slice(replicas.start * replica_batch_size, replicas.stop * replica_batch_size)
    steps_at_a_time = max(1, _LINES_AT_A_TIME // (own_slice.stop - own_slice.start))
    plan = _BatchOrder(examples.widths, batch_size, seed)
    kinds = {
        "image": tf.string,
        "label": tf.int32,
        "label_length": tf.int32,
        "width": tf.int32,
        "index": tf.int32,
        "padded": tf.int32,
        "distortions": tf.float32,
    }
    shapes: dict[str, list[int | None]] = {"label": [None], "distortions": [DISTORTIONS]}

    def read_steps(first: np.int64) -> list[np.ndarray]:
        wanted = range(int(first), min(int(first) + steps_at_a_time, steps.stop))
        indices, padded, distortions = plan.list_lines(wanted, own_slice)
        labels, lengths = examples.get_labels(indices)
        images = np.array(examples.read_images(indices), object)
        return [images, labels, lengths, examples.widths[indices], indices, padded, distortions]

    @tf.autograph.experimental.do_not_convert
    def read(first: tf.Tensor) -> dict[str, tf.Tensor]:
        values = dict(zip(kinds, tf.numpy_function(read_steps, [first], list(kinds.values())), strict=True))
        for name, value in values.items():
            value.set_shape([None, *shapes.get(name, [])])
        return values

    @tf.autograph.experimental.do_not_convert
    def load(line: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        image = tf.io.decode_png(line["image"], channels=1)
        return {
            "images": tf.pad(image, [[0, 0], [0, line["padded"] - tf.shape(image)[1]], [0, 0]], constant_values=255),
            "widths": line["width"],
            "labels": line["label"][: line["label_length"]],
            "label_lengths": line["label_length"],
            "indices": line["index"],
            "distortions": line["distortions"],
        }

    @tf.autograph.experimental.do_not_convert
    def finish(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        distortions = batch.pop("distortions")
        if augment:
            batch["images"] = distort(batch["images"], batch["widths"], distortions)
        return batch

    dataset = tf.data.Dataset.range(steps.start, steps.stop, steps_at_a_time)
    dataset = dataset.map(read).prefetch(1).unbatch()
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.padded_batch(replica_batch_size, drop_remainder=True)
    return dataset.map(finish, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(4)


class _BatchOrder:
    """The lines of every global batch, with their distortions; it keeps the order of the epoch last asked for."""

    def __init__(self, widths: np.ndarray, batch_size: int, seed: int) -> None:
        self._widths, self._batch_size, self._seed = widths, batch_size, seed
        self._steps_per_epoch = -(-len(widths) // batch_size)
        self._epoch, self._order = -1, np.empty((0, batch_size), np.int32)

    def list_lines(self, steps: range, own: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lists the lines of one worker's slices of some global batches, one after the other.

        Returns:
            Their indices, int32 [lines], the width to which each is padded, int32 [lines], and the amounts of their
            distortions, float32 [lines, DISTORTIONS].
        """
        per_epoch = self._steps_per_epoch
        parts = []
        for epoch in range(steps.start // per_epoch, -(-steps.stop // per_epoch)):
            first = max(steps.start - epoch * per_epoch, 0)
            batches = self._shuffle(epoch)[first : steps.stop - epoch * per_epoch]
            # All replicas pad to the same width, so that batch statistics do not depend on their number.
            widest = -(-self._widths[batches].max(axis=1) // TIME_STRIDE) * TIME_STRIDE
            bits = np.random.PCG64([self._seed, epoch, 1])  # as `default_rng` has
            bits.advance(first * self._batch_size * DISTORTIONS)
            distortions = np.random.Generator(bits).uniform(-1, 1, (*batches.shape, DISTORTIONS))[:, own]
            indices = batches[:, own]
            parts.append(
                (
                    indices.reshape(-1),
                    np.repeat(widest.astype(np.int32), indices.shape[1]),
                    distortions.reshape(-1, DISTORTIONS).astype(np.float32),
                )
            )
        indices, padded, distortions = (np.concatenate(part) for part in zip(*parts, strict=True))
        return indices, padded, distortions

    def _shuffle(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            self._order = np.empty((0, self._batch_size), np.int32)  # two orders would take twice the memory
            self._epoch, self._order = epoch, shuffle_epoch(self._widths, self._batch_size, self._seed, epoch)
        return self._order


def make_ordered_batches(
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
        images, widths = pad_lines(examples.decode_lines(indices), TIME_STRIDE)
        yield images, widths, indices
