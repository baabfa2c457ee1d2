"""Tables of images for the tests, of every format."""

import gzip
import io
import pathlib
import struct
from collections.abc import Sequence

import pyarrow
import pyarrow.ipc
import pyarrow.parquet

from tfrecords.shards import compute_masked_crc

TABLE_KINDS = (
    *("a.parquet", "bytes.parquet", "a.tfrecord", "a.tfrecords.gz", "b.tfrecord-00000-of-00001"),
    *("a.arrow", "stream.arrow"),
)
Row = tuple[bytes | None, str | None]
"""The bytes of an image, and its text."""
HUGGING_FACE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def make_table(name: str, rows: Sequence[Row]) -> bytes:
    """Packs images and texts into the kind of table that a name of `TABLE_KINDS` says."""
    if name.endswith(".parquet"):
        return make_parquet(rows, nested=name != "bytes.parquet")
    if name.endswith(".arrow"):
        return write_arrow(make_arrow_table(rows), in_stream=name == "stream.arrow")
    records = [make_example(row) for row in rows]
    packed = frame(records)
    return gzip.compress(packed) if name.endswith(".gz") else packed


def write_arrow(table: pyarrow.Table, *, in_stream: bool = False, **options: object) -> bytes:
    """Writes a table in Arrow's format of files or of streams, in batches of ten rows."""
    packed = io.BytesIO()
    new = pyarrow.ipc.new_stream if in_stream else pyarrow.ipc.new_file
    with new(packed, table.schema, options=pyarrow.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=10)
    return packed.getvalue()


def make_example(row: Row) -> bytes:
    """Makes an example with TensorFlow's names of features, written as its protobuf library writes it."""
    image, text = row
    values = {"image/encoded": image, "image/text": None if text is None else text.encode()}
    features = {"image/format": pack_bytes(b"png"), "image/width": b"\x1a\x03\x0a\x01\x20"}
    features |= {name: pack_bytes(value) for name, value in values.items() if value is not None}
    entries = (pack_field(1, name.encode()) + pack_field(2, feature) for name, feature in features.items())
    return pack_field(1, b"".join(pack_field(1, entry) for entry in entries))


def pack_bytes(value: bytes) -> bytes:
    """Writes a feature of bytes."""
    return pack_field(1, pack_field(1, value))


def pack_field(number: int, content: bytes) -> bytes:
    """Writes a field of a message with its length."""
    length, size = len(content), bytearray()
    while length > 0x7F:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([number << 3 | 2, *size, length]) + content


def frame(records: Sequence[bytes]) -> bytes:
    """Writes records one after the other, each with its length and both checksums."""
    lengths = [struct.pack("<Q", len(record)) for record in records]
    return b"".join(
        length + compute_masked_crc(length) + record + compute_masked_crc(record)
        for length, record in zip(lengths, records, strict=True)
    )


def make_arrow_table(rows: Sequence[Row], *, nested: bool = True) -> pyarrow.Table:
    """Makes a table as Hugging Face writes it, or with plain bytes."""
    images = [image for image, _ in rows]
    column = pyarrow.array(images, pyarrow.binary())
    if nested:
        structs = [None if image is None else {"bytes": image, "path": "line.png"} for image in images]
        column = pyarrow.array(structs, HUGGING_FACE)
    return pyarrow.table({"image": column, "text": pyarrow.array([text for _, text in rows], pyarrow.string())})


def make_parquet(rows: Sequence[Row], *, nested: bool = True) -> bytes:
    """Makes a Parquet file of row groups of ten."""
    return write_parquet(make_arrow_table(rows, nested=nested), row_group_size=10)


def write_parquet(table: pyarrow.Table, **options: object) -> bytes:
    """Writes any table as Parquet."""
    packed = io.BytesIO()
    pyarrow.parquet.write_table(table, packed, **options)
    return packed.getvalue()


def put_table(folder: pathlib.Path, name: str, rows: Sequence[Row]) -> str:
    """Writes a table of a kind of `TABLE_KINDS`; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(make_table(name, rows))
    return str(folder / name)
