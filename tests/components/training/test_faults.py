"""Workers killed in the middle: the same training must come out as if nothing had happened."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import threading
import time

import numpy as np
import pytest

from components.training import launcher as cluster
from components.training.checkpoints import Checkpoints
from components.training.launcher import TrainingLostError, train_in_processes
from tests.commands import run_python
from tests.components.training.conftest import WarmWorkers
from tfrecords import DataError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="lists child processes"),
]


def last_step(request: dict) -> int:
    names = os.listdir(request["checkpoint_folder"]) if os.path.isdir(request["checkpoint_folder"]) else []
    return max((int(match[1]) for name in names if (match := re.fullmatch(r"checkpoint-(\d+)\.npz", name))), default=-1)


class Killer(threading.Thread):
    """Ends one worker after each of some steps."""

    def __init__(
        self, request: dict, workers: WarmWorkers, kills: list[tuple[int, int]], kind: int = signal.SIGKILL
    ) -> None:
        super().__init__(daemon=True)
        self.request, self.workers, self.kills, self.kind = request, workers, kills, kind
        self.killed: list[int] = []

    def run(self) -> None:
        for step, worker in self.kills:
            while last_step(self.request) < step or len(self.workers.find_running()) <= worker:
                time.sleep(0.02)
            pid = self.workers.find_running()[worker]
            os.kill(pid, self.kind)
            self.killed.append(pid)
            while pid in self.workers.find_running() and self.kind == signal.SIGKILL:
                time.sleep(0.02)


def final_state(request: dict) -> tuple[dict[str, np.ndarray], list[dict]]:
    checkpoint = Checkpoints(request["checkpoint_folder"]).find_latest()
    assert checkpoint is not None
    history = [
        {name: value for name, value in record.items() if name not in ("seconds", "images_per_second")}
        for record in checkpoint.facts["history"]
    ]
    return dict(checkpoint.arrays), history


def assert_same_training(found: dict, wanted: dict) -> None:
    (arrays, history), (wanted_arrays, wanted_history) = final_state(found), final_state(wanted)
    assert arrays.keys() == wanted_arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_allclose(array, wanted_arrays[name], rtol=0, atol=1e-6, err_msg=name)
    assert [record["step"] for record in history] == [record["step"] for record in wanted_history]
    for record, wanted_record in zip(history, wanted_history, strict=True):
        assert record == pytest.approx(wanted_record, abs=1e-5)


@pytest.mark.parametrize(
    ("workers", "kills"),
    [
        pytest.param(1, [(13, 0), (24, 0)], id="one worker, twice"),
        pytest.param(2, [(13, 1), (24, 0)], id="two workers, each once"),
    ],
)
def test_a_training_whose_workers_are_killed_ends_with_the_weights_of_an_undisturbed_one(
    workers, kills, tiny_dataset, tmp_path, request_for, warm_workers, capfd, caplog
):
    """With dropout, distortions and Adam as in real life, killed within and between epochs."""
    requests = [
        request_for(
            tiny_dataset,
            epochs=6,
            batch_size=2,  # 8 steps an epoch, with a checkpoint after the fifth and the last
            checkpoint_every_s=0.0,
            output_folder=str(tmp_path / name / "model"),
            checkpoint_folder=str(tmp_path / name / "checkpoints"),
        )
        for name in ("undisturbed", "killed")
    ]
    caplog.set_level(logging.INFO, "components")
    warm_workers.skip_export()
    train_in_processes(requests[0], str(tmp_path / "undisturbed"), workers)
    warm_workers.prelude = ""
    killer = Killer(requests[1], warm_workers, kills)
    killer.start()
    train_in_processes(requests[1], str(tmp_path / "killed"), workers, restarts=2)

    assert len(killer.killed) == 2
    assert len(caplog.messages) == 2
    for number, line in enumerate(caplog.messages, 1):
        assert re.search(rf"SIGKILL.*starting again from the last checkpoint \(restart {number} of 2\)", line)
    assert_same_training(requests[1], requests[0])
    steps = [int(step) for step in re.findall(r"resuming from the checkpoint of step (\d+)", capfd.readouterr().out)]
    assert len(steps) == 2
    assert all(step >= kill for step, (kill, _) in zip(steps, kills, strict=True))
    assert (tmp_path / "killed" / "model" / "saved_model" / "saved_model.pb").exists()


def test_a_training_goes_on_with_another_number_of_workers(tiny_dataset, tmp_path, request_for, warm_workers):
    warm_workers.skip_export()
    request = request_for(tiny_dataset, epochs=5, batch_size=2, checkpoint_every_s=0.0)
    Killer(request, warm_workers, [(10, 1)]).start()
    with pytest.raises(TrainingLostError, match=r"training worker 1 of 2 was killed by SIGKILL.*run the same command"):
        train_in_processes(request, str(tmp_path), workers=2)
    stopped_at = last_step(request)
    assert 10 <= stopped_at < 40
    train_in_processes(request, str(tmp_path), workers=1)
    _, history = final_state(request)
    assert [record["step"] for record in history] == [8 * epoch for epoch in range(1, 6)]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_somebody_stopped_is_named_and_replaced(
    workers, tiny_dataset, tmp_path, request_for, warm_workers, caplog, monkeypatch
):
    monkeypatch.setattr(cluster, "_STOPPED_S", 1.0)
    warm_workers.skip_export()
    request = request_for(tiny_dataset, epochs=6, batch_size=2, checkpoint_every_s=0.0)
    killer = Killer(request, warm_workers, [(10, workers - 1)], signal.SIGSTOP)
    killer.start()
    caplog.set_level(logging.INFO, "components")
    train_in_processes(request, str(tmp_path), workers, restarts=1)
    told = f"training worker {workers - 1} of {workers} was stopped for more than 1 s"
    assert [told in message and "restart 1 of 1" in message for message in caplog.messages] == [True]
    assert last_step(request) == 48


def test_a_worker_that_is_frozen_is_noticed_by_the_others(
    tiny_dataset, tmp_path, request_for, warm_workers, caplog, monkeypatch
):
    """Neither dead nor alive: its silence tells them, as that of a frozen machine would."""
    monkeypatch.setattr(cluster, "_STOPPED_S", 1000.0)
    warm_workers.skip_export()
    request = request_for(tiny_dataset, epochs=6, batch_size=2, checkpoint_every_s=0.0)
    killer = Killer(request, warm_workers, [(10, 1)], signal.SIGSTOP)
    killer.start()
    caplog.set_level(logging.INFO, "components")
    started = time.monotonic()
    train_in_processes(request, str(tmp_path), 2, restarts=1)
    assert time.monotonic() - started < 150
    assert re.search(
        r"training worker 0 of 2 (lost the other workers|waited too long).*restart 1 of 1", caplog.messages[0]
    )
    assert last_step(request) == 48


def test_a_worker_that_never_comes_is_named_by_its_address(tiny_dataset, tmp_path, request_for):
    first, second = (f"localhost:{port}" for port in cluster.find_free_ports(2))
    config = {"cluster": {"worker": [first, second]}, "task": {"type": "worker", "index": 0}}
    program = (
        "import json, os, sys\n"
        "from components.training.launcher import train_in_processes\n"
        "from components.training.place import ClusterPlace\n"
        "train_in_processes(json.loads(sys.argv[1]), sys.argv[2], 1, place=ClusterPlace.from_environment(os.environ))\n"
    )
    request = json.dumps(request_for(tiny_dataset, start_timeout_s=20.0))
    done = run_python("-c", program, request, tmp_path, environment={"TF_CONFIG": json.dumps(config)})
    assert re.search(rf"TrainingLostError: training worker 0 of 1 waited too long for {second} ", done.stderr)
    assert "training on the CPU once 1 other worker is there" in done.stdout


def test_too_many_kills_end_with_one_sentence(tiny_dataset, tmp_path, request_for, warm_workers):
    request = request_for(tiny_dataset, epochs=2000, checkpoint_every_s=0.0)
    killer = Killer(request, warm_workers, [(2, 0), (10, 0)])
    killer.start()
    with pytest.raises(TrainingLostError, match=r"SIGKILL.*started again 1 time; run the same command to resume"):
        train_in_processes(request, str(tmp_path), 1, restarts=1)
    assert warm_workers.find_running() == []


def test_a_model_that_could_not_be_written_is_written_without_training_again(
    tiny_dataset, tmp_path, request_for, warm_workers
):
    request = request_for(tiny_dataset)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "plots").write_text("in the way of the folder")
    with pytest.raises(DataError):
        train_in_processes(request, str(tmp_path), 1)
    assert last_step(request) == 6
    (tmp_path / "model" / "plots").unlink()
    trained = (tmp_path / "checkpoints" / "checkpoint-000000006.npz").stat().st_mtime_ns
    train_in_processes(request, str(tmp_path), 2)  # the second worker has nothing to do
    assert (tmp_path / "checkpoints" / "checkpoint-000000006.npz").stat().st_mtime_ns == trained
    assert (tmp_path / "model" / "model.keras").exists()
    assert len((tmp_path / "model" / "history.csv").read_text().splitlines()) == 4


_KILLED_ONCE = """
import os, signal
from components.training import export
write_onnx = export._write_onnx
def write_or_end(*given):
    if not os.path.exists({marker!r}):
        open({marker!r}, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    write_onnx(*given)
export._write_onnx = write_or_end
"""


def test_a_worker_that_is_killed_while_it_writes_the_model_is_replaced(
    tiny_dataset, tmp_path, request_for, warm_workers
):
    warm_workers.prelude = _KILLED_ONCE.format(marker=str(tmp_path / "killed"))
    train_in_processes(request_for(tiny_dataset), str(tmp_path), 1, restarts=1)
    assert (tmp_path / "killed").exists()
    assert len(warm_workers.started) == 2
    assert (tmp_path / "model" / "model.onnx").exists()
    assert (tmp_path / "model" / "saved_model" / "saved_model.pb").exists()


@pytest.mark.parametrize(
    ("limit", "reason"), [("folder", "Not a directory"), ("disk", "File too large|No space left on device")]
)
def test_checkpoints_that_cannot_be_written_end_training_at_once_with_the_reason(
    limit, reason, tiny_dataset, tmp_path, request_for
):
    program = (
        "import json, resource, signal, sys\n"
        "from components.training.launcher import train_in_processes\n"
        "if sys.argv[3] == 'disk':\n"
        "    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        "train_in_processes(json.loads(sys.argv[1]), sys.argv[2], 1, restarts=2)\n"
    )
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "checkpoints" if limit == "folder" else tmp_path / "checkpoints"
    request = json.dumps(request_for(tiny_dataset, checkpoint_folder=str(place)))
    done = run_python("-c", program, request, tmp_path / "work", limit, warm=False)  # children inherit the limit
    last = done.stderr.strip().splitlines()[-1]
    assert re.search(rf"DataError: the checkpoint.* cannot be (read in|written to) .*: ({reason})", last)
    assert "epoch 1/" not in done.stdout
    assert "starting again" not in done.stdout
