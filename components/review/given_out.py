"""The manifest of a review, and the readings that reviews gave out: a person has had them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from components.review.selection import DoubtfulText
from tfrecords import storage

MANIFEST_NAME = "manifest.json"


@dataclasses.dataclass(frozen=True)
class ReviewManifest:
    """Description of a committed review, kept as `manifest.json` beside its table and its page.

    Attributes:
        review_id: digest of the readings.
        dataset_id: the dataset to which corrections are to be added.
        created_at: ISO 8601, UTC.
        given_out: URI, model and text of each reading.
    """

    review_id: str
    dataset_id: str
    created_at: str
    given_out: Sequence[Sequence[str]]

    def write(self, folder: str) -> None:
        """Writes the manifest into a folder."""
        storage.write_json(storage.join(folder, MANIFEST_NAME), dataclasses.asdict(self))


def read_given_out(reviews: str) -> set[tuple[str, str, str]]:
    """Returns URI, model and text of every reading that a committed review below a folder gave out."""
    given: set[tuple[str, str, str]] = set()
    for name in storage.list_names(reviews):
        try:
            manifest = storage.read_json(storage.join(reviews, name, MANIFEST_NAME))
        except (FileNotFoundError, NotADirectoryError):
            continue
        given.update((uri, model_id, text) for uri, model_id, text in manifest["given_out"])
    return given


def list_given_out(readings: Iterable[DoubtfulText]) -> list[list[str]]:
    """Lists readings as a review's manifest has them."""
    return [[reading.uri, reading.model_id, reading.text] for reading in readings]
