"""The explain step: it tells what the workspace knows of one image, and changes nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from components.counts import format_count
from components.ingest.dataset import UNUSED_LABELS_NAME
from components.lineage.history import DatasetFacts, ImageHistory, ModelFacts, describe_history
from components.lineage.names import ImageName
from components.lineage.traces import (
    Collector,
    Example,
    Found,
    GivenOut,
    Reading,
    RejectRow,
    TaughtLabel,
    find_examples,
    find_given_out,
    find_readings,
    find_rejects,
    find_taught_labels,
)
from components.predictions.runs import CommittedRun, find_all_runs, find_merged_ids, map_concurrently
from components.recogniser.manifest import ModelManifest
from components.review.given_out import ReviewManifest, read_reviews
from components.training.taught_labels import TAUGHT_NAME
from pipeline.steps.step import Context, Outcome, Plan, StepResult
from pipeline.workspace import ACCEPTED, Workspace
from tfrecords import DataError, DatasetManifest, StoreError, storage

log = logging.getLogger(__name__)
_Manifest = TypeVar("_Manifest")
_KINDS: Mapping[str, type[Any]] = {
    "datasets": Example,
    "taught": TaughtLabel,
    "readings": Reading,
    "rejects": RejectRow,
    "reviews": GivenOut,
}


@dataclasses.dataclass(frozen=True)
class _Resolved:
    """The places in which traces of an image may be.

    Attributes:
        name: of the image.
        datasets, models, reviews: every committed one, by its folder.
        runs: the committed runs of predictions, without those that were merged into others.
    """

    name: ImageName
    datasets: Mapping[str, DatasetManifest]
    models: Mapping[str, ModelManifest]
    runs: list[CommittedRun]
    reviews: Mapping[str, ReviewManifest]

    def __str__(self) -> str:
        """Counts the places."""
        places = {"dataset": self.datasets, "model": self.models, "run": self.runs, "review": self.reviews}
        return _join_counts({noun: len(there) for noun, there in places.items()})

    def list_searches(self) -> Iterator[tuple[str, Callable[[], list[Found]]]]:
        """Yields the path of each file that may have traces, and the search for them in it."""
        name = self.name
        for folder, dataset in self.datasets.items():
            for shard in dataset.shards:
                search = functools.partial(find_examples, name, folder, dataset.dataset_id, shard)
                yield storage.join(folder, shard.name), search
            unused = [UNUSED_LABELS_NAME] if dataset.unused_labels else []
            for path in (storage.join(folder, file) for file in (*dataset.reject_files, *unused)):
                yield path, functools.partial(find_rejects, name, path)
        for folder, model in self.models.items():
            if TAUGHT_NAME in model.files:
                path = storage.join(folder, TAUGHT_NAME)
                yield path, functools.partial(find_taught_labels, name, model.model_id, path)
        for run in self.runs:
            for path in run.files:
                yield path, functools.partial(find_readings, name, run, path)
            for path in run.reject_files:
                yield path, functools.partial(find_rejects, name, path)
        for folder, review in self.reviews.items():
            yield folder, functools.partial(find_given_out, name, folder, review)


class ExplainStep:
    """Tells of one image in which datasets it is, which models learned it, and what became of it in each run."""

    name = "explain"
    place = "workspace"

    def run(self, context: Context) -> StepResult:
        """Looks through the whole workspace.

        Raises:
            DataError: if the name that was given is the end of several URIs.
        """
        workspace = context.workspace
        resolved = _resolve(context)
        log.info(f"looking for {resolved.name.given} in {resolved}")
        found = _search(resolved, remote=storage.is_remote(workspace.root))
        if found is None:
            summary = f"{resolved.name.given} is nowhere known in {workspace.root}: {resolved} do not name it"
            return StepResult(summary, workspace.root, {"uri": None}, Outcome.NOTHING)
        uri, traces = found
        history = ImageHistory(uri, traces, _describe_datasets(resolved), _describe_models(workspace, resolved))
        figures: dict[str, Any] = {
            name: [dataclasses.asdict(trace) for trace in history.select(kind)] for name, kind in _KINDS.items()
        }
        nouns = {"datasets": "dataset", "readings": "reading", "rejects": "reject", "reviews": "review"}
        return StepResult(
            f"{uri}: {_join_counts({noun: len(figures[name]) for name, noun in nouns.items()})}",
            workspace.root,
            {"uri": uri, **figures},
            closing=["", uri, *describe_history(history)],
        )

    def plan(self, context: Context) -> Plan:
        """Says where the image would be looked for."""
        resolved = _resolve(context)
        return Plan(Outcome.MADE, [f"look for {resolved.name.given} in {resolved}"])

    def count_images(self, figures: Mapping[str, Any]) -> int:
        """Returns 0: no image is looked at."""
        del figures
        return 0


def _resolve(context: Context) -> _Resolved:
    """Finds the datasets, models, runs and reviews of the workspace; warns of those whose manifests are damaged."""
    root = context.workspace.root
    runs = find_all_runs(context.workspace.all_predictions, on_damage=log.warning)
    merged = find_merged_ids(runs)
    return _Resolved(
        ImageName.parse(context.options.uri),
        _read_manifests(storage.join(root, "datasets"), DatasetManifest.read),
        _read_manifests(storage.join(root, "models"), ModelManifest.read),
        [run for run in runs if run.run_id not in merged],
        dict(read_reviews(storage.join(root, "review"))),
    )


def _join_counts(counts: Mapping[str, int]) -> str:
    """Writes numbers with their nouns, as in "3 runs and 1 review"."""
    parts = [format_count(number, noun) for noun, number in counts.items()]
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _read_manifests(parent: str, read: Callable[[str], _Manifest]) -> dict[str, _Manifest]:
    """Reads the manifests of all committed folders in a folder, by their paths."""
    manifests = {}
    for name in storage.list_names(parent):
        folder = storage.join(parent, name)
        try:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                manifests[folder] = read(folder)
        except StoreError:
            raise
        except (DataError, TypeError) as error:
            log.warning(f"{folder} is left out: {error}")
    return manifests


def _search(resolved: _Resolved, *, remote: bool) -> tuple[str, list[Any]] | None:
    """Searches every file; warns of those that cannot be read."""

    def search(place: tuple[str, Callable[[], list[Found]]]) -> list[Found]:
        path, find = place
        try:
            return find()
        except StoreError:
            raise
        except (DataError, FileNotFoundError):
            log.warning(f"{path} is damaged or gone: what it says of the image is not known")
            return []

    collector = Collector(resolved.name)
    for found in map_concurrently(search, resolved.list_searches(), remote=remote):
        collector.add(found)
    return collector.choose()


def _describe_datasets(resolved: _Resolved) -> dict[str, DatasetFacts]:
    described = {}
    for folder, dataset in resolved.datasets.items():
        source = None
        with contextlib.suppress(DataError):  # statistics.json may be gone
            source = dataset.read_statistics(folder).get("label_source")
        described[dataset.dataset_id] = DatasetFacts(dataset.created_at, dataset.added_to, source)
    return described


def _describe_models(workspace: Workspace, resolved: _Resolved) -> dict[str, ModelFacts]:
    accepted = workspace.read_pointer("models", ACCEPTED)
    return {
        model.model_id: ModelFacts(
            model.created_at, model.dataset_id, model.options.get("init_from"), model.model_id == accepted
        )
        for model in resolved.models.values()
    }
