"""Kills the command at random moments, runs it again, and compares the result with an undisturbed one's.

    python -m tests.crashes --kills=50

The collection is rendered; the nights are: ingest, train and evaluate, infer, images that are added, changed and
removed, infer again, and the merge of the day's runs. A kill is SIGKILL of the command's process alone, as the kernel
does it when memory runs out; what that process had started has to end by itself. Or it is SIGKILL or SIGSTOP of one of
the helper processes or of a training worker, which the command has to notice and replace.

    python -m tests.crashes --kills=50 --victims=helper,worker
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.dataset
import pyarrow.parquet
from PIL import Image, ImageDraw, ImageFont

from tests.commands import RUN_PIPELINE, start_command
from tests.small_disks import run_on_small_disk
from tests.victims import Blow

_SYMBOLS = "0123456789AC"
_BEGUN = re.compile(r"\[1/\d+\] ")
_SLOW = 10  # times as long as an undisturbed command, and a minute: then it hangs


@dataclasses.dataclass(frozen=True)
class Night:
    """One command, and what happens to the images before it."""

    name: str
    flags: tuple[str, ...]
    added: tuple[int, int] = (0, 0)


NIGHTS = (
    Night("ingest", ("--steps=ingest",)),
    Night("train", ("--steps=train,evaluate", "--epochs=2", "--max_cer=1", "--batch_size=64")),
    Night("infer", ("--steps=infer",), added=(0, 900)),
    Night("infer again", ("--steps=infer",), added=(900, 1500)),
    Night("compact", ("--steps=compact", "--date={today}")),
)
HELPED = (0, 2, 3)
"""Nights in which helper processes decode images."""
TRAINED = 1
"""The night in which a worker trains."""


class Collection:
    """Rendered images below a folder: `labelled` ones, and `new` ones that come night by night; some are broken."""

    def __init__(self, folder: Path):
        self.labelled, self.new = folder / "labelled", folder / "new"
        self.labelled.mkdir(parents=True)
        self.new.mkdir()
        chooser = random.Random(0)
        for number in range(600):
            text = "".join(chooser.choices(_SYMBOLS, k=chooser.randrange(2, 7)))
            _render(text).save(self.labelled / f"{text}_{number}.png")
        self._pictures = [_render("".join(chooser.choices(_SYMBOLS, k=chooser.randrange(2, 7)))) for _ in range(50)]

    def add(self, start: int, end: int) -> None:
        """Images of these numbers come; where earlier ones are there, one of these changes and one goes."""
        for number in range(start, end):
            path = self.new / f"{number:05d}.png"
            self._pictures[number % 50].save(path)
            if number % 100 == 7:
                path.write_bytes(path.read_bytes()[:40])
            os.utime(path, (number, number))
        if 0 < start < end:
            os.utime(self.new / "00001.png", (5_000_000, 5_000_000))
            (self.new / "00002.png").unlink()

    def flags(self, workspace: Path, night: Night) -> list[str]:
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        return [
            *(f"--workspace={workspace}", f"--images={self.labelled}", f"--infer_images={self.new}"),
            *("--label_source=filename", "--label_pattern={label}_{id}"),
            *(flag.format(today=today) for flag in night.flags),
        ]


def _render(text: str) -> Image.Image:
    image = Image.new("L", (16 * len(text) + 16, 32), 255)
    ImageDraw.Draw(image).text((8, 4), text, 0, ImageFont.load_default(20))
    return image


@dataclasses.dataclass
class Ended:
    """How a command ended: its status, what it printed, the seconds after its first step began, and who was struck."""

    status: int
    output: str
    seconds: float
    struck: int


def run(
    flags: list[str],
    *,
    kill_after_s: float | None = None,
    blow: Blow | None = None,
    workspace: Path | None = None,
    patience_s: float = 600,
) -> Ended:
    """Runs the command; kills it some seconds after its first step began, if it has not ended by then.

    Args:
        blow: what happens then to others, in place of the command: as soon as one of them is there.
        workspace: of the command, to find them.
    """
    process = start_command(*flags, stderr=subprocess.STDOUT, errors="backslashreplace")
    assert process.stdout is not None
    said: list[str] = []
    victims: set[int] = set()
    try:
        for line in process.stdout:
            said.append(line)
            if _BEGUN.match(line):
                break
        began = time.monotonic()
        wait_s = kill_after_s
        while True:
            try:
                rest, _ = process.communicate(timeout=patience_s if wait_s is None else wait_s)
                break
            except subprocess.TimeoutExpired:
                if time.monotonic() - began > patience_s + (kill_after_s or 0):
                    raise AssertionError(f"it hangs: {' '.join(flags)}\n{''.join(said)}") from None
            if blow is None or workspace is None:
                process.kill()
                # Not until its pipes are closed: what it started may hold them for a moment.
                process.wait()
                rest = ""
                break
            victims |= _strike(blow, process.pid, workspace, victims)
            wait_s = None if victims and not blow.every else 0.02
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return Ended(process.returncode, "".join(said) + rest, time.monotonic() - began, len(victims))


def _strike(blow: Blow, command: int, workspace: Path, before: set[int]) -> set[int]:
    """Strikes whoever is there and was not struck before: one, or all of them; returns their process IDs."""
    found = [pid for pid in blow.find_victims(command, workspace) if pid not in before]
    chosen = found if blow.every else random.Random(len(found)).sample(found, min(1, len(found)))
    struck = set()
    for pid in chosen:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, blow.number)
            struck.add(pid)
    return struck


def what_is_there(workspace: Path) -> dict[str, Any]:
    """All that readers of a workspace see, without times and the IDs of runs, and every file's name."""
    found: dict[str, Any] = {"names": sorted(_names(workspace))}
    for pointer in ("datasets/LATEST", "models/LATEST", "models/ACCEPTED"):
        path = workspace / pointer
        found[pointer] = path.read_text() if path.exists() else None
    for path in sorted(workspace.glob("datasets/*/*")):
        if path.name.endswith((".gz", "charset.txt")):
            found[str(path.relative_to(workspace))] = path.read_bytes()
    for path in sorted(workspace.glob("datasets/*/manifest.json")):
        found[str(path.relative_to(workspace))] = {**json.loads(path.read_text()), "created_at": None}
    found["rows"] = list(
        _rows(workspace, "predictions", ("uri", "text", "width", "size_bytes", "modified", "model_id"))
    )
    found["rejects"] = list(_rows(workspace, "rejects", ("uri", "reason", "size_bytes", "modified")))
    manifests = [json.loads(path.read_text()) for path in workspace.glob("predictions/*/*/_manifest.json")]
    said = ("rows", "skipped", "matched", "rejects", "needs_review", "model_id", "decoding")
    found["manifests"] = sorted(({name: each[name] for name in said} for each in manifests), key=str)
    assert sum(each["rows"] for each in manifests) == len(found["rows"])
    return found


