"""One helper process: its start, its calls, and its end.

A helper is a fresh interpreter that serves `(function, items, left_out)` from its standard input until the input ends.
It therefore ends with the process that started it, however that one ends.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from components.process_settings import prepare_process
from components.processes.bounds import DecodingBounds, LeftOut
from components.processes.slate import Slate
from components.processes.states import StoppedTimes, read_processor_seconds

_Item = TypeVar("_Item")
_Outcome = TypeVar("_Outcome")

# An interrupt from the terminal goes to all; the first process decides.
_SERVE = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    "from components.processes.helper import serve_calls; serve_calls(int(sys.argv[1]))"
)
_PATIENCE = 3
"""A decoding may take so many times the seconds that it may take of processor time, before the helper is killed."""
_STOPPED_S = 10
"""A helper that somebody stopped (SIGSTOP) for so long is killed."""
_ENDING_S = 5
"""A helper that has nothing to do and does not end within so long is killed."""
_SURE_SHARE = 0.5
"""A killed decoding that had taken this share of its processor time was slow; with less, it was kept waiting."""
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)


class Loss(NamedTuple):
    """A helper that ended before it answered, and what is known of its end.

    Attributes:
        status: of the process, as `Popen.returncode`.
        image: the number in the call of the image that was being decoded, from 1; None if none was.
        sure: whether the image is to blame for sure, and not somebody who stopped or killed the helper.
        reason, detail: of the reject, if the image is to blame.
    """

    status: int
    image: int | None
    sure: bool
    reason: str
    detail: str


class HelperLostError(Exception):
    """The end of a helper before its whole answer has come.

    Attributes:
        loss: what is known of it.
    """

    def __init__(self, loss: Loss):
        super().__init__(f"a helper process ended with status {loss.status}")
        self.loss = loss


class Helper:
    """A helper process, as the process that started it sees it."""

    def __init__(self) -> None:
        self._slate = Slate()
        self._blocked: float | None = None  # processor seconds, if it was killed since it did not get on
        self._stopped = StoppedTimes()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _SERVE, str(self._slate.descriptor)],  # -P: nothing from the current folder
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[self._slate.descriptor],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
        )

    @property
    def runs(self) -> bool:
        """True until the process has ended."""
        return self._process.poll() is None

    def send(self, function: Callable[[_Item], object], items: list[_Item], left_out: LeftOut) -> None:
        """Sends a call, whose answer is read by `read_answer`.

        Raises:
            BrokenPipeError: if the process has ended.
        """
        assert self._process.stdin is not None
        pickle.dump((function, items, left_out), self._process.stdin, pickle.HIGHEST_PROTOCOL)
        self._process.stdin.flush()

    def read_answer(self) -> Any:
        """Reads what the helper answers; raises EOFError if it ended before its answer, or within it."""
        assert self._process.stdout is not None
        try:
            return pickle.load(self._process.stdout)
        except pickle.UnpicklingError:
            raise EOFError from None

    def call(
        self, function: Callable[[_Item], _Outcome], items: list[_Item], left_out: LeftOut
    ) -> tuple[list[_Outcome], Exception | None]:
        """Has the helper call a function with each item.

        Returns:
            The outcomes, and what the function raised, if it did.

        Raises:
            HelperLostError: if the helper ends before its whole answer has come.
            BaseException: what kept the call from being sent or awaited, such as something that cannot be pickled; the
                helper is ended then.
        """
        try:
            self.send(function, items, left_out)
            outcomes, error = self.read_answer()
        except (BrokenPipeError, EOFError):
            raise HelperLostError(self._find_loss()) from None
        except BaseException:
            self.kill()
            self.end()
            raise
        return outcomes, error

    def watch(self, now: float) -> None:
        """Kills the process if it has not got on for long.

        Args:
            now: seconds of `time.monotonic`.
        """
        try:
            decoding = self._slate.read()
        except ValueError:  # its end has been noticed meanwhile
            return
        if decoding and now - decoding.since > _PATIENCE * decoding.seconds:
            self._blocked = read_processor_seconds(self._process.pid)
            self.kill()
        if self._stopped.measure(self._process.pid, now) > _STOPPED_S:
            self.kill()

    def kill(self) -> None:
        """Kills the process; does not wait for its end."""
        self._process.kill()

    def wait(self) -> None:
        """Waits until the process has ended."""
        self._process.wait()

    def end(self) -> int:
        """Closes the pipes, which ends the process, waits for its end, and returns its status."""
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        try:
            status = self._process.wait(_ENDING_S)
        except subprocess.TimeoutExpired:  # somebody stopped it
            self.kill()
            status = self._process.wait()
        with contextlib.suppress(OSError, ValueError):
            self._slate.close()
        return status

    def _find_loss(self) -> Loss:
        """Ends a helper whose answer did not come, and finds out what is known of its end."""
        decoding = self._slate.read()
        status = self.end()
        if decoding is None:
            return Loss(status, None, False, "", "")
        if status == -signal.SIGPROF:
            detail = f"its decoding takes more than --max_decode_seconds={decoding.seconds:g} of processor time"
            return Loss(status, decoding.number, True, "too_slow", detail)
        if self._blocked is not None:
            busy = self._blocked - decoding.processor_since
            detail = f"it was not decoded within {_PATIENCE * decoding.seconds:g} s: see --max_decode_seconds"
            return Loss(status, decoding.number, busy > _SURE_SHARE * decoding.seconds, "too_slow", detail)
        name = signal.Signals(-status).name if status < 0 else f"status {status}"
        detail = f"the process that decoded it was ended by {name}"
        if status == -signal.SIGKILL:
            detail += " twice: was there enough memory?"
        return Loss(status, decoding.number, -status in _CRASHES, "crashed", detail)


def serve_calls(descriptor: int) -> None:
    """Answers calls in a helper process until its input ends.

    Args:
        descriptor: of the slate's memory.
    """
    prepare_process()
    bounds = DecodingBounds.of_process = DecodingBounds(Slate(descriptor))
    with os.fdopen(os.dup(0), "rb") as calls, os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # what a library prints is no answer
        while True:
            try:
                function, items, left_out = pickle.load(calls)
            except EOFError:
                os._exit(0)  # at once: this process may hold a model and an engine's threads
            bounds.begin_call(left_out)
            try:
                answer = pickle.dumps(([function(item) for item in items], None), pickle.HIGHEST_PROTOCOL)
            except Exception as error:
                answer = pickle.dumps((None, _make_portable(error)))
            try:
                answers.write(answer)
                answers.flush()
            except BrokenPipeError:
                os._exit(0)  # nobody waits for the answer


def _make_portable(error: Exception) -> Exception:
    """Returns the exception itself, or its traceback as a RuntimeError if it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error
