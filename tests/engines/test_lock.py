"""One run at a time in a workspace of an object store: real processes, that crash and stand still, over real HTTP."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import threading
import time

import pytest

from pipeline.exits import EXIT_DONE, EXIT_HELD, EXIT_INTERRUPTED, EXIT_LOST, EXIT_REFUSED
from tests.commands import start_python
from tests.engines.places import errors, run
from tests.engines.services import PATIENCE
from tfrecords import storage

pytestmark = pytest.mark.slow

LEASE_S, RENEW_S = 7.0, 1.0  # with room for a machine that is busy with other tests
GAPS_S = 2.0  # of a `Date` header, and of a busy machine

HURRIED = f"""
import asyncio, sys, types
import gcsfs.retry
import pipeline.lock
import tfrecords.storage.gcs_writer
pipeline.lock.LEASE_S, pipeline.lock.RENEW_S = {LEASE_S}, {RENEW_S}
sleep = asyncio.sleep
gcsfs.retry.asyncio = types.SimpleNamespace(sleep=lambda seconds: sleep(seconds / 100))
tfrecords.storage.gcs_writer.FIRST_PAUSE_S = 0.01
"""
WORKER = f"""{HURRIED}
from pipeline.console import log_to_console
from pipeline.workspace import Workspace
from tfrecords import DataError
def say(line):
    print(line, flush=True)
say("ready")
for wait_s in iter(sys.stdin.readline, ""):
    try:
        with log_to_console(), Workspace(sys.argv[1]).lock(float(wait_s)):
            say("held")
            sys.stdin.readline()
        say("given back")
    except DataError as error:
        say(f"{{type(error).__name__}}: {{error}}")
