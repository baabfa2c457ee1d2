"""Examples that tests write into a shard themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from components.training.data import Examples, load_examples
from tfrecords import Charset, DatasetManifest, LineExample, ShardEntry, encode_example, write_records

SHARD = "train-00000-of-00001.tfrecord.gz"


def write_dataset(
    folder: Path, charset: Charset, images: Sequence[bytes], widths: Sequence[int], texts: Sequence[str]
) -> DatasetManifest:
    """Writes the train split of a dataset as one shard; the URIs are the numbers of the lines."""
    folder.mkdir(parents=True, exist_ok=True)
    records = [
        encode_example(LineExample(image, width, tuple(charset.encode(text)), text, str(number)))
        for number, (image, width, text) in enumerate(zip(images, widths, texts, strict=True))
    ]
    return describe_shards(folder, charset, [write_shard(folder / SHARD, records)])


def write_shard(path: Path, records: Sequence[bytes]) -> ShardEntry:
    """Writes a shard of records, and describes it."""
    return ShardEntry(path.name, "train", *write_records(str(path), records))


def describe_shards(folder: Path, charset: Charset, shards: Sequence[ShardEntry]) -> DatasetManifest:
    """Writes the charset and the manifest of shards that are there."""
    (folder / "charset.txt").write_text(charset.to_file_text(), encoding="utf-8")
    lines = sum(shard.examples for shard in shards)
    facts = ("written", 8, 4, charset.digest, lines, {}, {}, tuple(shards), (), {}, (), "2026-11-30T00:00:00+00:00")
    manifest = DatasetManifest(*facts)
    manifest.write(str(folder))
    return manifest


def write_examples(
    folder: Path, charset: Charset, images: Sequence[bytes], widths: Sequence[int], texts: Sequence[str]
) -> Examples:
    """Writes lines as `write_dataset` does, and opens them."""
    return load_examples(str(folder), write_dataset(folder, charset, images, widths, texts), "train")
