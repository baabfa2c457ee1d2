"""Shards: the choice of an example's file, and the writing and reading of such a file."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import struct
import zlib
from collections.abc import Iterable, Iterator

import google_crc32c

from tfrecords import storage
from tfrecords.errors import DataError


def choose_shard_count(images: int) -> int:
    """Chooses the number of shards from the number of images alone.

    It is a power of two. So it changes, and with it every shard, only when the collection has
    doubled. A shard holds 2,000 to 4,000 images. A small collection has up to 8 shards of at
    least 250 images, so that several workers have something to do.
    """
    shards = 1
    while images > 4000 * shards or (shards < 8 and images >= 500 * shards):
        shards *= 2
    return shards


SPLITS = ("train", "validation", "test")
_SPLIT_SALT = "split"
_SHARD_SALT = "shard"
_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
RECORD_FRAME = (_LENGTH.size + _CHECKSUM.size, _CHECKSUM.size)
"""Bytes before and behind each record: its length with a checksum, and the checksum of its data."""
_MOST_RECORD_BYTES = 64 << 20
"""Bytes of a record; a line of 20,000 pixels has at most some 3 million."""


@dataclasses.dataclass(frozen=True)
class SplitFractions:
    """The shares of images for validation and test; the rest is for training.

    Raises:
        ValueError: if a share is outside [0, 1) or nothing is left for training.
    """

    validation: float = 0.1
    test: float = 0.1

    def __post_init__(self) -> None:
        if not (0 <= self.validation < 1 and 0 <= self.test < 1 and self.validation + self.test < 1):
            raise ValueError(
                f"validation_fraction={self.validation} and test_fraction={self.test} must be at least 0 "
                "and leave something for training"
            )


def is_split_by_groups(split_by: str) -> bool:
    """Tells whether groups of images stay together in a split; otherwise only copies do, with their originals.

    Args:
        split_by: as a dataset's manifest has it.
    """
    return split_by not in ("image", "given")


def choose_split(key: str, fractions: SplitFractions) -> str:
    """Chooses the split of an image's key: `train`, `validation` or `test`."""
    position = _hash(_SPLIT_SALT, key) / 2**64
    if position < fractions.test:
        return "test"
    if position < fractions.test + fractions.validation:
        return "validation"
    return "train"


def choose_shard(key: str, shards: int) -> int:
    """Chooses the shard, from 0, of an image's key among `shards`."""
    return _hash(_SHARD_SALT, key) % shards


def name_shard(prefix: str, index: int, count: int, suffix: str) -> str:
    """Makes a shard's file name, such as `train-00000-of-00004.tfrecord.gz`."""
    return f"{prefix}-{index:05d}-of-{count:05d}.{suffix}"


def write_records(path: str, records: Iterable[bytes]) -> tuple[int, int, str]:
    """Writes one gzipped TFRecord file, atomically; equal records give equal bytes.

    The images inside are compressed already. So gzip frames and checks them, but does not compress them again.

    Returns:
        The number of records, the file's bytes, and its SHA-256.
    """
    count = 0
    with storage.open_atomically(path) as file:
        hashing = _HashingWriter(file)
        with gzip.GzipFile(filename="", mode="wb", compresslevel=0, fileobj=hashing, mtime=0) as compressed:
            for record in records:
                length = _LENGTH.pack(len(record))
                compressed.write(length + compute_masked_crc(length) + record + compute_masked_crc(record))
                count += 1
    return count, hashing.size, hashing.digest.hexdigest()


def read_records(path: str) -> Iterator[bytes]:
    """Reads the records of a gzipped TFRecord file, and checks each against its checksum.

    Raises:
        DataError: if a record is damaged; it names the file and the record.
    """
    number = 0
    try:
        if not storage.get_size(path):
            raise EOFError("the file has 0 bytes")
        with storage.open_to_read(path) as file, gzip.GzipFile(fileobj=file, mode="rb") as compressed:
            while header := compressed.read(_LENGTH.size + _CHECKSUM.size):
                length = header[: _LENGTH.size]
                if header[_LENGTH.size :] != compute_masked_crc(length):
                    raise EOFError("the checksum of its length is wrong")
                (size,) = _LENGTH.unpack(length)
                if size > _MOST_RECORD_BYTES:
                    raise EOFError(f"it has {size:,} bytes, more than {_MOST_RECORD_BYTES:,}")
                body = compressed.read(size + _CHECKSUM.size)
                if len(body) != size + _CHECKSUM.size or body[size:] != compute_masked_crc(body[:size]):
                    raise EOFError("the checksum of its data is wrong")
                yield body[:size]
                number += 1
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"record {number} of {path} is damaged ({error}): delete the dataset and run the ingest step again"
        ) from None


class _HashingWriter:
    def __init__(self, file) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def _hash(salt: str, key: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{salt}\0{key}".encode()).digest()[:8], "big")


def compute_masked_crc(data: bytes) -> bytes:
    """Computes a CRC-32C, rotated and offset as TensorFlow's `crc32c.h` defines the mask."""
    crc = google_crc32c.value(data)
    return _CHECKSUM.pack((crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF)
