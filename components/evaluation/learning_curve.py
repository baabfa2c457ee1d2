"""The learning curve: the CER of models that were trained on parts of the labels, and what more labels would bring."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from components.evaluation.bootstrap import compute_percentile_interval, resample_sums
from components.lines import read_example_lines
from components.metrics import compute_edit_distance
from components.recogniser.batches import recognise_in_batches
from components.recogniser.model import Recogniser
from tfrecords import (
    DatasetManifest,
    ShardEntry,
    name_shard,
    read_records,
    storage,
    write_records,
)
from tfrecords.manifest import CHARSET_NAME

FACTORS = (2, 4)
"""By how much more labels the CER is forecast."""
# From one training to another, the logarithm of the CER has about this standard deviation. The belief in it weighs as
# much as so many pairs of equal trainings.
_USUAL_NOISE = 0.15
_BELIEF = 4
_SEED = 0


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a dataset's training lines.

    Attributes:
        every, first: line `i` is in it if `i % every == first`.
    """

    every: int
    first: int

    @property
    def name(self) -> str:
        """A name for files."""
        return f"part-{self.first}-of-{self.every}"

    def count_lines(self, lines: int) -> int:
        """Counts the lines that a part of so many has."""
        return len(range(self.first, lines, self.every))

    def write_dataset(self, folder: str, source: str, manifest: DatasetManifest) -> None:
        """Writes a dataset of the part and the whole validation split into a local folder.

        Raises:
            DataError: if a file of the dataset is damaged.
        """
        first, shards = 0, []
        train = manifest.shards_of("train")
        for number, shard in enumerate(train):
            records = read_records(storage.join(source, shard.name))
            chosen = (record for i, record in enumerate(records, first) if i % self.every == self.first)
            name = name_shard("train", number, len(train), "tfrecord.gz")
            shards.append(ShardEntry(name, "train", *write_records(os.path.join(folder, name), chosen)))
            first += shard.examples
        for shard in manifest.shards_of("validation"):
            storage.copy_file(storage.join(source, shard.name), os.path.join(folder, shard.name))
            shards.append(shard)
        storage.copy_file(storage.join(source, CHARSET_NAME), os.path.join(folder, CHARSET_NAME))
        kept = tuple(shard for shard in shards if shard.examples)
        dataclasses.replace(manifest, shards=kept).write(folder)


PARTS = (Part(4, 0), Part(4, 2), Part(2, 1))
"""Two quarters, which tell how much trainings differ by chance, and a half."""


@dataclasses.dataclass(frozen=True)
class CurvePoint:
    """A point of the learning curve.

    Attributes:
        labels: that a model is trained on.
        cer: its character error rate, measured or forecast.
        low, high: 95 % interval of a forecast; None for what was measured.
    """

    labels: int
    cer: float
    low: float | None = None
    high: float | None = None


def count_symbol_errors(shards: Iterable[str], recogniser: Recogniser) -> tuple[list[int], list[int]]:
    """Recognises the lines of TFRecord files; returns the symbols of each label, and the errors of each text.

    Raises:
        DataError: if a file is damaged, or the model gives no numbers.
    """
    truths: list[str] = []

    def number_lines() -> Iterator[tuple[int, np.ndarray]]:
        for (truth, _), pixels in read_example_lines(itertools.chain.from_iterable(map(read_records, shards))):
            truths.append(truth)
            yield len(truths) - 1, pixels

    texts = {i: found.text for i, found in recognise_in_batches(number_lines(), recogniser.recognise_lines)}
    return list(map(len, truths)), [compute_edit_distance(truth, texts[i]) for i, truth in enumerate(truths)]


