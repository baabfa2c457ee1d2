"""Beam wiring of the jobs over committed predictions: finding unread images, and merging runs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence

import apache_beam as beam

from components.predictions.merging import MergedFile, MergedSummary, MergeRequest, commit_merge, write_merged_file
from components.predictions.unread import SkipRule, UnreadSummary, keep_unread, list_identities, merge_unread
from components.transforms import GatherOnce
from tfrecords import storage


class FindUnread(beam.PTransform):
    """Listing files, and files of committed runs, to listing files of the images that are to be read.

    A digest of an image's identity decides in which place its listing meets what is known of it.

    Input:  a `Source` for every listing file, and for every file of predictions and rejects that counts.
    Output: the merged `UnreadSummary`, once; it is also written as JSON to `summary_path`.
    """

    def __init__(self, summary_path: str, destinations: list[str], read: SkipRule):
        super().__init__()
        self._summary_path = summary_path
        self._destinations = destinations
        self._read = read

    def expand(self, sources):
        return (
            sources
            | "ReadIdentities" >> beam.FlatMap(list_identities, places=len(self._destinations), read=self._read)
            | "GroupByPlace" >> beam.GroupByKey()
            | "KeepUnread" >> beam.MapTuple(self._keep)
            | "CommitUnread" >> GatherOnce(functools.partial(_commit_unread, summary_path=self._summary_path))
        )

    def _keep(self, place: int, blocks: Iterable[tuple[str, bytes, bytes]]) -> UnreadSummary:
        return keep_unread(blocks, self._destinations[place])


def _commit_unread(summaries: Iterable[UnreadSummary], summary_path: str) -> UnreadSummary:
    merged = merge_unread(summaries)
    storage.write_json(summary_path, dataclasses.asdict(merged))
    return merged


class MergeRuns(beam.PTransform):
    """Files of committed runs to runs that hold the rows of several.

    Input:  `(number, MergedFile)`: each file to write, and the number of the request that it belongs to.
    Output: None, once, when all new runs are committed and the runs that were merged are removed.
    """

    def __init__(self, requests: Sequence[MergeRequest]):
        super().__init__()
        self._requests = requests

    def expand(self, files):
        return (
            files
            | "MergeFiles" >> beam.MapTuple(self._write)
            | "CommitMerges" >> GatherOnce(functools.partial(_commit_merges, requests=self._requests))
        )

    def _write(self, number: int, file: MergedFile) -> tuple[int, MergedSummary]:
        return number, write_merged_file(file, self._requests[number])


def _commit_merges(summaries: Iterable[tuple[int, MergedSummary]], requests: Sequence[MergeRequest]) -> None:
    written = list(summaries)
    for number, request in enumerate(requests):
        commit_merge([summary for of, summary in written if of == number], request)
