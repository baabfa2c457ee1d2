"""The ingest step: labelled images to a committed dataset."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import apache_beam as beam

from components.ingest import IngestRequest
from components.ingest.transforms import AddToDataset, WriteDataset
from components.listing import ListingSummary, check_choice, choose_labels, find_roots
from components.training.recipes import TIME_STRIDE
from pipeline.engines.jobs import choose_processes, run_job
from pipeline.options import LinePipelineOptions
from pipeline.steps.corrections import find_image_tables, find_old_dataset
from pipeline.steps.listing import choose_images, list_collection
from pipeline.steps.step import (
    CODE_VERSION,
    Context,
    StepResult,
    format_rejects,
    is_intact,
    raise_if_refused,
    require_few_rejects,
)
from pipeline.workspace import LATEST, make_id
from tfrecords import SPLITS, Charset, CharsetError, DataError, DatasetManifest, SplitFractions, storage
from tfrecords.shards import choose_shard_count


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
                    split: (old.count_shards(split) if old else 0) + choose_shard_count(listing.splits.get(split, 0))
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
    shards = [(split, index) for split in SPLITS for index in range(request.old.count_shards(split))]
    sources = [*(("listing", path) for path in files), *(("shard", shard) for shard in shards)]
    work = AddToDataset(request, request.old, fractions)
    return pipeline | "Sources" >> beam.Create(sources) | "Ingest" >> work


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


def find_intact_dataset(context: Context, folder: str) -> DatasetManifest | None:
    """A committed dataset, if it is there; one that lost files since is removed, to be made again."""
    try:
        manifest = DatasetManifest.read(folder)
    except FileNotFoundError:
        return None
    sizes = {**{shard.name: shard.bytes for shard in manifest.shards}, **manifest.other_files}
    return manifest if is_intact(context, folder, sizes) else None
