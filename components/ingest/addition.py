"""Addition of images to a committed dataset: its shards are copied, with new labels where new images bring them.

A new dataset's shards of a split are the old ones followed by new ones. An old shard and the
new images that take the place of some of its own are one piece of work.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from components.ingest.encode import EncodingRules, encode_reference
from components.lines import map_in_order
from components.listing import ImageReference
from components.rejects import Reject
from tfrecords import (
    SPLITS,
    DataError,
    DatasetManifest,
    LineExample,
    ShardEntry,
    encode_example,
    read_record_batches,
    read_uris,
    storage,
)
from tfrecords.manifest import suggest_remedy


@dataclasses.dataclass(frozen=True)
class OldDataset:
    """A committed dataset to which images are added.

    Attributes:
        dataset_id: of the dataset.
        folder: where it lies.
        shards: its files by split.
        symbols: of its charset.
        height: pixels of its lines.
        split_by: what is kept together in its splits.
        groups: how many examples each such group has, by split.
    """

    dataset_id: str
    folder: str
    shards: Mapping[str, tuple[ShardEntry, ...]]
    symbols: tuple[str, ...]
    height: int
    base_direction: str
    vertical: bool
    split_by: str
    groups: Mapping[str, Mapping[str, int]]

    @classmethod
    def read(cls, folder: str) -> OldDataset:
        """Reads the dataset in a folder.

        Raises:
            FileNotFoundError: if nothing is committed there.
            DataError: if it has lost files.
        """
        manifest = DatasetManifest.read(folder)
        sizes = {**{shard.name: shard.bytes for shard in manifest.shards}, **manifest.other_files}
        if problem := storage.find_missing_or_changed(folder, sizes):
            raise DataError(
                f"{problem}, so that nothing can be added to that dataset: {suggest_remedy(folder, 'ingest')}"
            )
        statistics = manifest.read_statistics(folder)
        return cls(
            dataset_id=manifest.dataset_id,
            folder=folder,
            shards={split: tuple(manifest.shards_of(split)) for split in SPLITS},
            symbols=manifest.read_charset(folder).symbols,
            height=manifest.height,
            base_direction=manifest.base_direction,
            vertical=manifest.vertical,
            split_by=statistics["split_by"],
            groups={split: statistics["splits"][split]["largest_groups"] for split in SPLITS},
        )

    @property
    def examples(self) -> int:
        """The number of examples in all splits together."""
        return sum(shard.examples for shards in self.shards.values() for shard in shards)

    def count_shards(self, split: str) -> int:
        """Counts the shards of a split; they become the first ones of that split in the new dataset."""
        return len(self.shards[split])


class OldPlace(NamedTuple):
    """Shard of the old dataset that holds the example of an image."""

    uri: str
    split: str
    number: int


def read_places(old: OldDataset, split: str, number: int) -> Iterator[OldPlace]:
    """Reads which images are in one old shard.

    Raises:
        DataError: if the file is damaged.
    """
    for uris in read_uris(storage.join(old.folder, old.shards[split][number].name)):
        for uri in uris.to_pylist():
            yield OldPlace(uri, split, number)


def copy_examples(
    entry: ShardEntry, references: Sequence[ImageReference], old: OldDataset, rules: EncodingRules, processes: int
) -> Iterator[tuple[ImageReference | None, bytes | Reject]]:
    """Copies the examples of an old shard in their order, each with the new image that took its place, if one did.

    Labels get the ids of the new charset, which has all symbols of the old one.

    Args:
        references: new images, each of which has the URI of an example of this shard.
        processes: how many processes this one may occupy.

    Raises:
        DataError: if the file is damaged.
    """
    encode = functools.partial(encode_reference, rules=rules)
    outcomes = map_in_order(encode, references, processes, rules.limits)
    new = {each.uri: (each, outcome) for each, outcome in zip(references, outcomes, strict=True)}
    used: collections.Counter[str] = collections.Counter()
    path = storage.join(old.folder, entry.name)
    count = 0
    for batch in read_record_batches(path):
        columns = [batch.column(batch.schema.get_field_index(name)) for name in ("image", "width", "text", "uri")]
        for image, width, text, uri in zip(*(column.flatten().to_pylist() for column in columns), strict=True):
            count += 1
            name = uri.decode()
            if name in new:
                used[name] += 1
                yield new[name]
            else:
                label = tuple(rules.charset.encode(text.decode()))
                yield None, encode_example(LineExample(image, width, label, text.decode(), name))
    if count != entry.examples:
        raise DataError(
            f"{path} has {count} examples, the manifest says {entry.examples}: {suggest_remedy(old.folder, 'ingest')}"
        )
    if used != collections.Counter(new.keys()):
        raise RuntimeError(f"{path} was to get {len(new)} new labels, but got {used.total()}")
