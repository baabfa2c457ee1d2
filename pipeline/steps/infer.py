"""The infer step: the accepted model turns new images into committed predictions."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam

from components.ctc.decoders import Decoding
from components.inference.request import STARTED_NAME, SUMMARIES_NAME, UNCHANGED_NAME, InferenceRequest, describe_limits
from components.inference.shards import prepare_recognition
from components.ingest.sample import is_sample_rendered
from components.predictions.manifest import RUN_VERSION, RunManifest
from components.predictions.runs import CommittedRun
from components.recogniser.manifest import ModelManifest
from pipeline.engines.jobs import choose_processes, run_job
from pipeline.engines.progress import watch_shards
from pipeline.options import LinePipelineOptions
from pipeline.steps.collection import DATASET_PREFIX, SelectedCollection, select_collection
from pipeline.steps.doubt import Doubt, find_doubt, read_error_factor
from pipeline.steps.estimate import estimate_time
from pipeline.steps.infer_result import summarise_nothing_new, summarise_run
from pipeline.steps.listing import find_sample
from pipeline.steps.sound_runs import find_sound_runs
from pipeline.steps.step import (
    Context,
    Outcome,
    Plan,
    StepResult,
    get_now,
    plan_refusal,
    raise_if_refused,
    require_few_rejects,
)
from pipeline.workspace import ACCEPTED, LATEST, Unfinished, Workspace, make_id, read_model
from tfrecords import Charset, DataError, storage

log = logging.getLogger(__name__)

TEMPLATE = "template"
"""Name of the place of a job that is handed over and not waited for."""


@dataclasses.dataclass(frozen=True)
class _Resolved:
    """The images to recognise, and the model and decoding for them.

    Attributes:
        images: their place, as in `--infer_images`.
        model_id: of the accepted model.
        model: its manifest.
        decoding: how its logits become text.
        doubt: which readings a person has to look at.
        runs: the sound committed runs, the oldest first.
        collection: the images that none of them has read.
        asked: digest of the request, whatever images there are.
        unfinished: the folder of work in progress.
    """

    images: str
    model_id: str
    model: ModelManifest
    decoding: Decoding
    doubt: Doubt
    runs: list[CommittedRun]
    collection: SelectedCollection
    asked: str
    unfinished: str

    @property
    def reads(self) -> bool:
        """True if there are images to recognise."""
        return self.collection.same_run is None and self.collection.images > 0

    @functools.cached_property
    def finished_shards(self) -> int:
        """Number of shards that an earlier command finished."""
        return len(storage.list_names(storage.join(self.unfinished, SUMMARIES_NAME)))

    @property
    def outcome(self) -> Outcome:
        """The outcome for the run."""
        if self.collection.same_run is not None:
            return Outcome.REUSED
        if not self.reads:
            return Outcome.NOTHING
        return Outcome.RESUMED if self.finished_shards else Outcome.MADE


class InferStep:
    """Recognises the images that no committed run has read."""

    name = "infer"
    place = "predictions"

    def run(self, context: Context) -> StepResult:
        """Commits a run of predictions, if there are new images."""
        options, workspace = context.options, context.workspace
        with _resolve(context) as resolved:
            outcome, collection = resolved.outcome, resolved.collection
            if options.template:
                return _hand_over(context, resolved, options.template)
            if not resolved.reads:
                _discard_run(workspace, resolved.unfinished)
            else:
                request = _start(context, resolved)
                log.info(f"recognising {collection.images:,} images with model {request.model_id}")
                summaries = storage.join(request.folder, SUMMARIES_NAME)
                with watch_shards(summaries, request.shards, request.images):
                    _run_job(options, collection, request)
                raise_if_refused(request.folder, request.rejects_folder)
                unchanged = storage.join(request.folder, UNCHANGED_NAME)
                if storage.exists(unchanged):
                    rejects = storage.read_json(unchanged)["rejects"]
                    _discard_run(workspace, request.folder)
                    return summarise_nothing_new(context, collection, rejects, resolved.doubt, resolved.runs)
        if outcome is Outcome.NOTHING:
            return summarise_nothing_new(context, collection, {}, resolved.doubt, resolved.runs)
        if collection.same_run is not None:
            counts, folder = collection.same_run.manifest.counts, collection.same_run.folder
            require_few_rejects(options, counts.rejects, counts.matched, collection.same_run.rejects_folder)
            manifest = collection.same_run.manifest
            return summarise_run(context, collection, resolved.doubt, resolved.runs, folder, manifest)
        manifest = RunManifest.read(request.destination)
        return summarise_run(context, collection, resolved.doubt, resolved.runs, request.destination, manifest, outcome)

    def plan(self, context: Context) -> Plan:
        """Lists the images on this machine, and says how many of them would be recognised."""
        options, workspace = context.options, context.workspace
        accepted = workspace.read_pointer("models", ACCEPTED)
        new_model = workspace.expects("models", ACCEPTED)
        if accepted is None and not new_model:
            raise _no_model(workspace)
        if new_model:
            lines = [f"with the new model, or, if it is refused, with {f'model {accepted}' if accepted else 'none'}"]
        else:
            has_language_model = accepted is not None and read_model(workspace, accepted).language_model is not None
            decoder = options.decoding.choose_for(has_language_model).decoder
            lines = [f"with model {accepted}, decoder {decoder}, engine {options.engine}"]
        if not options.infer_images and not is_sample_rendered(workspace.sample):
            workspace.expect("predictions", LATEST, None)
            return Plan(None, [*lines, "the sample's unlabelled images, once it is rendered"])
        of_new_dataset = (options.infer_images or "").startswith(DATASET_PREFIX) and workspace.expects(
            "datasets", LATEST
        )
        if new_model and (accepted is None or of_new_dataset):
            workspace.expect("predictions", LATEST, None)
            return Plan(None, [*lines, f"read what is in {options.infer_images or find_sample(workspace)}"])
        with _resolve(context) as resolved:
            counts = resolved.collection.counts
            lines.append(
                f"{counts.matched:,} images matched by {resolved.images}: {counts.skipped:,} were read before, "
                f"{counts.to_read:,} are to be read"
            )
            if counts.reread or counts.retried:
                lines.append(
                    f"of these, {counts.reread:,} again with this model, and {counts.retried:,} that could not be read "
                    "before"
                )
            if resolved.collection.same_run is not None:
                lines.append(f"nothing to read: {resolved.collection.same_run.folder} is the very same")
            elif not resolved.reads:
                lines.append("nothing new")
            else:
                workspace.expect("predictions", LATEST, None)
                lines += plan_refusal(options, resolved.unfinished, counts.matched)
                if finished := resolved.finished_shards:
                    lines.append(f"resume: {finished:,} of {resolved.collection.shards:,} shards are finished")
                lines.append(f"write a run to {workspace.all_predictions}")
                lines.append(f"and what is rejected to {workspace.root}/rejects")
                lines.append(estimate_time(workspace, self.name, "looked_at", counts.to_read))
            return Plan(None if new_model else resolved.outcome, lines)

    def count_images(self, figures: Mapping[str, Any]) -> int:
        """Counts the images that were not skipped."""
        return figures.get("matched", 0) - figures.get("skipped", 0)


@contextlib.contextmanager
def _resolve(context: Context) -> Iterator[_Resolved]:
    """Finds the accepted model and the images that no run has read; their listing lasts as long as the block.

    Raises:
        DataError: if no model is accepted, it or the lexicon cannot be used, or there are no images.
    """
    options, workspace = context.options, context.workspace
    model_id = workspace.read_pointer("models", ACCEPTED)
    if model_id is None:
        raise _no_model(workspace)
    model = read_model(workspace, model_id)
    if not workspace.expects("models", ACCEPTED) and (latest := workspace.read_pointer("models", LATEST)) != model_id:
        log.warning(
            f"the latest model, {latest}, is not accepted: recognising with model {model_id}, accepted before and "
            f"trained on dataset {model.dataset_id}"
        )
    _describe_lexicon(options, model.read_charset(workspace.model(model_id)))
    images = options.infer_images or find_sample(workspace)
    decoding = options.decoding.choose_for(model.language_model is not None).pin_lexicon()
    # What decides which of the committed runs have read an image as this command would.
    reading = {
        "model_id": model.model_id,
        "limits": describe_limits(options.image_limits, model.height, model.vertical),
        "decoding": decoding.identity,
    }
    doubt = find_doubt(options, workspace, model_id, decoding.identity)
    runs = find_sound_runs(context)
    asked = make_id(
        version=RUN_VERSION,
        images=images,
        columns=options.path_column,
        min_confidence=doubt.least_confidence,
        reread=options.reread,
        **({} if options.target_error is None else {"target_error": options.target_error}),
        **reading,
    )
    with select_collection(context, images, runs, reading) as collection:
        yield _Resolved(
            *(images, model_id, model, decoding, doubt, runs, collection, asked),
            workspace.unfinished(Unfinished.RUN, asked),
        )


def _no_model(workspace: Workspace) -> DataError:
    """Makes the error of a workspace without an accepted model."""
    return DataError(
        f"no model in {workspace.root} has been accepted: run the train and evaluate steps first "
        "(--steps=train,evaluate)"
    )


def _start(context: Context, resolved: _Resolved) -> InferenceRequest:
    """Makes the job's request: the run begins, or an earlier attempt at it is resumed."""
    options, workspace = context.options, context.workspace
    collection, model = resolved.collection, resolved.model
    earlier = [run.run_id for run in resolved.runs]
    digest = make_id(asked=resolved.asked, inputs=collection.digest, earlier=earlier)
    run_id, date, scored_at = _start_run(resolved.unfinished, digest)
    return InferenceRequest(
        run_id=run_id,
        folder=resolved.unfinished,
        destination=workspace.predictions(date, run_id),
        rejects_folder=workspace.unfinished(Unfinished.REJECTS, run_id),
        rejects_destination=workspace.rejects(date, run_id),
        counts=collection.counts,
        inputs=collection.digest,
        shards=collection.shards,
        model_folder=workspace.model(resolved.model_id),
        model_id=resolved.model_id,
        height=model.height,
        vertical=model.vertical,
        limits=options.image_limits,
        max_reject_fraction=options.max_reject_fraction,
        scored_at=scored_at,
        processes=choose_processes(options, collection.images),
        engine=options.engine,
        min_confidence=resolved.doubt.least_confidence,
        target_error=options.target_error,
        error_factor=read_error_factor(workspace, resolved.model_id, resolved.decoding.identity),
        decoding=resolved.decoding,
    )


