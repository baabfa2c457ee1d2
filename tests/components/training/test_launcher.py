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

from components.devices import find_gpus
from components.training import launcher as cluster
from components.training.launcher import share_gpus, train_in_processes
from components.training.place import ClusterPlace
from tests.fork_server import ForkedProcess
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
    killed, tiny_dataset, tmp_path, warm_workers, capfd, request_for
):
    started = warm_workers.started
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
    assert not (tmp_path / "model" / "model.keras").exists()


@pytest.mark.slow
def test_a_batch_that_replicas_cannot_share_arrives_as_the_sentence_of_the_worker(
    tiny_dataset, tmp_path, warm_workers, request_for
):
    with pytest.raises(
        DataError, match=r"^--batch_size=7 cannot be shared equally by 2 replicas: give a multiple of 2$"
    ):
        train_in_processes(request_for(tiny_dataset, batch_size=7), str(tmp_path), workers=2)
    assert_nothing_is_left(warm_workers.started)


@pytest.mark.slow
def test_a_failure_of_the_program_names_the_log_and_its_last_line(tmp_path, started, request_for):
    """The dataset is not there: no DataError of the worker's, but a traceback in its log."""
    with pytest.raises(DataError, match=r"training worker 0 of 1 ended with status 1: .*\(.*worker-0\.log\)"):
        train_in_processes(request_for(tmp_path / "nowhere"), str(tmp_path), workers=1)
    assert "Traceback" in (tmp_path / "worker-0.log").read_text()
    assert_nothing_is_left(started)


@pytest.mark.slow
@pytest.mark.usefixtures("warm_workers")
def test_an_old_error_is_not_taken_for_that_of_a_new_run(tmp_path, request_for):
    (tmp_path / "error.txt").write_text("what went wrong last time")
    with pytest.raises(DataError, match="training worker 0 of 1 ended with status 1"):
        train_in_processes(request_for(tmp_path / "nowhere"), str(tmp_path), workers=1)


