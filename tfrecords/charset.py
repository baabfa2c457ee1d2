"""Text, symbols, symbol ids and the CTC blank: every decision about them is made here.

A symbol is one Unicode code point of a label after `normalise_text`. Ids run from 0 in
code-point order; the CTC blank is the last class, `len(charset)`. Ids of a text stand in the
order in which its symbols are seen, from left to right (`tfrecords.directions`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import unicodedata
from collections.abc import Iterable, Sequence

from tfrecords.directions import VISUAL, to_display_order, to_logical_order
from tfrecords.errors import DataError
from tfrecords.text import normalise_text


class CharsetError(DataError):
    """A charset file or a symbol that cannot be used."""


def count_adjacent_repeats(label: Sequence[int]) -> int:
    """Counts the symbols that equal the one before them.

    Each needs a blank in between (Graves et al. 2006, section 3.1).
    """
    return sum(1 for left, right in itertools.pairwise(label) if left == right)


@dataclasses.dataclass(frozen=True)
class Charset:
    """The symbols that a model can write, in the order of their ids.

    Attributes:
        symbols: distinct single code points in code-point order; symbol `i` has id `i`.
        direction: one of `tfrecords.directions.DIRECTIONS`, which says how the symbols of a text stand on an image.

    Raises:
        CharsetError: for no symbols, a repeated or unordered one, one of several code
            points, or one that `normalise_text` would change or drop.
    """

    symbols: tuple[str, ...]
    direction: str = VISUAL

    def __post_init__(self) -> None:
        if not self.symbols:
            raise CharsetError("a charset needs at least one symbol: were there any labels?")
        for symbol in self.symbols:
            if len(symbol) != 1:
                raise CharsetError(f"charset symbol {symbol!r} has {len(symbol)} code points, not 1")
            if symbol != " " and normalise_text(symbol) != symbol:
                raise CharsetError(f"charset symbol {symbol!r} (U+{ord(symbol):04X}) cannot occur in an NFC label")
        for left, right in itertools.pairwise(self.symbols):
            if left >= right:
                raise CharsetError(
                    f"charset symbols must be distinct and sorted by code point, but {right!r} follows {left!r}"
                )

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> Charset:
        """Collects the symbols that occur in `texts`, each text in its `normalise_text` form."""
        return cls(tuple(sorted({symbol for text in texts for symbol in text})))

    @classmethod
    def from_lines(cls, content: str) -> Charset:
        """Reads a list that a person wrote: one symbol a line, in any order.

        A letter with marks that NFC leaves decomposed may stand on one line. It gives one
        symbol for each code point.

        Raises:
            CharsetError: for a line that holds more than one letter.
        """
        symbols: set[str] = set()
        for number, line in enumerate(content.split("\n"), 1):
            line = line.removesuffix("\r")
            symbol = line if line == " " else normalise_text(line)
            if any(not unicodedata.category(mark).startswith(("M", "Cf")) for mark in symbol[1:]):
                raise CharsetError(f"line {number} holds {line!r}, which is more than one symbol")
            symbols.update(symbol)
        return cls(tuple(sorted(symbols)))

    @classmethod
    def from_file_text(cls, content: str, *, source: str) -> Charset:
        """Reads what `to_file_text` wrote: one symbol a line.

        Raises:
            CharsetError: naming `source` if the content is no charset.
        """
        lines = content.split("\n")
        if lines and lines[-1] == "":
            lines.pop()
        try:
            return cls(tuple(lines))
        except CharsetError as error:
            raise CharsetError(f"{source}: {error}") from None

    def to_file_text(self) -> str:
        """Returns one symbol a line, in the order of the ids, each line ended by a newline."""
        return "".join(f"{symbol}\n" for symbol in self.symbols)

    @property
    def blank(self) -> int:
        """Returns the class of the CTC blank: always the last."""
        return len(self.symbols)

    @property
    def classes(self) -> int:
        """Returns the number of classes of the network's last layer: the symbols and the blank."""
        return len(self.symbols) + 1

    @property
    def digest(self) -> str:
        """Returns the SHA-256 of the charset file, hexadecimal, on which a model and its dataset must agree."""
        return hashlib.sha256(self.to_file_text().encode()).hexdigest()

    def add(self, symbols: Iterable[str]) -> Charset:
        """Returns the charset of these symbols and others."""
        return Charset(tuple(sorted({*self.symbols, *symbols})), self.direction)

    def missing(self, text: str) -> list[str]:
        """Finds the symbols that a label needs and the charset lacks; each once, sorted."""
        return self._find_unknown(to_display_order(text, self.direction))

    def _find_unknown(self, seen: str) -> list[str]:
        return sorted(set(seen) - set(self.symbols))

    def missing_from(self, symbols: Iterable[str]) -> list[str]:
        """Finds the symbols of the charset that are not among `symbols`; sorted."""
        return sorted(set(self.symbols) - set(symbols))

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a label's symbols, in the order in which they are seen.

        Raises:
            CharsetError: naming the symbols that are not in the charset.
        """
        seen = to_display_order(text, self.direction)
        if unknown := self._find_unknown(seen):
            named = ", ".join(f"{symbol!r} (U+{ord(symbol):04X})" for symbol in unknown)
            raise CharsetError(f"label {text!r} has symbols that are not in the charset: {named}")
        return self.get_ids(seen)

    def get_ids(self, symbols: Iterable[str]) -> list[int]:
        """Returns the id of each of these symbols, which the charset has, in the order given."""
        ids = self._ids
        return [ids[symbol] for symbol in symbols]

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of symbol ids without blanks, which a decoder has already removed, in logical order.

        Raises:
            CharsetError: for an id that belongs to no symbol; the blank's is one of these.
        """
        return self.decode_with_places(ids)[0]

    def decode_with_places(self, ids: Iterable[int]) -> tuple[str, Sequence[int]]:
        """Returns the text as `decode` does, and for each of its symbols the place of its id among `ids`."""
        symbols = []
        for i in ids:
            if not 0 <= i < len(self.symbols):
                raise CharsetError(
                    f"id {i} is no symbol: ids run from 0 to {len(self.symbols) - 1}, blank {self.blank}"
                )
            symbols.append(self.symbols[i])
        return to_logical_order("".join(symbols), self.direction)

    @property
    def _ids(self) -> dict[str, int]:
        cached = self.__dict__.get("_ids_cache")
        if cached is None:
            cached = {symbol: i for i, symbol in enumerate(self.symbols)}
            object.__setattr__(self, "_ids_cache", cached)
        return cached
