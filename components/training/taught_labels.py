"""Labels that a model gives to unlabelled lines, so that another model can train on them beside the true ones.

After Lee 2013, "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method", with labels that the model
of the round before makes anew for each round (Xie et al. 2020, "Self-training with Noisy Student"), and more of them
each round, the most confident first (Cascante-Bonilla et al. 2021, "Curriculum Labeling").
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Iterator, Sequence

import pyarrow

from components.ctc.fit import explain_label_misfit
from components.lines import Content, map_in_order, read_referenced_line
from components.listing import ImageReference
from components.recogniser.batches import recognise_in_batches
from components.recogniser.model import Recogniser, Recognition
from components.rejects import Reject
from tfrecords import (
    Charset,
    DatasetManifest,
    ImageLimits,
    LineExample,
    ShardEntry,
    decode_png,
    encode_example,
    encode_png,
    storage,
    write_records,
)
from tfrecords.manifest import CHARSET_NAME

TAUGHT_NAME = "taught_labels.parquet"
"""The file beside a model with the labels that another model gave to the lines on which this one was trained too."""
TAUGHT_SCHEMA = pyarrow.schema(
    [
        pyarrow.field("uri", pyarrow.string(), nullable=False),
        pyarrow.field("text", pyarrow.string(), nullable=False),
        pyarrow.field("confidence", pyarrow.float32(), nullable=False),
        pyarrow.field("model_id", pyarrow.string(), nullable=False),
    ]
)
_SHARD_NAME = "train-taught.tfrecord.gz"


@dataclasses.dataclass(frozen=True)
class UnlabelledLine:
    """A line of an image without a label.

    Attributes:
        uri: of the image.
        png: the grey line at the models' height, PNG.
        width: pixels.
    """

    uri: str
    png: bytes
    width: int


@dataclasses.dataclass(frozen=True)
class TaughtLine:
    """A line with the label that a model gave it.

    Attributes:
        line: the line.
        text: the label.
        confidence: posterior of the text, 0 to 1.
    """

    line: UnlabelledLine
    text: str
    confidence: float


def read_unlabelled_lines(
    references: Sequence[ImageReference], height: int, limits: ImageLimits, vertical: bool = False
) -> tuple[list[UnlabelledLine], int]:
    """Reads the lines of images, scaled to a height; returns them, and the number of images that cannot be read."""
    read = functools.partial(_read_line, height=height, limits=limits, vertical=vertical)
    lines = list(map_in_order(read, references, 1, limits))
    found = [line for line in lines if line is not None]
    return found, len(lines) - len(found)


def _read_line(
    reference: ImageReference, content: Content, height: int, limits: ImageLimits, vertical: bool
) -> UnlabelledLine | None:
    line = read_referenced_line(reference, content, height, limits, vertical)
    if isinstance(line, Reject):
        return None
    return UnlabelledLine(reference.uri, encode_png(line.pixels), line.pixels.shape[1])


def label_confident_lines(
    lines: Sequence[UnlabelledLine], recogniser: Recogniser, charset: Charset, share: float
) -> list[TaughtLine]:
    """Labels lines with a model's readings, and keeps the share of them of which it is most confident.

    The share, and not a threshold, decides, because confidences of a model with few validation lines are calibrated
    badly, while their order is good. Of the share, readings are left out that have no symbol, symbols that the charset
    lacks, or more symbols than the CTC loss can place on the line.

    Args:
        charset: of the dataset to which the lines are to be added.
        share: from 0 to 1, rounded up to a line.

    Returns:
        The lines, in the order in which they were given.

    Raises:
        DataError: if the model gives no numbers.
    """
    pixels = ((i, decode_png(line.png)) for i, line in enumerate(lines))
    recognitions: dict[int, Recognition] = dict(recognise_in_batches(pixels, recogniser.recognise_lines))
    ranked = sorted(recognitions, key=lambda i: (-recognitions[i].confidence, lines[i].uri))
    taught = []
    for i in sorted(ranked[: math.ceil(share * len(lines))]):
        line, text, confidence = lines[i], recognitions[i].text, recognitions[i].confidence
        if not text or charset.missing(text):
            continue
        label = charset.encode(text)
        if explain_label_misfit(line.uri, tuple(label), line.width, recogniser.manifest.time_stride) is None:
            taught.append(TaughtLine(line, text, confidence))
    return taught


def write_taught_dataset(
    folder: str, source: str, manifest: DatasetManifest, charset: Charset, taught: Sequence[TaughtLine]
) -> DatasetManifest:
    """Writes a dataset's training and validation examples into a local folder, and taught lines to the training ones.

    Args:
        folder: local, and empty.
        source, manifest, charset: the dataset, local or remote.

    Returns:
        Its manifest.

    Raises:
        FileNotFoundError: if a shard is gone.
    """
    shards = [shard for split in ("train", "validation") for shard in manifest.shards_of(split)]
    for name in (CHARSET_NAME, *(shard.name for shard in shards)):
        storage.copy_file(storage.join(source, name), os.path.join(folder, name))

    def encode() -> Iterator[bytes]:
        for one in taught:
            label = tuple(charset.encode(one.text))
            yield encode_example(LineExample(one.line.png, one.line.width, label, one.text, one.line.uri))

    shard = ShardEntry(_SHARD_NAME, "train", *write_records(os.path.join(folder, _SHARD_NAME), encode()))
    grown = dataclasses.replace(manifest, shards=(*shards, shard))
    grown.write(folder)
    return grown


def write_taught_labels(folder: str, taught: Sequence[TaughtLine], model_id: str) -> None:
    """Writes the labels that a model gave, as `TAUGHT_NAME`, into a folder."""
    columns = [
        [one.line.uri for one in taught],
        [one.text for one in taught],
        [one.confidence for one in taught],
        [model_id] * len(taught),
    ]
    storage.write_parquet(storage.join(folder, TAUGHT_NAME), pyarrow.table(columns, TAUGHT_SCHEMA))
