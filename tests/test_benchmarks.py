"""Tests of the rules by which the benchmarks judge: the measurements themselves are no tests."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import measure_rate, print_row
from benchmarks.machine import CORES, measure_usage, share_of_others


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
