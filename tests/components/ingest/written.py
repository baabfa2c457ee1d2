"""Written shards for tests, and a reader of them that shares no code with the product."""

from __future__ import annotations

import dataclasses
import gzip
import pathlib
import struct
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from tfrecords import Charset, LineExample, encode_example, encode_png, write_records

HEIGHT = 8
TIME_STRIDE = 4


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a shard: lines with the same `picture` and width have the same pixels; without one, it is white."""

    text: str
    width: int = 100
    picture: int | None = 0
    uri: str = "lines/line.png"

    @property
    def pixels(self) -> np.ndarray:
        """Grain in which every picture is another."""
        if self.picture is None:
            return np.full((HEIGHT, self.width), 255, np.uint8)
        return np.random.default_rng([self.picture, self.width]).integers(0, 256, (HEIGHT, self.width), np.uint8)


def write_lines(path: pathlib.Path, lines: Iterable[Line], charset: Charset) -> str:
    """Writes a shard; returns its path as the product wants it."""
    write_records(
        str(path),
        (
            encode_example(
                LineExample(encode_png(line.pixels), line.width, tuple(charset.encode(line.text)), line.text, line.uri)
            )
            for line in lines
        ),
    )
    return str(path)


def parse_shard(path: pathlib.Path | str) -> list[dict[str, Any]]:
    """The features of every example of a shard, in the order of the file; single values stand for themselves."""
    plain = gzip.decompress(pathlib.Path(path).read_bytes())
    examples = []
    position = 0
    while position < len(plain):
        (length,) = struct.unpack_from("<Q", plain, position)
        examples.append(_parse_example(plain[position + 12 : position + 12 + length]))
        position += 12 + length + 4
    return examples


def _parse_example(record: bytes) -> dict[str, Any]:
    ((_, features),) = _fields(record)
    example: dict[str, Any] = {}
    for _, entry in _fields(features):
        (_, name), (_, feature) = _fields(entry)
        ((kind, values),) = _fields(feature)
        if kind == 1:
            ((_, example[name.decode()]),) = _fields(values)
        else:
            example[name.decode()] = [value for _, packed in _fields(values) for value in _varints(packed)]
    for name in ("width", "label_length"):
        (example[name],) = example[name]
    for name in ("text", "uri"):
        example[name] = example[name].decode()
    return example


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a protocol buffer message, all of them with a length."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        assert tag & 7 == 2
        length, position = _varint(message, position)
        yield tag >> 3, message[position : position + length]
        position += length


def _varints(packed: bytes) -> Iterator[int]:
    position = 0
    while position < len(packed):
        value, position = _varint(packed, position)
        yield value


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
