"""The lock of a workspace in an object store: an object that its holder renews every minute.

The store decides between those who want the lock: it makes the object only if there is none, and replaces
or deletes it only if it still is the version that the writer knows. A holder that crashed stops writing, and
another command takes the lock over once the object is old by the store's clock. A holder that cannot write for
that long has to end earlier, since another command may hold the workspace by then.
"""

from __future__ import annotations

import contextlib
import datetime
import getpass
import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from tfrecords import DataError, storage
from tfrecords.storage.filesystem import NO_VERSION, Version
from tfrecords.storage.gcs import Gcs

log = logging.getLogger(__name__)

LEASE_S = 600.0
"""Seconds without a renewal after which a lock in an object store counts as a crashed command's."""
RENEW_S = 60.0
"""Seconds between two renewals; a command that cannot renew its lock must end this long before the lease does."""
_GIVE_BACK_S = 30.0  # at the most, at the end of a command

_Outcome = TypeVar("_Outcome")


class WorkspaceHeldError(DataError):
    """A workspace in which another command works."""


class WorkspaceLostError(WorkspaceHeldError):
    """A workspace in which another command works by now, or may do so soon."""


def describe_holder() -> str:
    """Describes this process to whoever finds the workspace held."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's, without a name
        user = str(os.getuid())
    now = datetime.datetime.now(datetime.UTC)
    return f"process {os.getpid()} on {socket.gethostname()}, user {user}, since {now:%Y-%m-%d %H:%M:%S} UTC"


class StoreLock:
    """The lock of one command on a workspace in an object store.

    Args:
        root: URL of the workspace.
        end: ends the process, with one sentence; called in a thread, if the process lost the lock and does not come
            to its end by itself.
    """

    def __init__(self, root: str, end: Callable[[str], None]):
        self._root, self._end = root, end
        self._url = storage.join(root, ".lock")
        self._token = uuid.uuid4().hex
        self._content = json.dumps({"holder": describe_holder(), "token": self._token}).encode()
        self._generation = NO_VERSION
        self._renewed = 0.0  # when the last renewal was asked for, by the clock that only this process has
        self._problem = "the store did not answer in time"
        self._kept = True  # the object is there, as far as this process knows
        self._lost: str | None = None
        self._over = threading.Event()
        self._turn = threading.Lock()

    @contextlib.contextmanager
    def held(self, wait_s: float) -> Iterator[None]:
        """Holds the lock within the block; if the lock is lost, the main thread is interrupted.

        Args:
            wait_s: seconds to wait for another command's end.

        Raises:
            WorkspaceHeldError: if another command holds it, with a description of that one.
            WorkspaceLostError: if it was lost.
        """
        with storage.open_versions(self._url) as store:
            can_lock = store is not None
        if not can_lock:
            log.warning(
                f"{self._root} is not locked, which only gs:// and local folders can be: see to it that no "
                "other command works in it"
            )
            yield
            return
        self._take(wait_s)
        renewing = threading.Thread(target=self._keep, daemon=True)
        watching = threading.Thread(target=self._watch, daemon=True)
        try:
            try:
                renewing.start()
                watching.start()
                yield
            finally:
                with self._turn:
                    self._over.set()
                if self._lost is None:
                    renewing.join(_GIVE_BACK_S)
                    if self._kept:
                        log.warning(
                            f"the lock {self._url} could not be given back ({self._problem}): other commands "
                            f"have to wait until {LEASE_S:g} s after its last renewal"
                        )
        except KeyboardInterrupt:
            self.check()
            raise

    def check(self) -> None:
        """Raises `WorkspaceLostError` if the lock was lost."""
        if self._lost is not None:
            raise WorkspaceLostError(self._lost)

    def _take(self, wait_s: float) -> None:
        """Takes the lock, waiting for its holder if need be."""
        until = time.monotonic() + wait_s
        while not self._write(NO_VERSION):
            current = self._look()
            if current is None:
                continue  # it was given back just now
            holder, age = _get_holder(current), current.age_s
            if age > LEASE_S:
                if self._write(current.generation):
                    log.info(
                        f"the lock of {self._root} is taken over from {holder}, which did not renew it for {age:.0f} s"
                    )
                    return
            elif time.monotonic() >= until:
                left = LEASE_S - age
                free = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=left)
                raise WorkspaceHeldError(
                    f"another command works in {self._root} ({holder}; it renewed its lock {age:.0f} s ago): wait for "
                    "its end, or use another --workspace; if it crashed, its lock can be taken over by a command that "
                    f"is started in {left + 1:.0f} s, at {free:%H:%M:%S} UTC"
                )
            else:
                time.sleep(RENEW_S / 6)

    def _keep(self) -> None:
        """Renews the lock until the command is over, then releases it; runs in a thread of its own."""
        while not self._over.wait(RENEW_S):
            try:
                if not self._write(self._generation):
                    current = self._look()
                    holder = _get_holder(current) if current else "somebody who deleted it"
                    self._kept = False
                    self._lose(f"its lock was taken over by {holder}")
                    return
            except Exception as error:  # whatever it is, the lease decides
                self._problem = str(error)
        try:
            self._own(lambda store: store.remove_version(self._url, self._generation))
            self._kept = False
        except FileNotFoundError:
            self._kept = False
        except Exception as error:
            self._problem = str(error)

    def _watch(self) -> None:
        """Waits for the time when another command might soon take the lock over; runs in a thread of its own."""
        while (left := self._renewed + LEASE_S - RENEW_S - _read_clock()) > 0:
            if self._over.wait(left):
                return
        self._lose(f"its lock could not be renewed for {LEASE_S - RENEW_S:.0f} s ({self._problem})")

    def _lose(self, why: str) -> None:
        """Notes that the lock is lost, and interrupts the main thread; ends the process if that does not."""
        with self._turn:
            if self._over.is_set() or self._lost is not None:
                return
            self._lost = (
                f"this command does not hold {self._root} any more ({why}), and is stopped; what is finished is kept: "
                "run the same command to resume when no other command works there"
            )
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]
        if not self._over.wait(RENEW_S):
            self._end(self._lost)

    def _write(self, generation: str) -> bool:
        """Writes this process's lock, in place of the given version; returns whether the store accepted it."""
        self._generation = generation

        def replace(store: Gcs) -> None:
            asked = _read_clock()
            self._generation = store.replace_version(self._url, self._content, self._generation)
            self._renewed = asked

        return self._own(replace)

    def _own(self, change: Callable[[Gcs], None]) -> bool:
        """Changes the object as long as it is this process's; returns whether it was.

        An unknown version may be this process's too: the store may have done what it was asked although its answer was
        lost.
        """
        while True:
            try:
                with storage.open_versions(self._url) as store:
                    assert store is not None
                    change(store)
                return True
            except FileExistsError:
                current = self._look()
                if current is None or _parse_lock(current).get("token") != self._token:
                    return False
                self._generation = current.generation

    def _look(self) -> Version | None:
        """Reads the lock, whoever holds it; None if nobody does."""
        try:
            with storage.open_versions(self._url) as store:
                assert store is not None
                return store.read_version(self._url)
        except FileNotFoundError:
            return None


def _read_clock() -> float:
    """Reads a clock, in seconds, that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _parse_lock(lock: Version) -> dict[str, Any]:
    try:
        described = json.loads(lock.content)
    except ValueError:  # somebody else's object
        return {}
    return described if isinstance(described, dict) else {}


def _get_holder(lock: Version) -> str:
    return str(_parse_lock(lock).get("holder", "somebody who does not say who it is"))
