"""The collection that the infer step recognises: the listed images, less those recognised before."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam

from components.counts import Counts
from components.inference.request import InferenceRequest
from components.inference.transforms import RecogniseCollection, RecogniseDataset
from components.listing import PathTables, find_roots_and_tables, location_to_uri
from components.listing.line_places import name_kind
from components.listing.listing import read_paths
from components.listing.page_files import find_page_file_beside
from components.predictions.runs import CommittedRun
from pipeline.steps.listing import list_collection
from pipeline.steps.sound_runs import set_aside_unreadable
from pipeline.steps.step import Context
from pipeline.steps.unread import find_unread
from pipeline.workspace import LATEST, Workspace, make_id, read_latest_dataset
from tfrecords import SPLITS, DataError, DatasetManifest
from tfrecords.directions import describe_lines
from tfrecords.shards import choose_shard_count

log = logging.getLogger(__name__)

DATASET_PREFIX = "dataset:"
_IMAGES_LOOKED_AT = 5


@dataclasses.dataclass(frozen=True)
class SelectedCollection:
    """The images to recognise: their counts, shards and digest, and the job that recognises them.

    Attributes:
        counts: of the listed images, as in an `InferenceRequest`.
        listing_s, unread_s: seconds that it took to list all images, and to find those that no run has read.
        same_run: a run that has recognised the very same images, if it is to be used instead.
    """

    counts: Counts
    shards: int
    digest: str
    build: Callable[[InferenceRequest, beam.Pipeline], object]
    listing_s: float = 0.0
    unread_s: float = 0.0
    same_run: CommittedRun | None = None

    @property
    def images(self) -> int:
        """Number of images to recognise."""
        return self.counts.to_read


@contextlib.contextmanager
def select_collection(
    context: Context, images: str, runs: list[CommittedRun], reading: dict[str, Any]
) -> Iterator[SelectedCollection]:
    """Lists the images of `--infer_images`, less those that earlier runs have read; they can be read inside the block.

    Args:
        reading: the model, limits and decoding of this run, as its manifest has them.
    """
    if images.startswith(DATASET_PREFIX):
        split = _select_split(context.workspace, images)
        readings = (original for run in runs for original in run.readings)
        same = [run for run in readings if run.manifest.inputs == split.digest and _matches(run, reading)]
        yield dataclasses.replace(split, same_run=same[-1] if same and not context.options.reread else None)
        return
    roots, paths = find_roots_and_tables(images, flag="--infer_images")
    tables = PathTables(tuple(paths), context.options.path_column)
    began = time.monotonic()
    listed_collection = list_collection(context, roots, None, None, flag="--infer_images", tables=tables)
    with listed_collection as (listing, files):
        listed = time.monotonic()
        first = itertools.islice(read_paths(files), _IMAGES_LOOKED_AT)
        if not context.options.pages and (page_file := find_page_file_beside(first)) is not None:
            log.warning(
                f"{location_to_uri(page_file)} is {name_kind(page_file)}: if the images are pages, whose lines such "
                "files give, say --pages; each image is read as one line now"
            )
        folder = os.path.dirname(files[0])
        unread, files = find_unread(context.options, listing, files, runs, **reading, folder=folder)
        set_aside_unreadable(context, runs, unread.damaged)

        def build(request: InferenceRequest, pipeline: beam.Pipeline) -> object:
            return pipeline | "Listings" >> beam.Create(files) | "Infer" >> RecogniseCollection(request)

        to_recognise = unread.listing
        counts = Counts(
            matched=to_recognise.images + unread.skipped,
            skipped=unread.skipped,
            repeats=listing.repeats,
            reread=unread.reread,
            retried=unread.retried,
        )
        yield SelectedCollection(
            counts,
            choose_shard_count(to_recognise.images),
            to_recognise.digest,
            build,
            listing_s=listed - began,
            unread_s=time.monotonic() - listed,
        )


def _matches(run: CommittedRun, reading: dict[str, Any]) -> bool:
    """Checks whether a run used the same model, limits and decoding, and has lost no file since."""
    return not run.manifest.lost and run.manifest.is_read_with(**reading)


def _select_split(workspace: Workspace, images: str) -> SelectedCollection:
    """Selects the split that `dataset:ID:SPLIT` names; the ID may be LATEST."""
    dataset_id, _, split = images.removeprefix(DATASET_PREFIX).partition(":")
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
        if request.vertical != dataset.vertical:
            raise DataError(
                f"--infer_images={images}: they are {describe_lines(dataset.vertical)}, but "
                f"model {request.model_id} reads {describe_lines(request.vertical)}"
            )
        numbered = beam.Create(list(enumerate(shards)))
        return pipeline | "Shards" >> numbered | "Infer" >> RecogniseDataset(request, folder, made_at)

    digest = make_id(shards=[shard.sha256 for shard in shards])
    return SelectedCollection(Counts(matched=dataset.examples(split)), len(shards), digest, build)
