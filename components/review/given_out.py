"""The readings that reviews gave out: a person has had them."""

from __future__ import annotations

from collections.abc import Iterable

from components.review.selection import DoubtfulText
from tfrecords import storage

MANIFEST_NAME = "manifest.json"


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
