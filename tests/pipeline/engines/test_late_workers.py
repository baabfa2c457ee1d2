"""A worker of Beam's own engine that connects after its job has failed: it is told to end."""

from __future__ import annotations

import threading
import types

import pytest
from apache_beam.runners.portability.fn_api_runner.worker_handlers import BeamFnControlServicer, ControlConnection

from pipeline.engines.late_workers import end_late_workers


@pytest.fixture
def servicer() -> BeamFnControlServicer:
    """The service of a job to which a worker connects."""
    return BeamFnControlServicer(types.SimpleNamespace())


def test_a_worker_that_connects_after_the_end_is_told_so(servicer):
    context = types.SimpleNamespace(invocation_metadata=lambda: [("worker_id", "late")])
    asked = threading.Thread(target=lambda: list(servicer.Control(iter(()), context)), daemon=True)
    with end_late_workers():
        servicer.get_conn_by_worker_id("late").close()
    asked.start()
    asked.join(30)
    assert not asked.is_alive()


def test_the_engine_is_as_it_was_afterwards():
    close = ControlConnection.close
    with end_late_workers():
        assert ControlConnection.close is not close
    assert ControlConnection.close is close
