"""CTC prefix beam search, vectorised over the batch, the beam and the classes."""

from __future__ import annotations

import numpy as np

from components.ctc.decoding import Decoded, Emissions, collapse_best_paths, pad_labels, rank_texts

_NOTHING, _NO_PARENT = np.uint64(1), np.uint64(0)  # these stand for hashes, but equal none of them


def decode_with_beam_search(
    logits: np.ndarray, time_steps: np.ndarray, beam_width: int, alternatives: int = 5
) -> list[Decoded]:
    """Finds the most probable text with a prefix beam search, and the next ones.

    After every time step the search keeps the `beam_width` beginnings of texts that are most
    probable over all their alignments so far (Hannun et al. 2014, algorithm 1, without a language
    model; the sums over alignments are those of the prefix search of Graves 2012, section 7.5).
    The texts that remain, and the greedy one, are then scored exactly and sorted by their scores. So
    the best text is never less probable than the greedy one. If the beam is as wide as the number of
    beginnings, it is the most probable text of all. Texts never occur twice.

    Args:
        beam_width: number of beginnings to keep, at least 1.
        alternatives: most other texts to return; never more than `beam_width - 1`.

    Raises:
        ValueError: if a logit within an image's time steps is not finite.
    """
    if beam_width < 1:
        raise ValueError(f"beam_width must be at least 1, not {beam_width}")
    emissions = Emissions.from_logits(logits, time_steps)
    candidates = _add_greedy_texts(emissions, *_search(emissions, beam_width))
    return rank_texts(emissions, *candidates, min(alternatives, beam_width - 1))


