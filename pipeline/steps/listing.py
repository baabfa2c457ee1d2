"""The listing of a collection, for the ingest and infer steps."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator

import apache_beam as beam

from components.archives.paths import get_file
from components.ingest.sample import render_sample
from components.listing import (
    SYSTEM_FOLDERS,
    Boundaries,
    LabelRules,
    ListingSummary,
    NameRule,
    PathTables,
    Places,
    describe_label_table,
    find_folders,
    find_path_rule,
    group_roots,
    location_to_uri,
)
from components.listing.files import find_size
from components.listing.transforms import JoinTables, ListCollection, ListOnce
from pipeline.engines.jobs import run_job
from pipeline.steps.step import Context
from pipeline.workspace import Unfinished, Workspace, make_id
from tfrecords import DataError, SplitFractions, StoreError, storage
from tfrecords.shards import choose_shard_count

log = logging.getLogger(__name__)


_BYTES_A_ROW = 64  # of a label table, as a guess
_ARTEFACTS = ("archives", "datasets", "models", "predictions", "rejects", "review", "runs", "unfinished")


def choose_images(context: Context) -> str:
    """Returns `--images`, or else the folder of the label table, or else the rendered sample."""
    options = context.options
    if options.images:
        return options.images
    if tables := options.label_rules.tables:
        folders = dict.fromkeys(_find_folder(table) for table in tables)
        log.info(f"no --images given: using the images beside the label table, in {', '.join(folders)}")
        return ",".join(folders)
    folder = render_sample(_require_sample_folder(context.workspace, "--images"))[0]
    log.info(f"no --images given: using the rendered sample collection in {folder}")
    return folder


def _find_folder(table: str) -> str:
    """Finds the folder of a table, or the archive that it lies in."""
    opened = get_file(table)
    return table.rpartition("/")[0] if opened == table else opened


@contextlib.contextmanager
def list_collection(
    context: Context,
    roots: list[str],
    labels: LabelRules | None,
    fractions: SplitFractions | None,
    *,
    flag: str,
    tables: PathTables | None = None,
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
    pages = context.options.page_rules
    name = make_id(roots=roots, tables=tables, labels=labels, pages=pages, template=context.options.template)
    folder = context.scratch.unfinished(Unfinished.LISTING, name)
    places = find_places(context, [*roots, *tables.paths])
    grouped = [*group_roots(roots, places), *([path] for path in tables.paths)]
    groups = [[location_to_uri(root) for root in group] for group in grouped]
    files = [storage.join(folder, f"{number:05d}.parquet") for number in range(len(groups))]
    summary_path = storage.join(folder, "summary.json")
    storage.remove_folder(folder)
    work = ListCollection(summary_path, labels, fractions, places, tables, pages)
    try:
        run_job(
            context.options,
            lambda pipeline: pipeline | "Roots" >> beam.Create(list(zip(groups, files, strict=True))) | "List" >> work,
            before_template=True,
        )
        summary = ListingSummary(**storage.read_json(summary_path))
        if not summary.images:
            raise DataError(
                f"{flag}: there is not one image in {', '.join([*roots, *tables.paths])}; is it the right folder?"
            )
        if summary.copies:
            one = summary.copies == 1
            log.info(
                f"{summary.copies:,} image{' is' if one else 's are'} named like {'a copy' if one else 'copies'}, as "
                f"'AB12 (2)' or 'AB12_1' beside 'AB12': {'it has' if one else 'they have'} the label of the original"
            )
        if tables.paths:
            summary, files = _list_once(context, fractions, summary, files, len(tables.paths), folder)
        if labels is not None and labels.source == "table":
            summary, files = _join_tables(context, labels, fractions, roots, summary, files, folder)
        yield summary, files
    except StoreError:
        raise  # nor could anything be removed
    except BaseException:
        storage.remove_folder(folder)
        raise
    if not context.options.template:
        storage.remove_folder(folder)


def find_places(context: Context, roots: list[str]) -> Places:
    """Finds the places of all roots of a collection, whose archives have their indexes in the workspace."""
    return Places.from_roots(roots, draw_boundaries(context), context.workspace.archives)


def draw_boundaries(context: Context) -> Boundaries:
    """Draws the boundaries of a collection: `--follow_links`, and the workspace, whose pictures are no collection."""
    workspace = storage.resolve_path(context.workspace.root)
    artefacts = (storage.join(workspace, name) for name in _ARTEFACTS)
    return Boundaries(
        context.options.follow_links,
        closed=(*SYSTEM_FOLDERS, workspace),
        closed_to_rows=(*SYSTEM_FOLDERS, *artefacts),  # rows may name the sample, and what was rendered
    )


def _join_tables(
    context: Context,
    rules: LabelRules,
    fractions: SplitFractions | None,
    roots: list[str],
    listed: ListingSummary,
    files: list[str],
    folder: str,
) -> tuple[ListingSummary, list[str]]:
    """Writes listing files with the labels of the tables, from listing files without."""
    log.info(f"joining {listed.images:,} images and the rows of {rules}")
    rows = sum(find_size(table) or 0 for table in rules.tables) // _BYTES_A_ROW
    count = choose_shard_count(max(listed.images, rows))
    joined = [storage.join(folder, f"labelled-{number:05d}.parquet") for number in range(count)]
    summary_path = storage.join(folder, "labelled.json")
    sources = [*(("listing", path) for path in files), *(("table", number) for number in range(len(rules.tables)))]
    for table in rules.tables:
        if (form := describe_label_table(table, rules.columns)) is not None:
            log.info(f"{location_to_uri(table)} {form}")
    path_rules = [find_path_rule(table, rules.columns, find_folders(roots)) for table in rules.tables] if roots else []
    for table, rule in zip(rules.tables, path_rules, strict=False):
        if isinstance(rule, NameRule):
            log.info(
                f"the paths in {location_to_uri(table)} do not lead to the images as they stand: images are found by "
                "the ends of their paths, and by names that only one image has"
            )
        elif rule is not None:
            dropped = f", without {rule.prefix!r} at their beginning" if rule.prefix else ""
            log.info(f"the paths in {location_to_uri(table)} are read as those of files in {rule.folder}{dropped}")
    work = JoinTables(summary_path, joined, rules, fractions, path_rules)
    run_job(
        context.options,
        lambda pipeline: pipeline | "Sources" >> beam.Create(sources) | "Join" >> work,
    )
    summary = ListingSummary(**storage.read_json(summary_path))
    if summary.images + summary.left_out != listed.images:
        raise RuntimeError(f"{listed.images} images were listed, but {summary.images} were joined with their labels")
    if summary.left_out:
        log.info(f"{rules} marks {summary.left_out:,} of the images as cut out wrongly (err): left out")
    said = ", ".join(f"{count:,} {how}" for how, count in summary.matched.items())
    log.info(f"{sum(summary.matched.values()):,} rows lead to an image{f': {said}' if said else ''}")
    summary = dataclasses.replace(summary, passed_over=listed.passed_over)
    return summary, [path for path in joined if storage.exists(path)]


def _list_once(
    context: Context,
    fractions: SplitFractions | None,
    listed: ListingSummary,
    files: list[str],
    tables: int,
    folder: str,
) -> tuple[ListingSummary, list[str]]:
    """Writes listing files that hold each image once.

    Args:
        files: listing files of folders and, at the end, of some tables of paths.
        tables: the number of those that are of tables.
    """
    count = choose_shard_count(
        listed.images // 8
    )  # larger than shards, since only names meet: many small blocks cost memory
    unique = [storage.join(folder, f"once-{number:05d}.parquet") for number in range(count)]
    summary_path = storage.join(folder, "once.json")
    kinds = ["folders"] * (len(files) - tables) + ["table"] * tables
    work = ListOnce(summary_path, unique, fractions)
    run_job(
        context.options,
        lambda pipeline: pipeline | "Listings" >> beam.Create(list(zip(kinds, files, strict=True))) | "Once" >> work,
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
        log.info(f"{summary.repeats:,} {rows} that another row or a folder has too; each image is read once")
    summary = dataclasses.replace(summary, passed_over=listed.passed_over)
    return summary, [path for path in unique if storage.exists(path)]


def _require_sample_folder(workspace: Workspace, flag: str) -> str:
    """Returns the folder of the sample; raises a `DataError` where it cannot be."""
    if storage.is_remote(workspace.root):
        raise DataError(
            f"{flag} is needed with --workspace={workspace.root}: the sample is rendered into local folders"
        )
    return workspace.sample


def find_sample(workspace: Workspace) -> str:
    """Returns the folder of the sample's unlabelled images; raises a `DataError` if there is none."""
    folder = storage.join(_require_sample_folder(workspace, "--infer_images"), "unlabelled")
    if not storage.exists(folder):
        raise DataError(f"--infer_images says what to read: there is no sample collection in {workspace.root}")
    return folder