def _hand_over(context: Context, resolved: _Resolved, place: str) -> StepResult:
    """Hands over the job of a template, which commits the run, or refuses it, by itself.

    Args:
        place: of the template.
    """
    options, workspace = context.options, context.workspace
    collection = resolved.collection
    run_id, destination, request = "none", workspace.all_predictions, None
    if collection.same_run is not None:
        run_id, destination = collection.same_run.run_id, collection.same_run.folder
    elif resolved.reads:
        request = _start(context, resolved)
        run_id, destination = request.run_id, request.destination
        log.info(f"recognising {collection.images:,} images with model {request.model_id}")
    _run_job(options, collection, request)
    summary = (
        f"the job that reads {collection.images:,} images as run {run_id} is in {place}; it commits the run to "
        f"{destination}"
    )
    return StepResult(summary, place, {"run_id": run_id, "images": collection.images}, resolved.outcome, place=TEMPLATE)


def _start_run(folder: str, digest: str) -> tuple[str, str, datetime.datetime]:
    """Returns a run's ID, day and time: those of its first attempt, so that all attempts write the very same rows.

    A worker that was thought lost may still be writing during the next attempt. The ID and the day stay even if images
    come or go meanwhile, so that a run is committed once; the time stays for a day.
    """
    path = storage.join(folder, STARTED_NAME)
    now = get_now()
    # The letter keeps an ID of digits alone from being taken for a number in the path's partition.
    first = {"run_id": f"r{digest}", "date": now.date().isoformat(), "started_at": now.isoformat()}
    with contextlib.suppress(FileNotFoundError):
        first = storage.read_json(path)
    started = datetime.datetime.fromisoformat(first["started_at"])
    if started == now or now - started >= datetime.timedelta(days=1):
        started = now
        storage.write_json(path, {**first, "started_at": now.isoformat()})
    return first["run_id"], first["date"], started


