"""The evaluate step: the latest model on held-out images, accepted or refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apache_beam as beam

from components.evaluation.evaluate import EVALUATION_FOLDER, EVALUATION_NAME, EvaluationRequest, compare_cer
from components.evaluation.transforms import EvaluateModel
from components.recogniser.handler import LineModelHandler
from components.recogniser.manifest import ModelManifest
from pipeline.engines.jobs import choose_processes, run_job
from pipeline.options import LinePipelineOptions
from pipeline.steps.step import Context, StepResult, require_test_split
from pipeline.workspace import ACCEPTED, LATEST, Workspace, read_latest_dataset, read_model
from tfrecords import DataError, DatasetManifest, storage
from tfrecords.manifest import STATISTICS_NAME


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


def _explain_not_comparable(workspace: Workspace, model_id: str, dataset: DatasetManifest) -> str | None:
    """Why a model cannot read the test lines of a dataset, or None if it can."""
    try:
        model = ModelManifest.read(workspace.model(model_id))
    except FileNotFoundError:
        return f"it is gone from {workspace.model(model_id)}"
    if model.height != dataset.height:
        return f"it reads lines of height {model.height}, this dataset's are {dataset.height} pixels high"
    return None


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
