"""Beam jobs, run on the runner that was asked for."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import threading
from collections.abc import Callable
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, GoogleCloudOptions, StandardOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from components.processes import HelperPool
from pipeline.engines.dask_cluster import DASK_RUNNER, find_cluster, run_on_dask
from pipeline.engines.errors import JobLostError, format_story, translate_error
from pipeline.engines.late_workers import end_late_workers
from pipeline.engines.logs import quieten_engines
from pipeline.options import LinePipelineOptions
from pipeline.workspace import Workspace

log = logging.getLogger(__name__)

_WORTH_HELPERS = 500  # images; with fewer, helper processes take longer to start than they save
_MAX_PROCESSES = 32
_CANCELLING_S = 15
_LOCAL_RUNNERS = ("directrunner", "fnapirunner")


def describe_runner(options: LinePipelineOptions) -> str:
    """Describes what will run the jobs, for the log.

    Beam's FnApiRunner inside this process stands in for `DirectRunner`: left alone, Beam would first try to download
    another engine.
    """
    if options.runner_kind == "daskrunner":
        return f"DaskRunner ({find_cluster(options)})"
    if options.runner_kind not in _LOCAL_RUNNERS:
        return options.view_as(StandardOptions).runner
    mode = options.view_as(DirectOptions).direct_running_mode
    return f"DirectRunner (Beam's FnApiRunner, {mode.replace('_', ' ')})"


def choose_processes(options: LinePipelineOptions, images: int) -> int:
    """Chooses how many processes a worker may occupy for so many images.

    A worker that is the only one gets all processors, 32 at most; any other gets its own.
    """
    if images < _WORTH_HELPERS:
        return 1
    in_memory = options.view_as(DirectOptions).direct_running_mode == "in_memory"
    return min(_count_processors(), _MAX_PROCESSES) if in_memory and options.runner_kind in _LOCAL_RUNNERS else 1


def _count_processors() -> int:
    """Counts the processors that this process may use, as far as its container says."""
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
    prepare: Callable[[HelperPool], None] | None = None,
    before_template: bool = False,
) -> None:
    """Builds a pipeline, runs it, and waits for its end, unless it is a template.

    A job on another machine is cancelled when this process is interrupted. Helper processes, which work for a job that
    runs in this process, end with the job.

    Args:
        prepare: has the job's helper processes do what takes time while the job is built.
        before_template: the job finds out what the job of a template is to do, and so runs in this process for one.

    Raises:
        DataError: with the worker's own sentence if it raised one.
        JobLostError: if a worker or the engine was lost.
        Exception: whatever the engine raises if the job failed otherwise.
    """
    kind = "directrunner" if before_template and options.template else options.runner_kind
    local = kind in _LOCAL_RUNNERS
    options = copy.deepcopy(options)  # a job of Dataflow writes its own staging folder into them
    options.notify_url = None  # often a secret, which no engine needs to know
    given = options.view_as(StandardOptions).runner
    result = None
    with quieten_engines(), HelperPool.open_for_job() as helpers:
        try:
            if prepare is not None:
                prepare(helpers)
            runner = FnApiRunner() if local else DASK_RUNNER if kind == "daskrunner" else given
            pipeline = beam.Pipeline(runner=runner, options=options)
            build(pipeline)
            if kind == "daskrunner":
                run_on_dask(options, pipeline, Workspace(options.workspace).root)
                return
            with end_late_workers():
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
                f"DataflowRunner: the service does not say how job {result.job_id()} is doing, and it may go on: make "
                "sure that it has ended, then run the same command to resume from what is finished",
                format_story(error),
            ) from None
        except Exception as error:
            translated = translate_error(error, "DirectRunner" if local else given, local=local)
            if translated is None:
                raise
            raise translated from None


def _log_address(result: Any, options: LinePipelineOptions) -> None:
    """Logs where a job on Dataflow can be watched."""
    if hasattr(result, "job_id"):
        cloud = options.view_as(GoogleCloudOptions)
        log.info(
            f"job {result.job_id()}: https://console.cloud.google.com/dataflow/jobs/{cloud.region}/{result.job_id()}"
            f"?project={cloud.project}"
        )


def _cancel(result: Any) -> None:
    """Asks the engine to stop a job; an engine that does not answer is not waited for."""

    def ask() -> None:
        with contextlib.suppress(Exception):
            result.cancel()

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_CANCELLING_S)
