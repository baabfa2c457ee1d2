"""Finding the images of a collection, and their labels: the first job of ingest and of inference."""

from components.listing.collection import (
    LABEL_SOURCES,
    ImageReference,
    ListingSummary,
    choose_label_source,
    find_roots,
    group_roots,
    list_images,
    merge_listings,
    path_of_uri,
    read_image,
    read_listing,
    uri_of_path,
    write_listing,
)

__all__ = [
    "LABEL_SOURCES",
    "ImageReference",
    "ListingSummary",
    "choose_label_source",
    "find_roots",
    "group_roots",
    "list_images",
    "merge_listings",
    "path_of_uri",
    "read_image",
    "read_listing",
    "uri_of_path",
    "write_listing",
]
