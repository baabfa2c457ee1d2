"""The ingest step: it turns labelled images into a committed dataset."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam

from components.ingest import IngestRequest
from components.ingest.addition import OldDataset
from components.ingest.dataset import DATASET_VERSION, SUMMARIES_NAME
from components.ingest.sample import LABELLED, is_sample_rendered
from components.ingest.transforms import AddToDataset, WriteDataset
from components.lines import prepare_decoding
from components.listing import (
    LabelRules,
    ListingSummary,
    PathTables,
    check_choice,
    choose_labels,
    choose_splits,
    find_roots,
    hold_out,
    refuse_images_without_split,
)
from components.training.recipes import TIME_STRIDE
from pipeline.engines.jobs import choose_processes, run_job
from pipeline.options import LinePipelineOptions
from pipeline.steps.charset_choice import choose_charset
from pipeline.steps.corrections import find_image_tables, find_old_dataset, warn_of_other_splits
from pipeline.steps.estimate import estimate_time
from pipeline.steps.listing import choose_images, draw_boundaries, find_places, list_collection
from pipeline.steps.step import (
    Context,
    Outcome,
    Plan,
    StepResult,
    format_rejects,
    plan_refusal,
    raise_if_refused,
    require_few_rejects,
)
from pipeline.workspace import LATEST, Unfinished, make_id
from tfrecords import SPLITS, Charset, DatasetManifest, SplitFractions, storage
from tfrecords.directions import VISUAL
from tfrecords.shards import choose_shard_count

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Resolved:
    """The listed images, and the dataset to make of them.

    Attributes:
        where: the folders or tables of the images, in words.
        listing: of the images.
        files: the files of the listing, which exist inside the block.
        rules: the source of the labels.
        fractions: of the images for validation and test; where the collection gives splits, of those for training.
        splits: images by split, where they decide about the number of shards.
        charset: of the dataset.
        old: the dataset to whose examples the images are added.
        dataset_id: digest of all this and the options.
        folder: of the committed dataset.
        unfinished: of work in progress.
        committed: the committed dataset, if it is whole.
        damage: what is wrong with a committed one.
    """

    where: str
    listing: ListingSummary
    files: list[str]
    rules: LabelRules
    fractions: SplitFractions
    splits: dict[str, int]
    charset: Charset
    old: OldDataset | None
    dataset_id: str
    folder: str
    unfinished: str
    committed: DatasetManifest | None
    damage: str | None

    @functools.cached_property
    def finished_shards(self) -> int:
        """Number of shards that an earlier command finished."""
        return len(storage.list_names(storage.join(self.unfinished, SUMMARIES_NAME)))

    @property
    def outcome(self) -> Outcome:
        """The outcome for the dataset."""
        if self.committed is not None:
            return Outcome.REUSED
        if self.damage is not None:
            return Outcome.REMADE
        return Outcome.RESUMED if self.finished_shards else Outcome.MADE


class IngestStep:
    """Writes labelled images as a dataset of TFRecords."""

    name = "ingest"
    place = "dataset"

    def run(self, context: Context) -> StepResult:
        """Commits the dataset, or finds it committed."""
        options, workspace = context.options, context.workspace
        with _resolve(context) as resolved:
            outcome = resolved.outcome
            if resolved.committed is not None:
                storage.remove_folder(resolved.unfinished)
            else:
                if resolved.damage is not None:
                    log.warning(f"{resolved.damage}: it was damaged after it was committed, and is made again")
                    storage.remove_folder(resolved.folder)
                request = _make_request(options, resolved)
                log.info(f"encoding {resolved.listing.images:,} images as TFRecords")
                write = functools.partial(_write_dataset, resolved.files, request, resolved.fractions)
                run_job(options, write, prepare=functools.partial(prepare_decoding, processes=request.processes))
                raise_if_refused(resolved.unfinished, resolved.unfinished)
        manifest = resolved.committed or DatasetManifest.read(resolved.folder)
        workspace.write_pointer("datasets", LATEST, manifest.dataset_id)
        for warning in manifest.warnings:
            log.warning(warning)
        figures = {
            "dataset_id": manifest.dataset_id,
            "matched": manifest.matched,
            "added_to": manifest.added_to,
            "kept": manifest.kept,
            "examples": manifest.counts,
            "rejects": manifest.rejects,
            "warnings": list(manifest.warnings),
            "symbols": len(resolved.charset.symbols),
        }
        return StepResult(
            _summarise(manifest, resolved),
            resolved.folder,
            figures,
            outcome,
            rejects=manifest.rejects,
            rejects_folder=resolved.folder,
        )

    def plan(self, context: Context) -> Plan:
        """Lists the images on this machine, and says what would be made of them."""
        options, workspace = context.options, context.workspace
        if not options.images and not options.label_rules.tables and not is_sample_rendered(workspace.sample):
            workspace.expect("datasets", LATEST, None)
            return Plan(
                Outcome.MADE,
                [
                    f"render the sample collection in {workspace.sample}, {LABELLED:,} labelled images",
                    f"write a dataset of lines {options.height} pixels high to {workspace.dataset('ID')}",
                    estimate_time(workspace, self.name, "matched", LABELLED),
                ],
            )
        with _resolve(context) as resolved:
            workspace.expect("datasets", LATEST, resolved.dataset_id)
            images = resolved.listing.images
            lines = [f"read {images:,} images {resolved.where}"]
            if resolved.old:
                lines.append(f"add them to the {resolved.old.examples:,} examples of dataset {resolved.old.dataset_id}")
            if resolved.committed is not None:
                return Plan(
                    Outcome.REUSED,
                    [*lines, f"nothing to write: {resolved.folder} is there already, made from the very same images"],
                )
            if resolved.damage is not None:
                lines.append(f"{resolved.damage}: it was damaged after it was committed, and is made again")
            lines += plan_refusal(options, resolved.unfinished, images)
            if finished := resolved.finished_shards:
                shards = sum(_count_shards(resolved).values())
                lines.append(f"resume: {finished:,} of {shards:,} shards are finished")
            lines.append(f"write dataset {resolved.dataset_id}, lines {options.height} pixels high")
            lines.append(f"to {resolved.folder}")
            lines.append(estimate_time(workspace, self.name, "matched", images))
            return Plan(resolved.outcome, lines)

    def count_images(self, figures: Mapping[str, Any]) -> int:
        """Counts the images that were matched."""
        return figures.get("matched", 0)


@contextlib.contextmanager
def _resolve(context: Context) -> Iterator[_Resolved]:
    """Lists the images with their labels, and determines the dataset that they make.

    Raises:
        DataError: if there are no images, none has a label, the flags do not fit them, or the dataset that they make
            is there and has too many rejects.
    """
    options, workspace = context.options, context.workspace
    old = find_old_dataset(options, workspace)
    tables = find_image_tables(options)
    roots = [] if tables.paths else find_roots(choose_images(context), flag="--images")
    auto = options.label_rules.source == "auto"  # else no image is looked at, nor a bucket asked
    rules, why = choose_labels(options.label_rules, roots, find_places(context, roots) if auto else None)
    if why:
        log.info(why)
    rules, why = choose_splits(rules, roots, draw_boundaries(context))
    if why:
        log.info(why)
    if old is not None:
        warn_of_other_splits(old, rules.split_by)
    given = rules.split_by == "given"
    fractions = SplitFractions(0, 0) if given else options.split_fractions
    with _list_labelled(context, roots, rules, fractions, tables) as (rules, listing, files):
        if options.label_source == "auto":
            check_choice(rules, listing, files, roots)
        splits = listing.splits
        if given:
            if options.split_by == "auto":
                refuse_images_without_split(listing, files)
            fractions, splits, said = hold_out(splits, options.split_fractions)
            for sentence in said:
                log.info(sentence)
        charset = choose_charset(options, listing, old)
        dataset_id = make_id(
            version=DATASET_VERSION,
            inputs=listing.digest,
            labels=_describe_rules(rules),
            height=options.height,
            time_stride=TIME_STRIDE,
            charset=charset.digest,
            fractions=dataclasses.asdict(fractions),
            limits=options.image_limits.describe(),
            **({"add_to": old.dataset_id} if old else {}),
            **({"base_direction": charset.direction} if charset.direction != VISUAL else {}),
            **({"vertical": True} if options.vertical else {}),
        )
        folder = workspace.dataset(dataset_id)
        committed, damage = _find_dataset(folder)
        if committed is not None:
            require_few_rejects(options, committed.rejects, committed.matched - committed.kept, folder)
        unfinished = workspace.unfinished(Unfinished.DATASET, dataset_id)
        where = f"that {' and '.join(tables.paths)} names" if tables.paths else f"below {', '.join(roots)}"
        yield _Resolved(
            where,
            *(listing, files, rules, fractions, splits, charset, old),
            *(dataset_id, folder, unfinished, committed, damage),
        )


@contextlib.contextmanager
def _list_labelled(
    context: Context, roots: list[str], rules: LabelRules, fractions: SplitFractions, tables: PathTables
) -> Iterator[tuple[LabelRules, ListingSummary, list[str]]]:
    """Lists the images with their labels; too few pages for all splits are dealt line by line, if nobody said how."""
    flag = "--label_source" if tables.paths else "--images"
    shares = {"train": 1.0, "validation": fractions.validation, "test": fractions.test}
    with list_collection(context, roots, rules, fractions, flag=flag, tables=tables) as (listing, files):
        empty = [split for split, share in shares.items() if share and not listing.splits.get(split)]
        if not empty or rules.split_by != "page" or context.options.split_by != "auto":
            yield rules, listing, files
            return
    log.warning(
        f"there are so few pages that none would be in the {empty[0]} split: each line is split by itself, and the "
        "evaluation will look better than it does on other pages; --split_by=page keeps pages together"
    )
    rules = dataclasses.replace(rules, split_by="image")
    with list_collection(context, roots, rules, fractions, flag=flag, tables=tables) as (listing, files):
        yield rules, listing, files


def _describe_rules(rules: LabelRules) -> dict[str, Any]:
    """Describes rules for a dataset's ID, which stays the same as before there were empty labels."""
    described = dataclasses.asdict(rules)
    return described if rules.keep_empty else {name: described[name] for name in described if name != "keep_empty"}


