"""CTC prefix beam search, vectorised over the batch, the beam and the classes."""

from __future__ import annotations

import numpy as np

from components.inference.decoding import Decoded, Emissions, best_texts, pad_labels

_NOTHING, _NO_PARENT = np.uint64(1), np.uint64(0)  # in the place of hashes: they equal none that is looked for


def beam_decode(logits: np.ndarray, time_steps: np.ndarray, beam_width: int, alternatives: int = 5) -> list[Decoded]:
    """The most probable text among those that a prefix beam search finds, and the next ones.

    After every time step the search keeps the `beam_width` beginnings of texts that are most
    probable over all their alignments so far (Hannun et al. 2014, algorithm 1, without a language
    model; the sums over alignments are those of the prefix search of Graves 2012, section 7.5).
    The texts that are left are then scored exactly, and sorted by that. In a beam that is as wide
    as there are beginnings, the text is the most probable of all. Equal texts never occur twice.

    Args:
        beam_width: how many beginnings are kept, at least 1.
        alternatives: how many other texts are given at most; never more than `beam_width - 1`.

    Raises:
        ValueError: if a logit within an image's time steps is not finite.
    """
    if beam_width < 1:
        raise ValueError(f"beam_width must be at least 1, not {beam_width}")
    emissions = Emissions.from_logits(logits, time_steps)
    return best_texts(emissions, *_search(emissions, beam_width), alternatives)


def _search(emissions: Emissions, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The texts that are left after the last time step.

    Returns:
        labels int [texts, longest], their lengths, and the image of each, ascending.
    """
    steps, batch, classes = emissions.weights.shape
    blank = classes - 1
    rows = np.arange(batch)[:, None]
    ranks = min(blank, width + 1)
    slot_of, rank_of = _worth_extending(width, ranks)
    order = np.argsort(-emissions.weights[:, :, :blank], axis=2, kind="stable")[:, :, :ranks]
    ranking = np.full(emissions.weights.shape, ranks)
    np.put_along_axis(ranking, order, np.arange(ranks)[None, None], axis=2)
    # The candidates for the next beam: the texts themselves, then their extensions, then none.
    source_of = np.concatenate([np.arange(width), slot_of, [0]])
    none = len(source_of) - 1
    candidate_of = np.full((width, ranks + 1), none)
    candidate_of[slot_of, rank_of] = np.arange(width, none)

    after_blank = np.zeros((batch, width))  # probability of the alignments that end in a blank,
    after_symbol = np.zeros((batch, width))  # or in the text's last symbol; both 0 in an unused slot
    after_blank[:, 0] = 1
    last = np.full((batch, width), blank)  # of the empty text: no extension repeats it
    multipliers = np.random.default_rng(0).integers(0, 1 << 63, classes, np.uint64) | np.uint64(1)
    hashes = np.full((batch, width), _NOTHING)
    hashes[:, 0] = multipliers[blank]
    parent_hashes = np.full((batch, width), _NO_PARENT)  # of the text without its last symbol
    parents = np.full((batch, width), width)  # its slot; `width` if it has none
    sources = np.empty((steps, batch, width), np.int32)
    appended = np.empty((steps, batch, width), np.int32)
    for step in range(steps):
        weights = emissions.weights[step]
        total = after_blank + after_symbol
        stays_blank = total * weights[:, blank:]
        stays_symbol = after_symbol * weights[rows, last]
        classes_of = np.concatenate([last, order[step][:, rank_of], last[:, :1]], axis=1)
        repeats = classes_of == last[:, source_of]
        extended = np.where(repeats, after_blank[:, source_of], total[:, source_of]) * weights[rows, classes_of]
        extended[:, none] = 0
        # A text that is in the beam together with the one it extends gets that one's probability,
        # too, and the extension is no candidate beside it.
        row, child = np.nonzero(parents < width)
        parent, symbol = parents[row, child], last[row, child]
        gain = np.where(symbol == last[row, parent], after_blank[row, parent], total[row, parent])
        stays_symbol[row, child] += gain * weights[row, symbol]
        extended[row, candidate_of[parent, ranking[step, row, symbol]]] = 0
        extended[:, :width] = stays_blank + stays_symbol

        chosen = np.argpartition(-extended, width - 1, axis=1)[:, :width]
        scores = extended[rows, chosen]
        by_score = np.argsort(-scores, axis=1, kind="stable")
        chosen, scores = chosen[rows, by_score], scores[rows, by_score]
        source = source_of[chosen]
        is_new = chosen >= width
        after_blank = np.where(is_new, 0, stays_blank[rows, source]) / scores[:, :1]
        after_symbol = np.where(is_new, scores, stays_symbol[rows, source]) / scores[:, :1]
        last = classes_of[rows, chosen]
        old_hashes = hashes[rows, source]
        parent_hashes = np.where(is_new, old_hashes, parent_hashes[rows, source])
        hashes = np.where(is_new, (old_hashes ^ (old_hashes >> np.uint64(32))) * multipliers[last], old_hashes)
        unused = scores == 0
        after_blank[unused] = after_symbol[unused] = 0
        hashes[unused] = _NOTHING
        parent_hashes[unused] = _NO_PARENT
        same = parent_hashes[:, :, None] == hashes[:, None, :]
        parents = np.where(same.any(axis=2), same.argmax(axis=2), width)
        sources[step], appended[step] = source, np.where(is_new, last, blank)

    slot = np.broadcast_to(np.arange(width), (batch, width))
    symbols = np.empty((batch, width, steps), np.int32)
    for step in range(steps - 1, -1, -1):
        symbols[:, :, step] = appended[step][rows, slot]
        slot = sources[step][rows, slot]
    used = after_blank + after_symbol > 0
    symbols = symbols[used]
    written = symbols != blank
    lengths = written.sum(axis=1)
    return pad_labels(symbols[written], lengths), lengths, np.nonzero(used)[0]


def _worth_extending(width: int, ranks: int) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of a slot of the beam and a rank among a time step's symbols, both from 0, that can survive.

    Slots are sorted by the total probability of their texts, symbols by their weight, the greatest
    first. A text of total `p` extended by a symbol of weight `w` has `p * w` at most, less where the
    symbol repeats its last one. So for slot `i` and rank `r`, each of the `(i + 1) * (r + 1)` pairs of
    an earlier or equal slot and an earlier or equal rank makes a text at least as probable as this
    one, save at most one in each of the `i + 1` slots, the repeat. They are distinct texts: one that
    is in the beam already is at least as probable again, for what is added to it. If there are
    `width` of them without the pair itself, that is `(i + 1) * r - 1 >= width`, it can be left
    out. The first of equals are kept, so that the same holds for the pairs left out before it.
    What is kept is about `width * log(width)` pairs rather than `width * classes`.
    """
    slots, ranks_of = np.indices((width, ranks)).reshape(2, -1)
    worth = (slots + 1) * ranks_of <= width
    return slots[worth], ranks_of[worth]
