"""The forecast step: it says what more labels would bring, from models that are trained on parts of the labels."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from components.commit import Commit
from components.evaluation.learning_curve import PARTS, CurvePoint, Part, count_symbol_errors, forecast_cer
from components.training.base_weights import BASE
from components.training.diagnosis import get_lowest_cer, has_never_begun
from pipeline.steps.estimate import estimate_time
from pipeline.steps.repeated_training import read_epochs
from pipeline.steps.step import Context, Outcome, Plan, StepResult, get_now, require_test_split
from pipeline.steps.train import ResolvedTraining, count_least_steps, describe_model, make_request, resolve_training
from pipeline.steps.training_apart import load_beside_training, train_apart
from pipeline.steps.training_start import NONE
from pipeline.workspace import LATEST, Unfinished, make_id
from tfrecords import DataError, storage

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
        whole: the training on all labels, which was done.
        requests: the network and the settings of each part's training.
        forecast_id: digest of all this.
        folder: of the committed forecast.
        committed: the forecast, if it is there.
        unfinished: of work in progress.
        finished: names of the parts whose models were evaluated by an earlier command.
        resumes: whether an earlier command left anything.
    """

    whole: ResolvedTraining
    requests: dict[Part, dict[str, Any]]
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
        return self.whole.dataset.examples("train")


class ForecastStep:
    """Forecasts the CER of a model with twice and four times the labels of the latest dataset."""

    name = "forecast"
    place = "forecast"

    def run(self, context: Context) -> StepResult:
        """Commits the forecast, or finds it committed.

        Raises:
            DataError: if no model was trained on the dataset, or it is too small for models of parts of it.
            TrainingLostError: if training workers were killed too often.
        """
        resolved = _resolve(context)
        manifest = resolved.committed or _forecast(resolved, context)
        summary = _summarise(manifest)
        if resolved.committed is not None:
            summary += "; it was there already"
        points = [*manifest.measured, *manifest.forecast]
        figures: dict[str, Any] = {
            "forecast_id": manifest.forecast_id,
            "model_id": manifest.model_id,
            "curve": [dataclasses.asdict(point) for point in points],
        }
        return StepResult(summary, resolved.folder, figures, resolved.outcome)

    def plan(self, context: Context) -> Plan:
        """Says how many trainings the forecast takes."""
        workspace = context.workspace
        if workspace.expects("models", LATEST) or workspace.expects("datasets", LATEST):
            return Plan(None, [f"{len(PARTS)} trainings on parts of the labels that the new model is trained on"])
        resolved = _resolve(context)
        lines = [
            f"what more labels than the {resolved.lines:,} of dataset {resolved.whole.dataset.dataset_id} would bring"
        ]
        if resolved.committed is not None:
            return Plan(Outcome.REUSED, [*lines, f"nothing to train: {resolved.folder} is there already"])
        left = [part for part in PARTS if part.name not in resolved.finished]
        sizes = ", ".join(f"{part.count_lines(resolved.lines):,}" for part in PARTS)
        lines.append(f"{len(PARTS)} trainings, on {sizes} labels, of which {len(left)} are left")
        epochs = (part.count_lines(resolved.lines) * resolved.requests[part]["epochs"] for part in left)
        lines.append(estimate_time(workspace, "train", "image_epochs", sum(epochs)))
        return Plan(resolved.outcome, lines)

    def count_images(self, figures: Mapping[str, Any]) -> int:
        """Returns 0: a speed in images a second is said by each epoch."""
        del figures
        return 0


