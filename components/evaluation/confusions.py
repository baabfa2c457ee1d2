"""Confusions of symbols: alignment of truth and recognised text, and counts of the pairs that differ."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import unicodedata
from collections.abc import Callable

import pyarrow
from rapidfuzz.distance import Levenshtein

EXAMPLES = 3
SCHEMA = pyarrow.schema(
    [
        pyarrow.field("truth", pyarrow.string(), nullable=False),
        pyarrow.field("read", pyarrow.string(), nullable=False),
        pyarrow.field("count", pyarrow.int64(), nullable=False),
        pyarrow.field("truth_count", pyarrow.int64()),
        pyarrow.field("examples", pyarrow.list_(pyarrow.string()), nullable=False),
    ]
)

Pair = tuple[str, str]
"""A true symbol and the recognised one; one of them is empty where a symbol was added or left out."""


def align_texts(truth: str, read: str) -> list[Pair]:
    """Aligns two texts with the fewest edits (Levenshtein 1966), always in the same way; returns pairs of symbols."""
    return [
        pair
        for step in Levenshtein.opcodes(truth, read)
        for pair in itertools.zip_longest(
            truth[step.src_start : step.src_end], read[step.dest_start : step.dest_end], fillvalue=""
        )
    ]


@dataclasses.dataclass
class Confusions:
    """Counts over many lines.

    Attributes:
        pairs: number of times that each pair of different symbols occurs.
        symbols: number of times that each symbol occurs in the truth.
        examples: URIs of the first lines with each pair.
    """

    pairs: collections.Counter[Pair] = dataclasses.field(default_factory=collections.Counter)
    symbols: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    examples: dict[Pair, list[str]] = dataclasses.field(default_factory=dict)

    def add(self, truth: str, read: str, uri: str) -> None:
        """Counts one line."""
        self.symbols.update(truth)
        if truth == read:
            return
        differing = [pair for pair in align_texts(truth, read) if pair[0] != pair[1]]
        self.pairs.update(differing)
        for pair in dict.fromkeys(differing):
            examples = self.examples.setdefault(pair, [])
            if len(examples) < EXAMPLES:
                examples.append(uri)

    def to_table(self) -> pyarrow.Table:
        """Makes a table of the pairs, the most frequent first; `truth_count` is null where a symbol was added."""
        pairs = sorted(self.pairs, key=lambda pair: (-self.pairs[pair], pair))
        return pyarrow.table(
            {
                "truth": [truth for truth, _ in pairs],
                "read": [read for _, read in pairs],
                "count": [self.pairs[pair] for pair in pairs],
                "truth_count": [self.symbols[truth] if truth else None for truth, _ in pairs],
                "examples": [self.examples[pair] for pair in pairs],
            },
            schema=SCHEMA,
        )


def spell_symbol(symbol: str) -> str:
    """Spells a symbol for print: as itself, or as `U+0303` if it is a mark, a space or without shape."""
    return f"U+{ord(symbol):04X}" if unicodedata.category(symbol)[0] in "MZC" else symbol


def describe_confusions(truth: str, read: str, spell: Callable[[str], str] = spell_symbol) -> str:
    """Describes a pair in words."""
    if not truth:
        return f"{spell(read)} added"
    return f"{spell(truth)} read as {spell(read)}" if read else f"{spell(truth)} left out"
