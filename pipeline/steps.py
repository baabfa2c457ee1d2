"""The steps. Each reads what is committed in the workspace and commits its own result."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import apache_beam as beam

from components.evaluation.evaluate import EVALUATION_FOLDER, EVALUATION_NAME, EvaluationRequest, compare_cer
from components.evaluation.transforms import EvaluateModel
from components.inference.decoders import Decoding
from components.inference.handler import LineModelHandler
from components.inference.predictions import (
    STARTED_NAME,
    SUMMARIES_NAME,
    UNCHANGED_NAME,
    InferenceRequest,
    describe_limits,
    prepare_recognition,
)
from components.inference.runs import RUN_MANIFEST_NAME, CommittedRun, read_predictions
from components.inference.transforms import RecogniseCollection, RecogniseDataset
from components.ingest import IngestRequest
from components.ingest.sample import read_truth, render_sample
from components.ingest.transforms import AddToDataset, WriteDataset
from components.listing import (
    LabelRules,
    ListingSummary,
    PathTables,
    Places,
    check_choice,
    choose_labels,
    find_roots,
    find_roots_and_tables,
    group_roots,
    location_to_uri,
)
from components.listing.transforms import JoinTables, ListCollection, ListOnce
from components.models import (
    CALIBRATION_NAME,
    KERAS_NAME,
    ONNX_NAME,
    SAVED_MODEL_NAME,
    ModelManifest,
    describe_files,
)
from components.rejects import explain_too_many_rejects
from components.training.cluster import ClusterPlace, train_in_processes
from components.training.recipes import DEFAULT_MODEL, RECIPES, TIME_STRIDE
from components.work import REFUSED_NAME, choose_shard_count
from pipeline.alarms import Alarm, check_alarms
from pipeline.compaction import compact_day
from pipeline.nightly import find_sound_runs, find_unread, set_aside_unreadable
from pipeline.options import LinePipelineOptions
from pipeline.progress import watch_shards
from pipeline.review import find_image_tables, find_old_dataset, write_review
from pipeline.runners import choose_processes, run_job
from pipeline.workspace import Workspace, make_id
from tfrecords import SPLITS, Charset, CharsetError, DataError, DatasetManifest, SplitFractions, StoreError, storage
from tfrecords.manifest import CHARSET_NAME, STATISTICS_NAME, suggest_remedy

# Raised when a step would make another result from the same input: no old one is then taken for it.
CODE_VERSION = 5
_BYTES_A_ROW = 64  # of a label table, as a guess
LATEST, ACCEPTED = "LATEST", "ACCEPTED"
_DATASET = "dataset:"
TEMPLATE = "template"
"""The name of the result of an infer step whose job is handed over and not waited for."""


@dataclasses.dataclass
class StepResult:
    """What a step did.

    Attributes:
        name: of the step.
        summary: one sentence for the log.
        folder: where the result lies.
        figures: counts and measures, for the report.
        refused: why a check failed, or None.
        reused: whether the result was there already.
        alarms: what a person should be told, and what was asked for and is well.
    """

    name: str
    summary: str
    folder: str
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)
    refused: str | None = None
    reused: bool = False
    alarms: list[Alarm] = dataclasses.field(default_factory=list)


class RefusedError(DataError):
    """A step that committed nothing, since a check of the whole of its images said no.

    Attributes:
        rejects: how many images were left out, by reason.
        folder: where they are listed.
    """

    def __init__(self, sentence: str, rejects: dict[str, int], folder: str):
        super().__init__(sentence)
        self.rejects = rejects
        self.folder = folder


@dataclasses.dataclass(frozen=True)
class Context:
    """What every step gets: options, the workspace, and where to say what happens.

    Attributes:
        say: prints a line.
        show: prints a line over the one that it printed before; None where nobody looks at a terminal.
    """

    options: LinePipelineOptions
    workspace: Workspace
    say: Callable[[str], None]
    show: Callable[[str], None] | None = None


def ingest(context: Context) -> StepResult:
    """Labelled images to a committed dataset.

    Raises:
        DataError: if there are no images, or too many of them are rejected.
    """
    options, workspace = context.options, context.workspace
    old = find_old_dataset(options, workspace, context.say)
    tables = find_image_tables(options, context.say)
    roots = [] if tables.paths else find_roots(choose_images(context), flag="--images")
    rules, why = choose_labels(options.label_rules, roots)
    if why:
        context.say(why)
    fractions = options.split_fractions
    flag = "--label_source" if tables.paths else "--images"
    with list_collection(context, roots, rules, fractions, flag=flag, tables=tables) as (listing, files):
        if options.label_source == "auto":
            check_choice(rules, listing)
        charset = _choose_charset(options, listing, old.symbols if old else ())
        dataset_id = make_id(
            version=CODE_VERSION,
            inputs=listing.digest,
            labels=dataclasses.asdict(rules),
            height=options.height,
            time_stride=TIME_STRIDE,
            charset=charset.digest,
            fractions=dataclasses.asdict(fractions),
            limits=dataclasses.asdict(options.image_limits),
            **({"add_to": old.dataset_id} if old else {}),
        )
        folder = workspace.dataset(dataset_id)
        found = find_intact_dataset(context, folder)
        if found is not None:
            manifest = found
            require_few_rejects(options, manifest.rejects, manifest.matched - manifest.kept, folder)
            storage.remove_folder(workspace.unfinished(f"dataset-{dataset_id}"))
        else:
            request = IngestRequest(
                dataset_id=dataset_id,
                folder=workspace.unfinished(f"dataset-{dataset_id}"),
                destination=folder,
                images=listing.images,
                shards={
                    split: (old.count(split) if old else 0) + choose_shard_count(listing.splits.get(split, 0))
                    for split in SPLITS
                },
                height=options.height,
                time_stride=TIME_STRIDE,
                charset=charset,
                limits=options.image_limits,
                max_reject_fraction=options.max_reject_fraction,
                processes=choose_processes(options, listing.images),
                split_by=old.split_by if old and old.split_by != "image" else rules.split_by,
                label_source=str(rules),
                listings=tuple(files),
                unused_labels=listing.unused_labels,
                passed_over=listing.passed_over,
                old=old,
            )
            context.say(f"encoding {listing.images:,} images as TFRecords")
            run_job(options, functools.partial(_write_dataset, files, request, fractions), say=context.say)
            raise_if_refused(request.folder, request.folder)
            manifest = DatasetManifest.read(folder)
    workspace.write_pointer("datasets", LATEST, dataset_id)
    for warning in manifest.warnings:
        context.say(f"warning: {warning}")
    counts = manifest.counts
    summary = (
        f"dataset {dataset_id}: {manifest.matched:,} images matched, {sum(counts.values()):,} written "
        f"({', '.join(f'{counts[split]:,} {split}' for split in SPLITS)}), {format_rejects(manifest.rejects)}"
    )
    if old:
        summary += f"; {manifest.kept:,} of the {old.examples:,} examples of dataset {old.dataset_id} are among them"
    if manifest.unused_labels:
        unused = sum(manifest.unused_labels.values())
        summary += f"; {unused:,} label{'' if unused == 1 else 's'} without an image"
    if found is not None:
        summary += "; it was there already, made from the very same images"
    figures = {
        "dataset_id": dataset_id,
        "matched": manifest.matched,
        "added_to": manifest.added_to,
        "kept": manifest.kept,
        "examples": counts,
        "rejects": manifest.rejects,
        "warnings": list(manifest.warnings),
        "symbols": len(charset.symbols),
    }
    return StepResult("ingest", summary, folder, figures, reused=found is not None)


def _write_dataset(
    files: list[str], request: IngestRequest, fractions: SplitFractions, pipeline: beam.Pipeline
) -> object:
    """The job that writes a dataset of listed images, or of these and an old dataset."""
    if request.old is None:
        return pipeline | "Listings" >> beam.Create(files) | "Ingest" >> WriteDataset(request, fractions)
    shards = [(split, index) for split in SPLITS for index in range(request.old.count(split))]
    sources = [*(("listing", path) for path in files), *(("shard", shard) for shard in shards)]
    work = AddToDataset(request, request.old, fractions)
    return pipeline | "Sources" >> beam.Create(sources) | "Ingest" >> work


def train(context: Context) -> StepResult:
    """The latest dataset to a committed model.

    Raises:
        DataError: if no dataset is committed, or it cannot train the model.
        TrainingLostError: if workers were killed too often.
    """
    options, workspace = context.options, context.workspace
    place = ClusterPlace.of(os.environ)
    chief = place is None or place.chief
    dataset_id, dataset_folder, dataset = read_latest_dataset(workspace)
    if not dataset.examples("train"):
        raise DataError(
            f"the train split of dataset {dataset_id} is empty: ingest more images, or more groups of them, or lower "
            "--validation_fraction and --test_fraction"
        )
    plan = plan_training(options, workspace, dataset_id, dataset)
    model_id, request, start = plan.model_id, plan.request, plan.start
    network, epochs = request["model"], request["epochs"]
    folder = workspace.model(model_id)
    found = find_intact_model(context, folder)
    if found is not None and not chief:
        summary = f"model {model_id} is there already: nothing is left to train"
        return StepResult("train", summary, folder, {"model_id": model_id, **request}, reused=True)
    if found is not None:
        manifest = found
    else:
        if "evaluate" in options.step_names:
            require_test_split(dataset)
        training = workspace.unfinished(f"training-{model_id}")
        checkpoints = storage.join(training, "checkpoints")
        if options.resume == "never":
            storage.remove_folder(checkpoints)
        with _open_training_folder(None if storage.is_remote(training) or not chief else training) as scratch:
            output = os.path.join(scratch, "model")
            storage.remove_folder(output)
            train_in_processes(
                {
                    **request,
                    "dataset_folder": _fetch_dataset(dataset_folder, dataset, scratch),
                    "output_folder": output,
                    "checkpoint_folder": checkpoints,
                    "init_from": _fetch_weights(*start, scratch) if start else None,
                    "init_symbols": start[1].read_charset(start[0]).symbols if start else (),
                },
                scratch,
                options.train_workers,
                restarts=options.train_restarts,
                place=place,
                say=context.say,
            )
            if not chief:
                summary = f"this worker has trained its part of model {model_id}; the first worker commits it"
                return StepResult("train", summary, folder, {"model_id": model_id, **request})
            storage.copy_file(storage.join(dataset_folder, CHARSET_NAME), os.path.join(output, CHARSET_NAME))
            manifest = ModelManifest(
                model_id=model_id,
                dataset_id=dataset_id,
                model=network,
                height=dataset.height,
                time_stride=TIME_STRIDE,
                temperature=storage.read_json(os.path.join(output, CALIBRATION_NAME))["temperature"],
                charset_sha256=dataset.charset_sha256,
                options=request,
                files=describe_files(output),
                created_at=get_now().isoformat(),
            )
            unfinished = workspace.unfinished(f"model-{model_id}")
            storage.remove_folder(unfinished)
            storage.copy_folder(output, unfinished)
            manifest.write(unfinished)
            storage.move_folder(unfinished, folder)
    storage.remove_folder(workspace.unfinished(f"training-{model_id}"))
    workspace.write_pointer("models", LATEST, model_id)
    summary = f"model {model_id}: {network}, up to {epochs} epochs on dataset {dataset_id}"
    if start:
        summary += f", from the weights of model {start[1].model_id}"
    if found is not None:
        summary += "; it was there already, trained on the very same dataset with the same options"
    figures = {"model_id": model_id, **manifest.options, "image_epochs": dataset.examples("train") * epochs}
    return StepResult("train", summary, folder, figures, reused=found is not None)


class TrainingPlan(NamedTuple):
    """What the train step is asked for.

    Attributes:
        model_id: digest of the rest.
        request: the network, and how it is trained.
        start: folder and manifest of the model whose weights are the start, if there is one.
    """

    model_id: str
    request: dict[str, Any]
    start: tuple[str, ModelManifest] | None


def plan_training(
    options: LinePipelineOptions, workspace: Workspace, dataset_id: str, dataset: DatasetManifest
) -> TrainingPlan:
    """What would be trained on a dataset.

    Raises:
        DataError: if the model of `--init_from` is not there, or is no start for it.
    """
    start = _find_start(options, workspace, dataset)
    network = options.model or (start[1].model if start else DEFAULT_MODEL)
    recipe = RECIPES[network]
    batch_size = options.batch_size or recipe.batch_size
    epochs = options.epochs or recipe.epochs_for(dataset.examples("train"), batch_size)
    request = {
        "model": network,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": options.learning_rate or recipe.learning_rate * (recipe.fine_tuning if start else 1),
        "patience": options.patience or -(-epochs // 3),
        "seed": options.seed,
        "init_from": start[1].model_id if start else None,
    }
    return TrainingPlan(make_id(version=CODE_VERSION, dataset_id=dataset_id, **request), request, start)


def evaluate(context: Context) -> StepResult:
    """The latest model on the latest dataset's test split: accepted, or refused with the reason.

    Raises:
        DataError: if there is no model, no dataset, no test split, or their charsets differ.
    """
    workspace = context.workspace
    model_id = workspace.read_pointer("models", LATEST)
    if model_id is None:
        raise DataError(f"no model is committed in {workspace.root}: run the train step first (--steps=train)")
    dataset_id, dataset_folder, dataset = read_latest_dataset(workspace)
    folder = workspace.model(model_id)
    model = read_model(workspace, model_id)
    if model.charset_sha256 != dataset.charset_sha256:
        raise DataError(
            f"model {model_id} was trained with another charset (digest {model.charset_sha256[:12]}) than dataset "
            f"{dataset_id} has ({dataset.charset_sha256[:12]}): train on this dataset first (--steps=train,evaluate)"
        )
    require_test_split(dataset)
    unfinished, figures = _evaluate_model(context, model_id, dataset_id, dataset_folder, dataset)
    accepted_id = workspace.read_pointer("models", ACCEPTED)
    accepted_cer, difference = None, None
    if accepted_id is not None and accepted_id != model_id:
        if problem := _explain_not_comparable(workspace, accepted_id, dataset):
            context.say(f"warning: model {accepted_id}, accepted until now, cannot be compared: {problem}")
        else:
            context.say(f"reading the same images with model {accepted_id}, accepted until now")
            other, other_figures = _evaluate_model(context, accepted_id, dataset_id, dataset_folder, dataset)
            accepted_cer = other_figures["cer"]
            difference = compare_cer(unfinished, other, figures)
            storage.remove_folder(other)
    refused = _explain_refusal(context.options, figures["cer"], accepted_id, accepted_cer)
    figures = {
        **figures,
        "accepted": refused is None,
        "refused_because": refused,
        "accepted_before": accepted_id,
        "accepted_before_cer": accepted_cer,
        "cer_difference_to_accepted": difference,
    }
    if refused is not None and accepted_id == model_id:
        workspace.remove_pointer("models", ACCEPTED)  # first: what is in use never says that it is refused
        refused += "; it had been accepted before, and no model is in use now"
    _commit_evaluation(unfinished, folder, figures)
    if refused is None:
        workspace.write_pointer("models", ACCEPTED, model_id)
    summary = (
        f"model {model_id} on {figures['images']:,} held-out images: "
        f"CER {figures['cer']:.2%} ({_format_interval(figures['intervals']['cer'], 1)}), "
        f"exact match {figures['exact_match']:.1%} ({_format_interval(figures['intervals']['exact_match'], 0)}); "
        f"{'accepted' if refused is None else 'REFUSED: ' + refused}"
    )
    return StepResult("evaluate", summary, folder, figures, refused=refused)


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
            build = functools.partial(_build_with_helpers, collection, request)
            if not options.template:
                summaries = storage.join(unfinished, SUMMARIES_NAME)
                watched = watch_shards(summaries, request.shards, request.images, context.say, context.show)
        if reads or options.template:
            with watched:
                run_job(options, build, say=context.say)
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


def review(context: Context) -> StepResult:
    """The least confident readings as a table and a page, for a person to correct.

    Raises:
        DataError: if nothing was read yet, or the dataset that the model was trained on is gone.
    """
    return StepResult("review", *write_review(context.options, context.workspace, context.say))


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


def compact(context: Context) -> StepResult:
    """The committed runs of one day to one run for each way of reading.

    Raises:
        DataError: if a file of one was damaged.
    """
    done = compact_day(context.options, context.workspace, context.say)
    return StepResult("compact", done.summary, done.folder, done.figures, reused=done.reused)


STEP_FUNCTIONS: dict[str, Callable[[Context], StepResult]] = {
    "ingest": ingest,
    "train": train,
    "evaluate": evaluate,
    "infer": infer,
    "review": review,
    "compact": compact,
}


def choose_images(context: Context) -> str:
    """What `--images` says, or else the folder of the label table, or else the rendered sample."""
    options = context.options
    if options.images:
        return options.images
    if tables := options.label_rules.tables:
        folders = dict.fromkeys(table.rpartition("/")[0] for table in tables)
        context.say(f"no --images given: using the images beside the label table, in {', '.join(folders)}")
        return ",".join(folders)
    folder = render_sample(_require_sample_folder(context.workspace, "--images"))[0]
    context.say(f"no --images given: using the rendered sample collection in {folder}")
    return folder


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


@dataclasses.dataclass(frozen=True)
class SelectedCollection:
    """What is read: how many images, in how many shards, their digest, and the job that reads them.

    Attributes:
        repeats, skipped, reread, retried: as in an `InferenceRequest`.
        listing_s, unread_s: seconds that it took to list all images, and to find out which of them were read.
        found: a run that has read the very same, if it is to be taken instead.
    """

    images: int
    shards: int
    digest: str
    build: Callable[[InferenceRequest, beam.Pipeline], object]
    repeats: int = 0
    skipped: int = 0
    reread: int = 0
    retried: int = 0
    listing_s: float = 0.0
    unread_s: float = 0.0
    found: CommittedRun | None = None


@contextlib.contextmanager
def select_collection(
    context: Context, images: str, runs: list[CommittedRun], reading: dict[str, Any], place: Workspace
) -> Iterator[SelectedCollection]:
    """What `--infer_images` says, less what earlier runs have read; it can be read inside the block.

    Args:
        reading: what `describe_recognition` says of this run.
        place: the workspace in which the listing is written; if it is another one than the context's, nothing is
            changed there.
    """
    if images.startswith(_DATASET):
        split = _select_split(context.workspace, images)
        readings = (each for run in runs for each in run.readings)
        same = [run for run in readings if run.manifest.get("inputs") == split.digest and _matches(run, reading)]
        yield dataclasses.replace(split, found=same[-1] if same and not context.options.reread else None)
        return
    roots, paths = find_roots_and_tables(images, flag="--infer_images")
    tables = PathTables(tuple(paths), context.options.path_column)
    began = time.monotonic()
    listed_here = list_collection(
        context, roots, None, SplitFractions(), flag="--infer_images", tables=tables, place=place
    )
    with listed_here as (listing, files):
        listed = time.monotonic()
        folder = os.path.dirname(files[0])
        unread, files = find_unread(context.options, listing, files, runs, **reading, folder=folder, say=context.say)
        if place is context.workspace:
            set_aside_unreadable(runs, unread.damaged, context.say)

        def build(request: InferenceRequest, pipeline: beam.Pipeline) -> object:
            return pipeline | "Listings" >> beam.Create(files) | "Infer" >> RecogniseCollection(request)

        left = unread.listing
        yield SelectedCollection(
            left.images,
            choose_shard_count(left.images),
            left.digest,
            build,
            repeats=listing.repeats,
            skipped=unread.skipped,
            reread=unread.reread,
            retried=unread.retried,
            listing_s=listed - began,
            unread_s=time.monotonic() - listed,
        )


def _matches(run: CommittedRun, reading: dict[str, Any]) -> bool:
    """Whether a run has read with the same model, limits and decoding, and lost nothing of it since."""
    return not run.manifest.get("lost") and all(run.manifest.get(name) == value for name, value in reading.items())


def _build_with_helpers(collection: SelectedCollection, request: InferenceRequest, pipeline: beam.Pipeline) -> object:
    """The job that reads; helper processes load the model while it is planned."""
    prepare_recognition(request)
    return collection.build(request, pipeline)


def _select_split(workspace: Workspace, images: str) -> SelectedCollection:
    """The collection that `dataset:ID:SPLIT` names; the ID may be LATEST."""
    dataset_id, _, split = images.removeprefix(_DATASET).partition(":")
    if split not in SPLITS:
        raise DataError(
            f"--infer_images={images}: a split of a dataset is given as dataset:ID:SPLIT, such as dataset:LATEST:test; "
            f"splits are {', '.join(SPLITS)}"
        )
    if dataset_id == LATEST:
        dataset_id, folder, dataset = read_latest_dataset(workspace)
    else:
        folder = workspace.dataset(dataset_id)
        try:
            dataset = DatasetManifest.read(folder)
        except FileNotFoundError:
            raise DataError(f"--infer_images={images}: there is no dataset {dataset_id} in {workspace.root}") from None
    shards = dataset.shards_of(split)
    if not shards:
        raise DataError(f"--infer_images={images}: the {split} split of dataset {dataset_id} is empty")
    made_at = datetime.datetime.fromisoformat(dataset.created_at)

    def build(request: InferenceRequest, pipeline: beam.Pipeline) -> object:
        if request.height != dataset.height:
            raise DataError(
                f"--infer_images={images}: its lines are {dataset.height} pixels high, but model {request.model_id} "
                f"reads lines of {request.height}"
            )
        numbered = beam.Create(list(enumerate(shards)))
        return pipeline | "Shards" >> numbered | "Infer" >> RecogniseDataset(request, folder, made_at)

    digest = make_id(shards=[shard.sha256 for shard in shards])
    return SelectedCollection(dataset.examples(split), len(shards), digest, build)


@contextlib.contextmanager
def list_collection(
    context: Context,
    roots: list[str],
    labels: LabelRules | None,
    fractions: SplitFractions,
    *,
    flag: str,
    tables: PathTables | None = None,
    place: Workspace | None = None,
) -> Iterator[tuple[ListingSummary, list[str]]]:
    """Lists the images below some roots, and those that tables name; the listing files are there inside the block.

    The job of a template needs them later.
    """
    tables = tables or PathTables()
    workspace = storage.resolve_path(context.workspace.root)
    inside = [root for root in roots if f"{workspace}/".startswith(f"{storage.resolve_path(root).rstrip('/')}/")]
    if inside:
        raise DataError(
            f"{flag}: the workspace {context.workspace.root} lies inside {inside[0]}, so that its own pictures "
            "would be read as images: put it elsewhere with --workspace"
        )
    # The listing of a template is needed for longer: it is no other command's.
    name = make_id(roots=roots, tables=tables, labels=labels, template=context.options.template)
    folder = (place or context.workspace).unfinished(f"listing-{name}")
    places = Places.of([*roots, *tables.paths])
    grouped = [*group_roots(roots, places), *([path] for path in tables.paths)]
    groups = [[location_to_uri(root) for root in group] for group in grouped]
    files = [storage.join(folder, f"{number:05d}.parquet") for number in range(len(groups))]
    summary_path = storage.join(folder, "summary.json")
    storage.remove_folder(folder)
    work = ListCollection(summary_path, labels, fractions, places, tables)
    try:
        run_job(
            context.options,
            lambda pipeline: pipeline | "Roots" >> beam.Create(list(zip(groups, files, strict=True))) | "List" >> work,
            say=context.say,
            before_template=True,
        )
        summary = ListingSummary(**storage.read_json(summary_path))
        if not summary.images:
            raise DataError(
                f"{flag}: there is not one image in {', '.join([*roots, *tables.paths])}; is it the right folder?"
            )
        if tables.paths:
            summary, files = _list_once(context, fractions, summary, files, len(tables.paths), folder)
        if labels is not None and labels.source == "table":
            summary, files = _join_tables(context, labels, fractions, summary, files, folder)
        yield summary, files
    except StoreError:
        raise  # nor could anything be removed
    except BaseException:
        storage.remove_folder(folder)
        raise
    if not context.options.template:
        storage.remove_folder(folder)


def _join_tables(
    context: Context,
    rules: LabelRules,
    fractions: SplitFractions,
    listed: ListingSummary,
    files: list[str],
    folder: str,
) -> tuple[ListingSummary, list[str]]:
    """Listing files with the labels of the tables, from listing files without."""
    context.say(f"joining {listed.images:,} images and the rows of {rules}")
    rows = sum(map(storage.get_size, rules.tables)) // _BYTES_A_ROW
    count = choose_shard_count(max(listed.images, rows))
    joined = [storage.join(folder, f"labelled-{number:05d}.parquet") for number in range(count)]
    summary_path = storage.join(folder, "labelled.json")
    sources = [*(("listing", path) for path in files), *(("table", number) for number in range(len(rules.tables)))]
    work = JoinTables(summary_path, joined, rules, fractions)
    run_job(
        context.options,
        lambda pipeline: pipeline | "Sources" >> beam.Create(sources) | "Join" >> work,
        say=context.say,
    )
    summary = ListingSummary(**storage.read_json(summary_path))
    if summary.images != listed.images:
        raise RuntimeError(f"{listed.images} images were listed, but {summary.images} were joined with their labels")
    summary = dataclasses.replace(summary, passed_over=listed.passed_over)
    return summary, [path for path in joined if storage.exists(path)]


def _list_once(
    context: Context,
    fractions: SplitFractions,
    listed: ListingSummary,
    files: list[str],
    tables: int,
    folder: str,
) -> tuple[ListingSummary, list[str]]:
    """Listing files in which each image is once, from those of folders and, at the end, of some tables of paths."""
    count = choose_shard_count(
        listed.images // 8
    )  # larger than shards, since only names meet: many small blocks cost memory
    once = [storage.join(folder, f"once-{number:05d}.parquet") for number in range(count)]
    summary_path = storage.join(folder, "once.json")
    kinds = ["folders"] * (len(files) - tables) + ["table"] * tables
    work = ListOnce(summary_path, once, fractions)
    run_job(
        context.options,
        lambda pipeline: pipeline | "Listings" >> beam.Create(list(zip(kinds, files, strict=True))) | "Once" >> work,
        say=context.say,
        before_template=True,
    )
    summary = ListingSummary(**storage.read_json(summary_path))
    if summary.images + summary.repeats != listed.images:
        raise RuntimeError(
            f"{listed.images} files and rows were listed, but {summary.images} images and {summary.repeats} repeats "
            "are left of them"
        )
    if summary.repeats:
        rows = "row names an image" if summary.repeats == 1 else "rows name images"
        context.say(f"{summary.repeats:,} {rows} that another row or a folder has too; each image is read once")
    summary = dataclasses.replace(summary, passed_over=listed.passed_over)
    return summary, [path for path in once if storage.exists(path)]


def _choose_charset(options: LinePipelineOptions, listing: ListingSummary, old: Sequence[str]) -> Charset:
    """What `--charset` says, or else every symbol of the labels and those of an old dataset."""
    if options.charset:
        try:
            charset = Charset.from_lines(storage.read_bytes(options.charset).decode("utf-8-sig"))
        except (UnicodeDecodeError, CharsetError) as error:
            raise DataError(f"--charset={options.charset} has to hold one symbol a line, in UTF-8: {error}") from None
        if missing := charset.missing("".join(old)):
            raise DataError(
                f"--charset={options.charset} lacks symbols of the dataset to which the images are added "
                f"({', '.join(map(repr, missing))}): add them to the file, or leave the flag out"
            )
        return charset
    if not listing.symbols:
        counts = ", ".join(
            f"{count} {reason}" for reason, count in {**listing.problems, **listing.unused_labels}.items()
        )
        raise DataError(
            f"none of the {listing.images} images in --images has a usable label ({counts}): "
            f"{'; '.join(listing.examples)}; see --label_source"
        )
    return Charset(tuple(sorted({*listing.symbols, *old})))


def read_latest_dataset(workspace: Workspace) -> tuple[str, str, DatasetManifest]:
    """The ID, folder and manifest of the dataset that was made last; raises a `DataError` if there is none."""
    dataset_id = workspace.read_pointer("datasets", LATEST)
    if dataset_id is None:
        raise DataError(f"no dataset is committed in {workspace.root}: run the ingest step first (--steps=ingest)")
    folder = workspace.dataset(dataset_id)
    try:
        return dataset_id, folder, DatasetManifest.read(folder)
    except FileNotFoundError:
        raise DataError(f"dataset {dataset_id} is gone from {folder}: run the ingest step again") from None


def _find_start(
    options: LinePipelineOptions, workspace: Workspace, dataset: DatasetManifest
) -> tuple[str, ModelManifest] | None:
    """The folder and manifest of the model that `--init_from` names, by its ID or its folder."""
    named = options.init_from
    if not named:
        return None
    for folder in (named,) if storage.is_remote(named) else (workspace.model(named), named):
        try:
            model = ModelManifest.read(folder)
        except (FileNotFoundError, NotADirectoryError, TypeError):  # the last for the manifest of a dataset
            continue
        if options.model not in (None, model.model):
            raise DataError(
                f"--init_from={named} is a model of the network {model.model}, which cannot be the start of "
                f"--model={options.model}: leave --model out"
            )
        if model.height != dataset.height:
            raise DataError(
                f"--init_from={named} reads lines of height {model.height}, but those of dataset "
                f"{dataset.dataset_id} are {dataset.height} pixels high: ingest with --height={model.height}"
            )
        return folder, model
    raise DataError(
        f"--init_from={named} is neither the ID of a model in {workspace.root}/models nor the folder of a model"
    )


def require_test_split(dataset: DatasetManifest) -> None:
    if not dataset.examples("test"):
        raise DataError(
            f"the test split of dataset {dataset.dataset_id} is empty, so that no model can be evaluated: "
            "ingest more images or raise --test_fraction"
        )


def require_few_rejects(options: LinePipelineOptions, rejects: dict[str, int], matched: int, folder: str) -> None:
    if problem := explain_too_many_rejects(
        rejects, matched, options.max_reject_fraction, where=f"{folder}/rejects-*.parquet"
    ):
        raise DataError(problem)


def _explain_not_comparable(workspace: Workspace, model_id: str, dataset: DatasetManifest) -> str | None:
    """Why a model cannot read the test lines of a dataset, or None if it can."""
    try:
        model = ModelManifest.read(workspace.model(model_id))
    except FileNotFoundError:
        return f"it is gone from {workspace.model(model_id)}"
    if model.height != dataset.height:
        return f"it reads lines of height {model.height}, this dataset's are {dataset.height} pixels high"
    return None


def find_intact_dataset(context: Context, folder: str) -> DatasetManifest | None:
    """A committed dataset, if it is there; one that lost files since is removed, to be made again."""
    try:
        manifest = DatasetManifest.read(folder)
    except FileNotFoundError:
        return None
    sizes = {**{shard.name: shard.bytes for shard in manifest.shards}, **manifest.other_files}
    return manifest if is_intact(context, folder, sizes) else None


def find_intact_model(context: Context, folder: str) -> ModelManifest | None:
    """A committed model, if it is there; one that lost what it reads with is trained again, in use until then."""
    try:
        manifest = ModelManifest.read(folder)
    except FileNotFoundError:
        return None
    needed = (KERAS_NAME, ONNX_NAME, SAVED_MODEL_NAME, CHARSET_NAME)
    sizes = {name: described["bytes"] for name, described in manifest.files.items() if name.startswith(needed)}
    problem = storage.find_missing_or_changed(folder, sizes)
    if problem is not None:
        context.say(f"warning: {problem}: it was damaged after it was committed, and is made again")
    return manifest if problem is None else None


def is_intact(context: Context, folder: str, sizes: dict[str, int]) -> bool:
    problem = storage.find_missing_or_changed(folder, sizes)
    if problem is None:
        return True
    context.say(f"warning: {problem}: it was damaged after it was committed, and is made again")
    storage.remove_folder(folder)
    return False


def _fetch_dataset(folder: str, manifest: DatasetManifest, scratch: str) -> str:
    """The dataset on a local disk: TensorFlow reads no object store here.

    Raises:
        DataError: for a shard that is missing or not what the manifest says.
    """
    if not storage.is_remote(folder):
        return folder
    local = os.path.join(scratch, "dataset")
    shards = [shard for split in ("train", "validation") for shard in manifest.shards_of(split)]
    storage.copy_file(storage.join(folder, CHARSET_NAME), os.path.join(local, CHARSET_NAME))
    for shard in shards:
        path = os.path.join(local, shard.name)
        try:
            storage.copy_file(storage.join(folder, shard.name), path)
            digest = storage.compute_checksum(path)
        except FileNotFoundError:
            digest = "none, for it is missing"
        if digest != shard.sha256:
            raise DataError(
                f"{folder}/{shard.name} has checksum {digest}, the manifest says {shard.sha256}: "
                f"{suggest_remedy(folder, 'ingest')}"
            )
    manifest.write(local)
    return local


@contextlib.contextmanager
def _open_training_folder(folder: str | None) -> Iterator[str]:
    """A local folder to train in; a temporary one, of which a failure leaves only the logs, if none is given."""
    if folder is not None:
        yield folder
        return
    folder = tempfile.mkdtemp(prefix="training-")
    try:
        yield folder
    except BaseException:
        for name in ("dataset", "model", "start"):
            storage.remove_folder(os.path.join(folder, name))
        raise
    storage.remove_folder(folder)


def _fetch_weights(folder: str, manifest: ModelManifest, scratch: str) -> str:
    """The path of a model's `.keras` file, copied to the scratch folder if it is not local."""
    path = manifest.fetch(folder, KERAS_NAME)
    if storage.is_remote(folder):
        target = os.path.join(scratch, "start", KERAS_NAME)
        storage.copy_file(path, target)
        storage.remove_folder(os.path.dirname(path))
        return target
    return path


