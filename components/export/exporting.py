"""The writing of an export: only files with newer readings are written, each whole, and the manifest last."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow
import pyarrow.parquet

from components.export.formats import FileFormat, MadeFile
from components.export.manifest import INDEX_FOLDER, REJECTS_NAME, ExportIndex, IndexEntry
from components.export.places import mirror_path, name_files
from components.export.readings import NewestReadings, Reading
from components.predictions.runs import map_concurrently
from components.rejects import Reject, count_by_reason, make_rejects_table
from tfrecords import storage

_VERSION = 1
"""Goes into the digest of every file: raised when the same readings would give another file."""


@dataclasses.dataclass
class Tally:
    """Counts of an export.

    Attributes:
        written, unchanged, removed: files. In a plan, `written` are those that have to be made anew.
        exported, passed_over: readings.
        rejects: readings that could not be exported.
    """

    written: int = 0
    unchanged: int = 0
    removed: int = 0
    exported: int = 0
    passed_over: int = 0
    rejects: list[Reject] = dataclasses.field(default_factory=list)

    @property
    def rejected(self) -> dict[str, int]:
        """Readings that could not be exported, by reason."""
        return count_by_reason(self.rejects)


def export_rows(
    readings: NewestReadings,
    folder: str,
    name_part: Callable[[str], str],
    format_rows: Callable[[Iterable[Reading]], Iterator[bytes]],
    *,
    write: bool,
) -> Tally:
    """Exports readings as tables: one for each file of predictions that has a newest reading.

    Args:
        folder: of the format.
        name_part: from the path of a file of predictions to that of its table, below the folder.
        format_rows: from readings to the parts of a file.
        write: whether to do it, or only to find out what is to be done.
    """
    tally = Tally()
    _clean_records(folder, write)
    index = ExportIndex(folder, 0)
    names = set()
    for number, (path, mask) in enumerate(zip(readings.files, readings.masks, strict=True)):
        count = int(mask.sum())
        if not count:
            continue
        name = name_part(path)
        names.add(name)
        entry = IndexEntry(_digest([name, hashlib.sha256(mask.tobytes()).hexdigest()]), count)
        tally.exported += count
        place, _, own = storage.join(folder, name).rpartition("/")
        present = _list_whole_files(place, clean=write)
        if index.entries.get(name) == entry and own in present:
            tally.unchanged += 1
            continue
        tally.written += 1
        if write:
            with storage.open_atomically(storage.join(folder, name)) as file:
                file.writelines(format_rows(readings.read(number)))
            index.entries[name] = entry
            index.write()
    for name in index.entries.keys() - names:  # its rows are in other files now, or gone
        tally.removed += 1
        if write:
            storage.remove_file(storage.join(folder, name))
            del index.entries[name]
    if write:
        index.write()
    return tally


@dataclasses.dataclass(frozen=True)
class _Unit:
    """A file to export.

    Attributes:
        name, plain_name: its path below the folder of the format, and the one that it has if no other file needs that.
        source: what it is made from.
    """

    name: str
    plain_name: str
    source: str
    readings: list[Reading]

    @property
    def inputs(self) -> str:
        return _digest([self.name, [reading.identity for reading in self.readings]])


def export_files(readings: NewestReadings, folder: str, file_format: FileFormat, *, write: bool) -> Tally:
    """Exports readings as a file for each image, page or folder, in the folders of the collection.

    A file is made again only if one of its readings is another one, if it is gone, or if some of its readings could not
    be exported before. The record of a part is written when all of its files are there, so that a stopped export is
    resumed from there.

    Args:
        folder: of the format.
        write: whether to do it, or only to find out what is to be done.
    """
    tally = Tally()
    _clean_records(folder, write)

    def find_source_folder(uri: str) -> str | None:
        source = file_format.find_source(uri)
        tally.passed_over += source is None
        return None if source is None else _find_folder(source)

    with readings.divide(find_source_folder) as parts:
        for part, some in parts:
            index = ExportIndex(folder, part)
            for units in _make_units(some, file_format):
                due = list(_find_due(units, folder, index, tally, write))
                if write:
                    _make_files(due, folder, file_format, index, tally)
                    _remove_renamed(units, folder, index, tally)
                else:
                    tally.written += len(due)
            if write:
                index.write()
    return tally


def _make_units(readings: Sequence[Reading], file_format: FileFormat) -> Iterator[list[_Unit]]:
    """Makes the files of some folders; yields those of each together."""
    folders: dict[str, dict[str, list[Reading]]] = {}
    for reading in readings:
        source = file_format.find_source(reading.uri)
        assert source is not None
        folders.setdefault(_find_folder(source), {}).setdefault(source, []).append(reading)
    for folder, sources in folders.items():
        own = {source: mirror_path(source).rpartition("/")[2] for source in sources}
        names = name_files(own, file_format.suffix)
        plain = {source: name_files({source: own[source]}, file_format.suffix)[source] for source in sources}
        yield [
            _Unit(storage.join(folder, names[source]), storage.join(folder, plain[source]), source, some)
            for source, some in sources.items()
        ]


def _find_folder(source: str) -> str:
    """Finds the folder of the file that is made from a source, below that of the format; it is not empty."""
    return mirror_path(source).rpartition("/")[0] or "."


def _find_due(units: Sequence[_Unit], folder: str, index: ExportIndex, tally: Tally, write: bool) -> Iterator[_Unit]:
    """Finds the files of one folder that have to be made; counts the others.

    Those of which readings were rejected are made again, since the reason may be gone. A plan does not expect that.
    """
    present = _list_whole_files(storage.join(folder, os.path.dirname(units[0].name)), clean=write)
    for unit in units:
        entry = index.entries.get(unit.name)
        is_there = entry is None or not entry.exported or os.path.basename(unit.name) in present
        if entry is None or entry.inputs != unit.inputs or not is_there or (entry.rejected and write):
            yield unit
        else:
            tally.unchanged += bool(entry.exported)
            tally.exported += entry.exported
            tally.passed_over += entry.passed_over


def _clean_records(folder: str, write: bool) -> None:
    """Removes what a stopped export left half written of its records, if it may be."""
    for place in (folder, storage.join(folder, INDEX_FOLDER)):
        _list_whole_files(place, clean=write)


def _list_whole_files(folder: str, *, clean: bool) -> set[str]:
    """Lists the names in a folder, but for what a stopped export left half written, which is removed if it may be."""
    names = set(storage.list_names(folder))
    halves = {name for name in names if name.startswith(storage.TEMPORARY_PREFIX)}
    for name in halves if clean else ():
        storage.remove_file(storage.join(folder, name))
    return names - halves


def _make_files(units: Sequence[_Unit], folder: str, file_format: FileFormat, index: ExportIndex, tally: Tally) -> None:
    """Makes and writes files; those that are there already, with the same content, stay."""

    def make(unit: _Unit) -> tuple[_Unit, MadeFile, bool]:
        made = file_format.make(unit.source, unit.readings)
        path = storage.join(folder, unit.name)
        is_new = made.content is not None and not _holds(path, made.content)
        if made.content is not None and is_new:
            storage.write_bytes(path, made.content)
        return unit, made, is_new

    remote = any(storage.is_remote(path) for path in (folder, *(unit.source for unit in units)))
    for unit, made, is_new in map_concurrently(make, units, remote=remote):
        tally.written += is_new
        tally.unchanged += made.content is not None and not is_new
        tally.exported += made.exported
        tally.passed_over += made.passed_over
        tally.rejects += made.rejects
        index.entries[unit.name] = IndexEntry(unit.inputs, made.exported, made.passed_over, len(made.rejects))


def _remove_renamed(units: Sequence[_Unit], folder: str, index: ExportIndex, tally: Tally) -> None:
    """Removes the files of images that have another name now, since one with theirs was read later."""
    names = {unit.name for unit in units}
    for unit in units:
        if unit.plain_name not in names and unit.plain_name in index.entries:
            del index.entries[unit.plain_name]
            tally.removed += 1
            storage.remove_file(storage.join(folder, unit.plain_name))


def _holds(path: str, content: bytes) -> bool:
    try:
        return storage.read_bytes(path) == content
    except FileNotFoundError:
        return False


def write_rejects(folder: str, rejects: Sequence[Reject], run_id: str, at: datetime.datetime) -> None:
    """Writes the list of readings that could not be exported, or removes it; leaves one that says the same.

    Args:
        folder: of the format.
        run_id: of the newest run that was exported.
    """
    path = storage.join(folder, REJECTS_NAME)
    rejects = sorted(rejects, key=lambda reject: reject.uri)
    if not rejects:
        storage.remove_file(path)
        return
    table = make_rejects_table(rejects, step="export", run_id=run_id, at=at)
    said = ["uri", "reason", "detail"]
    try:
        with storage.open_to_read(path) as file:
            if pyarrow.parquet.read_table(file, columns=said).equals(table.select(said)):
                return
    except (FileNotFoundError, pyarrow.ArrowException):
        pass
    storage.write_parquet(path, table)


def _digest(value: Any) -> str:
    content = json.dumps([_VERSION, value]).encode()
    return hashlib.sha256(content).hexdigest()[:32]