def _find_dataset(folder: str) -> tuple[DatasetManifest | None, str | None]:
    """Returns a committed dataset that is whole, or what is wrong with it; twice None if there is none."""
    try:
        manifest = DatasetManifest.read(folder)
    except FileNotFoundError:
        return None, None
    sizes = {**{shard.name: shard.bytes for shard in manifest.shards}, **manifest.other_files}
    damage = storage.find_missing_or_changed(folder, sizes)
    return (manifest, None) if damage is None else (None, damage)


def _count_shards(resolved: _Resolved) -> dict[str, int]:
    """Counts the shards of each split, those of an old dataset included."""
    old, splits = resolved.old, resolved.splits
    return {
        split: (old.count_shards(split) if old else 0) + choose_shard_count(splits.get(split, 0)) for split in SPLITS
    }


def _make_request(options: LinePipelineOptions, resolved: _Resolved) -> IngestRequest:
    """Makes the job's request."""
    old, listing = resolved.old, resolved.listing
    return IngestRequest(
        dataset_id=resolved.dataset_id,
        folder=resolved.unfinished,
        destination=resolved.folder,
        images=listing.images,
        shards=_count_shards(resolved),
        height=options.height,
        time_stride=TIME_STRIDE,
        charset=resolved.charset,
        limits=options.image_limits,
        max_reject_fraction=options.max_reject_fraction,
        processes=choose_processes(options, listing.images),
        split_by=old.split_by if old and old.split_by != "image" else resolved.rules.split_by,
        label_source=str(resolved.rules),
        listings=tuple(resolved.files),
        unused_labels=listing.unused_labels,
        passed_over=listing.passed_over,
        old=old,
        vertical=options.vertical,
    )


