"""The lines of page images, as the page files of a collection give them."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Iterator, Sequence

from components.layout import PageFile, PageFileError
from components.listing.collection import Tally, list_images
from components.listing.labels import LabelRules, add_label
from components.listing.line_places import LinePlace, is_box_file, name_lines
from components.listing.page_files import (
    AHEAD,
    THREADS,
    FoundPageFile,
    ImageFinder,
    explain_problem,
    find_page_files,
    holds_files,
    read_page_file,
)
from components.listing.references import ImageReference, location_to_uri, uri_to_path
from components.listing.roots import Places
from components.processes import map_in_threads
from components.rejects import Reject
from tfrecords import storage


@dataclasses.dataclass(frozen=True)
class PageRules:
    """The rules for images that are pages.

    Attributes:
        line_types: types of lines or regions; other lines are passed over. Empty for all lines.
    """

    line_types: tuple[str, ...] = ()


def list_page_lines(
    root: str,
    rules: PageRules,
    labels: LabelRules | None = None,
    tally: Tally | None = None,
    places: Places | None = None,
) -> Iterator[ImageReference]:
    """Lists the lines of every page at or below a root, in sorted order, with their texts if labels are asked for.

    An image comes as one reference with a problem if no page file names it, or the page has no line. The lines of a
    page stay together in a shard, and in a split unless each image is to be split by itself. Memory grows with the
    number of files in the root.

    Args:
        root: absolute path or URL of a folder or one file.
        rules: which lines there are.
        labels: the rules for labels; their source is `pages`.
        tally: counts what is found beside the pages.
        places: of all roots of the collection; without it this root is the only one.

    Raises:
        DataError: if the root cannot be listed.
    """
    tally = Tally() if tally is None else tally
    places = Places.from_roots([root]) if places is None else places
    images = {uri_to_path(image.uri): image for image in list_images(root, labels, tally, places)}
    files_of: dict[str, list[tuple[int, FoundPageFile]]] = collections.defaultdict(list)
    finder = ImageFinder(images)
    for file in find_page_files(root, places, images):
        if holds_files(root, places):
            tally.passed_over[os.path.splitext(file.path)[1].lower()] -= 1
        if (found := finder.find(file)) is not None:
            files_of[found[0]].append((found[1], file))
        else:
            tally.unused_labels.append(_explain_unused(file, None))
    for found_files in files_of.values():
        nearest, other = min((distance, file.path) for distance, file in found_files)
        tally.unused_labels += (_explain_unused(file, other) for distance, file in found_files if distance > nearest)
        found_files[:] = [entry for entry in found_files if entry[0] == nearest]
        if len(found_files) > 1:  # a text file that cannot be read may be anything
            doubtful = [entry for entry in found_files if entry[1].problem and is_box_file(entry[1].path)]
            if 0 < len(doubtful) < len(found_files):
                tally.unused_labels += (_explain_unused(file, None) for _, file in doubtful)
                found_files[:] = [entry for entry in found_files if entry not in doubtful]

    def read(path: str) -> tuple[ImageReference, FoundPageFile | None, PageFile | None]:
        return _read_page(images[path], [file for _, file in files_of.get(path, ())], places.index_folder)

    remote = storage.is_remote(root)
    for image, found_file, page in map_in_threads(read, images, THREADS, ahead=AHEAD) if remote else map(read, images):
        if found_file is None or page is None:
            yield image
        else:
            yield from _list_lines(image, found_file, page, rules, labels, tally)


def _explain_unused(file: FoundPageFile, other: str | None) -> Reject:
    """Explains why a page file belongs to no image.

    Args:
        other: a page file that is nearer to its image, if there is one.
    """
    uri = location_to_uri(file.path)
    if file.problem:
        return Reject(uri, "damaged_page_file", file.problem)
    if other is not None:
        return Reject(uri, "no_image", f"{location_to_uri(other)} is nearer to the image that it names")
    said = f"it names {file.image_name!r}" if file.image_name else "it names no image"
    return Reject(uri, "no_image", f"{said}, and near it lies no image of this name or its own, or several do")


def _read_page(
    image: ImageReference, files: Sequence[FoundPageFile], index_folder: str | None
) -> tuple[ImageReference, FoundPageFile | None, PageFile | None]:
    """Reads the page file of an image; returns the image with the reason if there is no page."""
    if image.problem is not None:
        return image, None, None
    if not files:
        return (
            image.reject("no_page_file", "no ALTO, PAGE or box file near it names it, or is named like it"),
            None,
            None,
        )
    file = files[0]
    uri = location_to_uri(file.path)
    if len(files) > 1:
        detail = f"{len(files)} page files belong to it, such as {uri} and {location_to_uri(files[1].path)}: leave one"
        return image.reject("several_page_files", detail), None, None
    if file.problem:
        return image.reject("damaged_page_file", f"{uri}: {file.problem}"), None, None
    try:
        return image, file, read_page_file(file.path, index_folder)
    except (OSError, PageFileError) as error:  # it was changed meanwhile
        return image.reject("damaged_page_file", f"{uri}: {explain_problem(error)}"), None, None


def _list_lines(
    image: ImageReference,
    file: FoundPageFile,
    page: PageFile,
    rules: PageRules,
    labels: LabelRules | None,
    tally: Tally,
) -> Iterator[ImageReference]:
    """Lists the lines of one page, or the page itself with the reason why it has none."""
    path = uri_to_path(image.uri)
    lines = name_lines(page)
    wanted = {
        name: line for name, line in lines.items() if not rules.line_types or line.types.intersection(rules.line_types)
    }
    if not wanted:
        types = f", none of type {' or '.join(rules.line_types)}" if lines else ""
        yield image.reject("no_lines", f"{location_to_uri(file.path)} has {len(lines)} lines{types}")
        return
    if passed_over := len(lines) - len(wanted):
        tally.passed_over["line of another type"] += passed_over
    by_line = labels is not None and labels.split_by == "image"
    for name, line in wanted.items():
        line_path = LinePlace(path, file.path, name).path
        reference = image._replace(
            uri=location_to_uri(line_path),
            key=f"{image.key}{location_to_uri(line_path.removeprefix(path))}",
            size_bytes=image.size_bytes + file.size_bytes,
            modified_us=max(image.modified_us, file.modified_us),
            group=image.key if image.group is None and not by_line else image.group,
        )
        if line.problem:
            yield reference.reject("damaged_page_file", f"{location_to_uri(file.path)}: {line.problem}")
        elif labels is None:
            yield reference
        elif line.text is None:
            yield reference.reject("no_label", f"{location_to_uri(file.path)} {line.no_text or 'gives no text for it'}")
        else:
            yield add_label(reference, line.text, labels.max_label_length, keep_empty=labels.keep_empty)
