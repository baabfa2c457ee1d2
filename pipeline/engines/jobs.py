"""Running one Beam job on the runner that was asked for."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import re
import threading
import traceback
from collections.abc import Callable
from typing import Any

import apache_beam as beam
import grpc  # type: ignore[import-untyped]
from apache_beam.options.pipeline_options import DirectOptions, GoogleCloudOptions, StandardOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from components.processes import stop_helpers
from pipeline.engines.dask_cluster import DASK_RUNNER, ClusterLostError, find_cluster, run_on_dask
from pipeline.options import LinePipelineOptions
from pipeline.workspace import Workspace
from tfrecords import DataError, StoreError, StoreLostError

log = logging.getLogger(__name__)


_WORKER_LOGGERS = (
    "apache_beam.runners.common",
    "apache_beam.runners.worker.sdk_worker",
    "apache_beam.runners.portability.local_job_service",
)
_WORTH_HELPERS = 500  # images; with fewer, helper processes take longer to start than they save
_MAX_PROCESSES = 32
_LACKS_PROJECT = r"No module named '(pipeline|components|tfrecords)\b"
# What Beam's own engine says when the connection to a worker breaks.
_LOST_WORKER = (
    r"Channel closed prematurely|^grpc\.RpcError$|Worker subprocess exited"
    r"|lost contact with the service|A work item was attempted \d+ times without success"  # Dataflow's words
)
_CONNECTION_LOGGERS = (
    "apache_beam.runners.worker.data_plane",
    "apache_beam.runners.portability.fn_api_runner.worker_handlers",
)
_CONNECTION_THREADS = ("beam_control_read", "run_worker", "read_grpc_client_inputs", "wait_until_finish_read")
_CANCELLING_S = 15
_LOCAL_RUNNERS = ("directrunner", "fnapirunner")


class JobLostError(DataError):
    """A job failed by no fault of its input, and can be run again.

    Attributes:
        story: what the engine said.
    """

    def __init__(self, sentence: str, story: str):
        super().__init__(sentence)
        self.story = story


def describe_runner(options: LinePipelineOptions) -> str:
    """What will run the jobs, for the log.

    `DirectRunner` is run by Beam's FnApiRunner inside this process: left alone, Beam would
    first try to download another engine for it.
    """
    if options.runner_kind == "daskrunner":
        return f"DaskRunner ({find_cluster(options)})"
    if options.runner_kind not in _LOCAL_RUNNERS:
        return options.view_as(StandardOptions).runner
    mode = options.view_as(DirectOptions).direct_running_mode
    return f"DirectRunner (Beam's FnApiRunner, {mode.replace('_', ' ')})"


def choose_processes(options: LinePipelineOptions, images: int) -> int:
    """How many processes a worker may occupy for so many images: all processors if it is the only one, else its own."""
    if images < _WORTH_HELPERS:
        return 1
    in_memory = options.view_as(DirectOptions).direct_running_mode == "in_memory"
    return min(_count_processors(), _MAX_PROCESSES) if in_memory and options.runner_kind in _LOCAL_RUNNERS else 1


def _count_processors() -> int:
    """The processors that this process may use, as far as its container says."""
    processors = len(os.sched_getaffinity(0))
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
        return min(processors, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no such container, or no quota in it
        return processors


def run_job(
    options: LinePipelineOptions,
    build: Callable[[beam.Pipeline], object],
    *,
    before_template: bool = False,
) -> None:
    """Builds a pipeline, runs it, and waits for its end, unless it is a template.

    A job on another machine is cancelled when this process is interrupted.

    Args:
        before_template: it finds out what the job of a template is to do, so that for one it is run in this process.

    Raises:
        DataError: with our own sentence if a worker raised one.
        JobLostError: if a worker or the engine was lost.
        Exception: whatever the engine raises if the job failed otherwise.
    """
    kind = "directrunner" if before_template and options.template else options.runner_kind
    local = kind in _LOCAL_RUNNERS
    _keep_our_sentences_out_of_the_log()
    options = copy.deepcopy(options)  # a job of Dataflow writes its own staging folder into them
    options.notify_url = None  # often a secret, which no engine needs to know
    result = None
    try:
        given = options.view_as(StandardOptions).runner
        runner = FnApiRunner() if local else DASK_RUNNER if kind == "daskrunner" else given
        pipeline = beam.Pipeline(runner=runner, options=options)
        build(pipeline)
        if kind == "daskrunner":
            run_on_dask(options, pipeline, Workspace(options.workspace).root)
            return
        result = pipeline.run()
        if local or not options.template:
            _log_address(result, options)
            result.wait_until_finish()
    except KeyboardInterrupt:
        if result is not None and not local:
            _cancel(result)
        raise
    except AssertionError as error:  # Beam's, when it could not ask Dataflow for the state of a job
        if result is None or not hasattr(result, "job_id"):
            raise
        _cancel(result)
        raise JobLostError(
            f"DataflowRunner: the service does not say how job {result.job_id()} is doing, and it may go on: see to it "
            "that it has ended; then the same command goes on from what is finished",
            _format_story(error),
        ) from None
    except Exception as error:
        told = _translate(error, "DirectRunner" if local else given, local=local)
        if told is None:
            raise
        raise told from None
    finally:
        stop_helpers()


def _log_address(result: Any, options: LinePipelineOptions) -> None:
    """Says where a job on Dataflow can be watched."""
    if hasattr(result, "job_id"):
        cloud = options.view_as(GoogleCloudOptions)
        log.info(
            f"job {result.job_id()}: https://console.cloud.google.com/dataflow/jobs/{cloud.region}/{result.job_id()}"
            f"?project={cloud.project}"
        )


def _translate(error: Exception, name: str, *, local: bool) -> DataError | None:
    """What a person is told of an engine's exception; None if it says all that can be said."""
    story = str(error)
    if isinstance(error, DataError):
        kinds: tuple[type[DataError], ...] = (StoreLostError, StoreError, ClusterLostError, DataError)
        return next(kind for kind in kinds if isinstance(error, kind))(_strip_place(story))
    if isinstance(error, grpc.RpcError) and not local:
        return JobLostError(
            f"{name}: the connection to the engine broke ({_describe_status(error)}); when it is back, the "
            "same command goes on from what is finished",
            _format_story(error),
        )
    if re.search(_LACKS_PROJECT, story):
        return DataError(
            f"{name}: the workers lack this project: pass --setup_file=./setup.py, or --sdk_container_image=IMAGE of "
            "an image in which it is installed"
        )
    if own := _find_own_error(story):
        return own
    if isinstance(error, grpc.RpcError) or re.search(_LOST_WORKER, story, re.MULTILINE):
        return JobLostError(
            f"{name}: the job failed because a worker was lost (killed, out of memory, or its machine was taken away); "
            "the same command again goes on from what is finished",
            _format_story(error),
        )
    if type(error).__module__.startswith("google.api_core"):
        return DataError(f"{name}: the job is refused: {story}")
    return None


