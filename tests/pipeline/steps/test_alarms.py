"""Alarms: what each measures, and when it is raised."""

from __future__ import annotations

import dataclasses

import pytest

from components.counts import Counts
from components.predictions.manifest import RunManifest, RunTimes
from components.predictions.runs import CommittedRun
from pipeline.command_line import parse_options
from pipeline.options import UsageError
from pipeline.steps.alarms import Alarm, check_alarms

CONFIDENT = [0] * 99 + [1000]
DOUBTFUL = [0] * 30 + [1000] + [0] * 69


def figures(
    rows: int = 1000, rejects: dict[str, int] | None = None, reread: int = 0, retried: int = 0, **changes
) -> RunManifest:
    rejects = {"truncated": 60, "unreadable": 40} if rejects is None else rejects
    counts = Counts(matched=5000, read=rows, rejects=rejects, reread=reread, retried=retried)
    given = {"needs_review": 100, "confidence_histogram": CONFIDENT, "figures": RunTimes(shard_s=10.0), **changes}
    return manifest_of("rnow", counts=counts, **given)


def manifest_of(run_id: str, **fields) -> RunManifest:
    given = {"counts": Counts(), "model_id": "model", "decoding": ["greedy"], **fields}
    return RunManifest(run_id=run_id, scored_at="2026-03-04T05:06:07+00:00", files={}, **given)


def run(number: int, histogram: list[int] | None, **changes) -> CommittedRun:
    return CommittedRun("", manifest_of(**{"run_id": f"r{number}", "confidence_histogram": histogram, **changes}))


def alarm(flags: list[str], now: RunManifest, earlier: list[CommittedRun] | None = None) -> Alarm:
    (found,) = check_alarms(parse_options(flags), now.counts, now, earlier or [])
    return found


def evaluation_of(mean: float, images: int = 100, decoding: tuple[str, ...] = ("greedy",)) -> dict:
    return {"mean_confidence": mean, "images": images, "decoding": list(decoding)}


def alarm_of_confidence(mean: float, evaluation: dict, *flags: str, rows: int = 1000) -> Alarm:
    now = figures(rows=rows, mean_confidence=mean)
    (found,) = check_alarms(parse_options(list(flags)), now.counts, now, [], evaluation)
    return found


def test_without_flags_there_is_no_alarm_of_a_model_that_has_no_evaluation_or_one_of_an_older_version():
    now = figures(mean_confidence=0.029)
    for evaluation in (None, {"images": 100, "mean_confidence": 0.9}):
        assert check_alarms(parse_options([]), now.counts, now, [], evaluation) == []


def test_without_flags_the_alarm_of_confidence_is_on_and_can_be_switched_off():
    now = figures(mean_confidence=0.029)
    (found,) = check_alarms(parse_options([]), now.counts, now, [], evaluation_of(0.95))
    assert (found.name, found.raised) == ("alarm_confidence", True)
    assert check_alarms(parse_options(["--alarm_confidence=0"]), now.counts, now, [], evaluation_of(0.95)) == []
    assert check_alarms(parse_options([]), Counts(), None, [], evaluation_of(0.95)) == []


@pytest.mark.parametrize(
    ("mean", "held_out", "raised"),
    [(0.029, 0.95, True), (0.47, 0.95, True), (0.48, 0.95, False), (0.95, 0.95, False), (0.01, 0.6, True)],
)
def test_a_mean_confidence_below_half_of_that_on_held_out_lines_raises_an_alarm(mean, held_out, raised):
    found = alarm_of_confidence(mean, evaluation_of(held_out))
    assert (found.measured, found.raised) == (pytest.approx(mean / held_out), raised)
    assert f"the mean confidence is {mean:.3f}, {mean / held_out:.0%} of the {held_out:.3f}" in found.sentence
    assert ("are these images of the kind" in found.sentence) == raised


def test_the_share_that_raises_the_alarm_can_be_given():
    assert alarm_of_confidence(0.9, evaluation_of(1.0), "--alarm_confidence=0.95").raised
    assert not alarm_of_confidence(0.2, evaluation_of(1.0), "--alarm_confidence=0.1").raised


@pytest.mark.parametrize(("rows", "images"), [(1000, 2), (20, 3)])
def test_chance_in_a_few_lines_raises_no_alarm(rows, images):
    found = alarm_of_confidence(0.3, evaluation_of(0.65, images=images), rows=rows)
    assert (found.measured, found.raised) == (pytest.approx(0.3 / 0.65), False)
    assert alarm_of_confidence(0.3, evaluation_of(0.65), rows=1000).raised


@pytest.mark.parametrize(
    ("rows", "evaluation", "why"),
    [
        (19, evaluation_of(0.95), "only 19 images were read, 20 are needed"),
        (1000, evaluation_of(0.95, decoding=("beam",)), "evaluated with another decoder"),
    ],
)
def test_what_cannot_be_compared_raises_no_alarm_and_says_why(rows, evaluation, why):
    found = alarm_of_confidence(0.029, evaluation, rows=rows)
    assert (found.measured, found.raised) == (None, False)
    assert why in found.sentence


@pytest.mark.parametrize(
    "flag",
    ["--alarm_reject_fraction=0", "--alarm_needs_review_fraction=0", "--alarm_images_per_s=1000", "--alarm_drift=0.1"],
)
def test_a_night_without_new_images_raises_no_alarm_whatever_still_cannot_be_read(flag):
    counts = Counts(matched=5000, skipped=4000, retried=1000, rejects={"unreadable": 1000})
    (found,) = check_alarms(parse_options([flag]), counts, None, [run(1, CONFIDENT)])
    assert (found.measured, found.raised) == (None, False)


