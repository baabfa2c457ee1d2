"""The card of an evaluated model: what it learned from, how it was measured, and what it must not be used for.

Mitchell et al. 2019, "Model Cards for Model Reporting", with what manifests and figures say.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from components.counts import format_count
from components.ctc.calibration import ENOUGH_LINES
from components.evaluation.confusions import spell_symbol
from components.evaluation.positions import explain_weak_place
from components.evaluation.promise import USUAL_TARGETS, make_promise
from components.ingest.statistics import RARE
from components.recogniser.manifest import ModelManifest
from tfrecords import Charset
from tfrecords.directions import (
    LEFT_TO_RIGHT,
    MIXED_LEFT_TO_RIGHT,
    MIXED_RIGHT_TO_LEFT,
    RIGHT_TO_LEFT,
    VISUAL,
    describe_lines,
)
from tfrecords.shards import is_split_by_groups

CARD_NAME = "card.md"
_SYMBOLS_SHOWN = 200
_FEW_LINES = 100
_SPECIAL = re.compile(r"[\\`*\[\]{}<>|~&@]|(?<!\w)_|_(?!\w)|:(?=//)|(?<=www)\.")
_DIRECTIONS = {
    VISUAL: "from left to right",
    LEFT_TO_RIGHT: "from left to right",
    RIGHT_TO_LEFT: "from right to left",
    MIXED_LEFT_TO_RIGHT: "as its letters do, and from left to right where both directions meet",
    MIXED_RIGHT_TO_LEFT: "as its letters do, and from right to left where both directions meet",
}
_KINDS = {"Lu": "capital letters", "Ll": "small letters", "Nd": "digits", "Zs": "the space", "P": "punctuation"}
"""Categories of symbols (Unicode Standard Annex 44) that a reader may expect, in words."""


def describe_model_card(
    model: ModelManifest,
    charset: Charset,
    figures: Mapping[str, Any],
    statistics: Mapping[str, Any] | None,
    *,
    from_base: bool = False,
) -> str:
    """Describes an evaluated model for the people who use it, in Markdown; equal facts give equal text.

    Args:
        charset: of the model.
        figures: of its evaluation, as `evaluation.json` has them.
        statistics: of the dataset that it was trained on; None if that is gone.
        from_base: whether its training started from base weights.
    """
    verdict = "The evaluation **accepted** it."
    if not figures["accepted"]:
        verdict = f"The evaluation **refused** it: {_escape(figures['refused_because'])}."
    lines = [
        f"# Model {_quote(model.model_id)}",
        "",
        f"This model recognises the text of one line on an image. {verdict}",
        "",
        "The evaluate step wrote this page from the manifests of the model and its dataset.",
    ]
    sections: dict[str, Iterator[str]] = {
        "What it was trained on": _describe_training(model, charset, statistics, from_base),
        "How it was measured": _describe_measurement(model, figures),
        "Where it is worse": _describe_weakness(figures),
        "Symbols that it has hardly seen": _describe_rare_symbols(charset, statistics),
        "What it must not be used for": _describe_limits(model, charset, figures, statistics),
    }
    for title, described in sections.items():
        lines += ["", f"## {title}", "", *described]
    return "\n".join(lines) + "\n"


def _describe_training(
    model: ModelManifest, charset: Charset, statistics: Mapping[str, Any] | None, from_base: bool
) -> Iterator[str]:
    options = model.options
    if statistics is None:
        yield f"- Dataset {_quote(model.dataset_id)}, which the workspace does not have any more."
    else:
        splits = statistics["splits"]
        yield (
            f"- Dataset {_quote(model.dataset_id)}: {format_count(splits['train']['examples'], 'line')} to train on "
            f"and {format_count(splits['validation']['examples'], 'line')} to choose the best epoch by."
        )
        if statistics.get("added_to"):
            yield (
                f"- {format_count(statistics['kept'], 'line')} of all splits are those of dataset "
                f"{_quote(statistics['added_to'])}, which it extends."
            )
        if statistics.get("label_source"):
            yield f"- Labels are from {_escape(statistics['label_source'])}."
        yield f"- Splits: {_describe_splits(statistics['split_by'])}."
        if splits["train"]["widths"]:
            yield (
                f"- Lines to train on are {_format_range(splits['train']['widths'])} pixels wide, and have "
                f"{_format_range(splits['train']['label_lengths'])} symbols."
            )
    yield (
        f"- Lines are {model.height} pixels high. They are {describe_lines(model.vertical)}; their text runs "
        f"{_DIRECTIONS[model.base_direction] if not model.vertical else 'from top to bottom'}."
    )
    yield f"- Charset of {format_count(len(charset.symbols), 'symbol')}: {_list_symbols(charset.symbols)}."
    settings = [
        f"{name.replace('_', ' ')} {options[name]}"
        for name in ("epochs", "batch_size", "learning_rate", "patience", "seed")
        if options.get(name) is not None
    ]
    by = f" with {', '.join(settings)}" if settings else ""
    yield f"- Network {_quote(model.model)}, trained until {_escape(model.created_at[:10])}{by}."
    start = options.get("init_from")
    weights = "random weights" if start is None else f"the weights of model {_quote(start)}"
    yield f"- It started from {'the base weights, trained on rendered lines' if from_base else weights}."
    if options.get("teacher"):
        rounds, taught = len(options["taught"]), ", then ".join(f"{count:,}" for count in options["taught"])
        yield (
            f"- Self-training in {format_count(rounds, 'round')}, taught at first by model "
            f"{_quote(options['teacher'])}: {taught} lines with readings for labels, which nobody checked."
        )
    if model.language_model is not None:
        texts = " and from texts beside them" if options.get("texts") else ""
        yield f"- It has a language model of symbols, learned from its training labels{texts}."


def _describe_measurement(model: ModelManifest, figures: Mapping[str, Any]) -> Iterator[str]:
    counts, resampled = figures["counts"], figures["resampled"]
    yield (
        f"On {format_count(figures['images'], 'held-out line')} of dataset {_quote(figures['dataset_id'])}, with the "
        f"decoder {_quote(' '.join(str(part) for part in figures['decoding']))}."
    )
    if figures["dataset_id"] != model.dataset_id:
        yield "The model was trained on another dataset, which may have some of these lines among its training lines."
    yield ""
    yield f"| | measured | {resampled['level']:.0%} interval |"
    yield "|---|---|---|"
    for name, title in (("cer", "character error rate (CER)"), ("wer", "word error rate"), ("exact_match", "exact")):
        low, high = figures["intervals"][name]
        yield f"| {title} | {figures[name]:.2%} | {low:.2%} to {high:.2%} |"
    yield ""
    units = format_count(resampled["count"], resampled["units"].removesuffix("s"))
    note = f" {_capitalise(_escape(resampled['note']))}." if resampled["note"] else ""
    yield f"- The intervals are from {resampled['resamples']:,} resamples of {units}.{note}"
    if not counts["symbol_errors"] and figures["images"]:
        yield (
            f"- An interval without any error has no width. Of other lines like these, up to "
            f"{min(1, 3 / figures['images']):.1%} may still be wrong."
        )
    constant = figures["constant"]
    yield f"- The best answer without looking at the images has a CER of {constant['cer']:.2%}."
    yield f"- {_compare_with_accepted(model, figures)}"
    if start := figures["start"]:
        yield (
            f"- On the {format_count(start['images'], 'held-out line')} of model {_quote(start['model_id'])}, from "
            f"which it started, its CER is {start['cer']:.2%}; that model has {start['start_cer']:.2%}."
        )
    yield (
        f"- Its mean confidence is {figures['mean_confidence']:.3f}, and its expected calibration error "
        f"{figures['expected_calibration_error']:.3f}."
    )
    yield f"- {_describe_promises(figures['acceptance'])}"
    yield f"- Decision: {'accepted' if figures['accepted'] else 'refused, for the reason above'}."


def _describe_promises(acceptance: Mapping[str, Any]) -> str:
    """Says how many texts can be accepted without a look, at which share of wrong ones."""
    promises = [make_promise(acceptance, target) for target in USUAL_TARGETS]
    kept = [
        f"{promise.target_error:.1%} for {promise.coverage:.0%} of the texts"
        for promise in promises
        if promise.threshold is not None
    ]
    if not kept:
        return "Its held-out lines are too few, or too often wrong, to promise how many accepted texts are wrong."
    return (
        f"Of texts that are accepted by their confidence, at most this share is wrong, {acceptance['level']:.0%} sure: "
        f"{', '.join(kept)}."
    )


def _compare_with_accepted(model: ModelManifest, figures: Mapping[str, Any]) -> str:
    """Says what the model was compared with."""
    before = figures["accepted_before"]
    if before is None or before == model.model_id:
        return f"It was compared with no other model: {'none' if before is None else 'it'} was in use."
    if figures["accepted_before_cer"] is None:
        return f"It was compared with no other model: {_quote(before)}, in use before, cannot read these lines."
    difference = figures["cer_difference_to_accepted"]
    low, high = difference["interval"]
    return (
        f"Model {_quote(before)}, in use before, has a CER of {figures['accepted_before_cer']:.2%} on the same lines. "
        f"The difference is {100 * difference['cer']:+.2f} points ({100 * low:+.2f} to {100 * high:+.2f})."
    )


def _describe_weakness(figures: Mapping[str, Any]) -> Iterator[str]:
    by_length, by_position = figures["by_length"], figures["by_position"]
    if weak_place := explain_weak_place(by_position):
        yield f"{_capitalise(_escape(weak_place))}."
        yield ""
    yield "| symbols of a line | held-out lines | exact | CER |"
    yield "|---|---|---|---|"
    for row in by_length:
        symbols = _format_bounds(row["from"], row["to"])
        yield f"| {symbols} | {row['images']:,} | {row['exact_match']:.1%} | {row['cer']:.2%} |"
    if by_position:
        yield ""
        yield "| part of the line | symbols | CER |"
        yield "|---|---|---|"
        for row in by_position:
            yield f"| {row['from']:.0%} to {row['to']:.0%} | {row['symbols']:,} | {row['cer']:.2%} |"
    yield ""
    if figures["resampled"]["units"] == "groups":
        yield "The files `evaluation/readings-*.parquet` name the group of each held-out line."
    else:
        yield "The evaluation does not tell groups of lines apart."


def _describe_rare_symbols(charset: Charset, statistics: Mapping[str, Any] | None) -> Iterator[str]:
    if statistics is None:
        yield "Not known: the dataset that it was trained on is gone."
        return
    trained = statistics["splits"]["train"]["symbols"]
    never = [symbol for symbol in charset.symbols if not trained.get(symbol)]
    rare = sorted(
        (symbol for symbol in charset.symbols if 0 < trained.get(symbol, 0) < RARE),
        key=lambda symbol: (trained[symbol], symbol),
    )
    if not never and not rare:
        yield f"None: each symbol occurs at least {RARE} times in the training lines."
        return
    if never:
        yield f"- Never in the training lines of this dataset: {_list_symbols(never)}."
    if rare:
        counted = [f"{_quote(spell_symbol(symbol))} {trained[symbol]}" for symbol in rare[:_SYMBOLS_SHOWN]]
        yield f"- Fewer than {RARE} times in the training lines: {', '.join(counted)}{_say_more(rare)}."


def _describe_limits(
    model: ModelManifest, charset: Charset, figures: Mapping[str, Any], statistics: Mapping[str, Any] | None
) -> Iterator[str]:
    if not figures["accepted"]:
        yield "- Anything, as long as the evaluation refuses it."
    missing = _find_missing_kinds(charset)
    yield (
        f"- Texts with other symbols than its {len(charset.symbols):,}. It gives one of its own for them, or none, and "
        f"does not say so.{f' Among others, it has no {_join(missing)}.' if missing else ''}"
    )
    yield "- Whole pages, or several lines on one image. It reads one line at a time."
    if model.vertical:
        yield "- Text that runs from left to right or from right to left."
    elif model.base_direction == VISUAL:
        yield "- Text that runs from right to left or from top to bottom."
    else:
        yield "- Text that runs from top to bottom."
    if statistics is not None:
        yield from _describe_untried_shapes(model, statistics)
        if validation_warning := _explain_calibration(statistics["splits"]["validation"]["examples"]):
            yield f"- {validation_warning}"
    if figures["images"] < _FEW_LINES:
        yield f"- Promises about its error rate: it was measured on {format_count(figures['images'], 'line')} only."
    yield "- Images of another kind than those that it was trained on. No figure on this page speaks of them."


def _describe_untried_shapes(model: ModelManifest, statistics: Mapping[str, Any]) -> Iterator[str]:
    """Says which widths and lengths of lines no training line had."""
    trained = statistics["splits"]["train"]
    if not trained["widths"]:
        return
    widest, longest = trained["widths"][-1][0], trained["label_lengths"][-1][0]
    yield (
        f"- Lines far wider than {widest:,} pixels at a height of {model.height}, or of far more than "
        f"{format_count(longest, 'symbol')}: it has seen none."
    )
    if trained["label_lengths"][0][0] > 0:
        yield "- Telling whether there is text at all: each line that it was trained on had some."


def _explain_calibration(lines: int) -> str | None:
    """Says what the confidence is not good for if few validation lines calibrated it; None if enough did."""
    if lines >= ENOUGH_LINES:
        return None
    if not lines:
        return "Decisions by its confidence: there were no validation lines to calibrate it on."
    calibrated_on = f"{format_count(lines, 'line')}, fewer than {ENOUGH_LINES}"
    return f"Fine decisions by its confidence: it was calibrated on {calibrated_on}."


def _find_missing_kinds(charset: Charset) -> list[str]:
    """Finds kinds of symbols that a charset lacks as a whole; letters of the other case only if it has letters of one.

    A script without cases has neither capital nor small letters, and lacks none.
    """
    categories = {unicodedata.category(symbol) for symbol in charset.symbols}
    missing = [kind for kind in _KINDS if not any(category.startswith(kind) for category in categories)]
    if not {"Lu", "Ll"} & categories:
        missing = [kind for kind in missing if kind not in ("Lu", "Ll")]
    return [_KINDS[kind].removeprefix("the ") for kind in missing]


def _describe_splits(split_by: str) -> str:
    if split_by == "given":
        return "as the images came, by their folders or a table"
    if not is_split_by_groups(split_by):
        return "drawn by chance, image by image, copies of an image together"
    if split_by in ("folder", "page"):
        return f"drawn by chance, all images of a {split_by} together"
    return f"drawn by chance, all images of one {_quote(split_by)} together, a column of the label table"


def _format_range(histogram: Sequence[Sequence[int]]) -> str:
    """Writes the least and the greatest value of a histogram in ascending order."""
    return _format_bounds(histogram[0][0], histogram[-1][0])


def _format_bounds(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _list_symbols(symbols: Sequence[str]) -> str:
    shown = " ".join(_quote(spell_symbol(symbol)) for symbol in symbols[:_SYMBOLS_SHOWN])
    return f"{shown}{_say_more(symbols)}" if shown else "none"


def _say_more(symbols: Sequence[str]) -> str:
    return f" and {len(symbols) - _SYMBOLS_SHOWN:,} more" if len(symbols) > _SYMBOLS_SHOWN else ""


def _join(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _capitalise(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _quote(text: str) -> str:
    """Writes a text as code in Markdown (CommonMark 0.31, section 6.1), whatever it holds."""
    text = _replace_invisible(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    padding = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{padding}{text}{padding}{fence}"


def _escape(text: str) -> str:
    """Writes a sentence so that Markdown shows it as it is, on one line, without links of its own."""
    return _SPECIAL.sub(r"\\\g<0>", _replace_invisible(text))


def _replace_invisible(symbols: Iterable[str]) -> str:
    """Replaces symbols that break a line, turn its direction or are not seen by the numbers of their code points."""
    return "".join(
        f"U+{ord(symbol):04X}" if unicodedata.category(symbol) in ("Cc", "Cf", "Cs", "Zl", "Zp") else symbol
        for symbol in symbols
    )