def forecast_cer(labels: Sequence[int], errors: np.ndarray, symbols: np.ndarray) -> list[CurvePoint]:
    """Forecasts the CER of a model with more labels.

    A straight line is fitted to the logarithm of the CER over that of the number of labels: the error falls with a
    power of the labels (Hestness et al. 2017, "Deep Learning Scaling is Predictable, Empirically"). It never rises,
    and never above what is measured with all labels. The interval has the choice of test lines, by the bootstrap, and
    the chance of trainings. Two trainings on equally many labels show the latter, beside what is usual: its variance
    is drawn from a scaled inverse chi-square distribution (Gelman et al. 2013, "Bayesian Data Analysis", section 2.6).

    Args:
        labels: that each model was trained on; the largest number is that of all labels.
        errors: int [models, lines].
        symbols: int [lines], of each label.

    Returns:
        A point for each of `FACTORS`.
    """
    noise, freedom = _estimate_noise(labels, errors.sum(axis=1))
    sums = resample_sums(np.concatenate([symbols[:, None], errors.T], axis=1))
    totals = np.concatenate([[symbols.sum()], errors.sum(axis=1)])[None]
    targets = np.log(max(labels) * np.array(FACTORS))
    known = np.array([[noise]])
    expected = np.exp(_extrapolate(np.log(labels), totals, targets, known)[0])
    expected = np.minimum(expected, totals[0, 1 + int(np.argmax(labels))] / max(1, totals[0, 0]))
    chooser = np.random.default_rng(_SEED)
    noises = noise * np.sqrt(freedom / chooser.chisquare(freedom, (len(sums), 1)))
    spread = np.exp(_extrapolate(np.log(labels), sums, targets, noises, chooser))
    points = []
    for factor, cer, values in zip(FACTORS, expected.tolist(), spread.T, strict=True):
        low, high = compute_percentile_interval(values)
        points.append(CurvePoint(max(labels) * factor, cer, min(low, cer), max(high, cer)))
    return points


def _estimate_noise(labels: Sequence[int], errors: np.ndarray) -> tuple[float, int]:
    """Estimates the standard deviation of the logarithm of the CER between trainings on as many labels.

    Returns:
        The deviation, and its degrees of freedom, with those of `_BELIEF`.
    """
    differences = [
        math.log((errors[i] + 0.5) / (errors[j] + 0.5))
        for i in range(len(labels))
        for j in range(i)
        if abs(labels[i] - labels[j]) <= 1
    ]
    squares = _BELIEF * _USUAL_NOISE**2 + sum(difference**2 / 2 for difference in differences)
    freedom = _BELIEF + len(differences)
    return math.sqrt(squares / freedom), freedom


def _extrapolate(
    sizes: np.ndarray,
    sums: np.ndarray,
    targets: np.ndarray,
    noise: np.ndarray,
    chooser: np.random.Generator | None = None,
) -> np.ndarray:
    """Extrapolates the logarithm of the CER; with `chooser`, after adding noise to what was measured and is forecast.

    Args:
        sizes: logarithms of the numbers of labels, float [models].
        sums: symbols, and errors of each model, float [resamples, 1 + models].
        targets: logarithms of the numbers of labels to forecast for, float [targets].
        noise: standard deviation of the logarithm of the CER, float [resamples, 1].

    Returns:
        float [resamples, targets].
    """
    errors = sums[:, 1:]
    heights = np.log((errors + 0.5) / np.maximum(sums[:, :1], 1))
    weights = 1 / (1 / (errors + 1) + noise**2)
    if chooser is not None:
        heights = heights + noise * chooser.normal(size=heights.shape)
    weights = weights / weights.sum(axis=1, keepdims=True)
    middle = (weights * sizes).sum(axis=1, keepdims=True)
    level = (weights * heights).sum(axis=1, keepdims=True)
    spread = (weights * (sizes - middle) ** 2).sum(axis=1, keepdims=True)
    slope = np.minimum((weights * (sizes - middle) * (heights - level)).sum(axis=1, keepdims=True) / spread, 0)
    forecast = level + slope * (targets - middle)
    return forecast if chooser is None else forecast + noise * chooser.normal(size=forecast.shape)
