"""Real engines in processes of their own, whose workers have this project's dependencies, but not the project."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 60  # seconds for a service to listen, which takes 3 to 10


@pytest.fixture(scope="session")
def worker_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that imports everything that this one does, except for this project."""
    folder = tmp_path_factory.mktemp("worker-environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    # A .pth file within a folder that is named by a .pth file counts for nothing: so editable installs do not.
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = folder / "bin" / "python"
    program = "import apache_beam, tfrecords"
    tried = subprocess.run([python, "-c", program], cwd=folder, env=clean_environment(), capture_output=True, text=True)
    assert "No module named 'tfrecords'" in tried.stderr
    return python


def clean_environment() -> dict[str, str]:
    """This process's environment, without what leads Python to the checkout."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def service(command: list[str], port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that listens on a port; it and all that it started are killed at the end."""
    log = folder / f"{port}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=folder, env=clean_environment(), stdout=file, stderr=file, start_new_session=True
        )
    try:
        started = time.monotonic()
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None, log.read_text()
            assert time.monotonic() - started < PATIENCE, log.read_text()
            time.sleep(0.1)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@dataclasses.dataclass(frozen=True)
class PortableEngine:
    """A job service whose workers are started by a pool in another process.

    Attributes:
        flags: that submit to it.
        opened: the folder in which each worker notes the files that it opens; see `boot.py`.
        job_service: its process.
    """

    flags: list[str]
    opened: Path
    job_service: subprocess.Popen[bytes]

    def workers_that_opened(self, what: str) -> set[int]:
        """The processes that opened a file with this in its path, dead or alive."""
        return {int(path.name) for path in self.opened.iterdir() if what in path.read_text()}


@pytest.fixture(scope="module")
def portable_engine(worker_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PortableEngine]:
    """An engine for the tests of one module."""
    folder = tmp_path_factory.mktemp("engine")
    opened = folder / "opened"
    opened.mkdir()
    boot = folder / "boot"
    boot.write_text(f'#!/bin/sh\nOPENED_FILES="{opened}" exec "{worker_python}" "{ROOT}/tests/engines/boot.py" "$@"\n')
    boot.chmod(0o755)
    jobs, pool = free_port(), free_port()
    job_service = [f"{ROOT}/tests/engines/job_service.py", str(jobs)]
    worker_pool = ["-m", "apache_beam.runners.worker.worker_pool_main", f"--service_port={pool}"]
    python = str(worker_python)
    with (
        service([python, *job_service], jobs, folder) as jobs_process,
        service([python, *worker_pool, f"--container_executable={boot}"], pool, folder),
    ):
        flags = [
            "--runner=PortableRunner",
            f"--job_endpoint=localhost:{jobs}",
            "--environment_type=EXTERNAL",
            f"--environment_config=localhost:{pool}",
        ]
        yield PortableEngine(flags, opened, jobs_process)
