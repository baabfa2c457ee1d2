"""One labelled line as a `tf.train.Example`, written without TensorFlow and read back as Arrow.

The wire format is that of `tensorflow/core/example/example.proto`. It is written by hand
because a shard's bytes must depend on its content alone: the map inside an Example has no
fixed order in the protobuf libraries, here the features are in alphabetical order.

| feature        | type       | meaning                                               |
|----------------|------------|-------------------------------------------------------|
| `image`        | bytes      | 8-bit grey line at the dataset's height, PNG          |
| `width`        | int64      | pixels, after scaling to the height                   |
| `label`        | int64 list | charset ids, unpadded                                 |
| `label_length` | int64      | length of `label`                                     |
| `text`         | bytes      | the label's text, UTF-8, in its `normalise_text` form |
| `uri`          | bytes      | where the image came from                             |
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow

from tfrecords.shards import read_records


@dataclasses.dataclass(frozen=True)
class LineExample:
    """The content of one TFRecord; see the table at the top of this module."""

    image: bytes
    width: int
    label: tuple[int, ...]
    text: str
    uri: str

    @property
    def label_length(self) -> int:
        """Returns the number of symbols of the label, which the CTC loss gets; never a padded length."""
        return len(self.label)


def encode_example(example: LineExample) -> bytes:
    """Serialises a line as a `tf.train.Example`; equal lines give equal bytes.

    Raises:
        ValueError: for a negative width or symbol id.
    """
    features = {
        "image": _bytes_feature(example.image),
        "label": _int64_feature(example.label),
        "label_length": _int64_feature((example.label_length,)),
        "text": _bytes_feature(example.text.encode()),
        "uri": _bytes_feature(example.uri.encode()),
        "width": _int64_feature((example.width,)),
    }
    entries = b"".join(
        _length_delimited(1, _NAMES[name] + _length_delimited(2, feature)) for name, feature in features.items()
    )
    return _length_delimited(1, entries)


def examples_to_record_batch(serialized: Sequence[bytes]) -> pyarrow.RecordBatch:
    """Decodes serialised examples to Arrow, by tfx-bsl.

    Columns: `image`, `text`, `uri` as `list<binary>` of one value, `width`, `label_length`
    as `list<int64>` of one value, `label` as `list<int64>`.

    Raises:
        ValueError: if some bytes are not a `tf.train.Example`.
    """
    # Each batch has a decoder of its own (0.6 ms): after an error, a decoder returns the rows that it had
    # read before with the next batch, and two threads must not share one.
    try:
        return _new_decoder().DecodeBatch(list(serialized))
    except RuntimeError as error:
        raise ValueError(f"not a serialised tf.train.Example: {error}") from error


def read_uris(path: str, examples_at_a_time: int = 10_000) -> Iterator[pyarrow.Array]:
    """Reads the URIs of the examples of a TFRecord file, as Arrow strings, many at a time.

    Raises:
        DataError: if the file is damaged.
    """
    for (uris,) in _read_strings(path, ("uri",), examples_at_a_time):
        yield uris


def read_labels(path: str, examples_at_a_time: int = 1000) -> Iterator[tuple[pyarrow.Array, pyarrow.Array]]:
    """Reads the URIs and the labels' texts of the examples of a TFRecord file, as Arrow strings, many at a time.

    Raises:
        DataError: if the file is damaged.
    """
    for uris, texts in _read_strings(path, ("uri", "text"), examples_at_a_time):  # noqa: UP028 (pairs, not lists)
        yield uris, texts


def _read_strings(path: str, features: Sequence[str], examples_at_a_time: int) -> Iterator[list[pyarrow.Array]]:
    """Reads features of one string each, and decodes nothing else."""
    decoder = _new_decoder(features)
    records = read_records(path)
    while block := list(itertools.islice(records, examples_at_a_time)):
        batch = decoder.DecodeBatch(block)
        yield [batch.column(batch.schema.get_field_index(name)).flatten().cast(pyarrow.string()) for name in features]


def read_record_batches(path: str, examples_at_a_time: int = 1000) -> Iterator[pyarrow.RecordBatch]:
    """Reads the examples of a TFRecord file as Arrow; see `examples_to_record_batch`.

    Raises:
        DataError: if the file is damaged.
    """
    records = read_records(path)
    while block := list(itertools.islice(records, examples_at_a_time)):
        yield examples_to_record_batch(block)


def _new_decoder(features: Sequence[str] = ("image", "label", "label_length", "text", "uri", "width")) -> Any:
    # Imported here, since workers that ingest only encode.
    from google.protobuf import text_format
    from tensorflow_metadata.proto.v0 import schema_pb2
    from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

    kinds = {"image": "BYTES", "label": "INT", "label_length": "INT", "text": "BYTES", "uri": "BYTES", "width": "INT"}
    schema = text_format.Parse(
        "".join(f'feature {{ name: "{name}" type: {kinds[name]} }}\n' for name in features), schema_pb2.Schema()
    )
    return ExamplesToRecordBatchDecoder(schema.SerializeToString())


_ONE_BYTE = tuple(bytes([value]) for value in range(0x80))


def _varint(value: int) -> bytes:
    if 0 <= value < 0x80:
        return _ONE_BYTE[value]
    if value < 0:
        raise ValueError(f"widths and symbol ids are never negative, but one is {value}")
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _length_delimited(field: int, payload: bytes) -> bytes:
    return _ONE_BYTE[field << 3 | 2] + _varint(len(payload)) + payload


def _bytes_feature(value: bytes) -> bytes:
    return _length_delimited(1, _length_delimited(1, value))


def _int64_feature(values: Sequence[int]) -> bytes:
    packed = b"".join(map(_varint, values))
    return _length_delimited(3, _length_delimited(1, packed) if packed else b"")


_NAMES = {
    name: _length_delimited(1, name.encode()) for name in ("image", "label", "label_length", "text", "uri", "width")
}
