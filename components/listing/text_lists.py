"""Lists of images and texts without a header, as the tools and data sets of other people write them."""

from __future__ import annotations

import collections
import csv
import dataclasses
import itertools
import re
from collections.abc import Container, Iterator, Sequence

from components.listing.name_matching import make_name_key
from components.listing.references import IMAGE_SUFFIXES, strip_suffix
from components.listing.split_names import name_split
from components.listing.table_rows import CARRIAGE_RETURN, TableLines, read_whole_lines
from tfrecords import DataError

Record = tuple[int, list[str], str | None]
"""Number of the first line, cells, and the problem or None."""

IAM = "iam"
"""The separator that stands for the lists of the IAM database."""
SPLITS = -1
"""The number that stands for the column of splits."""
MARKED_WRONG = "it is marked as cut out wrongly (err)"
"""The problem of a record whose image is to be left out."""

_LINES_LOOKED_AT = 200
_MOST = 0.9
_LEAST_LINES = 3
_SUFFIXES = "|".join(re.escape(suffix) for suffix in sorted(IMAGE_SUFFIXES, key=len, reverse=True))
_NAMED = re.compile(rf'(?P<path>[^"\t]*?(?:{_SUFFIXES}))(?P<separator>\t| ?[,;]| |$)', re.IGNORECASE)
_QUOTED = re.compile(r'"(?P<path>(?:[^"]|"")*)"(?P<separator>\t| ?[,;]| |$)')
_BOX = re.compile(r"(-?\d+[ ,\t] ?){4,}.*\D.*", re.DOTALL)  # its corners, or a corner and its size, and a text
_BOXES_IN_JSON = ('[{"', "[{'")  # as PPOCRLabel writes those of a page
_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)?")
_IAM = re.compile(
    r"(?P<id>\S+) +(?P<state>ok|err)(?: +-?\d+){6} +(?P<line>.+)|(?P<word_id>\S+) +(?P<word_state>ok|err)"
    r"(?: +-?\d+){5} +\S+ +(?P<word>.+)"
)


@dataclasses.dataclass(frozen=True)
class ListForm:
    """The form of a list without a header.

    Attributes:
        separator: after the path: a comma, a semicolon, a tab, or a space; or `IAM`.
        columns: of the path, the text and perhaps the group, if each line has three or more cells; None if the text is
            all after the path.
        width: number of cells of a line, if there are columns.
        quoted: whether quotation marks around every text are no part of it.
    """

    separator: str
    columns: tuple[int, ...] | None = None
    width: int = 2
    quoted: bool = True


def find_list_form(lines: TableLines, separators: str, columns: Sequence[int | None]) -> ListForm | None:
    """Finds out from the first lines how a list is written; None if it is none.

    Args:
        separators: that the kind of file may have.
        columns: of the path, the text and perhaps the group, from 0, as far as a flag numbers them; a group is
            `SPLITS` where the column is meant that holds nothing but names of splits.

    Raises:
        DataError: if the lines are no labels of images, or if several columns could hold the text.
    """
    lines.restart()
    sample = [line for line, problem in itertools.islice(read_whole_lines(lines), _LINES_LOOKED_AT) if not problem]
    if any("\0" in line or "\r" in line for line in sample[:1]):
        return None
    plain = [line for line in sample if not line.startswith("#")]
    if plain and sum(map(bool, map(_IAM.fullmatch, plain))) >= _MOST * len(plain):
        return ListForm(IAM)
    matches = [_match_path(line) for line in plain]
    found = [match["separator"].strip(" ") or " " for match in matches if match and match["separator"]]
    if not found or matches[0] is None:  # the path may be another cell than the first
        tables = ((separator, _split_cells(plain, separator)) for separator in separators.strip(" "))
        for separator, rows in tables:
            path = _find_paths(_list_columns(rows)) if len(set(map(len, rows))) == 1 and len(rows[0]) > 2 else None
            if path is not None and rows[0][path].strip().lower().endswith(IMAGE_SUFFIXES):  # no header, then
                return _make_form(separator, rows, columns, lines.table)
        return None
    separator = collections.Counter(found).most_common(1)[0][0]
    if separator not in separators or len(found) < _MOST * len(plain):
        return None
    split = [split_line(line, separator, quoted=False) for line in plain]
    pairs = [(path, text) for path, text, problem in split if problem is None]
    if sum(text.lower().endswith(IMAGE_SUFFIXES) for _, text in pairs) >= _MOST * len(pairs):
        return None
    _refuse_numbers(pairs, lines.table)
    if separator != " ":
        rows = _split_cells(plain, separator)
        if min(map(len, rows)) > 2:
            return _make_form(separator, rows, columns, lines.table)
    if len(columns) > 2:
        return None
    return ListForm(separator, quoted=separator in ",;" or _is_quoted_throughout(pairs))


