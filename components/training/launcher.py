"""The launcher of training processes: a local cluster of workers, or this node's worker of a larger one.

This module does not import TensorFlow. So the process that starts a cluster stays small, and whatever a
worker does to its memory or its devices ends with it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from components.devices import find_gpus
from components.process_settings import isolate_python
from components.processes import StoppedTimes
from components.training.place import ClusterPlace
from components.training.watchdog import ERROR_NAME, STATUS_LOST
from tfrecords import DataError

log = logging.getLogger(__name__)

_POLL_S = 0.2
_GRACE_S = 20.0
_STOPPED_S = 10.0
"""A worker that somebody stopped (SIGSTOP) for so many seconds is killed: one that trains alone has no other."""
_REGROUP_S = 15.0
"""Seconds within which all workers of a scheduler's cluster notice that one is gone, and end."""


class TrainingLostError(DataError):
    """An end of training that came from outside; training can resume from its last checkpoint."""


def train_in_processes(
    request: dict[str, Any],
    folder: str,
    workers: int,
    *,
    restarts: int = 0,
    place: ClusterPlace | None = None,
) -> None:
    """Runs one training request and waits for its end.

    If one worker ends with an error, the others are stopped at once, because no worker can rejoin a
    `MultiWorkerMirroredStrategy`. If something from outside ended it, all are started again and resume
    from the last checkpoint.

    Args:
        request: the fields of a `TrainingRequest`.
        folder: local, for the request and the workers' logs.
        workers: processes to start here; each sees the others' addresses in `TF_CONFIG`. 1 within a
            scheduler's cluster.
        restarts: how often to start again.
        place: this node's, in a scheduler's cluster.

    Raises:
        DataError: if a worker refuses the data, or fails; the sentence names its log.
        TrainingLostError: if it was ended from outside more often than `restarts`.
    """
    os.makedirs(folder, exist_ok=True)
    request_path = os.path.join(folder, "request.json")
    with open(request_path, "w", encoding="utf-8") as file:
        json.dump(request, file)
    shares = share_gpus(os.environ, find_gpus(), workers)
    for index in range(workers):
        open(_make_log_path(folder, index), "wb").close()
    for restart in range(restarts + 1):
        try:
            _train_once(request_path, folder, workers, shares, place)
            return
        except TrainingLostError as error:
            if restart == restarts:
                times = f"; it was started again {restarts} time{'s' * (restarts > 1)}" * bool(restarts)
                raise TrainingLostError(
                    f"{error}{times}; run the same command to resume from the last checkpoint"
                ) from None
            log.info(f"{error}; starting again from the last checkpoint (restart {restart + 1} of {restarts})")
        if place is not None and len(place.addresses) > 1:
            time.sleep(_REGROUP_S)


def share_gpus(environment: Mapping[str, str], gpus: Sequence[str], workers: int) -> list[dict[str, str]]:
    """Shares GPUs, or else processor cores, among local workers, so that no two use one device.

    Args:
        gpus: the devices that this process may use, as `CUDA_VISIBLE_DEVICES` names them.

    Returns:
        For each worker, the variables to add to its environment.

    Raises:
        DataError: if there are GPUs, but fewer than workers.
    """
    if workers == 1:
        return [{}]
    if not gpus:
        cores = len(os.sched_getaffinity(0))
        threads = environment.get("TF_NUM_INTRAOP_THREADS", str(max(1, cores // workers)))
        return [{"TF_NUM_INTRAOP_THREADS": threads}] * workers
    share = len(gpus) // workers
    if not share:
        raise DataError(
            f"--train_workers={workers}, but there {'are' if len(gpus) > 1 else 'is'} {len(gpus)} "
            f"GPU{'s' * (len(gpus) > 1)} here: one worker "
            "uses all of them by itself; give at most as many workers, or train on the CPU with CUDA_VISIBLE_DEVICES=-1"
        )
    return [{"CUDA_VISIBLE_DEVICES": ",".join(gpus[i * share : (i + 1) * share])} for i in range(workers)]


def _train_once(
    request_path: str, folder: str, workers: int, shares: Sequence[Mapping[str, str]], place: ClusterPlace | None
) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(folder, ERROR_NAME))
    addresses, first = [f"localhost:{port}" for port in find_free_ports(workers)] if workers > 1 else [], 0
    if place is not None and workers == 1:  # as TensorFlow names tasks: it knows no "master"
        addresses, first = list(place.addresses), place.worker
    processes: list[subprocess.Popen] = []
    try:
        for index in range(workers):
            with open(_make_log_path(folder, index), "ab") as log:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "components.training.worker", request_path],
                        env={**make_environment(addresses, first + index), **shares[index]},
                        stdin=subprocess.DEVNULL,
                        stderr=log,
                    )
                )
        failed, stopped = _wait_for_all(processes)
    finally:
        _stop(processes)
    if failed is not None:
        _raise_failure(folder, failed, workers, processes[failed].returncode, stopped, place)


