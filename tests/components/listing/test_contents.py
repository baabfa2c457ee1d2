"""Text in files of any kind: a damaged file tells nothing, and ends no process."""

import random
import struct
import subprocess
import sys

import pyarrow
import pyarrow.parquet

READ = "import sys; from components.listing.contents import read_content; [read_content(path) for path in sys.argv[1:]]"


def test_a_damaged_footer_of_a_parquet_file_ends_no_process(tmp_path):
    rows = {"path": [f"{n}.png" for n in range(50)], "text": [f"t{n}" for n in range(50)], "n": list(range(50))}
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    (footer,) = struct.unpack("<I", whole[-8:-4])
    draw = random.Random(3)
    paths = []
    for number in range(1_000):
        content = bytearray(whole)
        for _ in range(draw.choice([1, 1, 2, 4])):
            content[draw.randrange(len(whole) - 8 - footer, len(whole) - 8)] = draw.randrange(256)
        paths.append(tmp_path / f"{number}.parquet")
        paths[-1].write_bytes(content)
    done = subprocess.run([sys.executable, "-c", READ, *map(str, paths)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
