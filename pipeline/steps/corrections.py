"""Corrections on their way into a dataset: the old dataset, and the images that review tables name."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from components.ingest.addition import OldDataset
from components.listing import PathTables, location_to_uri
from components.listing.tables import read_reviewed_table
from pipeline.options import LinePipelineOptions
from pipeline.workspace import LATEST, Workspace
from tfrecords import DataError
from tfrecords.directions import describe_lines

log = logging.getLogger(__name__)


def find_old_dataset(options: LinePipelineOptions, workspace: Workspace) -> OldDataset | None:
    """Reads the dataset that `--add_to` or else a review table names, to which images are added.

    Raises:
        DataError: if it is not there or damaged, its lines have another height than asked for, or
            tables name several.
    """
    reviewed = {table: review for table in options.label_rules.tables if (review := _read_reviewed(options, table))}
    named = sorted({dataset_id for review in reviewed.values() for dataset_id in review.datasets})
    for table, review in reviewed.items():
        if review.left_out:
            log.info(
                f"{location_to_uri(table)} leaves out {review.left_out:,} of {review.rows + review.left_out:,} images: "
                "no text"
            )
        if not review.rows:
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
            log.warning("the review table names no dataset: a new one is made of its images alone; see --add_to")
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
    if old.vertical != options.vertical:
        raise DataError(
            f"{flag}: dataset {dataset_id} has {describe_lines(old.vertical)}: ingest "
            f"{'with' if old.vertical else 'without'} --vertical"
        )
    log.info(f"adding the images to the {old.examples:,} examples of dataset {dataset_id}, as {flag} says")
    if not options.add_to and latest != dataset_id:
        log.warning(f"the latest dataset is {latest}: --add_to=LATEST adds the images to that one")
    return old


def warn_of_other_splits(old: OldDataset, split_by: str) -> None:
    """Warns if new images are split by another rule than those of the dataset to which they are added."""
    if old.split_by != split_by:
        log.warning(
            f"dataset {old.dataset_id} is split by {old.split_by}, the new images by {split_by}: lines "
            "that are alike may come to lie in different splits"
        )


def find_image_tables(options: LinePipelineOptions) -> PathTables:
    """Returns the label tables, if their rows say which images are ingested: review tables, without `--images`."""
    rules = options.label_rules
    if options.images or not any(_read_reviewed(options, table) for table in rules.tables):
        return PathTables()
    log.info(f"no --images given: using the images that {rules} names")
    return PathTables(rules.tables, rules.columns.path, dataclasses.replace(rules.columns, group=None))


def _read_reviewed(options: LinePipelineOptions, table: str) -> Any:
    return read_reviewed_table(table, options.label_rules.columns)
