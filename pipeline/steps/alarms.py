"""What a person should be told of a night that went well otherwise."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from components.predictions.drift import compute_population_stability_index
from components.predictions.runs import CommittedRun
from components.predictions.unread import RETRIED
from pipeline.options import LinePipelineOptions

_LEAST_ROWS = 500  # to compare confidences: of fewer, chance alone makes them drift
_LEAST_IMAGES = 200  # to measure a speed: of fewer, the time goes into starting


@dataclasses.dataclass(frozen=True)
class Alarm:
    """One threshold, and what was measured.

    Attributes:
        name: of the flag, without dashes.
        limit: its value.
        measured: what is held against it; None where it could not be measured.
        raised: whether the limit was passed.
        sentence: for a person.
    """

    name: str
    limit: float
    measured: float | None
    raised: bool
    sentence: str


def check_alarms(options: LinePipelineOptions, figures: dict[str, Any], earlier: Sequence[CommittedRun]) -> list[Alarm]:
    """What the alarms that were asked for say of a run of the infer step.

    Args:
        figures: of the run, as in its manifest.
        earlier: the committed runs before it, the oldest first.
    """
    return list(_check(options, figures, earlier))


def _check(options: LinePipelineOptions, figures: dict[str, Any], earlier: Sequence[CommittedRun]) -> Iterator[Alarm]:
    rejected, rows = sum(figures["rejects"].values()), figures["rows"]
    # What could not be read before, and cannot be still, is no news: or one dead link would raise it every night.
    failed_again = min(figures["retried"], sum(figures["rejects"].get(reason, 0) for reason in RETRIED))
    news, looked_at = rejected - failed_again, rows + rejected
    if (limit := options.alarm_reject_fraction) is not None:
        yield _check_share("alarm_reject_fraction", limit, news, rows + news, "images were rejected")
    if (limit := options.alarm_needs_review_fraction) is not None:
        yield _check_share("alarm_needs_review_fraction", limit, figures["needs_review"], rows, "reads need a review")
    if (limit := options.alarm_images_per_s) is not None:
        yield _check_speed(limit, looked_at, figures)
    if (limit := options.alarm_drift) is not None:
        yield _check_drift(limit, options.drift_nights, figures, earlier)
    if options.alarm_no_new_images:
        new = looked_at - figures["reread"] - figures["retried"]
        said = f"{new:,} of {figures['matched']:,} images were new"
        yield Alarm("alarm_no_new_images", 1, new, new < 1, said)


def _check_share(name: str, limit: float, count: int, of: int, what: str) -> Alarm:
    if not of:
        return _skip(name, limit, "nothing was read")
    share = count / of
    return Alarm(name, limit, share, share > limit, f"{count:,} of {of:,} {what} ({share:.1%}; allowed {limit:.1%})")


def _check_speed(limit: float, images: int, figures: dict[str, Any]) -> Alarm:
    name = "alarm_images_per_s"
    if images < _LEAST_IMAGES:
        return _skip(name, limit, f"only {images:,} images were read, {_LEAST_IMAGES} are needed")
    rate = images / max(figures["figures"]["shard_s"], 1e-9)
    said = f"a worker read {rate:,.1f} images/s (at least {limit:g} asked for)"
    return Alarm(name, limit, rate, rate < limit, said)


def _check_drift(limit: float, nights: int, figures: dict[str, Any], earlier: Sequence[CommittedRun]) -> Alarm:
    name = "alarm_drift"
    if figures["rows"] < _LEAST_ROWS:
        return _skip(name, limit, f"only {figures['rows']:,} images were read, {_LEAST_ROWS} are needed")
    alike = find_comparable_runs(earlier, figures)[-nights:]
    before = np.sum([run.manifest["confidence_histogram"] for run in alike], axis=0) if alike else np.zeros(1, int)
    if before.sum() < _LEAST_ROWS:
        return _skip(
            name, limit, f"earlier runs of this model hold {int(before.sum()):,} reads, {_LEAST_ROWS} are needed"
        )
    index = compute_population_stability_index(before.tolist(), figures["confidence_histogram"])
    compared = f"the last {len(alike)} runs" if len(alike) > 1 else "the last run"
    said = f"confidences against {compared}: population stability index {index:.3f} (allowed {limit:g})"
    return Alarm(name, limit, index, index > limit, said)


def find_comparable_runs(runs: Sequence[CommittedRun], figures: dict[str, Any]) -> list[CommittedRun]:
    """The runs whose confidences can be held against those of another one: read by the same model and decoder.

    Of a merged run these are the runs that were merged into it.
    """
    return [
        run
        for merged in runs
        for run in merged.readings
        if any(run.manifest.get("confidence_histogram", ()))
        and run.run_id != figures["run_id"]
        and run.is_read_like(figures)
    ]


def _skip(name: str, limit: float, why: str) -> Alarm:
    return Alarm(name, limit, None, False, f"not measured: {why}")
