"""The command from its arguments to its exit status."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import time
from collections.abc import Sequence

from pipeline.options import LinePipelineOptions, UsageError, parse_options, usage

EXIT_DONE, EXIT_REFUSED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str]) -> int:
    """Runs the command.

    Returns:
        0 when done, 1 when a check refused something or the input cannot be used, 2 for a
        command line that cannot be run, 130 when interrupted.
    """
    if {"--help", "-h"} & set(argv):
        print(usage())
        return EXIT_DONE
    # Before TensorFlow is imported anywhere: its start-up messages drown ours.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        options = parse_options(argv)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    try:
        return run(options)
    except KeyboardInterrupt:
        print("interrupted: nothing unfinished was committed; the same command goes on from here", file=sys.stderr)
        return EXIT_INTERRUPTED


def run(options: LinePipelineOptions) -> int:
    """Runs the steps in their order, writes the run report, and returns the exit status."""
    from pipeline import report
    from pipeline.runners import runner_name
    from pipeline.steps import STEP_FUNCTIONS, Context, StepResult
    from pipeline.workspace import Workspace
    from tfrecords import DataError

    say = _say
    workspace = Workspace(options.workspace)
    record = report.RunRecord.start(options, workspace.root)
    results: list[StepResult] = []
    try:
        workspace.prepare()
        say(f"workspace {workspace.root}, runner {runner_name(options)}")
        for number, name in enumerate(options.step_names, 1):
            say(f"[{number}/{len(options.step_names)}] {name}")
            started = time.monotonic()
            result = STEP_FUNCTIONS[name](Context(options, workspace, say))
            seconds = time.monotonic() - started
            say(f"{result.summary} ({seconds:.1f} s)")
            results.append(result)
            record.add(dataclasses.asdict(result), seconds)
    except DataError as error:
        record.fail(str(error))
    paths = report.write(record, workspace)
    _print_end(results, record, paths)
    return EXIT_DONE if record.status == "done" else EXIT_REFUSED


def _say(line: str) -> None:
    print(line, flush=True)


def _print_end(results, record, paths: dict[str, str]) -> None:
    from pipeline.steps import read_predictions

    print()
    places = {"ingest": "dataset", "train": "model", "evaluate": "evaluation", "infer": "predictions"}
    for result in results:
        print(f"{places[result.name]:<12} {result.folder}")
    for name, path in paths.items():
        print(f"{name:<12} {path}")
    for result in results:
        if result.name == "infer":
            print(f"\nfirst rows of {result.figures['rows']:,}:")
            print(f"  {'confidence':>10}  {'text':<24} uri")
            for row in read_predictions(result.folder, ["uri", "text", "confidence"], 5):
                print(f"  {row['confidence']:>10.3f}  {row['text']:<24} {row['uri']}")
            if right := result.figures.get("right"):
                share = f"{right['exact']} ({right['exact'] / right['images']:.1%})"
                print(f"\nof the sample's {right['images']} unlabelled images, {share} were read exactly")
    sys.stdout.flush()
    for problem in record.problems:
        print(f"error: {problem}", file=sys.stderr)
