"""Counts of what became of images, and the check that each is accounted for once."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

_Counted = TypeVar("_Counted", str, int)
_NAMES = {"read": "rows"}  # the name in JSON, where it differs from the field's


@dataclasses.dataclass(frozen=True)
class Counts:
    """The images of one command, by what became of them: *matched = read + rejected + skipped*.

    Attributes:
        matched: images that were listed.
        read: images that gave a result: a row of predictions, or an example of a dataset.
        rejects: images left out, by reason.
        skipped: images that earlier runs have read, or rejected for good.
        repeats: rows of tables that name an image which was listed already; they are not among the matched.
        reread: images, among those not skipped, that another model had read with too little confidence.
        retried: images, among those not skipped, that could not be read by earlier runs.
    """

    matched: int = 0
    read: int = 0
    rejects: dict[str, int] = dataclasses.field(default_factory=dict)
    skipped: int = 0
    repeats: int = 0
    reread: int = 0
    retried: int = 0

    @property
    def rejected(self) -> int:
        """Images left out, for whatever reason."""
        return sum(self.rejects.values())

    @property
    def to_read(self) -> int:
        """Images that are listed and not skipped."""
        return self.matched - self.skipped

    @property
    def looked_at(self) -> int:
        """Images that were opened: read or rejected."""
        return self.read + self.rejected

    def check_accounted(self, reached: int, *, verb: str) -> None:
        """Makes sure before a commit that every image was read, rejected or skipped, once.

        Args:
            reached: how many images reached a shard.
            verb: what was done with an image that was not left out, for the message.

        Raises:
            RuntimeError: with all the numbers.
        """
        if reached != self.to_read or self.matched != self.read + self.rejected + self.skipped:
            raise RuntimeError(
                f"{self.to_read} images were listed, {reached} reached a shard, {self.read} were {verb} and "
                f"{self.rejected} rejected: an image was lost or doubled"
            )

    def to_json(self) -> dict[str, Any]:
        """Returns the counts by the names that they have in manifests and run records."""
        return {_NAMES.get(name, name): value for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Counts:
        """Picks the counts out of a manifest; those that older versions did not write are 0.

        Raises:
            KeyError: if rows or rejects are missing.
        """
        names = {field.name: _NAMES.get(field.name, field.name) for field in dataclasses.fields(cls)}
        given = {field: content[name] for field, name in names.items() if name in content}
        counts = cls(**{"read": content["rows"], "rejects": content["rejects"], **given})
        return counts if "matched" in content else dataclasses.replace(counts, matched=counts.looked_at)


def merge_counts(counts: Iterable[dict[_Counted, int]]) -> dict[_Counted, int]:
    """Adds up several counts; returns the sums, sorted by what was counted."""
    total: collections.Counter[_Counted] = collections.Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))


def format_count(number: int, noun: str) -> str:
    """Writes a number with its noun, as in "3 runs"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
