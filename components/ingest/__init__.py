"""From labelled images to a committed dataset of TFRecord shards."""

from components.ctc.fit import explain_label_misfit
from components.ingest.dataset import IngestRequest, ShardSummary, commit_dataset, write_training_shard

__all__ = [
    "IngestRequest",
    "ShardSummary",
    "commit_dataset",
    "explain_label_misfit",
    "write_training_shard",
]