"""


class Worker:
    """A process that takes the lock when it is told so, and gives it back when it is told that."""

    def __init__(self, workspace: str):
        self.process = start_python("-c", WORKER, workspace, stdin=subprocess.PIPE, stderr=None)
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=lambda: collections.deque(map(self._lines.put, self.process.stdout), 0)).start()
        assert self.heard() == "ready"

    def tell(self, line: object = 0) -> None:
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def heard(self) -> str:
        return self._lines.get(timeout=PATIENCE).rstrip("\n")

    def take(self, wait_s: float = 0) -> str:
        self.tell(wait_s)
        return self.heard()

    def give_back(self) -> str:
        self.tell()
        return self.heard()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def workspace(bucket, proxy) -> str:
    return f"{bucket}/ws"


@pytest.fixture
def start(workspace):
    """Starts so many workers; kills them at the end."""
    with contextlib.ExitStack() as running:

        def start_workers(count):
            workers = [Worker(workspace) for _ in range(count)]
            for worker in workers:
                running.callback(worker.kill)
            return workers

        yield start_workers


def race(workers):
    """Lets all take the lock at the same time; the one that did, what it said, and what the others said."""
    for worker in workers:
        worker.tell()
    said = {worker: [worker.heard()] for worker in workers}
    for worker, lines in said.items():
        if "taken over" in lines[0] and not lines[0].startswith("Workspace"):
            lines.append(worker.heard())
    (winner,) = [worker for worker, lines in said.items() if lines[-1] == "held"]
    return winner, said.pop(winner), [line for lines in said.values() for line in lines]


def test_of_four_that_race_one_takes_the_lock_each_time(start, workspace, object_store):
    workers = start(4)
    winners = set()
    for _ in range(25):
        winner, said, refused = race(workers)
        assert said == ["held"]
        assert len(refused) == 3
        for sentence in refused:
            assert sentence.startswith(f"WorkspaceHeldError: another command works in {workspace} (process ")
            assert f"(process {winner.process.pid} on " in sentence
        assert winner.give_back() == "given back"
        assert object_store.objects(workspace) == {}
        winners.add(winner)
    assert len(winners) > 1


def test_a_crashed_holders_lock_is_taken_over_after_the_lease_by_one_of_those_who_race(start, workspace, object_store):
    takers = start(3)
    for _ in range(3):
        (holder,) = start(1)
        assert holder.take() == "held"
        time.sleep(3 * RENEW_S)
        holder.kill()
        killed = time.monotonic()
        while time.monotonic() < killed + LEASE_S - GAPS_S:
            assert takers[0].take().startswith("WorkspaceHeldError: ")
        time.sleep(2 * GAPS_S)
        winner, (told, _), refused = race(takers)
        assert told.startswith(f"the lock of {workspace} is taken over from process {holder.process.pid} on ")
        assert len(refused) == 2
        assert all(f"(process {winner.process.pid} on " in sentence for sentence in refused)
        assert winner.give_back() == "given back"
        assert object_store.objects(workspace) == {}


def test_who_waits_takes_over_a_crashed_holders_lock_and_follows_one_that_ends(start):
    holder, waiting = start(2)
    assert holder.take() == "held"
    waiting.tell(5 * LEASE_S)
    time.sleep(LEASE_S + GAPS_S)  # it is renewed all the time
    holder.kill()
    killed = time.monotonic()
    assert f"is taken over from process {holder.process.pid} on " in waiting.heard()
    assert LEASE_S - RENEW_S - GAPS_S < time.monotonic() - killed < LEASE_S + GAPS_S
    assert waiting.heard() == "held"
    (third,) = start(1)
    third.tell(2 * LEASE_S)
    time.sleep(3 * RENEW_S)
    assert waiting.give_back() == "given back"
    assert third.heard() == "held"
    assert third.give_back() == "given back"


def test_the_refusal_says_who_holds_the_workspace_since_when_and_when_it_is_free(start, workspace):
    holder, other = start(2)
    assert holder.take() == "held"
    time.sleep(2 * RENEW_S)
    who = rf"process {holder.process.pid} on \S+, user \S+, since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    assert re.fullmatch(
        rf"WorkspaceHeldError: another command works in {workspace} \({who}; it renewed its lock [012] s ago\): wait "
        r"for its end, or use another --workspace; if it crashed, its lock can be taken over by a command that is "
        r"started in [45678] s, at \d\d:\d\d:\d\d UTC",
        other.take(),
    )


def test_the_lock_outlasts_bursts_of_faults(start, proxy, object_store):
    holder, other = start(2)
    assert holder.take() == "held"
    met = collections.Counter()
    numbers = collections.Counter()

    def fault(request):
        """Two of three requests fail, in a way or the other."""
        numbers[request.kind] += 1
        ways = [503, "cut", None, 429, 503, None, "reset", 500, None]
        chosen = ways[numbers[request.kind] % len(ways)] if request.name.endswith(".lock") else None
        met[request.kind, chosen] += 1
        return chosen

    proxy.fault = fault
    until = time.monotonic() + 4 * LEASE_S
    while time.monotonic() < until:
        assert other.take().startswith("WorkspaceHeldError: another command works in ")
        time.sleep(RENEW_S)
    assert all(met["write", way] > 5 for way in (503, "cut", 429, "reset", None)), met
    assert holder.give_back() == "given back"
    proxy.fault = lambda _: None
    assert other.take() == "held"


@pytest.mark.parametrize("number", [1, 3])
def test_what_was_done_though_the_store_said_that_it_failed_is_recognised(
    start, proxy, workspace, object_store, monkeypatch, number
):
    """The lock is made, renewed, and deleted, each time by a request that is asked again."""
    ask, done = proxy.ask, collections.Counter()

    def fail(method, path, body, headers):
        status, answered, content = ask(method, path, body, headers)
        done[method] += method != "GET" and status == 200
        lied = status == 200 and method != "GET" and done[method] % (number + 1) != 0
        return (503, [], b"") if lied else (status, answered, content)

    monkeypatch.setattr(proxy, "ask", fail)
    (holder,) = start(1)
    assert holder.take() == "held"
    time.sleep(13 * RENEW_S)  # longer than the lease
    assert holder.give_back() == "given back"
    assert object_store.objects(workspace) == {}
    assert done["POST"] > 10
    assert done["DELETE"] == 1


@pytest.mark.parametrize("fault", [503, 403, "hang"])
def test_a_lock_that_cannot_be_renewed_is_lost_before_another_can_take_it(start, proxy, fault):
    holder, other = start(2)
    assert holder.take() == "held"
    time.sleep(2 * RENEW_S)
    proxy.fault = lambda request: fault if request.kind in ("write", "delete") else None
    failing = time.monotonic()
    sentence = holder.heard()
    took = time.monotonic() - failing
    holder.kill()
    proxy.fault = lambda _: None
    assert sentence.startswith("WorkspaceLostError: this command does not hold gs://")
    assert f"(its lock could not be renewed for {LEASE_S - RENEW_S:g} s (" in sentence
    assert LEASE_S - 3 * RENEW_S < took < LEASE_S
    assert other.take().startswith("WorkspaceHeldError: ")
    assert " is taken over from " in other.take(2 * LEASE_S)
    assert other.heard() == "held"


@pytest.mark.parametrize("content", [None, b"here!", b'{"holder": "process 1 on moon", "token": "1"}'])
def test_a_lock_that_another_took_is_missed_at_the_next_renewal(start, object_store, workspace, content):
    holder, other = start(2)
    assert holder.take() == "held"
    if content is None:
        storage.remove_file(f"{workspace}/.lock")
    else:
        object_store.put(f"{workspace}/.lock", content)
    took = time.monotonic()
    who = {None: "somebody who deleted it", b"here!": "somebody who does not say who it is"}.get(
        content, "process 1 on moon"
    )
    assert f"(its lock was taken over by {who})" in holder.heard()
    assert time.monotonic() - took < RENEW_S + GAPS_S
    if content is not None:
        assert object_store.get(f"{workspace}/.lock") == content
        assert f"WorkspaceHeldError: another command works in {workspace} ({who}; it renewed " in other.take()
        assert f" is taken over from {who}, which " in other.take(2 * LEASE_S)
        assert other.heard() == "held"


def test_a_holder_that_stood_still_stops_and_leaves_its_followers_lock(start, workspace, object_store):
    holder, follower, third = start(3)
    assert holder.take() == "held"
    holder.process.send_signal(signal.SIGSTOP)
    assert "is taken over from" in follower.take(2 * LEASE_S)
    assert follower.heard() == "held"
    holder.process.send_signal(signal.SIGCONT)
    assert holder.heard().startswith(f"WorkspaceLostError: this command does not hold {workspace} any more (its lock ")
    time.sleep(2 * RENEW_S)
    assert f"(process {follower.process.pid} on " in third.take()
    assert follower.give_back() == "given back"


def test_what_is_given_back_is_ones_own_lock_alone(start, object_store, workspace):
    """Another's comes in its place just before, and no renewal sees it any more, but for one at that very moment."""
    (holder,) = start(1)
    for _ in range(5):
        assert holder.take() == "held"
        object_store.put(f"{workspace}/.lock", b"another's")
        assert holder.give_back().startswith(("given back", "WorkspaceLostError: "))
        assert object_store.objects(workspace) == {"ws/.lock": b"another's"}
        storage.remove_file(f"{workspace}/.lock")


