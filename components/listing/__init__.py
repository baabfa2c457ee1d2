"""The listing of a collection: its images and their labels; the first job of ingest and of inference."""

from components.listing.boundaries import LINKS_FOLLOWED, SYSTEM_FOLDERS, Boundaries
from components.listing.choice import LABEL_SOURCES, check_choice, choose_labels
from components.listing.collection import list_images
from components.listing.labels import LabelRules
from components.listing.listing import (
    ListingSummary,
    explain_unused_labels,
    merge_listings,
    read_listing,
    read_unused_labels,
    write_listing,
    write_references,
)
from components.listing.own_splits import choose_splits, hold_out, refuse_images_without_split
from components.listing.page_lines import PageRules
from components.listing.path_tables import PathTables, list_table
from components.listing.references import ImageReference, location_to_uri, path_to_uri, read_image, uri_to_path
from components.listing.roots import Places, find_folders, find_roots, find_roots_and_tables, find_tables, group_roots
from components.listing.table_formats import LABEL_TABLE_SUFFIXES, TABLE_SUFFIXES
from components.listing.table_paths import NameRule, find_path_rule
from components.listing.tables import TableColumns, describe_label_table

__all__ = [
    "LABEL_SOURCES",
    "LABEL_TABLE_SUFFIXES",
    "LINKS_FOLLOWED",
    "SYSTEM_FOLDERS",
    "TABLE_SUFFIXES",
    "Boundaries",
    "ImageReference",
    "LabelRules",
    "ListingSummary",
    "NameRule",
    "PageRules",
    "PathTables",
    "Places",
    "TableColumns",
    "check_choice",
    "choose_labels",
    "choose_splits",
    "describe_label_table",
    "explain_unused_labels",
    "find_folders",
    "find_path_rule",
    "find_roots",
    "find_roots_and_tables",
    "find_tables",
    "group_roots",
    "hold_out",
    "list_images",
    "list_table",
    "location_to_uri",
    "merge_listings",
    "path_to_uri",
    "read_image",
    "read_listing",
    "read_unused_labels",
    "refuse_images_without_split",
    "uri_to_path",
    "write_listing",
    "write_references",
]
