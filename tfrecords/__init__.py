"""The data contract: line images, labels, shards and datasets.

Nothing here imports TensorFlow, Beam or a cloud client, so a worker that only encodes or
decodes images starts fast.
"""

from tfrecords.charset import Charset, CharsetError, count_adjacent_repeats
from tfrecords.errors import DataError, ProcessLostError, StoreError, StoreLostError
from tfrecords.example import (
    LineExample,
    encode_example,
    examples_to_record_batch,
    read_labels,
    read_record_batches,
    read_uris,
)
from tfrecords.image import (
    ImageLimits,
    ImageRejected,
    LineImage,
    convert_line,
    pad_lines,
    read_grey,
    read_line,
)
from tfrecords.manifest import DatasetManifest, ShardEntry
from tfrecords.orientation import turn_upright
from tfrecords.png import decode_png, encode_png
from tfrecords.shards import SPLITS, SplitFractions, choose_shard, choose_split, name_shard, read_records, write_records
from tfrecords.text import normalise_text

__all__ = [
    "SPLITS",
    "Charset",
    "CharsetError",
    "DataError",
    "DatasetManifest",
    "ImageLimits",
    "ImageRejected",
    "LineExample",
    "LineImage",
    "ProcessLostError",
    "ShardEntry",
    "SplitFractions",
    "StoreError",
    "StoreLostError",
    "choose_shard",
    "choose_split",
    "convert_line",
    "count_adjacent_repeats",
    "decode_png",
    "encode_example",
    "encode_png",
    "examples_to_record_batch",
    "name_shard",
    "normalise_text",
    "pad_lines",
    "read_grey",
    "read_labels",
    "read_line",
    "read_record_batches",
    "read_records",
    "read_uris",
    "turn_upright",
    "write_records",
]
