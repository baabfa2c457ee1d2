"""The execution of the steps: one after the other, guarded, with the report at the end."""

from __future__ import annotations

import dataclasses
import gc
import logging
import shlex
import time
import traceback
from collections.abc import Callable
from typing import Any

from components.printing import list_losses
from components.training.place import ClusterPlace
from pipeline.console import print_error, print_line, print_to_stderr
from pipeline.engines.errors import JobLostError
from pipeline.engines.jobs import describe_runner
from pipeline.exits import EXIT_ALARM, EXIT_DONE, EXIT_INTERRUPTED, EXIT_REFUSED, choose_status, describe_error
from pipeline.options import LinePipelineOptions
from pipeline.report.page import write_report
from pipeline.report.record import CommandRecord
from pipeline.retention import clear_unfinished, prune
from pipeline.signals import Interruption, handle_signals
from pipeline.step_names import READ_ONLY_STEPS
from pipeline.steps import choose_steps
from pipeline.steps.step import Context, RefusedError, Step, StepResult
from pipeline.steps.train import TrainStep
from pipeline.workspace import ACCEPTED, Workspace
from tfrecords import DataError, StoreError, storage

log = logging.getLogger(__name__)

_Done = list[tuple[Step, StepResult]]


def run_steps(options: LinePipelineOptions, workspace: Workspace) -> tuple[int, dict[str, Any]]:
    """Runs the steps in their order, writes the run report, and prints the summary.

    Returns:
        The exit status, and the record as the service of `--notify_url` gets it.
    """
    record = CommandRecord.start(options, workspace.root)
    done: _Done = []
    with handle_signals() as interruption:
        gc.freeze()  # what was imported stays: each look through it for garbage would take a tenth of a second
        log_path = workspace.run_record(record.run, "log")
        status, problem, store_lost = _guard(
            lambda: _run_each(options, workspace, record, done), log_path, interruption
        )
        gc.unfreeze()
        workspace.check_lock()  # the run report, too, is left alone without it
        interruption.ending = True  # what is left takes seconds
        if problem is not None:
            record.fail(problem)
        elif record.status != "done":
            status = EXIT_ALARM if record.status == "alarm" else EXIT_REFUSED
        paths: dict[str, str] = {}
        if not store_lost:  # it would be waited for as long again, and for nothing
            conclusion, failure, _ = _guard(
                lambda: paths.update(_conclude(options, workspace, record, status)), log_path, interruption
            )
            if failure is not None:
                record.fail(f"the run report cannot be written: {failure}")
            if not paths and status in (EXIT_DONE, EXIT_ALARM):
                status = conclusion or EXIT_REFUSED
        _print_end(done, record, paths)
        print_line(_format_summary(done, record, status, paths.get("run record")))
    return status, {**dataclasses.asdict(record), "exit": status}


def train_beside_the_chief(options: LinePipelineOptions, workspace: Workspace, place: ClusterPlace) -> int:
    """Trains on a node that only helps: the first one holds the workspace, commits and reports."""
    log.info(f"workspace {workspace.root}, worker {place.worker} of {len(place.addresses)}")
    context = Context(options, workspace, workspace)
    with handle_signals() as interruption:
        status, problem, _ = _guard(
            lambda: log.info(TrainStep().run(context).summary),
            workspace.run_record(f"worker-{place.worker}", "log"),
            interruption,
        )
    if problem is not None:
        print_error(problem)
    return status


def _run_each(options: LinePipelineOptions, workspace: Workspace, record: CommandRecord, done: _Done) -> None:
    """Runs the steps, and adds what they did to the record."""
    context = Context(options, workspace, workspace)
    steps = choose_steps(options.step_names)
    log.info(f"workspace {workspace.root}, runner {describe_runner(options)}")
    for number, step in enumerate(steps, 1):
        log.info(f"[{number}/{len(steps)}] {step.name}")
        if step.name == "infer" and record.status == "refused" and workspace.read_pointer("models", ACCEPTED) is None:
            log.info("nothing is read: no model is accepted")
            continue
        started = time.monotonic()
        try:
            result = step.run(context)
        except RefusedError as error:
            record.add_rejects(step.name, error.rejects, error.folder)
            raise
        seconds = time.monotonic() - started
        log.info(f"{result.summary} ({seconds:.1f} s)")
        done.append((step, result))
        record.add(step, result, seconds)


