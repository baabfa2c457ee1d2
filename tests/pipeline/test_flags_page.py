"""docs/flags.md is made from the table of flags."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.flags import FLAG_SECTIONS
from pipeline.flags_page import format_flags_page

PAGE = Path(__file__).parents[2] / "docs" / "flags.md"


def test_the_page_of_flags_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == format_flags_page(), "run: python -m pipeline.flags_page > docs/flags.md"


def test_the_page_has_every_flag_once_with_as_many_cells_as_its_table():
    rows = re.findall(r"^\| `--(\w+).*\|$", format_flags_page().partition("## Apache Beam")[0], re.MULTILINE)
    assert rows == [flag.name for section in FLAG_SECTIONS for flag in section.flags]
    for table in re.findall(r"(?:^\|.*\|\n)+", format_flags_page(), re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1