def confidences(workspace: Path) -> list[float]:
    """Of all rows, in the order of their images."""
    rows = sorted(_rows(workspace, "predictions", ("uri", "modified", "confidence")))
    return [confidence for _, _, confidence in rows]


def _names(workspace: Path) -> Iterator[str]:
    for path in workspace.rglob("*"):
        name = str(path.relative_to(workspace))
        if path.is_file() and not name.startswith("runs/"):
            yield re.sub(r"(?<=run=)[a-z0-9]+|(?<=tfevents\.).*", "ID", name)


def _rows(workspace: Path, kind: str, columns: tuple[str, ...]) -> Iterator[tuple]:
    files = sorted(str(path) for path in workspace.glob(f"{kind}/*/*/*.parquet"))
    if files:
        table = pyarrow.dataset.dataset(files).to_table(columns=list(columns))
        yield from sorted(zip(*(column.to_pylist() for column in table.columns), strict=True))


class Undisturbed:
    """The workspace after every night, when nothing is killed, and the images as they were then."""

    def __init__(self, folder: Path, nights: tuple[Night, ...] = NIGHTS):
        self.collection = Collection(folder / "images")
        self.nights = nights
        self.before: list[Path] = []
        self.after: list[dict[str, Any]] = []
        self.confidences: list[list[float]] = []
        self.seconds: list[float] = []
        self._images: list[Path] = []
        workspace = folder / "workspace"
        workspace.mkdir()
        for number, night in enumerate(nights):
            self.collection.add(*night.added)
            self.before.append(Path(shutil.copytree(workspace, folder / f"before {number}")))
            self._images.append(folder / f"images {number}")
            _copy(self.collection.new, self._images[-1])
            ended = run(self.collection.flags(workspace, night))
            assert ended.status == 0, ended.output
            self.seconds.append(ended.seconds)
            self.after.append(what_is_there(workspace))
            self.confidences.append(confidences(workspace))

    def restore(self, number: int, workspace: Path) -> None:
        """Puts workspace and images to what they were before a night."""
        shutil.rmtree(self.collection.new)
        _copy(self._images[number], self.collection.new)
        shutil.copytree(self.before[number], workspace)

    def kill(self, number: int, fraction: float, workspace: Path, kills: int = 1) -> str:
        """Kills a night's command at a fraction of its time, runs it again, and compares.

        Returns:
            When it was killed, in words.

        Raises:
            AssertionError: if the result differs from the undisturbed one's, or anything is left over.
        """
        self.restore(number, workspace)
        night = self.nights[number]
        flags = self.collection.flags(workspace, night)
        moment = fraction * self.seconds[number]
        statuses: list[int] = []
        while statuses.count(-signal.SIGKILL) < kills:
            statuses.append(run(flags, kill_after_s=moment).status)
            if statuses[-1] == 0:  # it was faster than the undisturbed one: a little earlier
                moment *= 0.7
                shutil.rmtree(workspace)
                self.restore(number, workspace)
        again = run(flags, patience_s=60 + _SLOW * self.seconds[number])
        told = f"{night.name} killed {moment:.2f} s after it began (statuses {statuses})"
        assert again.status == 0, f"{told}: {again.output}"
        self.check(number, workspace, told)
        return told

    def strike(self, number: int, fraction: float, blow: Blow, workspace: Path) -> str:
        """Strikes a process of a night's command at a fraction of its time, and compares the result.

        The command is run again only if its exit status says so, as it may after such a blow.

        Returns:
            What happened when, in words.

        Raises:
            AssertionError: if the status is another one, or the result differs, or anything is left over.
        """
        night, patience_s = self.nights[number], 120 + _SLOW * self.seconds[number]
        flags = self.collection.flags(workspace, night)
        moment = fraction * self.seconds[number]
        while True:
            self.restore(number, workspace)
            ended = run(flags, kill_after_s=moment, blow=blow, workspace=workspace, patience_s=patience_s)
            late = ended.status not in blow.statuses and ended.status == 0 and moment > self.seconds[number] / 10
            if ended.struck and not late:
                break
            moment *= 0.7  # nobody was there any more, or had work to do: a little earlier
            shutil.rmtree(workspace)
        told = f"{night.name}: {blow} {moment:.2f} s after it began (status {ended.status}, {ended.seconds:.1f} s)"
        assert ended.status in blow.statuses, f"{told}: {ended.output}"
        if ended.status:
            again = run(flags, patience_s=patience_s)
            assert again.status == 0, f"{told}: {again.output}"
        self.check(number, workspace, told)
        return told

    def check(self, number: int, workspace: Path, told: str) -> None:
        """Raises an AssertionError if a workspace is not as it is after an undisturbed night."""
        differences(told, what_is_there(workspace), self.after[number])
        for ours, theirs in zip(confidences(workspace), self.confidences[number], strict=True):
            assert abs(ours - theirs) < 1e-3, told

    def fill_disk(self, number: int, spare_kib: int, workspace: Path) -> str:
        """Runs a night's command where few bytes are free, runs it again where there is room, and compares.

        Returns:
            What the first command printed, and `status=` with its exit status.

        Raises:
            AssertionError: if the result differs from the undisturbed one's, or anything is left over.
        """
        self.restore(number, workspace)
        disk = workspace.parent / "disk"
        disk.mkdir()
        command = [sys.executable, str(RUN_PIPELINE), *self.collection.flags(disk, self.nights[number])]
        done = run_on_small_disk(command, workspace, disk, spare_kib)
        first, _, second = (done.stdout + done.stderr).partition("--- again")
        told = f"{self.nights[number].name} with {spare_kib} KiB free"
        assert done.returncode == 0, f"{told}: {first} {second}"
        self.check(number, workspace, told)
        return first


