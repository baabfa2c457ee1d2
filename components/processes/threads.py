"""Work spread over threads that wait for something else, in order, and items in groups."""

from __future__ import annotations

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_Item = TypeVar("_Item")
_Outcome = TypeVar("_Outcome")


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
    interrupted = False
    try:
        for item in items:
            pending.append(pool.submit(call, item))
            if len(pending) == ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except KeyboardInterrupt:
        interrupted = True  # a thread may wait for what never comes
        raise
    finally:
        pool.shutdown(wait=not interrupted, cancel_futures=True)  # nobody wants what has not begun


def split_into_groups(size: int, items: Iterable[_Item]) -> Iterator[list[_Item]]:
    """Splits items into lists of this size, the last one perhaps shorter."""
    items = iter(items)
    return iter(lambda: list(itertools.islice(items, size)), [])
