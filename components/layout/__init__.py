"""The layout of a page: its lines, as ALTO and PAGE files give them."""

from components.layout.cutting import cut_line
from components.layout.page_file import PageFile, PageFileError, PageLine
from components.layout.reading import looks_like_page_file, parse_page_file

__all__ = ["PageFile", "PageFileError", "PageLine", "cut_line", "looks_like_page_file", "parse_page_file"]
