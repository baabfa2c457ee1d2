"""Work spread over helper processes, in order, since Python's threads would take turns at it.

Helpers decode images, which may have been made to do harm. So a helper that ends costs the image that it decoded, and
not the work.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar, TypeVar

from components.processes.helper import Helper, HelperLostError, Loss
from components.processes.threads import map_in_threads, split_into_groups
from tfrecords import ProcessLostError

_Item = TypeVar("_Item")
_Outcome = TypeVar("_Outcome")

log = logging.getLogger(__name__)

_CALLS_AHEAD = 3  # for each helper: no helper waits for the slowest
_WATCH_S = 0.5  # between two looks at the helpers


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
        self._idle: list[Helper] = []
        self._prepared: list[Helper] = []  # their answer to the first call was not read yet
        self._busy: list[Helper] = []
        self._watcher: threading.Thread | None = None
        self._over = threading.Event()

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
                helper = self._start()
                self._prepared.append(helper)
                with contextlib.suppress(BrokenPipeError):  # it ended at once: that shows when its answer is read
                    helper.send(function, [item], {})

    def map(
        self,
        function: Callable[[_Item], _Outcome],
        items: Iterable[_Item],
        processes: int,
        items_per_call: int = 32,
    ) -> Iterator[_Outcome]:
        """Maps by helper processes, in the order of the items, of which few are held at a time.

        Function, items and outcomes travel pickled. What the function raises is raised here. What a helper that ended
        was to do is done again by another one: without the image that ended it, if it was an image's fault.

        Args:
            processes: how many helpers work for this call.
            items_per_call: how many items a helper gets at a time.

        Raises:
            ProcessLostError: if two helpers end at the same items, and no image is to blame.
            RuntimeError: if the pool is closed.
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
            self._over.set()
            busy = [*self._busy]
            for helper in [*busy, *self._prepared, *self._idle]:
                helper.kill()
            for helper in [*self._idle, *self._prepared]:
                helper.end()
            self._idle.clear()
            self._prepared.clear()
        for helper in busy:  # the thread that reads its answer closes the pipes
            helper.wait()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the helper processes have been stopped, since the job that they worked for is over")

    def _call(self, function: Callable[[_Item], _Outcome], items: list[_Item]) -> list[_Outcome]:
        """Has a helper call a function with each item, and another one if the first ends."""
        losses = _Losses()
        while True:
            try:
                outcomes, error = self._call_once(function, items, losses)
            except HelperLostError as lost:
                losses.add(lost.loss)
                continue
            if error is not None:
                raise error
            return outcomes

    def _call_once(
        self, function: Callable[[_Item], _Outcome], items: list[_Item], losses: _Losses
    ) -> tuple[list[_Outcome], Exception | None]:
        helper, prepared = self._take_helper()
        try:
            if prepared:
                try:
                    helper.read_answer()  # an error in it comes again when the same is done in earnest
                except EOFError:
                    helper = self._replace(helper)
            answer = helper.call(function, items, losses.left_out)
        except BaseException:
            with self._lock:
                self._busy.remove(helper)
                self._check_open()  # the helper was ended by `close`
            raise
        with self._lock:
            self._busy.remove(helper)
            if self._closed:
                helper.end()
            else:
                self._idle.append(helper)
        return answer

    def _take_helper(self) -> tuple[Helper, bool]:
        """Takes a helper that is free, or starts one; and whether its answer to the first call is still to be read."""
        with self._lock:
            self._check_open()
            while self._idle:
                helper = self._idle.pop()
                if helper.runs:
                    self._busy.append(helper)
                    return helper, False
                helper.end()
            prepared = bool(self._prepared)
            helper = self._prepared.pop() if prepared else self._start()
            self._busy.append(helper)
            return helper, prepared

    def _replace(self, ended: Helper) -> Helper:
        """Starts a helper in the place of one that ended by itself while it was prepared."""
        ended.end()
        with self._lock:
            self._check_open()
            helper = self._start()
            self._busy[self._busy.index(ended)] = helper
            return helper

    def _start(self) -> Helper:
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, name="watch-helpers", daemon=True)
            self._watcher.start()
        return Helper()

    def _watch(self) -> None:
        """Kills helpers that do not get on, until the pool is closed."""
        while not self._over.wait(_WATCH_S):
            with self._lock:
                for helper in self._busy:
                    helper.watch(time.monotonic())


class _Losses:
    """Helpers that ended at the same items.

    Attributes:
        left_out: the images that ended them, by number, each with its reject's reason and detail.
    """

    def __init__(self) -> None:
        self.left_out: dict[int, tuple[str, str]] = {}
        self._suspects: set[int] = set()
        self._innocent = 0

    def add(self, loss: Loss) -> None:
        """Blames an image for a helper's end if it is surely to blame, or for the second time.

        Raises:
            ProcessLostError: if no image is to blame, for the second time.
        """
        if loss.image is None or loss.image in self.left_out:
            self._innocent += 1
            if self._innocent > 1:
                hint = " (was there enough memory?)" if loss.status == -signal.SIGKILL else ""
                raise ProcessLostError(
                    f"two helper processes ended at the same work, the last with status {loss.status}{hint}: what is "
                    "finished is kept; run the same command to resume"
                )
            log.warning(f"a helper process ended with status {loss.status}; its work is done again")
        elif loss.sure or loss.image in self._suspects:
            self.left_out[loss.image] = loss.reason, loss.detail
        else:
            self._suspects.add(loss.image)
