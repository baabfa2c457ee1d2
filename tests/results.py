"""Results of a command in its workspace: the lines of its dataset, and the texts that it recognised."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np

from components.lines import read_example_lines
from tfrecords import DatasetManifest, read_records


def read_dataset(workspace: Path) -> tuple[DatasetManifest, dict[str, tuple[str, np.ndarray]]]:
    """Reads the one dataset of a workspace: its manifest, and the text and the pixels of each line by its URI."""
    (folder,) = (path.parent for path in workspace.glob("datasets/*/manifest.json"))
    manifest = DatasetManifest.read(str(folder))
    records = (record for shard in manifest.shards for record in read_records(f"{folder}/{shard.name}"))
    return manifest, {uri: (text, pixels) for (text, uri), pixels in read_example_lines(records)}


def read_texts(workspace: Path) -> dict[str, str]:
    """Reads the texts of all runs by their URIs."""
    files = f"{workspace}/predictions/*/*/*.parquet"
    return dict(duckdb.sql(f"select uri, text from read_parquet('{files}')").fetchall())
