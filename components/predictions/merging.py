"""Merging of committed runs into one that holds the rows of all of them, unchanged."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from components.commit import Commit, check_files, keep_only
from components.counts import Counts, merge_counts
from components.predictions.manifest import RUN_MANIFEST_NAME, PartEntry, RunFigures, RunManifest
from components.predictions.runs import CommittedRun, read_run, remove_merged
from components.predictions.schema import (
    CONFIDENCE_BINS,
    LEAST_CONFIDENT,
    PREDICTIONS_SCHEMA,
    ROW_GROUP_ROWS,
    summarise_rows,
)
from components.rejects import REJECTS_SCHEMA
from tfrecords import DataError, name_shard, storage

ROWS_A_FILE = 1_000_000
"""The most rows of a merged file, unless one of the files that go into it has more."""
PREDICTIONS, REJECTS = "part", "rejects"


class MergedFrom(NamedTuple):
    """A file whose rows go into another one.

    Attributes:
        path: of the Parquet file.
        rows, sha256: from its run's manifest; None for a file of rejects, which no manifest lists.
    """

    path: str
    rows: int | None
    sha256: str | None


class MergedFile(NamedTuple):
    """A file to write.

    Attributes:
        kind: `PREDICTIONS` or `REJECTS`.
        name: of the file.
        sources: the files whose rows it gets, in this order.
    """

    kind: str
    name: str
    sources: tuple[MergedFrom, ...]


@dataclasses.dataclass(frozen=True)
class MergeRequest:
    """An order to make one run of several.

    Attributes:
        run_id: of the new run.
        folder: where its files are written until it is committed.
        destination: its folder among the predictions.
        rejects_folder, rejects_destination: the same two for the rejects.
        merged: the folders of the runs, the oldest first.
    """

    run_id: str
    folder: str
    destination: str
    rejects_folder: str
    rejects_destination: str
    merged: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class MergedSummary:
    """Figures of a written file.

    Attributes:
        kind, name: of the file.
        sources: the paths of the files whose rows it holds.
        rows, bytes, sha256: of the file.
        rejects: of a file of rejects, its rows by reason.
        confidence_sum, needs_review, confidence_histogram, least_confident: of a file of predictions, as in a
            `RecognisedShard`.
    """

    kind: str
    name: str
    sources: list[str]
    rows: int
    bytes: int
    sha256: str
    rejects: dict[str, int]
    confidence_sum: float
    needs_review: int
    confidence_histogram: list[int]
    least_confident: list[list[Any]]


def group_runs_to_merge(runs: Iterable[CommittedRun]) -> list[list[CommittedRun]]:
    """Groups runs that were read in the same way; a run that is alone in that is in no group.

    Runs by versions of this program that did not say how they read are left as they are.
    """
    alike: dict[str, list[CommittedRun]] = collections.defaultdict(list)
    for run in runs:
        if run.manifest.decoding is not None:
            alike[json.dumps([run.manifest.decoding, run.manifest.limits], sort_keys=True)].append(run)
    return [group for group in alike.values() if len(group) > 1]


def plan_merged_files(runs: Sequence[CommittedRun], rows_a_file: int = ROWS_A_FILE) -> list[MergedFile]:
    """Plans the files that the runs become: few and large ones, each made of whole files of the runs."""
    parts = [
        (MergedFrom(path, part.rows, part.sha256 or None), part.rows)
        for run in runs
        for path, part in run.files.items()
    ]
    rejects = []
    for run in runs:
        paths = run.reject_files
        rows = run.manifest.counts.rejected
        rejects += [(MergedFrom(path, None, None), rows // len(paths)) for path in paths]  # about as many in each
    return [
        MergedFile(kind, name_shard(kind, index, len(groups), "parquet"), group)
        for kind, sources in ((PREDICTIONS, parts), (REJECTS, rejects))
        for groups in [_group_sources(sources, rows_a_file)]
        for index, group in enumerate(groups)
    ]


def _group_sources(sources: list[tuple[MergedFrom, int]], rows_a_file: int) -> list[tuple[MergedFrom, ...]]:
    groups: list[list[MergedFrom]] = []
    room = 0
    for source, rows in sources:
        if not groups or rows > room:
            groups.append([])
            room = rows_a_file
        groups[-1].append(source)
        room -= rows
    return [tuple(group) for group in groups]


def write_merged_file(file: MergedFile, request: MergeRequest) -> MergedSummary:
    """Writes the rows of some files to one, with no more than a few row groups in memory.

    Raises:
        DataError: for a file that is not what its run's manifest says.
    """
    schema = PREDICTIONS_SCHEMA if file.kind == PREDICTIONS else REJECTS_SCHEMA
    path = storage.join(request.folder if file.kind == PREDICTIONS else request.rejects_folder, file.name)
    read = 0
    rejects: collections.Counter[str] = collections.Counter()
    confidence_sum, needs_review, histogram = 0.0, 0, np.zeros(CONFIDENCE_BINS, np.int64)
    least: list[list[Any]] = []
    batches = itertools.chain.from_iterable(_read_batches(source, schema) for source in file.sources)
    with (
        storage.open_atomically(path) as target,
        pyarrow.parquet.ParquetWriter(target, schema, compression="zstd") as writer,
    ):
        for table in _make_row_groups(batches):
            writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
            read += table.num_rows
            if file.kind == REJECTS:
                rejects.update(table["reason"].to_pylist())
                continue
            confidences = table["confidence"].to_numpy()
            confidence_sum += float(confidences.sum(dtype=np.float64))
            needs_review += pyarrow.compute.sum(table["needs_review"]).as_py()
            histogram += np.histogram(confidences, CONFIDENCE_BINS, (0, 1))[0]
            lowest = table.take(np.argsort(confidences, kind="stable")[:LEAST_CONFIDENT])
            rows = zip(*(lowest[name].to_pylist() for name in ("confidence", "uri", "text")), strict=True)
            least = sorted([*least, *map(list, rows)])[:LEAST_CONFIDENT]
    with storage.open_to_read(path) as written:
        sha256, size = _compute_sha256(written), written.seek(0, os.SEEK_END)
        rows_written = pyarrow.parquet.read_metadata(written).num_rows
    if rows_written != read:
        raise RuntimeError(f"{path} has {rows_written} rows, but {read} were written to it")
    return MergedSummary(
        file.kind,
        file.name,
        [source.path for source in file.sources],
        rows_written,
        size,
        sha256,
        dict(sorted(rejects.items())),
        confidence_sum,
        needs_review,
        histogram.tolist(),
        least,
    )


def _read_batches(source: MergedFrom, schema: pyarrow.Schema) -> Iterator[pyarrow.RecordBatch]:
    """Yields the rows of a file, after checking it against its run's manifest."""
    with storage.open_to_read(source.path) as file:
        if source.sha256 is not None:
            digest = _compute_sha256(file)
            if digest != source.sha256:
                raise DataError(
                    f"{source.path} has checksum {digest}, the manifest beside it says {source.sha256}: it was damaged "
                    "after it was committed; delete it and run again, and what it held is read again by the next "
                    "infer step"
                )
            file.seek(0)
        try:
            parquet = pyarrow.parquet.ParquetFile(file)
            if source.rows not in (None, parquet.metadata.num_rows):
                raise RuntimeError(f"{source.path} has {parquet.metadata.num_rows} rows, its manifest {source.rows}")
            for batch in parquet.iter_batches(ROW_GROUP_ROWS):
                yield _cast_to_schema(batch, schema, source.path)
        except (pyarrow.ArrowInvalid, OSError) as error:
            what = " ".join(str(error).split())
            raise DataError(
                f"{source.path} is damaged ({what}): delete it and run again; images that it names are read again by "
                "the next infer step"
            ) from None


