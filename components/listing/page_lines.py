"""The lines of page images, as the ALTO and PAGE files of a collection give them."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from components.layout import PageFile, PageFileError, looks_like_page_file, parse_page_file
from components.listing.collection import Tally, list_images, read_size_and_time
from components.listing.labels import LabelRules, add_label
from components.listing.line_places import PAGE_FILE_SUFFIX, LinePlace, name_lines
from components.listing.references import (
    ImageReference,
    get_folder,
    join_path,
    location_to_uri,
    read_regular_file,
    strip_suffix,
    uri_to_path,
)
from components.listing.roots import Places
from components.listing.walking import walk_root
from components.processes import map_in_threads
from components.rejects import Reject
from tfrecords import storage

MAX_PAGE_FILE_BYTES = 20_000_000
"""A larger page file is refused; usual ones have some hundred kilobytes."""
_THREADS, _AHEAD = 16, 64


@dataclasses.dataclass(frozen=True)
class PageRules:
    """The rules for images that are pages.

    Attributes:
        line_types: types of lines or regions; other lines are passed over. Empty for all lines.
    """

    line_types: tuple[str, ...] = ()


class _PageFile(NamedTuple):
    """A page file, read.

    Attributes:
        page: None if it is damaged.
        problem: what is wrong with it, if it is damaged.
    """

    path: str
    modified_us: int
    page: PageFile | None
    problem: str = ""


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
    files_of: dict[str, list[_PageFile]] = collections.defaultdict(list)
    find_image = _ImageFinder(images)
    for file in _read_page_files(_find_page_files(root, places, images), storage.is_remote(root)):
        tally.passed_over[PAGE_FILE_SUFFIX] -= 1
        found = find_image(file)
        if found is not None:
            files_of[found].append(file)
        else:
            tally.unused_labels.append(_explain_unused(file))
    for path, image in images.items():
        if image.problem is not None:
            yield image
        else:
            yield from _list_lines(path, image, files_of.get(path, ()), rules, labels, tally)


def _find_page_files(root: str, places: Places, images: Mapping[str, ImageReference]) -> Iterator[tuple[str, int]]:
    """Yields path and last change of every file at or below a root that may be a page file."""
    if not places.is_folder(root):
        for image in images:
            name = image.rpartition("/")[2]
            path = join_path(get_folder(image), f"{strip_suffix(name)}{PAGE_FILE_SUFFIX}")
            try:
                yield path, read_size_and_time(path)[1]
            except OSError:
                continue
        return
    root = storage.canonicalise(root) if storage.is_remote(root) else root
    for folder in walk_root(root, places, collections.Counter(), single=False):
        for file in folder.files:
            if file.problem is None and file.name.lower().endswith(PAGE_FILE_SUFFIX):
                yield join_path(folder.path, file.name), file.modified_us


def _read_page_files(found: Iterator[tuple[str, int]], remote: bool) -> Iterator[_PageFile]:
    """Reads those files that are page files."""
    read = map_in_threads(_read_page_file, found, _THREADS, ahead=_AHEAD) if remote else map(_read_page_file, found)
    return (file for file in read if file is not None)


def _read_page_file(found: tuple[str, int]) -> _PageFile | None:
    path, modified_us = found
    try:
        content = read_regular_file(path, MAX_PAGE_FILE_BYTES + 1)
    except OSError as error:
        return _PageFile(path, modified_us, None, f"it cannot be read ({error.strerror or error})")
    if not looks_like_page_file(content):
        return None
    if len(content) > MAX_PAGE_FILE_BYTES:
        return _PageFile(path, modified_us, None, f"it has more than {MAX_PAGE_FILE_BYTES:,} bytes")
    try:
        return _PageFile(path, modified_us, parse_page_file(content))
    except PageFileError as error:
        return _PageFile(path, modified_us, None, str(error))


class _ImageFinder:
    """The search for the image of a page file, among all images of a root."""

    def __init__(self, images: Mapping[str, ImageReference]) -> None:
        self._images = images
        self._named: dict[str, list[str]] = collections.defaultdict(list)
        for path in images:
            name = path.rpartition("/")[2]
            for known in {name, strip_suffix(name)}:
                self._named[known].append(path)

    def __call__(self, file: _PageFile) -> str | None:
        """Finds the image that a page file names, or the one that is named like it; None if there is none.

        Looks in the folder of the page file first, and then wherever one image alone has the name.
        """
        folder, stem = get_folder(file.path), strip_suffix(file.path.rpartition("/")[2])
        written = (file.page.image_name or "") if file.page else ""
        name = written.replace("\\", "/").rpartition("/")[2]
        for wanted in dict.fromkeys((name, strip_suffix(name), stem)):
            found = self._named.get(wanted, []) if wanted else []
            near = [path for path in found if get_folder(path) == folder]
            if len(near or found) == 1:
                return (near or found)[0]
        return None


def _explain_unused(file: _PageFile) -> Reject:
    uri = location_to_uri(file.path)
    if file.page is None:
        return Reject(uri, "damaged_page_file", file.problem)
    name = file.page.image_name
    said = f"it names {name!r}" if name else "it names no image"
    return Reject(uri, "no_image", f"{said}, and no image of this name, or of its own, is there alone")


def _list_lines(
    path: str,
    image: ImageReference,
    files: Sequence[_PageFile],
    rules: PageRules,
    labels: LabelRules | None,
    tally: Tally,
) -> Iterator[ImageReference]:
    """Lists the lines of one page, or the page itself with the reason why it has none."""
    if not files:
        yield image.reject("no_page_file", "no ALTO or PAGE file names it, or is named like it")
        return
    file = files[0]
    if len(files) > 1:
        names = " and ".join(location_to_uri(file.path) for file in files[:2])
        yield image.reject("several_page_files", f"{len(files)} page files belong to it, such as {names}: leave one")
        return
    if file.page is None:
        yield image.reject("damaged_page_file", f"{location_to_uri(file.path)}: {file.problem}")
        return
    lines = name_lines(file.page)
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
            modified_us=max(image.modified_us, file.modified_us),
            group=image.key if image.group is None and not by_line else image.group,
        )
        if labels is None:
            yield reference
        elif line.text is None:
            yield reference.reject("no_label", f"{location_to_uri(file.path)} gives no text for it")
        else:
            yield add_label(reference, line.text, labels.max_label_length, keep_empty=labels.keep_empty)
