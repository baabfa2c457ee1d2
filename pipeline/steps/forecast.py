"""The forecast step: it says what more labels would bring, from models that are trained on parts of the labels."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from components.commit import Commit
from components.evaluation.learning_curve import PARTS, CurvePoint, Part, count_symbol_errors, forecast_cer
from components.recogniser.manifest import ModelManifest
from pipeline.steps.estimate import estimate_time
from pipeline.steps.step import Context, Outcome, Plan, StepResult, get_now, require_test_split
from pipeline.steps.train import count_least_steps, describe_model, make_request, measure_lines
from pipeline.steps.training_apart import load_beside_training, train_apart
from pipeline.steps.training_start import Start, find_start
from pipeline.workspace import LATEST, Unfinished, make_id, read_latest_dataset, read_model
from tfrecords import DataError, DatasetManifest, storage

log = logging.getLogger(__name__)

FORECAST_NAME = "forecast.json"
_FORECAST_VERSION = 1
"""Goes into the IDs of forecasts: raised when the same models would give another one."""
_LEAST_LINES = 40


@dataclasses.dataclass(frozen=True)
class ForecastManifest:
    """A committed forecast, kept as `forecast.json`.

    Attributes:
        forecast_id: digest of the dataset, the model and the settings of the trainings.
        dataset_id, model_id: all labels, and the model that was trained on them.
        measured, forecast: points of the learning curve, as `CurvePoint` has them.
        created_at: ISO 8601, UTC.
    """

    forecast_id: str
    dataset_id: str
    model_id: str
    measured: list[CurvePoint]
    forecast: list[CurvePoint]
    created_at: str

    def write(self, folder: str) -> None:
        """Writes the manifest into a folder."""
        storage.write_json(storage.join(folder, FORECAST_NAME), dataclasses.asdict(self))

    @classmethod
    def read(cls, folder: str) -> ForecastManifest:
        """Reads the manifest in a folder; raises a FileNotFoundError if there is none."""
        content = storage.read_json(storage.join(folder, FORECAST_NAME))
        for name in ("measured", "forecast"):
            content[name] = [CurvePoint(**point) for point in content[name]]
        return cls(**content)


@dataclasses.dataclass(frozen=True)
class _Resolved:
    """The model of all labels, and the trainings on parts of them.

    Attributes:
        dataset, dataset_folder: the latest dataset.
        model: the latest model, which was trained on it.
        start: folder and manifest of the model whose weights are the start, if there is one.
        symbols: of a training line, on average.
        forecast_id: digest of all this.
        folder: of the committed forecast.
        committed: the forecast, if it is there.
        unfinished: of work in progress.
        finished: names of the parts whose models were evaluated by an earlier command.
        resumes: whether an earlier command left anything.
    """

    dataset: DatasetManifest
    dataset_folder: str
    model: ModelManifest
    start: Start | None
    symbols: float
    forecast_id: str
    folder: str
    committed: ForecastManifest | None
    unfinished: str
    finished: frozenset[str]
    resumes: bool

    @property
    def outcome(self) -> Outcome:
        """The outcome for the forecast."""
        if self.committed is not None:
            return Outcome.REUSED
        return Outcome.RESUMED if self.resumes else Outcome.MADE

    @property
    def lines(self) -> int:
        """Number of training lines."""
        return self.dataset.examples("train")


class ForecastStep:
    """Forecasts the CER of the latest model's successor with twice and four times the labels."""

    name = "forecast"
    place = "forecast"

    def run(self, context: Context) -> StepResult:
        """Commits the forecast, or finds it committed.

        Raises:
            DataError: if there is no dataset with a model, or too small a one.
            TrainingLostError: if training workers were killed too often.
        """
        resolved = _resolve(context)
        manifest = resolved.committed or _forecast(context, resolved)
        summary = _summarise(manifest)
        if resolved.committed is not None:
            summary += "; it was there already"
        points = [*manifest.measured, *manifest.forecast]
        figures: dict[str, Any] = {
            "forecast_id": manifest.forecast_id,
            "model_id": manifest.model_id,
            "curve": [dataclasses.asdict(point) for point in points],
            "image_epochs": sum(
                part.count_lines(resolved.lines) * _request(context, resolved, part)["epochs"] for part in PARTS
            ),
        }
        return StepResult(summary, resolved.folder, figures, resolved.outcome)

    def plan(self, context: Context) -> Plan:
        """Says how many trainings the forecast takes."""
        workspace = context.workspace
        if workspace.expects("models", LATEST) or workspace.expects("datasets", LATEST):
            return Plan(None, [f"{len(PARTS)} trainings on parts of the labels that the new model is trained on"])
        resolved = _resolve(context)
        lines = [f"what more labels than the {resolved.lines:,} of dataset {resolved.dataset.dataset_id} would bring"]
        if resolved.committed is not None:
            return Plan(Outcome.REUSED, [*lines, f"nothing to train: {resolved.folder} is there already"])
        left = [part for part in PARTS if part.name not in resolved.finished]
        sizes = ", ".join(f"{part.count_lines(resolved.lines):,}" for part in PARTS)
        lines.append(f"{len(PARTS)} trainings, on {sizes} labels, of which {len(left)} are left")
        epochs = (part.count_lines(resolved.lines) * _request(context, resolved, part)["epochs"] for part in left)
        lines.append(estimate_time(workspace, "train", "image_epochs", sum(epochs)))
        return Plan(resolved.outcome, lines)

    def count_images(self, figures: Mapping[str, Any]) -> int:
        """Returns 0: a speed in images a second is said by each epoch."""
        del figures
        return 0


