"""From logits to text and confidence, vectorised over the batch in NumPy: the same on every engine.

Shapes: `logits` float [batch, time, classes], unnormalised, the blank being class
`classes - 1`; `time_steps` int [batch], the steps that each image's own width gives.
What lies beyond an image's time steps never matters.

Here are the greedy decoder and what it shares with those of `beam` and `lexicon`.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

# Forward variables grow threefold in a time step at most: in so many by less than 1e123.
_STEPS_WITHOUT_OVERFLOW = 256


@dataclasses.dataclass(frozen=True)
class Decoded:
    """One decoded line.

    Attributes:
        ids: symbol ids, int [length].
        symbol_confidences: float32 [length], for each symbol its greatest posterior over the time
            steps that the most probable alignment of the text gives it. Where the text is the
            greedy one, that alignment is the greedy path.
        log_probability: natural logarithm of the posterior of the whole text over all its
            alignments, at most 0; minus infinity if no text could be found (see `decode_with_lexicon`).
        alternatives: other texts, `(ids, log_probability)`, the most probable first.
    """

    ids: np.ndarray
    symbol_confidences: np.ndarray
    log_probability: float
    alternatives: tuple[tuple[np.ndarray, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Emissions:
    """What a network says about each time step, as all decoders use it.

    Beyond an image's time steps the blank is certain, which adds nothing to any text and
    changes no probability.

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
        """The softmax of the logits.

        Raises:
            ValueError: if a logit within an image's time steps is not finite: a decoder that
                goes on would print symbol 0.
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

    def of_images(self, images: np.ndarray) -> Emissions:
        """Those of some images of the batch."""
        return Emissions(self.weights[:, images], self.best[:, images], self.peaks[:, images])


def decode_greedily(logits: np.ndarray, time_steps: np.ndarray) -> list[Decoded]:
    """Best class at every time step, repeats merged, blanks dropped (Graves et al. 2006, section 3.2).

    The probability is that of the text, over every alignment, not that of the one path.

    Raises:
        ValueError: if a logit within an image's time steps is not finite.
    """
    emissions = Emissions.from_logits(logits, time_steps)
    ids, confidences, lengths = collapse_best_paths(emissions)
    # The greedy path is an alignment of the text, of weight 1 at every step: nothing can underflow.
    totals = compute_posteriors(emissions, pad_labels(ids, lengths), lengths, rescale_every=_STEPS_WITHOUT_OVERFLOW)
    bounds = itertools.pairwise([0, *np.cumsum(lengths).tolist()])
    return [
        Decoded(ids[start:end], confidences[start:end], total)
        for (start, end), total in zip(bounds, totals.tolist(), strict=True)
    ]


def collapse_best_paths(emissions: Emissions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the best class of every time step says.

    Returns:
        The symbols of all texts, one behind the other, int [sum of lengths], the greatest posterior that each has over
        its time steps, float32, and the lengths of the texts, int [batch].
    """
    steps, batch, classes = emissions.weights.shape
    best = emissions.best.T
    first = np.ones(best.shape, bool)
    first[:, 1:] = best[:, 1:] != best[:, :-1]
    starts = np.flatnonzero(first)
    run_peaks = np.maximum.reduceat(emissions.peaks.T.ravel(), starts) if starts.size else np.empty(0)
    run_ids = best.ravel()[starts]
    symbol_runs = run_ids != classes - 1
    lengths = np.bincount((starts // steps)[symbol_runs], minlength=batch)
    return run_ids[symbol_runs], run_peaks[symbol_runs].astype(np.float32), lengths


def compute_label_log_probability(
    logits: np.ndarray, time_steps: np.ndarray, labels: np.ndarray, label_lengths: np.ndarray
) -> np.ndarray:
    """The natural logarithm of the posterior of a label, `-ctc_loss`, over every alignment.

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
    """Labels that lie one behind the other, int [sum of lengths], as int [labels, longest], padded with 0."""
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
    """The logarithm of each label's posterior, by the forward variables of Graves et al. 2006, equations 6 to 8.

    They are divided by their sum now and then, and the logarithms of those sums are added up
    (Rabiner 1989, section V.A), which is cheaper than logarithms throughout. A posterior that
    is some 1e-300 times the sum of those of the label's beginnings counts as 0.

    Args:
        labels: int [labels, longest], padded with anything.
        label_lengths: int [labels].
        images: int [labels], which image of the batch each label is read on; by default its own.
        rescale_every: after how many time steps.

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
    # Of the alignments so far: after_blank[i] of those of the first i symbols that end in a blank,
    # after_symbol[i] of those that end in symbol i. Before the first step: nothing, as after a blank.
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


def align_symbols(emissions: Emissions, labels: np.ndarray, label_lengths: np.ndarray) -> list[np.ndarray]:
    """The greatest posterior of each symbol over the time steps of its label's most probable alignment.

    The alignment is Viterbi's over the states of Graves et al. 2006, section 4.1: a blank
    before, between and after the symbols.

    Args:
        labels: int [batch, longest], padded with anything; each fits its time steps.
        label_lengths: int [batch].

    Returns:
        float32 [label_length] for each label.
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
    moves = np.zeros((steps, states, batch), np.int8)  # by how many states each was entered
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
    for step in range(steps - 1, -1, -1):
        here = np.flatnonzero(state % 2)
        weights = emissions.weights[step].ravel()[columns[state[here], here]]
        symbol = state[here] // 2
        confidences[here, symbol] = np.maximum(confidences[here, symbol], weights * emissions.peaks[step, here])
        state = state - moves[step, state, rows]
    flat = confidences[np.arange(longest) < label_lengths[:, None]].astype(np.float32)
    return np.split(flat, np.cumsum(label_lengths))[:-1]


def rank_texts(
    emissions: Emissions,
    labels: np.ndarray,
    label_lengths: np.ndarray,
    images: np.ndarray,
    alternatives: int,
) -> list[Decoded]:
    """Of several texts for each image the most probable one, with its confidences, and the next ones.

    Args:
        labels: int [labels, longest], padded with anything; those of one image all differ.
        label_lengths: int [labels].
        images: int [labels], ascending.
        alternatives: how many other texts to give at most.

    Returns:
        One `Decoded` for each image of the batch. Without a text of probability above 0 it is
        empty, of log probability minus infinity.
    """
    batch = emissions.weights.shape[1]
    posteriors = compute_posteriors(emissions, labels, label_lengths, images)
    ranked = np.lexsort((-posteriors, images))
    ranked = ranked[posteriors[ranked] > -np.inf]
    bounds = np.searchsorted(images[ranked], np.arange(batch + 1))
    found = bounds[1:] > bounds[:-1]
    best = ranked[bounds[:-1][found]]
    best_labels = np.zeros((batch, labels.shape[1]), np.int64)
    best_labels[found] = labels[best]
    best_lengths = np.zeros(batch, np.int64)
    best_lengths[found] = label_lengths[best]
    confidences = align_symbols(emissions, best_labels, best_lengths)
    decoded = []
    for image in range(batch):
        texts = [
            (labels[i, : label_lengths[i]], float(posteriors[i]))
            for i in ranked[bounds[image] : bounds[image + 1]][: alternatives + 1]
        ]
        ids, log_probability = texts[0] if texts else (best_labels[image, :0], -np.inf)
        decoded.append(Decoded(ids, confidences[image], log_probability, tuple(texts[1:])))
    return decoded
