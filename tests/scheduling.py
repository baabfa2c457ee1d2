"""Order and distribution of the tests over pytest-xdist's workers: whole files, the longest first."""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadScopeScheduling

SECONDS: dict[str, int] = {}
"""Of the files that take longest; what they need is re-measured with `--durations=0`. Shorter ones follow."""
APART: frozenset[str] = frozenset()
"""Files that are handed out test by test: long tests that share nothing."""


def sort_longest_first(items: list[pytest.Item]) -> None:
    """Sorts tests by the time that their file takes; within a file, and among short ones, they keep their order."""
    items.sort(key=lambda item: -SECONDS.get(_file_of(item.nodeid), 0))


class FileScheduling(LoadScopeScheduling):
    """Hands out whole files, so that what a file's tests share is built once, in the order of collection."""

    def __init__(self, config: pytest.Config, log: object) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        file = _file_of(nodeid)
        return nodeid if file in APART else file


def _file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0].removeprefix("tests/")
