"""The inspection of a training that went badly: its lines, and what it and the model that it started from read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import numpy as np

from components.ctc.decoding import decode_greedily
from components.evaluation.constant import explain_no_better, find_best_constant
from components.metrics import ErrorCounts
from components.recogniser.manifest import KERAS_NAME
from components.training.base_weights import find_base_weights
from components.training.causes import LabelledLines, find_causes
from components.training.data import RECOGNISED_BATCH, Examples, make_ordered_batches
from components.training.learner import copy_weights, make_logits_function
from components.training.networks import find_builder
from components.training.request import TrainingRequest
from tfrecords import Charset, DataError

_READ, _LOOKED_AT = 300, 200  # lines of a split, at most about so many
_MOST_LINES = 50_000  # of a split whose labels and URIs are looked at
_ENOUGH = 10  # lines to say that a model reads no better than a constant text


def explain_constant_answers(compute_logits: Callable, judged: Examples, charset: Charset) -> str | None:
    """Says why a model reads no better than a constant text; None if it reads better, or for too few lines."""
    if len(judged) < _ENOUGH:
        return None
    readings = _read_some(compute_logits, judged, charset)
    pairs = list(zip(judged.read_texts(list(readings)), readings.values(), strict=True))
    total = sum((ErrorCounts.from_texts(*pair) for pair in pairs), ErrorCounts())
    return explain_no_better(total, find_best_constant(lambda: pairs))


def inspect_training(
    request: TrainingRequest,
    charset: Charset,
    height: int,
    compute_logits: Callable,
    train: Examples,
    validation: Examples,
) -> list[str]:
    """Finds the causes of a training that reads nothing, the likeliest first.

    Looks at some lines of a split that has more than `_MOST_LINES`. Labels of a neighbour are then not found.

    Args:
        height: of the lines, pixels.
        compute_logits: of the trained model, as `make_logits_function` makes it.
    """
    read = [
        [_read_some(compute, examples, charset) for examples in (train, validation)]
        for compute in (compute_logits, *_load_starts(request, charset, height))
    ]
    chooser = np.random.default_rng(request.seed)
    order = chooser.permutation(len(train))
    lengths = train.label_lengths
    looked_at = [i for i in order if lengths[i]][:_LOOKED_AT]  # of the others, nobody expects to see anything
    chosen = [
        np.union1d(shuffled[:_MOST_LINES], np.array(list(read[0][number]), int))
        for number, shuffled in enumerate((order, chooser.permutation(len(validation))))
    ]
    parts = list(zip((train, validation), chosen, strict=True))
    lines = LabelledLines(
        [uri for examples, numbers in parts for uri in examples.read_uris(numbers)],
        [text for examples, numbers in parts for text in examples.read_texts(numbers)],
        np.concatenate([examples.widths[numbers] for examples, numbers in parts]),
        height,
        len(chosen[0]),
        charset.direction,
    )
    readings = [
        {
            first + int(np.searchsorted(numbers, i)): text
            for found, numbers, first in zip(of_model, chosen, (0, len(chosen[0])), strict=True)
            for i, text in found.items()
        }
        for of_model in read
    ]
    return list(dict.fromkeys(find_causes(lines, readings, train.decode_lines(looked_at))))


def _load_starts(request: TrainingRequest, charset: Charset, height: int) -> Iterator[Callable]:
    """Yields the model from which the training started or could have started, since it can read without it."""
    base = find_base_weights(request.model)
    if request.init_from is not None:
        path, symbols = request.init_from, request.init_symbols
    elif base is not None and base[1].height == height:
        path, symbols = os.path.join(base[0], KERAS_NAME), base[1].read_charset(base[0]).symbols
    else:
        return
    model = find_builder(request.model, path)(charset.classes, height, False)
    try:
        copy_weights(model, path, symbols, charset)
    except DataError:  # base weights of another size
        return
    yield make_logits_function(model, height)


def _read_some(compute_logits: Callable, examples: Examples, charset: Charset) -> dict[int, str]:
    """Reads some lines of a split greedily; returns the texts by the lines' numbers."""
    found: dict[int, str] = {}
    parts = max(1, len(examples) // _READ)
    for images, widths, indices in make_ordered_batches(examples, RECOGNISED_BATCH, 0, parts):
        logits, time_steps = (output.numpy() for output in compute_logits(images, widths))
        texts = [charset.decode(decoded.ids) for decoded in decode_greedily(logits, time_steps)]
        found.update(zip(indices.tolist(), texts, strict=True))
    return found
