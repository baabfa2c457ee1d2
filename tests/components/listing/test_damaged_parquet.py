"""Damaged Parquet files: one tells nothing where labels are looked for, is refused as a table, and ends no process."""

import pathlib
import random
import struct
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest

LOOK = """
import sys
from components.listing.contents import read_content
for path in sys.argv[1:]:
    read_content(path)
"""
READ = """
import contextlib, sys
from components.listing.tables import TableColumns, read_label_table
from tfrecords import DataError
for path in sys.argv[1:]:
    with contextlib.suppress(DataError):
        list(read_label_table(path, TableColumns()))
"""


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> list[pathlib.Path]:
    """A thousand label tables with other bytes in their footers."""
    folder = tmp_path_factory.mktemp("damaged")
    rows = {"path": [f"{n}.png" for n in range(50)], "text": [f"t{n}" for n in range(50)], "n": list(range(50))}
    pyarrow.parquet.write_table(pyarrow.table(rows), folder / "whole.parquet")
    whole = (folder / "whole.parquet").read_bytes()
    (footer,) = struct.unpack("<I", whole[-8:-4])
    draw = random.Random(3)
    paths = []
    for number in range(1_000):
        content = bytearray(whole)
        for _ in range(draw.choice([1, 1, 2, 4])):
            content[draw.randrange(len(whole) - 8 - footer, len(whole) - 8)] = draw.randrange(256)
        paths.append(folder / f"{number}.parquet")
        paths[-1].write_bytes(content)
    return paths


@pytest.mark.parametrize("program", [LOOK, READ], ids=["looked at", "read"])
def test_a_damaged_footer_ends_no_process(damaged, program):
    done = subprocess.run([sys.executable, "-c", program, *map(str, damaged)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
