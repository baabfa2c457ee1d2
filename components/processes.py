"""Work spread over helper processes, in order, since Python's threads would take turns at it.

A helper is a fresh interpreter that serves `(function, items)` from its standard input until the input ends. It
therefore ends with the process that started it, however that one ends.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import functools
import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, TypeAlias, TypeVar

from components.process_settings import prepare_process

_Item = TypeVar("_Item")
_Outcome = TypeVar("_Outcome")
_Helper: TypeAlias = "subprocess.Popen[bytes]"

_CALLS_AHEAD = 3  # for each helper: no helper waits for the slowest
# An interrupt from the terminal goes to all; the first process decides.
_SERVE = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    "from components.processes import serve_calls; serve_calls()"
)


class HelperPool:
    """Helper processes that are started as they are needed, and kept for the next call until the pool is closed.

    The pool is a context manager, and may be used by several threads at a time.

    Code on a worker is pickled into a job's graph and cannot be handed a pool. It asks for `HelperPool.current()`: the
    pool that a job opened in this process by `open_for_job`, or a pool of the caller's own where no job did, such as on
    another machine.
    """

    _of_job: ClassVar[HelperPool | None] = None
    """Pool of the job that runs in this process; set and taken back by `open_for_job` alone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._idle: list[_Helper] = []
        self._prepared: list[_Helper] = []  # their answer to the first call was not read yet
        self._busy: list[_Helper] = []

    @classmethod
    @contextlib.contextmanager
    def open_for_job(cls) -> Iterator[HelperPool]:
        """Opens the pool that `current` finds anywhere in this process, and closes it in the end.

        Raises:
            RuntimeError: if a job of this process has one open.
        """
        if HelperPool._of_job is not None:
            raise RuntimeError("a job of this process has its helper processes already: run one job after the other")
        with cls() as helpers:
            HelperPool._of_job = helpers
            try:
                yield helpers
            finally:
                HelperPool._of_job = None

    @classmethod
    @contextlib.contextmanager
    def current(cls) -> Iterator[HelperPool]:
        """Finds the pool of the job that runs in this process; without one, opens a pool for this context alone."""
        if HelperPool._of_job is not None:
            yield HelperPool._of_job
            return
        with cls() as helpers:
            yield helpers

    def __enter__(self) -> HelperPool:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def has_helpers(self) -> bool:
        """True while helpers run: idle, at work, or being prepared."""
        return bool(self._idle or self._prepared or self._busy)

    def prepare(self, function: Callable[[_Item], object], item: _Item, processes: int) -> None:
        """Starts helpers that call `function(item)` once, for what it imports and loads; does not wait for them.

        Args:
            processes: how many helpers there are to be, with those that wait for a call.
        """
        with self._lock:
            self._check_open()
            for _ in range(processes - len(self._idle) - len(self._prepared)):
                helper = _start_helper()
                self._prepared.append(helper)
                with contextlib.suppress(BrokenPipeError):  # it ended at once: that shows when its answer is read
                    _send(helper, (function, [item]))

    def map(
        self,
        function: Callable[[_Item], _Outcome],
        items: Iterable[_Item],
        processes: int,
        items_per_call: int = 32,
    ) -> Iterator[_Outcome]:
        """Maps by helper processes, in the order of the items, of which few are held at a time.

        Function, items and outcomes travel pickled. What the function raises is raised here.

        Args:
            processes: how many helpers work for this call.
            items_per_call: how many items a helper gets at a time.

        Raises:
            RuntimeError: if a helper ends, for want of memory perhaps, or the pool is closed.
        """
        calls = split_into_groups(items_per_call, items)
        answers = map_in_threads(
            functools.partial(self._call, function), calls, processes, ahead=_CALLS_AHEAD * processes
        )
        for answer in answers:
            yield from answer

    def close(self) -> None:
        """Ends all helpers, those at work too, and waits for their end. A closed pool starts no more."""
        with self._lock:
            self._closed = True
            busy = [*self._busy]
            for helper in [*busy, *self._prepared]:
                helper.kill()
            for helper in [*self._idle, *self._prepared]:
                _end(helper)
            self._idle.clear()
            self._prepared.clear()
        for helper in busy:  # the thread that reads its answer closes the pipes
            helper.wait()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the helper processes have been stopped, since the job that they worked for is over")

    def _call(self, function: Callable[[_Item], _Outcome], items: list[_Item]) -> list[_Outcome]:
        helper, prepared = self._take_helper()
        try:
            if prepared:
                try:
                    _read_answer(helper)  # an error in it comes again when the same is done in earnest
                except EOFError:
                    helper = self._replace(helper)
            outcomes, error = _ask(helper, function, items)
        except BaseException:
            with self._lock:
                self._busy.remove(helper)
                self._check_open()  # the helper was ended by `close`
            raise
        with self._lock:
            self._busy.remove(helper)
            if self._closed:
                _end(helper)
            else:
                self._idle.append(helper)
        if error is not None:
            raise error
        return outcomes

    def _take_helper(self) -> tuple[_Helper, bool]:
        """Takes a helper that is free, or starts one; and whether its answer to the first call is still to be read."""
        with self._lock:
            self._check_open()
            while self._idle:
                helper = self._idle.pop()
                if helper.poll() is None:
                    self._busy.append(helper)
                    return helper, False
                _end(helper)
            prepared = bool(self._prepared)
            helper = self._prepared.pop() if prepared else _start_helper()
            self._busy.append(helper)
            return helper, prepared

    def _replace(self, ended: _Helper) -> _Helper:
        """Starts a helper in the place of one that ended by itself while it was prepared."""
        _end(ended)
        with self._lock:
            self._check_open()
            helper = _start_helper()
            self._busy[self._busy.index(ended)] = helper
            return helper


