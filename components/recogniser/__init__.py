"""A trained model, loaded and run.

    from components.recogniser import load_recogniser

    recogniser = load_recogniser("work/")
    for found in recogniser.recognise(["line.png"]):
        print(found.text, found.confidence)

Importing this package loads neither TensorFlow nor Beam, nor does recognising with ONNX Runtime. For a Beam pipeline
see `components.recogniser.handler`.
"""

from components.ctc.decoders import Decoding
from components.recogniser.images import ImageSource, make_line
from components.recogniser.loading import find_model, load_recogniser
from components.recogniser.manifest import ModelManifest
from components.recogniser.model import Recogniser, RecogniserSpec, Recognition
from components.recogniser.words import Word
from tfrecords import DataError, ImageLimits, ImageRejected

__all__ = [
    "DataError",
    "Decoding",
    "ImageLimits",
    "ImageRejected",
    "ImageSource",
    "ModelManifest",
    "Recogniser",
    "RecogniserSpec",
    "Recognition",
    "Word",
    "find_model",
    "load_recogniser",
    "make_line",
]
