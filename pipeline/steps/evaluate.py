"""The evaluate step: it accepts or refuses the latest model by its errors on held-out images."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam

from components.evaluation.card import CARD_NAME, describe_model_card
from components.evaluation.constant import ConstantAnswer, explain_no_better
from components.evaluation.evaluate import EVALUATION_FOLDER, EVALUATION_NAME, EvaluationRequest, compare_cer
from components.evaluation.positions import explain_weak_place
from components.evaluation.promise import explain_no_promise, make_promise
from components.evaluation.transforms import EvaluateModel
from components.metrics import ErrorCounts
from components.recogniser.handler import LineModelHandler
from components.recogniser.manifest import ModelManifest
from components.training.base_weights import find_base_weights
from pipeline.engines.jobs import choose_processes, run_job
from pipeline.options import LinePipelineOptions
from pipeline.steps.estimate import estimate_time
from pipeline.steps.step import Context, Outcome, Plan, StepResult, require_test_split
from pipeline.workspace import ACCEPTED, LATEST, Unfinished, Workspace, read_latest_dataset, read_model
from tfrecords import DataError, DatasetManifest, storage
from tfrecords.directions import describe_lines

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
        start_lines: the model from which training started, with its own test lines; None if none did, or they are of
            the same dataset.
        start_gone: why these cannot be read, or None.
    """

    model_id: str
    has_language_model: bool
    dataset: DatasetManifest
    dataset_folder: str
    accepted_id: str | None
    compares: bool
    not_comparable: str | None
    start_lines: _StartLines | None
    start_gone: str | None


@dataclasses.dataclass(frozen=True)
class _StartLines:
    """The model from which a training started, and the dataset that it was trained on."""

    model_id: str
    dataset: DatasetManifest
    dataset_folder: str


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
        unfinished, figures = _evaluate_model(context, model_id, resolved.dataset, resolved.dataset_folder)
        if weak_place := explain_weak_place(figures["by_position"]):
            log.warning(weak_place)
        accepted_cer, difference = None, None
        if resolved.compares and accepted_id is not None:
            log.info(f"recognising the same images with model {accepted_id}, accepted until now")
            other, other_figures = _evaluate_model(context, accepted_id, resolved.dataset, resolved.dataset_folder)
            accepted_cer = other_figures["cer"]
            difference = compare_cer(unfinished, other, figures)
            storage.remove_folder(other)
        elif resolved.not_comparable is not None:
            log.warning(f"model {accepted_id}, accepted until now, cannot be compared: {resolved.not_comparable}")
        start = _compare_on_start_lines(context, resolved)
        reasons = [
            explain_no_better(ErrorCounts(**figures["counts"]), ConstantAnswer(**figures["constant"])),
            _explain_refusal(options, figures["cer"], accepted_id, accepted_cer),
            None if start is None else _explain_forgetting(options, start),
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
            "start": start,
        }
        if refused is not None and accepted_id == model_id:
            workspace.remove_pointer("models", ACCEPTED)  # first: what is in use never says that it is refused
            refused += "; it had been accepted before, and no model is in use now"
        _commit_evaluation(unfinished, folder, figures, _describe_model(workspace, resolved, figures))
        if refused is None:
            workspace.write_pointer("models", ACCEPTED, model_id)
        summary = (
            f"model {model_id} on {figures['images']:,} held-out images: "
            f"CER {figures['cer']:.2%} ({_format_interval(figures['intervals']['cer'], 1)}), "
            f"exact match {figures['exact_match']:.1%} ({_format_interval(figures['intervals']['exact_match'], 0)}); "
            f"{'accepted' if refused is None else 'REFUSED: ' + refused}"
        )
        if options.target_error is not None:
            summary += _describe_promise(figures["acceptance"], options.target_error)
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
        if resolved.start_lines is not None:
            held_out, start_id = resolved.start_lines.dataset, resolved.start_lines.model_id
            lines.append(
                f"and the {held_out.examples('test'):,} held-out images of dataset {held_out.dataset_id} with it and "
                f"with model {start_id}, from which it started"
            )
        elif resolved.start_gone is not None:
            lines.append(resolved.start_gone)
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
    # A model that started from another one may know more symbols than the dataset that it was trained on.
    if model.dataset_id != dataset_id and model.charset_sha256 != dataset.charset_sha256:
        raise DataError(
            f"model {model_id} was trained with another charset (digest {model.charset_sha256[:12]}) than dataset "
            f"{dataset_id} has ({dataset.charset_sha256[:12]}): train on this dataset first (--steps=train,evaluate)"
        )
    require_test_split(dataset)
    accepted_id = workspace.read_pointer("models", ACCEPTED)
    other = accepted_id if accepted_id != model_id else None
    problem = _explain_not_comparable(workspace, other, dataset) if other is not None else None
    compares = other is not None and problem is None
    start_lines, start_gone = _find_start_lines(workspace, model, dataset)
    return _Resolved(
        model_id=model_id,
        has_language_model=model.language_model is not None,
        dataset=dataset,
        dataset_folder=dataset_folder,
        accepted_id=accepted_id,
        compares=compares,
        not_comparable=problem,
        start_lines=start_lines,
        start_gone=start_gone,
    )


