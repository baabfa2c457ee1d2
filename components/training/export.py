"""The trained network as a SavedModel that needs neither Keras nor this project to be read."""

from __future__ import annotations

import keras
import tensorflow as tf


def reading_signature(height: int) -> list[tf.TensorSpec]:
    """Images uint8 [batch, height, width, 1], white beyond a line's end, and widths int32 [batch]."""
    return [
        tf.TensorSpec([None, height, None, 1], tf.uint8, name="images"),
        tf.TensorSpec([None], tf.int32, name="widths"),
    ]


def export_saved_model(model: keras.Model, height: int, folder: str) -> None:
    """Writes a SavedModel with the endpoint `score`.

    `score` takes what `reading_signature` says and returns a dictionary of `logits`
    float32 [batch, time, classes] and `time_steps` int32 [batch].
    """
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "score",
        lambda images, widths: model([images, widths], training=False),
        input_signature=reading_signature(height),
    )
    archive.write_out(folder, verbose=False)