def find_form_of_names(lines: TableLines, separators: str, names: Container[str]) -> ListForm | None:
    """Finds out how a list is written whose lines begin with names of images without suffixes; None if it is none.

    Args:
        separators: that the kind of file may have.
        names: of the images near it, as `make_name_key` makes them.
    """
    lines.restart()
    sample = [line for line, problem in itertools.islice(read_whole_lines(lines), _LINES_LOOKED_AT) if not problem]
    for separator in sorted(separators, key="\t,; ".index):
        cells = [line.partition(separator) for line in sample]
        if sum(bool(text.strip()) and make_name_key(name) in names for name, _, text in cells) >= max(
            _LEAST_LINES, _MOST * len(sample)
        ):
            return ListForm(separator, quoted=separator in ",;")
    return None


def read_list_records(lines: TableLines, form: ListForm) -> Iterator[Record]:
    """Reads the path and the text of each line of a list, from its first line."""
    lines.restart()
    for line, problem in read_whole_lines(lines):
        if form.separator == IAM:
            if not line.startswith("#"):
                path, text, problem = ("", "", problem) if problem else _split_iam_line(line)
                yield lines.number, [path, text], problem
            continue
        path, text = "", ""
        if problem is None and "\r" in line:
            problem = CARRIAGE_RETURN
        if problem is None:
            path, text, problem = split_line(line, form.separator, quoted=form.quoted)
        yield lines.number, [path, text], problem


def split_line(line: str, separator: str, *, quoted: bool = True) -> tuple[str, str, str | None]:
    """Splits a line after its path: whatever follows is the text, or with `quoted` what stands in quotation marks.

    Returns:
        The path, the text, and the problem or None.
    """
    line = line.strip(" ")
    match = _match_path(line)
    if match and (match["separator"].strip(" ") or " ") == separator:
        path, text = match["path"].replace('""', '"'), line[match.end() :]
    else:
        path, found, text = line.partition(separator)
        if not found:
            return "", "", "it has no text after the path"
    text = text.strip()
    if quoted and text.startswith('"'):
        unquoted = _unquote(text)
        if unquoted is None:
            return "", "", "a quotation mark is not closed, or not doubled inside a quoted text"
        text = unquoted
    return path, text, None


def _match_path(line: str) -> re.Match[str] | None:
    """Matches the path at the beginning of a line, as far as the separator after it."""
    return _QUOTED.match(line) if line.startswith('"') else _NAMED.match(line)


def _unquote(text: str) -> str | None:
    """Removes the quotation marks around a text, and what marks those inside it: they are doubled, or after `\\`."""
    inside = text[1:-1]
    if len(text) < 2 or not text.endswith('"'):
        return None
    if '"' not in inside.replace('""', ""):
        return inside.replace('""', '"')
    if re.fullmatch(r'(?:[^"\\]|\\.)*', inside):
        return re.sub(r'\\(["\\])', r"\1", inside)
    return None


def _split_iam_line(line: str) -> tuple[str, str, str | None]:
    match = _IAM.fullmatch(line)
    if match is None:
        return "", "", "it is not like the other lines, which have an identifier, ok or err, numbers and a text"
    if "err" in (match["state"], match["word_state"]):
        return match["id"] or match["word_id"], "", MARKED_WRONG
    if match["word_id"]:
        return match["word_id"], match["word"], None
    return match["id"], match["line"].replace("|", " "), None


def _split_cells(lines: Sequence[str], separator: str) -> list[list[str]]:
    if separator == "\t":
        return [line.split("\t") for line in lines]
    try:
        return list(csv.reader(lines, delimiter=separator, skipinitialspace=True))
    except csv.Error:
        return [[""]]


def _is_quoted_throughout(pairs: Sequence[tuple[str, str]]) -> bool:
    return bool(pairs) and all(len(text) > 1 and text[0] == text[-1] == '"' for _, text in pairs)