def _resolve(context: Context) -> _Resolved:
    """Finds the latest model and the dataset that it was trained on.

    Raises:
        DataError: if there is none, or the dataset is too small.
    """
    options, workspace = context.options, context.workspace
    model_id = workspace.read_pointer("models", LATEST)
    dataset_id, dataset_folder, dataset = read_latest_dataset(workspace)
    model = None if model_id is None else read_model(workspace, model_id)
    if model is None or model.dataset_id != dataset_id or "teacher" in model.options:
        raise DataError(
            f"no model was trained on the labels of the latest dataset {dataset_id} alone: run the train step first "
            "(--steps=train,evaluate,forecast)"
        )
    require_test_split(dataset)
    lines = dataset.examples("train")
    if lines < _LEAST_LINES:
        raise DataError(
            f"dataset {dataset_id} has {lines:,} training lines: a forecast takes models of a quarter of them, and at "
            f"least {_LEAST_LINES}"
        )
    symbols = measure_lines(dataset.read_statistics(dataset_folder))
    start = find_start(options, workspace, dataset, dataset_folder, symbols)
    asked = make_request(options, lines, symbols, start[1] if start else None)
    forecast_id = make_id(
        version=_FORECAST_VERSION, model_id=model.model_id, parts=[part.name for part in PARTS], **asked
    )
    folder = storage.join(workspace.root, "forecasts", forecast_id)
    unfinished = workspace.unfinished(Unfinished.FORECAST, forecast_id)
    try:
        committed = ForecastManifest.read(folder)
    except FileNotFoundError:
        committed = None
    names = () if options.resume == "never" else storage.list_names(unfinished)
    return _Resolved(
        dataset=dataset,
        dataset_folder=dataset_folder,
        model=model,
        start=start,
        symbols=symbols,
        forecast_id=forecast_id,
        folder=folder,
        committed=committed,
        unfinished=unfinished,
        finished=frozenset(name.removesuffix(".json") for name in names if name.endswith(".json")),
        resumes=bool(names),
    )


def _request(context: Context, resolved: _Resolved, part: Part) -> dict[str, Any]:
    """Returns the network and the settings of a part's training."""
    start = resolved.start[1] if resolved.start else None
    return make_request(context.options, part.count_lines(resolved.lines), resolved.symbols, start)


def _forecast(context: Context, resolved: _Resolved) -> ForecastManifest:
    """Trains and evaluates a model on each part, and commits what they say."""
    tests = [storage.join(resolved.dataset_folder, shard.name) for shard in resolved.dataset.shards_of("test")]
    labels, errors = [], []
    for number, part in enumerate(PARTS, 1):
        count = part.count_lines(resolved.lines)
        path = storage.join(resolved.unfinished, f"{part.name}.json")
        if part.name not in resolved.finished:
            log.info(f"training {number} of {len(PARTS)}, on {count:,} of {resolved.lines:,} labels")
            storage.write_json(path, _train_part(context, resolved, part, tests))
        labels.append(count)
        errors.append(storage.read_json(path))
    whole = load_beside_training(context.options, context.workspace.model(resolved.model.model_id))
    symbols, of_all = count_symbol_errors(tests, whole)
    labels.append(resolved.lines)
    errors.append(of_all)
    every = max(1, sum(symbols))
    measured = [CurvePoint(count, sum(some) / every) for count, some in sorted(zip(labels, errors, strict=True))]
    manifest = ForecastManifest(
        forecast_id=resolved.forecast_id,
        dataset_id=resolved.dataset.dataset_id,
        model_id=resolved.model.model_id,
        measured=measured,
        forecast=forecast_cer(labels, np.array(errors), np.array(symbols)),
        created_at=get_now().isoformat(timespec="seconds"),
    )
    Commit(resolved.unfinished, resolved.folder, FORECAST_NAME).finish(manifest)
    return manifest


def _train_part(context: Context, resolved: _Resolved, part: Part, tests: list[str]) -> list[int]:
    """Trains a model on a part; returns its errors on each test line."""
    request = _request(context, resolved, part)
    dataset, folder = resolved.dataset, resolved.dataset_folder
    with train_apart(
        context.options,
        storage.join(resolved.unfinished, part.name),
        request,
        least_steps=count_least_steps(request, resolved.symbols, resolved.start),
        write_dataset=lambda place: part.write_dataset(place, folder, dataset),
        start=resolved.start,
    ) as trained:
        output = trained["output_folder"]
        describe_model(output, f"{resolved.forecast_id}-{part.name}", request, dataset, folder).write(output)
        return count_symbol_errors(tests, load_beside_training(context.options, output))[1]


def _summarise(manifest: ForecastManifest) -> str:
    """Sums up the forecast in one sentence."""
    now = manifest.measured[-1]
    expected = ", ".join(
        f"{point.cer:.2%} ({_format(point.low)} to {_format(point.high)}) with {point.labels:,}"
        for point in manifest.forecast
    )
    return f"CER {now.cer:.2%} with {now.labels:,} labels; expected: {expected}"


def _format(rate: float | None) -> str:
    return "?" if rate is None else f"{rate:.2%}"
