"""Jobs on a Dask cluster, run by Beam's own DaskRunner."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import hashlib
import os
import platform
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions

from pipeline.engines.dask_graphs import check_graph, spread_groups
from tfrecords import DataError, storage

DASK_RUNNER = "apache_beam.runners.dask.dask_runner.DaskRunner"
PATIENCE_S = 60
"""Seconds that a job waits for a worker while there is none."""
ANSWER_S = 60
"""Seconds that a scheduler may take to answer."""
_LOOK_EVERY_MS = 2000
_HANDSHAKE_S = 5
_PARTITIONS_A_THREAD, _FEWEST_PARTITIONS, _MOST_PARTITIONS = 2, 8, 128


class ClusterLostError(DataError):
    """A cluster that lost its scheduler, or has no worker: it may well have them later."""


def load_dask_options() -> type[PipelineOptions]:
    """Returns the class of DaskRunner's own flags.

    Raises:
        DataError: if Dask is not installed.
    """
    try:
        import distributed  # noqa: F401
        from apache_beam.runners.dask.dask_runner import DaskOptions
    except ImportError as error:
        raise DataError(
            f"--runner=DaskRunner needs Dask ({error}): install it with pip install -c constraints.txt '.[dask]'"
        ) from None
    return DaskOptions


def check_flags(options: PipelineOptions) -> None:
    """Checks before anything starts what can be known of a job for Dask.

    Raises:
        DataError: if no cluster is named, or packages are to be staged, which this runner does not.
    """
    if not find_cluster(options):
        raise DataError(
            "--runner=DaskRunner needs the address of a Dask scheduler, as --dask_client_address=tcp://HOST:8786; to "
            "use all processors of this machine, leave --runner out"
        )
    flags = _collect_client_flags(options)
    if "timeout" in flags and not isinstance(flags["timeout"], int):  # DaskRunner drops what it does not understand
        raise DataError("--dask_connection_timeout has to be a whole number of seconds, such as 30")
    file = flags.get("scheduler_file")
    if file and not os.path.isfile(file):
        raise DataError(f"--dask_scheduler_file={file} is not a file; is the scheduler running?")
    for flag in ("setup_file", "requirements_file", "extra_packages"):
        if getattr(options.view_as(SetupOptions), flag):
            raise DataError(
                f"--{flag.removesuffix('s')} has no effect with --runner=DaskRunner, which sends no packages: leave "
                "it out, and install this project where the scheduler and the workers run"
            )


def find_cluster(options: PipelineOptions) -> str | None:
    """Finds the scheduler's address, or the file that holds it, in the flags or in Dask's own settings."""
    import dask

    flags = _collect_client_flags(options)
    return flags.get("address") or flags.get("scheduler_file") or dask.config.get("scheduler-address", None)


def run_on_dask(options: PipelineOptions, pipeline: beam.Pipeline, workspace: str) -> None:
    """Runs a pipeline and waits for its end.

    Raises:
        DataError: if the cluster is not there, not set up or lost, or the job's graph is not for it.
        Exception: what a worker raised.
    """
    import distributed

    check_graph(pipeline)
    cluster = str(find_cluster(options))
    threads = _check_cluster(cluster, _collect_client_flags(options), workspace)
    _choose_partitions(pipeline, threads)
    with _close_clients():
        try:
            _wait(pipeline.run(), cluster)
        except distributed.KilledWorker as error:
            raise DataError(
                f"Dask workers ended while they did the same work, {error.allowed_failures + 1} in all, the last one "
                f"at {error.last_worker.address}: was there enough memory? Their logs may tell"
            ) from None


def _collect_client_flags(options: PipelineOptions) -> dict[str, Any]:
    """Collects the flags for Dask's client, as DaskRunner hands them over."""
    from apache_beam.runners.dask.dask_runner import DaskOptions

    given = options.view_as(DaskOptions).get_all_options(drop_default=True, current_only=True)
    return {name: value for name, value in given.items() if name not in ("npartitions", "partition_size")}


def _check_cluster(cluster: str, flags: dict[str, Any], workspace: str) -> int:
    """Makes sure that a cluster is there and set up, and counts the threads of its workers.

    The scheduler unpacks the jobs that it gets, and so needs the project, too.
    """
    with _connect(cluster, flags) as client:
        try:
            _ask(cluster, functools.partial(client.wait_for_workers, 1, timeout=PATIENCE_S), PATIENCE_S)
        except TimeoutError:
            raise _explain_no_worker(cluster) from None
        here = _describe_process(workspace)
        about = functools.partial(_describe_process, workspace)
        for address, found in _ask(cluster, functools.partial(client.run, about, on_error="return")).items():
            _check_same(f"the Dask worker at {address}", here, found)
        try:
            found = _ask(cluster, functools.partial(client.run_on_scheduler, about))
        except DataError:
            raise
        except Exception as error:
            found = error
        _check_same(f"the Dask scheduler at {cluster}", {**here, "workspace": None}, found)
        return sum(_ask(cluster, client.nthreads).values())


