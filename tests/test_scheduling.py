"""The table of long tests names files and tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.scheduling import SECONDS


@pytest.mark.parametrize("unit", SECONDS)
def test_what_is_scheduled_is_there(unit):
    name, _, test = unit.partition("::")
    text = (Path(__file__).parent / name).read_text(encoding="utf-8")
    assert not test or re.search(rf"^def {test}\(", text, re.MULTILINE)
