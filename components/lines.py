"""Lines of listed images, read and decoded in order within bounds, and lines of examples."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias, TypeVar

import numpy as np

from components.archives.files import ArchiveChangedError, ArchiveError
from components.archives.members import Extent
from components.archives.paths import find_member_path
from components.archives.reading import WantedMember, group_neighbours, read_members
from components.listing import ImageReference, read_image, uri_to_path
from components.listing.line_places import find_line_place, get_page
from components.page_images import read_line_of_page
from components.processes import HelperPool, bound_decoding, is_helper, map_in_threads, split_into_groups
from components.rejects import Reject
from tfrecords import (
    ImageLimits,
    ImageRejected,
    LineImage,
    StoreError,
    decode_png,
    examples_to_record_batch,
    read_line,
    storage,
)

_Outcome = TypeVar("_Outcome")
Content: TypeAlias = bytes | Reject | None
"""What was read of an image's file: its bytes, why there are none, or None if nothing was tried."""
_READ_AHEAD, _THREADS = 64, 16
_BLOCKS_AHEAD = 8  # of an archive in an object store
_IMAGES_A_CALL, _LINES_A_CALL = 32, 500  # of a helper; a line is a part of a page that is decoded once
_RECORDS_AT_A_TIME = 1000


def map_in_order(
    function: Callable[[ImageReference, Content], _Outcome],
    references: Sequence[ImageReference],
    processes: int,
    limits: ImageLimits,
) -> Iterator[_Outcome]:
    """Maps in the order of the references. Helper processes decode, since an image may end the process that does.

    What lies in an object store is read by threads of this process, and sent to a helper, and so is what a compressed
    archive unpacks to. The lines of a page that
    follow each other go to one helper, which reads and decodes the page once.

    Args:
        function: decodes the image that a reference names, by `read_referenced_line`, once; it can be pickled.
        processes: how many helper processes may work at a time.
        limits: files with more bytes are not read.
    """
    contents: Iterator[Content] = itertools.repeat(None)
    if any(map(_is_read_here, references)):  # a table may name both
        contents = _read_ahead(references, limits)
    pairs = zip(references, contents, strict=False)
    return itertools.starmap(function, pairs) if is_helper() else _map_in_helpers(function, pairs, processes)


def prepare_decoding(helpers: HelperPool, processes: int) -> None:
    """Starts helper processes of a job that decode, while the job starts."""
    helpers.prepare(_do_nothing, None, processes)


def _do_nothing(_: object) -> None:
    """Does nothing: the helper has imported this file."""


def _map_in_helpers(
    function: Callable[[ImageReference, Content], _Outcome],
    pairs: Iterable[tuple[ImageReference, Content]],
    processes: int,
) -> Iterator[_Outcome]:
    calls = (
        group
        for page, of_page in itertools.groupby(pairs, lambda pair: _find_page(pair[0]))
        for group in split_into_groups(_IMAGES_A_CALL if page is None else _LINES_A_CALL, of_page)
    )
    with HelperPool.current() as helpers:
        for outcomes in helpers.map(functools.partial(_apply, function), calls, processes, items_per_call=1):
            yield from outcomes


def _find_page(reference: ImageReference) -> str | None:
    """Finds the page of a line; None for an image of its own."""
    page = get_page(reference.uri)
    return None if page == reference.uri else page


def _apply(
    function: Callable[[ImageReference, Content], _Outcome], pairs: Sequence[tuple[ImageReference, Content]]
) -> list[_Outcome]:
    return [function(*pair) for pair in pairs]


def _is_read_here(reference: ImageReference) -> bool:
    """Tells whether this process reads an image, and sends it to a helper.

    Other files, and members of local archives, are read where they are decoded, and so is the page of a line.
    """
    if reference.problem is not None or _find_page(reference) is not None:
        return False
    return storage.is_remote(reference.uri) or (reference.offset is not None and reference.length is None)


def _read_ahead(references: Iterable[ImageReference], limits: ImageLimits) -> Iterator[Content]:
    """Reads images that this process reads, in order; None for each other one."""
    for here, run in itertools.groupby(references, _is_read_here):
        if not here:
            yield from (None for _ in run)
            continue
        for archive, images in itertools.groupby(run, _find_archive):
            if archive is None:
                fetch = functools.partial(_read_content, limits=limits)
                yield from map_in_threads(fetch, images, _THREADS, ahead=_READ_AHEAD)
            else:
                yield from _read_members_ahead(archive, list(images), limits)


