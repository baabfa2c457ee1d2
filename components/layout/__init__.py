"""The layout of a page: its lines, as ALTO files, PAGE files and files of boxes give them."""

from components.layout.box_file import looks_like_box_file, parse_box_file
from components.layout.cutting import cut_line, find_cut
from components.layout.line_texts import LineText, ProcessingStep, WordText
from components.layout.page_file import PageFile, PageFileError, PageLine
from components.layout.reading import looks_like_page_file, parse_page_file
from components.layout.writing import can_stand_in_xml, find_format, write_texts

__all__ = [
    "LineText",
    "PageFile",
    "PageFileError",
    "PageLine",
    "ProcessingStep",
    "WordText",
    "can_stand_in_xml",
    "cut_line",
    "find_cut",
    "find_format",
    "looks_like_box_file",
    "looks_like_page_file",
    "parse_box_file",
    "parse_page_file",
    "write_texts",
]
