"""The manifest of a run of predictions: a run's folder without one does not exist for any reader."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from components.counts import Counts
from tfrecords import DataError, storage

# The underscore keeps the manifest out of what pandas, pyarrow and Spark take for data.
RUN_MANIFEST_NAME = "_manifest.json"
RUN_VERSION = 5
"""Goes into the IDs of runs: raised when the same images, model and options would give other rows."""
SCHEMA_VERSION = 2
_UNNUMBERED_VERSION = 1  # of manifests that do not say theirs
_OF_SEVERAL = ("model_id", "min_confidence")  # written as null where merged runs do not agree; other nulls are not


class NewerRunError(DataError):
    """A run that a newer version of this program wrote."""


@dataclasses.dataclass(frozen=True)
class PartEntry:
    """One committed file of predictions.

    Attributes:
        rows: how many it holds.
        bytes: its size.
        sha256: of its content, hexadecimal; empty where an older version did not say.
    """

    rows: int
    bytes: int
    sha256: str = ""


@dataclasses.dataclass(frozen=True)
class RunTimes:
    """The durations of a run's work, and the engines that did it.

    Attributes:
        engines: every engine that scored, with the reason why it was chosen.
        model_load_s: seconds that the slowest load of the model took.
        batches: how many were scored.
        scoring_s: seconds of all batches together.
        slowest_batch_s: seconds of the slowest one.
        shard_s: seconds of all shards together; 0.0 where an older version did not measure it.
    """

    engines: list[str] = dataclasses.field(default_factory=list)
    model_load_s: float = 0.0
    batches: int = 0
    scoring_s: float = 0.0
    slowest_batch_s: float = 0.0
    shard_s: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFigures:
    """The figures of one run: a part of its manifest, and all that is kept of it after a merge into another.

    Attributes:
        run_id: short digest of the inputs, the model and the options.
        scored_at: ISO 8601, UTC.
        counts: what became of the images; `read` is the number of rows that are there.
        model_id: the model that recognised the images; None of merged runs of several models.
        mean_confidence: of the rows, 0 to 1.
        needs_review: rows whose confidence is below `min_confidence`.
        min_confidence: the confidence that was asked for, or that the promise needs; None where it is not known or not
            one.
        target_error: the share of wrong texts that is promised of the other rows; None if none is.
        confidence_histogram: rows by confidence, in `CONFIDENCE_BINS` bins of equal width; None where it is not known.
        inputs: digest of what was read; None where it is not known.
        figures: how long the work took; None where it is not known.
        lost: rows that were there once, in files that were damaged since.
    """

    run_id: str
    scored_at: str
    counts: Counts
    model_id: str | None = None
    mean_confidence: float = 0.0
    needs_review: int = 0
    min_confidence: float | None = None
    target_error: float | None = None
    confidence_histogram: list[int] | None = None
    inputs: str | None = None
    figures: RunTimes | None = None
    lost: int = 0

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as a manifest has them: counts beside the others, unknown ones left out."""
        content = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        content |= content.pop("counts").to_json()
        if self.figures is not None:
            content["figures"] = dataclasses.asdict(self.figures)
        if not self.lost:
            del content["lost"]
        return {name: value for name, value in content.items() if value is not None or name in _OF_SEVERAL}

    @classmethod
    def fields_from_json(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the arguments that a manifest, or an entry of its history, gives this class."""
        given = {field.name: content[field.name] for field in dataclasses.fields(cls) if field.name in content}
        given["counts"] = Counts.from_json(content)
        if given.get("figures") is not None:
            known = {field.name for field in dataclasses.fields(RunTimes)}
            given["figures"] = RunTimes(**{name: value for name, value in given["figures"].items() if name in known})
        return given


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunManifest(RunFigures):
    """The manifest of a committed run.

    The JSON has the fields of `Counts` beside the others.

    Attributes:
        files: every Parquet file of predictions, by its name.
        decoding: how logits became text; None of runs by versions that did not say.
        limits: limits on images, beyond which one is rejected; None likewise.
        least_confident: confidence, URI and text of the `LEAST_CONFIDENT` least confident rows; None where they are not
            known.
        merged: the IDs of the runs whose rows this one holds.
        history: of a merged run, the figures of every run that read something.
        schema_version: of this manifest. Version 1 did not say its number.
    """

    files: dict[str, PartEntry]
    decoding: list[Any] | None = None
    limits: dict[str, int] | None = None
    least_confident: list[list[Any]] | None = None
    merged: tuple[str, ...] = ()
    history: tuple[RunFigures, ...] = ()
    schema_version: int = SCHEMA_VERSION

    def is_read_like(self, other: RunManifest) -> bool:
        """Tells whether model and decoding were those of another run, so that confidences can be compared."""
        known = self.decoding is not None and self.model_id is not None
        return known and (self.model_id, self.decoding) == (other.model_id, other.decoding)

    def is_read_with(self, *, model_id: str, decoding: list[Any], limits: dict[str, int]) -> bool:
        """Tells whether a run with this model, decoding and these limits would read the same."""
        return (self.model_id, self.decoding, self.limits) == (model_id, decoding, limits)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as the file has them, without those that say nothing."""
        content = super().to_json()
        content["files"] = {name: dataclasses.asdict(part) for name, part in self.files.items()}
        if self.merged or self.history:
            content["merged"] = list(self.merged)
            content["history"] = [entry.to_json() for entry in self.history]
        else:
            del content["merged"], content["history"]
        return content

    def write(self, folder: str) -> None:
        """Commits the run in `folder`."""
        storage.write_json(storage.join(folder, RUN_MANIFEST_NAME), self.to_json())

    @classmethod
    def read(cls, folder: str) -> RunManifest:
        """Reads the manifest of the run in `folder`.

        Raises:
            FileNotFoundError: if nothing was committed there.
            NewerRunError: if a newer version of this program wrote it.
            DataError: if it was damaged.
        """
        path = storage.join(folder, RUN_MANIFEST_NAME)
        content = storage.read_json(path)
        try:
            version = content.get("schema_version", _UNNUMBERED_VERSION)
            if version > SCHEMA_VERSION:
                raise NewerRunError(
                    f"{path} has schema version {version}, this program reads {SCHEMA_VERSION}: install the newer "
                    "version of it that wrote this"
                )
            given = cls.fields_from_json(content)
            given["files"] = {name: PartEntry(**part) for name, part in content["files"].items()}
            given["merged"] = tuple(content.get("merged", ()))
            given["history"] = tuple(RunFigures(**RunFigures.fields_from_json(e)) for e in content.get("history", ()))
            return cls(**{**given, "schema_version": SCHEMA_VERSION})
        except (AttributeError, KeyError, TypeError) as error:
            raise DataError(f"{path} was damaged ({type(error).__name__}: {error}): put it back from a copy") from None
