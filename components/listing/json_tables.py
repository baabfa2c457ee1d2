"""Tables of JSON: one object a line, or a whole document in one of the forms that people write."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

from components.listing.columns import WantedColumn, find_columns
from components.listing.references import IMAGE_SUFFIXES
from components.listing.table_rows import (
    TableLines,
    TableRow,
    describe_kind,
    make_row,
    pick_texts,
    read_whole_lines,
)
from tfrecords import DataError

MAX_DOCUMENT_BYTES = 100_000_000
"""Most bytes of a JSON document: it is read as a whole."""

_BOXES = ("bbox", "box", "polygon", "points", "segmentation")
_LEAST_SHARE_OF_IMAGE = 0.5
_OBJECTS_LOOKED_AT = 100

_Entry = tuple[str, Any, str | None]
"""Place, value, and the problem or None."""


def read_json_rows(lines: TableLines, wanted: Sequence[WantedColumn]) -> Iterator[TableRow]:
    """Reads the rows of a table with one JSON object a line.

    Raises:
        DataError: while reading, if no line is a JSON object, or the first one lacks a column.
    """
    yield from _read_objects(_parse_lines(lines), wanted, lines.table)


def read_json_document(file: IO[bytes], table: str, wanted: Sequence[WantedColumn]) -> Iterator[TableRow]:
    """Reads the rows of a JSON document.

    It is an object with a text, or an object with one, for each file; a list of objects; or it has images, and
    annotations that name them, as COCO-Text. Lines of objects are read as `read_json_rows` does.

    Raises:
        DataError: if the document is too large, no JSON, or of another form, or if its texts are those of boxes.
    """
    content = file.read(MAX_DOCUMENT_BYTES + 1)
    if len(content) > MAX_DOCUMENT_BYTES:
        raise DataError(
            f"{table} has more than {MAX_DOCUMENT_BYTES:,} bytes, and a JSON document is read as a whole: write it as "
            ".jsonl, with one object a line"
        )
    try:
        document = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_Object.make)
    except UnicodeDecodeError as error:
        raise DataError(f"{table} is not UTF-8 (byte {error.start:,}): save it as UTF-8") from None
    except json.JSONDecodeError as error:
        if not error.msg.startswith("Extra data"):
            raise DataError(f"{table} is not valid JSON ({error.msg} in line {error.lineno}): correct it") from None
        file.seek(0)
        yield from read_json_rows(TableLines(file, table), wanted)
        return
    except (ValueError, RecursionError) as error:
        raise DataError(f"{table} is not valid JSON ({error}): correct it") from None
    yield from _read_document(document, table, wanted)


class _Object(dict):
    """A JSON object that has a name more than once, with all its pairs."""

    pairs: list[tuple[str, Any]]

    @classmethod
    def make(cls, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """Makes a plain dictionary of pairs, unless a name is there twice."""
        plain = dict(pairs)
        if len(plain) == len(pairs):
            return plain
        kept = cls(plain)
        kept.pairs = pairs
        return kept


def _list_pairs(value: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    return value.pairs if isinstance(value, _Object) else value.items()


def _read_document(
    document: Any, table: str, wanted: Sequence[WantedColumn], *, inside: bool = False
) -> Iterator[TableRow]:
    """Reads a document by its form.

    Args:
        inside: whether it is what another document held.
    """
    if isinstance(document, dict):
        images = next((document[name] for name in ("images", "imgs") if name in document), None)
        annotations = next((document[name] for name in ("annotations", "anns") if name in document), None)
        if isinstance(images, dict | list) and isinstance(annotations, dict | list):
            return _read_annotations(images, annotations, table, wanted)
        if not inside and (inner := _find_inner(document)) is not None:
            return _read_document(inner, table, wanted, inside=True)
        return _read_mapping(document, table, wanted)
    if isinstance(document, list) and document:
        if all(isinstance(value, list) and len(value) == 2 for value in document[:_OBJECTS_LOOKED_AT]):
            document = [
                {"path": value[0], "text": value[1]} if isinstance(value, list) and len(value) == 2 else value
                for value in document
            ]
        entries = ((f"entry {number} of {table}", value, None) for number, value in enumerate(document, 1))
        return _read_objects(entries, wanted, table)
    raise DataError(
        f"{table} holds {describe_kind(document)}{' without entries' if document == [] else ''}, and no "
        'labels: write {"file": "text", …}, or a list of objects with a path and a text each'
    )


def _find_inner(document: dict[str, Any]) -> Any:
    """Finds the one list or object that holds the labels, where a document has other things beside it; else None."""
    if any(name.lower().endswith(IMAGE_SUFFIXES) for name in document):
        return None
    lists = [value for value in document.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
    objects = [value for value in document.values() if isinstance(value, dict)]
    if len(lists) == 1:
        return lists[0]
    return objects[0] if len(objects) == 1 and not lists else None


def _read_mapping(document: dict[str, Any], table: str, wanted: Sequence[WantedColumn]) -> Iterator[TableRow]:
    """Reads an object with a text, or an object with one, for each file."""

    def list_entries(key: str | None, *, whole: bool) -> Iterator[_Entry]:
        """Lists the entries, with the file's name under a key; a value that is no object is a text."""
        for number, (name, value) in enumerate(_list_pairs(document), 1):
            value = _unpack_single(value)
            if whole:
                value = {"path": name, "text": value}
            elif key is not None and isinstance(value, dict):
                value = {**value, key: name}
            yield f"entry {number} of {table}", value, None

    first = next((value for _, value, _ in list_entries(None, whole=False) if isinstance(value, dict)), None)
    if first is None:
        return _read_objects(list_entries(None, whole=True), wanted, table)
    named = sum(name.lower().endswith(IMAGE_SUFFIXES) for name in document)
    if wanted[0].given is None and (2 * named >= len(document) or not _has_column(first, wanted[0], table)):
        key = "path" if "path" not in first else "path of the object"
        columns = [wanted[0]._replace(given=key), *wanted[1:]]
        return _read_objects(list_entries(key, whole=False), columns, table)
    return _read_objects(list_entries(None, whole=False), wanted, table)


