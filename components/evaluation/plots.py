"""Pictures of an evaluation: recognised lines, the worst of them, confusions, accuracy, calibration and promises."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from components.evaluation.confusions import Pair, align_texts, describe_confusions, spell_symbol
from components.plots import SANS, ShownLine, lay_out_text, plot_grid, replace_undrawable

if TYPE_CHECKING:
    from components.evaluation.lines import EvaluatedLine

_RIGHT, _WRONG, _MARK = "#1b6e3c", "#b3261e", "#f6c9c5"
_INK, _QUIET, _BAR = "#1d2126", "#59626d", "#3d6c99"
_DPI = 110
_MONOSPACE = ("DejaVu Sans Mono", *SANS)
# Sizes in the picture of the worst lines, pixels.
_PAGE, _MARGIN, _TEXT_LEFT, _CELL, _ROW, _LINE_HEIGHT = 1210, 20, 80, 11.5, 24, 64
_CELLS = int((_PAGE - _MARGIN - _TEXT_LEFT) / _CELL)


def plot_predictions(lines: Sequence[EvaluatedLine], path: str) -> None:
    """Draws a grid of lines with their recognised texts, beside the truth where they are wrong, as PNG."""
    wrong = sum(line.truth != line.text for line in lines)
    plot_grid(
        f"Test lines as they were read: {len(lines) - wrong} right, {wrong} wrong",
        [
            ShownLine(line.pixels, f"✓ {read}   ({line.confidence:.0%})", _RIGHT)
            if line.truth == line.text
            else ShownLine(line.pixels, f"✗ read {read}   ({line.confidence:.0%})\ntruth {truth}", _WRONG)
            for line in lines
            for read, truth in [(lay_out_text(line.text), lay_out_text(line.truth))]
        ],
        path,
    )


def plot_worst_lines(lines: Sequence[EvaluatedLine], path: str) -> None:
    """Draws lines one below the other, each with truth and recognised text symbol by symbol, as PNG.

    Symbols that differ are marked. A symbol that was left out or added stands against an empty place, a
    combining mark on a dotted circle. A small box stands for a symbol that the font lacks.
    """
    cells = [_pair_symbols(line) for line in lines]
    heights = [
        2 * _ROW + _scale_line(line.pixels)[0] + _count_blocks(row) * (2 * _ROW + 6)
        for line, row in zip(lines, cells, strict=True)
    ]
    page = sum(heights) + 3 * _ROW
    figure = Figure(figsize=(_PAGE / _DPI, page / _DPI))

    def write(left: float, top: float, text: str, **style: Any) -> None:
        # parse_math: a label may hold a dollar sign.
        figure.text(left / _PAGE, 1 - top / page, text, va="center", parse_math=False, **style)

    title = "The worst test lines: most symbol errors for their length" if lines else "No test line was read wrongly"
    write(_MARGIN, 1.5 * _ROW, title, fontsize=12)
    top = 2.5 * _ROW
    for line, row, height in zip(lines, cells, heights, strict=True):
        errors = f"{line.symbol_errors} error{'' if line.symbol_errors == 1 else 's'} in {len(line.truth)} symbols"
        about = f"{errors}, confidence {line.confidence:.0%}   {_shorten_uri(line.uri)}"
        write(_MARGIN, top + _ROW / 2, about, fontsize=9, color=_QUIET)
        high, wide = _scale_line(line.pixels)
        axes = figure.add_axes(
            (_TEXT_LEFT / _PAGE, 1 - (top + _ROW + high) / page, wide / _PAGE, high / page), frameon=False
        )
        axes.set_axis_off()
        axes.imshow(line.pixels, cmap="gray", vmin=0, vmax=255, aspect="auto")
        for block in range(_count_blocks(row)):
            middle = top + _ROW + high + block * (2 * _ROW + 6) + _ROW / 2 + 4
            for side, name in enumerate(("truth", "read")):
                write(_MARGIN, middle + side * _ROW, name, fontsize=9, color=_QUIET)
            for place, (pair, differs) in enumerate(row[block * _CELLS : (block + 1) * _CELLS]):
                left = _TEXT_LEFT + place * _CELL
                if differs:
                    figure.add_artist(_make_box(left, middle - _ROW / 2, 2 * _ROW, page))
                for side, symbol in enumerate(pair):
                    if not symbol.strip():
                        continue
                    write(
                        left + _CELL / 2,
                        middle + side * _ROW,
                        symbol,
                        fontsize=11,
                        family=_MONOSPACE,
                        ha="center",
                        color=_WRONG if differs and side else _INK,
                    )
        top += height
    figure.savefig(path, dpi=_DPI)


def plot_confusions(rows: Sequence[dict[str, Any]], path: str) -> None:
    """Draws bars for pairs of true and recognised symbols, as PNG.

    Args:
        rows: of the confusion table, the most frequent first.
    """
    figure = Figure(figsize=(9, 1.2 + 0.32 * max(len(rows), 1)), layout="constrained")
    axes = figure.subplots()
    axes.set_title("The most frequent confusions of symbols" if rows else "No symbol was read wrongly")
    places = range(len(rows))
    axes.barh(places, [row["count"] for row in rows], color=_BAR)
    axes.set_yticks(
        places, [describe_confusions(row["truth"], row["read"], _spell_in_print) for row in rows], parse_math=False
    )
    axes.invert_yaxis()
    axes.set_xlabel("how often")
    axes.margins(x=0.25)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for place, row in enumerate(rows):
        share = f"  ({row['count'] / row['truth_count']:.1%} of {row['truth_count']:,})" if row["truth_count"] else ""
        axes.text(row["count"], place, f" {row['count']:,}{share}", va="center", fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=_DPI)


def plot_accuracy_by_length(buckets: Sequence[dict[str, Any]], path: str) -> None:
    """Draws exact match and CER of labels of different lengths, as PNG.

    Args:
        buckets: as `rate_by_length` returns them.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    names = [
        f"{bucket['from']}" if bucket["from"] == bucket["to"] else f"{bucket['from']}–{bucket['to']}"
        for bucket in buckets
    ]
    ticks = [f"{name}\n{bucket['images']:,}" for name, bucket in zip(names, buckets, strict=True)]
    for axes, rate, title in zip(
        figure.subplots(1, 2), ("exact_match", "cer"), ("Lines recognised exactly", "CER"), strict=True
    ):
        values = [100 * bucket[rate] for bucket in buckets]
        bars = axes.bar(ticks, values, color=_BAR)
        axes.bar_label(bars, fmt="%.1f", fontsize=9)
        axes.set(title=f"{title}, by length of the label", xlabel="symbols\nnumber of lines", ylabel="%")
        axes.set_ylim(0, 105 if rate == "exact_match" else 1.15 * max(values, default=0) or 1)
    figure.savefig(path, dpi=_DPI)


