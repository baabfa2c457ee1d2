"""Work spread over helper processes, in order: Python's threads would take turns at it.

A helper is a fresh interpreter that serves `(function, items)` from its standard input until
its end, so it ends with the process that started it, however that one ends.
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
from typing import Any, TypeVar

_Item = TypeVar("_Item")
_Outcome = TypeVar("_Outcome")

_CALLS_AHEAD = 3  # for each helper: no helper waits for the slowest
# An interrupt from the terminal goes to all; the first process decides.
_SERVE = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    "from components.processes import serve_calls; serve_calls()"
)


def map_in_processes(
    function: Callable[[_Item], _Outcome], items: Iterable[_Item], processes: int, items_a_call: int = 32
) -> Iterator[_Outcome]:
    """`map` by helper processes, in the order of the items, of which few are held at a time.

    Helpers are kept for the next call. Function, items and outcomes travel pickled; what
    the function raises is raised here.

    Args:
        items_a_call: how many items a helper gets at a time.

    Raises:
        RuntimeError: if a helper ends, for want of memory perhaps.
    """
    calls = split_into_groups(items_a_call, items)
    for answer in map_in_threads(functools.partial(_call, function), calls, processes, ahead=_CALLS_AHEAD * processes):
        yield from answer


def map_in_threads(
    function: Callable[[_Item], _Outcome], items: Iterable[_Item], threads: int, *, ahead: int
) -> Iterator[_Outcome]:
    """`map` by threads that wait for something else, in the order of the items, at most `ahead` of them at a time."""
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
    """The items in lists of this size, the last one perhaps shorter."""
    items = iter(items)
    return iter(lambda: list(itertools.islice(items, size)), [])


def prepare_helpers(function: Callable[[_Item], object], item: _Item, processes: int) -> None:
    """Starts helpers that do `function(item)` once, for what it imports and loads; does not wait for them."""
    with _lock:
        for _ in range(processes - len(_idle) - len(_prepared)):
            helper = _start_helper()
            with contextlib.suppress(BrokenPipeError):  # it ended at once: that shows when its answer is read
                _send(helper, (function, [item]))
            _prepared.append(helper)


def helpers_run() -> bool:
    """Whether helpers wait for the next call, or are being prepared for it."""
    return bool(_idle or _prepared)


def stop_helpers() -> None:
    """Ends the helpers that wait or are being prepared; the next call starts new ones."""
    with _lock:
        while _prepared:
            _prepared[-1].kill()
            _end(_prepared.pop())
        while _idle:
            _end(_idle.pop())


def serve_calls() -> None:
    """What a helper does: answers calls until its input ends."""
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
                answer = pickle.dumps((None, _portable(error)))
            try:
                answers.write(answer)
                answers.flush()
            except BrokenPipeError:
                os._exit(0)  # nobody waits for the answer


def _portable(error: Exception) -> Exception:
    """The exception itself, or its story if it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error


_idle: list[subprocess.Popen[bytes]] = []
_prepared: list[subprocess.Popen[bytes]] = []
"""Helpers whose answer to their first call was not read yet."""
_lock = threading.Lock()


def _call(function: Callable[[_Item], _Outcome], items: list[_Item]) -> list[_Outcome]:
    return _ask(_waiting_helper() or _start_helper(), function, items)


def _ask(helper: subprocess.Popen[bytes], function: Callable[[_Item], _Outcome], items: list[_Item]) -> list[_Outcome]:
    try:
        _send(helper, (function, items))
        outcomes, error = _answer_of(helper)
    except (BrokenPipeError, EOFError):
        status = _end(helper)
        hint = ": was there enough memory?" if status == -signal.SIGKILL else ""
        raise RuntimeError(f"a helper process ended with status {status}{hint}") from None
    except BaseException:
        helper.kill()
        _end(helper)
        raise
    with _lock:
        _idle.append(helper)
    if error is not None:
        raise error
    return outcomes


def _send(helper: subprocess.Popen[bytes], call: tuple[Callable[..., object], list[Any]]) -> None:
    assert helper.stdin is not None
    pickle.dump(call, helper.stdin, pickle.HIGHEST_PROTOCOL)
    helper.stdin.flush()


def _answer_of(helper: subprocess.Popen[bytes]) -> Any:
    """What a helper answers; raises EOFError if it ended before, or while it did."""
    assert helper.stdout is not None
    try:
        return pickle.load(helper.stdout)
    except pickle.UnpicklingError:
        raise EOFError from None


def _start_helper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _SERVE],  # -P: nothing from whatever folder the command is run in
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
    )


def _waiting_helper() -> subprocess.Popen[bytes] | None:
    while True:
        with _lock:
            while _idle:
                helper = _idle.pop()
                if helper.poll() is None:
                    return helper
                _end(helper)
            if not _prepared:
                return None
            helper = _prepared.pop()
        try:
            _answer_of(helper)  # an error in it comes again when the same is done in earnest
            return helper
        except EOFError:
            _end(helper)


def _end(helper: subprocess.Popen[bytes]) -> int:
    """Waits for the end of a helper, whose input ends here; its status."""
    for pipe in (helper.stdin, helper.stdout):
        with contextlib.suppress(OSError):
            pipe.close()  # type: ignore[union-attr]
    return helper.wait()