def _find_start_lines(
    workspace: Workspace, model: ModelManifest, dataset: DatasetManifest
) -> tuple[_StartLines | None, str | None]:
    """Finds the test lines of the model from which a training started, or says why they cannot be read.

    There are none of base weights, or if both were trained on the same dataset.
    """
    start_id = model.options.get("init_from")
    if start_id is None or _is_from_base(model):
        return None, None
    try:
        start = ModelManifest.read(workspace.model(start_id))
        folder = workspace.dataset(start.dataset_id)
        lines = _StartLines(start_id, DatasetManifest.read(folder), folder)
    except FileNotFoundError:
        return None, (
            f"model {model.model_id} started from model {start_id}, whose dataset is not in {workspace.root}: whether "
            "it still reads what that one reads is not known"
        )
    if start.dataset_id == dataset.dataset_id or not lines.dataset.examples("test"):
        return None, None
    return lines, None


def _compare_on_start_lines(context: Context, resolved: _Resolved) -> dict[str, Any] | None:
    """Compares a model with the one from which its training started, on that one's test lines; None if none did.

    Returns:
        `model_id` of the other model, `dataset_id` and `images` of the lines, `cer` of the new model and `start_cer`.
    """
    if resolved.start_gone is not None:
        log.warning(resolved.start_gone)
    lines = resolved.start_lines
    if lines is None:
        return None
    log.info(
        f"recognising the held-out images of model {lines.model_id}, from which training started, with both models"
    )
    found = []
    for model_id in (resolved.model_id, lines.model_id):
        folder, figures = _evaluate_model(context, model_id, lines.dataset, lines.dataset_folder)
        storage.remove_folder(folder)
        found.append(figures)
    return {
        "model_id": lines.model_id,
        "dataset_id": lines.dataset.dataset_id,
        "images": found[0]["images"],
        "cer": found[0]["cer"],
        "start_cer": found[1]["cer"],
    }


def _explain_not_comparable(workspace: Workspace, model_id: str, dataset: DatasetManifest) -> str | None:
    """Says why a model cannot recognise the test lines of a dataset; None if it can."""
    try:
        model = ModelManifest.read(workspace.model(model_id))
    except FileNotFoundError:
        return f"it is gone from {workspace.model(model_id)}"
    if model.height != dataset.height:
        return f"it reads lines of height {model.height}, this dataset's are {dataset.height} pixels high"
    if model.vertical != dataset.vertical:
        return f"it reads {describe_lines(model.vertical)}, this dataset has {describe_lines(dataset.vertical)}"
    return None


