"""Training in processes of their own: a local cluster of one or more workers.

Nothing here imports TensorFlow: the process that starts a cluster stays small, and what a
worker does to its memory or its devices ends with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from components.training.worker import ERROR_NAME
from tfrecords import DataError, storage

_POLL_S = 0.2
_GRACE_S = 5.0


def train_in_processes(request: dict[str, Any], folder: str, workers: int) -> None:
    """Runs one training request on a local cluster and waits for its end.

    If one worker ends with an error, the others are stopped at once: there is no rejoining
    a `MultiWorkerMirroredStrategy`.

    Args:
        request: the fields of a `TrainingRequest`.
        folder: local, for the request and the workers' logs.
        workers: processes; each sees the others' addresses in `TF_CONFIG`.

    Raises:
        DataError: if a worker refuses the data, or fails; the sentence names its log.
    """
    request_path = os.path.join(folder, "request.json")
    storage.remove_file(os.path.join(folder, ERROR_NAME))
    with open(request_path, "w", encoding="utf-8") as file:
        json.dump(request, file)
    addresses = [f"localhost:{port}" for port in _free_ports(workers)] if workers > 1 else []
    processes: list[subprocess.Popen] = []
    try:
        for index in range(workers):
            with open(_log_path(folder, index), "wb") as log:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "components.training.worker", request_path],
                        env=_environment(addresses, index),
                        stdin=subprocess.DEVNULL,
                        stderr=log,
                    )
                )
        failed = _wait(processes)
    finally:
        _stop(processes)
    if failed is None:
        return
    with contextlib.suppress(FileNotFoundError), open(os.path.join(folder, ERROR_NAME), encoding="utf-8") as file:
        raise DataError(file.read())
    code = processes[failed].returncode
    log_path = _log_path(folder, failed)
    if code == -signal.SIGKILL:
        reason = "was killed by SIGKILL, which is how a machine that is out of memory ends a process"
    elif code < 0:
        reason = f"was killed by {signal.Signals(-code).name}"
    else:
        with open(log_path, encoding="utf-8", errors="replace") as log_file:
            lines = [line.strip() for line in log_file if line.strip()]
        reason = f"ended with status {code}: {lines[-1] if lines else 'it said nothing'}"
    raise DataError(f"training worker {failed} of {workers} {reason} (its log is {log_path})")


def _wait(processes: list[subprocess.Popen]) -> int | None:
    """The first worker that failed, or None when all are done."""
    while True:
        codes = [process.poll() for process in processes]
        for index, code in enumerate(codes):
            if code:
                return index
        if all(code == 0 for code in codes):
            return None
        time.sleep(_POLL_S)


def _stop(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + _GRACE_S
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _environment(addresses: list[str], index: int) -> dict[str, str]:
    environment = dict(os.environ)
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if addresses:
        environment["TF_CONFIG"] = json.dumps(
            {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        )
    return environment


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("localhost", 0))
        return [each.getsockname()[1] for each in sockets]


def _log_path(folder: str, index: int) -> str:
    return os.path.join(folder, f"worker-{index}.log")