def differences(told: str, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raises an AssertionError that names what differs."""
    wrong = [name for name in sorted({*found, *expected}) if found.get(name) != expected.get(name)]
    if wrong:
        name = wrong[0]
        ours, theirs = found.get(name), expected.get(name)
        if isinstance(ours, list) and isinstance(theirs, list):
            more, less = [each for each in ours if each not in theirs], [each for each in theirs if each not in ours]
            raise AssertionError(f"{told}: {wrong} differ; {name}: {more[:5]} too many, {less[:5]} are missing")
        raise AssertionError(f"{told}: {wrong} differ; {name}: {ours!r:.300} instead of {theirs!r:.300}")


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, copy_function=shutil.copy2)


def moments(kills: int, nights: int, seed: int) -> list[tuple[int, float]]:
    """Which night is killed, and at which fraction of its time: every night equally often."""
    chooser = random.Random(seed)
    return [(number % nights, chooser.random()) for number in range(kills)]


def blows(kills: int, victims: Sequence[str], seed: int) -> list[tuple[int, float, Blow | None]]:
    """Which night is struck, at which fraction of its time, and how; None for a kill of the command itself."""
    by_victim = {"command": [(night, None) for night in range(len(NIGHTS))], "helper": [], "worker": []}
    for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGKILL):
        by_victim["helper"] += [(night, Blow("helper", number)) for night in HELPED]
        by_victim["worker"].append((TRAINED, Blow("worker", number)))
    by_victim["helper"] += [(night, Blow("helper", signal.SIGKILL, every=True)) for night in HELPED]
    turns = [itertools.cycle(by_victim[victim]) for victim in victims]
    chooser = random.Random(seed)
    chosen = (next(turns[number % len(turns)]) for number in range(kills))
    return [(night, chooser.random(), blow) for night, blow in chosen]


def main() -> None:
    """Kills as often as is asked for; ends with the first difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--victims", default="command,helper,worker", help="who is killed or stopped, in turn")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chosen = blows(arguments.kills, arguments.victims.split(","), arguments.seed)
    with tempfile.TemporaryDirectory(prefix="crashes-") as name:
        undisturbed = Undisturbed(Path(name))
        took = (f"{night.name} {s:.1f} s" for night, s in zip(NIGHTS, undisturbed.seconds, strict=True))
        print("undisturbed:", ", ".join(took), flush=True)
        for count, (number, fraction, blow) in enumerate(chosen, 1):
            workspace = Path(name) / f"kill {count}"
            if blow is None:
                told = undisturbed.kill(number, fraction, workspace)
            else:
                told = undisturbed.strike(number, fraction, blow, workspace)
            shutil.rmtree(workspace)
            print(f"{count}: {told}: equal", flush=True)
        print(f"{arguments.kills} kills: every result is equal")


if __name__ == "__main__":
    main()
