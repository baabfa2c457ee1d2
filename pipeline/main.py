"""The command from its arguments to its exit status."""

from __future__ import annotations

import dataclasses
import gc
import logging
import os
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from components.training.place import ClusterPlace
from pipeline.command_line import format_usage, parse_options
from pipeline.console import make_printable, say, say_error, show
from pipeline.engines.submission import check_submission
from pipeline.exits import (
    EXIT_ALARM,
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
from pipeline.report.notify import notify
from pipeline.signals import Interruption, end_at_once, handle_signals
from tfrecords import DataError, StoreError, storage

if TYPE_CHECKING:
    from pipeline.report.record import RunRecord
    from pipeline.steps.step import StepResult
    from pipeline.workspace import Workspace
_FIRST_ROWS = 5
_LOCK_OF_A_LOST_NODE_S = 660  # until a file server gives up on it, or it counts for nothing in an object store
_PLACES = {
    "ingest": "dataset",
    "train": "model",
    "evaluate": "evaluation",
    "infer": "predictions",
    "review": "review",
    "compact": "predictions",
    "template": "template",
}


def main(argv: Sequence[str]) -> int:
    """Runs the command.

    Returns:
        0 when done, 1 when a check refused something or the input cannot be used, 2 for a
        command line that cannot be run, 3 when another run holds the workspace, or may hold it, 4
        when all was done and an alarm was raised, 75 when an engine or an object store was lost,
        130 when interrupted or terminated, 138 when training lost its workers too often and can go
        on from its last checkpoint.
    """
    if {"--help", "-h"} & set(argv):
        try:
            print(format_usage(argv))
        except UsageError as error:
            return _refuse(error, EXIT_USAGE)
        return EXIT_DONE
    # Before TensorFlow is imported anywhere: its start-up messages drown ours.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        options = parse_options(argv)
        place = _find_place(options)
    except DataError as error:
        return _refuse(error, EXIT_USAGE)
    try:
        check_submission(options)
    except DataError as error:
        return _refuse(error, choose_status(error), options)
    from pipeline.lock import WorkspaceHeldError
    from pipeline.workspace import Workspace

    workspace = Workspace(options.workspace)
    held = EXIT_LOST if place else EXIT_HELD  # a scheduler tries again

    def end(sentence: str) -> None:
        say_error(sentence)
        end_at_once(held)

    try:
        if options.plan:
            from pipeline.plan import print_plan

            try:
                print_plan(options, workspace, say)
            except OSError as error:
                return _refuse(DataError(describe_error(error)), EXIT_REFUSED)
            return EXIT_DONE
        if place is not None and not place.chief:
            return _train_beside_the_chief(options, workspace, place)
        with workspace.lock(wait_s=_LOCK_OF_A_LOST_NODE_S if place else 0, say=say, end=end):
            return run(options, workspace)
    except WorkspaceHeldError as error:
        return _refuse(error, held, options)
    except DataError as error:
        return _refuse(error, choose_status(error), options)


def command() -> NoReturn:
    """The installed command."""
    try:
        status = main(sys.argv[1:])
    except KeyboardInterrupt:
        say_error("interrupted")
        status = EXIT_INTERRUPTED
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else EXIT_REFUSED
    except BaseException:
        traceback.print_exc()
        status = EXIT_REFUSED
    end_at_once(status)


def run(options: LinePipelineOptions, workspace: Workspace) -> int:
    """Runs the steps in their order, writes the run report, and returns the exit status."""
    from pipeline.report import page as report

    record = report.RunRecord.start(options, workspace.root)
    results: list[StepResult] = []
    with handle_signals() as interruption:
        gc.freeze()  # what was imported stays: each look through it for garbage would take a tenth of a second
        status, problem, store_lost = _guarded(
            lambda: _run_steps(options, workspace, record, results),
            workspace.run_record(record.run, "log"),
            interruption,
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
            conclusion, failure, _ = _guarded(
                lambda: paths.update(_conclude(options, workspace, record, status)),
                workspace.run_record(record.run, "log"),
                interruption,
            )
            if failure is not None:
                record.fail(f"the run report cannot be written: {failure}")
            if not paths and status in (EXIT_DONE, EXIT_ALARM):
                status = conclusion or EXIT_REFUSED
        _print_end(results, record, paths)
        _tell(options, {**dataclasses.asdict(record), "exit": status})
        say(_format_summary(record, status, paths.get("run record")))
    return status


def _conclude(options: LinePipelineOptions, workspace: Workspace, record: RunRecord, status: int) -> dict[str, str]:
    """What comes after the steps: clearing up, and the run report, whose paths are returned."""
    from pipeline.report import page as report
    from pipeline.retention import prune

    if status in (EXIT_DONE, EXIT_ALARM):
        workspace.clear_unfinished()
        prune(options, workspace, say)
    return report.write_report(record, workspace)


def _tell(options: LinePipelineOptions, record: dict[str, Any]) -> None:
    if options.notify_url and (refusal := notify(options.notify_url, record)):
        say_error(f"--notify_url was told nothing of this run: {refusal}")


def _format_summary(record: RunRecord, status: int, path: str | None) -> str:
    """The last line of the log, for whoever searches many nights' logs."""
    told: dict[str, Any] = {"status": record.status, "exit": status, "run": record.run}
    told["steps"] = ",".join(step["name"] for step in record.steps) or "none"
    for step in record.steps:
        if step["name"] == "infer":
            figures = step["figures"]
            told |= {name: figures[name] for name in ("matched", "rows", "skipped", "needs_review")}
            told["rejected"] = sum(figures["rejects"].values())
            told["read"] = told.pop("rows")
    told["alarms"] = ",".join(alarm["name"] for alarm in record.alarms if alarm["raised"]) or "none"
    told |= {"seconds": round(record.seconds, 1), "record": path or "none"}
    return "summary: " + " ".join(f"{name}={shlex.quote(str(value))}" for name, value in told.items())


def _find_place(options: LinePipelineOptions) -> ClusterPlace | None:
    """This process's place in a training cluster of several nodes, each of which runs this command.

    Raises:
        UsageError: for what such a cluster cannot do.
    """
    if "train" not in options.step_names:
        return None
    place = ClusterPlace.of(os.environ)
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


def _train_beside_the_chief(options: LinePipelineOptions, workspace: Workspace, place: ClusterPlace) -> int:
    """What a node does that only helps to train: the first one holds the workspace, commits and reports."""
    from pipeline.steps.step import Context
    from pipeline.steps.train import train

    say(f"workspace {workspace.root}, worker {place.worker} of {len(place.addresses)}")
    with handle_signals() as interruption:
        status, problem, _ = _guarded(
            lambda: say(train(Context(options, workspace, say)).summary),
            workspace.run_record(f"worker-{place.worker}", "log"),
            interruption,
        )
    if problem is not None:
        say_error(problem)
    return status


def _guarded(work: Callable[[], object], log: str, interruption: Interruption) -> tuple[int, str | None, bool]:
    """Does some work. What nobody foresaw is told in `log`.

    Returns:
        The exit status; one sentence if it failed; and whether the log lies in an object store that was lost.
    """
    try:
        work()
        return EXIT_DONE, None, False
    except (Exception, KeyboardInterrupt) as error:
        if interruption.came:
            sentence = "interrupted: what is finished is kept, and the same command goes on from there"
            return EXIT_INTERRUPTED, sentence, False
        if isinstance(error, StoreError) and storage.is_remote(log):
            return choose_status(error), str(error), True
        if isinstance(error, DataError):
            from pipeline.engines.jobs import JobLostError

            problem = str(error)
            if isinstance(error, JobLostError):
                storage.write_bytes(log, error.story.encode())
                problem += f"; the engine's own words are in {log}"
            return choose_status(error), problem, False
        if isinstance(error, OSError):
            return EXIT_REFUSED, describe_error(error), False
        failure = f"a failure of the program or its engine, {type(error).__name__}"
        try:
            storage.write_bytes(log, traceback.format_exc().encode())
        except (OSError, DataError) as other:
            return (
                EXIT_REFUSED,
                f"{failure}: {error}; its whole story cannot be written: {describe_error(other)}",
                False,
            )
        return EXIT_REFUSED, f"{failure}; the whole story is in {log}", False


def _run_steps(
    options: LinePipelineOptions, workspace: Workspace, record: RunRecord, results: list[StepResult]
) -> None:
    from pipeline.engines.jobs import describe_runner
    from pipeline.steps import STEP_FUNCTIONS
    from pipeline.steps.step import Context, RefusedError

    context = Context(options, workspace, say, show if sys.stdout.isatty() else None)
    say(f"workspace {workspace.root}, runner {describe_runner(options)}")
    for number, name in enumerate(options.step_names, 1):
        say(f"[{number}/{len(options.step_names)}] {name}")
        if name == "infer" and record.status == "refused" and workspace.read_pointer("models", "ACCEPTED") is None:
            say("nothing is read: no model is accepted")
            continue
        started = time.monotonic()
        try:
            result = STEP_FUNCTIONS[name](context)
        except RefusedError as error:
            record.add_rejects(name, error.rejects, error.folder)
            raise
        seconds = time.monotonic() - started
        say(f"{result.summary} ({seconds:.1f} s)")
        results.append(result)
        record.add(dataclasses.asdict(result), seconds)


def _print_end(results: list[StepResult], record: RunRecord, paths: dict[str, str]) -> None:
    from components.predictions.runs import read_predictions

    say("")
    for result in results:
        say(f"{_PLACES[result.name]:<12} {result.folder}")
        if result.name == "infer" and result.figures["rejects"] and "infer" in record.reject_folders:
            say(f"{'rejects':<12} {record.reject_folders['infer']}")
    for name, path in paths.items():
        say(f"{name:<12} {path}")
    for result in results:
        if result.name == "infer" and result.figures["rows"]:
            say(f"\nfirst rows of {result.figures['rows']:,}:")
            say(f"  {'confidence':>10}  {'text':<24} uri")
            for row in read_predictions(result.folder, ["uri", "text", "confidence"], _FIRST_ROWS):
                say(f"  {row['confidence']:>10.3f}  {row['text']:<24} {row['uri']}")
            if right := result.figures.get("right"):
                share = f"{right['exact']} ({right['exact'] / right['images']:.1%})"
                say(f"\nof the sample's {right['images']} unlabelled images, {share} were read exactly")
    for alarm in record.alarms:
        if alarm["raised"]:
            print(make_printable(f"alarm: --{alarm['name']}: {alarm['sentence']}"), file=sys.stderr, flush=True)
    for problem in record.problems:
        say_error(problem)


def _refuse(error: DataError, status: int, options: LinePipelineOptions | None = None) -> int:
    """Says why nothing was done; tells it, too, once it is known to whom."""
    say_error(str(error))
    if options is not None and not options.plan:
        name = "held" if status in (EXIT_HELD, EXIT_LOST) else "failed"
        record = {"status": name, "exit": status, "workspace": options.workspace, "problems": [str(error)]}
        _tell(options, record)
        say(f"summary: status={name} exit={status} workspace={shlex.quote(options.workspace)}")
    return status


if __name__ == "__main__":
    command()