def _ask(cluster: str, ask: Callable[[], Any], more_s: float = 0.0) -> Any:
    """Asks a scheduler, in a thread, since one that is frozen never answers.

    Args:
        more_s: seconds that the answer may take on top, since it waits for something.
    """
    try:
        return _run_in_thread(ask).result(ANSWER_S + more_s)
    except concurrent.futures.TimeoutError as error:
        if str(error):  # Dask's own
            raise
        raise ClusterLostError(
            f"the Dask scheduler at {cluster} has not answered for {ANSWER_S:g} s: is its machine overloaded, or "
            "asleep? What is finished is kept: run the same command to resume from there"
        ) from None


def _run_in_thread(function: Callable[[], Any]) -> concurrent.futures.Future[Any]:
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(function())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def _connect(cluster: str, flags: dict[str, Any]) -> Any:
    """Connects a client, in a thread: where something else serves the port, Dask waits for its answer for ever."""
    import dask
    import distributed

    def connect() -> Any:
        if "address" in flags:
            address = distributed.comm.normalize_address(flags["address"])
            distributed.comm.get_address_host_port(address, strict=True)
        return distributed.Client(**flags, set_as_default=False)

    timeout = flags.get("timeout") or dask.config.get("distributed.comm.timeouts.connect")
    timeout_s = dask.utils.parse_timedelta(timeout) + _HANDSHAKE_S
    try:
        return _run_in_thread(connect).result(timeout_s)
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split()) or f"what listens there has said nothing for {timeout_s:g} s"
    raise DataError(
        f"no Dask scheduler answers at {cluster} ({why}): start one with `dask scheduler`, or correct "
        "--dask_client_address"
    )


def _describe_process(workspace: str) -> dict[str, str | None]:
    """Describes what has to be the same in this process and in those that work for it."""
    lock = None
    if not storage.is_remote(workspace):
        with contextlib.suppress(OSError):
            lock = Path(workspace, ".lock").read_text(encoding="utf-8")
    python = ".".join(platform.python_version_tuple()[:2])
    return {"Python": python, "apache-beam": beam.version.__version__, "project": _digest_project(), "workspace": lock}


@functools.cache
def _digest_project() -> str:
    """Computes a digest of this project's modules, once: a process goes on with those that it has loaded."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for package in ("components", "pipeline", "tfrecords"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _check_same(who: str, here: dict[str, str | None], found: dict[str, str | None] | Exception) -> None:
    if isinstance(found, OSError):
        return  # it left the cluster just now
    if isinstance(found, Exception):
        if lacking := re.search(r"No module named '[\w.]+'", str(found)):
            raise DataError(f"{who} lacks this project ({lacking.group()}): install it there, and start it again")
        raise found
    for part in ("Python", "apache-beam"):
        if found[part] != here[part]:
            raise DataError(f"{who} has {part} {found[part]}, but this command {here[part]}: they have to be the same")
    if found["project"] != here["project"]:
        raise DataError(
            f"{who} has another version of this project than this command: install the same, and start it again"
        )
    if here["workspace"] is not None and found["workspace"] != here["workspace"]:
        raise DataError(
            f"{who} does not see this --workspace: give a folder that all machines share under the same name, or a "
            "gs:// URL"
        )


def _choose_partitions(pipeline: beam.Pipeline, threads: int) -> None:
    """Chooses how many partitions elements go into, if the user did not."""
    from apache_beam.runners.dask.dask_runner import DaskOptions

    given = pipeline.options.view_as(DaskOptions)
    if given.partition_size:
        return
    if not given.npartitions:
        given.npartitions = min(max(_PARTITIONS_A_THREAD * threads, _FEWEST_PARTITIONS), _MOST_PARTITIONS)
    spread_groups(pipeline, given.npartitions)


def _wait(result: Any, cluster: str) -> None:
    """Waits for the end of a job, or of its cluster."""
    import distributed

    alone_s = 0.0
    nudge = None
    while True:
        try:
            result.wait_until_finish(_LOOK_EVERY_MS)
        except TimeoutError:
            if any(future.status == "error" for future in result.futures):
                raise  # it is the job's own
        except distributed.CancelledError:
            pass  # handled below
        else:
            if all(future.status == "finished" for future in result.futures):
                return
        if any(future.status in ("cancelled", "lost") for future in result.futures):  # DaskRunner takes it for success
            raise ClusterLostError(
                f"the Dask scheduler at {cluster} was lost; what is finished is kept: run the same command to "
                "resume from there"
            )
        alone_s = 0.0 if _ask(cluster, result.client.nthreads) else alone_s + _LOOK_EVERY_MS / 1000
        if alone_s >= PATIENCE_S:
            raise _explain_no_worker(cluster)
        # A scheduler that lost a worker gives what is to be done again to another when one of its tasks ends. If that
        # is idle, none does, and the job stands still: so there is a task that does nothing, and is taken away again.
        nudge = None if nudge else result.client.submit(int, pure=False)


def _explain_no_worker(cluster: str) -> ClusterLostError:
    return ClusterLostError(
        f"the Dask scheduler at {cluster} has had no worker for {PATIENCE_S:g} s: start some with `dask worker "
        "ADDRESS`; what is finished is kept: run the same command to resume from there"
    )


@contextlib.contextmanager
def _close_clients() -> Iterator[None]:
    """Closes the client that DaskRunner leaves open: while it lives, the same work gets its old results."""
    import distributed

    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # it made none
            distributed.Client.current().close()