def read_model(workspace: Workspace, model_id: str) -> ModelManifest:
    """The manifest of a committed model; raises a `DataError` if it is gone."""
    try:
        return ModelManifest.read(workspace.model(model_id))
    except FileNotFoundError:
        raise DataError(
            f"model {model_id} is gone from {workspace.model(model_id)}: run the train and evaluate steps again"
        ) from None


def _evaluate_model(
    context: Context, model_id: str, dataset_id: str, dataset_folder: str, dataset: DatasetManifest
) -> tuple[str, dict[str, Any]]:
    """An unfinished folder with the evaluation of a model on a test split, and its figures."""
    folder = context.workspace.unfinished(f"evaluation-{model_id}-{dataset_id}")
    storage.remove_folder(folder)
    statistics = storage.read_json(storage.join(dataset_folder, STATISTICS_NAME))
    test = statistics["splits"]["test"]
    request = EvaluationRequest(
        dataset_folder=dataset_folder,
        dataset_id=dataset_id,
        model_id=model_id,
        examples=dataset.examples("test"),
        folder=folder,
        split_by=statistics["split_by"],
        groups=test["largest_groups"] if len(test["largest_groups"]) == test["groups"] else {},
    )
    run_job(
        context.options,
        lambda pipeline: (
            pipeline
            | "TestShards" >> beam.Create(dataset.shards_of("test"))
            | "Evaluate"
            >> EvaluateModel(
                request,
                LineModelHandler(
                    context.workspace.model(model_id),
                    context.options.engine,
                    choose_processes(context.options, request.examples),
                ),
            )
        ),
        say=context.say,
    )
    return folder, storage.read_json(storage.join(folder, EVALUATION_NAME))