def plot_calibration(bins: Sequence[dict[str, Any]], error: float, path: str) -> None:
    """Draws the calibration curve, confidence against the share of exact lines, over the numbers of lines, as PNG.

    Args:
        bins: as `rate_by_confidence` returns them.
        error: the expected calibration error.
    """
    figure = Figure(figsize=(6, 6.5), layout="constrained")
    curve, numbers = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    curve.plot([0, 1], [0, 1], color=_QUIET, linestyle="--", label="as confident as right")
    shares = [bucket["exact_match"] for bucket in bins]
    curve.plot([bucket["mean_confidence"] for bucket in bins], shares, "o-", color=_BAR, label="this model")
    curve.set(
        title=f"Calibration: expected error {error:.3f}",
        ylabel="share of lines recognised exactly",
        xlim=(0, 1),
        ylim=(-0.02, 1.02),
    )
    curve.grid(alpha=0.3)
    curve.legend(loc="upper left")
    bars = numbers.bar(
        [bucket["from"] for bucket in bins],
        [bucket["images"] for bucket in bins],
        width=[0.96 * (bucket["to"] - bucket["from"]) for bucket in bins],
        align="edge",
        color=_BAR,
    )
    numbers.bar_label(bars, fmt="{:,.0f}", fontsize=8)
    numbers.margins(y=0.25)
    numbers.set(xlabel="confidence", ylabel="lines")
    figure.savefig(path, dpi=_DPI)


def plot_acceptance(acceptance: Mapping[str, Any], path: str) -> None:
    """Draws what can be promised of accepted texts: their share of all, against the share of wrong ones, as PNG.

    Args:
        acceptance: as `describe_acceptance` returns it.
    """
    curve, lines = acceptance["curve"], acceptance["lines"]
    coverage = [point["accepted"] / lines for point in curve]
    errors = [point["wrong"] / point["accepted"] for point in curve]
    bounds = [point["bound"] for point in curve]
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    axes.fill_between(coverage, errors, bounds, color=_BAR, alpha=0.2, linewidth=0)
    axes.plot(coverage, bounds, "--", color=_BAR, label=f"upper limit, {acceptance['level']:.0%} sure")
    axes.plot(coverage, errors, "o-", color=_BAR, markersize=4, label=f"{lines:,} held-out lines")
    axes.set(
        title="Accepted texts, the most confident first",
        xlabel="share of lines that are accepted",
        ylabel="share of wrong texts among them",
        xlim=(0, 1.02),
        ylim=(0, min(1.0, max(5 * min(bounds), 1.2 * errors[-1]))),  # the bounds of the first few lines are near 1
    )
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    figure.savefig(path, dpi=_DPI)


def _pair_symbols(line: EvaluatedLine) -> list[tuple[Pair, bool]]:
    """Pairs the symbols of truth and recognised text, and says whether they differ.

    A combining mark that both have stays with the symbol before it.
    """
    cells: list[tuple[Pair, bool]] = []
    for truth, read in align_texts(line.truth, line.text):
        if truth == read and cells and unicodedata.combining(truth) and all(cells[-1][0]):
            (before_truth, before_read), differs = cells.pop()
            cells.append(((before_truth + truth, before_read + read), differs))
        else:
            differs = truth != read
            cells.append(((_make_visible(truth, differs), _make_visible(read, differs)), differs))
    return cells


def _make_visible(symbol: str, differs: bool) -> str:
    if symbol == " ":
        return "␣" if differs else symbol
    mark = symbol and unicodedata.category(symbol)[0] == "M"
    return replace_undrawable(f"◌{symbol}" if mark else symbol, _MONOSPACE)


def _count_blocks(row: Sequence[Any]) -> int:
    return max(1, -(-len(row) // _CELLS))


def _scale_line(pixels: np.ndarray) -> tuple[float, float]:
    """Computes the height and width of a line on the page, pixels."""
    scale = min(_LINE_HEIGHT / pixels.shape[0], (_PAGE - _MARGIN - _TEXT_LEFT) / pixels.shape[1])
    return scale * pixels.shape[0], scale * pixels.shape[1]


def _make_box(left: float, top: float, height: float, page: float) -> Rectangle:
    return Rectangle((left / _PAGE, 1 - (top + height) / page), _CELL / _PAGE, height / page, color=_MARK, zorder=-1)


def _shorten_uri(uri: str) -> str:
    return uri if len(uri) <= 100 else f"…{uri[-99:]}"


def _spell_in_print(symbol: str) -> str:
    """Spells a symbol, or its code point if the font of the pictures lacks it."""
    return spell_symbol(symbol) if replace_undrawable(symbol) == symbol else f"U+{ord(symbol):04X}"
