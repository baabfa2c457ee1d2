"""What the traces of an image say: the source of its labels, who learned it, and what came back from reviews."""

from __future__ import annotations

import itertools

import pytest

from components.lineage.history import DatasetFacts, ImageHistory, ModelFacts, describe_history
from components.lineage.traces import Example, GivenOut, Trace

FIRST = DatasetFacts("2026-01-01T00:00:00+00:00", None, "the file names")
SECOND = DatasetFacts("2026-01-03T00:00:00+00:00", "d1", "/in/review.csv")
THIRD = DatasetFacts("2026-01-05T00:00:00+00:00", "d2", "/in/more.csv")
GIVEN = GivenOut("v1", "2026-01-02T00:00:00+00:00", "d1", "label", "ab", "/ws/review/v1/review.csv")


def history_of(*traces: Trace, models: dict[str, ModelFacts] | None = None, without: str = "") -> ImageHistory:
    datasets = {"d1": FIRST, "d2": SECOND, "d3": THIRD}
    return ImageHistory(
        "/1.png", traces, {key: facts for key, facts in datasets.items() if key != without}, models or {}
    )


def read_section(history: ImageHistory, title: str) -> list[str]:
    lines = list(describe_history(history))
    below = lines[lines.index(f"{title}:") + 1 :]
    return [line.strip() for line in itertools.takewhile(lambda line: line.startswith("  "), below)]


def test_a_label_is_followed_to_the_dataset_that_brought_it():
    history = history_of(Example("d3", "train", "ab"), Example("d1", "train", "ab"), Example("d2", "train", "ab"))
    assert read_section(history, "datasets") == [
        'd1, train split: label "ab", from the file names',
        'd2, train split: label "ab", kept from dataset d1',
        'd3, train split: label "ab", kept from dataset d1',
    ]


def test_a_corrected_label_is_of_the_review_that_gave_it_out():
    examples = [Example("d1", "test", "ab"), Example("d2", "test", "ax"), Example("d3", "test", "ax")]
    history = history_of(*examples, GIVEN)
    lines = list(describe_history(history))
    assert '  d2, test split: label "ax", from /in/review.csv, a correction of review v1' in lines
    assert '  d3, test split: label "ax", kept from dataset d2' in lines
    assert lines[-1].endswith('gave out the label "ab" in /ws/review/v1/review.csv; corrected to "ax" in dataset d2')


def test_a_label_that_stays_or_an_older_dataset_is_no_answer():
    unchanged = history_of(Example("d1", "test", "ab"), Example("d2", "test", "ab"), GIVEN)
    assert list(describe_history(unchanged))[-1].endswith("; nothing has come back")
    late = GivenOut("v2", "2026-02-01T00:00:00+00:00", "d1", "m1", "ab", "/t")
    assert history_of(Example("d2", "train", "ab"), late).find_correction(late) is None


def test_a_reading_that_came_back_as_it_was_is_confirmed():
    given = GivenOut("v1", GIVEN.created_at, "d1", "m1", "ab", "/t")
    lines = list(describe_history(history_of(Example("d2", "train", "ab"), given)))
    assert lines[-1].endswith('gave out the "ab" of model m1 in /t; confirmed in dataset d2')


def test_a_label_may_be_of_a_dataset_that_is_gone():
    history = history_of(Example("d2", "train", "ab"), without="d1")
    assert "  d2, train split" in (line := list(describe_history(history))[1])
    assert line.endswith("from /in/review.csv, or kept from dataset d1, which is gone")


@pytest.mark.parametrize(
    ("split", "descendants"), [("train", ["m2 started from", "m3 started from"]), ("validation", []), ("test", [])]
)
def test_models_that_started_from_one_that_learned_the_image(split, descendants):
    models = {
        "m3": ModelFacts("2026-01-04", "d9", "m2", accepted=True),
        "m2": ModelFacts("2026-01-03", "d9", "m1", accepted=False),
        "m1": ModelFacts("2026-01-02", "d1", None, accepted=False),
        "m0": ModelFacts("2026-01-01", "d9", "base", accepted=False),
    }
    lines = read_section(history_of(Example("d1", split, "ab"), models=models), "models")
    assert lines[0].startswith("m1 learned this image" if split == "train" else "m1 did not learn this image")
    assert [line.replace(" (in use)", "")[:15] for line in lines[1:]] == descendants


def test_an_image_without_traces_of_a_kind_has_a_line_that_says_so():
    assert list(describe_history(history_of())) == [
        f"{title}: none" for title in ("datasets", "models", "readings", "rejects", "reviews")
    ]