def _has_column(value: dict[str, Any], column: WantedColumn, table: str) -> bool:
    try:
        return bool(find_columns(list(value), [column], table, "first object")) or True
    except DataError:
        return False


def _unpack_single(value: Any) -> Any:
    """Returns what a list of one text or object holds; any other value as it is."""
    return value[0] if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | dict) else value


def _parse_lines(lines: TableLines) -> Iterator[_Entry]:
    for line, problem in read_whole_lines(lines):
        value, problem = _parse_json(line) if problem is None else (None, problem)
        yield f"row {lines.number} of {lines.table}", value, problem


def _parse_json(line: str) -> tuple[Any, str | None]:
    try:
        return json.loads(line), None
    except json.JSONDecodeError as error:
        return None, f"it is not valid JSON ({error.msg} at symbol {error.colno})"
    except (ValueError, RecursionError) as error:
        return None, f"it is not valid JSON ({error})"


def _read_objects(entries: Iterable[_Entry], wanted: Sequence[WantedColumn], table: str) -> Iterator[TableRow]:
    """Reads rows of objects, whose columns are those of the first one."""
    keys: list[str] | None = None
    some = False
    for place, value, problem in entries:
        some = True
        if problem is None and not isinstance(value, dict):
            problem = "it is not a JSON object"
        elif problem is None:
            value, problem = _join_instance(value)
        if problem is None:
            if keys is None:
                names = list(value)
                keys = [names[index] for index in find_columns(names, wanted, table, "first object")]
            texts, problem = pick_texts(value, keys)
            if problem is None:
                yield make_row(place, *texts)
                continue
        yield TableRow(place, None, None, None, problem)
    if keys is None and some:
        raise DataError(f"no line of {table} is a JSON object: write one object a line, without line breaks in it")


