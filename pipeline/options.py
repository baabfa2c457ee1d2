"""Every flag of the command, checked once, before anything starts."""

from __future__ import annotations

import argparse
import datetime
import difflib
import os
from collections.abc import Sequence
from typing import Any, NoReturn

import yaml
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, StandardOptions

from components.inference.decoders import DECODERS, Decoding
from components.inference.engines import ENGINES
from components.listing import LABEL_SOURCES, TABLE_SUFFIXES, LabelRules, TableColumns
from components.training.recipes import RECIPES
from pipeline import dask_cluster
from tfrecords import DataError, ImageLimits, SplitFractions, storage

_PILLOW_LIMIT = 178_956_970
DEFAULT_STEPS = ("ingest", "train", "evaluate", "infer")
STEPS = (*DEFAULT_STEPS, "review", "compact")


class UsageError(DataError):
    """A command line that cannot be run."""


class LinePipelineOptions(PipelineOptions):
    """The flags of this project; Beam's own pass through beside them."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        images = parser.add_argument_group("what is read")
        images.add_argument(
            "--images",
            help="labelled image folders, files or globs, comma separated; "
            "without it a sample collection is rendered into the workspace",
        )
        images.add_argument(
            "--label_source",
            default="auto",
            help="where labels are: in the file name (filename), in a .gt.txt or .txt file beside each image "
            "(sidecar), or in a table, given by its path (.csv, .tsv, .jsonl; several separated by commas); "
            "auto looks, and says what it found (default: %(default)s)",
        )
        images.add_argument(
            "--label_pattern",
            default="{label}",
            help="of file names without their suffix, such as {label}_{id} (default: %(default)s)",
        )
        images.add_argument(
            "--path_column",
            help="of a label table, and of a table in --infer_images: the image's path, relative to the table; "
            "without it a usual name",
        )
        images.add_argument("--text_column", help="of a label table: the text; without it one of the usual names")
        images.add_argument(
            "--split_by",
            default="image",
            help="what stays together in training, validation or test: each image by itself (image), the images of "
            "one folder (folder), or those with the same value in the named column of the label table "
            "(default: %(default)s)",
        )
        images.add_argument(
            "--add_to",
            help="dataset whose examples the new one has too, by its ID in the workspace, or LATEST; an image that is "
            "in both gets the new label; without it the dataset that a review table names, or none",
        )
        images.add_argument(
            "--infer_images",
            help="images that the accepted model reads: folders, files, globs, or tables that name them by their "
            "paths (.csv, .tsv, .jsonl), comma separated; or a split of a dataset in the workspace, as "
            "dataset:ID:test; without it the sample's unlabelled part",
        )
        images.add_argument(
            "--charset",
            help="file of the symbols that labels may have, one a line; without it every symbol that occurs",
        )
        images.add_argument(
            "--height",
            type=int,
            default=48,
            help="pixels to which every line is scaled, its aspect kept (default: %(default)s)",
        )
        images.add_argument(
            "--validation_fraction",
            type=float,
            default=0.1,
            help="share of the images that chooses the best epoch (default: %(default)s)",
        )
        images.add_argument(
            "--test_fraction",
            type=float,
            default=0.1,
            help="share of the images that is held out for the evaluation (default: %(default)s)",
        )
        limits = ImageLimits()
        images.add_argument(
            "--max_pixels",
            type=int,
            default=limits.max_pixels,
            help="an image with more pixels is rejected before it is decoded (default: %(default)s)",
        )
        images.add_argument(
            "--max_bytes", type=int, default=limits.max_bytes, help="a larger file is rejected (default: %(default)s)"
        )
        images.add_argument(
            "--max_line_width",
            type=int,
            default=limits.max_line_width,
            help="a line that is wider after scaling, in pixels, is rejected (default: %(default)s)",
        )
        images.add_argument(
            "--max_label_length",
            type=int,
            default=500,
            help="a label with more symbols is rejected (default: %(default)s)",
        )
        images.add_argument(
            "--max_reject_fraction",
            type=float,
            default=0.05,
            help="a step that rejects a greater share of its images commits nothing (default: %(default)s)",
        )

        run = parser.add_argument_group("what is done")
        run.add_argument(
            "--steps",
            default=",".join(DEFAULT_STEPS),
            help="which steps, in this order, comma separated; review, which gives doubtful readings "
            "to a person, and compact, which merges the runs of predictions of one day, are not among the default ones "
            "(default: %(default)s)",
        )
        run.add_argument("--date", help="of the runs that the compact step merges, as YYYY-MM-DD (UTC)")
        run.add_argument(
            "--workspace",
            default="workspace",
            help="folder or gs:// URL of datasets, models, predictions and reports (default: %(default)s)",
        )
        run.add_argument(
            "--plan",
            action="store_true",
            help="say what would be done, with what, on how many images, and change nothing",
        )
        run.add_argument("--notify_url", help="where the run's record is posted as JSON when the run has ended")
        run.add_argument(
            "--retention_days",
            type=int,
            help="after a good run, rejects of the infer step and run reports that are older are removed (default: "
            "all are kept)",
        )
        run.add_argument(
            "--prediction_retention_days",
            type=int,
            help="the same for predictions; images whose predictions are gone are read again if they are still "
            "listed (default: all are kept)",
        )
        run.add_argument("--config", help="YAML file of flags by their names; the command line wins")

        training = parser.add_argument_group("training")
        training.add_argument(
            "--model",
            choices=tuple(RECIPES),
            help="the network: crnn and crnn_large read lines of any width; crnn_v1 and ocr_model_v1 are references "
            "of fixed width (default: crnn, or the one of --init_from)",
        )
        training.add_argument("--epochs", type=int, help="passes over the training images (default: by model)")
        training.add_argument(
            "--batch_size", type=int, help="images in a training step, all workers together (default: by model)"
        )
        training.add_argument("--learning_rate", type=float, help="at its peak (default: by model)")
        training.add_argument(
            "--seed", type=int, default=0, help="of weights, order and distortions (default: %(default)s)"
        )
        training.add_argument(
            "--patience",
            type=int,
            help="training ends after so many epochs without a better one (default: a third of the epochs)",
        )
        training.add_argument(
            "--init_from",
            help="model whose weights are the start, by its ID in the workspace or its folder; "
            "its charset may be another one",
        )
        training.add_argument(
            "--resume",
            choices=("auto", "never"),
            default="auto",
            help="whether a training that was stopped goes on from its last checkpoint (default: %(default)s)",
        )
        training.add_argument(
            "--train_workers", type=int, default=1, help="local training processes (default: %(default)s)"
        )
        training.add_argument(
            "--train_restarts",
            type=int,
            default=2,
            help="how often training goes on from the last checkpoint after a worker was killed (default: %(default)s)",
        )

        reading = parser.add_argument_group("reading")
        reading.add_argument(
            "--engine",
            choices=ENGINES,
            default="auto",
            help="what scores images, in the evaluation too: tensorflow, onnx, or the faster one on each machine, "
            "which is tensorflow where it sees a GPU (default: %(default)s)",
        )
        reading.add_argument(
            "--decoder",
            choices=DECODERS,
            default="greedy",
            help="how the infer step makes text of what the network says: the best symbol at each time step (greedy), "
            "the most probable text that a beam search finds, with others (beam), or the most probable word of a list "
            "(lexicon) (default: %(default)s)",
        )
        reading.add_argument(
            "--beam_width",
            type=int,
            default=10,
            help="how many beginnings of texts --decoder=beam keeps, and how many texts it gives at most "
            "(default: %(default)s)",
        )
        reading.add_argument("--lexicon", help="file of the words that --decoder=lexicon reads, one a line")
        reading.add_argument(
            "--min_confidence",
            type=float,
            default=0.0,
            help="predictions with less confidence are marked needs_review; none is left out (default: %(default)s)",
        )

        reading.add_argument(
            "--review_count",
            type=int,
            default=200,
            help="how many images the review step gives a person to correct, the least confidently read first "
            "(default: %(default)s)",
        )
        reading.add_argument(
            "--reread",
            action="store_true",
            help="read every image, also those that earlier runs have read (default: only what no run has read with "
            "the same model and decoder)",
        )
        reading.add_argument(
            "--reread_below",
            type=float,
            default=0.0,
            help="images that another model has read are read again where its confidence was below this "
            "(default: %(default)s, so that a new model reads only new images)",
        )

        alarms = parser.add_argument_group("alarms of the infer step, each of which makes the exit status 4")
        alarms.add_argument(
            "--alarm_reject_fraction", type=float, help="when a greater share of the images of the run was rejected"
        )
        alarms.add_argument(
            "--alarm_needs_review_fraction",
            type=float,
            help="when a greater share of what was read is below --min_confidence",
        )
        alarms.add_argument(
            "--alarm_images_per_s", type=float, help="when a worker read fewer images a second than this"
        )
        alarms.add_argument(
            "--alarm_drift",
            type=float,
            help="when the confidences differ from those of earlier runs of the model by a greater population "
            "stability index than this; 0.25 is usual",
        )
        alarms.add_argument(
            "--drift_nights", type=int, default=7, help="how many earlier runs these are (default: %(default)s)"
        )
        alarms.add_argument("--alarm_no_new_images", action="store_true", help="when no image was new")

        gate = parser.add_argument_group("acceptance")
        gate.add_argument(
            "--max_cer",
            type=float,
            default=0.2,
            help="a model with a greater character error rate on the test split is refused (default: %(default)s)",
        )
        gate.add_argument(
            "--max_cer_regression",
            type=float,
            default=0.005,
            help="how much worse than the accepted model's, on the same test split, the character "
            "error rate may be (default: %(default)s)",
        )

    @property
    def runner_kind(self) -> str:
        """The runner's name in lower case, such as `directrunner`, whether Beam's short or whole name was given."""
        return normalise_runner(self.view_as(StandardOptions).runner)

    @property
    def template(self) -> str | None:
        """Where the job of a Dataflow template goes, which is handed over and not waited for, if one is asked for."""
        return self.view_as(GoogleCloudOptions).template_location

    @property
    def step_names(self) -> tuple[str, ...]:
        """The steps asked for, in their order."""
        asked = {step.strip() for step in self.steps.split(",")}
        return tuple(step for step in STEPS if step in asked)

    @property
    def image_limits(self) -> ImageLimits:
        """What is refused before it is decoded."""
        return ImageLimits(self.max_pixels, self.max_bytes, self.max_line_width)

    @property
    def decoding(self) -> Decoding:
        """How the infer step makes text of logits."""
        return Decoding(self.decoder, self.beam_width, self.lexicon and make_absolute(self.lexicon))

    @property
    def label_rules(self) -> LabelRules:
        """Where labels are, as asked for."""
        whole = os.path.isfile(os.path.expanduser(self.label_source))  # a comma may be a part of a name
        named = [self.label_source] if whole else self.label_source.split(",")
        tables = () if self.label_source in LABEL_SOURCES else tuple(dict.fromkeys(map(make_absolute, named)))
        column = None if self.split_by in ("image", "folder") else self.split_by
        return LabelRules(
            source="table" if tables else self.label_source,
            pattern=self.label_pattern,
            tables=tables,
            columns=TableColumns(self.path_column, self.text_column, column),
            split_by=self.split_by,
            max_label_length=self.max_label_length,
        )

    @property
    def split_fractions(self) -> SplitFractions:
        """The shares of validation and test."""
        return SplitFractions(self.validation_fraction, self.test_fraction)


def parse_options(argv: Sequence[str]) -> LinePipelineOptions:
    """The options of a command line, and of the file that its `--config` names.

    Raises:
        UsageError: for an unknown flag, naming the nearest known one, or a value that cannot be.
    """
    found = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    found.add_argument("--config")
    found.add_argument("--runner")
    given = found.parse_known_args(list(argv))[0]
    config = _read_config(given.config) if given.config else {}
    on_dask = normalise_runner(given.runner or config.get("runner")) == "daskrunner"
    if on_dask:
        dask_cluster.register_flags()
    parser = _Parser(prog="run_pipeline.py", allow_abbrev=False, add_help=False)
    for options_class in _find_option_classes():
        options_class._add_argparse_args(parser)
    flags = {flag for action in parser._actions for flag in action.option_strings}
    argv = [*_make_flags(config, given.config, flags), *argv]
    _, unknown = parser.parse_known_args(argv)
    if unknown:
        raise UsageError(_explain_unknown_flag(unknown[0], flags))
    options = PipelineOptions(argv).view_as(LinePipelineOptions)
    check_options(options)
    if on_dask:
        dask_cluster.check_flags(options)
    return options


def normalise_runner(name: str | None) -> str:
    """A runner's name in lower case, without module, and ending in `runner`, as Beam understands short names."""
    short = (name or "DirectRunner").rpartition(".")[2].lower()
    return short if short.endswith("runner") else f"{short}runner"