def _summarise(manifest: DatasetManifest, resolved: _Resolved) -> str:
    """Sums up in one sentence what became of the images."""
    counts, old = manifest.counts, resolved.old
    summary = (
        f"dataset {manifest.dataset_id}: {manifest.matched:,} images matched, {sum(counts.values()):,} written "
        f"({', '.join(f'{counts[split]:,} {split}' for split in SPLITS)}), {format_rejects(manifest.rejects)}"
    )
    if old:
        summary += f"; {manifest.kept:,} of the {old.examples:,} examples of dataset {old.dataset_id} are among them"
    if manifest.unused_labels:
        unused = sum(manifest.unused_labels.values())
        summary += f"; {unused:,} label{'' if unused == 1 else 's'} without an image"
    if resolved.committed is not None:
        summary += "; it was there already, made from the very same images"
    return summary


def _write_dataset(
    files: list[str], request: IngestRequest, fractions: SplitFractions, pipeline: beam.Pipeline
) -> object:
    """Builds the job that writes a dataset of listed images, or of these and an old dataset."""
    if request.old is None:
        return pipeline | "Listings" >> beam.Create(files) | "Ingest" >> WriteDataset(request, fractions)
    shards = [(split, index) for split in SPLITS for index in range(request.old.count_shards(split))]
    sources = [*(("listing", path) for path in files), *(("shard", shard) for shard in shards)]
    work = AddToDataset(request, request.old, fractions)
    return pipeline | "Sources" >> beam.Create(sources) | "Ingest" >> work
