"""From labelled images to a committed dataset of TFRecord shards."""

from components.ingest.dataset import IngestRequest, ShardSummary, commit_dataset, write_training_shard
from components.ingest.fit import explain_label_misfit

__all__ = [
    "IngestRequest",
    "ShardSummary",
    "commit_dataset",
    "explain_label_misfit",
    "write_training_shard",
]