def _discard_run(workspace: Workspace, folder: str) -> None:
    """Removes the unfinished work of a run whose images are gone, or were read meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        run_id = storage.read_json(storage.join(folder, STARTED_NAME))["run_id"]
        storage.remove_folder(workspace.unfinished(Unfinished.REJECTS, run_id))
    storage.remove_folder(folder)


def _run_job(options: LinePipelineOptions, collection: SelectedCollection, request: InferenceRequest | None) -> None:
    """Runs the job that recognises a collection, or, without a request, one that does nothing."""
    if request is None:
        build, prepare = _build_nothing, None
    else:
        build = functools.partial(collection.build, request)
        prepare = functools.partial(prepare_recognition, request)
    run_job(options, build, prepare=prepare)


def _build_nothing(pipeline: beam.Pipeline) -> object:
    """Builds the job of a template when everything was read: whoever launches one expects a job."""
    return pipeline | "Nothing" >> beam.Create([None])


def _describe_lexicon(options: LinePipelineOptions, charset: Charset) -> None:
    """Says how many words of the lexicon can be recognised."""
    decoding = options.decoding
    if not decoding.lexicon:
        return
    lexicon = decoding.read_lexicon(charset)
    log.info(f"{len(lexicon.words):,} words in {decoding.lexicon}")
    if lexicon.unreadable:
        unknown = sorted(set("".join(lexicon.unreadable)) - set(charset.symbols))
        log.warning(
            f"{len(lexicon.unreadable):,} more words of it can never be read, such as "
            f"{lexicon.unreadable[0]!r}: the model was trained without {' '.join(unknown[:20])}"
        )
