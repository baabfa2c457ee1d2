"""Tests of the rules by which the benchmarks judge, and of what their loops do; no speed is tested."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow.parquet
import pytest

from benchmarks.common import measure_rate, print_row
from benchmarks.ingest import HEIGHT, LIMITS, encode_example, read_grey_line
from benchmarks.machine import CORES, measure_usage, share_of_others
from benchmarks.recognition import recognise_to_parquet
from components.ingest.encode import EncodingRules
from components.listing import ImageReference
from components.training.recipes import TIME_STRIDE
from tests.rendered import render_codes
from tfrecords import Charset

MODEL = str(Path(__file__).parent / "stored/workspace_2026_11/models/efd9c7cc074c")


def compute(number: int) -> int:
    """Takes a little processor time."""
    return sum(range(20_000 + number))


def test_the_share_of_others_is_what_the_cores_did_beside_the_measurement():
    assert share_of_others(10, busy=6 * CORES, own=4 * CORES) == pytest.approx(0.2)
    assert share_of_others(10, busy=3.9, own=4) == 0  # ticks of the clock are coarse
    assert share_of_others(0, busy=1, own=0) == 0


def test_processor_time_of_a_block_is_counted_and_sleep_is_not():
    with measure_usage() as usage:
        used = time.process_time()
        while time.process_time() - used < 0.2:
            pass
        time.sleep(0.2)
    assert usage.processor >= 0.2
    assert usage.seconds >= usage.processor / CORES + 0.1
    assert 0 <= usage.others <= 1


def test_a_loop_tells_the_processor_time_of_an_item():
    found = measure_rate(compute, list(range(200)), processes=2)
    assert found.rate > 0
    assert 20 < found.processor < 100_000
    assert 0 <= found.others <= 1


@pytest.mark.parametrize(
    ("others", "verdict"), [(0.04, "85%: met"), (0.06, "85%: no verdict, since other processes took 6% of the cores")]
)
def test_there_is_no_verdict_on_a_busy_machine(capsys, others, verdict):
    print_row("the step", "100", "90.0%", "85%", is_met=True, others=others)
    assert capsys.readouterr().out.rstrip().endswith(verdict)


def test_the_loops_do_with_an_image_what_the_product_does(tmp_path):
    codes = render_codes(tmp_path / "codes", "abc", 2)
    paths = sorted(str(path) for path in (tmp_path / "codes").glob("*.png"))
    rules = EncodingRules(Charset.from_texts(codes), HEIGHT, TIME_STRIDE, LIMITS)
    for path, code in zip(paths, codes, strict=True):
        example = encode_example(ImageReference(path, path, Path(path).stat().st_size, 0, code), rules)
        assert isinstance(example, bytes)
        read_grey_line(path)
    recognise_to_parquet((7, paths), MODEL, str(tmp_path))
    assert pyarrow.parquet.read_table(tmp_path / "loop-7.parquet").column("uri").to_pylist() == paths
