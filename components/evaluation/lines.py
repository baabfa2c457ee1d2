"""One held-out line as a model recognised it."""

from __future__ import annotations

import dataclasses

import numpy as np

from tfrecords import decode_png


@dataclasses.dataclass(frozen=True)
class EvaluatedLine:
    """One test line: its label, the text recognised, and its pixels as PNG.

    Attributes:
        uri: of the image.
        truth: the label.
        text: as recognised.
        confidence: of the text, 0 to 1.
        symbol_errors: edits between truth and text.
        png: the line as the model saw it.
    """

    uri: str
    truth: str
    text: str
    confidence: float
    symbol_errors: int
    png: bytes

    @property
    def right(self) -> bool:
        """Checks whether the text has no error."""
        return self.truth == self.text

    @property
    def pixels(self) -> np.ndarray:
        """Grey pixels, uint8 [height, width]."""
        return decode_png(self.png)
