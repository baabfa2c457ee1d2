"""The images of a collection: walking its roots, and the rule for which file counts as an image.

Every file that is not hidden and not a companion (`.txt`, tables, …) counts
as an image until its bytes say otherwise, so none is lost silently.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import logging
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping

from components.archives.lookup import find_member
from components.archives.paths import find_member_path, is_packed
from components.listing.boundaries import Boundaries
from components.listing.copies import find_original, find_original_name, may_be_copy
from components.listing.labels import (
    LabelRules,
    SidecarFolder,
    quote_text,
    read_label_from_name,
    read_label_from_sidecar,
)
from components.listing.line_places import find_line_place
from components.listing.references import (
    ImageReference,
    join_path,
    location_to_uri,
    path_to_uri,
    strip_suffix,
    strip_variant,
)
from components.listing.roots import Places, find_root_folder
from components.listing.walking import Folder, leads_to_folder, walk_root
from components.processes import map_in_threads
from components.rejects import Reject
from tfrecords import DataError, storage

log = logging.getLogger(__name__)

COMPANION_SUFFIXES = (
    *(".txt", ".csv", ".tsv", ".jsonl", ".json", ".xml", ".md", ".html", ".yaml", ".yml", ".log", ".ini", ".db"),
    *(".xlsx", ".xls", ".ods", ".parquet"),
    *(".box", ".lstmf"),  # which the training of Tesseract writes beside its lines
    "lock.mdb",  # beside an LMDB database
)
_THREADS, _AHEAD = 32, 256  # for an object store, which is asked about each file by itself


@dataclasses.dataclass
class Tally:
    """Counts of what was found beside the images.

    Attributes:
        passed_over: files that do not count as images, by suffix, and `hidden` ones; in an object store also
            `folder`: the empty objects with which its tools mark folders; on a disk also `link`: links that are not to
            be followed.
        with_sidecar: images that have a text file beside them.
        unused_labels: text files whose image is missing, if labels come from text files.
        copies: images with the labels of their originals, if labels come from names.
        matched: rows of tables that have an image, by how they lead to it.
        left_out: images that a table says are to be left out.
    """

    passed_over: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    with_sidecar: int = 0
    unused_labels: list[Reject] = dataclasses.field(default_factory=list)
    copies: int = 0
    matched: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    left_out: int = 0


def list_images(
    root: str, labels: LabelRules | None = None, tally: Tally | None = None, places: Places | None = None
) -> Iterator[ImageReference]:
    """Lists every image at or below a root, in sorted order, with its label if rules for labels are given.

    A folder below the root that cannot be listed comes as one reference with a problem.

    Args:
        root: absolute path or URL of a folder or one file.
        labels: where labels are; those of a table are joined later, see `join_labels`.
        tally: counts what is found beside the images.
        places: of all roots of the collection; without it this root is the only one.

    Raises:
        DataError: if the root cannot be listed.
    """
    tally = Tally() if tally is None else tally
    places = Places.from_roots([root]) if places is None else places
    single = not places.is_folder(root)
    remote = storage.is_remote(root)
    root = storage.canonicalise(root) if remote else root
    root_folder = find_root_folder(root, not single)
    parent = places.get_key_parent(root_folder)
    text_column = None if labels is None else labels.columns.text
    for folder in walk_root(
        root, places, tally.passed_over, single=single, with_texts=labels is not None, text_column=text_column
    ):
        group = None
        if labels and labels.split_by == "folder":
            below = folder.path.removeprefix(root_folder).strip("/").partition("/")[0]
            group = location_to_uri(f"{root_folder}/{below}".rstrip("/").removeprefix(parent))
        own = places.find_splits(folder.path.removeprefix(parent)) if labels and labels.split_by == "given" else None
        if folder.error is not None:
            if folder.path == root:
                raise DataError(
                    f"cannot list the folder {root!r} ({folder.error.strerror}): give it read access or leave it out"
                )
            yield ImageReference(
                f"{location_to_uri(folder.path)}/",
                f"{location_to_uri(folder.path.removeprefix(parent))}/",
                *(0, 0, None, "unreadable_folder"),
                f"the folder cannot be listed ({folder.error.strerror}), so the images in it are unknown",
                group,
            )
            continue
        tally.passed_over["hidden"] += folder.hidden
        sidecars = None
        if labels is not None and labels.source not in ("table", "pages"):
            alone = single and not folder.packed
            names = _list_names_beside(folder) if alone else [f.name for f in folder.files]
            sidecars = SidecarFolder(folder.path, names)
        images = _list_folder(folder, parent, group, sidecars, tally)
        if labels is not None and own is not None:
            images = _add_splits(images, own, labels)
        if labels is None or sidecars is None:
            yield from (reference for reference, _, _ in images)
        elif labels.source == "filename":
            yield from _read_labels_in_names(folder, alone, images, labels, tally)
        else:
            add_label = functools.partial(
                _read_label_beside, labels=labels, boundaries=places.boundaries, texts=folder.texts
            )
            yield from map_in_threads(add_label, images, _THREADS, ahead=_AHEAD) if remote else map(add_label, images)
            if not alone:
                tally.unused_labels += sidecars.list_unused()


def _list_folder(
    folder: Folder, parent: str, group: str | None, sidecars: SidecarFolder | None, tally: Tally
) -> Iterator[tuple[ImageReference, str, str | None]]:
    """Yields the images of a folder, each with its name and the text file beside it."""
    above = join_path(folder.path, "") if folder.path else ""
    above_key = above.removeprefix(parent)
    folder_uri, folder_key = location_to_uri(above), location_to_uri(above_key)
    make_uri = str if storage.is_remote(above) else path_to_uri
    make_key = str if storage.is_remote(above_key) else path_to_uri
    for file in folder.files:
        name = file.name
        if name.lower().endswith(COMPANION_SUFFIXES) and not (
            file.problem is not None and is_packed(name)  # which may have held images
        ):
            tally.passed_over[os.path.splitext(name)[1].lower()] += 1
            continue
        uri, key = f"{folder_uri}{make_uri(name)}", f"{folder_key}{make_key(name)}"
        reference = ImageReference(uri, key, file.size_bytes, file.modified_us, group=group)
        if file.extent is not None:
            reference = reference._replace(offset=file.extent.offset, length=file.extent.length)
        if file.problem is not None:
            reference = reference.reject(file.reason, file.problem)
        sidecar = sidecars.find_text_file(name) if sidecars else None
        tally.with_sidecar += sidecar is not None
        yield reference, name, sidecar


def _add_splits(
    images: Iterable[tuple[ImageReference, str, str | None]], own: Collection[str], labels: LabelRules
) -> Iterator[tuple[ImageReference, str, str | None]]:
    """Adds to the images of a folder the split that its path tells; a table may tell it instead, later."""
    for reference, name, sidecar in images:
        if len(own) == 1:
            reference = reference._replace(split=next(iter(own)))
        elif reference.problem is None and own:
            reference = reference.reject("no_split", f"its folders tell several splits: {' and '.join(sorted(own))}")
        elif reference.problem is None and labels.source != "table":
            reference = reference.reject("no_split", "none of its folders is named train, val, test or alike")
        yield reference, name, sidecar


def _read_labels_in_names(
    folder: Folder,
    alone: bool,
    images: Iterable[tuple[ImageReference, str, str | None]],
    labels: LabelRules,
    tally: Tally,
) -> Iterator[ImageReference]:
    """Yields the images of a folder with the labels in their names; a copy has the label and split of its original."""
    stems: set[str] | None = None
    for reference, name, _ in images:
        if reference.problem is not None:
            yield reference
            continue
        stem = strip_suffix(name)
        if not labels.pattern.endswith("{label}") or not may_be_copy(stem):
            yield read_label_from_name(reference, name, labels)
            continue
        if stems is None or alone:
            stems = set(map(strip_suffix, _list_names_beside(folder) if alone else (f.name for f in folder.files)))
        original = find_original(stem, stems)
        if original is not None and (find_original_name(stem) or labels.pattern == LabelRules.pattern):
            tally.copies += 1
            if reference.group is None:
                key, _, _ = reference.key.rpartition("/")
                reference = reference._replace(group=strip_variant(f"{key}/{location_to_uri(original)}.png"))
            yield read_label_from_name(reference, f"{original}.png", labels)
        elif (missing := find_original_name(stem)) is not None:
            yield reference.reject(
                "no_label",
                f"its name, {quote_text(stem)}, is that of a copy, and no image {quote_text(missing)} lies beside it: "
                "rename it, or label it in a table",
            )
        else:
            yield read_label_from_name(reference, name, labels)


def _read_label_beside(
    image: tuple[ImageReference, str, str | None],
    labels: LabelRules,
    boundaries: Boundaries,
    texts: Mapping[str, bytes],
) -> ImageReference:
    reference, _, sidecar = image
    if reference.problem is not None:
        return reference
    if sidecar is not None and boundaries.leaves_folders(sidecar):
        return reference.reject(
            "no_label", f"{location_to_uri(sidecar)} is a link that leads out of the folder: put the label itself there"
        )
    content = None if sidecar is None else texts.get(sidecar.rpartition("/")[2])
    return read_label_from_sidecar(reference, sidecar, labels, content)


def read_size_and_time(path: str) -> tuple[int, int]:
    """Reads size (bytes) and last change (microseconds since 1970) of a file, as the listing of its folder has them.

    Of a member of an archive, those are its size and the archive's last change. Of a line on a page, those are the
    sizes of the image and the page file together, and the last change of one of them.

    Raises:
        OSError: if the file is missing; an `IsADirectoryError` if it is a folder.
    """
    if (place := find_line_place(path)) is not None:
        size, modified_us = read_size_and_time(place.image)
        more_bytes, page_modified_us = read_size_and_time(place.page_file)
        return size + more_bytes, max(modified_us, page_modified_us)
    if (member_path := find_member_path(path)) is not None:
        member, modified_us = find_member(member_path)
        return member.size, modified_us
    if storage.is_remote(path):
        try:
            file = storage.describe_file(path)
        except FileNotFoundError:
            if storage.is_folder(path):
                raise IsADirectoryError(path) from None
            raise
        return file.size, round(file.modified * 1e6)
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(path)
    return status.st_size, status.st_mtime_ns // 1000


def _list_names_beside(folder: Folder) -> list[str]:
    """Lists names in the folder of a single file, once for all files in it; in an object store, names like its own."""
    if storage.is_remote(folder.path):
        return [name for file in folder.files for name in storage.list_names(folder.path, strip_variant(file.name))]
    return _list_names(folder.path, os.stat(folder.path).st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _list_names(folder: str, _changed: int) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if not leads_to_folder(entry)]
