"""Helper processes: order, exceptions, their ends, and that nobody survives the process that started them."""

import concurrent.futures
import contextlib
import itertools
import os
import pathlib
import pickle
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from components.processes import HelperPool, helper, map_in_threads, split_into_groups
from tfrecords import CharsetError, DataError, ImageRejected, ProcessLostError

ROOT = pathlib.Path(__file__).parents[2]
PATIENCE = 30  # seconds for what takes a fraction of one
ERRORS = {
    "DataError": lambda: DataError("the table has no rows"),
    "CharsetError": lambda: CharsetError("'b' follows 'a'"),
    "FileNotFoundError": lambda: FileNotFoundError(2, "No such file or directory", "lines/a.png"),
    "UnicodeDecodeError": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    "ZeroDivisionError": lambda: ZeroDivisionError("division by zero"),
    "ImageRejected": lambda: ImageRejected("truncated", "the file ends early"),
}


@pytest.fixture
def helpers() -> Iterator[HelperPool]:
    """A pool of a test's own."""
    with HelperPool() as helpers:
        yield helpers
    assert not helpers.has_helpers


# What the helpers are asked to do; they import this module to find it.


def square(number: int) -> int:
    return number * number


def process_of(_: object) -> int:
    return os.getpid()


def wait_for_go_and_note_process(folder: str) -> None:
    while not pathlib.Path(folder, "go").exists():
        time.sleep(0.05)
    pathlib.Path(folder, f"{os.getpid()}.done").touch()


def note_process_and_wait(folder: str) -> None:
    pathlib.Path(folder, str(os.getpid())).touch()
    time.sleep(PATIENCE)


def inverse_noted(folder_and_number: tuple[str, int]) -> float:
    folder, number = folder_and_number
    pathlib.Path(folder, str(number)).touch()
    time.sleep(0.2)
    return 1 / number


def raise_named(name: str) -> None:
    raise ERRORS[name]()


def inverse(number: int) -> float:
    return 1 / number


def kill_helper_at_40(number: int) -> int:
    if number == 40:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def killed_once_at_40(folder_and_number: tuple[str, int]) -> int:
    folder, number = folder_and_number
    if number == 40 and not pathlib.Path(folder, "killed").exists():
        pathlib.Path(folder, "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def stopped_once(folder: str) -> str:
    if not pathlib.Path(folder, "stopped").exists():
        pathlib.Path(folder, "stopped").touch()
        os.kill(os.getpid(), signal.SIGSTOP)
    return folder


def answer_half(status: int) -> None:
    """Writes the first half of an answer to every pipe that a helper has, and ends."""
    for descriptor in range(3, 20):
        with contextlib.suppress(OSError):
            if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
                os.write(descriptor, pickle.dumps(bytes(9000))[:4000])
    os._exit(status)


def exit_with(status: int) -> None:
    sys.exit(status)


def exit_at_once_with(status: int) -> None:
    os._exit(status)


def lock_of(_: object) -> object:
    return threading.Lock()


def speak(number: int) -> int:
    print("printed", number)
    sys.stdout.buffer.write(b"written to the buffer\n")
    sys.stdout.flush()
    os.write(1, b"written to the descriptor\n" * 100)
    return number


def bytes_of(size: int) -> bytes:
    return bytes(size)


def first_waits_for_the_last(item: tuple[str, int, int]) -> int:
    """Number 0 waits until another helper has reached the last number, which is in another call than its own."""
    folder, number, last = item
    if number == last:
        pathlib.Path(folder, "reached").touch()
    until = time.monotonic() + PATIENCE
    while number == 0 and not pathlib.Path(folder, "reached").exists():
        assert time.monotonic() < until, "nobody else works"
        time.sleep(0.01)
    return number


# Order and amount


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 1000])
def test_every_item_has_its_outcome_in_order(count, processes, helpers):
    assert list(helpers.map(square, range(count), processes)) == [number * number for number in range(count)]


def test_the_order_is_kept_even_if_the_first_item_is_the_last_to_be_done(tmp_path, helpers):
    items = [(str(tmp_path), number, 32) for number in range(64)]
    assert list(helpers.map(first_waits_for_the_last, items, 2)) == list(range(64))


def test_few_items_are_held_at_a_time(helpers):
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(5_000):
            taken += 1
            yield number

    ahead = 0
    for consumed, _ in enumerate(helpers.map(square, items(), 2), 1):
        ahead = max(ahead, taken - consumed)
    assert taken == 5_000
    assert 64 <= ahead <= 300


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (3, [3]), (4, [4]), (9, [4, 4, 1])])
def test_groups_hold_every_item_once_in_order(count, sizes):
    groups = list(split_into_groups(4, iter(range(count))))
    assert [len(group) for group in groups] == sizes
    assert list(itertools.chain.from_iterable(groups)) == list(range(count))


