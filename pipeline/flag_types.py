"""Flags: their names, meanings and defaults, and the values that they accept."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
from collections.abc import Callable
from typing import Any

from tfrecords import DataError, storage


class UsageError(DataError):
    """A command line that cannot be run."""


class OutOfRangeError(Exception):
    """A value that a flag does not accept; the message goes on from the flag and its value, such as "must be …"."""


@dataclasses.dataclass(frozen=True)
class Number:
    """A type of values: numbers within limits. Called with a text, it returns the number.

    Attributes:
        kind: int for whole numbers, or float.
        least, most: limits that are allowed themselves.
        above, below: limits that are not.
        note: follows the limits in texts, such as their unit.
    """

    kind: type[int] | type[float]
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    note: str = ""

    def __call__(self, text: str) -> float:
        """Returns the number that a text stands for.

        Raises:
            OutOfRangeError: for a number outside the limits.
            argparse.ArgumentTypeError: for any other text.
        """
        try:
            value = self.kind(text)
        except ValueError:
            noun = "whole number" if self.kind is int else "number"
            raise argparse.ArgumentTypeError(
                f"invalid {self.kind.__name__} value: {text!r}, which has to be a {noun}, {self.limits}"
            ) from None
        if not self._allows(value):
            raise OutOfRangeError(f"must be {self.limits}")
        return value

    @property
    def limits(self) -> str:
        """The limits in words, such as "from 16 to 512 pixels"."""
        if self.least is not None and self.most is not None:
            return f"from {self.least} to {self.most}{self.note}"
        bounds = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        return " and ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None) + self.note

    def _allows(self, value: float) -> bool:
        """Returns whether a value is within the limits, which NaN never is."""
        return (
            value == value
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )


def whole_number(least: int, most: int | None = None, *, note: str = "") -> Number:
    """Returns the type of whole numbers from `least` to `most`."""
    return Number(int, least=least, most=most, note=note)


def number(*, least: float | None = None, above: float | None = None, below: float | None = None) -> Number:
    """Returns the type of numbers that are at least `least`, or above `above`, and below `below`."""
    return Number(float, least=least, above=above, below=below)


FRACTION = Number(float, least=0, most=1)


def read_day(text: str) -> str:
    """Returns a day written YYYY-MM-DD as it is.

    Raises:
        OutOfRangeError: for anything else.
    """
    try:
        right = datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        right = False
    if not right:
        raise OutOfRangeError("is not a day, written YYYY-MM-DD")
    return text


def read_web_address(text: str) -> str:
    """Returns the value of `--notify_url` as it is.

    Raises:
        UsageError: for anything else than a web address; it leaves the value out, which may be a secret.
    """
    if text and not text.startswith(("http://", "https://")):
        raise UsageError("--notify_url must begin with http:// or https://")
    return text


def read_metrics_path(text: str) -> str:
    """Returns the value of `--metrics_file` as it is.

    Raises:
        OutOfRangeError: for a path that the node exporter of Prometheus would not read.
    """
    if text and (not text.endswith(".prom") or storage.is_remote(text)):
        raise OutOfRangeError("must be a local file whose name ends in .prom: Prometheus' node exporter reads no other")
    return text


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag of the command.

    Attributes:
        name: without dashes.
        meaning: what the flag does, in one sentence without a full stop, its limits and its default left out.
        value: stands for the value in help texts, such as PATH; left out for numbers, and for a switch, which takes
            no value.
        default: the value without the flag.
        without: says in words what happens without the flag, where `default` does not.
        type: turns the text of a value into the value.
        choices: the only values, if they can be listed.
    """

    name: str
    meaning: str
    value: str = ""
    default: Any = None
    without: str = ""
    type: Callable[[str], Any] = str
    choices: tuple[str, ...] = ()

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Adds the flag to a parser."""
        text = self.meaning.replace("%", "%%")
        if not self.placeholder:
            parser.add_argument(f"--{self.name}", action="store_true", help=text)
        else:
            parser.add_argument(
                f"--{self.name}",
                type=self._read_value,
                default=self.default,
                choices=self.choices or None,
                metavar=self.placeholder,
                help=text,
            )

    @property
    def placeholder(self) -> str:
        """Placeholder of the value in help texts; empty for a switch."""
        if self.value or not isinstance(self.type, Number):
            return self.value
        return "N" if self.type.kind is int else "X"

    @property
    def allowed(self) -> str:
        """The values that the flag accepts, in words; empty where any text may do."""
        if self.choices:
            return ", ".join(self.choices)
        return self.type.limits if isinstance(self.type, Number) else ""

    @property
    def default_in_words(self) -> str:
        """The default as help texts have it; empty for a flag that does nothing unless it is given."""
        if isinstance(self.default, float):
            return f"{self.default:g}"
        return self.without or ("" if self.default is None else str(self.default))

    def _read_value(self, text: str) -> Any:
        try:
            return self.type(text)
        except OutOfRangeError as error:
            raise UsageError(f"--{self.name}={text} {error}") from None


@dataclasses.dataclass(frozen=True)
class FlagSection:
    """Flags of one subject, all of which belong to the same steps."""

    title: str
    steps: tuple[str, ...]
    flags: tuple[Flag, ...]
