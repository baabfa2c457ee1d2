"""The review loop: doubtful readings for a person to correct, and corrections on their way into a dataset."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from components.ingest.addition import OldDataset
from components.listing import ImageReference, PathTables, location_to_uri
from components.listing.tables import read_reviewed_table
from components.models import ModelManifest
from components.processes import map_in_threads
from components.rejects import Reject
from components.review.selection import DoubtfulText, find_least_confident, read_details
from components.review.table import BYTE_ORDER_MARK, COLUMNS, LINE_END, format_table, quote_cell, split_row
from components.work import read_referenced_line
from pipeline.nightly import find_sound_runs
from pipeline.steps import ACCEPTED, LATEST
from pipeline.options import LinePipelineOptions
from pipeline.workspace import Workspace, make_id
from tfrecords import DataError, DatasetManifest, ImageLimits, encode_png, storage

TABLE_NAME, PAGE_NAME, MANIFEST_NAME = "review.csv", "review.html", "manifest.json"

_DOUBTFUL_SYMBOL = 0.9
"""Symbols with less confidence are marked."""
_PAGE_HEIGHT = 64
"""Pixels of a line on the page."""
_THREADS, _AHEAD = 16, 64


# Giving out


def write_review(
    options: LinePipelineOptions, workspace: Workspace, say: Callable[[str], None]
) -> tuple[str, str, dict[str, Any]]:
    """Commits a review of the least confident readings that no review gave out yet.

    Returns:
        A sentence, the review's folder, and figures.

    Raises:
        DataError: if nothing was read yet, or the dataset to which corrections are to be added is gone.
    """
    runs = find_sound_runs(workspace, say)
    if not runs:
        raise DataError(f"nothing was read yet in {workspace.root}: run the infer step first (--steps=infer)")
    dataset_id, dataset = _find_dataset_to_correct(workspace)
    given = _read_given_out(workspace)
    say(f"looking for the {options.review_count:,} least confident readings of {len(runs):,} runs")
    records = [storage.join(workspace.dataset(dataset_id), shard.name) for shard in dataset.shards]
    waiting = (
        reading
        for reading in find_least_confident([path for run in runs for path in run.files], records)
        if (reading.uri, reading.model_id, reading.text) not in given
    )
    chosen, gone = choose_with_images(waiting, options.review_count, options.image_limits)
    figures: dict[str, Any] = {"images": len(chosen), "runs": len(runs), "dataset_id": dataset_id, "unreadable": gone}
    if gone:
        say(f"warning: {gone:,} images that were to be reviewed cannot be read any more, and are left out")
    if not chosen:
        summary = "nothing is left to review: every image that was read is in the dataset, or was given out before"
        return summary, storage.join(workspace.root, "review"), figures
    readings = [reading for reading, _ in chosen]
    review_id = make_id(dataset=dataset_id, readings=[(each.uri, each.run_id) for each in readings])
    folder = workspace.unfinished(f"review-{review_id}")
    storage.remove_folder(folder)
    details = read_details(readings)
    rows = [
        split_row(reading, [other["text"] for other in detail["alternatives"]], dataset_id)
        for reading, detail in zip(readings, details, strict=True)
    ]
    storage.write_bytes(storage.join(folder, TABLE_NAME), format_table(rows).encode())
    lines = [
        {
            "source": f"data:image/png;base64,{base64.b64encode(png).decode()}",
            "text": reading.text,
            "read": mark_doubtful(reading.text, detail["symbol_confidences"]),
            "confidence": reading.confidence,
            "alternatives": [other["text"] for other in detail["alternatives"]],
            "uri": reading.uri,
            "before": before,
            "after": after,
        }
        for (reading, png), detail, (before, _, after) in zip(chosen, details, rows, strict=True)
    ]
    page = render_page(review_id=review_id, dataset_id=dataset_id, lines=lines)
    storage.write_bytes(storage.join(folder, PAGE_NAME), page.encode())
    destination = storage.join(workspace.root, "review", review_id)
    manifest = {
        "review_id": review_id,
        "dataset_id": dataset_id,
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "given_out": [[each.uri, each.model_id, each.text] for each in readings],
    }
    storage.write_json(storage.join(folder, MANIFEST_NAME), manifest)
    storage.move_folder(folder, destination)
    least, most = readings[0].confidence, readings[-1].confidence
    summary = (
        f"review {review_id}: {len(readings):,} images with confidences from {least:.3f} to {most:.3f}, to be added to "
        f"dataset {dataset_id} when they are corrected"
    )
    return summary, destination, {**figures, "review_id": review_id, "confidences": [least, most]}


def _read_given_out(workspace: Workspace) -> set[tuple[str, str, str]]:
    """URI, model and text of every reading of a committed review: a person has had it."""
    parent = storage.join(workspace.root, "review")
    given: set[tuple[str, str, str]] = set()
    for name in storage.list_names(parent):
        try:
            manifest = storage.read_json(storage.join(parent, name, MANIFEST_NAME))
        except (FileNotFoundError, NotADirectoryError):
            continue
        given.update((uri, model_id, text) for uri, model_id, text in manifest["given_out"])
    return given


def _find_dataset_to_correct(workspace: Workspace) -> tuple[str, DatasetManifest]:
    """What corrections are added to: the dataset of the model in use, or the latest one if that grew out of it."""
    model_id = workspace.read_pointer("models", ACCEPTED)
    latest = workspace.read_pointer("datasets", LATEST)
    of_model = None
    if model_id is not None:
        try:
            of_model = ModelManifest.read(workspace.model(model_id)).dataset_id
        except FileNotFoundError:
            raise DataError(
                f"model {model_id} is gone from {workspace.model(model_id)}: run the train and evaluate steps again"
            ) from None
    dataset_id = latest if of_model is None or of_model in _walk_ancestors(workspace, latest) else of_model
    if dataset_id is None:
        raise DataError(f"no dataset is committed in {workspace.root}: run the ingest step first (--steps=ingest)")
    try:
        return dataset_id, DatasetManifest.read(workspace.dataset(dataset_id))
    except FileNotFoundError:
        raise DataError(
            f"dataset {dataset_id}, to which corrections would be added, is gone from {workspace.dataset(dataset_id)}: "
            "run the ingest and train steps again"
        ) from None


def _walk_ancestors(workspace: Workspace, dataset_id: str | None) -> Iterator[str]:
    """A dataset, the one that it was added to, and so on."""
    while dataset_id is not None:
        yield dataset_id
        try:
            dataset_id = DatasetManifest.read(workspace.dataset(dataset_id)).added_to
        except FileNotFoundError:
            return


def choose_with_images(
    readings: Iterator[DoubtfulText], count: int, limits: ImageLimits
) -> tuple[list[tuple[DoubtfulText, bytes]], int]:
    """The first readings whose images can still be read, with these as PNG, and how many of the others there were."""
    chosen: list[tuple[DoubtfulText, bytes]] = []
    gone = 0
    show = functools.partial(_draw_line, limits=limits)
    while len(chosen) < count and (some := list(itertools.islice(readings, count - len(chosen)))):
        for reading, png in zip(some, map_in_threads(show, some, _THREADS, ahead=_AHEAD), strict=True):
            if png is None:
                gone += 1
            else:
                chosen.append((reading, png))
    return chosen, gone


def _draw_line(reading: DoubtfulText, limits: ImageLimits) -> bytes | None:
    line = read_referenced_line(ImageReference(reading.uri, "", 0, 0), _PAGE_HEIGHT, limits)
    return None if isinstance(line, Reject) else encode_png(line.pixels)


def mark_doubtful(text: str, confidences: Sequence[float]) -> list[tuple[str, bool]]:
    """A text as runs of symbols, each with whether they are doubtful."""
    if len(confidences) != len(text):
        return [(text, False)] if text else []
    pairs = zip(text, (confidence < _DOUBTFUL_SYMBOL for confidence in confidences), strict=True)
    runs = itertools.groupby(pairs, lambda pair: pair[1])
    return [("".join(symbol for symbol, _ in some), doubtful) for doubtful, some in runs]


def render_page(**values: Any) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(os.path.dirname(__file__)), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    table = {"mark": BYTE_ORDER_MARK, "header": ",".join(map(quote_cell, COLUMNS)), "line_end": LINE_END}
    lines = [{name: line[name] for name in ("text", "before", "after")} for line in values["lines"]]
    page = environment.get_template("review.html.j2")
    return page.render(table=table, table_name=TABLE_NAME, lines_of_table=lines, **values)


# Taking back


def find_old_dataset(
    options: LinePipelineOptions, workspace: Workspace, say: Callable[[str], None]
) -> OldDataset | None:
    """The dataset that `--add_to` or else a review table names, to which images are added.

    Raises:
        DataError: if it is not there or damaged, its lines have another height than asked for, or
            tables name several.
    """
    reviewed = {table: found for table in options.label_rules.tables if (found := _read_reviewed(options, table))}
    named = sorted({dataset_id for found in reviewed.values() for dataset_id in found.datasets})
    for table, found in reviewed.items():
        if found.left_out:
            say(
                f"{location_to_uri(table)} leaves out {found.left_out:,} of {found.rows + found.left_out:,} images: "
                "no text"
            )
        if not found.rows:
            raise DataError(
                f"no row of {location_to_uri(table)} has a text: correct some images before they are ingested"
            )
    latest = workspace.read_pointer("datasets", LATEST)
    if options.add_to:
        dataset_id, flag = options.add_to, f"--add_to={options.add_to}"
        if dataset_id == LATEST:
            if latest is None:
                raise DataError(f"{flag}: no dataset is committed in {workspace.root}; leave the flag out")
            dataset_id = latest
    elif not named:
        if reviewed:
            say("warning: the review table names no dataset: a new one is made of its images alone; see --add_to")
        return None
    elif len(named) > 1:
        raise DataError(
            f"{' and '.join(map(location_to_uri, reviewed))} name several datasets ({', '.join(named)}): say "
            "with --add_to which one the images are added to"
        )
    else:
        dataset_id, flag = named[0], f"the dataset column of {' and '.join(map(location_to_uri, reviewed))}"
    try:
        old = OldDataset.read(workspace.dataset(dataset_id))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"{flag}: there is no dataset {dataset_id} in {workspace.root}; say with --add_to which one the images "
            "are added to"
        ) from None
    if old.height != options.height:
        raise DataError(
            f"{flag}: the lines of dataset {dataset_id} are {old.height} pixels high, not {options.height}: "
            f"ingest with --height={old.height}"
        )
    say(f"adding the images to the {old.examples:,} examples of dataset {dataset_id}, as {flag} says")
    if not options.add_to and latest != dataset_id:
        say(f"warning: the latest dataset is {latest}: --add_to=LATEST adds the images to that one")
    if old.split_by != options.split_by:
        say(
            f"warning: dataset {dataset_id} is split by {old.split_by}, the new images by {options.split_by}: lines "
            "that are alike may come to lie in different splits"
        )
    return old


def find_image_tables(options: LinePipelineOptions, say: Callable[[str], None]) -> PathTables:
    """The label tables, if their rows say which images are ingested: review tables, without `--images`."""
    rules = options.label_rules
    if options.images or not any(_read_reviewed(options, table) for table in rules.tables):
        return PathTables()
    say(f"no --images given: using the images that {rules} names")
    return PathTables(rules.tables, rules.columns.path, dataclasses.replace(rules.columns, group=None))


def _read_reviewed(options: LinePipelineOptions, table: str) -> Any:
    return read_reviewed_table(table, options.label_rules.columns)