def map_in_threads(
    function: Callable[[_Item], _Outcome], items: Iterable[_Item], threads: int, *, ahead: int
) -> Iterator[_Outcome]:
    """Maps by threads that wait for something else, in the order of the items, at most `ahead` of them at a time."""
    failures: list[BaseException] = []

    def call(item: _Item) -> _Outcome:
        if failures:  # nothing more is begun; this may be the item that is waited for, though a later one failed
            raise failures[0]
        try:
            return function(item)
        except BaseException as error:
            failures.append(error)
            raise

    pool = concurrent.futures.ThreadPoolExecutor(threads)
    pending: collections.deque[concurrent.futures.Future[_Outcome]] = collections.deque()
    try:
        for item in items:
            pending.append(pool.submit(call, item))
            if len(pending) == ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # nobody wants what has not begun


def split_into_groups(size: int, items: Iterable[_Item]) -> Iterator[list[_Item]]:
    """Splits items into lists of this size, the last one perhaps shorter."""
    items = iter(items)
    return iter(lambda: list(itertools.islice(items, size)), [])


def serve_calls() -> None:
    """Answers calls in a helper process until its input ends."""
    prepare_process()
    with os.fdopen(os.dup(0), "rb") as calls, os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # what a library prints is no answer
        while True:
            try:
                function, items = pickle.load(calls)
            except EOFError:
                os._exit(0)  # at once: this process may hold a model and an engine's threads
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


def _ask(
    helper: _Helper, function: Callable[[_Item], _Outcome], items: list[_Item]
) -> tuple[list[_Outcome], Exception | None]:
    """Has a helper call a function with each item.

    Returns:
        The outcomes, and what the function raised, if it did.

    Raises:
        RuntimeError: if the helper ends before its whole answer has come.
        BaseException: what kept the call from being sent or awaited, such as something that cannot be pickled; the
            helper is ended then.
    """
    try:
        _send(helper, (function, items))
        outcomes, error = _read_answer(helper)
    except (BrokenPipeError, EOFError):
        status = _end(helper)
        hint = ": was there enough memory?" if status == -signal.SIGKILL else ""
        raise RuntimeError(f"a helper process ended with status {status}{hint}") from None
    except BaseException:
        helper.kill()
        _end(helper)
        raise
    return outcomes, error


def _send(helper: _Helper, call: tuple[Callable[..., object], list[Any]]) -> None:
    assert helper.stdin is not None
    pickle.dump(call, helper.stdin, pickle.HIGHEST_PROTOCOL)
    helper.stdin.flush()


def _read_answer(helper: _Helper) -> Any:
    """Reads what a helper answers; raises EOFError if it ended before its answer, or within it."""
    assert helper.stdout is not None
    try:
        return pickle.load(helper.stdout)
    except pickle.UnpicklingError:
        raise EOFError from None


def _start_helper() -> _Helper:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _SERVE],  # -P: nothing from whatever folder the command is run in
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
    )


def _end(helper: _Helper) -> int:
    """Closes a helper's pipes, waits for its end, and returns its status."""
    for pipe in (helper.stdin, helper.stdout):
        with contextlib.suppress(OSError):
            pipe.close()  # type: ignore[union-attr]
    return helper.wait()