def _compute_sha256(file: Any) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _cast_to_schema(batch: pyarrow.RecordBatch, schema: pyarrow.Schema, path: str) -> pyarrow.RecordBatch:
    """Adds the columns, all null, that the schema got since a batch was written."""
    columns = []
    for field in schema:
        if field.name in batch.schema.names:
            columns.append(batch.column(field.name).cast(field.type))
        elif field.nullable:
            columns.append(pyarrow.nulls(batch.num_rows, field.type))
        else:
            raise DataError(f"{path} has no column {field.name}: another version of this program wrote it")
    return pyarrow.RecordBatch.from_arrays(columns, schema=schema)


def _make_row_groups(batches: Iterable[pyarrow.RecordBatch]) -> Iterator[pyarrow.Table]:
    """Yields rows in the order in which they come, `ROW_GROUP_ROWS` at a time."""
    waiting: list[pyarrow.RecordBatch] = []
    rows = 0
    for batch in batches:
        waiting.append(batch)
        rows += batch.num_rows
        if rows >= ROW_GROUP_ROWS:
            table = pyarrow.Table.from_batches(waiting)
            yield table.slice(0, ROW_GROUP_ROWS)
            waiting = table.slice(ROW_GROUP_ROWS).to_batches()
            rows -= ROW_GROUP_ROWS
    if rows:
        yield pyarrow.Table.from_batches(waiting)