def _commit_evaluation(unfinished: str, model_folder: str, figures: dict[str, Any]) -> None:
    """Puts an evaluation in the place of the model's former one.

    The figures are taken away first and written last, with the files that they belong to: files
    without figures are no evaluation.
    """
    storage.remove_file(storage.join(unfinished, EVALUATION_NAME))
    files = {
        f"{EVALUATION_FOLDER}/{name}": {"bytes": storage.get_size(path), "sha256": storage.compute_checksum(path)}
        for name in storage.list_names(unfinished)
        for path in [storage.join(unfinished, name)]
    }
    storage.remove_file(storage.join(model_folder, EVALUATION_NAME))
    storage.move_folder(unfinished, storage.join(model_folder, EVALUATION_FOLDER))
    storage.write_json(storage.join(model_folder, EVALUATION_NAME), {**figures, "files": files})


def _format_interval(interval: Sequence[float], digits: int) -> str:
    low, high = interval
    return f"{100 * low:.{digits}f} to {high:.{digits}%}"


def _explain_refusal(
    options: LinePipelineOptions, cer: float, accepted_id: str | None, accepted_cer: float | None
) -> str | None:
    if cer > options.max_cer:
        return f"its CER of {cer:.2%} is above --max_cer={options.max_cer:g}"
    if accepted_cer is not None and cer > accepted_cer + options.max_cer_regression:
        return (
            f"its CER of {cer:.2%} is more than --max_cer_regression={options.max_cer_regression:g} worse than the "
            f"{accepted_cer:.2%} of model {accepted_id}, accepted until now, which stays in use"
        )
    return None


