"""Benchmark of the memory of training workers, which must not end with the number of lines.

    python benchmarks/training_memory.py --images=../shared/data/captcha [--lines=2000000] [--validation=20000]
        [--workers=1] [--steps=40] [--scratch=DIR]

It encodes the images once, and writes their examples again and again as a dataset of so many lines, in shards of 3,000.
A training of one epoch is stopped by SIGTERM after some steps. Its checkpoint is moved to some steps before the end of
the epoch. The training is resumed there, validates, and writes its model. Meanwhile the memory of each worker is read
from `/proc/PID/smaps_rollup` ten times a second: what is anonymous, and so is no page cache. Its peak is compared with
600 MiB and 40 bytes a line. 2 million captcha lines take 10 GB of disk.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout that this file lies in

from benchmarks.common import run_command
from components.training.checkpoints import Checkpoint, Checkpoints
from components.training.launcher import TrainingLostError, train_in_processes
from tfrecords import DatasetManifest, ShardEntry, read_records, storage, write_records
from tfrecords.manifest import CHARSET_NAME

FIXED, A_LINE = 600 * 2**20, 40
SHARD_LINES = 3000
EVERY_S = 0.1
MIB = 2**20


def write_dataset(source: str, folder: str, lines: dict[str, int]) -> DatasetManifest:
    """Writes a dataset of so many lines in each split, of the examples of another one again and again."""
    manifest = DatasetManifest.read(source)
    records = [
        record for shard in manifest.shards_of("train") for record in read_records(storage.join(source, shard.name))
    ]
    storage.copy_file(storage.join(source, CHARSET_NAME), storage.join(folder, CHARSET_NAME))
    shards = []
    for split, count in lines.items():
        of_split = itertools.cycle(records)
        total = -(-count // SHARD_LINES)
        for number in range(total):
            name = f"{split}-{number:05d}-of-{total:05d}.tfrecord.gz"
            wanted = min(SHARD_LINES, count - number * SHARD_LINES)
            written = write_records(storage.join(folder, name), itertools.islice(of_split, wanted))
            shards.append(ShardEntry(name, split, *written))
    grown = dataclasses.replace(manifest, shards=tuple(shards), matched=sum(lines.values()))
    grown.write(folder)
    return grown


class MemoryWatch:
    """A thread that reads the memory of this process's training workers.

    Attributes:
        peaks: for each worker, the most bytes that were anonymous, and the most that were resident, by its process ID.
    """

    def __init__(self) -> None:
        self.peaks: dict[int, tuple[int, int]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> dict[int, tuple[int, int]]:
        """Ends the watch; returns the peaks."""
        self._ended.set()
        self._thread.join()
        return self.peaks

    def _watch(self) -> None:
        while not self._ended.wait(EVERY_S):
            for worker in find_workers():
                with contextlib.suppress(OSError, ValueError):
                    found = read_memory(worker)
                    before = self.peaks.get(worker, (0, 0))
                    self.peaks[worker] = (max(before[0], found[0]), max(before[1], found[1]))


def find_workers() -> Iterator[int]:
    """Yields the process IDs of this process's training workers."""
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            for child in (task / "children").read_text(encoding="ascii").split():
                if b"components.training.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                    yield int(child)


def read_memory(process: int) -> tuple[int, int]:
    """Reads the bytes of a process that are anonymous, and those that are resident."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    fields = {name: int(value.split()[0]) * 1024 for name, value in (line.split(":") for line in lines)}
    return fields["Anonymous"], fields["Rss"]


def train(request: dict[str, Any], folder: str, workers: int, stop_at: int | None = None) -> dict[int, tuple[int, int]]:
    """Trains, until the checkpoint of a step is there if one is given; returns the peaks of the workers' memory."""
    watch = MemoryWatch()
    if stop_at is not None:
        threading.Thread(target=stop_after, args=(request["checkpoint_folder"], stop_at), daemon=True).start()
    try:
        with contextlib.suppress(TrainingLostError) if stop_at is not None else contextlib.nullcontext():
            train_in_processes(request, folder, workers)
    finally:
        peaks = watch.end()
    return peaks


def stop_after(folder: str, step: int) -> None:
    """Stops the training workers once there is a checkpoint of a step, or a later one."""
    while not any(int(name[11:20]) >= step for name in storage.list_names(folder) if name.startswith("checkpoint-")):
        time.sleep(EVERY_S)
    for worker in find_workers():
        os.kill(worker, signal.SIGTERM)


def move_checkpoint(folder: str, step: int) -> None:
    """Makes the newest checkpoint one of a later step."""
    checkpoint = Checkpoints(folder).find_latest()
    assert checkpoint is not None
    Checkpoints(folder).save(Checkpoint(step, checkpoint.arrays, checkpoint.facts))


def measure(options: argparse.Namespace, folder: Path) -> None:
    """Writes the dataset, trains, resumes and prints the peaks."""
    workspace = folder / "workspace"
    run_command(workspace, "--steps=ingest", f"--images={options.images}")
    source = str(workspace / "datasets" / (workspace / "datasets" / "LATEST").read_text().strip())
    started = time.monotonic()
    lines = {"train": options.lines - options.validation, "validation": options.validation}
    manifest = write_dataset(source, str(folder / "dataset"), lines)
    size = sum(shard.bytes for shard in manifest.shards)
    print(f"{options.lines:,} lines, {size / 1e9:.1f} GB, written in {time.monotonic() - started:.0f} s", flush=True)
    request: dict[str, Any] = {
        "dataset_folder": str(folder / "dataset"),
        "output_folder": str(folder / "model"),
        "checkpoint_folder": str(folder / "checkpoints"),
        "index_folder": str(folder / "index"),
        "model": "ctc_conv",
        "epochs": 1,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "patience": 1,
        "seed": 0,
        "checkpoint_every_s": 0.0,
        "start_timeout_s": 3600.0,
    }
    bound = FIXED + A_LINE * options.lines
    last = -(-lines["train"] // request["batch_size"])
    for number, stop_at in enumerate((options.steps, None)):
        if number == 1:
            move_checkpoint(request["checkpoint_folder"], last - options.steps)
            request["checkpoint_every_s"] = 60.0
        started = time.monotonic()
        peaks = train(request, str(folder), options.workers, stop_at)
        name = "resumed, validated, written" if number else "first steps, with the index"
        for anonymous, resident in peaks.values():
            met = "met" if anonymous <= bound else "MISSED"
            print(
                f"{name:<28} {time.monotonic() - started:6.0f} s  without page cache {anonymous / MIB:6.0f} MiB  bound "
                f"{bound / MIB:6.0f} MiB: {met}; resident {resident / MIB:6.0f} MiB",
                flush=True,
            )


def main() -> None:
    """Runs the measurement."""
    parser = argparse.ArgumentParser(description="Measure the memory of training.", allow_abbrev=False)
    parser.add_argument("--images", required=True, help="labelled images")
    parser.add_argument("--lines", type=int, default=2_000_000, help="of both splits (default: %(default)s)")
    parser.add_argument("--validation", type=int, default=20_000, help="of them (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=40, help="before and after the stop (default: %(default)s)")
    parser.add_argument("--scratch", help="where the temporary folder is made (default: the system's)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="training-memory-", dir=options.scratch) as folder:
        measure(options, Path(folder).resolve())


if __name__ == "__main__":
    main()
