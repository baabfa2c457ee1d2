"""Promises about texts: from which confidence on at most a given share of them is wrong.

The errors on held-out lines bound the errors on further lines that are drawn as those were: images of the same kind,
from the same sources, recognised by the same model and decoder. No promise holds for other images.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from components.metrics import LineCounts

LEVEL = 0.95
"""Of a hundred models that make a promise, at least 95 keep it."""
_LARGEST_LOGIT, _LOGITS_A_UNIT = 14, 2
"""Thresholds are looked at from here down to its negative, so densely; they do not depend on the lines."""
_ERRORS_AT_FIRST = 3
_HALVINGS = 40
USUAL_TARGETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
"""Shares of wrong texts for which an evaluation says how many texts could be accepted."""


@dataclasses.dataclass(frozen=True)
class Promise:
    """A promise: of the accepted texts, at most a share is wrong.

    Attributes:
        target_error: that share.
        level: how sure the promise is.
        threshold: texts with at least this confidence are accepted; None if no text can be.
        lines: held-out lines.
        accepted, wrong: of these lines, those with at least that confidence, and those of them that were wrong.
    """

    target_error: float
    level: float
    threshold: float | None
    lines: int
    accepted: int
    wrong: int

    @property
    def coverage(self) -> float:
        """The accepted share of the held-out lines."""
        return self.accepted / max(self.lines, 1)


def describe_acceptance(lines: LineCounts, groups: np.ndarray | None = None) -> dict[str, Any]:
    """Describes how many errors there are among the lines that each threshold accepts.

    Lines of one group, such as a book, are wrong together. Then they count as fewer lines: as `accepted` divided by
    the design effect `1 + (m - 1) * similarity`, where `m` is the mean size of the group of a line and `similarity`
    the intraclass correlation of being wrong over all lines (Kish 1965, "Survey Sampling", section 5.4; Korn and
    Graubard 1998, "Confidence Intervals for Proportions With Small Expected Number of Positive Counts Estimated From
    Survey Data").

    Args:
        lines: at least one.
        groups: int [lines], the group of each line; None if lines are drawn one by one.

    Returns:
        `level`; `lines`; `similarity`, None without groups; and `curve`, for each threshold from the greatest on:
        `threshold`, `accepted`, `wrong`, `counted_as` (lines, after the design effect) and `bound`, the upper limit of
        the share of wrong texts. Of thresholds that accept the same lines, it has the greatest alone.
    """
    wrong = lines.get_column("exact") == 0
    similarity = None if groups is None else _estimate_similarity(wrong, groups)
    order = np.argsort(-lines.confidences, kind="stable")
    confidences, errors = lines.confidences[order], np.cumsum(wrong[order])
    curve: list[dict[str, Any]] = []
    for threshold in _list_thresholds():
        accepted = int(np.searchsorted(-confidences, -np.float32(threshold), side="right"))
        if not accepted or (curve and accepted == curve[-1]["accepted"]):
            continue
        effect = 1.0
        if groups is not None and similarity is not None:
            sizes = np.bincount(groups[order[:accepted]])
            effect = 1 + (float((sizes**2).sum()) / accepted - 1) * similarity
        counted_as = math.floor(accepted / effect)
        count = int(errors[accepted - 1])
        bound = bound_error(math.ceil(count / effect), counted_as)
        curve.append(
            {"threshold": threshold, "accepted": accepted, "wrong": count, "counted_as": counted_as, "bound": bound}
        )
    return {"level": LEVEL, "lines": len(wrong), "similarity": similarity, "curve": curve}


def make_promise(acceptance: Mapping[str, Any], target_error: float) -> Promise:
    """Makes the promise that accepts the most texts.

    It tests thresholds one after the other, from a great one down, and keeps the last one before the first that fails
    (fixed-sequence testing, Angelopoulos et al. 2021, "Learn then Test", section 2.3). So all tests together err as
    rarely as one. Where they begin depends on how many lines are accepted, not on how many of these are wrong.

    Args:
        acceptance: of the held-out lines, as `describe_acceptance` returns it.
        target_error: the share of wrong texts, above 0 and below 1.
    """
    chosen: Mapping[str, Any] = {"threshold": None, "accepted": 0, "wrong": 0}
    for point in _skip_few_lines(acceptance, target_error):
        if point["bound"] > target_error:
            break
        chosen = point
    threshold, accepted, wrong = (chosen[name] for name in ("threshold", "accepted", "wrong"))
    return Promise(target_error, acceptance["level"], threshold, acceptance["lines"], accepted, wrong)


def explain_no_promise(acceptance: Mapping[str, Any], target_error: float) -> str:
    """Says in one sentence why a promise cannot be made, and what it takes."""
    lines, curve = acceptance["lines"], _skip_few_lines(acceptance, target_error)
    if curve:
        accepted, wrong = curve[0]["accepted"], curve[0]["wrong"]
        why = f"{wrong:,} of the {accepted:,} most confident readings of the {lines:,} held-out lines are wrong"
    else:
        counted_as = max((point["counted_as"] for point in acceptance["curve"]), default=0)
        as_fewer = f", which count as {counted_as:,}, since lines of one group are wrong together"
        why = (
            f"it takes at least {count_needed(target_error):,} held-out lines, all of them accepted and right, and "
            f"there are {lines:,}{as_fewer if counted_as < lines else ''}"
        )
    least = next((target for target in USUAL_TARGETS if make_promise(acceptance, target).threshold is not None), None)
    instead = f"they allow --target_error={least:g}" if least else "they allow no useful promise"
    return f"no text is accepted, since --target_error={target_error:g} cannot be promised: {why}; {instead}"


def bound_error(wrong: int, lines: int) -> float:
    """Bounds a share of wrong lines from above, at `LEVEL` (Clopper and Pearson 1934; one-sided).

    Args:
        wrong, lines: of a sample.

    Returns:
        The share at which so few wrong lines, or fewer, have a probability of `1 - LEVEL`; 1 without lines.
    """
    if wrong >= lines:
        return 1.0
    counts = np.arange(wrong + 1)
    log_choose = np.cumsum(np.log(np.append(1.0, (lines - counts[:-1]) / counts[1:])))
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        share = (low + high) / 2
        logarithms = log_choose + counts * math.log(share) + (lines - counts) * math.log1p(-share)
        low, high = (share, high) if np.exp(logarithms).sum() > 1 - LEVEL else (low, share)
    return high


def count_needed(target_error: float, wrong: int = 0) -> int:
    """Counts the lines of which so many may be wrong for a promise."""
    low, high = wrong, wrong + 1
    while bound_error(wrong, high) > target_error:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if bound_error(wrong, middle) > target_error else (low, middle)
    return high


def _skip_few_lines(acceptance: Mapping[str, Any], target_error: float) -> list[Mapping[str, Any]]:
    """Returns the part of the curve that is tested for a promise: from the first threshold that accepts enough lines.

    Enough are those that keep the promise with a few errors, if there are twice as many; else half of all, but at least
    those that keep it without any. So a few wrong labels among the most confident readings do not end the test.
    """
    curve = acceptance["curve"]
    half = max((point["counted_as"] for point in curve), default=0) // 2
    enough = min(count_needed(target_error, _ERRORS_AT_FIRST), max(count_needed(target_error), half))
    return [point for point in curve if point["counted_as"] >= enough]


def _list_thresholds() -> list[float]:
    """Lists thresholds, the greatest first, as float32 numbers, as which confidences are stored."""
    logits = np.arange(_LARGEST_LOGIT, -_LARGEST_LOGIT - 1 / _LOGITS_A_UNIT, -1 / _LOGITS_A_UNIT)
    return [*(1 / (1 + np.exp(-logits))).astype(np.float32).tolist(), 0.0]


def _estimate_similarity(wrong: np.ndarray, groups: np.ndarray) -> float:
    """Estimates how alike lines of one group are in being wrong.

    It is the intraclass correlation by analysis of variance (Donner 1986, "A Review of Inference Procedures for the
    Intraclass Correlation Coefficient in the One-Way Random Effects Model"), at least 0.

    Args:
        wrong: bool [lines].
        groups: int [lines].
    """
    sizes = np.bincount(groups)
    sizes, sums = sizes[sizes > 0], np.bincount(groups, wrong)[sizes > 0]
    lines, count = len(wrong), len(sizes)
    if count < 2 or lines == count:
        return 1.0 if count < 2 else 0.0
    shares = sums / sizes
    between = float((sizes * (shares - wrong.mean()) ** 2).sum()) / (count - 1)
    within = float((sums * (1 - shares)).sum()) / (lines - count)
    usual = (lines - float((sizes**2).sum()) / lines) / (count - 1)
    total = between + (usual - 1) * within
    return float(np.clip((between - within) / total, 0, 1)) if total else 0.0
