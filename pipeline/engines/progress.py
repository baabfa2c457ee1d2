"""The progress of a job that recognises images, wherever its workers are."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator

from components.progress_bar import Bar, format_duration
from tfrecords import storage

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 2.0
_LOG_EVERY_S = 30.0


@contextlib.contextmanager
def watch_shards(folder: str, shards: int, images: int) -> Iterator[None]:
    """Shows how far a job is, by the summaries of finished shards that its workers leave in a folder.

    A terminal gets a bar, a log a line every half minute. Shards that an earlier command finished are not counted in
    the images a second.

    Args:
        folder: where each finished shard has one `.json` file.
        shards: of the job.
        images: of all shards, which are about equal.
    """
    ended = threading.Event()
    bar = Bar.on_terminal(shards)
    watcher = threading.Thread(target=_watch, args=(folder, shards, images, bar, ended), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        if bar is not None:
            bar.hide()


def _watch(folder: str, shards: int, images: int, bar: Bar | None, ended: threading.Event) -> None:
    """Looks for finished shards until the job has ended."""
    before = done = _count_finished(folder)
    started = logged = time.monotonic()
    while not ended.wait(_LOOK_EVERY_S):
        done = max(done, _count_finished(folder))  # the commit takes the summaries away
        now = time.monotonic()
        new = (done - before) * images / shards
        figures = ""
        if new:
            rate = new / (now - started)
            figures = f"{rate:,.0f} images/s, {format_duration((shards - done) * images / shards / rate)} left"
        if bar is not None:
            bar.show("shards", done, figures)
        elif now - logged >= _LOG_EVERY_S:
            logged = now
            log.info(f"{done:,} of {shards:,} shards" + (f", {figures}" if figures else ""))


def _count_finished(folder: str) -> int:
    """Counts the summaries of finished shards."""
    try:
        return sum(name.endswith(".json") for name in storage.list_names(folder))
    except Exception:  # an object store that does not answer now: its libraries have errors of their own
        return 0
