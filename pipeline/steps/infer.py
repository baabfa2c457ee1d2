"""The infer step: new images to committed predictions, by the accepted model."""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
from collections.abc import Callable
from typing import Any

import apache_beam as beam

from components.ctc.decoders import Decoding
from components.inference.request import STARTED_NAME, SUMMARIES_NAME, UNCHANGED_NAME, InferenceRequest, describe_limits
from components.inference.shards import prepare_recognition
from components.ingest.sample import read_truth
from components.predictions.runs import RUN_MANIFEST_NAME, read_predictions
from components.recogniser.manifest import ModelManifest
from pipeline.engines.jobs import choose_processes, run_job
from pipeline.engines.progress import watch_shards
from pipeline.options import LinePipelineOptions
from pipeline.steps.alarms import check_alarms
from pipeline.steps.collection import SelectedCollection, select_collection
from pipeline.steps.listing import find_sample
from pipeline.steps.runs import find_sound_runs
from pipeline.steps.step import (
    CODE_VERSION,
    Context,
    StepResult,
    format_rejects,
    get_now,
    raise_if_refused,
    require_few_rejects,
)
from pipeline.workspace import ACCEPTED, LATEST, Workspace, make_id, read_model
from tfrecords import Charset, DataError, storage

TEMPLATE = "template"
"""The name of the result of an infer step whose job is handed over and not waited for."""


def infer(context: Context) -> StepResult:
    """New images to committed predictions, by the accepted model.

    Raises:
        DataError: if no model is accepted, there are no images, or too many are rejected.
    """
    options, workspace = context.options, context.workspace
    model_id = workspace.read_pointer("models", ACCEPTED)
    if model_id is None:
        raise DataError(
            f"no model in {workspace.root} has been accepted: run the train and evaluate steps first "
            "(--steps=train,evaluate)"
        )
    model = read_model(workspace, model_id)
    if (latest := workspace.read_pointer("models", LATEST)) != model_id:
        context.say(
            f"warning: the latest model, {latest}, is not accepted: reading with model {model_id}, "
            f"accepted before and trained on dataset {model.dataset_id}"
        )
    _describe_lexicon(context, model.read_charset(workspace.model(model_id)))
    images = options.infer_images or find_sample(workspace)
    decoding = options.decoding.pinned()
    reading = describe_recognition(options, model, decoding)
    runs = find_sound_runs(workspace, context.say)
    with select_collection(context, images, runs, reading, workspace) as collection:
        asked = make_id(
            version=CODE_VERSION,
            images=images,
            columns=options.path_column,
            min_confidence=options.min_confidence,
            reread=options.reread,
            **reading,
        )
        unfinished = workspace.unfinished(f"run-{asked}")
        found = collection.found
        reads = found is None and collection.images > 0
        build: Callable[[beam.Pipeline], object] = _build_nothing
        watched: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
        if found is not None:
            destination, run_id = found.folder, found.run_id
        elif not reads:
            destination, run_id = workspace.all_predictions, "none"
        else:
            earlier = [run.run_id for run in runs]
            run_id, date, scored_at = _start_run(
                unfinished, make_id(asked=asked, inputs=collection.digest, earlier=earlier)
            )
            rejects_folder = workspace.unfinished(f"rejects-{run_id}")
            destination = workspace.predictions(date, run_id)
            request = InferenceRequest(
                run_id=run_id,
                folder=unfinished,
                destination=destination,
                rejects_folder=rejects_folder,
                rejects_destination=workspace.rejects(date, run_id),
                images=collection.images,
                inputs=collection.digest,
                repeats=collection.repeats,
                skipped=collection.skipped,
                reread=collection.reread,
                retried=collection.retried,
                shards=collection.shards,
                model_folder=workspace.model(model_id),
                model_id=model_id,
                height=model.height,
                limits=options.image_limits,
                max_reject_fraction=options.max_reject_fraction,
                scored_at=scored_at,
                processes=choose_processes(options, collection.images),
                engine=options.engine,
                min_confidence=options.min_confidence,
                decoding=decoding,
            )
            context.say(f"reading {collection.images:,} images with model {model_id}")
            build = functools.partial(collection.build, request)
            if not options.template:
                summaries = storage.join(unfinished, SUMMARIES_NAME)
                watched = watch_shards(summaries, request.shards, request.images, context.say, context.show)
        if reads or options.template:
            with watched:
                run_job(options, build, say=context.say, prepare=functools.partial(prepare_recognition, request))
        if options.template:
            return _summarise_template(options.template, run_id, collection.images, destination)
        if reads:
            raise_if_refused(unfinished, rejects_folder)
        unchanged = storage.join(unfinished, UNCHANGED_NAME)
        rejects = storage.read_json(unchanged)["rejects"] if reads and storage.exists(unchanged) else {}
        if not reads or rejects:
            _discard_run(workspace, unfinished)
    if found is None and (rejects or not reads):
        return _summarise_nothing_new(options, collection, rejects, workspace.all_predictions)
    manifest = found.manifest if found else storage.read_json(storage.join(destination, RUN_MANIFEST_NAME))
    if found is not None:
        require_few_rejects(options, manifest["rejects"], manifest["matched"], found.rejects_folder)
    summary = f"run {run_id}: {manifest['matched']:,} images matched, "
    if manifest["skipped"]:
        summary += f"{manifest['skipped']:,} skipped as read before, "
    summary += f"{manifest['rows']:,} read with mean confidence {manifest['mean_confidence']:.3f}, "
    summary += format_rejects(manifest["rejects"])
    if manifest["reread"]:
        summary += f"; {manifest['reread']:,} were read again, since another model had read them with less confidence"
    if manifest["retried"]:
        summary += f"; {manifest['retried']:,} were tried again, since they could not be read before"
    if found is not None:
        summary += "; it was there already, read from the very same images by the same model"
    else:
        summary += f"; engine: {', '.join(manifest['figures']['engines'])}"
    if manifest["needs_review"]:
        summary += f"; {manifest['needs_review']:,} below --min_confidence={options.min_confidence:g} need a review"
    figures = {name: value for name, value in manifest.items() if name not in ("files", "limits", "scored_at")}
    figures["looked_at"] = manifest["rows"] + sum(manifest["rejects"].values())
    figures |= {"listing_s": round(collection.listing_s, 3), "unread_s": round(collection.unread_s, 3)}
    if not options.infer_images:
        figures["right"] = _count_right(workspace, destination, manifest)
    alarms = check_alarms(options, figures, runs)
    return StepResult("infer", summary, destination, figures, reused=found is not None, alarms=alarms)


