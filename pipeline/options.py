"""The options of a command: the values of its flags, and what follows from them."""

from __future__ import annotations

import argparse
import os

from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, StandardOptions

from components.ctc.decoders import Decoding
from components.listing import LABEL_SOURCES, LabelRules, PageRules, TableColumns, find_tables
from components.recogniser.manifest import RENAMED_NETWORKS
from pipeline.flag_types import UsageError as UsageError
from pipeline.flags import FLAG_SECTIONS
from pipeline.step_names import DEFAULT_STEPS as DEFAULT_STEPS
from pipeline.step_names import STEPS, split_steps
from tfrecords import ImageLimits, SplitFractions, storage


class LinePipelineOptions(PipelineOptions):
    """The flags of this project; Beam's own pass through beside them."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        for section in FLAG_SECTIONS:
            for flag in section.flags:
                flag.add_to(parser)

    @property
    def runner_kind(self) -> str:
        """The runner's name in lower case, such as `directrunner`, for any name that Beam accepts."""
        return normalise_runner(self.view_as(StandardOptions).runner)

    @property
    def template(self) -> str | None:
        """The file that a Dataflow template is written to, or None; the command does not wait for a template's job."""
        return self.view_as(GoogleCloudOptions).template_location

    @property
    def network(self) -> str | None:
        """The network that `--model` names, by its present name; None if the step chooses it."""
        return None if self.model == "auto" else RENAMED_NETWORKS.get(self.model, self.model)

    @property
    def step_names(self) -> tuple[str, ...]:
        """The steps to run, in their order."""
        asked = split_steps(self.steps)
        return tuple(step for step in STEPS if step in asked)

    @property
    def image_limits(self) -> ImageLimits:
        """The limits past which an image is rejected."""
        return ImageLimits(
            self.max_pixels,
            self.max_bytes,
            self.max_line_width,
            max_decode_seconds=self.max_decode_seconds,
            max_decode_memory=self.max_decode_memory,
        )

    @property
    def decoding(self) -> Decoding:
        """The way from logits to text in the evaluate and infer steps."""
        return Decoding(self.decoder, self.beam_width, self.lexicon and make_absolute(self.lexicon))

    @property
    def label_rules(self) -> LabelRules:
        """The rules that say where labels are."""
        tables = () if self.label_source in LABEL_SOURCES else tuple(find_tables(self.label_source))
        named = ("auto", "image", "folder", "given", *(["page"] if self.pages else []))
        column = None if self.split_by in named else self.split_by
        return LabelRules(
            source="pages" if self.pages else "table" if tables else self.label_source,
            pattern=self.label_pattern,
            tables=tables,
            columns=TableColumns(self.path_column, self.text_column, column),
            split_by=self.split_by,
            max_label_length=self.max_label_length,
            keep_empty=self.empty_labels == "keep",
        )

    @property
    def page_rules(self) -> PageRules | None:
        """The rules for images that are pages; None if they are lines."""
        types = tuple(name.strip() for name in (self.line_types or "").split(",") if name.strip())
        return PageRules(types) if self.pages else None

    @property
    def split_fractions(self) -> SplitFractions:
        """The shares of images for validation and test."""
        return SplitFractions(self.validation_fraction, self.test_fraction)


def normalise_runner(name: str | None) -> str:
    """Returns a runner's name in lower case, without its module and ending in `runner`."""
    short = (name or "DirectRunner").rpartition(".")[2].lower()
    return short if short.endswith("runner") else f"{short}runner"


def make_absolute(path: str) -> str:
    """Returns the absolute path of a local file, and a URL as it is."""
    return path.strip() if storage.is_remote(path) else os.path.abspath(os.path.expanduser(path.strip()))
