"""Folds of a dataset: parts of its lines, each with a dataset of the other lines to train on."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator

from tfrecords import DatasetManifest, ShardEntry, name_shard, read_records, storage, write_records
from tfrecords.manifest import CHARSET_NAME

LEAST_LINES = 20
"""Lines below which a model of some of them says nothing about the others."""
_MANY_LINES = 500
_VALIDATED = 10


def choose_folds(lines: int) -> int:
    """Chooses the number of folds: more where there are few lines, so that each training has most of them."""
    return 2 if lines >= _MANY_LINES else 5


@dataclasses.dataclass(frozen=True)
class Fold:
    """One part of a dataset's lines, of all splits alike.

    Line `i` of the dataset is in fold `i % folds`. A model that is to read them trains on the lines of the other
    folds, every tenth of which validates it.

    Attributes:
        folder, manifest: the dataset.
        number: of the fold, from 0.
        folds: number of all folds.
    """

    folder: str
    manifest: DatasetManifest
    number: int
    folds: int

    def count_training_lines(self) -> int:
        """Counts the lines that train the model."""
        lines = sum(self.manifest.counts.values())
        return sum(self._choose_part(i) == "train" for i in range(lines))

    def write_training_dataset(self, folder: str) -> None:
        """Writes a dataset of the other folds' lines into a local folder.

        Raises:
            DataError: if a file of the dataset is damaged.
        """
        shards = []
        first = 0
        for number, source in enumerate(self.manifest.shards):
            for split in ("train", "validation"):
                name = name_shard(split, number, len(self.manifest.shards), "tfrecord.gz")
                records = (
                    record
                    for line, record in enumerate(read_records(storage.join(self.folder, source.name)), first)
                    if self._choose_part(line) == split
                )
                shard = ShardEntry(name, split, *write_records(os.path.join(folder, name), records))
                if shard.examples:
                    shards.append(shard)
            first += source.examples
        storage.copy_file(storage.join(self.folder, CHARSET_NAME), os.path.join(folder, CHARSET_NAME))
        shards.sort(key=lambda shard: shard.name)
        dataclasses.replace(self.manifest, shards=tuple(shards)).write(folder)

    def read_own_records(self) -> Iterator[bytes]:
        """Reads the records of this fold's lines, as they are in the dataset.

        Raises:
            DataError: if a file of the dataset is damaged.
        """
        return (record for i, record in self._read_records() if i % self.folds == self.number)

    def _read_records(self) -> Iterator[tuple[int, bytes]]:
        paths = (storage.join(self.folder, shard.name) for shard in self.manifest.shards)
        return enumerate(itertools.chain.from_iterable(map(read_records, paths)))

    def _choose_part(self, line: int) -> str | None:
        """Returns the split of a line in the training dataset; None for a line of this fold."""
        if line % self.folds == self.number:
            return None
        return "validation" if line // self.folds % _VALIDATED == 0 else "train"
