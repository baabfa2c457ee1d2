"""Running one Beam job on the runner that was asked for."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, StandardOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from components.processes import stop_helpers
from pipeline.options import LinePipelineOptions
from tfrecords import DataError

_WORKER_LOGGERS = (
    "apache_beam.runners.common",
    "apache_beam.runners.worker.sdk_worker",
    "apache_beam.runners.portability.local_job_service",
)
_WORTH_HELPERS = 500  # images; with fewer, helper processes take longer to start than they save
_MAX_PROCESSES = 32
_LACKS_PROJECT = r"No module named '(pipeline|components|tfrecords)\b"
_LOCAL_RUNNERS = ("directrunner", "fnapirunner", "direct")


def runner_name(options: LinePipelineOptions) -> str:
    """What will run the jobs, for the log.

    `DirectRunner` is run by Beam's FnApiRunner inside this process: left alone, Beam would
    first try to download another engine for it.
    """
    name = options.view_as(StandardOptions).runner or "DirectRunner"
    if name.lower() not in _LOCAL_RUNNERS:
        return name
    mode = options.view_as(DirectOptions).direct_running_mode
    return f"DirectRunner (Beam's FnApiRunner, {mode.replace('_', ' ')})"


def processes_per_worker(options: LinePipelineOptions, images: int) -> int:
    """How many processes a worker may occupy for so many images: all processors if it is the only one, else its own."""
    if images < _WORTH_HELPERS:
        return 1
    name = options.view_as(StandardOptions).runner or "DirectRunner"
    alone = name.lower() in _LOCAL_RUNNERS and options.view_as(DirectOptions).direct_running_mode == "in_memory"
    return min(_processors(), _MAX_PROCESSES) if alone else 1


def _processors() -> int:
    """The processors that this process may use, as far as its container says."""
    processors = len(os.sched_getaffinity(0))
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
        return min(processors, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no such container, or no quota in it
        return processors


def run_job(options: LinePipelineOptions, build: Callable[[beam.Pipeline], object]) -> None:
    """Builds a pipeline, runs it, and waits for its end.

    Raises:
        DataError: with our own sentence if a worker raised one, or with the engine's words
            if the job failed otherwise.
    """
    name = options.view_as(StandardOptions).runner or "DirectRunner"
    _keep_our_sentences_out_of_the_log()
    local = name.lower() in _LOCAL_RUNNERS
    try:
        pipeline = beam.Pipeline(runner=FnApiRunner() if local else name, options=options)
        build(pipeline)
        result = pipeline.run()
        result.wait_until_finish()
    except DataError as error:
        raise DataError(_without_place(str(error))) from None
    except RuntimeError as error:
        if re.search(_LACKS_PROJECT, str(error)):
            raise DataError(
                f"{name}: the workers lack this project: pass --setup_file=./setup.py, or --sdk_container_image=IMAGE "
                "of an image in which it is installed"
            ) from None
        if sentence := _own_sentence(str(error)):
            raise DataError(sentence) from None
        raise
    finally:
        stop_helpers()


class _NotOurs(logging.Filter):
    """Drops records of a `DataError`: its sentence is printed once, at the end, without a stack trace."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, DataError) and not _own_sentence(record.getMessage().replace("\\n", "\n"))


_FILTER = _NotOurs()


def _keep_our_sentences_out_of_the_log() -> None:
    for name in _WORKER_LOGGERS:
        logging.getLogger(name).addFilter(_FILTER)
    # Workers in other processes warn about settings of a container that they do not run in.
    logging.getLogger(_WORKER_LOGGERS[-1]).setLevel(logging.ERROR)


def _without_place(message: str) -> str:
    return re.sub(r" \[while running '[^\]]*'\]", "", message)


def _own_sentence(traceback: str) -> str | None:
    """Our sentence in the traceback that an engine passes on as text."""
    found = re.findall(r"^tfrecords\.\w+\.\w*Error: (.+?)(?: \[while running|$)", traceback, re.MULTILINE)
    return found[-1] if found else None