def format_usage() -> str:
    """The help text: this project's flags."""
    parser = argparse.ArgumentParser(
        prog="run_pipeline.py",
        description="Train a CTC line recogniser on labelled images, and read a collection with it.",
        epilog="Beam's own flags pass through, --runner first of all: DirectRunner runs everything on this machine.",
        add_help=False,
    )
    LinePipelineOptions._add_argparse_args(parser)
    return parser.format_help()


def make_absolute(path: str) -> str:
    return path.strip() if storage.is_remote(path) else os.path.abspath(os.path.expanduser(path.strip()))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see --help")


def _find_option_classes() -> list[Any]:
    """Ours and Beam's own."""
    return [cls for cls in PipelineOptions.__subclasses__() if "_add_argparse_args" in cls.__dict__]


def _explain_unknown_flag(flag: str, flags: set[str]) -> str:
    name = flag.partition("=")[0]
    near = difflib.get_close_matches(name, flags, 1)
    if not name.startswith("--"):
        return f"{flag!r} is not a flag: flags are written --name=value; see --help"
    if name.startswith("--dask_") and not near:
        return f"{name} is a flag for --runner=DaskRunner alone"
    return f"unknown flag {name}" + (f": did you mean {near[0]}?" if near else "; see --help")


def _read_config(path: str) -> dict[str, Any]:
    try:
        content: Any = yaml.safe_load(storage.read_bytes(path).decode())
    except OSError as error:
        raise UsageError(f"--config={path} cannot be read: {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--config={path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UsageError(f"--config={path} must hold flags by name, such as 'epochs: 20'")
    return content


def _make_flags(config: dict[str, Any], path: str, flags: set[str]) -> list[str]:
    argv = []
    for name, value in config.items():
        if f"--{name}" not in flags or name == "config":
            raise UsageError(f"--config={path}: {_explain_unknown_flag(f'--{name}', flags - {'--config'})}")
        if value is None:
            raise UsageError(f"--config={path}: {name} has no value; leave it out to get the default")
        if isinstance(value, bool):
            argv += [f"--{name}"] if value else []
        elif isinstance(value, list):
            argv.append(f"--{name}={','.join(map(str, value))}")
        else:
            argv.append(f"--{name}={value}")
    return argv


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