def describe_recognition(options: LinePipelineOptions, model: ModelManifest, decoding: Decoding) -> dict[str, Any]:
    """What decides which of the committed runs have read an image as this command would, as manifests have it."""
    return {
        "model_id": model.model_id,
        "limits": describe_limits(options.image_limits, model.height),
        "decoding": decoding.identity,
    }


def _summarise_nothing_new(
    options: LinePipelineOptions, collection: SelectedCollection, rejects: dict[str, int], folder: str
) -> StepResult:
    """What the infer step says when every image was read before, but for those that still cannot be."""
    matched = collection.skipped + collection.images
    summary = f"nothing new: {matched:,} images matched, all of which were read before"
    if rejects:
        summary += f", but for those that still cannot be: {format_rejects(rejects)}"
    figures = {
        **dict.fromkeys(("rows", "reread", "needs_review"), 0),
        "matched": matched,
        "looked_at": collection.images,
        "retried": collection.retried,
        "skipped": collection.skipped,
        "repeats": collection.repeats,
        "rejects": rejects,
        "listing_s": round(collection.listing_s, 3),
        "unread_s": round(collection.unread_s, 3),
    }
    return StepResult("infer", summary, folder, figures, reused=True, alarms=check_alarms(options, figures, []))


def _start_run(folder: str, digest: str) -> tuple[str, str, datetime.datetime]:
    """A run's ID, day and time: those of its first attempt, so that all attempts write the very same rows.

    A worker that was taken for lost may still be writing when the next attempt is. The ID and the day stay, though
    images come or go meanwhile, so that a run is committed once; the time stays for a day.
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
    """Removes what is left of a run whose images have gone, or were read meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        run_id = storage.read_json(storage.join(folder, STARTED_NAME))["run_id"]
        storage.remove_folder(workspace.unfinished(f"rejects-{run_id}"))
    storage.remove_folder(folder)


def _build_nothing(pipeline: beam.Pipeline) -> object:
    """The job of a template when everything was read: whoever launches one expects a job."""
    return pipeline | "Nothing" >> beam.Create([None])


def _summarise_template(place: str, run_id: str, images: int, destination: str) -> StepResult:
    """What became of the infer step when its job is handed over: that commits the run, or refuses it, by itself."""
    summary = f"the job that reads {images:,} images as run {run_id} is in {place}; it commits the run to {destination}"
    return StepResult(TEMPLATE, summary, place, {"run_id": run_id, "images": images})


def _describe_lexicon(context: Context, charset: Charset) -> None:
    decoding = context.options.decoding
    if not decoding.lexicon:
        return
    lexicon = decoding.read_lexicon(charset)
    context.say(f"{len(lexicon.words):,} words in {decoding.lexicon}")
    if lexicon.unreadable:
        unknown = sorted(set("".join(lexicon.unreadable)) - set(charset.symbols))
        context.say(
            f"warning: {len(lexicon.unreadable):,} more words of it can never be read, such as "
            f"{lexicon.unreadable[0]!r}: the model was trained without {' '.join(unknown[:20])}"
        )


def _count_right(workspace: Workspace, folder: str, manifest: dict[str, Any]) -> dict[str, int]:
    """How many images of the sample, whose truth is known, were read exactly."""
    truth = read_truth(workspace.sample)
    rows = read_predictions(folder, ["uri", "text"])
    right = sum(truth.get(os.path.basename(row["uri"])) == row["text"] for row in rows)
    return {"images": manifest["matched"], "exact": right}
