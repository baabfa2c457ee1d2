"""Progress of a job that reads images, for a person, wherever its workers are."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator

from components.training.progress import format_duration
from tfrecords import storage

_LOOK_EVERY_S = 2.0
_SAY_EVERY_S = 30.0


@contextlib.contextmanager
def watch_shards(
    folder: str, shards: int, images: int, say: Callable[[str], None], show: Callable[[str], None] | None
) -> Iterator[None]:
    """Says how far a job is, by the summaries of finished shards that its workers leave in a folder.

    Shards that an earlier command finished do not count in the images a second.

    Args:
        folder: where each finished shard has one `.json` file.
        images: of all shards, which are about equal.
        say: prints a line, every half minute.
        show: prints a line over the one before, every two seconds, where somebody looks at a terminal.
    """
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(folder, shards, images, say, show, ended), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        if show is not None:
            show("")


def _watch(
    folder: str,
    shards: int,
    images: int,
    say: Callable[[str], None],
    show: Callable[[str], None] | None,
    ended: threading.Event,
) -> None:
    before = done = _count_finished(folder)
    started = said = time.monotonic()
    while not ended.wait(_LOOK_EVERY_S):
        done = max(done, _count_finished(folder))  # the commit takes the summaries away
        now = time.monotonic()
        new = (done - before) * images / shards
        line = f"{done:,} of {shards:,} shards"
        if new:
            rate = new / (now - started)
            line += f", {rate:,.0f} images/s, {format_duration((shards - done) * images / shards / rate)} left"
        if show is not None:
            show(line[: shutil.get_terminal_size().columns - 1])
        elif now - said >= _SAY_EVERY_S:
            said = now
            say(line)


def _count_finished(folder: str) -> int:
    try:
        return sum(name.endswith(".json") for name in storage.list_names(folder))
    except Exception:  # an object store that does not answer now: its libraries have errors of their own
        return 0
