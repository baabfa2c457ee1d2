"""Every flag of the command, checked once, before anything starts."""

from __future__ import annotations

import argparse
import os

from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, StandardOptions

from components.ctc.decoders import DECODERS, Decoding
from components.listing import LABEL_SOURCES, LabelRules, TableColumns
from components.recogniser.engines import ENGINES
from components.recogniser.manifest import RENAMED_NETWORKS
from components.training.recipes import RECIPES
from tfrecords import DataError, ImageLimits, SplitFractions, storage

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
            choices=(*RECIPES, *RENAMED_NETWORKS),
            metavar="NETWORK",
            help="ctc_conv and ctc_conv_large read lines of any width; crnn_v1 and ocr_model_v1 are references of "
            "fixed width; crnn and crnn_large are older names of the first two (default: ctc_conv, or the one of "
            "--init_from)",
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
    def network(self) -> str | None:
        """The network that `--model` names, by its present name, or None."""
        return RENAMED_NETWORKS.get(self.model, self.model)

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


def normalise_runner(name: str | None) -> str:
    """A runner's name in lower case, without module, and ending in `runner`, as Beam understands short names."""
    short = (name or "DirectRunner").rpartition(".")[2].lower()
    return short if short.endswith("runner") else f"{short}runner"


def make_absolute(path: str) -> str:
    return path.strip() if storage.is_remote(path) else os.path.abspath(os.path.expanduser(path.strip()))
