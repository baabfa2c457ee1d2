"""The evaluate step: it accepts or refuses the latest model by its errors on held-out images."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam

from components.evaluation.constant import ConstantAnswer, explain_no_better
from components.evaluation.evaluate import EVALUATION_FOLDER, EVALUATION_NAME, EvaluationRequest, compare_cer
from components.evaluation.positions import explain_weak_place
from components.evaluation.transforms import EvaluateModel
from components.metrics import ErrorCounts
from components.recogniser.handler import LineModelHandler
from components.recogniser.manifest import ModelManifest
from pipeline.engines.jobs import choose_processes, run_job
from pipeline.options import LinePipelineOptions
from pipeline.steps.estimate import estimate_time
from pipeline.steps.step import Context, Outcome, Plan, StepResult, require_test_split
from pipeline.workspace import ACCEPTED, LATEST, Unfinished, Workspace, read_latest_dataset, read_model
from tfrecords import DataError, DatasetManifest, storage

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Resolved:
    """The models to evaluate, and the dataset to evaluate them on.

    Attributes:
        model_id: the latest model.
        has_language_model: whether it has one, which the default decoder uses.
        dataset, dataset_folder: the latest dataset.
        accepted_id: the model accepted until now, if there is one.
        compares: whether that is another model, which is to recognise the same images for comparison.
        not_comparable: why such a model cannot, or None.
    """

    model_id: str
    has_language_model: bool
    dataset: DatasetManifest
    dataset_folder: str
    accepted_id: str | None
    compares: bool
    not_comparable: str | None


class EvaluateStep:
    """Decides on held-out images whether the latest model may be used."""

    name = "evaluate"
    place = "evaluation"

    def run(self, context: Context) -> StepResult:
        """Accepts the model, or refuses it with the reason."""
        options, workspace = context.options, context.workspace
        resolved = _resolve(workspace)
        model_id, accepted_id = resolved.model_id, resolved.accepted_id
        folder = workspace.model(model_id)
        unfinished, figures = _evaluate_model(context, model_id, resolved)
        if weak_place := explain_weak_place(figures["by_position"]):
            log.warning(weak_place)
        accepted_cer, difference = None, None
        if resolved.compares and accepted_id is not None:
            log.info(f"recognising the same images with model {accepted_id}, accepted until now")
            other, other_figures = _evaluate_model(context, accepted_id, resolved)
            accepted_cer = other_figures["cer"]
            difference = compare_cer(unfinished, other, figures)
            storage.remove_folder(other)
        elif resolved.not_comparable is not None:
            log.warning(f"model {accepted_id}, accepted until now, cannot be compared: {resolved.not_comparable}")
        reasons = [
            explain_no_better(ErrorCounts(**figures["counts"]), ConstantAnswer(**figures["constant"])),
            _explain_refusal(options, figures["cer"], accepted_id, accepted_cer),
        ]
        refused = "; and ".join(reason for reason in reasons if reason is not None) or None
        figures = {
            **figures,
            "decoding": options.decoding.choose_for(resolved.has_language_model).pin_lexicon().identity,
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
        return StepResult(summary, folder, figures, refused=refused)

    def plan(self, context: Context) -> Plan:
        """Says which model would be evaluated, on how many images."""
        workspace = context.workspace
        accepted = workspace.read_pointer("models", ACCEPTED)
        workspace.expect("models", ACCEPTED, None)
        until_now = f"accepted until now: {f'model {accepted}' if accepted else 'no model'}"
        if workspace.expects("models", LATEST) or workspace.expects("datasets", LATEST):
            return Plan(None, ["the new model on the test split", until_now])
        resolved = _resolve(workspace)
        images = resolved.dataset.examples("test")
        lines = [f"model {resolved.model_id} on {images:,} held-out images of dataset {resolved.dataset.dataset_id}"]
        if resolved.compares:
            lines.append(f"and the same images with model {accepted}, accepted until now")
        elif resolved.not_comparable is not None:
            lines.append(f"model {accepted}, accepted until now, cannot be compared: {resolved.not_comparable}")
        else:
            lines.append(until_now)
        lines.append(estimate_time(workspace, self.name, "images", images))
        return Plan(Outcome.MADE, lines)

    def count_images(self, figures: Mapping[str, Any]) -> int:
        """Counts the held-out images."""
        return figures.get("images", 0)


def _resolve(workspace: Workspace) -> _Resolved:
    """Finds the model to evaluate, and the images for it.

    Raises:
        DataError: if there is no model, no dataset, no test split, or their charsets differ.
    """
    model_id = workspace.read_pointer("models", LATEST)
    if model_id is None:
        raise DataError(f"no model is committed in {workspace.root}: run the train step first (--steps=train)")
    dataset_id, dataset_folder, dataset = read_latest_dataset(workspace)
    model = read_model(workspace, model_id)
    if model.charset_sha256 != dataset.charset_sha256:
        raise DataError(
            f"model {model_id} was trained with another charset (digest {model.charset_sha256[:12]}) than dataset "
            f"{dataset_id} has ({dataset.charset_sha256[:12]}): train on this dataset first (--steps=train,evaluate)"
        )
    require_test_split(dataset)
    accepted_id = workspace.read_pointer("models", ACCEPTED)
    other = accepted_id if accepted_id != model_id else None
    problem = _explain_not_comparable(workspace, other, dataset) if other is not None else None
    compares = other is not None and problem is None
    return _Resolved(
        model_id, model.language_model is not None, dataset, dataset_folder, accepted_id, compares, problem
    )


def _explain_not_comparable(workspace: Workspace, model_id: str, dataset: DatasetManifest) -> str | None:
    """Says why a model cannot recognise the test lines of a dataset; None if it can."""
    try:
        model = ModelManifest.read(workspace.model(model_id))
    except FileNotFoundError:
        return f"it is gone from {workspace.model(model_id)}"
    if model.height != dataset.height:
        return f"it reads lines of height {model.height}, this dataset's are {dataset.height} pixels high"
    return None


def _evaluate_model(context: Context, model_id: str, resolved: _Resolved) -> tuple[str, dict[str, Any]]:
    """Evaluates a model on the test split; returns the unfinished folder with the evaluation, and its figures."""
    dataset = resolved.dataset
    folder = context.workspace.unfinished(Unfinished.EVALUATION, f"{model_id}-{dataset.dataset_id}")
    storage.remove_folder(folder)
    statistics = dataset.read_statistics(resolved.dataset_folder)
    test = statistics["splits"]["test"]
    request = EvaluationRequest(
        dataset_folder=resolved.dataset_folder,
        dataset_id=dataset.dataset_id,
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
                    context.options.decoding.pin_lexicon(),
                ),
            )
        ),
    )
    return folder, storage.read_json(storage.join(folder, EVALUATION_NAME))


def _commit_evaluation(unfinished: str, model_folder: str, figures: dict[str, Any]) -> None:
    """Replaces the model's former evaluation.

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
    """Writes an interval of rates in per cent."""
    low, high = interval
    return f"{100 * low:.{digits}f} to {high:.{digits}%}"


def _explain_refusal(
    options: LinePipelineOptions, cer: float, accepted_id: str | None, accepted_cer: float | None
) -> str | None:
    """Says why a model is refused; None if it is accepted."""
    if cer > options.max_cer:
        return f"its CER of {cer:.2%} is above --max_cer={options.max_cer:g}"
    if accepted_cer is not None and cer > accepted_cer + options.max_cer_regression:
        return (
            f"its CER of {cer:.2%} is more than --max_cer_regression={options.max_cer_regression:g} worse than the "
            f"{accepted_cer:.2%} of model {accepted_id}, accepted until now, which stays in use"
        )
    return None