def _find_archive(reference: ImageReference) -> str | None:
    """Finds the archive in which an image lies at a known place; None for another image."""
    member = None if reference.offset is None else find_member_path(uri_to_path(reference.uri))
    return None if member is None else member.archive


def _read_members_ahead(archive: str, images: list[ImageReference], limits: ImageLimits) -> Iterator[Content]:
    small = [image for image in images if image.size_bytes <= limits.max_bytes]
    groups = group_neighbours([_want(image) for image in small])

    def read(group: list[WantedMember]) -> Iterator[bytes | ArchiveError | OSError]:
        try:
            yield from read_members(archive, group)
        except StoreError:
            raise
        except OSError as error:
            yield from itertools.repeat(error)

    def read_whole(group: list[WantedMember]) -> list[bytes | ArchiveError | OSError]:
        return list(itertools.islice(read(group), len(group)))

    outcomes: Iterator[bytes | ArchiveError | OSError]
    if images[0].length is None:
        outcomes = (outcome for group in groups for outcome in itertools.islice(read(group), len(group)))
    else:
        fetched = map_in_threads(read_whole, groups, _BLOCKS_AHEAD, ahead=_BLOCKS_AHEAD)
        outcomes = itertools.chain.from_iterable(fetched)
    for image in images:
        yield _read_content(image, limits) if image.size_bytes > limits.max_bytes else _judge(image, next(outcomes))


def _want(image: ImageReference) -> WantedMember:
    return WantedMember(Extent(image.offset or 0, image.length), image.size_bytes)


def _judge(image: ImageReference, outcome: bytes | ArchiveError | OSError) -> bytes | Reject:
    """Returns what was read of a member, or the reject for what was not."""
    if isinstance(outcome, bytes):
        return outcome
    reason = "truncated" if isinstance(outcome, ArchiveError) else "unreadable"
    return Reject(image.uri, "unreadable" if isinstance(outcome, ArchiveChangedError) else reason, str(outcome))


def _read_content(reference: ImageReference, limits: ImageLimits) -> bytes | Reject:
    """Reads an image's file, whose size may have changed since it was listed."""
    try:
        limits.check_bytes(reference.size_bytes)
        if (archive := _find_archive(reference)) is not None:
            return _judge(reference, next(read_members(archive, [_want(reference)])))
        content = read_image(reference.uri, limits.max_bytes + 1)
        limits.check_read(content)
    except OSError as error:
        return Reject(reference.uri, "unreadable", str(error))
    except ImageRejected as error:
        return Reject(reference.uri, error.reason, error.detail)
    return content


def read_referenced_line(
    reference: ImageReference, content: Content, height: int, limits: ImageLimits, vertical: bool = False
) -> LineImage | Reject:
    """Reads the grey line of a listed image; returns a reject that says why, if there is none.

    Args:
        content: what was read of the file before; None to read it now.
        height: of the line, pixels.
        limits: which images are refused; a helper process keeps all of them.
        vertical: whether its text runs from top to bottom.
    """
    if reference.problem is not None:
        return Reject(reference.uri, reference.problem, reference.detail or "")
    try:
        with bound_decoding(limits):
            if (place := find_line_place(uri_to_path(reference.uri))) is not None:
                return read_line_of_page(place, height, limits, vertical)
            content = _read_content(reference, limits) if content is None else content
            return content if isinstance(content, Reject) else read_line(content, height, limits, vertical)
    except OSError as error:  # of a page: `_read_content` has its own
        return Reject(reference.uri, "unreadable", str(error))
    except ImageRejected as error:
        return Reject(reference.uri, error.reason, error.detail)


def read_example_lines(records: Iterable[bytes]) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
    """Reads the lines of serialised examples; yields the label and the URI of each, and its pixels."""
    records = iter(records)
    while examples := list(itertools.islice(records, _RECORDS_AT_A_TIME)):
        batch = examples_to_record_batch(examples)
        columns = (batch.column(batch.schema.get_field_index(name)).flatten() for name in ("image", "text", "uri"))
        for image, text, uri in zip(*(column.to_pylist() for column in columns), strict=True):
            yield (text.decode(), uri.decode()), decode_png(image)


def digest_references(references: Sequence[ImageReference]) -> str:
    """Computes the SHA-256 of references, hexadecimal: equal inputs in equal order give an equal digest."""
    return hashlib.sha256(repr([reference.inputs for reference in references]).encode()).hexdigest()
