"""The choice of a decoder, which `--decoder` names."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from components.ctc.beam_search import decode_with_beam_search
from components.ctc.decoding import Decoded, decode_greedily
from components.ctc.fusion import Fusion, decode_with_language_model
from components.ctc.lexicon import Lexicon, decode_with_lexicon
from tfrecords import Charset, DataError, storage

DECODERS = ("auto", "greedy", "beam", "lexicon")
_EMPTY = '""'  # in a lexicon, since an empty line may be there by chance
_ALTERNATIVES = 2
"""Of a beam search with a language model: each costs time."""


@dataclasses.dataclass(frozen=True)
class Decoding:
    """The settings with which logits become text.

    Attributes:
        decoder: one of `DECODERS`. `auto` is `beam` for a model with a language model, and `greedy` for others.
        beam_width: number of beginnings of texts that the beam search keeps.
        lexicon: file of words, one a line in UTF-8, local or remote, for the decoder of that name; two quotation marks
            stand for the empty text.
        lexicon_sha256: of that file, hexadecimal; None if any content will do.

    Raises:
        ValueError: for a decoder that does not exist, less than one beginning, or a lexicon without its decoder.
    """

    decoder: str = "auto"
    beam_width: int = 10
    lexicon: str | None = None
    lexicon_sha256: str | None = None

    def __post_init__(self) -> None:
        if self.decoder not in DECODERS:
            raise ValueError(f"decoder is {self.decoder!r}, but must be one of {', '.join(DECODERS)}")
        if self.beam_width < 1:
            raise ValueError(f"beam_width must be at least 1, not {self.beam_width}")
        if (self.decoder == "lexicon") != (self.lexicon is not None):
            raise ValueError("decoder='lexicon' and lexicon=FILE go together: give both, or neither")

    def choose_for(self, has_language_model: bool) -> Decoding:
        """Returns the same settings with the decoder that `auto` stands for."""
        if self.decoder != "auto":
            return self
        return dataclasses.replace(self, decoder="beam" if has_language_model else "greedy")

    def pin_lexicon(self) -> Decoding:
        """Returns the same settings with the checksum of the lexicon as it is now."""
        if not self.lexicon:
            return self
        return dataclasses.replace(self, lexicon_sha256=storage.compute_checksum(self.lexicon))

    @property
    def identity(self) -> list[Any]:
        """Settings on which the text for given logits depends."""
        identity: list[Any] = [self.decoder]
        if self.decoder == "beam":
            identity.append(self.beam_width)
        if self.lexicon_sha256:
            identity.append(self.lexicon_sha256)
        return identity

    def read_lexicon(self, charset: Charset) -> Lexicon:
        """Reads the words of the lexicon's file.

        Raises:
            DataError: if the file cannot be read, was changed, or has no word that the charset can write.
        """
        assert self.lexicon is not None
        try:
            content = storage.read_bytes(self.lexicon)
            text = content.decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"--lexicon={self.lexicon} has to hold one word a line, in UTF-8: {error}") from None
        if self.lexicon_sha256 not in (None, hashlib.sha256(content).hexdigest()):
            raise DataError(f"--lexicon={self.lexicon} was changed while the job ran: run it again")
        try:
            words = text.splitlines()
            return Lexicon.from_words((w for w in words if w != _EMPTY), charset, with_empty=_EMPTY in words)
        except DataError as error:
            raise DataError(f"--lexicon={self.lexicon}: {error}") from None

    def make_function(
        self, charset: Charset, fusion: Fusion | None = None
    ) -> Callable[[np.ndarray, np.ndarray], list[Decoded]]:
        """Makes the decoder: a function of logits and time steps that returns a `Decoded` for each image.

        Args:
            fusion: the model's language model, if it has one.

        Raises:
            DataError: as `read_lexicon` does.
        """
        decoder = self.choose_for(fusion is not None).decoder
        if decoder == "beam" and fusion is not None:
            return functools.partial(
                decode_with_language_model,
                fusion=fusion,
                beam_width=self.beam_width,
                alternatives=min(self.beam_width - 1, _ALTERNATIVES),
            )
        if decoder == "beam":
            return functools.partial(
                decode_with_beam_search, beam_width=self.beam_width, alternatives=self.beam_width - 1
            )
        if decoder == "lexicon":
            return functools.partial(decode_with_lexicon, lexicon=self.read_lexicon(charset))
        return decode_greedily
