"""Labels from the name of an image or from a text file beside it, and the one rule for their text."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import unicodedata
from collections.abc import Iterable

from components.listing.references import (
    ImageReference,
    join_path,
    location_to_uri,
    read_regular_file,
    strip_suffix,
    strip_variant,
    uri_to_path,
)
from components.listing.tables import TableColumns
from components.rejects import Reject
from tfrecords import DataError, normalise_text

SIDECAR_SUFFIXES = (".gt.txt", ".txt")
_SIDECAR_SPELLINGS = (".gt.txt", ".GT.TXT", ".txt", ".TXT")
_MAX_SIDECAR_BYTES = 1_000_000


@dataclasses.dataclass(frozen=True)
class LabelRules:
    """The rules that say where the labels of a collection are, and which images stay together in a split.

    Attributes:
        source: `filename`, `sidecar`, `table` or `pages`.
        pattern: of the names without suffix, if labels come from names; with a slash also of the folders above.
        tables: paths or URLs, if labels come from tables.
        columns: of the tables.
        split_by: `image`, `page`, `folder`, `given`, or the name of a table's column; `auto` until it is resolved.
        max_label_length: most symbols that a label may have.
        keep_empty: whether an empty text in a text file or table is a label: that of a blank image.

    Raises:
        DataError: for a pattern without exactly one `{label}`.
    """

    source: str
    pattern: str = "{label}"
    tables: tuple[str, ...] = ()
    columns: TableColumns = dataclasses.field(default_factory=TableColumns)
    split_by: str = "image"
    max_label_length: int = 500
    keep_empty: bool = False

    def __post_init__(self) -> None:
        _compile_name_pattern(self.pattern)

    def __str__(self) -> str:
        """Says where labels come from."""
        if self.source == "table":
            return " and ".join(map(location_to_uri, self.tables))
        return {
            "filename": "the names of folders and files" if "/" in self.pattern else "the file names",
            "sidecar": "the text file beside each image",
            "pages": "the ALTO, PAGE and box files",
        }[self.source]


def add_label(
    reference: ImageReference, text: str, max_label_length: int, *, keep_empty: bool = False
) -> ImageReference:
    """Adds a label to an image, or the reason why the text cannot be a label.

    Every source has the same rule: one line of text, without control characters, in NFC, white space
    collapsed and trimmed (`normalise_text`).
    """
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > 1:
        return reference.reject(
            "several_lines", f"its label has {len(lines)} lines, the image of a line has one: {quote_text(text)}"
        )
    label = normalise_text(text)
    if not label and not keep_empty:
        return reference.reject("empty_label", f"its label is {quote_text(text)}")
    if len(label) > max_label_length:
        return reference.reject(
            "label_too_long", f"its label has {len(label)} symbols, more than --max_label_length={max_label_length}"
        )
    for symbol in label:
        if unicodedata.category(symbol) in ("Cc", "Cs"):
            return reference.reject(
                "label_not_text", f"its label has the control character U+{ord(symbol):04X}: {quote_text(text)}"
            )
    return reference._replace(text=label)


def read_label_from_name(reference: ImageReference, name: str, rules: LabelRules) -> ImageReference:
    """Adds the label that an image's file name or folder holds, or the reason why it holds none.

    Args:
        name: of the image, or of the original of which it is a copy.
    """
    folders = uri_to_path(reference.key).split("/")[:-1]
    stem = "/".join([*folders[max(0, len(folders) - rules.pattern.count("/")) :], strip_suffix(name)])
    try:
        stem = os.fsencode(stem).decode()
    except UnicodeDecodeError as error:
        return reference.reject("label_not_text", f"its name is not UTF-8: {error}")
    match = _compile_name_pattern(rules.pattern).fullmatch(stem)
    if match is None:
        return reference.reject(
            "no_label", f"its name, {quote_text(stem)}, is not like --label_pattern={rules.pattern}"
        )
    return add_label(reference, match["label"], rules.max_label_length)


def read_label_from_sidecar(
    reference: ImageReference, sidecar: str | None, rules: LabelRules, content: bytes | None = None
) -> ImageReference:
    """Adds the label that the text file beside an image holds, or the reason why it holds none.

    Args:
        sidecar: path of the text file; None if there is none.
        content: what was read of it before; None to read it now.
    """
    if sidecar is None:
        return reference.reject("no_label", f"no {' or '.join(SIDECAR_SUFFIXES)} file lies beside the image")
    try:
        content = read_regular_file(sidecar, _MAX_SIDECAR_BYTES + 1) if content is None else content
    except OSError as error:
        return reference.reject("no_label", f"its label cannot be read: {error}")
    if len(content) > _MAX_SIDECAR_BYTES:
        return reference.reject(
            "label_too_long",
            f"{location_to_uri(sidecar)} has more than {_MAX_SIDECAR_BYTES} bytes: it is no label of a line",
        )
    try:
        return add_label(reference, content.decode("utf-8-sig"), rules.max_label_length, keep_empty=rules.keep_empty)
    except UnicodeDecodeError as error:
        return reference.reject("label_not_text", f"{location_to_uri(sidecar)} is not UTF-8: {error}")


class SidecarFolder:
    """The text files of one folder, with a record of which are the labels of images.

    Args:
        folder: path or URL.
        names: of the files in it.
    """

    def __init__(self, folder: str, names: Iterable[str]):
        self._folder = folder
        self._texts = {name for name in names if name.endswith((".txt", ".TXT"))}
        self._used: set[str] = set()

    def find_text_file(self, name: str) -> str | None:
        """Finds the text file beside an image; returns its path, or None."""
        if not self._texts:
            return None
        stem = strip_suffix(name)
        bases = list(dict.fromkeys([stem, name, strip_variant(name)]))
        matches = [base + suffix for suffix in _SIDECAR_SPELLINGS for base in bases if base + suffix in self._texts]
        self._used.update(matches)
        return join_path(self._folder, matches[0]) if matches else None

    def list_unused(self) -> list[Reject]:
        """Lists the text files that belong to no image."""
        unused = self._texts - self._used
        return [
            Reject(location_to_uri(join_path(self._folder, name)), "no_image", "no image of its name lies beside it")
            for name in sorted(unused)
        ]


@functools.lru_cache(maxsize=8)
def _compile_name_pattern(pattern: str) -> re.Pattern[str]:
    """Compiles a pattern such as `{label}_{id}` to a regular expression, in which the label takes as much as it can."""
    parts = re.split(r"\{([A-Za-z_][A-Za-z0-9_]*)\}", pattern)
    fields = parts[1::2]
    if fields.count("label") != 1 or "{" in "".join(parts[::2]) or len(set(fields)) != len(fields):
        raise DataError(
            f"--label_pattern={pattern} has to name {{label}} once, and other parts by names of their own, "
            "such as {label}_{id}"
        )
    expressions = [re.escape(part) for part in parts]
    expressions[1::2] = [f"(?P<{field}>[^/]*)" if field == "label" else f"(?P<{field}>[^/]+?)" for field in fields]
    return re.compile("".join(expressions), re.DOTALL)


def quote_text(text: str) -> str:
    """Quotes a text for the detail of a reject: escaped, and cut if it is long."""
    return repr(text if len(text) <= 80 else f"{text[:80]}…")
