"""What a command would do: looked up and listed, with nothing changed."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from apache_beam.options.pipeline_options import GoogleCloudOptions, StandardOptions

from components.ingest.sample import LABELLED
from components.listing import choose_labels, find_roots
from components.predictions.runs import CommittedRun, find_runs, set_aside_damaged
from components.training.progress import format_duration
from pipeline.engines.jobs import describe_runner
from pipeline.options import LinePipelineOptions
from pipeline.steps.collection import select_collection
from pipeline.steps.corrections import find_image_tables, find_old_dataset
from pipeline.steps.infer import describe_recognition
from pipeline.steps.listing import choose_images, find_sample, list_collection
from pipeline.steps.step import Context
from pipeline.steps.train import plan_training
from pipeline.workspace import Workspace, read_latest_dataset, read_model
from tfrecords import DataError, SplitFractions, storage

_RECORDS_READ = 50


def print_plan(options: LinePipelineOptions, workspace: Workspace, say: Callable[[str], None]) -> None:
    """Says for each step what it would read, with what, where it would write, and how long that might take.

    Images are listed on this machine, whatever the runner, into a temporary folder.

    Raises:
        DataError: for what the command would refuse, as far as it can be seen without doing it.
    """
    here = copy.deepcopy(options)
    here.view_as(StandardOptions).runner = "DirectRunner"
    here.view_as(GoogleCloudOptions).template_location = None
    say(f"plan: workspace {workspace.root}, runner {describe_runner(options)}; nothing is changed")
    with tempfile.TemporaryDirectory(prefix="plan-") as folder:
        planned = _Plan(Context(here, workspace, lambda _: None), Workspace(folder), _read_records(workspace))
        for number, name in enumerate(options.step_names, 1):
            say(f"[{number}/{len(options.step_names)}] {name}")
            for line in getattr(planned, name, planned.other)():
                say(f"  {line}")


@dataclasses.dataclass
class _Plan:
    """The lines of each step.

    Attributes:
        context: of the command, on this machine.
        scratch: takes the place of the workspace for what is written.
        records: of earlier runs of the command, the newest first.
    """

    context: Context
    scratch: Workspace
    records: list[dict[str, Any]]
    ingested: int | None = None  # images that the ingest step, if there is one, would read

    def ingest(self) -> Iterator[str]:
        options, workspace = self.context.options, self.context.workspace
        tables = options.label_rules.tables
        if not options.images and not tables and not storage.exists(storage.join(workspace.sample, "finished")):
            self.ingested = LABELLED
            yield f"render the sample collection in {workspace.sample}, {LABELLED:,} labelled images, and read it"
        else:
            old = find_old_dataset(options, workspace, self.context.say)
            named = find_image_tables(options, self.context.say)
            roots = [] if named.paths else find_roots(choose_images(self.context), flag="--images")
            listed = list_collection(
                self.context, roots, None, SplitFractions(), flag="--images", tables=named, place=self.scratch
            )
            with listed as (listing, _):
                self.ingested = listing.images
            where = f"below {', '.join(roots)}" if roots else f"that {' and '.join(named.paths)} names"
            yield f"read {self.ingested:,} images {where}"
            if old:
                yield f"add them to the {old.examples:,} examples of dataset {old.dataset_id}"
            if why := choose_labels(options.label_rules, roots)[1]:
                yield why
        yield f"write a dataset of lines {options.height} pixels high to {workspace.dataset('ID')}"
        yield self._time("ingest", "matched", self.ingested)

    def train(self) -> Iterator[str]:
        options, workspace = self.context.options, self.context.workspace
        if "ingest" in options.step_names:
            yield "on the dataset that the ingest step makes"
            yield f"write a model to {workspace.model('ID')}"
            return
        latest, _, dataset = read_latest_dataset(workspace)
        plan = plan_training(options, workspace, latest, dataset)
        named = ", ".join(f"{name} {value}" for name, value in plan.request.items() if value is not None)
        images, validation = dataset.examples("train"), dataset.examples("validation")
        yield f"on dataset {latest}, {images:,} images, and {validation:,} to validate"
        yield named
        if storage.exists(storage.join(workspace.model(plan.model_id), "manifest.json")):
            yield f"nothing to train: {workspace.model(plan.model_id)} is the very same model"
            return
        yield f"write {workspace.model(plan.model_id)}"
        epochs = plan.request["epochs"]
        yield self._time("train", "image_epochs", images * epochs)

    def evaluate(self) -> Iterator[str]:
        options, workspace = self.context.options, self.context.workspace
        if {"ingest", "train"} & set(options.step_names):
            yield "the new model on the test split"
        else:
            model = workspace.read_pointer("models", "LATEST")
            if model is None:
                raise DataError(f"no model is committed in {workspace.root}: run the train step first (--steps=train)")
            dataset_id, _, dataset = read_latest_dataset(workspace)
            images = dataset.examples("test")
            yield f"model {model} on {images:,} held-out images of dataset {dataset_id}"
            yield self._time("evaluate", "images", images)
        accepted = workspace.read_pointer("models", "ACCEPTED")
        yield f"accepted until now: {accepted or 'no model'}"

    def infer(self) -> Iterator[str]:
        options, workspace = self.context.options, self.context.workspace
        accepted = workspace.read_pointer("models", "ACCEPTED")
        if accepted is None and "evaluate" not in options.step_names:
            raise DataError(f"no model in {workspace.root} has been accepted: run the train and evaluate steps first")
        if "evaluate" in options.step_names:
            yield f"with the new model, or, if it is refused, with {accepted or 'none'}"
        else:
            yield f"with model {accepted}, decoder {options.decoder}, engine {options.engine}"
        if not options.infer_images and not storage.exists(workspace.sample):
            yield "the sample's unlabelled images, once it is rendered"
            return
        images = options.infer_images or find_sample(workspace)
        if accepted is None:
            yield f"read what is in {images}"
            return
        model = read_model(workspace, accepted)
        reading = describe_recognition(options, model, options.decoding.pin_lexicon())
        runs = list(self._sound_runs())
        with select_collection(self.context, images, runs, reading, self.scratch) as collection:
            yield (
                f"{collection.images + collection.skipped:,} images matched by {images}: {collection.skipped:,} were "
                f"read before, {collection.images:,} are to be read"
            )
            if collection.reread or collection.retried:
                yield (
                    f"of these, {collection.reread:,} again with this model, and {collection.retried:,} that could not "
                    "be read before"
                )
            if collection.found is not None:
                yield f"nothing to read: {collection.found.folder} is the very same"
            elif collection.images:
                yield f"write a run to {workspace.all_predictions}, what is rejected to {workspace.root}/rejects"
                yield self._time("infer", "looked_at", collection.images)

    def review(self) -> Iterator[str]:
        options, workspace = self.context.options, self.context.workspace
        runs = find_runs(workspace.all_predictions)
        rows = sum(run.manifest["rows"] for run in runs)
        yield f"give out the {options.review_count:,} least confident of {rows:,} readings in {workspace.root}/review"

    def compact(self) -> Iterator[str]:
        date = self.context.options.date
        runs = find_runs(self.context.workspace.all_predictions, date)
        rows = sum(run.manifest["rows"] for run in runs)
        yield f"{len(runs):,} runs of {date}, {rows:,} rows in {sum(len(run.files) for run in runs):,} files"

    def _sound_runs(self) -> Iterator[CommittedRun]:
        """The committed runs as the infer step would mend them."""
        for run in find_runs(self.context.workspace.all_predictions):
            mended, _ = set_aside_damaged(run, change=False)
            if mended is not None:
                yield mended

    def other(self) -> Iterator[str]:
        yield f"in {self.context.workspace.root}"

    def _time(self, step: str, amount: str, of: int) -> str:
        """How long a step might take, by the largest of the earlier ones."""
        done = [
            (found["figures"][amount], found["seconds"])
            for record in self.records
            for found in record["steps"]
            if found["name"] == step and not found["reused"] and found["figures"].get(amount)
        ]
        if not done:
            return "time: not known, since no earlier run is recorded"
        most, seconds = max(done)
        about, took = format_duration(of * seconds / most), format_duration(seconds)
        return f"time: about {about}, as an earlier run took {took} for {most:,}"


def _read_records(workspace: Workspace) -> list[dict[str, Any]]:
    folder = storage.join(workspace.root, "runs")
    names = [name for name in storage.list_names(folder) if name.endswith(".json")]
    records = []
    for name in names[: -_RECORDS_READ - 1 : -1]:
        with contextlib.suppress(FileNotFoundError, DataError):  # damaged, or pruned meanwhile
            records.append(storage.read_json(storage.join(folder, name)))
    return records