def test_workers_end_with_the_process_that_started_them(tiny_dataset, tmp_path, request_for):
    """A killed launcher cannot stop its workers: they must notice."""
    launcher_program = (
        "import json, sys\n"
        "from components.training.launcher import train_in_processes\n"
        "train_in_processes(json.loads(sys.argv[1]), sys.argv[2], workers=2)\n"
    )
    request = json.dumps(request_for(tiny_dataset, epochs=2000))
    launcher = subprocess.Popen(
        [sys.executable, "-c", launcher_program, request, str(tmp_path)], env=cluster.make_environment([], 0)
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
    assert "TF_CONFIG" not in cluster.make_environment([], 0) or "TF_CONFIG" in os.environ
    config = json.loads(cluster.make_environment(["localhost:1", "localhost:2"], 1)["TF_CONFIG"])
    assert config == {
        "cluster": {"worker": ["localhost:1", "localhost:2"]},
        "task": {"type": "worker", "index": 1},
    }


def test_starting_a_cluster_imports_no_tensorflow():
    program = "import sys, components.training.launcher; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], env=cluster.make_environment([], 0), check=True)


# The place in a scheduler's cluster


def place(config: object) -> ClusterPlace | None:
    return ClusterPlace.from_environment({"TF_CONFIG": config if isinstance(config, str) else json.dumps(config)})


@pytest.mark.parametrize(
    "config", ["", "  ", "{}", {"cluster": {}}, {"cluster": {"worker": []}}, {"task": {"type": "worker", "index": 3}}]
)
def test_a_tf_config_that_says_nothing_of_a_cluster_is_none(config):
    assert place(config) is None
    assert ClusterPlace.from_environment({}) is None


@pytest.mark.parametrize(
    ("cluster_spec", "task", "worker"),
    [
        *(({"worker": ["a:1", "b:1"]}, ("worker", index), index) for index in (0, 1)),
        *(({"chief": ["a:1"], "worker": ["b:1"]}, task, i) for i, task in enumerate([("chief", 0), ("worker", 0)])),
        *(({"master": ["a:1"], "worker": ["b:1"]}, task, i) for i, task in enumerate([("master", 0), ("worker", 0)])),
        ({"worker": ["b:1"], "chief": ["a:1"]}, ("worker", 0), 1),
    ],
)
def test_workers_are_numbered_from_the_chief_whatever_it_is_called(cluster_spec, task, worker):
    found = place({"cluster": cluster_spec, "task": dict(zip(("type", "index"), task, strict=True))})
    assert found == ClusterPlace(worker, ("a:1", "b:1"))
    assert found.is_chief == (worker == 0)


def test_what_vertex_ai_and_kubeflow_say_is_understood():
    vertex = {
        "cluster": {"chief": ["cmle-chief-0:2222"], "worker": ["cmle-worker-0:2222", "cmle-worker-1:2222"]},
        "task": {"type": "worker", "index": 1, "trial": "7", "cloud": "x"},
        "environment": "cloud",
        "job": "{}",
    }
    addresses = ("cmle-chief-0:2222", "cmle-worker-0:2222", "cmle-worker-1:2222")
    assert place(vertex) == ClusterPlace(2, addresses)
    kubeflow = {
        "cluster": {"worker": ["t-0.ns.svc:1", "t-1.ns.svc:1"], "ps": []},
        "task": {"type": "worker", "index": "1"},
    }
    assert place(kubeflow) == ClusterPlace(1, ("t-0.ns.svc:1", "t-1.ns.svc:1"))


def test_one_node_is_a_cluster_of_one():
    assert place({"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}) == ClusterPlace(0, ("a:1",))
    assert place({"cluster": {"worker": ["a:1"]}}) == ClusterPlace(0, ("a:1",))


@pytest.mark.parametrize(
    "config",
    [
        *("{", "worker", "null", "[]", "3", '"text"'),
        *({"cluster": []}, {"cluster": "a:1"}, {"cluster": {"worker": 3}}, {"cluster": {"worker": "a:1,b:1"}}),
        {"cluster": {"worker": {"0": "a:1"}}},
        *({"cluster": {"worker": ["a:1"]}, "task": task} for task in (3, [], {"index": None}, {"index": "first"})),
    ],
)
def test_a_tf_config_that_cannot_be_understood_is_quoted_in_one_sentence(config):
    with pytest.raises(DataError) as refusal:
        place(config)
    text = config if isinstance(config, str) else json.dumps(config)
    assert str(refusal.value).startswith(f"TF_CONFIG={text} is not what TensorFlow's documentation describes: ")


@pytest.mark.parametrize("kinds", [["ps"], ["evaluator"], ["evaluator", "ps"]])
@pytest.mark.parametrize("task", ["worker", "ps", "evaluator"])
def test_tasks_that_do_not_train_are_refused_by_name(kinds, task):
    spec = {"worker": ["a:1"], **{kind: ["c:1"] for kind in kinds}}
    with pytest.raises(DataError, match=rf"^TF_CONFIG names tasks of the kind {', '.join(kinds)}, which have nothing"):
        place({"cluster": spec, "task": {"type": task, "index": 0}})


@pytest.mark.parametrize(("kind", "index"), [("worker", 2), ("worker", -1), ("chief", 0), ("ps", 0)])
def test_a_task_that_its_cluster_does_not_have_is_refused(kind, index):
    with pytest.raises(DataError, match=rf"names this task {kind} {index}, but its cluster has no such task$"):
        place({"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": kind, "index": index}})


@pytest.mark.slow
def test_a_cluster_whose_chief_is_called_master_trains(tiny_dataset, tmp_path, training_server, request_for, capfd):
    """As older schedulers call it; TensorFlow itself does not know that name any more."""
    first, second = (f"localhost:{port}" for port in cluster.find_free_ports(2))
    request = json.dumps(request_for(tiny_dataset, epochs=1))
    nodes = []
    for kind in ("master", "worker"):
        config = {"cluster": {"master": [first], "worker": [second]}, "task": {"type": kind, "index": 0}}
        program = (
            "import json, os, sys\n"
            "from components.training.launcher import train_in_processes\n"
            "from components.training.place import ClusterPlace\n"
            "from tests.commands import start_trainings_from\n"
            f"start_trainings_from({training_server!r})\n"
            "place = ClusterPlace.from_environment(os.environ)\n"
            "train_in_processes(json.loads(sys.argv[1]), sys.argv[2], 1, place=place)\n"
        )
        nodes.append(
            ForkedProcess(
                training_server,
                [sys.executable, "-c", program, request, str(tmp_path / kind)],
                env={**cluster.make_environment([], 0), "TF_CONFIG": json.dumps(config)},
            )
        )
    try:
        assert [node.wait(timeout=240) for node in nodes] == [0, 0]
    finally:
        for node in nodes:
            node.kill()
    assert "2 workers with 1 CPU each" in capfd.readouterr().out
    assert (tmp_path / "model" / "model.keras").exists()


# Devices of local workers


def test_one_worker_has_whatever_there_is():
    for gpus in ([], ["0"], ["0", "1", "2"]):
        assert share_gpus({}, gpus, 1) == [{}]


@pytest.mark.parametrize("workers", [2, 3, 1000])
def test_workers_on_the_cpu_share_its_cores(workers):
    each = str(max(1, len(os.sched_getaffinity(0)) // workers))
    assert share_gpus({}, [], workers) == [{"TF_NUM_INTRAOP_THREADS": each}] * workers
    assert share_gpus({"TF_NUM_INTRAOP_THREADS": "5"}, [], workers) == [{"TF_NUM_INTRAOP_THREADS": "5"}] * workers


@pytest.mark.parametrize(
    ("gpus", "shares"),
    [
        (["0", "1", "2", "3"], ["0,1", "2,3"]),
        (["0", "1", "2"], ["0", "1"]),
        (["4", "7"], ["4", "7"]),
        (["GPU-8932f937", "MIG-b7c3"], ["GPU-8932f937", "MIG-b7c3"]),
    ],
)
def test_no_two_workers_use_one_gpu_and_all_have_as_many(gpus, shares):
    assert share_gpus({}, gpus, 2) == [{"CUDA_VISIBLE_DEVICES": share} for share in shares]


@pytest.mark.parametrize(
    ("gpus", "workers", "sentence"),
    [
        (["0"], 2, "--train_workers=2, but there is 1 GPU here: one worker uses all of them by itself"),
        (["0", "1"], 3, "--train_workers=3, but there are 2 GPUs here: one worker uses all of them by itself"),
    ],
)
def test_more_workers_than_gpus_are_refused_with_the_way_out(gpus, workers, sentence):
    with pytest.raises(DataError) as refusal:
        share_gpus({}, gpus, workers)
    assert str(refusal.value).startswith(sentence)
    assert str(refusal.value).endswith("or train on the CPU with CUDA_VISIBLE_DEVICES=-1")


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [
        *(("", []), ("-1", []), ("0", ["0"]), ("0,2", ["0", "2"]), (" 3 , 1 ", ["3", "1"]), ("0,-1,1", ["0"])),
        *(("-1,0", []), ("0,,1", ["0"]), ("GPU-8932f937,MIG-b7c3", ["GPU-8932f937", "MIG-b7c3"])),
    ],
)
def test_the_gpus_here_are_those_that_cuda_would_see(visible, gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert find_gpus() == gpus


@pytest.mark.parametrize(
    ("devices", "gpus"),
    [
        (["null", "nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"], ["0", "1"]),
        (["nvidia6", "nvidia10", "nvidiactl"], ["0", "1"]),
        (["null", "nvidia-caps"], []),
    ],
)
def test_gpus_of_a_container_are_numbered_from_zero_whatever_their_host_calls_them(devices, gpus, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(os, "listdir", lambda folder: devices)
    assert find_gpus() == gpus


def test_without_a_limit_the_gpus_here_are_those_of_the_system(monkeypatch):
    import tensorflow as tf

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert len(find_gpus()) == len(tf.config.list_physical_devices("GPU"))


def test_more_workers_than_gpus_are_refused_before_any_starts(tmp_path, started, request_for, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(DataError, match="--train_workers=2, but there is 1 GPU here"):
        train_in_processes(request_for(tmp_path / "nowhere"), str(tmp_path), workers=2)
    assert started == []