def raise_if_refused(folder: str, rejects_folder: str) -> None:
    path = storage.join(folder, REFUSED_NAME)
    if storage.exists(path):
        refused = storage.read_json(path)
        raise RefusedError(refused["reason"], refused["rejects"], rejects_folder)


def _require_sample_folder(workspace: Workspace, flag: str) -> str:
    if storage.is_remote(workspace.root):
        raise DataError(
            f"{flag} is needed with --workspace={workspace.root}: the sample is rendered into local folders"
        )
    return workspace.sample


def find_sample(workspace: Workspace) -> str:
    folder = storage.join(_require_sample_folder(workspace, "--infer_images"), "unlabelled")
    if not storage.exists(folder):
        raise DataError(f"--infer_images says what to read: there is no sample collection in {workspace.root}")
    return folder


def _count_right(workspace: Workspace, folder: str, manifest: dict[str, Any]) -> dict[str, int]:
    """How many images of the sample, whose truth is known, were read exactly."""
    truth = read_truth(workspace.sample)
    rows = read_predictions(folder, ["uri", "text"])
    right = sum(truth.get(os.path.basename(row["uri"])) == row["text"] for row in rows)
    return {"images": manifest["matched"], "exact": right}


def format_rejects(rejects: dict[str, int]) -> str:
    if not rejects:
        return "none rejected"
    return f"{sum(rejects.values()):,} rejected ({', '.join(f'{count} {reason}' for reason, count in rejects.items())})"


def get_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
