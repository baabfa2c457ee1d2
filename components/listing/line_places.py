"""The path of a line on a page: that of the page's image, and behind it the line and the page file that has it.

    /scans/0007.jpg#line=l12                        the page file is /scans/0007.xml
    /scans/img/0007.tif#xml=../xml/nzz7.xml&line=l12
    /scans/0007.jpg#txt=0007.txt&line=12            line 12 of a file of boxes

So a line has a path and a URI like an image, and whoever has it finds the line again.
"""

from __future__ import annotations

import os
import posixpath
import re
from typing import NamedTuple

from components.layout import PageFile, PageLine
from components.listing.references import IMAGE_SUFFIXES, get_folder, join_path, strip_suffix
from tfrecords import storage

PAGE_FILE_SUFFIX = ".xml"
"""Suffix of ALTO and PAGE files."""
BOX_FILE_SUFFIX = ".txt"
"""Suffix of files of boxes."""
_PATH = re.compile(r"(?P<image>.+?)#(?:xml=(?P<xml>.+)&|txt=(?P<txt>.+\.(?i:txt))&)?line=(?P<line>[\w.:-]+)", re.DOTALL)
_NAME = re.compile(r"[\w.:-]+")  # of XML (section 2.3 of its specification), and hardly anything else


class LinePlace(NamedTuple):
    """The place of a line.

    Attributes:
        image: path or URL of the page's image.
        page_file: path or URL of its ALTO or PAGE file, or of its file of boxes.
        line: its name, as `name_lines` gives it.
    """

    image: str
    page_file: str
    line: str

    @property
    def path(self) -> str:
        """The path or URL of the line."""
        if self.page_file == _name_usual_page_file(self.image):
            return f"{self.image}#line={self.line}"
        kind = "txt" if is_box_file(self.page_file) else "xml"
        return f"{self.image}#{kind}={_make_relative(self.page_file, get_folder(self.image))}&line={self.line}"


def is_box_file(path: str) -> bool:
    """Tells whether a page file is named as a file of boxes is."""
    return path.lower().endswith(BOX_FILE_SUFFIX)


def name_kind(page_file: str) -> str:
    """Names the kind of a page file, by its path."""
    return "a file of boxes" if is_box_file(page_file) else "an ALTO or PAGE file"


def find_line_place(path: str) -> LinePlace | None:
    """Finds the place of a line from its path or URL; None if it is the path of a whole image."""
    if "line=" not in path or (match := _PATH.fullmatch(path)) is None or path.lower().endswith(IMAGE_SUFFIXES):
        return None
    image, page_file = match["image"], _name_usual_page_file(match["image"])
    if (named := match["xml"] or match["txt"]) is not None:
        page_file = _resolve(named, get_folder(image))
    return LinePlace(image, page_file, match["line"])


def get_page(path: str) -> str:
    """Returns the part of a path, URI or key that all lines of a page share; the whole one of an image."""
    return path if (place := find_line_place(path)) is None else place.image


def name_lines(page: PageFile) -> dict[str, PageLine]:
    """Names the lines of a page: by their IDs, or by their numbers where an ID is no name."""
    taken = {line.line_id for line in page.lines}
    named: dict[str, PageLine] = {}
    for number, line in enumerate(page.lines, 1):
        name = line.line_id
        if not _NAME.fullmatch(name) or name in named:
            name = f"line-{number:04d}"
            while name in taken or name in named:
                name += "."
        named[name] = line
    return named


def _name_usual_page_file(image: str) -> str:
    folder, name = get_folder(image), image.rpartition("/")[2]
    return join_path(folder, f"{strip_suffix(name)}{PAGE_FILE_SUFFIX}")


def _make_relative(path: str, folder: str) -> str:
    if not storage.is_remote(path):
        return os.path.relpath(path, folder)
    return posixpath.relpath(path.partition("://")[2], folder.partition("://")[2])


def _resolve(named: str, folder: str) -> str:
    if not storage.is_remote(folder):
        return os.path.normpath(os.path.join(folder, named))
    scheme, _, rest = folder.partition("://")
    return f"{scheme}://{posixpath.normpath(posixpath.join(rest, named))}"