@pytest.mark.parametrize("fast_s", [-3600, 3600])
def test_only_the_clock_of_the_store_counts(start, proxy, fast_s):
    proxy.fast_s = fast_s
    holder, other = start(2)
    assert holder.take() == "held"
    time.sleep(2 * RENEW_S)
    assert other.take().startswith("WorkspaceHeldError")
    holder.kill()
    assert "is taken over from" in other.take(2 * LEASE_S)
    assert other.heard() == "held"


# The command


COMMAND = f"""{HURRIED}
import os, subprocess, time
import pipeline.main, pipeline.steps
from tfrecords import DataError, storage
def work(context):
    print("begun", flush=True)
    {{does}}
(step,) = (step for step in pipeline.steps.STEPS if step.name == "{{step}}")
step.run = work
pipeline.main.command()
"""
STUBBORN = """
    subprocess.Popen(["sleep", "1000"])
    while True:
        try:
            time.sleep(1000)
        except BaseException:
            pass
"""


def begun(workspace: str, does: str, step: str = "ingest", **environment: str) -> subprocess.Popen:
    """The command, at work in its only step."""
    process = command(workspace, does, step, **environment)
    for line in process.stdout:
        if line == "begun\n":
            return process
    raise AssertionError(process.stderr.read())


def command(workspace: str, does: str, step: str = "ingest", **environment: str) -> subprocess.Popen:
    flags = [f"--workspace={workspace}", f"--steps={step}", f"--images={workspace}/lines"]
    return start_python("-c", COMMAND.format(does=does, step=step), *flags, environment=environment)