def test_a_call_takes_as_many_items_as_it_is_told(tmp_path, helpers):
    items = [(str(tmp_path), number, 1) for number in range(2)]
    assert list(helpers.map(first_waits_for_the_last, items, 2, items_per_call=1)) == [0, 1]


def test_outcomes_may_be_larger_than_a_pipe(helpers):
    sizes = [0, 1, 1 << 20, 5 << 20]
    assert [len(content) for content in helpers.map(bytes_of, sizes, 1)] == sizes


def test_the_work_is_done_elsewhere(helpers):
    assert os.getpid() not in set(helpers.map(process_of, range(100), 2))


def test_two_threads_can_ask_for_work_at_the_same_time(helpers):
    outcomes: dict[int, list[int]] = {}

    def ask(first: int) -> None:
        outcomes[first] = list(helpers.map(square, range(first, first + 500), 2))

    threads = [threading.Thread(target=ask, args=(first,)) for first in (0, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == {first: [number * number for number in range(first, first + 500)] for first in (0, 1000)}


def test_what_is_printed_while_working_is_no_answer(helpers):
    assert list(helpers.map(speak, range(200), 2)) == list(range(200))


# The life of a helper


def test_helpers_are_kept_for_the_next_call(helpers):
    assert not helpers.has_helpers
    (first,) = set(helpers.map(process_of, range(100), 1))
    assert helpers.has_helpers
    (second,) = set(helpers.map(process_of, range(100), 1))
    assert first == second


def test_a_closed_pool_has_ended_its_helpers_and_starts_no_more(helpers):
    stopped = set(helpers.map(process_of, range(200), 2))
    helpers.close()
    assert not helpers.has_helpers
    assert not [pid for pid in stopped if is_alive(pid)]
    with pytest.raises(RuntimeError, match="the helper processes have been stopped"):
        list(helpers.map(process_of, range(200), 2))
    with pytest.raises(RuntimeError, match="the helper processes have been stopped"):
        helpers.prepare(square, 1, 1)
    with HelperPool() as others:
        assert stopped.isdisjoint(others.map(process_of, range(200), 2))


def processes_that_noted(folder: pathlib.Path, number: int) -> set[int]:
    """The processes that noted themselves, when so many have; a helper that no call needed may still be at it."""
    until = time.monotonic() + PATIENCE
    while len(noted := list(folder.glob("*.done"))) < number:
        assert time.monotonic() < until, noted
        time.sleep(0.05)
    assert len(noted) == number
    return {int(path.stem) for path in noted}


def test_prepared_helpers_have_done_the_work_once_and_are_those_that_are_called(helpers, tmp_path):
    helpers.prepare(wait_for_go_and_note_process, str(tmp_path), 2)  # returns: it waits for none of them
    (tmp_path / "go").touch()
    called = set(helpers.map(process_of, range(400), 2))
    assert called <= processes_that_noted(tmp_path, 2)


def test_no_more_helpers_are_prepared_than_are_missing(helpers, tmp_path):
    (helper,) = set(helpers.map(process_of, range(3), 1))
    (tmp_path / "go").touch()
    helpers.prepare(wait_for_go_and_note_process, str(tmp_path), 2)
    helpers.prepare(wait_for_go_and_note_process, str(tmp_path), 2)
    called = set(helpers.map(process_of, range(400), 2))
    assert called <= {helper} | processes_that_noted(tmp_path, 1)


def test_helpers_that_are_still_prepared_are_stopped_at_once(helpers, tmp_path):
    helpers.prepare(note_process_and_wait, str(tmp_path), 2)
    while len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.05)
    helpers.close()
    assert not helpers.has_helpers
    assert not [path.name for path in tmp_path.iterdir() if is_alive(int(path.name))]


@pytest.mark.parametrize("function", [raise_named, exit_at_once_with], ids=["raises", "ends"])
def test_what_fails_while_helpers_are_prepared_is_raised_by_the_call_that_does_it_again(helpers, function):
    helpers.prepare(function, "DataError" if function is raise_named else 3, 2)
    assert list(helpers.map(square, range(100), 2)) == [number * number for number in range(100)]
    helpers.prepare(raise_named, "DataError", 2)
    with pytest.raises(DataError, match="the table has no rows"):
        list(helpers.map(raise_named, ["DataError"], 2))


def test_an_error_does_not_wait_for_what_has_not_begun(helpers, tmp_path):
    with pytest.raises(ZeroDivisionError):
        list(helpers.map(inverse_noted, [(str(tmp_path), number) for number in range(100)], 1, items_per_call=1))
    assert len(list(tmp_path.iterdir())) <= 2


@pytest.fixture
def interruptible() -> Iterator[None]:
    """This process heeds interrupts, even if the one that started it does not: helpers inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_from_the_terminal_does_not_end_a_helper(helpers, interruptible):
    (helper,) = set(helpers.map(process_of, range(3), 1))
    os.kill(helper, signal.SIGINT)
    assert set(helpers.map(process_of, range(3), 1)) == {helper}


def test_outcomes_that_nobody_waits_for_do_not_get_into_the_next_call(helpers):
    outcomes = helpers.map(square, range(1000), 2)
    assert next(outcomes) == 0
    outcomes.close()
    assert list(helpers.map(square, range(500, 600), 2)) == [number * number for number in range(500, 600)]


def test_closing_ends_a_helper_that_is_at_work_and_the_call_says_why(helpers, tmp_path):
    failures: list[BaseException] = []

    def call() -> None:
        try:
            list(helpers.map(note_process_and_wait, [str(tmp_path)], 1))
        except BaseException as error:
            failures.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    while not list(tmp_path.iterdir()):
        time.sleep(0.05)
    helpers.close()
    (at_work,) = (int(path.name) for path in tmp_path.iterdir())
    assert not is_alive(at_work)
    caller.join(PATIENCE)
    (failure,) = failures
    assert "the helper processes have been stopped" in str(failure)
    assert not helpers.has_helpers


def test_outcomes_that_are_taken_no_more_leave_no_helper_once_the_pool_is_closed(helpers):
    outcomes = helpers.map(process_of, range(1000), 2)
    pids = {next(outcomes)}
    helpers.close()
    outcomes.close()
    assert not helpers.has_helpers
    assert not any(map(is_alive, pids))


# Whose pool it is


def test_a_job_has_one_pool_for_all_threads_of_its_process():
    found: list[HelperPool] = []

    def find() -> None:
        with HelperPool.current() as helpers:
            found.append(helpers)

    with HelperPool.open_for_job() as helpers:
        thread = threading.Thread(target=find)
        thread.start()
        thread.join()
        find()
        assert set(helpers.map(process_of, range(3), 1))  # leaving `current` did not close it
        with pytest.raises(RuntimeError, match="run one job after the other"), HelperPool.open_for_job():
            pass
        find()
    assert found == [helpers] * 3
    assert not helpers.has_helpers


def test_without_a_job_each_caller_has_a_pool_of_its_own_that_ends_with_the_work():
    with HelperPool.current() as first, HelperPool.current() as second:
        assert first is not second
        (pid,) = set(first.map(process_of, range(3), 1))
        assert is_alive(pid)
    assert not is_alive(pid)


def test_a_job_that_fails_gives_its_pool_back():
    with pytest.raises(DataError), HelperPool.open_for_job() as helpers:
        list(helpers.map(raise_named, ["DataError"], 1))
    with HelperPool.current() as own:
        assert own is not helpers


# What goes wrong


@pytest.mark.parametrize("name", ERRORS)
def test_what_the_work_raises_is_raised_here_with_its_type_and_its_words(name, helpers):
    expected = ERRORS[name]()
    with pytest.raises(type(expected)) as error:
        list(helpers.map(raise_named, [name], 1))
    assert type(error.value) is type(expected)
    assert str(error.value) == str(expected)


def test_an_exception_comes_after_the_outcomes_of_earlier_calls(helpers):
    outcomes = helpers.map(inverse, [*range(1, 65), 0, *range(1, 200)], 2)
    assert [next(outcomes) for _ in range(64)] == [1 / number for number in range(1, 65)]
    with pytest.raises(ZeroDivisionError):
        next(outcomes)


def test_a_helper_whose_work_raised_goes_on_working(helpers):
    (before,) = set(helpers.map(process_of, range(3), 1))
    with pytest.raises(ZeroDivisionError):
        list(helpers.map(inverse, [0], 1))
    assert set(helpers.map(process_of, range(3), 1)) == {before}


def test_work_whose_helper_is_killed_is_done_again_by_another_one(helpers, tmp_path, caplog):
    items = [(str(tmp_path), number) for number in range(100)]
    assert list(helpers.map(killed_once_at_40, items, 1)) == list(range(100))
    assert [record.getMessage() for record in caplog.records] == [
        "a helper process ended with status -9; its work is done again"
    ]


def test_work_whose_helper_is_killed_twice_is_given_up_for_now_and_the_next_call_works(helpers):
    outcomes = helpers.map(kill_helper_at_40, range(100), 1)
    assert [next(outcomes) for _ in range(32)] == list(range(32))
    with pytest.raises(ProcessLostError, match=r"the last with status -9 \(was there enough memory\?\)"):
        next(outcomes)
    assert list(helpers.map(square, range(100), 2)) == [number * number for number in range(100)]


@pytest.mark.parametrize("leave", [exit_with, exit_at_once_with])
def test_a_helper_that_ends_by_itself_is_reported_with_its_own_status(leave, helpers):
    with pytest.raises(ProcessLostError, match=r"the last with status 3: "):
        list(helpers.map(leave, [3], 1))


def test_a_helper_that_ends_within_its_answer_is_one_that_ended(helpers):
    with pytest.raises(ProcessLostError, match=r"the last with status 5: "):
        list(helpers.map(answer_half, [5], 1))


def test_a_helper_that_somebody_stopped_is_replaced(helpers, tmp_path, monkeypatch):
    monkeypatch.setattr(helper, "_STOPPED_S", 0.5)
    assert list(helpers.map(stopped_once, [str(tmp_path)] * 3, 1)) == [str(tmp_path)] * 3


@pytest.mark.parametrize(
    ("function", "items"), [(lambda item: item, [1]), (square, [threading.Lock()])], ids=["function", "item"]
)
def test_what_cannot_be_pickled_is_not_called_the_end_of_a_helper_and_the_next_call_works(function, items, helpers):
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError), match="pickle"):
        list(helpers.map(function, items, 1))
    assert list(helpers.map(square, range(3), 1)) == [0, 1, 4]


def test_an_outcome_that_cannot_be_pickled_is_an_error_and_the_next_call_works(helpers):
    with pytest.raises((RuntimeError, pickle.PicklingError, TypeError)):
        list(helpers.map(lock_of, [1], 1))
    assert list(helpers.map(square, range(3), 1)) == [0, 1, 4]


# The end of the process that started them

_STARTER = """
import sys, time
from tests.components.test_processes import process_of
from components.processes import HelperPool
helpers = HelperPool()
print(*sorted(set(helpers.map(process_of, range(400), 2))), flush=True)
time.sleep({seconds})
"""


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and that nobody has asked for its status does not."""
    try:
        status = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in ("Z", "X")


def start_with_helpers(seconds: float) -> tuple[subprocess.Popen, list[int]]:
    """A process that has started helpers and sleeps for some seconds, and its helpers."""
    starter = subprocess.Popen(
        [sys.executable, "-c", _STARTER.format(seconds=seconds)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    helpers = [int(pid) for pid in starter.stdout.readline().split()]
    assert helpers
    return starter, helpers


def wait_until_ended(pids: list[int]) -> list[int]:
    """Those that still run after a while."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and any(map(is_alive, pids)):
        time.sleep(0.02)
    return [pid for pid in pids if is_alive(pid)]


def test_helpers_end_when_the_process_that_started_them_is_killed():
    starter, helpers = start_with_helpers(seconds=600)
    assert all(map(is_alive, helpers))
    starter.kill()
    starter.communicate()
    assert wait_until_ended(helpers) == []


def test_helpers_end_with_a_process_that_ends():
    starter, helpers = start_with_helpers(seconds=0)
    starter.communicate()
    assert starter.returncode == 0
    assert wait_until_ended(helpers) == []


def test_helpers_take_nothing_from_the_folder_that_the_command_is_run_in(helpers, tmp_path, monkeypatch):
    (tmp_path / "components").mkdir()
    for name in ("components/__init__.py", "signal.py", "pickle.py"):
        (tmp_path / name).write_text("raise SystemExit('taken from the current folder')")
    monkeypatch.chdir(tmp_path)
    assert list(helpers.map(square, range(40), 1)) == [number * number for number in range(40)]


def test_threads_begin_nothing_more_once_an_item_failed():
    begun, release = [], threading.Event()

    def work(item):
        begun.append(item)
        if item == 0:
            release.wait(30)  # the others' failure is not seen before this one's end
        elif item == 1:
            threading.Timer(0.3, release.set).start()
            raise ValueError("the second item")
        return item

    with pytest.raises(ValueError, match="the second item"):
        list(map_in_threads(work, range(20), 2, ahead=20))
    assert begun == [0, 1]


def test_an_item_that_begins_after_a_later_one_failed_raises_what_that_one_did(monkeypatch):
    failed = threading.Event()

    class FirstItemLast(concurrent.futures.ThreadPoolExecutor):
        """Holds the thread that took the first item until the second one has failed."""

        def submit(self, function, item):
            if item == 0:
                return super().submit(lambda: (failed.wait(30), function(item)))
            future = super().submit(function, item)
            future.add_done_callback(lambda _: failed.set())
            return future

    def work(item):
        raise ValueError(f"item {item}")

    monkeypatch.setattr(concurrent.futures, "ThreadPoolExecutor", FirstItemLast)
    with pytest.raises(ValueError, match="item 1"):
        list(map_in_threads(work, range(2), 2, ahead=2))
