"""The same steps in any place: a folder or a bucket with images in `lines` and a workspace in `ws`."""

from __future__ import annotations

import io
import re

import pyarrow.parquet

from tests.commands import run_command
from tfrecords import DatasetManifest, read_record_batches, storage


def run(place: str, steps: str, *flags: str) -> int:
    """The command on the images in `lines` and the workspace `ws` of a place."""
    images = [f"--images={place}/lines", f"--infer_images={place}/lines", "--label_source=sidecar", "--height=32"]
    return run_command(f"{place}/ws", f"--steps={steps}", *images, *flags)


def examples(place: str) -> list[tuple]:
    """What the latest dataset holds, but for the place of its images."""
    folder = f"{place}/ws/datasets/{storage.read_bytes(f'{place}/ws/datasets/LATEST').decode().strip()}"
    found = []
    for shard in DatasetManifest.read(folder).shards:
        assert storage.compute_checksum(f"{folder}/{shard.name}") == shard.sha256
        for batch in read_record_batches(f"{folder}/{shard.name}"):
            columns = {
                name: batch.column(batch.schema.get_field_index(name)).to_pylist() for name in batch.schema.names
            }
            rows = zip(*(columns[name] for name in sorted(columns) if name != "uri"), strict=True)
            names = [uri.decode().rpartition("/")[2] for (uri,) in columns["uri"]]
            found += [(shard.name, name, row) for name, row in zip(names, rows, strict=True)]
    return found


def predictions(place: str) -> list[tuple]:
    """What the only run of predictions read, but for the place of its images."""
    (date,) = storage.list_names(f"{place}/ws/predictions")
    (run_folder,) = storage.list_names(f"{place}/ws/predictions/{date}")
    folder = f"{place}/ws/predictions/{date}/{run_folder}"
    rows = []
    for name in storage.list_names(folder):
        if name.endswith(".parquet"):
            rows += pyarrow.parquet.read_table(io.BytesIO(storage.read_bytes(f"{folder}/{name}"))).to_pylist()
    return sorted(
        (row["uri"].rpartition("/")[2], row["text"], row["confidence"], row["width"], row["height"]) for row in rows
    )


def errors(capsys) -> list[str]:
    """What the command printed as errors, and nothing else beside."""
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line and not re.match(r"WARNING: All log|[IWE]\d{4} ", line)]
    assert all(line.startswith("error: ") for line in lines), err
    return lines
