"""Beam search with a language model: the text that network and labels' habits together hold for most probable."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np

from components.ctc.beam_search import sort_greatest_first
from components.ctc.calibration import compute_cross_entropies
from components.ctc.decoding import (
    Decoded,
    Emissions,
    align_symbols,
    collapse_best_paths,
    compute_posteriors,
    decode_greedily,
    pad_labels,
)
from components.ctc.language_model import LanguageModel
from components.metrics import compute_edit_distance

_QUIET = 0.99  # posterior of the blank from which a time step is passed over
_SYMBOLS = 6  # that may follow a text at a time step, the most probable ones
_FAINT = 1e-3  # weight beside the best class of a time step up to which a symbol is none of them
_WEIGHTS = (0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0, 1.3)
_BONUSES = (0.0, 1.0, 2.0)  # times the weight
_TUNING_WIDTH = 6
_RESCALE_EVERY = 8  # time steps
_CHANCE = 0.05
_EXPONENTS = np.geomspace(0.05, 1.5, 60)
_NOTHING, _NO_PARENT = np.uint64(1), np.uint64(0)  # these stand for hashes, but equal none of them


@dataclasses.dataclass(frozen=True)
class Fusion:
    """A language model and its say beside the network (shallow fusion, Gulcehre et al. 2015).

    A text's score is `log p(text | image) + weight * log p(text) + bonus * symbols`.

    Attributes:
        model: the language model.
        weight: of its logarithms.
        bonus: for each symbol, since a language model prefers short texts.
        exponent: to which the network's posterior of a text is raised to be its confidence. The network alone is less
            sure of a text than both together.
    """

    model: LanguageModel
    weight: float
    bonus: float
    exponent: float = 1.0

    @functools.cached_property
    def factors(self) -> np.ndarray:
        """The factor by which each symbol changes a text's probability, float32 [states, classes]."""
        logarithms = self.weight * self.model.log_probabilities
        logarithms[:, :-1] += np.float32(self.bonus)
        return np.exp(logarithms)


def decode_with_language_model(
    logits: np.ndarray, time_steps: np.ndarray, fusion: Fusion, beam_width: int, alternatives: int
) -> list[Decoded]:
    """Finds the text of the greatest score with a prefix beam search, and the next ones (Hannun et al. 2014).

    Time steps at which the blank is nearly certain are passed over. The probabilities of the texts returned are those
    of the network alone, over all alignments and all time steps. So an alternative may be more probable than the text
    that the language model preferred.

    Args:
        beam_width: number of beginnings to keep, at least 1.
        alternatives: most other texts to return.

    Raises:
        ValueError: if a logit within an image's time steps is not finite.
    """
    emissions = Emissions.from_logits(logits, time_steps)
    labels, lengths, images, scores = _search(emissions, fusion, beam_width)
    order = np.lexsort((-scores, images))
    first = np.searchsorted(images[order], np.arange(len(time_steps)))
    kept = order[np.arange(len(order)) - first[images[order]] <= alternatives]
    labels, lengths, images = labels[kept], lengths[kept], images[kept]
    posteriors = compute_posteriors(emissions, labels, lengths, images, _RESCALE_EVERY)
    bounds = np.searchsorted(images, np.arange(len(time_steps) + 1))
    aligned = _align_texts(emissions, labels[bounds[:-1]], lengths[bounds[:-1]])
    texts = [(label[:length], float(p)) for label, length, p in zip(labels, lengths, posteriors, strict=True)]
    return [
        Decoded(texts[start][0], *found, texts[start][1], tuple(texts[start + 1 : end]))
        for (start, end), found in zip(itertools.pairwise(bounds), aligned, strict=True)
    ]