def _refuse_numbers(pairs: Sequence[tuple[str, str]], table: str) -> None:
    """Raises an error if what follows the paths is an index that they end with, or the place of a box."""
    if not pairs:
        return
    boxes = [text for _, text in pairs if _BOX.fullmatch(text) or text.startswith(_BOXES_IN_JSON)]
    if len(boxes) >= _MOST * len(pairs):
        raise DataError(
            f"{table} has the places of boxes in images, such as {boxes[0][:80]!r}, and not one text for each image: "
            "cut the boxes out as images of lines, and name each with its text in a table; if these are the texts, "
            "begin the file with a header line such as path,text"
        )
    indexed = sum(_ends_with(path, text) for path, text in pairs)
    if indexed >= max(_LEAST_LINES, _MOST * len(pairs)):
        raise DataError(
            f"{table} has a number for each image with which its name ends too, such as {pairs[0][1]!r} of "
            f"{pairs[0][0][-80:]!r}, and no text: if the texts are in the names, say "
            "--label_source=filename --label_pattern={id}_{label}_{index}"
        )


def _ends_with(path: str, text: str) -> bool:
    """Tells whether a path ends with `_` and the number that stands after it, perhaps with its text before that."""
    number = text.rpartition(" ")[2]
    return number.isdecimal() and strip_suffix(path).endswith(f"_{number}")


def find_unnamed_columns(rows: Sequence[Sequence[str]], given: Sequence[int | None], table: str) -> tuple[int, int]:
    """Finds the columns of the path and the text among several without names.

    Args:
        given: their numbers from 0, as far as a flag gives them.

    Raises:
        DataError: if the text is not the only column that differs from row to row and holds more than numbers.
    """
    columns = _list_columns(rows)
    path = given[0] if given[0] is not None else _find_paths(columns)
    text = given[1] if len(given) > 1 else None
    if path is not None and text is not None and path != text and max(path, text) < len(columns):
        return path, text
    likely = [index for index, column in enumerate(columns) if index != path and _may_be_text(column)]
    words = [index for index in likely if not all(map(_NUMBER.fullmatch, columns[index]))]
    same = len(set(map(len, rows))) == 1
    if path is not None and same and (len(words) == 1 or len(likely) == 1):
        return path, (words or likely)[0]
    examples = " and ".join(f"column {index + 1} has {columns[index][0][:40]!r}" for index in (words or likely)[:3])
    raise DataError(
        f"{table} has {'' if same else 'at least '}{len(columns)} columns without names, and it is not clear which "
        "holds the text"
        f"{f' ({examples})' if examples else ''}: begin the table with a header line such as path,text, put texts "
        "with commas in quotation marks, or say which column it is by its number, such as --text_column=2"
    )


def find_columns_of_cells(
    rows: Sequence[Sequence[str]], columns: Sequence[int | None], table: str
) -> tuple[int, ...] | None:
    """Finds the columns of a table without a header; None if no column, or more than one, has names of images.

    Args:
        rows: the first ones, with as many cells each.
        columns: as of `find_list_form`.

    Raises:
        DataError: as `find_list_form` does.
    """
    path = _find_paths(_list_columns(rows))
    if path is None or not rows[0][path].strip().lower().endswith(IMAGE_SUFFIXES):
        return None
    form = _make_form("", rows, columns, table)
    return None if form is None else form.columns


def _make_form(
    separator: str, rows: Sequence[Sequence[str]], columns: Sequence[int | None], table: str
) -> ListForm | None:
    """Makes the form of lines with three or more cells; None if the group that is asked for is not among them."""
    found = find_unnamed_columns(rows, columns, table)
    if len(columns) < 3:
        return ListForm(separator, found, len(rows[0]))
    group = columns[2]
    if group == SPLITS:
        cells = _list_columns(rows)
        splits = [index for index in range(len(cells)) if index not in found and all(map(name_split, cells[index]))]
        group = splits[0] if len(splits) == 1 else None
    if group is None or group >= len(rows[0]):
        return None
    return ListForm(separator, (*found, group), len(rows[0]))


def _list_columns(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[cell.strip() for cell in column] for column in zip(*rows)]  # noqa: B905


def _find_paths(columns: Sequence[Sequence[str]]) -> int | None:
    named = [
        index
        for index, column in enumerate(columns)
        if sum(cell.lower().endswith(IMAGE_SUFFIXES) for cell in column) >= _MOST * len(column)
    ]
    return named[0] if len(named) == 1 else None


def _may_be_text(column: Sequence[str]) -> bool:
    values = set(column)
    alike = len(values) == 1 and len(column) >= _LEAST_LINES
    return not alike and values != {""} and not all(name_split(value) for value in values)
