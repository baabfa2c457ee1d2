"""Tables of images for the tests, of every format."""

import io
import pathlib
from collections.abc import Sequence

import pyarrow
import pyarrow.parquet

TABLE_KINDS = ("a.parquet", "bytes.parquet")
Row = tuple[bytes | None, str | None]
"""The bytes of an image, and its text."""
HUGGING_FACE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def make_table(name: str, rows: Sequence[Row]) -> bytes:
    """Packs images and texts into the kind of table that a name of `TABLE_KINDS` says."""
    return make_parquet(rows, nested=name != "bytes.parquet")


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