def _align_texts(emissions: Emissions, labels: np.ndarray, lengths: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Finds the confidences and the time steps of each text's symbols, as `align_symbols` does."""
    # Most texts are the greedy ones, whose alignment is the greedy path.
    ids, peaks, runs, greedy_lengths = collapse_best_paths(emissions)
    bounds = list(itertools.pairwise([0, *np.cumsum(greedy_lengths)]))
    aligned = [(peaks[start:end], runs[start:end]) for start, end in bounds]
    changed = [
        image
        for image, (start, end) in enumerate(bounds)
        if not np.array_equal(labels[image, : lengths[image]], ids[start:end])
    ]
    found = align_symbols(emissions.select_images(np.array(changed, int)), labels[changed], lengths[changed])
    for image, of_image in zip(changed, found, strict=True):
        aligned[image] = of_image
    return aligned


def tune_fusion(
    batches: Iterable[tuple[np.ndarray, np.ndarray, list[list[int]]]], model: LanguageModel
) -> Fusion | None:
    """Finds the weight and the bonus with the fewest symbol errors on lines that trained neither model.

    Args:
        batches: logits float [batch, time, classes], time steps int [batch], and the true symbol ids of each line.

    Returns:
        None if lines that get better are not clearly more than lines that get worse (a sign test at 5 %).
    """
    batches = list(batches)
    before = _count_errors(batches, [decode_greedily(logits, steps) for logits, steps, _ in batches])
    best: tuple[int, Fusion, np.ndarray, np.ndarray] | None = None
    for weight in _WEIGHTS:
        for bonus in _BONUSES:
            fusion = Fusion(model, weight, bonus * weight)
            decoded = [
                decode_with_language_model(logits, steps, fusion, _TUNING_WIDTH, 0) for logits, steps, _ in batches
            ]
            errors = _count_errors(batches, decoded)
            if best is None or errors.sum() < best[0]:
                posteriors = np.array([line.log_probability for lines in decoded for line in lines])
                best = int(errors.sum()), fusion, errors, posteriors
    if best is None:
        return None
    better, worse = int((best[2] < before).sum()), int((best[2] > before).sum())
    if best[0] >= before.sum() or _compute_chance(better, worse) >= _CHANCE:
        return None
    return dataclasses.replace(best[1], exponent=_fit_exponent(best[3], best[2] == 0))


def _fit_exponent(log_posteriors: np.ndarray, right: np.ndarray) -> float:
    """Fits the exponent with which posteriors say best how often texts are right.

    It has the least cross entropy, as a temperature has.

    Args:
        log_posteriors: float [lines], natural logarithms.
        right: bool [lines].
    """
    entropies = compute_cross_entropies(log_posteriors[:, None] * _EXPONENTS, right)
    return float(_EXPONENTS[entropies.argmin()])


def _compute_chance(better: int, worse: int) -> float:
    """Computes how probable so many better ones are by chance, if better and worse are as probable (a sign test)."""
    changed = better + worse
    return sum(math.comb(changed, count) for count in range(better, changed + 1)) / 2**changed


def _count_errors(
    batches: Sequence[tuple[np.ndarray, np.ndarray, list[list[int]]]], decoded: Sequence[Sequence[Decoded]]
) -> np.ndarray:
    """Counts the symbol errors of each line, int [lines]."""
    return np.array(
        [
            compute_edit_distance(truth, line.ids.tolist())
            for (_, _, truths), lines in zip(batches, decoded, strict=True)
            for truth, line in zip(truths, lines, strict=True)
        ],
        int,
    )


@dataclasses.dataclass(frozen=True)
class _Frames:
    """The time steps of a batch at which something may be written, each image's one after the other.

    Attributes:
        rows: int [frames, batch], the place of each in the emissions' weights, seen as [time * batch, classes].
        exists: bool [frames, batch]; images with fewer frames than others end with some that change nothing.
        after_quiet: bool [frames, batch], whether steps before it were passed over.
        blank: float [frames, batch], the blank's weight.
        symbols: int [frames, symbols, batch], the most probable symbols.
        weights: float [frames, symbols, batch], of these.
    """

    rows: np.ndarray
    exists: np.ndarray
    after_quiet: np.ndarray
    blank: np.ndarray
    symbols: np.ndarray
    weights: np.ndarray

    @classmethod
    def select(cls, emissions: Emissions) -> _Frames:
        """Selects the time steps at which the blank is not nearly certain."""
        steps, batch, classes = emissions.weights.shape
        loud = (emissions.best != classes - 1) | (emissions.peaks <= _QUIET)
        step, image = np.nonzero(loud)
        place = (np.cumsum(loud, axis=0) - 1)[step, image]
        frame = np.full((int(loud.sum(axis=0).max(initial=0)), batch), -1)
        frame[place, image] = step
        before = np.concatenate([np.full((1, batch), -1), frame])[: len(frame)]
        exists = frame >= 0
        rows = np.where(exists, frame, 0) * batch + np.arange(batch)
        found = emissions.weights.reshape(steps * batch, classes)[rows[exists]]
        place, symbol = np.nonzero(found[:, :-1] > _FAINT)
        weight = found[place, symbol]
        order = np.lexsort((-weight, place))
        place, symbol, weight = place[order], symbol[order], weight[order]
        rank = np.arange(len(place)) - np.searchsorted(place, np.arange(len(found)))[place]
        place, symbol, weight, rank = (values[rank < _SYMBOLS] for values in (place, symbol, weight, rank))
        symbols = np.zeros((len(frame), _SYMBOLS, batch), np.int64)
        weights, blank = np.zeros(symbols.shape), np.ones(exists.shape)
        frames, images = np.nonzero(exists)
        symbols[frames[place], rank, images[place]] = symbol
        weights[frames[place], rank, images[place]] = weight
        blank[frames, images] = found[:, -1]
        return cls(rows, exists, exists & (frame > before + 1), blank, symbols, weights)


def _search(emissions: Emissions, fusion: Fusion, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Searches for the texts of the greatest scores of each image.

    Returns:
        Labels int [texts, longest], their lengths int [texts], the image of each int [texts], ascending, and their
        scores float [texts], up to a constant for each image.
    """
    frames = _Frames.select(emissions)
    _, batch, classes = emissions.weights.shape
    count, symbols, _ = frames.symbols.shape
    blank = classes - 1
    all_weights, factors = emissions.weights.ravel(), fusion.factors.ravel()
    next_states = fusion.model.next_states.ravel()
    images = np.arange(batch)
    multipliers = np.random.default_rng(0).integers(0, 1 << 63, classes, np.uint64) | np.uint64(1)

    # The beam, [width, batch], the text of the greatest score of each image first. Probabilities are those of the
    # alignments so far, times the factors of the language model.
    after_blank, after_symbol = np.zeros((2, width, batch))
    after_blank[0] = 1
    last = np.full((width, batch), blank)  # of the empty text: no extension repeats it
    state = np.full((width, batch), fusion.model.start)
    factor = np.ones((width, batch), np.float32)  # of the last symbol
    hashes = np.full((width, batch), _NOTHING)
    hashes[0] = multipliers[blank]
    parent_hashes = np.full((width, batch), _NO_PARENT)  # of the text without its last symbol
    parents = np.full((width, batch), width)  # its slot; `width` if it has none
    candidates = np.empty((width * (1 + symbols), batch))  # the texts themselves, then their extensions
    sources, appended = np.empty((2, count, width, batch), np.int64)
    for step in range(count):
        total = after_blank + after_symbol
        quiet = frames.after_quiet[step]
        if quiet.any():
            after_blank = np.where(quiet, total, after_blank)
            after_symbol = np.where(quiet, 0, after_symbol)
        last_weights = all_weights.take(frames.rows[step] * classes + last)
        last_weights *= frames.exists[step]
        stays_blank, stays_symbol = total * frames.blank[step], after_symbol * last_weights
        new_symbols = frames.symbols[step]
        new_factors = factors.take(state[:, None] * classes + new_symbols)  # [width, symbols, batch]
        gains = np.where(new_symbols == last[:, None], after_blank[:, None], total[:, None])
        gains *= new_factors
        gains *= frames.weights[step]
        # If a text and its extension are both in the beam, the extension gains the text's probability, and the text
        # extended in that way is no candidate beside it.
        child, image = np.nonzero(parents < width)
        parent, symbol = parents[child, image], last[child, image]
        gain = np.where(symbol == last[parent, image], after_blank[parent, image], total[parent, image])
        stays_symbol[child, image] += gain * last_weights[child, image] * factor[child, image]
        rank, twice = np.nonzero(new_symbols[:, image] == symbol)
        gains[parent[twice], rank, image[twice]] = 0
        np.add(stays_blank, stays_symbol, out=candidates[:width])
        candidates[width:] = gains.reshape(-1, batch)

        chosen = sort_greatest_first(candidates.T, width).T
        scores = candidates.take(chosen * batch + images)
        is_new, extension = chosen >= width, np.maximum(chosen - width, 0)
        source = np.where(is_new, extension // symbols, chosen)
        place = source * batch + images
        after_blank = np.where(is_new, 0, stays_blank.take(place)) / scores[0]
        after_symbol = np.where(is_new, scores, stays_symbol.take(place)) / scores[0]
        symbol = new_symbols.take(extension % symbols * batch + images)
        state = state.take(place)
        state = np.where(is_new, next_states.take(state * (classes - 1) + symbol), state)
        factor = np.where(is_new, new_factors.take(extension * batch + images), factor.take(place))
        last = np.where(is_new, symbol, last.take(place))
        old_hashes = hashes.take(place)
        parent_hashes = np.where(is_new, old_hashes, parent_hashes.take(place))
        hashes = np.where(is_new, (old_hashes ^ (old_hashes >> np.uint64(32))) * multipliers[last], old_hashes)
        unused = scores == 0
        hashes[unused], parent_hashes[unused] = _NOTHING, _NO_PARENT
        is_parent = parent_hashes[:, None] == hashes  # [child, parent, batch]
        parents = np.where(is_parent.any(axis=1), is_parent.argmax(axis=1), width)
        sources[step], appended[step] = source, np.where(is_new, last, blank)

    scores = (after_blank + after_symbol) * factors.take(state * classes + blank)
    written = np.empty((count, width, batch), np.int64)
    slot = np.broadcast_to(np.arange(width)[:, None], (width, batch))
    for step in range(count - 1, -1, -1):
        written[step] = appended[step, slot, images]
        slot = sources[step, slot, images]
    used = scores.T > 0
    texts = written.transpose(2, 1, 0)[used]
    lengths = (texts != blank).sum(axis=1)
    return pad_labels(texts[texts != blank], lengths), lengths, np.nonzero(used)[0], np.log(scores.T[used])