def commit_merge(summaries: Iterable[MergedSummary], request: MergeRequest) -> None:
    """Checks that every row of the runs is there once, makes the run of them all exist, and removes the runs.

    The runs count no more from the moment in which the new one is in its place; a later command removes them if this
    one is stopped first, see `remove_merged`. The rejects are in their place before that: without their run they do not
    count.

    Raises:
        RuntimeError: if a row was lost or doubled.
    """
    commit = Commit(request.folder, request.destination, RUN_MANIFEST_NAME)
    if not commit.already_done():
        ordered = sorted(summaries, key=lambda summary: summary.name)
        runs = [read_run(folder) for folder in request.merged]
        parts = [summary for summary in ordered if summary.kind == PREDICTIONS]
        rejects = [summary for summary in ordered if summary.kind == REJECTS]
        _check_rows(runs, parts, rejects)
        files = {part.name: PartEntry(part.rows, part.bytes, part.sha256) for part in parts}
        commit.check({part.name: part.bytes for part in parts})
        commit.keep(files)
        if rejects:
            moved = not storage.exists(request.rejects_folder)  # by an attempt that was stopped then
            sizes = {each.name: each.bytes for each in rejects}
            check_files(request.rejects_destination if moved else request.rejects_folder, sizes)
            if not moved:
                keep_only(request.rejects_folder, sizes)
                storage.move_folder(request.rejects_folder, request.rejects_destination)
        commit.finish(_make_merged_manifest(request.run_id, runs, parts, files))
    remove_merged([read_run(request.destination)])
    for left in (request.folder, request.rejects_folder):
        storage.remove_folder(left)


def _check_rows(runs: Sequence[CommittedRun], parts: Sequence[MergedSummary], rejects: Sequence[MergedSummary]) -> None:
    rows, written = sum(run.manifest.counts.read for run in runs), sum(part.rows for part in parts)
    sources = [[path for run in runs for path in run.files], [path for run in runs for path in run.reject_files]]
    found = [[path for summary in summaries for path in summary.sources] for summaries in (parts, rejects)]
    # Rejects may be pruned; the manifest still counts them.
    listed = merge_counts(run.manifest.counts.rejects for run in runs)
    more = {reason for each in rejects for reason, count in each.rejects.items() if count > listed.get(reason, 0)}
    if more or rows != written or any(sorted(a) != sorted(b) for a, b in zip(sources, found, strict=True)):
        raise RuntimeError(
            f"{len(runs)} runs have {rows} rows in {len(sources[0])} files, and {len(sources[1])} files of rejects; "
            f"{written} rows of {len(found[0])} files, and {len(found[1])} files of rejects, were written: something "
            "was lost or doubled"
        )


def _make_merged_manifest(
    run_id: str, runs: Sequence[CommittedRun], parts: Sequence[MergedSummary], files: dict[str, PartEntry]
) -> RunManifest:
    """Describes a run that holds the rows of others.

    How many images a night's listing matched, and how many of them were skipped or repeated, does not add up: `matched`
    is the number of images that were read or rejected. Figures of the rows are taken from the rows.
    """
    manifests = [run.manifest for run in runs]
    counts = [manifest.counts for manifest in manifests]
    models = {manifest.model_id for manifest in manifests}
    least = {(manifest.min_confidence, manifest.target_error) for manifest in manifests}
    min_confidence, target_error = least.pop() if len(least) == 1 else (None, None)
    return RunManifest(
        run_id=run_id,
        model_id=models.pop() if len(models) == 1 else None,
        scored_at=max(manifest.scored_at for manifest in manifests),
        decoding=manifests[0].decoding,
        limits=manifests[0].limits,
        counts=Counts(
            matched=sum(each.to_read for each in counts),
            read=sum(part.rows for part in parts),
            rejects=merge_counts(each.rejects for each in counts),
            reread=sum(each.reread for each in counts),
            retried=sum(each.retried for each in counts),
        ),
        lost=sum(manifest.lost for manifest in manifests),
        **summarise_rows(parts),
        min_confidence=min_confidence,
        target_error=target_error,
        merged=tuple(run_id for run in runs for run_id in (*run.manifest.merged, run.run_id)),
        history=tuple(entry for manifest in manifests for entry in manifest.history or [_pick_figures(manifest)]),
        files=files,
    )


def _pick_figures(manifest: RunManifest) -> RunFigures:
    """Returns what a merged run's history keeps of one run."""
    return RunFigures(**{field.name: getattr(manifest, field.name) for field in dataclasses.fields(RunFigures)})
