"""What tests of the command share: a workspace for it, and the command in this process or in one of its own."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from components.training import launcher
from pipeline.main import main
from tests.fork_server import ForkedProcess, fork_server, make_subprocess_module

ROOT = Path(__file__).parents[1]
RUN_PIPELINE = ROOT / "run_pipeline.py"


def make_workspace(
    folder: Path,
    model: Path,
    *,
    model_id: str = "tinymodel000",
    accepted: bool = True,
    dataset: Path | None = None,
    dataset_id: str = "tinydataset0",
) -> Path:
    """Makes a workspace with copies of a model, in use if it is accepted, and of a dataset.

    Returns:
        The folder, so that a fixture is one line.
    """
    shutil.copytree(model, folder / "models" / model_id)
    for pointer in ("LATEST", "ACCEPTED")[: 1 + accepted]:
        (folder / "models" / pointer).write_text(f"{model_id}\n")
    if dataset is not None:
        shutil.copytree(dataset, folder / "datasets" / dataset_id)
        (folder / "datasets" / "LATEST").write_text(f"{dataset_id}\n")
    return folder


def label_as_read(dataset: Path, model: Path, *, ending: str = "", uris: Sequence[str] | None = None) -> None:
    """Gives the test lines of a dataset the texts that a model reads on them as labels, so that it is accepted.

    Args:
        ending: of each label, which the model does not read.
        uris: of the lines, in place of theirs.
    """
    from components.recogniser import load_recogniser
    from tfrecords import DatasetManifest, LineExample, encode_example, read_record_batches, write_records

    (shard,) = DatasetManifest.read(str(dataset)).shards_of("test")
    (batch,) = read_record_batches(str(dataset / shard.name))
    images, old = (batch.column(batch.schema.get_field_index(name)).flatten().to_pylist() for name in ("image", "uri"))
    texts = [found.text + ending for found in load_recogniser(str(model)).recognise(images)]
    named = zip(images, texts, uris or [uri.decode() for uri in old], strict=True)
    examples = [LineExample(image, 40, (0,), text, uri) for image, text, uri in named]
    write_records(str(dataset / shard.name), map(encode_example, examples))


def run_command(workspace: Path | str, *flags: object) -> int:
    """Runs the command in this process, and its trainings as `fork_trainings` says; returns its exit status."""
    with fork_trainings():
        return main([f"--workspace={workspace}", *map(str, flags)])


@contextlib.contextmanager
def fork_trainings() -> Iterator[None]:
    """Has this process's server fork the training workers that start within, unless a test starts them in its own way.

    See `start_trainings_from`.
    """
    before = launcher.subprocess
    if before is subprocess:
        start_trainings_from(None)
    try:
        yield
    finally:
        launcher.subprocess = before


def start_command(*flags: object, **how: Any) -> subprocess.Popen[str] | ForkedProcess:
    """Starts `python run_pipeline.py` as `start_python` starts Python."""
    return start_python(RUN_PIPELINE, *flags, **how)


def start_python(
    *arguments: object, environment: dict[str, str] | None = None, warm: bool = True, **how: Any
) -> subprocess.Popen[str] | ForkedProcess:
    """Starts `python ARGUMENTS` in the project's folder, with pipes for what it prints, as text.

    Args:
        environment: variables beside those of this process.
        warm: whether a server forks the process, and the trainings that it starts, so that they need not import Beam
            and TensorFlow. Without it the trainings are children of the process, as tests that look for them want it.
        how: as `subprocess.Popen` has it.
    """
    how = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **how}
    how["env"] = {**os.environ, **(environment or {})}
    command = [str(argument) for argument in arguments]
    if warm:
        server = get_server()
        return ForkedProcess(server, [sys.executable, *command], prelude=_WARM_TRAINING.format(server=server), **how)
    return subprocess.Popen([sys.executable, "-u", *command], **how)


def run_python(*arguments: object, **how: Any) -> subprocess.CompletedProcess[str]:
    """Runs Python to its end as `start_python` starts it."""
    process = start_python(*arguments, **how)
    said, errors = process.communicate(timeout=600)
    return subprocess.CompletedProcess(arguments, process.wait(), said, errors)


_WARM_TRAINING = """
from tests.commands import start_trainings_from
start_trainings_from({server!r})
"""


def start_trainings_from(server: str | None) -> None:
    """Has a server fork the training workers that this process starts; they end with it as if they were children.

    They write no SavedModel and no pictures, which take longer than a short training, and which no test of a command
    looks at but those that start fresh interpreters.

    Args:
        server: its address; None for this process's own, which starts with the first training.
    """

    def start(command: Sequence[str], **how: Any) -> ForkedProcess:
        return ForkedProcess(server or get_server(), command, prelude=_FORKED_TRAINING.format(pid=os.getpid()), **how)

    launcher.subprocess = make_subprocess_module(start)  # type: ignore[assignment]


_FORKED_TRAINING = """
import os
from components.training import export, result
os.getppid = lambda: {pid} if os.path.exists("/proc/{pid}") else 1
export._write_saved_model = lambda *_: None
result.plot_history = result.plot_training_samples = result.plot_distortions = lambda *_: None
"""


@functools.cache
def get_server() -> str:
    """Returns the address of the server that forks for this process's tests: it is started once, and ends with them."""
    folder = tempfile.mkdtemp(prefix="commands-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    serving = fork_server(Path(folder))
    atexit.register(serving.__exit__, None, None, None)
    return serving.__enter__()
