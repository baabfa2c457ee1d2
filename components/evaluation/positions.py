"""Errors by their place in the line: a network that does not see enough of a line, or a cut line, shows there."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rapidfuzz.distance import Levenshtein

TENTHS = 10
_WORSE = 3.0  # times the CER of the rest of the lines
_ENOUGH_ERRORS = 30


@dataclasses.dataclass
class PositionCounts:
    """Symbols and errors in each tenth of the labels, counted over many lines.

    Attributes:
        lengths: number of labels of each length.
        errors: symbol errors in each tenth, from the first.
    """

    lengths: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    errors: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)

    def add(self, truth: str, read: str) -> None:
        """Counts one line. A symbol that was added counts where the next true one is, or the last one at the end.

        What was read on a line with an empty label has no place.
        """
        self.lengths[len(truth)] += 1
        if truth == read or not truth:
            return
        for step in Levenshtein.opcodes(truth, read):
            if step.tag == "insert":
                place = min(step.src_start, len(truth) - 1)
                self.errors[_find_tenth(place, len(truth))] += step.dest_end - step.dest_start
            elif step.tag != "equal":
                for place in range(step.src_start, step.src_end):
                    self.errors[_find_tenth(place, len(truth))] += 1

    def compute_rates(self) -> list[dict[str, Any]]:
        """Computes the CER of each tenth that has symbols: `from` and `to` (shares of the line), `symbols`, `cer`."""
        symbols: collections.Counter[int] = collections.Counter()
        for length, labels in self.lengths.items():
            for place in range(length):
                symbols[_find_tenth(place, length)] += labels
        return [
            {
                "from": tenth / TENTHS,
                "to": (tenth + 1) / TENTHS,
                "symbols": symbols[tenth],
                "symbol_errors": self.errors[tenth],
                "cer": self.errors[tenth] / symbols[tenth],
            }
            for tenth in sorted(symbols)
        ]


def _find_tenth(place: int, length: int) -> int:
    return place * TENTHS // length


def explain_weak_place(rates: Sequence[Mapping[str, Any]]) -> str | None:
    """Says in one sentence where in the lines far more symbols are wrong than elsewhere; None if that is nowhere."""
    if len(rates) < 2:
        return None
    worst = max(rates, key=lambda rate: rate["cer"])
    others = [rate for rate in rates if rate is not worst]
    elsewhere = sum(rate["symbol_errors"] for rate in others) / sum(rate["symbols"] for rate in others)
    if worst["symbol_errors"] < _ENOUGH_ERRORS or worst["cer"] < _WORSE * elsewhere:
        return None
    return (
        f"of the symbols from {worst['from']:.0%} to {worst['to']:.0%} of the line, {worst['cer']:.1%} are wrong, and "
        f"{elsewhere:.1%} elsewhere: see in worst_lines.png whether the images are cut there or show something that "
        "is not in the label; if not, a --model that sees more of a line may help"
    )