def _add_greedy_texts(
    emissions: Emissions, labels: np.ndarray, lengths: np.ndarray, images: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Adds the greedy text of each image to its texts if it is not among them.

    Args:
        labels, lengths, images: as `_search` returns them.

    Returns:
        The same three, with the texts added.
    """
    ids, _, _, greedy_lengths = collapse_best_paths(emissions)
    greedy = pad_labels(ids, greedy_lengths)
    longest = max(labels.shape[1], greedy.shape[1])
    labels, greedy = (np.pad(texts, ((0, 0), (0, longest - texts.shape[1]))) for texts in (labels, greedy))
    same = (lengths == greedy_lengths[images]) & (labels == greedy[images]).all(axis=1)
    missing = np.flatnonzero(np.bincount(images[same], minlength=len(greedy)) == 0)
    if not missing.size:
        return labels, lengths, images
    images = np.concatenate([images, missing])
    order = np.argsort(images, kind="stable")
    labels, lengths = np.concatenate([labels, greedy[missing]]), np.concatenate([lengths, greedy_lengths[missing]])
    return labels[order], lengths[order], images[order]


def _search(emissions: Emissions, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Searches for the most probable texts of each image.

    Returns:
        The texts that remain after the last time step: labels int [texts, longest], their lengths int [texts],
        and the image of each int [texts], ascending.
    """
    steps, batch, classes = emissions.weights.shape
    blank = classes - 1
    images, slots = np.arange(batch), np.arange(width)[:, None]
    ranks = min(blank, width + 1)
    slot_of, rank_of = _find_worth_extending(width, ranks)
    by_rank = sort_greatest_first(emissions.weights[:, :, :blank], ranks)
    weights_by_rank = np.take_along_axis(emissions.weights, by_rank, axis=2).transpose(0, 2, 1).copy()
    rank_of_class = np.full(emissions.weights.shape, ranks, np.int32)
    np.put_along_axis(rank_of_class, by_rank, np.arange(ranks)[None, None], axis=2)
    # The candidates for the next beam: the texts themselves, their extensions, and at the end a place for "none".
    source_of = np.concatenate([slots[:, 0], slot_of, [0]])
    rank_of_candidate = np.concatenate([np.zeros(width, int), rank_of, [0]])
    none = len(source_of) - 1
    candidate_of = np.full((width, ranks + 1), none)
    candidate_of[slot_of, rank_of] = np.arange(width, none)
    candidates = np.empty((none + 1, batch))

    # The beam, [width, batch], the most probable text of each image first.
    after_blank = np.zeros((width, batch))  # probability of the alignments that end in a blank,
    after_symbol = np.zeros((width, batch))  # or in the text's last symbol; both 0 in an unused slot
    after_blank[0] = 1
    last = np.full((width, batch), blank)  # of the empty text: no extension repeats it
    multipliers = np.random.default_rng(0).integers(0, 1 << 63, classes, np.uint64) | np.uint64(1)
    hashes = np.full((width, batch), _NOTHING)
    hashes[0] = multipliers[blank]
    parent_hashes = np.full((width, batch), _NO_PARENT)  # of the text without its last symbol
    parents = np.full((width, batch), width)  # its slot; `width` if it has none
    sources = np.empty((steps, width, batch), np.int32)
    appended = np.empty((steps, width, batch), np.int32)
    for step in range(steps):
        weights = emissions.weights[step]
        total = after_blank + after_symbol
        last_class = images * classes + last
        last_weights = weights.take(last_class)
        stays_blank = total * weights[:, blank]
        stays_symbol = after_symbol * last_weights
        np.multiply(total[slot_of], weights_by_rank[step][rank_of], out=candidates[width:none])
        repeated = candidate_of.take(slots * (ranks + 1) + rank_of_class[step].take(last_class))
        candidates[repeated, images] = after_blank * last_weights
        # If a text and its extension are both in the beam, the extension gains the text's probability, and the text
        # extended in that way is no candidate beside it.
        child, image = np.nonzero(parents < width)
        parent, symbol = parents[child, image], last[child, image]
        gain = np.where(symbol == last[parent, image], after_blank[parent, image], total[parent, image])
        stays_symbol[child, image] += gain * last_weights[child, image]
        candidates[candidate_of[parent, rank_of_class[step, image, symbol]], image] = 0
        candidates[none] = 0
        np.add(stays_blank, stays_symbol, out=candidates[:width])

        chosen = sort_greatest_first(candidates.T, width).T
        scores = candidates.take(chosen * batch + images)
        is_new = chosen >= width
        source = source_of[chosen]
        place = source * batch + images
        after_blank = np.where(is_new, 0, stays_blank.take(place)) / scores[0]
        after_symbol = np.where(is_new, scores, stays_symbol.take(place)) / scores[0]
        last = np.where(is_new, by_rank[step].take(images * ranks + rank_of_candidate[chosen]), last.take(place))
        old_hashes = hashes.take(place)
        parent_hashes = np.where(is_new, old_hashes, parent_hashes.take(place))
        hashes = np.where(is_new, (old_hashes ^ (old_hashes >> np.uint64(32))) * multipliers[last], old_hashes)
        unused = scores == 0
        hashes[unused] = _NOTHING
        parent_hashes[unused] = _NO_PARENT
        parents = (parent_hashes.T[:, :, None] == hashes.T[:, None, :]).argmax(axis=2).T
        parents[hashes.take(parents * batch + images) != parent_hashes] = width
        sources[step], appended[step] = source, np.where(is_new, last, blank)

    slot = np.broadcast_to(slots, (width, batch))
    symbols = np.empty((batch, width, steps), np.int32)
    for step in range(steps - 1, -1, -1):
        symbols[:, :, step] = appended[step, slot, images].T
        slot = sources[step, slot, images]
    used = (after_blank + after_symbol).T > 0
    symbols = symbols[used]
    written = symbols != blank
    lengths = written.sum(axis=1)
    return pad_labels(symbols[written], lengths), lengths, np.nonzero(used)[0]


def sort_greatest_first(values: np.ndarray, count: int) -> np.ndarray:
    """Finds the places of the `count` greatest values along the last axis, of equal ones the first.

    The bits of floats that are not negative sort as integers do. The place takes the room of the last few
    bits, so values that differ by less than 1 in 10^10 count as equal. NumPy sorts integers several times
    as fast as it finds their order.
    """
    size = values.shape[-1]
    bits = size.bit_length()
    keys = np.arange(size) - (values.copy().view(np.int64) >> bits << bits)
    if count < size:
        keys = np.partition(keys, count - 1, axis=-1)[..., :count]
    keys.sort(axis=-1)
    return keys & ((1 << bits) - 1)


def _find_worth_extending(width: int, ranks: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds the pairs of a slot of the beam and a rank among a time step's symbols, both from 0, that can survive.

    Slots are sorted by the total probability of their texts, symbols by their weight, the greatest first. A text
    of total `p` extended by a symbol of weight `w` has at most `p * w`, and less if the symbol repeats its last
    one. Take slot `i` and rank `r`: each of the `(i + 1) * (r + 1)` pairs of an earlier or equal slot and an
    earlier or equal rank makes a text at least as probable as this one. The only exceptions are repeats, at most
    one in each of the `i + 1` slots. All these texts are distinct. A text that is already in the beam is again at
    least as probable, because of what is added to it. If there are `width` of them without the pair itself, that
    is `(i + 1) * r - 1 >= width`, the pair can be left out. Of equal texts the first are kept, so the same holds
    for pairs left out earlier. About `width * log(width)` pairs remain instead of `width * classes`.

    Returns:
        Slots and ranks, int [pairs] each.
    """
    slots, ranks_of = np.indices((width, ranks)).reshape(2, -1)
    worth = (slots + 1) * ranks_of <= width
    return slots[worth], ranks_of[worth]