def _format_story(error: Exception) -> str:
    return "".join(traceback.format_exception(error))


def _cancel(result: Any) -> None:
    """Asks the engine to stop a job; an engine that does not answer is not waited for."""

    def ask() -> None:
        with contextlib.suppress(Exception):
            result.cancel()

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_CANCELLING_S)


def _describe_status(error: grpc.RpcError) -> str:
    code, details = getattr(error, "code", None), getattr(error, "details", None)
    return f"{code().name}: {details()}" if code and details else type(error).__name__


class _WithoutStackTraces(logging.Filter):
    """Leaves the last line of what a job service passes on: the whole is in the exception that ends the job."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if "Traceback (most recent call last)" in message:
            record.msg, record.args = message.strip().rpartition("\n")[2], ()
        return True


class _NotOurs(logging.Filter):
    """Drops records of a `DataError`: its sentence is printed once, at the end, without a stack trace."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, DataError) and not _find_own_error(record.getMessage().replace("\\n", "\n"))


_FILTER, _SHORTENED = _NotOurs(), _WithoutStackTraces()


def _keep_our_sentences_out_of_the_log() -> None:
    for name in _WORKER_LOGGERS:
        logging.getLogger(name).addFilter(_FILTER)
    for name in _CONNECTION_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the error that ends the job says it, too
    threading.excepthook = _without_connections
    logging.getLogger().addFilter(_FILTER)  # where Beam's client logs the messages of a job service
    logging.getLogger().addFilter(_SHORTENED)
    # Workers in other processes warn about settings of a container that they do not run in.
    logging.getLogger(_WORKER_LOGGERS[-1]).setLevel(logging.ERROR)


def _without_connections(about: threading.ExceptHookArgs) -> None:
    """Tells what ended a thread, unless it is one that waited for a worker that is lost: the job's error says so."""
    if about.thread is None or about.thread.name not in _CONNECTION_THREADS:
        threading.__excepthook__(about)


def _strip_place(message: str) -> str:
    return re.sub(r" \[while running '[^\]]*'\]", "", message)


def _find_own_error(story: str) -> DataError | None:
    """Our error in the traceback that an engine passes on as text."""
    found = re.findall(r"^tfrecords\.\w+\.(\w*Error): (.+?)(?: \[while running|$)", story, re.MULTILINE)
    if not found:
        return None
    name, sentence = found[-1]
    kinds: dict[str, type[DataError]] = {kind.__name__: kind for kind in (StoreError, StoreLostError)}
    return kinds.get(name, DataError)(sentence)