@pytest.mark.parametrize(
    ("flag", "value", "measured", "raised"),
    [
        ("alarm_reject_fraction", "0.1", 100 / 1100, False),
        ("alarm_reject_fraction", "0.09", 100 / 1100, True),
        ("alarm_needs_review_fraction", "0.1", 0.1, False),
        ("alarm_needs_review_fraction", "0.0999", 0.1, True),
        ("alarm_images_per_s", "110", 110, False),
        ("alarm_images_per_s", "110.1", 110, True),
    ],
)
def test_a_threshold_is_passed_or_not(flag, value, measured, raised):
    found = alarm([f"--{flag}={value}"], figures())
    assert (found.name, found.limit, found.raised) == (flag, float(value), raised)
    assert found.measured == pytest.approx(measured)


@pytest.mark.parametrize("flag", ["alarm_reject_fraction", "alarm_needs_review_fraction", "alarm_images_per_s"])
def test_nothing_that_was_read_raises_no_alarm(flag):
    found = alarm([f"--{flag}=0.5"], figures(rows=0, rejects={}, needs_review=0))
    assert (found.measured, found.raised) == (None, False)
    assert found.sentence.startswith("not measured: ")


@pytest.mark.parametrize(
    ("changes", "new"),
    [({}, 1100), ({"reread": 1000, "retried": 99}, 1), ({"rows": 0, "rejects": {"unreadable": 3}, "retried": 3}, 0)],
)
def test_no_new_images_are_those_that_are_neither_read_again_nor_tried_again(changes, new):
    found = alarm(["--alarm_no_new_images"], figures(**changes))
    assert (found.measured, found.raised) == (new, not new)


def test_drift_is_held_against_the_last_runs_of_the_same_model_and_decoder():
    confident = [run(number, CONFIDENT) for number in range(10)]
    flags = ["--alarm_drift=0.25"]
    assert not alarm(flags, figures(), confident).raised
    drifted = alarm(flags, figures(confidence_histogram=DOUBTFUL), confident)
    assert drifted.raised
    assert "the last 7 runs" in drifted.sentence
    assert "(allowed 0.25)" in drifted.sentence
    # Only the last ones count, and of these only such as can be compared.
    older = [*confident, *(run(10 + number, DOUBTFUL) for number in range(7))]
    others = [run(20, DOUBTFUL, model_id="other"), run(21, DOUBTFUL, decoding=["beam", 10]), run(22, None)]
    assert alarm(flags, figures(), older).raised
    assert not alarm(flags, figures(), [*confident, *others]).raised
    assert not alarm([*flags, "--drift_nights=1"], figures(), [*older, run(30, CONFIDENT)]).raised


@pytest.mark.parametrize(
    ("changes", "earlier", "why"),
    [
        ({"rows": 499}, [run(1, CONFIDENT)], "only 499 images were read"),
        ({}, [], "earlier runs of this model hold 0 reads"),
        ({}, [run(1, [0] * 99 + [499])], "earlier runs of this model hold 499 reads"),
        ({}, [run(1, CONFIDENT, run_id="rnow")], "earlier runs of this model hold 0 reads"),
    ],
)
def test_a_drift_of_few_images_is_not_measured(changes, earlier, why):
    found = alarm(["--alarm_drift=0.25"], figures(**changes), earlier)
    assert (found.measured, found.raised) == (None, False)
    assert why in found.sentence


@pytest.mark.parametrize(
    "flag",
    [
        *("--alarm_reject_fraction=1.1", "--alarm_needs_review_fraction=-1", "--alarm_images_per_s=0"),
        *("--alarm_drift=0", "--drift_nights=0", "--reread_below=2"),
    ],
)
def test_a_limit_that_cannot_be_is_refused(flag):
    with pytest.raises(UsageError, match=flag):
        parse_options([flag])


def test_an_address_is_not_told_when_it_is_refused():
    with pytest.raises(UsageError, match=r"--notify_url must begin with http:// or https://$"):
        parse_options(["--notify_url=example.org/SECRET"])


def test_what_could_not_be_read_before_and_cannot_be_still_is_no_reject_of_tonight():
    now = figures(rows=99, rejects={"unreadable": 3, "truncated": 1}, retried=3)
    assert alarm(["--alarm_reject_fraction=0.01"], now).measured == pytest.approx(0.01)
    now = figures(rows=0, rejects={"unreadable": 1}, retried=1)
    assert alarm(["--alarm_reject_fraction=0.01"], now).measured is None


def test_a_merged_day_counts_as_the_runs_that_it_had():
    apart = [run(1, CONFIDENT), run(2, DOUBTFUL, model_id="other")]
    merged = run(3, [each + more for each, more in zip(CONFIDENT, DOUBTFUL, strict=True)], model_id=None)
    history = tuple(each.manifest for each in apart)
    merged = dataclasses.replace(merged, manifest=dataclasses.replace(merged.manifest, limits={}, history=history))
    nothing = [run(10 + number, [0] * 100) for number in range(7)]
    flags = ["--alarm_drift=0.25"]
    assert not alarm(flags, figures(), [merged, *nothing]).raised
    assert alarm(flags, figures(confidence_histogram=DOUBTFUL), [merged, *nothing]).raised
