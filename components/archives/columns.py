"""The columns of a table of images: the one that holds their bytes, and the one that holds their texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow
from pyarrow import types

from components.archives.files import ArchiveError

TEXT_COLUMNS = ("text", "label", "transcription", "transcript", "ground_truth", "gt", "words", "sentence", "value")
RARE_TEXT_COLUMNS = (
    *("identity", "answer", "plate", "plate_number", "license_plate", "plate_text", "word", "target", "solution"),
    *("caption", "utf8_string", "line_text", "ocr_text", "gt_text", "groundtruth", "annotation", "content", "string"),
    *("captcha", "code"),
)
"""The names that count where none of `TEXT_COLUMNS` is there."""
_IMAGE_COLUMNS = ("image", "img", "image_bytes", "img_bytes", "image_data", "bytes", "png", "jpg", "jpeg", "picture")
_BYTES = "bytes"  # in the struct of a Hugging Face image


class ImageColumns(NamedTuple):
    """The columns of a table of images.

    Attributes:
        image: name of the column with the bytes.
        nested: whether these are the field `bytes` of a struct, as Hugging Face writes images.
        text: name of the column with the texts; None if there are none.
        unclear: why there are no texts though there may be some, or None.
    """

    image: str
    nested: bool = False
    text: str | None = None
    unclear: str | None = None


def choose_columns(schema: pyarrow.Schema, text_column: str | None = None) -> ImageColumns | None:
    """Chooses the columns of a table by its schema.

    Args:
        text_column: name of the column with the texts, exactly, or regardless of case, spaces, hyphens and
            underscores; None for one of the usual names, if it holds strings.

    Returns:
        The columns; None if the table holds no images.

    Raises:
        ArchiveError: if several columns could hold the images.
    """
    nested = [field.name for field in schema if _is_image_struct(field.type)]
    names = nested or [field.name for field in schema if is_bytes(field.type)]
    if not names:
        return None
    usual = [name for name in names if normalise_name(name) in _IMAGE_COLUMNS] if len(names) > 1 else names
    usual = [name for name in usual if normalise_name(name) == "image"] or usual
    if len(usual) != 1:
        raise ArchiveError(
            f"its columns {' and '.join(map(repr, names[:5]))} could all hold the images: name one of them 'image'"
        )
    text, unclear = choose_text([field.name for field in schema if _may_be_text(field.type, text_column)], text_column)
    return ImageColumns(usual[0], bool(nested), text, unclear)


def choose_text(names: Sequence[str], text_column: str | None) -> tuple[str | None, str | None]:
    """Chooses the column with the texts among the names of those that may hold them, as `choose_columns` does.

    Returns:
        Its name or None, and why there is none though there may be one, or None.
    """
    if text_column is not None:
        found = [name for name in names if name == text_column]
        found = found or [name for name in names if normalise_name(name) == normalise_name(text_column)]
        if len(found) == 1:
            return found[0], None
        which = "no column of texts" if not found else "several columns"
        return None, f"it has {which} named as --text_column={text_column} says, so its images have no labels"
    for usual in (TEXT_COLUMNS, RARE_TEXT_COLUMNS):
        found = [name for name in names if normalise_name(name) in usual]
        if len(found) == 1:
            return found[0], None
        if found:
            return None, (
                f"its columns {' and '.join(map(repr, found[:5]))} could all hold the texts, so its images have no "
                f"labels: say which with --text_column={found[0]}"
            )
    return None, None


def normalise_name(name: str) -> str:
    """Writes the name of a column in small letters, with underscores in the place of spaces and hyphens."""
    return re.sub("[ -]", "_", name.strip().lower())


def is_bytes(kind: pyarrow.DataType) -> bool:
    """Tells whether a column holds bytes."""
    return types.is_binary(kind) or types.is_large_binary(kind)


def _is_image_struct(kind: pyarrow.DataType) -> bool:
    if not types.is_struct(kind):
        return False
    index = kind.get_field_index(_BYTES)
    return index >= 0 and is_bytes(kind.field(index).type)


def _may_be_text(kind: pyarrow.DataType, text_column: str | None) -> bool:
    """Tells whether a column may hold texts: one of integers only if it is named, for they may be those of classes."""
    return types.is_string(kind) or types.is_large_string(kind) or (text_column is not None and types.is_integer(kind))
