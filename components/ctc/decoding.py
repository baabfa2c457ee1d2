"""The greedy CTC decoder, and what it shares with those of `beam` and `lexicon`.

Decoders turn logits into text and confidence, vectorised over the batch in NumPy: the same on every engine.

Shapes: `logits` float [batch, time, classes], unnormalised; class `classes - 1` is the blank.
`time_steps` int [batch], the steps that each image's own width gives. Logits beyond an image's time
steps never matter.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

# Forward variables grow at most threefold in a time step: in so many steps by less than 1e123.
_STEPS_WITHOUT_OVERFLOW = 256


@dataclasses.dataclass(frozen=True)
class Decoded:
    """One decoded line.

    Attributes:
        ids: symbol ids, int [length].
        symbol_confidences: float32 [length], for each symbol its greatest posterior over its time steps
            in the most probable alignment of the text. For the greedy text, that alignment is the
            greedy path.
        runs: int32 [length, 2], the first of these time steps, and the one after the last; [0, 2] if the text has no
            alignment of a probability above 0.
        log_probability: natural logarithm of the posterior of the whole text over all its alignments,
            at most 0; minus infinity if there is no text (see `decode_with_lexicon`).
        alternatives: other texts, `(ids, log_probability)`, the most probable first, or as a language model ranks them.
    """

    ids: np.ndarray
    symbol_confidences: np.ndarray
    runs: np.ndarray
    log_probability: float
    alternatives: tuple[tuple[np.ndarray, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Emissions:
    """A network's probabilities at each time step, as all decoders use them.

    Beyond an image's time steps the blank is certain. So these steps add nothing to any text and change
    no probability.

    Attributes:
        weights: float64 [time, batch, classes], the posterior of each class divided by that of
            the best class of its time step.
        best: int [time, batch], the best class of each time step.
        peaks: float64 [time, batch], its posterior.
    """

    weights: np.ndarray
    best: np.ndarray
    peaks: np.ndarray

    @classmethod
    def from_logits(cls, logits: np.ndarray, time_steps: np.ndarray) -> Emissions:
        """Computes the softmax of the logits.

        Raises:
            ValueError: if a logit within an image's time steps is not finite. A decoder that took it
                would print symbol 0.
        """
        steps, blank = logits.shape[1], logits.shape[2] - 1
        beyond = np.arange(steps)[:, None] >= time_steps
        by_step = logits.transpose(1, 0, 2)
        finite = np.isfinite(by_step)
        if not finite.all() and not finite[~beyond].all():
            raise ValueError("the model gave logits that are not finite: train it again, with a lower --learning_rate")
        best = by_step.argmax(axis=2)
        best[beyond] = blank
        weights = by_step.astype(np.float64, order="C")
        weights[beyond] = -np.inf
        weights[beyond, blank] = 0
        weights -= np.take_along_axis(weights, best[:, :, None], axis=2)
        np.exp(weights, out=weights)
        return cls(weights, best, 1 / np.einsum("tbc->tb", weights))

    def select_images(self, images: np.ndarray) -> Emissions:
        """Selects some images of the batch, int [images]."""
        return Emissions(self.weights[:, images], self.best[:, images], self.peaks[:, images])


def decode_greedily(logits: np.ndarray, time_steps: np.ndarray) -> list[Decoded]:
    """Takes the best class at every time step, merges repeats and drops blanks (Graves et al. 2006, section 3.2).

    The probability is that of the text over all its alignments, not that of the one path.

    Raises:
        ValueError: if a logit within an image's time steps is not finite.
    """
    emissions = Emissions.from_logits(logits, time_steps)
    ids, confidences, runs, lengths = collapse_best_paths(emissions)
    # The greedy path is an alignment of the text with weight 1 at every step, so nothing can underflow.
    totals = compute_posteriors(emissions, pad_labels(ids, lengths), lengths, rescale_every=_STEPS_WITHOUT_OVERFLOW)
    bounds = itertools.pairwise([0, *np.cumsum(lengths).tolist()])
    return [
        Decoded(ids[start:end], confidences[start:end], runs[start:end], total)
        for (start, end), total in zip(bounds, totals.tolist(), strict=True)
    ]


def collapse_best_paths(emissions: Emissions) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Collapses the best class of every time step to texts: merges repeats and drops blanks.

    Returns:
        The symbols of all texts, one after the other, int [sum of lengths]; the greatest posterior of each over its
        time steps, float32 [sum of lengths]; these time steps as `Decoded.runs`, int32 [sum of lengths, 2]; and the
        lengths of the texts, int [batch].
    """
    steps, batch, classes = emissions.weights.shape
    best = emissions.best.T
    first = np.ones(best.shape, bool)
    first[:, 1:] = best[:, 1:] != best[:, :-1]
    starts = np.flatnonzero(first)
    run_peaks = np.maximum.reduceat(emissions.peaks.T.ravel(), starts) if starts.size else np.empty(0)
    run_ids = best.ravel()[starts]
    symbol_runs = run_ids != classes - 1
    images = (starts // steps)[symbol_runs]
    bounds = np.append(starts, best.size)
    runs = np.stack([bounds[:-1], bounds[1:]], axis=1)[symbol_runs] - images[:, None] * steps
    lengths = np.bincount(images, minlength=batch)
    return run_ids[symbol_runs], run_peaks[symbol_runs].astype(np.float32), runs.astype(np.int32), lengths


def compute_label_log_probability(
    logits: np.ndarray, time_steps: np.ndarray, labels: np.ndarray, label_lengths: np.ndarray
) -> np.ndarray:
    """Computes the natural logarithm of the posterior of each label over all its alignments, `-ctc_loss`.

    Args:
        labels: int [batch, longest], padded with anything.
        label_lengths: int [batch].

    Returns:
        float64 [batch]; minus infinity where the label does not fit the time steps.

    Raises:
        ValueError: if a logit within an image's time steps is not finite.
    """
    return compute_posteriors(Emissions.from_logits(logits, time_steps), labels, label_lengths)


def pad_labels(ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Pads labels that lie one after the other, int [sum of lengths], with 0 to int [labels, longest]."""
    labels = np.zeros((len(lengths), int(lengths.max(initial=0))), np.int64)
    labels[np.arange(labels.shape[1]) < lengths[:, None]] = ids
    return labels


def compute_posteriors(
    emissions: Emissions,
    labels: np.ndarray,
    label_lengths: np.ndarray,
    images: np.ndarray | None = None,
    rescale_every: int = 1,
) -> np.ndarray:
    """Computes the natural logarithm of each label's posterior (Graves et al. 2006, equations 6 to 8).

    The forward variables are divided by their sum now and then, and the logarithms of those sums are
    added up (Rabiner 1989, section V.A). That is cheaper than logarithms throughout. A posterior that is
    about 1e-300 times the sum of those of the label's beginnings counts as 0.

    Args:
        labels: int [labels, longest], padded with anything.
        label_lengths: int [labels].
        images: int [labels], the image of the batch for each label; by default label `i` is for image `i`.
        rescale_every: number of time steps between divisions.

    Returns:
        float64 [labels]; minus infinity where the label does not fit the time steps.
    """
    steps, batch, classes = emissions.weights.shape
    images = np.arange(batch) if images is None else images
    count, longest = labels.shape
    inside = np.arange(longest)[:, None] < label_lengths
    symbols = np.where(inside, labels.T, 0)
    columns = images * classes + symbols
    may_skip = (symbols[1:] != symbols[:-1]).astype(np.float64)
    blank_weights = emissions.weights[:, :, -1][:, images]
    # Probabilities of the alignments so far: after_blank[i] of those of the first i symbols that end in a blank,
    # after_symbol[i] of those that end in symbol i. The start, before the first step, counts as after a blank.
    after_blank = np.zeros((longest + 1, count))
    after_blank[0] = 1
    after_symbol = np.zeros((longest, count))
    scales = []
    for step in range(steps):
        entering = after_blank[:-1] + after_symbol
        entering[1:] += may_skip * after_symbol[:-1]
        entering *= inside
        after_blank[1:] += after_symbol
        after_blank *= blank_weights[step]
        after_symbol = emissions.weights[step].ravel().take(columns)
        after_symbol *= entering
        if (step + 1) % rescale_every == 0:
            scale = after_blank.sum(axis=0) + after_symbol.sum(axis=0)
            scales.append(scale)
            divisor = np.where(scale > 0, scale, 1)
            after_blank /= divisor
            after_symbol /= divisor
    rows = np.arange(count)
    total = after_blank[label_lengths, rows]
    if longest:
        total += np.where(label_lengths > 0, after_symbol[label_lengths - 1, rows], 0)
    with np.errstate(divide="ignore"):
        result = np.log(total) + np.log(emissions.peaks).sum(axis=0)[images]
        if scales:
            result += np.log(scales).sum(axis=0)
    return np.minimum(result, 0)


def align_symbols(
    emissions: Emissions, labels: np.ndarray, label_lengths: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Finds each symbol's time steps in its label's most probable alignment, and its greatest posterior over them.

    The alignment is Viterbi's over the states of Graves et al. 2006, section 4.1: a blank before, between
    and after the symbols.

    Args:
        labels: int [batch, longest], padded with anything; all fit their time steps.
        label_lengths: int [batch].

    Returns:
        `Decoded.symbol_confidences` and `Decoded.runs` for each label.
    """
    steps, batch, classes = emissions.weights.shape
    longest = labels.shape[1]
    states = 2 * longest + 1
    inside = np.arange(longest)[:, None] < label_lengths
    symbols = np.where(inside, labels.T, classes - 1)
    columns = np.full((states, batch), classes - 1)
    columns[1::2] = symbols
    columns += np.arange(batch) * classes
    may_skip = symbols[1:] != symbols[:-1]
    exists = np.arange(states)[:, None] <= 2 * label_lengths
    moves = np.zeros((steps, states, batch), np.int8)  # number of states by which each state was entered
    score = np.zeros((states, batch))
    score[0] = 1
    for step in range(steps):
        best = score.copy()
        move = moves[step]
        move[1:] = score[:-1] > score[1:]
        np.maximum(best[1:], score[:-1], out=best[1:])
        skipping = np.where(may_skip, score[1:-2:2], 0)
        move[3::2][skipping > best[3::2]] = 2
        np.maximum(best[3::2], skipping, out=best[3::2])
        best *= emissions.weights[step].ravel().take(columns)
        best *= exists
        greatest = best.max(axis=0)
        score = best / np.where(greatest > 0, greatest, 1)
    rows = np.arange(batch)
    last = 2 * label_lengths
    state = np.where(score[last, rows] >= score[np.maximum(last - 1, 0), rows], last, last - 1)
    confidences = np.zeros((batch, longest))
    runs = np.zeros((batch, longest, 2), np.int32)
    for step in range(steps - 1, -1, -1):
        here = np.flatnonzero(state % 2)
        weights = emissions.weights[step].ravel()[columns[state[here], here]]
        symbol = state[here] // 2
        confidences[here, symbol] = np.maximum(confidences[here, symbol], weights * emissions.peaks[step, here])
        runs[here, symbol, 0] = step
        runs[here, symbol, 1] = np.maximum(runs[here, symbol, 1], step + 1)
        state = state - moves[step, state, rows]
    aligned = []
    for length, found, run in zip(label_lengths.tolist(), confidences.astype(np.float32), runs, strict=True):
        aligned.append((found[:length], run[:length] if run[:length, 1].all() else run[:0]))
    return aligned


def rank_texts(
    emissions: Emissions,
    labels: np.ndarray,
    label_lengths: np.ndarray,
    images: np.ndarray,
    alternatives: int,
) -> list[Decoded]:
    """Ranks several texts for each image, and returns the most probable one with its confidences, and the next ones.

    Args:
        labels: int [labels, longest], padded with anything; those of one image all differ.
        label_lengths: int [labels].
        images: int [labels], the image of each label, ascending.
        alternatives: most other texts to return.

    Returns:
        One `Decoded` for each image of the batch. If no text has a probability above 0, its text is empty
        and its log probability minus infinity.
    """
    batch = emissions.weights.shape[1]
    posteriors = compute_posteriors(emissions, labels, label_lengths, images)
    ranked = np.lexsort((-posteriors, images))
    ranked = ranked[posteriors[ranked] > -np.inf]
    bounds = np.searchsorted(images[ranked], np.arange(batch + 1))
    has_text = bounds[1:] > bounds[:-1]
    best = ranked[bounds[:-1][has_text]]
    best_labels = np.zeros((batch, labels.shape[1]), np.int64)
    best_labels[has_text] = labels[best]
    best_lengths = np.zeros(batch, np.int64)
    best_lengths[has_text] = label_lengths[best]
    aligned = align_symbols(emissions, best_labels, best_lengths)
    decoded = []
    for image in range(batch):
        texts = [
            (labels[i, : label_lengths[i]], float(posteriors[i]))
            for i in ranked[bounds[image] : bounds[image + 1]][: alternatives + 1]
        ]
        ids, log_probability = texts[0] if texts else (best_labels[image, :0], -np.inf)
        decoded.append(Decoded(ids, *aligned[image], log_probability, tuple(texts[1:])))
    return decoded