def _raise_failure(
    folder: str, failed: int, workers: int, code: int, stopped: bool, place: ClusterPlace | None
) -> NoReturn:
    """Raises the error that says why a worker ended with a status, or was killed since it was stopped.

    Raises:
        DataError: if it refused the data, or failed by itself.
        TrainingLostError: if it was ended from outside.
    """
    with contextlib.suppress(FileNotFoundError), open(os.path.join(folder, ERROR_NAME), encoding="utf-8") as file:
        raise DataError(file.read())
    log_path = _make_log_path(folder, failed)
    with open(log_path, encoding="utf-8", errors="replace") as log_file:
        lines = [line.strip() for line in log_file if line.strip()]
    worker, last = f"training worker {failed} of {workers}", lines[-1] if lines else "its log is empty"
    if stopped:
        reason = f"was stopped for more than {_STOPPED_S:g} s"
    elif code == -signal.SIGKILL:
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
        raise DataError(f"{worker} ended with status {code}: {last} (its log is {log_path})")
    raise TrainingLostError(f"{worker} {reason} (its log is {log_path})")


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            return True
    except (OSError, ValueError):
        return False


def _wait_for_all(processes: list[subprocess.Popen]) -> tuple[int | None, bool]:
    """Waits until all workers are done, or one has failed; kills one that somebody stopped.

    Returns:
        The number of the one that caused the failure, and whether it was stopped.
    """
    stopped = StoppedTimes()
    killed: set[int] = set()
    while True:
        codes = [process.poll() for process in processes]
        failed = [index for index, code in enumerate(codes) if code]
        if failed:  # a worker that lost the others, or waited for them, is not the cause; one that was killed is
            cause = min(failed, key=lambda i: (codes[i] in (STATUS_LOST, -signal.SIGALRM), codes[i] != -signal.SIGKILL))
            return cause, cause in killed
        if all(code == 0 for code in codes):
            return None, False
        for index, process in enumerate(processes):
            if codes[index] is None and stopped.measure(process.pid, time.monotonic()) > _STOPPED_S:
                killed.add(index)
                process.kill()
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


def make_environment(addresses: list[str], index: int) -> dict[str, str]:
    """Makes the environment of a worker process: this project is importable, and `TF_CONFIG` describes the cluster.

    Args:
        addresses: `host:port` of all workers; empty for one that trains alone.
        index: the worker's number.
    """
    environment = dict(os.environ)
    isolate_python(environment)
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    environment.pop("TF_CONFIG", None)
    if addresses:
        environment["TF_CONFIG"] = json.dumps(
            {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        )
    return environment


def find_free_ports(count: int) -> list[int]:
    """Finds some ports of this machine that nothing uses now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("localhost", 0))
        return [free.getsockname()[1] for free in sockets]


def _make_log_path(folder: str, index: int) -> str:
    return os.path.join(folder, f"worker-{index}.log")
