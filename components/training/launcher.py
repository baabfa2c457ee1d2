"""Training in processes of their own: a local cluster of workers, or this node's worker of a larger one.

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
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from components.devices import find_gpus
from components.training.lost import ERROR_NAME, STATUS_LOST
from components.training.place import ClusterPlace
from tfrecords import DataError

_POLL_S = 0.2
_GRACE_S = 20.0
_REGROUP_S = 15.0
"""Seconds in which all workers of a scheduler's cluster notice that one is gone, and end."""


class TrainingLostError(DataError):
    """Training ended by something from outside, and can go on from its last checkpoint."""


def train_in_processes(
    request: dict[str, Any],
    folder: str,
    workers: int,
    *,
    restarts: int = 0,
    place: ClusterPlace | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Runs one training request and waits for its end.

    If one worker ends with an error, the others are stopped at once, as there is no rejoining
    a `MultiWorkerMirroredStrategy`; where something from outside ended it, all are started again
    and go on from the last checkpoint.

    Args:
        request: the fields of a `TrainingRequest`.
        folder: local, for the request and the workers' logs.
        workers: processes to start here; each sees the others' addresses in `TF_CONFIG`. 1 within a
            scheduler's cluster.
        restarts: how often to start again.
        place: in a scheduler's cluster.

    Raises:
        DataError: if a worker refuses the data, or fails; the sentence names its log.
        TrainingLostError: if it was ended from outside once more than `restarts`.
    """
    os.makedirs(folder, exist_ok=True)
    request_path = os.path.join(folder, "request.json")
    with open(request_path, "w", encoding="utf-8") as file:
        json.dump(request, file)
    shares = share_gpus(os.environ, find_gpus(), workers)
    for index in range(workers):
        open(_log_path(folder, index), "wb").close()
    for restart in range(restarts + 1):
        try:
            _train_once(request_path, folder, workers, shares, place)
            return
        except TrainingLostError as error:
            if restart == restarts:
                times = f"; it was started again {restarts} time{'s' * (restarts > 1)}" * bool(restarts)
                raise TrainingLostError(f"{error}{times}; the same command goes on from the last checkpoint") from None
            say(f"{error}; starting again from the last checkpoint (restart {restart + 1} of {restarts})")
        if place is not None and len(place.addresses) > 1:
            time.sleep(_REGROUP_S)


def share_gpus(environment: Mapping[str, str], gpus: Sequence[str], workers: int) -> list[dict[str, str]]:
    """What each of several local workers has in its environment, so that no two use one device.

    Args:
        gpus: the devices that this process may use, as `CUDA_VISIBLE_DEVICES` names them.

    Raises:
        DataError: if there are GPUs, but fewer than workers.
    """
    if workers == 1:
        return [{}]
    if not gpus:
        cores = len(os.sched_getaffinity(0))
        threads = environment.get("TF_NUM_INTRAOP_THREADS", str(max(1, cores // workers)))
        return [{"TF_NUM_INTRAOP_THREADS": threads}] * workers
    each = len(gpus) // workers
    if not each:
        raise DataError(
            f"--train_workers={workers}, but there {'are' if len(gpus) > 1 else 'is'} {len(gpus)} "
            f"GPU{'s' * (len(gpus) > 1)} here: one worker "
            "uses all of them by itself; give at most as many workers, or train on the CPU with CUDA_VISIBLE_DEVICES=-1"
        )
    return [{"CUDA_VISIBLE_DEVICES": ",".join(gpus[i * each : (i + 1) * each])} for i in range(workers)]


def _train_once(
    request_path: str, folder: str, workers: int, shares: Sequence[Mapping[str, str]], place: ClusterPlace | None
) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(folder, ERROR_NAME))
    addresses, first = [f"localhost:{port}" for port in _free_ports(workers)] if workers > 1 else [], 0
    if place is not None and workers == 1:  # in the words of TensorFlow, which knows no "master"
        addresses, first = list(place.addresses), place.worker
    processes: list[subprocess.Popen] = []
    try:
        for index in range(workers):
            with open(_log_path(folder, index), "ab") as log:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "components.training.worker", request_path],
                        env={**_environment(addresses, first + index), **shares[index]},
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
    with open(log_path, encoding="utf-8", errors="replace") as log_file:
        lines = [line.strip() for line in log_file if line.strip()]
    who, last = f"training worker {failed} of {workers}", lines[-1] if lines else "it said nothing"
    if code == -signal.SIGKILL:
        reason = "was killed by SIGKILL, which is how a machine that is out of memory ends a process"
    elif code == -signal.SIGALRM:
        others = [address for i, address in enumerate(place.addresses) if i != place.worker] if place else []
        silent = [address for address in others if not _answers(address)]
        reason = f"waited too long for {', '.join(silent) or 'the others'}"
    elif code < 0:
        reason = f"was killed by {signal.Signals(-code).name}"
    elif code == STATUS_LOST:
        reason = last
    else:
        raise DataError(f"{who} ended with status {code}: {last} (its log is {log_path})")
    raise TrainingLostError(f"{who} {reason} (its log is {log_path})")


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            return True
    except (OSError, ValueError):
        return False


def _wait(processes: list[subprocess.Popen]) -> int | None:
    """The worker that failed first, or None when all are done."""
    while True:
        codes = [process.poll() for process in processes]
        failed = [index for index, code in enumerate(codes) if code]
        if failed:  # one that lost the others, or waited for them, is not the cause; one that was killed is
            return min(failed, key=lambda i: (codes[i] in (STATUS_LOST, -signal.SIGALRM), codes[i] != -signal.SIGKILL))
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
