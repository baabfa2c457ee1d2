"""The manifest of a review, and the readings that reviews gave out: a person has had them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from components.review.labels import CHECKED_NAME
from tfrecords import storage

MANIFEST_NAME = "manifest.json"
LABEL = "label"
"""Stands for a model in what a review of labels gave out."""


@dataclasses.dataclass(frozen=True)
class ReviewManifest:
    """Description of a committed review, kept as `manifest.json` beside its table and its page.

    Attributes:
        review_id: digest of the readings.
        dataset_id: the dataset to which corrections are to be added.
        created_at: ISO 8601, UTC.
        given_out: URI, model and text of each reading; or URI, `LABEL` and text of each label.
        check_id: of the check of a dataset's labels from which this was chosen; None for a review of readings.
    """

    review_id: str
    dataset_id: str
    created_at: str
    given_out: Sequence[Sequence[str]]
    check_id: str | None = None

    def write(self, folder: str) -> None:
        """Writes the manifest into a folder."""
        storage.write_json(storage.join(folder, MANIFEST_NAME), dataclasses.asdict(self))


def read_given_out(reviews: str) -> set[tuple[str, str, str]]:
    """Returns what each committed review below a folder gave out, as its manifest has it."""
    return {
        (uri, origin, text) for _, manifest in _read_manifests(reviews) for uri, origin, text in manifest["given_out"]
    }


def read_reviews(reviews: str) -> Iterator[tuple[str, ReviewManifest]]:
    """Yields the folder and the manifest of each committed review below a folder."""
    known = {field.name for field in dataclasses.fields(ReviewManifest)}
    for folder, manifest in _read_manifests(reviews):
        yield folder, ReviewManifest(**{name: value for name, value in manifest.items() if name in known})


def find_check(reviews: str, check_id: str) -> str | None:
    """Finds the folder of a committed review that was chosen from a check of labels; returns None if there is none."""
    folders = (folder for folder, manifest in _read_manifests(reviews) if manifest.get("check_id") == check_id)
    return next((folder for folder in folders if storage.exists(storage.join(folder, CHECKED_NAME))), None)


def _read_manifests(reviews: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Reads the manifests of all committed reviews below a folder; yields the folder of each, and its manifest."""
    for name in storage.list_names(reviews):
        folder = storage.join(reviews, name)
        try:
            yield folder, storage.read_json(storage.join(folder, MANIFEST_NAME))
        except (FileNotFoundError, NotADirectoryError):
            continue
