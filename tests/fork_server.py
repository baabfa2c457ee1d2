"""Processes that start at once, because a server has imported what they need, and forks for each of them.

Each is a process of its own, with its own environment and output, that can be killed and frozen like any other.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from components.process_settings import prepare_process

ROOT = Path(__file__).parents[1]
IMPORTED = (
    "aiohttp",
    "apache_beam.runners.portability.fn_api_runner",
    "components.training.trainer",
    "components.training.worker",
    "onnxruntime",
    "pipeline.execution",
    "pipeline.main",
    "pipeline.steps",
)
"""What most commands and all trainings import: Beam and TensorFlow among it."""
_LONGEST_REQUEST = 1 << 18  # bytes
_STARTS_WITHIN_S = 180.0


class ForkedProcess:
    """A program that a server forked: as much of `subprocess.Popen` as tests need.

    Attributes:
        pid: of the process.
        returncode: its exit status, minus a signal's number if that ended it; None before its end is noticed.
        stdin: what it reads, as text, if `subprocess.PIPE` was asked for.
        stdout, stderr: what it prints, likewise.
    """

    def __init__(
        self,
        server: str,
        command: Sequence[str],
        *,
        prelude: str = "",
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        stdin: int | IO[Any] | None = None,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        start_new_session: bool = False,
        errors: str = "backslashreplace",
        text: bool = True,
    ) -> None:
        """Starts a program.

        Args:
            server: the server's address.
            command: as for Python: `[python, "-m", module, ...]`, `[python, "-c", code, ...]` or
                `[python, script, ...]`.
            prelude: Python code that the process runs before.
        """
        assert text
        self.args = list(command)
        self.returncode: int | None = None
        self.stdin, into = _open_pipe(stdin, errors, writes=True)
        self.stdout, out = _open_pipe(stdout, errors)
        self.stderr, err = _open_pipe(stderr, errors)
        self._readers: list[_Reader] = []
        request = {
            "command": self.args[1:],
            "prelude": prelude,
            "environment": dict(os.environ if env is None else env),
            "folder": os.fspath(cwd or os.getcwd()),
            "new_session": start_new_session,
        }
        with open(os.devnull, "r+b") as nothing:
            into = _descriptor(stdin, 0, nothing) if into is None else into
            out = _descriptor(stdout, 1, nothing) if out is None else out
            err = _descriptor(stderr, 2, nothing) if err is None else err
            descriptors = [into, out, out if stderr == subprocess.STDOUT else err]
            self._server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._server.connect(server)
            socket.send_fds(self._server, [json.dumps(request).encode()], descriptors)
        for given, descriptor in ((stdin, into), (stdout, out), (stderr, err)):
            if given == subprocess.PIPE:
                os.close(descriptor)
        self.pid = int(self._server.recv(64))

    def __del__(self) -> None:
        """Closes the connection of a process whose end nobody waited for."""
        if "_server" in self.__dict__:
            self._server.close()

    def poll(self) -> int | None:
        """Returns the exit status if the process has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end, at most some seconds."""
        if self.returncode is None:
            self._server.settimeout(timeout or (None if timeout is None else 1e-6))
            try:
                answer = self._server.recv(64)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
            assert answer, "the server that forks processes has ended"
            self.returncode = int(answer)
            self._server.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Reads what the process prints until its end; raises `subprocess.TimeoutExpired` after some seconds."""
        until = None if timeout is None else time.monotonic() + timeout
        if not self._readers:
            self._readers = [_Reader(pipe) for pipe in (self.stdout, self.stderr)]
        for reader in self._readers:
            reader.join(None if until is None else max(0.0, until - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        self.wait(None if until is None else max(1.0, until - time.monotonic()))
        if self.stdin is not None:
            self.stdin.close()
        said, errors = (reader.said for reader in self._readers)
        return said, errors

    def send_signal(self, kind: int) -> None:
        """Sends a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, kind)

    def terminate(self) -> None:
        """Asks the process to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the process."""
        self.send_signal(signal.SIGKILL)


class _Reader(threading.Thread):
    """A thread that reads a pipe to its end, so that neither of two pipes waits for the other."""

    def __init__(self, pipe: IO[str] | None) -> None:
        super().__init__(daemon=True)
        self.said, self._pipe = "", pipe
        self.start()

    def run(self) -> None:
        """Reads; `said` is set at the end."""
        if self._pipe is not None:
            self.said = self._pipe.read()
            self._pipe.close()


def _open_pipe(asked: int | IO[Any] | None, errors: str, *, writes: bool = False) -> tuple[IO[str] | None, int | None]:
    """Opens this process's end of a pipe as a file, and the other end as a descriptor; twice None for no pipe."""
    if asked != subprocess.PIPE:
        return None, None
    reading, writing = os.pipe()
    ours, theirs = (writing, reading) if writes else (reading, writing)
    return os.fdopen(ours, "w" if writes else "r", encoding="utf-8", errors=errors), theirs


def _descriptor(given: int | IO[Any] | None, standard: int, nothing: IO[Any]) -> int:
    if given is None:
        return standard
    if given == subprocess.DEVNULL:
        return nothing.fileno()
    return given if isinstance(given, int) else given.fileno()


def make_subprocess_module(start: Callable[..., ForkedProcess]) -> types.SimpleNamespace:
    """Makes what stands for the module `subprocess` in `components.training.launcher`, with a starter of workers."""
    return types.SimpleNamespace(Popen=start, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired)


@contextlib.contextmanager
def fork_server(folder: Path) -> Iterator[str]:
    """Yields the address of a server that has imported the command; it ends with the `with` block."""
    address = str(folder / "fork-server")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fork_server", address], cwd=ROOT, env=environment, stdin=subprocess.PIPE
    )
    try:
        until = time.monotonic() + _STARTS_WITHIN_S
        while not os.path.exists(address):
            assert process.poll() is None, "the server that forks processes did not start"
            assert time.monotonic() < until, "the server that forks processes takes too long to start"
            time.sleep(0.05)
        yield address
    finally:
        process.kill()
        process.wait()


def serve(address: str) -> None:
    """Imports the command and the training, then forks for each connection, until standard input is closed."""
    prepare_process()
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that children share what is there
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(f"{address}.new")
    listener.listen(64)
    os.rename(f"{address}.new", address)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                connection, _ = listener.accept()
                request, descriptors, _, _ = socket.recv_fds(connection, _LONGEST_REQUEST, 3)
                pid = os.fork()
                if not pid:
                    selector.close()
                    listener.close()
                    connection.close()
                    _run(json.loads(request), descriptors)
                for descriptor in descriptors:
                    os.close(descriptor)
                with contextlib.suppress(OSError):
                    connection.send(str(pid).encode())
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, connection))
            elif key.data is None:
                return
            else:
                pid, connection = key.data
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with contextlib.suppress(OSError):
                    connection.send(str(status).encode())
                connection.close()
                selector.unregister(key.fileobj)
                os.close(key.fd)


def _run(request: dict[str, Any], descriptors: Sequence[int]) -> None:
    """Runs a program in a forked process as Python would, and ends the process with its exit status."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    if request["new_session"]:
        os.setsid()
    # New ones, since the old ones believe that they lead where the server's lead.
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.FileIO(n, "w", closefd=False), "utf-8", "backslashreplace", write_through=True)
        for n in (1, 2)
    )
    how, *arguments = request["command"]
    status = 1
    try:
        exec(request["prelude"], {"__name__": "prelude"})
        if how == "-m":
            sys.argv = arguments
            runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        elif how == "-c":
            sys.argv = [how, *arguments[1:]]
            exec(compile(arguments[0], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = [how, *arguments]
            runpy.run_path(how, run_name="__main__")
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(status)


if __name__ == "__main__":
    serve(sys.argv[1])
