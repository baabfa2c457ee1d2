"""Processes that start at once, because a server has imported TensorFlow and the training and forks for each of them.

Each is a process of its own, with its own environment and output, that can be killed and frozen like any other.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[1]
_LONGEST_REQUEST = 1 << 18  # bytes
_STARTS_WITHIN_S = 180.0


class ForkedProcess:
    """A program that a server forked: as much of `subprocess.Popen` as tests of training need.

    Attributes:
        pid: of the process.
        returncode: its exit status, minus a signal's number if that ended it; None before its end is noticed.
        stdout: what it prints, as text, if `subprocess.PIPE` was asked for.
    """

    def __init__(
        self,
        server: str,
        command: Sequence[str],
        *,
        prelude: str = "",
        env: Mapping[str, str] | None = None,
        stdin: int | IO[Any] | None = None,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        text: bool = True,
    ) -> None:
        """Starts a program.

        Args:
            server: the server's address.
            command: as for Python: `[python, "-m", module, ...]` or `[python, "-c", code, ...]`.
            prelude: Python code that the process runs before.
        """
        assert text
        self.args = list(command)
        self.returncode: int | None = None
        self.stdout: IO[str] | None = None
        writing = None
        if stdout == subprocess.PIPE:
            reading, writing = os.pipe()
            self.stdout = os.fdopen(reading, encoding="utf-8", errors="backslashreplace")
        with open(os.devnull, "r+b") as nothing:
            out = writing if writing is not None else _descriptor(stdout, 1, nothing)
            descriptors = [
                _descriptor(stdin, 0, nothing),
                out,
                out if stderr == subprocess.STDOUT else _descriptor(stderr, 2, nothing),
            ]
            self._server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._server.connect(server)
            request = {"command": self.args[1:], "prelude": prelude, "environment": dict(env or os.environ)}
            socket.send_fds(self._server, [json.dumps(request).encode()], descriptors)
        if writing is not None:
            os.close(writing)
        self.pid = int(self._server.recv(64))

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
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Reads what the process prints until its end."""
        timer = threading.Timer(timeout or 1e6, self.kill)
        timer.start()
        try:
            said = self.stdout.read() if self.stdout is not None else ""
            self.wait(timeout)
        finally:
            timer.cancel()
        return said, None

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


def _descriptor(given: int | IO[Any] | None, standard: int, nothing: IO[Any]) -> int:
    if given is None:
        return standard
    if given == subprocess.DEVNULL:
        return nothing.fileno()
    return given if isinstance(given, int) else given.fileno()


@contextlib.contextmanager
def fork_server(folder: Path) -> Iterator[str]:
    """Yields the address of a server that has imported the training; it ends with the `with` block."""
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
    """Imports the training, then forks a process for each connection, until standard input is closed."""
    __import__("components.training.trainer")
    __import__("components.training.worker")
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
    how, what, *arguments = request["command"]
    status = 1
    try:
        exec(request["prelude"], {"__name__": "prelude"})
        sys.argv = [what if how == "-m" else how, *arguments]
        if how == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
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
