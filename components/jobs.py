"""Pieces of every Beam job: rows packed for a shuffle, and the one last step that commits."""

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
    """Rows with equal keys together, of two thousand at a time, packed for `unpack_blocks`.

    An engine asks its price in time for every element, and in memory, where it shuffles, for
    every byte.
    """
    items = iter(items)
    while some := list(itertools.islice(items, _ROWS_AT_A_TIME)):
        block: dict[Any, list[tuple]] = collections.defaultdict(list)
        for item in some:
            block[key_of(item)].append(tuple(item))
        for key, rows in block.items():
            yield key, zlib.compress(pickle.dumps(rows, pickle.HIGHEST_PROTOCOL), 1)


def unpack_blocks(blocks: Iterable[bytes], kind: Callable[..., _Row]) -> Iterator[_Row]:
    """The rows of `pack_blocks`."""
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
    """Every element at one place: the last step of a job, which commits what the job did."""

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
