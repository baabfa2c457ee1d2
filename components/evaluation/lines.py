"""One held-out line as a model recognised it."""

from __future__ import annotations

import dataclasses

import numpy as np

from tfrecords import decode_png


@dataclasses.dataclass(frozen=True)
class EvaluatedLine:
    """One test line: what it says, what was read, and its pixels as PNG."""

    uri: str
    truth: str
    text: str
    confidence: float
    symbol_errors: int
    png: bytes

    @property
    def right(self) -> bool:
        """Whether it was read without any error."""
        return self.truth == self.text

    @property
    def pixels(self) -> np.ndarray:
        """Grey, uint8 [height, width]."""
        return decode_png(self.png)