def ended(process: subprocess.Popen) -> tuple[int, str, list[str]]:
    """Its exit status, and what it printed; errors as lines."""
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, [line for line in err.splitlines() if line.startswith("error: ") or "Trace" in line]


def test_a_second_command_is_refused_with_its_own_status(workspace):
    first = begun(workspace, "time.sleep(1000)")
    status, _, (error,) = ended(command(workspace, "raise AssertionError"))
    assert status == EXIT_HELD
    assert error.startswith(f"error: another command works in {workspace} (process {first.pid} on ")
    first.kill()
    ended(first)


@pytest.mark.parametrize(
    ("does", "sent", "status"),
    [
        ("raise DataError('no')", None, EXIT_REFUSED),
        ("raise RuntimeError('no')", None, EXIT_REFUSED),
        ("time.sleep(1000)", signal.SIGTERM, EXIT_INTERRUPTED),
        ("time.sleep(1000)", signal.SIGINT, EXIT_INTERRUPTED),
    ],
)
def test_every_orderly_end_gives_the_lock_back(workspace, object_store, does, sent, status):
    process = begun(workspace, does)
    if sent is not None:
        assert "ws/.lock" in object_store.objects(workspace)
        process.send_signal(sent)
    assert ended(process)[0] == status
    left = object_store.objects(workspace)
    assert "ws/.lock" not in left
    assert any(name.startswith("ws/runs/") for name in left)


def test_a_run_holds_the_lock_from_its_first_change_to_its_last(store, proxy):
    assert run(store, "ingest") == EXIT_DONE
    changes = [request for request in proxy.requests if request.kind in ("write", "copy", "delete")]
    of_lock = [number for number, request in enumerate(changes) if request.name == "ws/.lock"]
    assert of_lock == [0, len(changes) - 1]
    assert len(changes) > 5


def test_a_lock_that_cannot_be_given_back_is_a_warning(store, proxy, capsys):
    proxy.fault = lambda request: 403 if request.kind == "delete" and request.name == "ws/.lock" else None
    assert run(store, "ingest") == EXIT_DONE
    assert (
        f"warning: the lock {store}/ws/.lock could not be given back ({store}/ws/.lock cannot be changed: no "
        "permission (no storage.objects access)): other commands have to wait until 600 s after its last renewal"
    ) in capsys.readouterr().out.splitlines()
    assert run(store, "ingest") == EXIT_HELD
    (error,) = errors(capsys)
    assert f"another command works in {store}/ws (process {os.getpid()} on " in error


@pytest.mark.parametrize("step", ["ingest", "train"])
@pytest.mark.parametrize("does", ["time.sleep(1000)", STUBBORN])
def test_a_command_that_lost_the_lock_ends_and_writes_nothing_more(workspace, object_store, proxy, does, step):
    """As the chief of a cluster it ends so that it is started again; all that it started ends with it."""
    environment = {}
    if step == "train":
        cluster = {"worker": ["localhost:1", "localhost:2"]}
        environment = {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 0}})}
    process = begun(workspace, does, step, **environment)
    proxy.requests.clear()
    object_store.put(f"{workspace}/.lock", b'{"holder": "process 1 on moon"}')
    lost = time.monotonic()
    status, _, said = ended(process)  # and the end of all that it printed: a child that lived on would hold that open
    assert time.monotonic() - lost < 2 * RENEW_S + 2 * GAPS_S
    assert status == (EXIT_LOST if step == "train" else EXIT_HELD)
    assert said == [
        f"error: this command does not hold {workspace} any more (its lock was taken over by process 1 on moon), and "
        "is stopped; what is finished is kept: run the same command to resume when no other command works there"
    ]
    assert {request.name for request in proxy.requests if request.kind != "read"} == {"ws/.lock"}
    assert list(object_store.objects(workspace)) == ["ws/.lock"]
