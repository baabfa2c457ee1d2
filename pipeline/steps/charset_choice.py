"""The charset of a dataset: the file of `--charset` or the symbols of its labels, and how these stand on images."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from components.ingest.addition import OldDataset
from components.listing import ListingSummary
from pipeline.options import LinePipelineOptions
from tfrecords import Charset, CharsetError, DataError, storage
from tfrecords.directions import (
    LEFT_TO_RIGHT,
    MIXED_LEFT_TO_RIGHT,
    MIXED_RIGHT_TO_LEFT,
    RIGHT_TO_LEFT,
    VISUAL,
    choose_direction,
    has_right_to_left,
    mirror_symbols,
)

log = logging.getLogger(__name__)

_NAMES_OF_DIRECTIONS = {
    VISUAL: "the order in which symbols are seen",
    LEFT_TO_RIGHT: "the base direction left to right",
    RIGHT_TO_LEFT: "the base direction right to left",
    MIXED_LEFT_TO_RIGHT: "the direction of their letters, left to right where a line has both",
    MIXED_RIGHT_TO_LEFT: "the direction of their letters, right to left where a line has both",
}


def read_charset_file(path: str) -> Charset:
    """Reads the file of `--charset`; raises a `DataError` if it does not hold one symbol a line, in UTF-8."""
    try:
        return Charset.from_lines(storage.read_bytes(path).decode("utf-8-sig"))
    except (UnicodeDecodeError, CharsetError) as error:
        raise DataError(f"--charset={path} has to hold one symbol a line, in UTF-8: {error}") from None


def choose_charset(options: LinePipelineOptions, listing: ListingSummary, old: OldDataset | None) -> Charset:
    """Reads `--charset`, or else takes every symbol of the labels and those of an old dataset; sets its direction."""
    symbols = _choose_symbols(options, listing, old.symbols if old else ())
    direction = _choose_direction(options, listing, old)
    if direction == VISUAL:
        return Charset(symbols)
    log.info(
        f"the labels are taken as typed, not as seen, with {_NAMES_OF_DIRECTIONS[direction]}: see --base_direction"
    )
    return Charset(tuple(sorted({*symbols, *mirror_symbols("".join(symbols))})), direction)


def _choose_direction(options: LinePipelineOptions, listing: ListingSummary, old: OldDataset | None) -> str:
    """Finds how symbols of labels stand on images.

    Raises:
        DataError: if the labels of the dataset to which images are added stand otherwise.
    """
    asked = options.base_direction
    bound = old is not None and has_right_to_left("".join(old.symbols))
    if asked == "auto":
        return old.base_direction if old and bound else choose_direction(listing.symbols)
    if old and bound and old.base_direction != asked:
        raise DataError(
            f"--base_direction={asked}: the labels of dataset {old.dataset_id}, to which the images are added, have "
            f"{_NAMES_OF_DIRECTIONS[old.base_direction]}: leave the flag out"
        )
    return asked


def _choose_symbols(options: LinePipelineOptions, listing: ListingSummary, old: Sequence[str]) -> tuple[str, ...]:
    has_labels = listing.images > sum(listing.problems.values())
    if not listing.symbols and has_labels and not old:
        raise DataError(
            f"every label of the {listing.images:,} images is empty: there is nothing to learn to read; name the place "
            "of the texts with --label_source, or add images with texts"
        )
    if options.charset:
        charset = read_charset_file(options.charset)
        if missing := charset.missing("".join(old)):
            raise DataError(
                f"--charset={options.charset} lacks symbols of the dataset to which the images are added "
                f"({', '.join(map(repr, missing))}): add them to the file, or leave the flag out"
            )
        return charset.symbols
    if not listing.symbols and not has_labels:
        counts = ", ".join(
            f"{count} {reason}" for reason, count in {**listing.problems, **listing.unused_labels}.items()
        )
        raise DataError(
            f"none of the {listing.images} images in --images has a usable label ({counts}): "
            f"{'; '.join(listing.examples)}; see --{'pages' if options.pages else 'label_source'}"
        )
    return tuple(sorted({*listing.symbols, *old}))