def _evaluate_model(
    context: Context, model_id: str, dataset: DatasetManifest, dataset_folder: str
) -> tuple[str, dict[str, Any]]:
    """Evaluates a model on a test split; returns the unfinished folder with the evaluation, and its figures."""
    folder = context.workspace.unfinished(Unfinished.EVALUATION, f"{model_id}-{dataset.dataset_id}")
    storage.remove_folder(folder)
    statistics = dataset.read_statistics(dataset_folder)
    test = statistics["splits"]["test"]
    request = EvaluationRequest(
        dataset_folder=dataset_folder,
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


def _describe_model(workspace: Workspace, resolved: _Resolved, figures: Mapping[str, Any]) -> str:
    """Writes the card of a model that was evaluated."""
    folder = workspace.model(resolved.model_id)
    model = ModelManifest.read(folder)
    statistics = None
    with contextlib.suppress(FileNotFoundError, DataError):  # the dataset may be gone
        if model.dataset_id == resolved.dataset.dataset_id:
            statistics = resolved.dataset.read_statistics(resolved.dataset_folder)
        else:
            dataset_folder = workspace.dataset(model.dataset_id)
            statistics = DatasetManifest.read(dataset_folder).read_statistics(dataset_folder)
    return describe_model_card(model, model.read_charset(folder), figures, statistics, from_base=_is_from_base(model))


def _is_from_base(model: ModelManifest) -> bool:
    """Tells whether a training started from the base weights."""
    base = find_base_weights(model.model)
    return base is not None and model.options.get("init_from") == base[1].model_id


def _commit_evaluation(unfinished: str, model_folder: str, figures: dict[str, Any], card: str) -> None:
    """Replaces the model's former evaluation and its card.

    The figures are taken away first and written last, with the files that they belong to: files
    without figures are no evaluation.
    """
    storage.remove_file(storage.join(unfinished, EVALUATION_NAME))
    files = {
        f"{EVALUATION_FOLDER}/{name}": {"bytes": storage.get_size(path), "sha256": storage.compute_checksum(path)}
        for name in storage.list_names(unfinished)
        for path in [storage.join(unfinished, name)]
    }
    for name in (EVALUATION_NAME, CARD_NAME):
        storage.remove_file(storage.join(model_folder, name))
    storage.move_folder(unfinished, storage.join(model_folder, EVALUATION_FOLDER))
    storage.write_bytes(storage.join(model_folder, CARD_NAME), card.encode(errors="backslashreplace"))
    storage.write_json(storage.join(model_folder, EVALUATION_NAME), {**figures, "files": files})


def _describe_promise(acceptance: Mapping[str, Any], target_error: float) -> str:
    """Says how many texts can be accepted under a promise; warns if none can."""
    promise = make_promise(acceptance, target_error)
    if promise.threshold is None:
        log.warning(explain_no_promise(acceptance, target_error))
        return f"; no text can be accepted under --target_error={target_error:g}"
    return (
        f"; --target_error={target_error:g} accepts {promise.coverage:.1%} of the texts, those with a confidence of "
        f"{promise.threshold:.6g} or more, of which {promise.wrong:,} of {promise.accepted:,} were wrong"
    )


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


def _explain_forgetting(options: LinePipelineOptions, start: Mapping[str, Any]) -> str | None:
    """Says why a model is refused that reads worse what the model reads from which it started; None if it does not.

    Args:
        start: the comparison, as `_compare_on_start_lines` has it.
    """
    if start["cer"] <= start["start_cer"] + options.max_cer_regression:
        return None
    allowed = options.max_cer_regression
    return (
        f"it has forgotten what it could read: its CER of {start['cer']:.2%} on the {start['images']:,} held-out "
        f"images of dataset {start['dataset_id']} is more than --max_cer_regression={allowed:g} worse than the "
        f"{start['start_cer']:.2%} of model {start['model_id']}, from which it started: train on the old lines too, "
        f"by --add_to={start['dataset_id']} in the ingest step, or with a lower --learning_rate"
    )