def _guard(work: Callable[[], object], log_path: str, interruption: Interruption) -> tuple[int, str | None, bool]:
    """Does some work, and turns what it raises into a sentence; what nobody foresaw is written to `log_path`.

    Returns:
        The exit status; one sentence if it failed; and whether the log lies in an object store that was lost.
    """
    try:
        work()
        return EXIT_DONE, None, False
    except (Exception, KeyboardInterrupt) as error:
        if interruption.came:
            sentence = "interrupted: what is finished is kept; run the same command to resume"
            return EXIT_INTERRUPTED, sentence, False
        if isinstance(error, StoreError) and storage.is_remote(log_path):
            return choose_status(error), str(error), True
        if isinstance(error, DataError):
            problem = str(error)
            if isinstance(error, JobLostError):
                storage.write_bytes(log_path, error.story.encode())
                problem += f"; the engine's own words are in {log_path}"
            return choose_status(error), problem, False
        if isinstance(error, OSError):
            return EXIT_REFUSED, describe_error(error), False
        return EXIT_REFUSED, _write_failure(error, log_path), False


def _write_failure(error: BaseException, log_path: str) -> str:
    """Writes the traceback of what nobody foresaw, and says where it is."""
    failure = f"a failure of the program or its engine, {type(error).__name__}"
    try:
        storage.write_bytes(log_path, "".join(traceback.format_exception(error)).encode())
    except (OSError, DataError) as other:
        return f"{failure}: {error}; its whole story cannot be written: {describe_error(other)}"
    return f"{failure}; the whole story is in {log_path}"


def _conclude(options: LinePipelineOptions, workspace: Workspace, record: CommandRecord, status: int) -> dict[str, str]:
    """Clears up after the steps, and writes the run report; returns its paths."""
    if status in (EXIT_DONE, EXIT_ALARM) and not READ_ONLY_STEPS.issuperset(options.step_names):
        clear_unfinished(workspace)
        prune(options, workspace)
    record.unprinted = list_losses()
    return write_report(record, workspace)


def _print_end(done: _Done, record: CommandRecord, paths: dict[str, str]) -> None:
    """Prints where everything lies, the first rows, alarms and problems."""
    print_line("")
    for step, result in done:
        print_line(f"{result.place or step.place:<12} {result.folder}")
        if step.name == "infer" and result.rejects and result.rejects_folder:
            print_line(f"{'rejects':<12} {result.rejects_folder}")
    for name, path in paths.items():
        print_line(f"{name:<12} {path}")
    for _, result in done:
        for line in result.closing:
            print_line(line)
    for alarm in record.alarms:
        if alarm["raised"]:
            print_to_stderr(f"alarm: --{alarm['name']}: {alarm['sentence']}")
    for problem in record.problems:
        print_error(problem)


def _format_summary(done: _Done, record: CommandRecord, status: int, path: str | None) -> str:
    """Formats the last line of the log, for whoever searches many nights' logs."""
    figures: dict[str, Any] = {"status": record.status, "exit": status, "run": record.run}
    figures["steps"] = ",".join(step["name"] for step in record.steps) or "none"
    for _, result in done:
        figures |= result.summary_figures
    figures["alarms"] = ",".join(alarm["name"] for alarm in record.alarms if alarm["raised"]) or "none"
    figures |= {"seconds": round(record.seconds, 1), "record": path or "none"}
    return "summary: " + " ".join(f"{name}={shlex.quote(str(value))}" for name, value in figures.items())
