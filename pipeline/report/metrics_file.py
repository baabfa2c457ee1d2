"""The figures of a command in the text format of Prometheus, for the textfile collector of its node exporter."""

from __future__ import annotations

import contextlib
import datetime
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.console import print_error
from pipeline.exits import EXIT_ALARM, EXIT_DONE, describe_error
from tfrecords import DataError, storage

PREFIX = "ctc_line_reader_"
STATUSES = ("done", "alarm", "refused", "failed", "held")
_SUCCEEDED = f"{PREFIX}last_success_timestamp_seconds"
_HELP = {
    "last_end_timestamp_seconds": "Time at which the last command ended, since 1970.",
    "last_success_timestamp_seconds": "Time at which the last command ended that did all it was asked, since 1970.",
    "status": "Whether the last command ended with this status.",
    "exit_status": "Exit status of the last command.",
    "duration_seconds": "Duration of the last command.",
    "step_duration_seconds": "Duration of each step of the last command.",
    "step_images_per_second": "Images a second in each step of the last command that worked on images.",
    "matched_images": "Images that the inputs of a step named.",
    "skipped_images": "Images that the infer step skipped, since they were read before.",
    "read_images": "Images that the infer step recognised.",
    "rejected_images": "Images that a step left out, by reason.",
    "needs_review_images": "Recognised images below --min_confidence.",
    "mean_confidence": "Mean confidence of the images that the infer step recognised, 0 to 1.",
    "dataset_images": "Images in the splits of the dataset that the ingest step wrote or found.",
    "evaluated_images": "Held-out images on which the evaluate step measured the latest model.",
    "cer": "Character error rate of the latest model on held-out images.",
    "wer": "Word error rate of the latest model on held-out images.",
    "exact_match_ratio": "Share of held-out images that the latest model recognised without an error.",
    "model_accepted": "Whether the evaluate step accepted the latest model.",
    "alarm_raised": "Whether an alarm that is on was raised.",
    "alarm_measured": "What was measured for an alarm.",
    "alarm_limit": "Limit of an alarm.",
}
"""What each metric means, in the order in which they are written."""

_Sample = tuple[str, dict[str, str], float]
"""Name without prefix, labels and value."""


def write_metrics(path: str, record: Mapping[str, Any]) -> None:
    """Writes the figures of a command in place of those of the one before; prints the reason if that cannot be done.

    The time of the last success stays if this command was none.

    Args:
        path: local, of `--metrics_file`.
        record: as the service of `--notify_url` gets it.
    """
    try:
        storage.write_bytes(path, format_metrics(record, _read_last_success(path)).encode(errors="replace"))
    except (OSError, DataError) as error:
        print_error(f"--metrics_file={path} was not written: {describe_error(error)}")


def format_metrics(record: Mapping[str, Any], last_success: float | None = None) -> str:
    """Formats the figures of a command.

    Args:
        last_success: seconds since 1970 at which the last command before succeeded; None if that is not known.
    """
    shared = {"workspace": str(record["workspace"])}
    samples: dict[str, list[str]] = {name: [] for name in _HELP}
    for name, labels, value in _list_samples(record, last_success):
        all_labels = {**shared, **labels}
        written = ",".join(f'{label}="{_escape(text)}"' for label, text in all_labels.items())
        samples[name].append(f"{PREFIX}{name}{{{written}}} {_format_number(value)}\n")
    return "".join(
        f"# HELP {PREFIX}{name} {_HELP[name]}\n# TYPE {PREFIX}{name} gauge\n{''.join(lines)}"
        for name, lines in samples.items()
        if lines
    )


def _list_samples(record: Mapping[str, Any], last_success: float | None) -> Iterator[_Sample]:
    ended = datetime.datetime.now(datetime.UTC)
    if record.get("finished_at"):
        ended = datetime.datetime.fromisoformat(record["finished_at"])
    yield "last_end_timestamp_seconds", {}, ended.timestamp()
    if record["exit"] in (EXIT_DONE, EXIT_ALARM):
        last_success = ended.timestamp()
    if last_success is not None:
        yield "last_success_timestamp_seconds", {}, last_success
    for status in STATUSES:
        yield "status", {"status": status}, record["status"] == status
    yield "exit_status", {}, record["exit"]
    if "seconds" in record:
        yield "duration_seconds", {}, record["seconds"]
    for step in record.get("steps", ()):
        yield "step_duration_seconds", {"step": step["name"]}, step["seconds"]
        if step["images_per_s"] is not None:
            yield "step_images_per_second", {"step": step["name"]}, step["images_per_s"]
        yield from _list_figures(step["name"], step["figures"])
    for step, counts in record.get("rejects", {}).items():
        for reason, count in counts.items():
            yield "rejected_images", {"step": step, "reason": reason}, count
    for alarm in record.get("alarms", ()):
        labels = {"alarm": alarm["name"].removeprefix("alarm_")}
        yield "alarm_raised", labels, alarm["raised"]
        for name in ("measured", "limit"):
            if isinstance(alarm[name], int | float):
                yield f"alarm_{name}", labels, alarm[name]


def _list_figures(step: str, figures: Mapping[str, Any]) -> Iterator[_Sample]:
    """Lists what a step found."""
    if step in ("ingest", "infer") and "matched" in figures:
        yield "matched_images", {"step": step}, figures["matched"]
    if step == "ingest":
        for split, count in figures.get("examples", {}).items():
            yield "dataset_images", {"split": split}, count
    elif step == "infer":
        for name, figure in {"skipped": "skipped", "read": "rows", "needs_review": "needs_review"}.items():
            if figure in figures:
                yield f"{name}_images", {}, figures[figure]
        if figures.get("rows"):
            yield "mean_confidence", {}, figures["mean_confidence"]
    elif step == "evaluate":
        yield "evaluated_images", {}, figures["images"]
        yield "cer", {}, figures["cer"]
        yield "wer", {}, figures["wer"]
        yield "exact_match_ratio", {}, figures["exact_match"]
        yield "model_accepted", {}, figures["accepted"]


def _read_last_success(path: str) -> float | None:
    """Reads the time of the last success from the file that an earlier command wrote; None if there is none."""
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            if found := re.fullmatch(rf"{_SUCCEEDED}{{.*}} ([0-9.]+)\n?", line):
                return float(found[1])
    return None


def _format_number(value: float) -> str:
    """Formats a number with all its digits, a whole one without a point."""
    return str(int(value)) if value == int(value) else repr(float(value))


def _escape(text: str) -> str:
    """Escapes a label's value as the text format asks for."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
