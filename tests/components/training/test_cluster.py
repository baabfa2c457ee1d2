"""Clusters of real processes: how they end when a worker dies or refuses the data."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from components.training import cluster
from components.training.cluster import train_in_processes
from tfrecords import DataError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen]:
    """Every process that is started from here on; they run as they are."""
    processes: list[subprocess.Popen] = []

    class Recorded(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            processes.append(self)

    monkeypatch.setattr(cluster.subprocess, "Popen", Recorded)
    return processes


class Training(threading.Thread):
    """`train_in_processes` in the background, and the error that it ended with."""

    def __init__(self, request: dict, folder, workers: int):
        super().__init__(daemon=True)
        self.arguments = request, str(folder), workers
        self.error: Exception | None = None

    def run(self):
        try:
            train_in_processes(*self.arguments)
        except Exception as error:
            self.error = error


def wait_until(condition, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def assert_nothing_is_left(processes: list[subprocess.Popen]) -> None:
    assert processes
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process.pid, 0)


def test_a_worker_killed_while_it_starts_is_named_and_ends_the_others(tiny_dataset, tmp_path, started, request_for):
    training = Training(request_for(tiny_dataset, epochs=2000), tmp_path, workers=2)
    training.start()
    wait_until(lambda: len(started) == 2, 10)
    os.kill(started[1].pid, signal.SIGKILL)
    training.join(10)
    assert not training.is_alive()
    assert isinstance(training.error, DataError)
    assert "training worker 1 of 2 was killed by SIGKILL" in str(training.error)
    assert str(tmp_path / "worker-1.log") in str(training.error)
    assert_nothing_is_left(started)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_worker_killed_in_the_middle_of_training_is_named_and_ends_the_others(
    killed, tiny_dataset, tmp_path, started, capfd, request_for
):
    training = Training(request_for(tiny_dataset, epochs=2000), tmp_path, workers=2)
    training.start()
    said = ""

    def trains() -> bool:
        nonlocal said
        said += capfd.readouterr().out
        assert training.is_alive(), training.error
        return len(re.findall(r"epoch +\d+/2000", said)) >= 2

    wait_until(trains, 120)
    os.kill(started[killed].pid, signal.SIGKILL)
    training.join(15)
    assert not training.is_alive()
    assert f"training worker {killed} of 2 was killed by SIGKILL" in str(training.error)
    assert_nothing_is_left(started)
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_a_batch_that_replicas_cannot_share_arrives_as_the_sentence_of_the_worker(
    tiny_dataset, tmp_path, started, request_for
):
    with pytest.raises(DataError, match=r"^--batch_size=7 cannot be shared equally by 2 replicas$"):
        train_in_processes(request_for(tiny_dataset, batch_size=7), str(tmp_path), workers=2)
    assert_nothing_is_left(started)


@pytest.mark.slow
def test_a_failure_of_the_program_names_the_log_and_its_last_line(tmp_path, started, request_for):
    """The dataset is not there: no DataError of the worker's, but a traceback in its log."""
    with pytest.raises(DataError, match=r"training worker 0 of 1 ended with status 1: .*\(.*worker-0\.log\)"):
        train_in_processes(request_for(tmp_path / "nowhere"), str(tmp_path), workers=1)
    assert "Traceback" in (tmp_path / "worker-0.log").read_text()
    assert_nothing_is_left(started)


@pytest.mark.slow
def test_an_old_error_is_not_taken_for_that_of_a_new_run(tmp_path, started, request_for):
    (tmp_path / "error.txt").write_text("what went wrong last time")
    with pytest.raises(DataError, match="training worker 0 of 1 ended with status 1"):
        train_in_processes(request_for(tmp_path / "nowhere"), str(tmp_path), workers=1)


def test_workers_end_with_the_process_that_started_them(tiny_dataset, tmp_path, request_for):
    """A killed launcher cannot stop its workers: they must notice."""
    launcher_program = (
        "import json, sys\n"
        "from components.training.cluster import train_in_processes\n"
        "train_in_processes(json.loads(sys.argv[1]), sys.argv[2], workers=2)\n"
    )
    request = json.dumps(request_for(tiny_dataset, epochs=2000))
    launcher = subprocess.Popen(
        [sys.executable, "-c", launcher_program, request, str(tmp_path)], env=cluster._environment([], 0)
    )
    children_path = f"/proc/{launcher.pid}/task/{launcher.pid}/children"
    if not os.path.exists(children_path):
        launcher.kill()
        pytest.skip("child processes cannot be listed here")
    workers: list[int] = []

    def both_started() -> bool:
        with open(children_path) as file:
            workers[:] = map(int, file.read().split())
        return len(workers) == 2

    wait_until(both_started, 20)
    time.sleep(1)
    launcher.kill()
    launcher.wait()
    wait_until(lambda: not any(map(_runs, workers)), 20)


def _runs(pid: int) -> bool:
    """Whether a process is there and is not merely waiting to be collected."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_no_worker_of_one_gets_a_cluster_and_each_of_two_gets_its_own_place():
    assert "TF_CONFIG" not in cluster._environment([], 0) or "TF_CONFIG" in os.environ
    config = json.loads(cluster._environment(["localhost:1", "localhost:2"], 1)["TF_CONFIG"])
    assert config == {
        "cluster": {"worker": ["localhost:1", "localhost:2"]},
        "task": {"type": "worker", "index": 1},
    }


def test_starting_a_cluster_imports_no_tensorflow():
    program = "import sys, components.training.cluster; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], env=cluster._environment([], 0), check=True)
