"""Checks of flags that depend on each other or on files, before anything starts."""

from __future__ import annotations

import difflib
import os

from apache_beam.options.pipeline_options import StandardOptions

from components.export import FORMATS
from components.listing import LABEL_SOURCES, LABEL_TABLE_SUFFIXES, TABLE_SUFFIXES
from components.listing.files import is_file
from pipeline.options import LinePipelineOptions, UsageError
from tfrecords import DataError, storage


def check_options(options: LinePipelineOptions) -> None:
    """Checks what the types of single flags cannot.

    Raises:
        UsageError: for flags that do not go together, files that do not exist, or a runner that Beam does not know.
    """
    runner, names = options.view_as(StandardOptions).runner, [*StandardOptions.KNOWN_RUNNER_NAMES, "DaskRunner"]
    if runner and "." not in runner and options.runner_kind not in map(str.lower, names):
        near = difflib.get_close_matches(runner, names, 1)
        hint = f"did you mean {near[0]}?" if near else f"runners are {', '.join(names)}"
        raise UsageError(f"--runner={runner} is none that Beam knows; {hint}")
    _check_flags_of_one_step(options)
    if {"train", "selftrain"} <= set(options.step_names):
        raise UsageError(
            f"--steps={options.steps}: train and selftrain each make a model for evaluate to decide on; run "
            "--steps=train,evaluate,infer first, then --steps=selftrain,evaluate,infer"
        )
    if options.batch_size is not None and options.batch_size % options.train_workers:
        raise UsageError(
            f"--batch_size={options.batch_size} cannot be shared equally by --train_workers={options.train_workers}"
        )
    try:
        options.split_fractions  # noqa: B018 (raises for shares that leave nothing)
    except ValueError as error:
        raise UsageError(str(error)) from None
    _check_labels(options)
    if (options.decoder == "lexicon") != (options.lexicon is not None):
        raise UsageError("--decoder=lexicon and --lexicon=FILE go together: give both, or neither")
    if options.lexicon and not storage.is_remote(options.lexicon) and not os.path.isfile(options.lexicon):
        raise UsageError(f"--lexicon={options.lexicon} is not a file")
    if options.images and not options.infer_images and {"ingest", "infer"} <= set(options.step_names):
        raise UsageError(
            "--images is given, but not what to read with the model: add --infer_images=DIR, "
            "or leave inference out with --steps=ingest,train,evaluate"
        )
    if options.texts and not storage.is_remote(options.texts) and not os.path.isfile(options.texts):
        raise UsageError(f"--texts={options.texts} is not a file")
    if "render" in options.step_names:
        if not options.texts:
            raise UsageError("--steps=render draws texts: say which, as --texts=FILE, one a line")
        for flag, folder in (("fonts", options.fonts), ("backgrounds", options.backgrounds)):
            if folder and not os.path.isdir(folder):
                raise UsageError(f"--{flag}={folder} is not a local folder")
    if options.charset and not storage.is_remote(options.charset) and not os.path.isfile(options.charset):
        raise UsageError(f"--charset={options.charset} is not a file")


def _check_flags_of_one_step(options: LinePipelineOptions) -> None:
    """Checks flags that one step needs and no other has."""
    for flag, step, missing in (
        ("date", "compact", "merges the runs of one day: say which, as --date=YYYY-MM-DD"),
        ("format", "export", f"writes files of one format: say which, as --format={'|'.join(FORMATS)}"),
        ("uri", "explain", "tells of one image: say which, as --uri=PATH"),
    ):
        value, is_asked = getattr(options, flag), step in options.step_names
        if value is None and is_asked:
            raise UsageError(f"--steps={step} {missing}")
        if value is not None and not is_asked:
            raise UsageError(f"--{flag}={value} is for the {step} step, which --steps={options.steps} leaves out")
    if options.uri is not None and not options.uri.strip("/"):
        raise UsageError(f"--uri={options.uri} names no image: give its URI, or the end of it")


def _check_labels(options: LinePipelineOptions) -> None:
    """Checks the flags for labels as far as possible without opening a file."""
    source = options.label_source
    try:
        rules = options.label_rules
    except DataError as error:
        raise UsageError(str(error)) from None
    if options.pages and source != "auto":
        raise UsageError(f"--pages takes labels from the page files: leave out --label_source={source}")
    named_in_tables = any(
        pattern.strip().lower().endswith(TABLE_SUFFIXES) for pattern in (options.infer_images or "").split(",")
    )
    if options.pages and named_in_tables:
        raise UsageError(
            f"--pages takes folders and images of pages, but --infer_images={options.infer_images} has a table"
        )
    if options.line_types and not options.pages:
        raise UsageError(f"--line_types={options.line_types} is for pages: add --pages, or leave it out")
    for table in rules.tables:
        if not table.lower().endswith(LABEL_TABLE_SUFFIXES):
            near = difflib.get_close_matches(source, LABEL_SOURCES, 1)
            raise UsageError(
                f"--label_source={source} is none of {', '.join(LABEL_SOURCES)}, "
                f"and no {', '.join(LABEL_TABLE_SUFFIXES)} file" + (f": did you mean {near[0]}?" if near else "")
            )
        if not storage.is_remote(table) and not is_file(table):
            raise UsageError(f"--label_source={source}: there is no file {table}")
    if source in ("filename", "sidecar"):
        path_column = None if named_in_tables else options.path_column
        text_column = None if source == "sidecar" else options.text_column  # of tables that hold the images too
        for flag, value in (("path_column", path_column), ("text_column", text_column)):
            if value is not None:
                raise UsageError(f"--{flag}={value} is for label tables, but --label_source={source}")
        if rules.columns.group is not None:
            raise UsageError(
                f"--split_by={options.split_by} is a column of a label table, but --label_source={source}: "
                "use image, folder or given, or a table as --label_source"
            )
    if source not in ("auto", "filename") and options.label_pattern != "{label}":
        raise UsageError(f"--label_pattern={options.label_pattern} is for file names, but --label_source={source}")
