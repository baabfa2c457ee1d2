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
from components.training.data import Examples, make_evaluation_batches
from components.training.learner import copy_weights, make_logits_function
from components.training.networks import find_builder
from components.training.request import TrainingRequest
from tfrecords import Charset, DataError

_READ, _LOOKED_AT = 300, 200  # lines of a split, at most about so many
_ENOUGH = 10  # lines to say that a model reads no better than a constant text
_BATCH = 64


def explain_constant_answers(compute_logits: Callable, judged: Examples, charset: Charset) -> str | None:
    """Says why a model reads no better than a constant text; None if it reads better, or for too few lines."""
    if len(judged) < _ENOUGH:
        return None
    readings = _read_some(compute_logits, judged, charset)
    pairs = [(judged.texts[i], text) for i, text in readings.items()]
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

    Args:
        height: of the lines, pixels.
        compute_logits: of the trained model, as `make_logits_function` makes it.
    """
    lines = LabelledLines(
        [*train.uris, *validation.uris],
        [*train.texts, *validation.texts],
        np.concatenate([train.widths, validation.widths]),
        height,
        len(train),
        charset.direction,
    )
    readings = [
        {
            first + i: text
            for examples, first in ((train, 0), (validation, len(train)))
            for i, text in _read_some(compute, examples, charset).items()
        }
        for compute in (compute_logits, *_load_starts(request, charset, height))
    ]
    order = np.random.default_rng(request.seed).permutation(len(train)).tolist()
    chosen = [i for i in order if train.texts[i]][:_LOOKED_AT]  # of the others, nobody expects to see anything
    return list(dict.fromkeys(find_causes(lines, readings, [train.decode_line(i) for i in chosen])))


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
    for images, widths, indices in make_evaluation_batches(examples, _BATCH, 0, parts):
        logits, time_steps = (output.numpy() for output in compute_logits(images, widths))
        texts = [charset.decode(decoded.ids) for decoded in decode_greedily(logits, time_steps)]
        found.update(zip(indices.tolist(), texts, strict=True))
    return found
