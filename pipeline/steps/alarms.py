"""Alarms: thresholds on the figures of a night that went well otherwise."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from components.counts import Counts
from components.predictions.drift import compute_population_stability_index, estimate_mean_error
from components.predictions.manifest import RunManifest
from components.predictions.runs import CommittedRun
from components.predictions.unread import RETRIED
from pipeline.options import LinePipelineOptions

_LEAST_ROWS = 500  # to compare confidences: of fewer, chance alone makes them drift
_LEAST_READS = 20  # to compare their mean confidence with that on held-out lines
_STANDARD_ERRORS = 3  # that the mean confidence has to lie below that on held-out lines
_MEASURED = {"mean_confidence", "images", "decoding"}  # by an evaluation; older versions lack some of it
_LEAST_IMAGES = 200  # to measure a speed: of fewer, the time goes into starting


@dataclasses.dataclass(frozen=True)
class Alarm:
    """A threshold and the figure measured against it.

    Attributes:
        name: of the flag, without dashes.
        limit: its value.
        measured: the figure held against it; None where it could not be measured.
        raised: whether the limit was passed.
        sentence: for a person.
    """

    name: str
    limit: float
    measured: float | None
    raised: bool
    sentence: str


def check_alarms(
    options: LinePipelineOptions,
    counts: Counts,
    run: RunManifest | None,
    earlier: Sequence[CommittedRun],
    evaluation: Mapping[str, Any] | None = None,
) -> list[Alarm]:
    """Checks the alarms that are on.

    Args:
        counts: of the images of this infer step.
        run: the run that it committed; None if there was nothing new.
        earlier: the committed runs before it, the oldest first.
        evaluation: of the model that recognised them, as `evaluation.json` has it; None if there is none.
    """
    return list(_check(options, counts, run, earlier, evaluation or {}))


def _check(
    options: LinePipelineOptions,
    counts: Counts,
    run: RunManifest | None,
    earlier: Sequence[CommittedRun],
    evaluation: Mapping[str, Any],
) -> Iterator[Alarm]:
    rows = counts.read
    # An image that still cannot be read is no news: one dead link would raise the alarm every night.
    news = counts.rejected - min(counts.retried, sum(counts.rejects.get(reason, 0) for reason in RETRIED))
    if (limit := options.alarm_reject_fraction) is not None:
        yield _check_share("alarm_reject_fraction", limit, news, rows + news, "images were rejected")
    if (limit := options.alarm_needs_review_fraction) is not None:
        needs_review = run.needs_review if run else 0
        yield _check_share("alarm_needs_review_fraction", limit, needs_review, rows, "reads need a review")
    if (limit := options.alarm_images_per_s) is not None:
        yield _check_speed(limit, counts.looked_at, run)
    if (limit := options.alarm_drift) is not None:
        yield _check_drift(limit, options.drift_nights, rows, run, earlier)
    # It is on by default: nothing is said of it where there is nothing to compare.
    if (limit := options.alarm_confidence) > 0 and run is not None and evaluation.keys() >= _MEASURED:
        yield _check_confidence(limit, run, evaluation)
    if options.alarm_no_new_images:
        new = counts.looked_at - counts.reread - counts.retried
        sentence = f"{new:,} of {counts.matched:,} images were new"
        yield Alarm("alarm_no_new_images", 1, new, new < 1, sentence)


def _check_share(name: str, limit: float, count: int, of: int, noun: str) -> Alarm:
    if not of:
        return _skip(name, limit, "nothing was read")
    share = count / of
    return Alarm(name, limit, share, share > limit, f"{count:,} of {of:,} {noun} ({share:.1%}; allowed {limit:.1%})")


def _check_speed(limit: float, images: int, run: RunManifest | None) -> Alarm:
    name = "alarm_images_per_s"
    if images < _LEAST_IMAGES:
        return _skip(name, limit, f"only {images:,} images were read, {_LEAST_IMAGES} are needed")
    if run is None or run.figures is None:
        return _skip(name, limit, "how long that took is not known")
    rate = images / max(run.figures.shard_s, 1e-9)
    sentence = f"a worker read {rate:,.1f} images/s (at least {limit:g} asked for)"
    return Alarm(name, limit, rate, rate < limit, sentence)


def _check_confidence(limit: float, run: RunManifest, evaluation: Mapping[str, Any]) -> Alarm:
    """Compares the mean confidence of a run with that of the model on held-out lines, which it was accepted by."""
    name = "alarm_confidence"
    rows = run.counts.read
    if rows < _LEAST_READS:
        return _skip(name, limit, f"only {rows:,} images were read, {_LEAST_READS} are needed")
    if evaluation["decoding"] != run.decoding:
        return _skip(name, limit, "the model was evaluated with another decoder: run the evaluate step with this one")
    held_out, lines = evaluation["mean_confidence"], evaluation["images"]
    share = run.mean_confidence / max(held_out, 1e-9)
    certain = held_out - run.mean_confidence > _STANDARD_ERRORS * estimate_mean_error(held_out, [rows, lines])
    sentence = (
        f"the mean confidence is {run.mean_confidence:.3f}, {share:.0%} of the {held_out:.3f} on the {lines:,} "
        f"held-out lines of the evaluation (at least {limit:.0%} asked for)"
    )
    if share < limit and certain:
        sentence += ": are these images of the kind that the model learned?"
    return Alarm(name, limit, share, share < limit and certain, sentence)


def _check_drift(
    limit: float, nights: int, rows: int, run: RunManifest | None, earlier: Sequence[CommittedRun]
) -> Alarm:
    name = "alarm_drift"
    if rows < _LEAST_ROWS or run is None or run.confidence_histogram is None:
        return _skip(name, limit, f"only {rows:,} images were read, {_LEAST_ROWS} are needed")
    alike = find_comparable_runs(earlier, run)[-nights:]
    before = np.sum([other.confidence_histogram or [] for other in alike], axis=0) if alike else np.zeros(1, int)
    if before.sum() < _LEAST_ROWS:
        return _skip(
            name, limit, f"earlier runs of this model hold {int(before.sum()):,} reads, {_LEAST_ROWS} are needed"
        )
    index = compute_population_stability_index(before.tolist(), run.confidence_histogram)
    compared = f"the last {len(alike)} runs" if len(alike) > 1 else "the last run"
    sentence = f"confidences against {compared}: population stability index {index:.3f} (allowed {limit:g})"
    return Alarm(name, limit, index, index > limit, sentence)


def find_comparable_runs(runs: Sequence[CommittedRun], other: RunManifest) -> list[RunManifest]:
    """Finds the runs whose confidences can be compared with those of another one: by the same model and decoder.

    Of a merged run these are the runs that were merged into it.
    """
    return [
        reading.manifest
        for run in runs
        for reading in run.readings
        if any(reading.manifest.confidence_histogram or ())
        and reading.run_id != other.run_id
        and reading.manifest.is_read_like(other)
    ]


def _skip(name: str, limit: float, why: str) -> Alarm:
    return Alarm(name, limit, None, False, f"not measured: {why}")
