"""Parts of every Beam job: rows packed for a shuffle, and the one last step that commits."""

from __future__ import annotations

import collections
import itertools
import pickle
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import apache_beam as beam

from components.process_settings import prepare_process

_ROWS_AT_A_TIME = 2_000
_Row = TypeVar("_Row", bound=tuple)


def pack_blocks(items: Iterable[_Row], key_of: Callable[[_Row], Any]) -> Iterator[tuple[Any, bytes]]:
    """Packs rows with equal keys together, two thousand rows at a time, for `unpack_blocks`.

    To an engine, every element costs time, and every byte that it shuffles costs memory.

    Yields:
        A key and a block of rows: zlib-compressed pickle.
    """
    items = iter(items)
    while part := list(itertools.islice(items, _ROWS_AT_A_TIME)):
        block: dict[Any, list[tuple]] = collections.defaultdict(list)
        for item in part:
            block[key_of(item)].append(tuple(item))
        for key, rows in block.items():
            yield key, zlib.compress(pickle.dumps(rows, pickle.HIGHEST_PROTOCOL), 1)


def unpack_blocks(blocks: Iterable[bytes], kind: Callable[..., _Row]) -> Iterator[_Row]:
    """Yields the rows that `pack_blocks` packed, as tuples of a kind."""
    for block in blocks:
        yield from itertools.starmap(kind, pickle.loads(zlib.decompress(block)))


class CallPrepared(beam.DoFn):
    """A function that is called with the parts of each element, on a worker whose process is prepared.

    Input:  tuples of the function's arguments.
    Output: what it returns.
    """

    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        self._function = function

    def setup(self):
        """Sets the libraries of the worker's process as the command sets its own."""
        prepare_process()

    def process(self, element):
        """Calls the function."""
        yield self._function(*element)


class GatherOnce(beam.PTransform):
    """The last step of a job: all elements in one place, where `commit` gets them and commits the job's result."""

    def __init__(self, commit: Callable[[Iterable[Any]], Any]):
        super().__init__()
        self._commit = commit

    def expand(self, summaries):
        return (
            summaries
            | "Together" >> beam.Map(lambda summary: (None, summary))
            | "Gather" >> beam.GroupByKey()
            | "Commit" >> beam.ParDo(CallPrepared(lambda _, gathered: self._commit(gathered)))
        )
