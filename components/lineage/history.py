"""The history of one image, from the traces that it left: where its label came from, and who learned it."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from components.lineage.traces import Example, GivenOut, Reading, RejectRow, TaughtLabel, Trace
from components.review.given_out import LABEL

_Kind = TypeVar("_Kind", bound=Trace)
_SEEN = {
    "train": "learned this image: it is one of its training lines",
    "validation": "did not learn this image, but it is one of the lines by which its best epoch was chosen",
    "test": "did not learn this image: it was held out for the evaluation",
}


@dataclasses.dataclass(frozen=True)
class DatasetFacts:
    """Facts about a committed dataset.

    Attributes:
        created_at: ISO 8601, UTC.
        added_to: the dataset that it extends; None if it was made from images alone.
        label_source: where its labels came from, in words; None if it does not say.
    """

    created_at: str
    added_to: str | None
    label_source: str | None


@dataclasses.dataclass(frozen=True)
class ModelFacts:
    """Facts about a committed model.

    Attributes:
        created_at: ISO 8601, UTC.
        dataset_id: of the dataset that it was trained on.
        start_id: the model from which its training started; None if none did.
        accepted: whether it is in use.
    """

    created_at: str
    dataset_id: str
    start_id: str | None
    accepted: bool


@dataclasses.dataclass(frozen=True)
class ImageHistory:
    """All that a workspace knows of one image.

    Attributes:
        uri: of the image.
        traces: of the image, of any kind and in any order.
        datasets, models: every committed one of the workspace, by its ID.
    """

    uri: str
    traces: Sequence[Trace]
    datasets: Mapping[str, DatasetFacts]
    models: Mapping[str, ModelFacts]

    def select(self, kind: type[_Kind]) -> list[_Kind]:
        """Returns the traces of one kind, as they were found."""
        return [trace for trace in self.traces if isinstance(trace, kind)]

    @property
    def examples(self) -> dict[str, Example]:
        """The image in each dataset that has it, the oldest first."""
        examples = self.select(Example)
        return {one.dataset_id: one for one in sorted(examples, key=lambda one: self._get_age(one.dataset_id))}

    def find_origin(self, dataset_id: str) -> str:
        """Finds the dataset that gave the image the label which it has in a later one."""
        examples, origin = self.examples, dataset_id
        while (older := self.datasets[origin].added_to) in examples and older is not None:
            if examples[older].label != examples[origin].label:
                break
            origin = older
        return origin

    def find_correction(self, given: GivenOut) -> Example | None:
        """Finds the label with which the image came back from a review: the first new one in an extended dataset."""
        since = datetime.datetime.fromisoformat(given.created_at)
        for dataset_id, example in self.examples.items():
            facts = self.datasets[dataset_id]
            is_new = facts.added_to is not None and self.find_origin(dataset_id) == dataset_id
            if is_new and datetime.datetime.fromisoformat(facts.created_at) >= since:
                return example
        return None

    def _get_age(self, dataset_id: str) -> tuple[str, str]:
        return self.datasets[dataset_id].created_at, dataset_id


def describe_history(history: ImageHistory) -> Iterator[str]:
    """Describes the history of an image in plain lines."""
    sections: dict[str, Iterable[str]] = {
        "datasets": _describe_examples(history),
        "models": _describe_models(history),
        "readings": map(_describe_reading, sorted(history.select(Reading), key=lambda one: (one.at, one.run_id))),
        "rejects": map(_describe_reject, sorted(history.select(RejectRow), key=lambda one: (one.at, one.run_id))),
        "reviews": _describe_reviews(history),
    }
    for title, lines in sections.items():
        described = list(lines)
        yield f"{title}: {'' if described else 'none'}".rstrip()
        yield from (f"  {line}" for line in described)


def _describe_examples(history: ImageHistory) -> Iterator[str]:
    for dataset_id, example in history.examples.items():
        origin = _describe_origin(history, dataset_id)
        yield f"{dataset_id}, {example.split} split: label {_quote(example.label)}, {origin}"


def _describe_origin(history: ImageHistory, dataset_id: str) -> str:
    """Says where a label came from."""
    origin = history.find_origin(dataset_id)
    facts = history.datasets[origin]
    if origin != dataset_id:
        return f"kept from dataset {origin}"
    corrected = [one for one in history.select(GivenOut) if history.find_correction(one) == history.examples[origin]]
    by_review = f", a correction of review {corrected[-1].review_id}" if corrected else ""
    source = f"from {facts.label_source}" if facts.label_source else "from a source that the dataset does not name"
    if facts.added_to is not None and facts.added_to not in history.datasets:
        source += f", or kept from dataset {facts.added_to}, which is gone"
    return f"{source}{by_review}"


def _describe_models(history: ImageHistory) -> Iterator[str]:
    """Says which models were trained on a dataset that has the image, and which started from those that learned it."""
    examples, taught = history.examples, {one.model_id: one for one in history.select(TaughtLabel)}
    learned: set[str] = set()
    for model_id, facts in sorted(history.models.items(), key=lambda item: (item[1].created_at, item[0])):
        name = f"{model_id}{' (in use)' if facts.accepted else ''}"
        if model_id in taught:
            learned.add(model_id)
            teacher, label = taught[model_id].teacher_id, _quote(taught[model_id].label)
            yield f"{name} learned this image as {label}, which model {teacher} read on it"
        elif example := examples.get(facts.dataset_id):
            if example.split == "train":
                learned.add(model_id)
            yield f"{name} {_SEEN[example.split]} of dataset {facts.dataset_id}"
        elif facts.start_id in learned:
            learned.add(model_id)
            yield f"{name} started from model {facts.start_id}, which learned this image"


def _describe_reading(reading: Reading) -> str:
    merged = f", now in run {reading.merged_into}" if reading.merged_into else ""
    review = ", needs review" if reading.needs_review else ""
    return (
        f"{reading.at}, run {reading.run_id}{merged}, model {reading.model_id}: {_quote(reading.text)} "
        f"with confidence {reading.confidence:.3f}{review}"
    )


def _describe_reject(reject: RejectRow) -> str:
    return f"{reject.at}, {reject.step} {reject.run_id}: {reject.reason} ({reject.detail})"


def _describe_reviews(history: ImageHistory) -> Iterator[str]:
    for given in sorted(history.select(GivenOut), key=lambda one: (one.created_at, one.review_id)):
        what = (
            f"label {_quote(given.text)}" if given.origin == LABEL else f"{_quote(given.text)} of model {given.origin}"
        )
        back = history.find_correction(given)
        if back is None:
            answer = "nothing has come back"
        elif back.label == given.text:
            answer = f"confirmed in dataset {back.dataset_id}"
        else:
            answer = f"corrected to {_quote(back.label)} in dataset {back.dataset_id}"
        yield f"{given.created_at}, review {given.review_id} gave out the {what} in {given.table}; {answer}"


def _quote(text: str) -> str:
    return f'"{text}"'
