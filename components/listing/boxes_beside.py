"""Text files beside images that hold places of boxes: these are no labels, and `auto` does not take them for labels."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

from components.listing.collection import Tally, list_images
from components.listing.labels import LabelRules, quote_text
from components.listing.line_places import name_kind
from components.listing.page_files import find_box_file_beside
from components.listing.references import location_to_uri, uri_to_path
from components.listing.roots import Places
from tfrecords import DataError

_IMAGES_LOOKED_AT = 50
_PAGES_LOOKED_AT = 5
_BOX = re.compile(
    r"\d+( -?[0-9]*\.?[0-9]+){4,}|(-?\d+, ?){4,}.*", re.DOTALL
)  # class, centre and size; corners and text


def refuse_boxes(roots: Iterable[str], from_sidecars: LabelRules, places: Places) -> None:
    """Raises a `DataError` if the first text files beside images hold places of boxes, with their texts or without.

    Args:
        from_sidecars: rules that take labels from these files.
        places: of the roots of the collection.
    """
    listed = itertools.chain.from_iterable(list_images(root, from_sidecars, Tally(), places) for root in roots)
    first = [image for image in itertools.islice(listed, _IMAGES_LOOKED_AT) if image.problem != "no_label"]
    found = [find_box_file_beside(uri_to_path(image.uri)) for image in first[:_PAGES_LOOKED_AT]]
    box_files = [path for path in found if path is not None]
    if box_files and len(box_files) == len(found):
        path = box_files[0]
        raise DataError(
            f"{location_to_uri(path)} is {name_kind(path)}: if the images are pages, whose lines and texts such files "
            "give, say --pages; if all that stands in such a file is the label of its image, say --label_source=sidecar"
        )
    texts = [image.text for image in first if image.text is not None]
    if texts and all(map(_BOX.fullmatch, texts)):
        raise DataError(
            f"the text files beside the images hold numbers of boxes, such as {quote_text(texts[0])}, and no texts: "
            "cut the boxes out as images of lines, with a text each; if these numbers are the labels, say "
            "--label_source=sidecar"
        )
