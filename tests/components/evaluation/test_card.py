"""The card of a model: unusual models, and texts that Markdown would take for its own signs."""

from __future__ import annotations

from typing import Any

import pytest

from components.evaluation.card import describe_model_card
from components.evaluation.promise import bound_error
from components.recogniser.manifest import ModelManifest
from tfrecords import Charset

SYMBOLS = "0123456789"


def model_of(**changes: Any) -> ModelManifest:
    facts = {
        "model_id": "m1",
        "dataset_id": "d1",
        "model": "ctc_conv",
        "height": 48,
        "time_stride": 4,
        "temperature": 1.0,
        "charset_sha256": "",
        "options": {"epochs": 30, "seed": 7, "init_from": None},
        "files": {},
        "created_at": "2026-03-04T05:06:07+00:00",
    }
    return ModelManifest(**{**facts, **changes})


def acceptance_of(accepted: int, wrong: int) -> dict[str, Any]:
    """What one threshold accepts of 200 lines."""
    bound = bound_error(wrong, accepted)
    point = {"threshold": 0.9, "accepted": accepted, "counted_as": accepted, "wrong": wrong, "bound": bound}
    return {"level": 0.95, "lines": 200, "similarity": None, "note": "", "curve": [point]}


def figures_of(**changes: Any) -> dict[str, Any]:
    """Figures of 200 lines, 10 of 2,000 symbols wrong."""
    return {
        "dataset_id": "d1",
        "images": 200,
        "cer": 0.005,
        "wer": 0.05,
        "exact_match": 0.95,
        "counts": {"symbol_errors": 10, "symbols": 2000},
        "constant": {"cer": 0.8},
        "intervals": {"cer": (0.002, 0.009), "wer": (0.02, 0.09), "exact_match": (0.92, 0.98)},
        "resampled": {"units": "lines", "count": 200, "resamples": 2000, "level": 0.95, "note": ""},
        "mean_confidence": 0.97,
        "expected_calibration_error": 0.01,
        "acceptance": acceptance_of(190, wrong=2),
        "by_length": [{"from": 10, "to": 10, "images": 200, "exact_match": 0.95, "cer": 0.005}],
        "by_position": [{"from": 0.0, "to": 0.1, "symbols": 200, "symbol_errors": 1, "cer": 0.005}],
        "decoding": ["greedy"],
        "accepted": True,
        "refused_because": None,
        "accepted_before": None,
        "accepted_before_cer": None,
        "cer_difference_to_accepted": None,
        "start": None,
    } | changes


def statistics_of(symbols: dict[str, int], *, validation: int = 600, **changes: Any) -> dict[str, Any]:
    train = {"examples": 1600, "symbols": symbols, "widths": [[80, 3], [400, 1]], "label_lengths": [[2, 3], [12, 1]]}
    splits = {"train": train, "validation": {"examples": validation}, "test": {"examples": 200}}
    return {"splits": splits, "split_by": "image", "label_source": "the file names"} | changes


def describe(charset: Charset | None = None, model: ModelManifest | None = None, **changes: Any) -> str:
    charset = charset or Charset(tuple(SYMBOLS))
    statistics = changes.pop("statistics", statistics_of(dict.fromkeys(charset.symbols, 50)))
    from_base = changes.pop("from_base", False)
    return describe_model_card(model or model_of(), charset, figures_of(**changes), statistics, from_base=from_base)


@pytest.mark.parametrize(
    ("acceptance", "said"),
    [
        (
            acceptance_of(190, wrong=2),
            "is wrong, 95% sure: 5.0% for 95% of the texts, 10.0% for 95% of the texts, 20.0%",
        ),
        (acceptance_of(190, wrong=100), "too few, or too often wrong, to promise how many accepted texts are wrong"),
    ],
)
def test_the_card_says_what_can_be_promised_of_accepted_texts(acceptance, said):
    assert said in read_section(describe(acceptance=acceptance), "How it was measured")


def read_section(card: str, title: str) -> str:
    return card.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_equal_facts_give_equal_cards_without_double_spaces_or_blank_lines():
    assert describe() == describe()
    assert "\n\n\n" not in describe()
    assert "  " not in describe()
    assert describe().endswith(".\n")


def test_a_sound_model_has_no_sentence_about_faults():
    card = describe()
    assert "None: each symbol occurs at least 10 times in the training lines." in card
    for word in ("refuse", "calibrated on", "Promises", "Never in"):
        assert word not in card
    assert "Among others, it has no space and punctuation." in card  # and no letters, of which it has none at all


def test_a_model_of_one_symbol():
    card = describe(Charset(("x",)), statistics=statistics_of({"x": 1}))
    assert "- Charset of 1 symbol: `x`." in card
    assert "- Fewer than 10 times in the training lines: `x` 1." in card
    assert "no capital letters, digits, space and punctuation." in card


def test_text_from_right_to_left_and_from_top_to_bottom():
    hebrew = Charset(tuple("אבג"))
    card = describe(hebrew, model_of(base_direction="mixed_rtl"))
    assert "their text runs as its letters do, and from right to left where both directions meet." in card
    limits = read_section(card, "What it must not be used for")
    assert "- Text that runs from top to bottom." in limits
    assert "capital" not in limits  # a script without cases lacks none
    card = describe(model=model_of(vertical=True))
    assert "They are vertical lines; their text runs from top to bottom." in card
    assert "- Text that runs from left to right or from right to left." in card


