"""Checks of flags that depend on each other, before anything starts."""

from __future__ import annotations

import datetime
import difflib
import os

from apache_beam.options.pipeline_options import StandardOptions

from components.listing import LABEL_SOURCES, TABLE_SUFFIXES
from pipeline.options import STEPS, LinePipelineOptions, UsageError
from tfrecords import DataError, storage

_PILLOW_LIMIT = 178_956_970


def check_options(options: LinePipelineOptions) -> None:
    runner, names = options.view_as(StandardOptions).runner, [*StandardOptions.KNOWN_RUNNER_NAMES, "DaskRunner"]
    if runner and "." not in runner and options.runner_kind not in map(str.lower, names):
        near = difflib.get_close_matches(runner, names, 1)
        hint = f"did you mean {near[0]}?" if near else f"runners are {', '.join(names)}"
        raise UsageError(f"--runner={runner} is none that Beam knows; {hint}")
    unknown = sorted({step.strip() for step in options.steps.split(",")} - set(STEPS))
    if unknown:
        near = difflib.get_close_matches(unknown[0], STEPS, 1)
        hint = f"did you mean {near[0]}?" if near else f"steps are {', '.join(STEPS)}"
        raise UsageError(f"--steps={options.steps}: there is no step {unknown[0]!r}; {hint}")
    for name in (
        *("epochs", "batch_size", "patience", "train_workers", "beam_width", "drift_nights", "review_count"),
        *("retention_days", "prediction_retention_days"),
        *("max_pixels", "max_bytes", "max_line_width", "max_label_length"),
    ):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name}={value} must be at least 1")
    _check_date(options)
    if options.train_restarts < 0:
        raise UsageError(f"--train_restarts={options.train_restarts} must be at least 0")
    if options.max_pixels > _PILLOW_LIMIT:
        raise UsageError(f"--max_pixels={options.max_pixels} must be at most {_PILLOW_LIMIT}, Pillow's own limit")
    if not 16 <= options.height <= 512:
        raise UsageError(f"--height={options.height} must be from 16 to 512 pixels")
    if not 0 <= options.seed < 2**32:
        raise UsageError(f"--seed={options.seed} must be from 0 to {2**32 - 1}")
    if options.batch_size is not None and options.batch_size % options.train_workers:
        raise UsageError(
            f"--batch_size={options.batch_size} cannot be shared equally by --train_workers={options.train_workers}"
        )
    if options.learning_rate is not None and not 0 < options.learning_rate < 10:
        raise UsageError(f"--learning_rate={options.learning_rate:g} must be above 0 and below 10")
    if options.notify_url and not options.notify_url.startswith(("http://", "https://")):
        raise UsageError("--notify_url must begin with http:// or https://")
    for name in ("alarm_images_per_s", "alarm_drift"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise UsageError(f"--{name}={value:g} must be above 0")
    for name in (
        "alarm_reject_fraction",
        "alarm_needs_review_fraction",
        "max_reject_fraction",
        "max_cer",
        "max_cer_regression",
        "min_confidence",
        "reread_below",
    ):
        value = getattr(options, name)
        if value is not None and not 0 <= value <= 1:
            raise UsageError(f"--{name}={value:g} must be from 0 to 1")
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
    if options.charset and not storage.is_remote(options.charset) and not os.path.isfile(options.charset):
        raise UsageError(f"--charset={options.charset} is not a file")


def _check_date(options: LinePipelineOptions) -> None:
    if options.date is None:
        if "compact" in options.step_names:
            raise UsageError("--steps=compact merges the runs of one day: say which, as --date=YYYY-MM-DD")
        return
    try:
        right = datetime.date.fromisoformat(options.date).isoformat() == options.date
    except ValueError:
        right = False
    if not right:
        raise UsageError(f"--date={options.date} is not a day, written YYYY-MM-DD")
    if "compact" not in options.step_names:
        raise UsageError(f"--date={options.date} is for the compact step, which --steps={options.steps} leaves out")


def _check_labels(options: LinePipelineOptions) -> None:
    """What can be said of the flags for labels before any file is opened."""
    source = options.label_source
    try:
        rules = options.label_rules
    except DataError as error:
        raise UsageError(str(error)) from None
    for table in rules.tables:
        if not table.lower().endswith(TABLE_SUFFIXES):
            near = difflib.get_close_matches(source, LABEL_SOURCES, 1)
            raise UsageError(
                f"--label_source={source} is none of {', '.join(LABEL_SOURCES)}, "
                f"and no {', '.join(TABLE_SUFFIXES)} file" + (f": did you mean {near[0]}?" if near else "")
            )
        if not storage.is_remote(table) and not os.path.isfile(table):
            raise UsageError(f"--label_source={source}: there is no file {table}")
    if source in ("filename", "sidecar"):
        named_in_tables = any(
            pattern.strip().lower().endswith(TABLE_SUFFIXES) for pattern in (options.infer_images or "").split(",")
        )
        path_column = None if named_in_tables else options.path_column
        for flag, value in (("path_column", path_column), ("text_column", options.text_column)):
            if value is not None:
                raise UsageError(f"--{flag}={value} is for label tables, but --label_source={source}")
        if rules.columns.group is not None:
            raise UsageError(
                f"--split_by={options.split_by} is a column of a label table, but --label_source={source}: "
                "use image or folder, or a table as --label_source"
            )
    if source not in ("auto", "filename") and options.label_pattern != "{label}":
        raise UsageError(f"--label_pattern={options.label_pattern} is for file names, but --label_source={source}")
