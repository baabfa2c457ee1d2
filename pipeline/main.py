"""The command from its arguments to its exit status."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from components.process_settings import prepare_process
from components.recogniser.manifest import RENAMED_NETWORKS
from components.training.place import ClusterPlace
from pipeline.command_line import format_usage, parse_options
from pipeline.console import log_to_console, print_error, print_line, print_story
from pipeline.engines.submission import check_submission
from pipeline.exits import (
    EXIT_DONE,
    EXIT_HELD,
    EXIT_INTERRUPTED,
    EXIT_LOST,
    EXIT_REFUSED,
    EXIT_USAGE,
    choose_status,
    describe_error,
)
from pipeline.options import LinePipelineOptions, UsageError
from pipeline.report.metrics_file import write_metrics
from pipeline.report.notify import notify_service
from pipeline.signals import end_at_once, handle_signals
from tfrecords import DataError

if TYPE_CHECKING:
    from pipeline.workspace import Workspace

log = logging.getLogger(__name__)

_LOCK_OF_A_LOST_NODE_S = 660  # until a file server gives up on it, or it counts for nothing in an object store


def main(argv: Sequence[str]) -> int:
    """Runs the command.

    Returns:
        0 when done, 1 when a check refused something or the input cannot be used, 2 for a
        command line that cannot be run, 3 when another command holds the workspace, or may hold it, 4
        when all was done and an alarm was raised, 75 when an engine or an object store was lost,
        130 when interrupted or terminated, 138 when training lost its workers too often and can be
        resumed from its last checkpoint.
    """
    if {"--help", "-h"} & set(argv):
        try:
            for line in format_usage(argv).splitlines():
                print_line(line)
        except UsageError as error:
            return _refuse(error, EXIT_USAGE)
        return EXIT_DONE
    prepare_process()
    # Before TensorFlow is imported anywhere: its start-up messages drown ours.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with log_to_console():
        try:
            options = parse_options(argv)
            place = _find_place(options)
        except DataError as error:
            return _refuse(error, EXIT_USAGE)
        if options.model in RENAMED_NETWORKS:
            log.info(f"--model={options.model} is now called {options.network}")
        try:
            check_submission(options)
        except DataError as error:
            return _refuse(error, choose_status(error), options)
        return _run(options, place)


def command() -> NoReturn:
    """Runs the installed command, and ends the process."""
    try:
        status = main(sys.argv[1:])
    except KeyboardInterrupt:
        print_error("interrupted")
        status = EXIT_INTERRUPTED
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else EXIT_REFUSED
    except BaseException:
        print_story(traceback.format_exc())
        status = EXIT_REFUSED
    end_at_once(status)


def _run(options: LinePipelineOptions, place: ClusterPlace | None) -> int:
    """Plans, or locks the workspace and runs the steps; returns the exit status."""
    from pipeline.execution import run_steps, train_beside_the_chief
    from pipeline.lock import WorkspaceHeldError
    from pipeline.workspace import Workspace

    workspace = Workspace(options.workspace)
    held = EXIT_LOST if place else EXIT_HELD  # a scheduler tries again

    def end(sentence: str) -> None:
        print_error(sentence)
        end_at_once(held)

    try:
        if options.plan:
            return _plan(options, workspace)
        if place is not None and not place.is_chief:
            return train_beside_the_chief(options, workspace, place)
        with workspace.lock(wait_s=_LOCK_OF_A_LOST_NODE_S if place else 0, end=end):
            status, record = run_steps(options, workspace)
    except WorkspaceHeldError as error:
        return _refuse(error, held, options)
    except DataError as error:
        return _refuse(error, choose_status(error), options)
    _pass_on(options, record)  # when other commands may have the workspace
    return status


def _plan(options: LinePipelineOptions, workspace: Workspace) -> int:
    """Prints the plan; returns the exit status."""
    from pipeline.plan import print_plan

    try:
        print_plan(options, workspace)
    except OSError as error:
        return _refuse(DataError(describe_error(error)), EXIT_REFUSED)
    return EXIT_DONE


def _find_place(options: LinePipelineOptions) -> ClusterPlace | None:
    """Finds this process's place in a training cluster of several nodes, each of which runs this command.

    Raises:
        UsageError: for what such a cluster cannot do.
    """
    trains = {"train", "selftrain", "forecast"}.intersection(options.step_names)
    if not trains and not ("review" in options.step_names and options.review == "labels"):
        return None
    place = ClusterPlace.from_environment(os.environ)
    if place is None or len(place.addresses) == 1:
        return None
    if options.step_names != ("train",):
        raise UsageError(
            f"TF_CONFIG describes a cluster of {len(place.addresses)} workers, which train together: give "
            "--steps=train to all of them, and run the other steps before and after, on one machine"
        )
    if options.resume == "never":
        raise UsageError(
            "--resume=never is not for a cluster, whose scheduler repeats the command after every fault: delete the "
            "training's folder in WORKSPACE/unfinished instead"
        )
    if options.train_workers > 1:
        raise UsageError(
            f"--train_workers={options.train_workers} is for one machine, but TF_CONFIG describes a cluster: each of "
            "its nodes starts one worker, with all of its GPUs"
        )
    return place


def _refuse(error: DataError, status: int, options: LinePipelineOptions | None = None) -> int:
    """Says why nothing was done, to the service of `--notify_url` too once the options are known."""
    print_error(str(error))
    if options is not None and not options.plan:
        name = "held" if status in (EXIT_HELD, EXIT_LOST) else "failed"
        record = {"status": name, "exit": status, "workspace": options.workspace, "problems": [str(error)]}
        print_line(f"summary: status={name} exit={status} workspace={shlex.quote(options.workspace)}")
        _pass_on(options, record)
    return status


def _pass_on(options: LinePipelineOptions, record: dict[str, Any]) -> None:
    """Writes `--metrics_file`, and tells the service of `--notify_url` how the command ended.

    One signal does not stop that, a second one does.
    """
    if options.metrics_file:
        write_metrics(options.metrics_file, record)
    if options.notify_url:
        with handle_signals() as interruption:
            interruption.ending = True
            notify_service(options.notify_url, record)


if __name__ == "__main__":
    command()