def test_a_refused_model_says_why_in_the_first_paragraph_and_is_for_nothing():
    card = describe(accepted=False, refused_because="its CER of 50.00% is above --max_cer=0.2")
    assert "The evaluation **refused** it: its CER of 50.00% is above --max_cer=0.2." in card
    assert read_section(card, "What it must not be used for").startswith("\n- Anything, as long as")


def test_texts_do_not_become_markdown():
    reason = 'the answer "<b>[x](http://a.b) **y** `z`\n# | _q_ \u202e" for every line'
    card = describe(accepted=False, refused_because=reason)
    escaped = r'the answer "\<b\>\[x\](http\://a.b) \*\*y\*\* \`z\`U+000A# \| \_q\_ U+202E" for every line'
    assert f"**refused** it: {escaped}." in card


@pytest.mark.parametrize(
    ("symbol", "written"), [("`", "`` ` ``"), (" ", "`U+0020`"), ("\u0303", "`U+0303`"), ("|", "`|`"), ("<", "`<`")]
)
def test_each_symbol_is_written_as_code(symbol, written):
    assert f"- Charset of 1 symbol: {written}.\n" in describe(Charset((symbol,)))


def test_file_names_and_columns_with_signs_of_markdown():
    statistics = statistics_of(
        dict.fromkeys(SYMBOLS, 50), label_source="file:///in/*a*`b`/labels.csv", split_by="a`b", added_to="d0", kept=9
    )
    card = describe(statistics=statistics)
    assert r"- Labels are from file\:///in/\*a\*\`b\`/labels.csv." in card
    assert "all images of one ``a`b`` together, a column of the label table." in card
    assert "- 9 lines of all splits are those of dataset `d0`, which it extends." in card


@pytest.mark.parametrize(
    ("split_by", "sentence"),
    [
        ("image", "image by image, copies of an image together"),
        ("folder", "all images of a folder together"),
        ("given", "as the images came, by their folders or a table"),
    ],
)
def test_the_rule_of_the_splits(split_by, sentence):
    assert f"{sentence}.\n" in describe(statistics=statistics_of({}, split_by=split_by))


def test_symbols_that_training_lacked_or_hardly_had():
    statistics = statistics_of({"0": 50, "1": 9, "2": 2})
    rare = read_section(describe(Charset(tuple("012X")), statistics=statistics), "Symbols that it has hardly seen")
    assert rare.split("\n")[1:] == [
        "- Never in the training lines of this dataset: `X`.",
        "- Fewer than 10 times in the training lines: `2` 2, `1` 9.",
        "",
    ]


def test_many_symbols_are_cut():
    charset = Charset(tuple(chr(0x4E00 + number) for number in range(1000)))
    card = describe(charset)
    assert " and 800 more." in card
    assert len(card) < 8000


def test_where_training_started():
    assert "- It started from random weights." in describe()
    model = model_of(options={"init_from": "m0", "teacher": "m0", "taught": [100, 2000]})
    card = describe(model=model)
    assert "- It started from the weights of model `m0`." in card
    assert "- Self-training in 2 rounds, taught at first by model `m0`: 100, then 2,000 lines" in card
    assert "- It started from the base weights, trained on rendered lines." in describe(model=model, from_base=True)


def test_what_it_was_compared_with():
    difference = {"cer": -0.01, "interval": (-0.02, 0.001)}
    before = {"accepted_before": "m0", "accepted_before_cer": 0.015, "cer_difference_to_accepted": difference}
    card = describe(**before)
    assert "Model `m0`, in use before, has a CER of 1.50% on the same lines." in card
    assert "The difference is -1.00 points (-2.00 to +0.10)." in card
    assert "`m0`, in use before, cannot read these lines." in describe(accepted_before="m0")
    assert "no other model: it was in use." in describe(accepted_before="m1")
    card = describe(start={"model_id": "m0", "dataset_id": "d0", "images": 1, "cer": 0.02, "start_cer": 0.01})
    assert (
        "- On the 1 held-out line of model `m0`, from which it started, its CER is 2.00%; that model has 1.00%" in card
    )


def test_groups_and_a_place_where_lines_are_weak():
    resampled = {"units": "groups", "count": 8, "resamples": 2000, "level": 0.95, "note": "intervals are too narrow"}
    weak = {"from": 0.9, "to": 1.0, "symbols": 200, "symbol_errors": 100, "cer": 0.5}
    card = describe(resampled=resampled, by_position=[*figures_of()["by_position"], weak])
    assert "2,000 resamples of 8 groups. Intervals are too narrow." in card
    worse = read_section(card, "Where it is worse")
    assert worse.startswith("\nOf the symbols from 90% to 100% of the line, 50.0% are wrong")
    assert "name the group of each held-out line." in worse


def test_few_lines_and_no_empty_ones():
    limits = read_section(
        describe(images=5, statistics=statistics_of({}, validation=0)), "What it must not be used for"
    )
    assert "it was measured on 5 lines only." in limits
    assert "there were no validation lines to calibrate it on." in limits
    assert "Telling whether there is text at all" in limits
    statistics = statistics_of({})
    statistics["splits"]["train"]["label_lengths"].insert(0, [0, 30])
    assert "Telling whether there is text at all" not in describe(statistics=statistics)