def _join_instance(value: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Joins an object with the only one in its list of instances, as MMOCR writes a line."""
    instances = value.get("instances")
    if not isinstance(instances, list):
        return value, None
    if len(instances) != 1 or not isinstance(instances[0], dict):
        return value, f"it has {len(instances)} instances instead of one"
    return {**value, **instances[0]}, None


# Images with annotations


def _read_annotations(images: Any, annotations: Any, table: str, wanted: Sequence[WantedColumn]) -> Iterator[TableRow]:
    """Reads the annotations that have the text of a whole image, as COCO-Text writes them.

    Raises:
        DataError: if most images have several annotations with places, or one of a part of the image.
    """
    by_id = {str(value.get("id", key)): value for key, value in _list_objects(images)}
    of_image: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for _, value in _list_objects(annotations):
        of_image[str(value.get("image_id"))].append(value)
    if not by_id or not of_image:
        raise DataError(f"{table} has no {'annotations' if by_id else 'images'}: write a list of objects in it")
    path_key, *_ = _find_keys(by_id.values(), wanted[:1], table, "first image")
    keys = _find_keys((value for values in of_image.values() for value in values), wanted[1:], table, "annotations")
    problems = {key: problem for key, values in of_image.items() if (problem := _check_place(values, by_id.get(key)))}
    if 2 * len(problems) >= len(of_image):
        key, problem = next(iter(problems.items()))
        name = by_id[key].get(path_key, key) if key in by_id else key
        raise DataError(
            f"{table} has the texts of boxes in images ({name}: {problem}; {len(problems):,} of {len(of_image):,} "
            "images are like it), and a label is the text of a whole image: cut the boxes out as images of lines, and "
            "name each with its text in a table; or write the boxes and texts of each image into a text file of its "
            "name, a line x1,y1,x2,y2,x3,y3,x4,y4,TEXT for each box, and say --pages"
        )
    for number, (key, value) in enumerate(((key, value) for key, values in of_image.items() for value in values), 1):
        place = f"annotation {number} of {table}"
        image = by_id.get(key)
        problem = problems.get(key) or (None if image else f"there is no image {key!r} in the list of images")
        texts: list[str] = []
        if problem is None:
            texts, problem = pick_texts({**value, "\0path": (image or {}).get(path_key)}, ["\0path", *keys])
        yield TableRow(place, None, None, None, problem) if problem else make_row(place, *texts)


def _list_objects(values: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    pairs = values.items() if isinstance(values, Mapping) else enumerate(values)
    return ((str(key), value) for key, value in pairs if isinstance(value, dict))


def _find_keys(values: Iterable[dict[str, Any]], wanted: Sequence[WantedColumn], table: str, where: str) -> list[str]:
    names = list(dict.fromkeys(name for value, _ in zip(values, range(_OBJECTS_LOOKED_AT)) for name in value))  # noqa: B905
    return [names[index] for index in find_columns(names, wanted, table, where)]


def _check_place(annotations: Sequence[dict[str, Any]], image: dict[str, Any] | None) -> str | None:
    """Explains why the annotations of an image are not its whole text; None if they may be."""
    boxed = [value for value in annotations if any(value.get(name) for name in _BOXES)]
    if boxed and len(annotations) > 1:
        return f"it has {len(annotations)} annotations with places"
    if boxed and image is not None:
        box, sizes = boxed[0].get("bbox"), [image.get("width"), image.get("height")]
        numbers = [*(box[2:4] if isinstance(box, list) else []), *sizes]
        if len(numbers) == 4 and all(isinstance(number, int | float) for number in numbers):
            width, height, whole_width, whole_height = numbers
            if width * height < _LEAST_SHARE_OF_IMAGE * whole_width * whole_height:
                return f"its text stands in a box of {width:g}×{height:g} pixels of {whole_width:g}×{whole_height:g}"
    return None