def _resolve(context: Context) -> _Resolved:
    """Finds the model that the train step makes of the latest dataset with the same flags.

    Raises:
        DataError: if it was not trained, or the dataset is too small.
    """
    options, workspace = context.options, context.workspace
    if options.init_from not in (None, BASE, NONE):
        raise DataError(
            f"--init_from={options.init_from} has seen labels that the forecast holds back: leave the flag out, for a "
            "model that is trained from the beginning"
        )
    whole = resolve_training(options, workspace)
    dataset = whole.dataset
    if whole.committed is None:
        raise DataError(
            f"no model was trained on dataset {dataset.dataset_id} with these flags: run the train step first, with "
            "the same flags (--steps=train,forecast)"
        )
    require_test_split(dataset)
    lines = dataset.examples("train")
    if lines < _LEAST_LINES:
        raise DataError(
            f"dataset {dataset.dataset_id} has {lines:,} training lines: a forecast takes models of a quarter of them, "
            f"and at least {_LEAST_LINES}: ingest more images"
        )
    kept = whole.request.get("kept_symbols", "")
    requests = {
        part: make_request(options, part.count_lines(lines), whole.symbols, whole.start, kept) for part in PARTS
    }
    forecast_id = make_id(
        version=_FORECAST_VERSION,
        model_id=whole.model_id,
        requests={part.name: request for part, request in requests.items()},
    )
    folder = storage.join(workspace.root, "forecasts", forecast_id)
    unfinished = workspace.unfinished(Unfinished.FORECAST, forecast_id)
    try:
        committed = ForecastManifest.read(folder)
    except FileNotFoundError:
        committed = None
    names = () if options.resume == "never" else storage.list_names(unfinished)
    return _Resolved(
        whole=whole,
        requests=requests,
        forecast_id=forecast_id,
        folder=folder,
        committed=committed,
        unfinished=unfinished,
        finished=frozenset(name.removesuffix(".json") for name in names if name.endswith(".json")),
        resumes=bool(names),
    )


def _forecast(resolved: _Resolved, context: Context) -> ForecastManifest:
    """Trains and evaluates a model on each part, and commits what they say."""
    whole = resolved.whole
    tests = [storage.join(whole.dataset_folder, shard.name) for shard in whole.dataset.shards_of("test")]
    labels, errors = [], []
    for number, part in enumerate(PARTS, 1):
        count = part.count_lines(resolved.lines)
        path = storage.join(resolved.unfinished, f"{part.name}.json")
        if part.name not in resolved.finished:
            log.info(f"training {number} of {len(PARTS)}, on {count:,} of {resolved.lines:,} labels")
            storage.write_json(path, _train_part(resolved, context, part, tests))
        labels.append(count)
        errors.append(storage.read_json(path))
    symbols, of_all = count_symbol_errors(tests, load_beside_training(whole.folder))
    labels.append(resolved.lines)
    errors.append(of_all)
    every = max(1, sum(symbols))
    manifest = ForecastManifest(
        forecast_id=resolved.forecast_id,
        dataset_id=whole.dataset.dataset_id,
        model_id=whole.model_id,
        measured=[CurvePoint(count, sum(some) / every) for count, some in sorted(zip(labels, errors, strict=True))],
        forecast=forecast_cer(labels, np.array(errors), np.array(symbols)),
        created_at=get_now().isoformat(timespec="seconds"),
    )
    Commit(resolved.unfinished, resolved.folder, FORECAST_NAME).finish(manifest)
    return manifest


def _train_part(resolved: _Resolved, context: Context, part: Part, tests: list[str]) -> list[int]:
    """Trains a model on a part; returns its errors on each test line.

    Raises:
        DataError: if the model does not learn to read.
    """
    whole, request = resolved.whole, resolved.requests[part]
    dataset, folder = whole.dataset, whole.dataset_folder
    least_steps = count_least_steps(request, whole.symbols, whole.start)
    with train_apart(
        context.options,
        storage.join(resolved.unfinished, part.name),
        request,
        least_steps=least_steps,
        write_dataset=lambda place: part.write_dataset(place, folder, dataset),
        start=whole.start,
    ) as trained:
        if has_never_begun(epochs := read_epochs(trained), least_steps):
            raise DataError(
                f"a model of {part.count_lines(resolved.lines):,} of the {resolved.lines:,} labels has not begun to "
                f"read, its CER is {get_lowest_cer(epochs):.0%}, so that nothing can be forecast: label more images"
            )
        output = trained["output_folder"]
        describe_model(output, f"{resolved.forecast_id}-{part.name}", request, dataset, folder).write(output)
        return count_symbol_errors(tests, load_beside_training(output))[1]


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
