"""From labelled images to a committed dataset of TFRecord shards."""

from components.ingest.dataset import IngestRequest, ShardSummary, commit_dataset, write_training_shard
from components.ingest.fit import label_problem

__all__ = [
    "IngestRequest",
    "ShardSummary",
    "commit_dataset",
    "label_problem",
    "write_training_shard",
]
