"""The order of symbols on an image: Hebrew is ABC… in these tests where its letters do not matter."""

import random

import pytest

from tfrecords import Charset, CharsetError
from tfrecords.directions import (
    DIRECTIONS,
    choose_direction,
    has_right_to_left,
    to_display_order,
    to_logical_order,
)

SHALOM, SHALOM_SEEN = "שלום", "םולש"
HEBREW = ["שלום", "עולם", "ספר", "ילד", "בית", "מלון", "תאריך", "מחיר", "כתובת"]
ARABIC = ["سنة", "كتاب", "مدرسة", "بيت", "تاريخ", "رقم", "شارع"]
PERSIAN = ["سال", "کتاب", "خانه", "می\u200cشود", "چاپ", "تهران"]
NUMBERS = [
    "12",
    "1950",
    "12/05/1950",
    "03-1234567",
    "100₪",
    "5.5%",
    "2010-2015",
    "3,500",
    "$40",
    "(12)",
    "+972",
    "12:30",
]
LATIN = ["Windows", "IBM", "Paris", "Ltd.", "abc"]


def make_line(words: list[str], others: list[str], chooser: random.Random) -> str:
    """Makes a line in which no two words of `others` are neighbours."""
    parts = [chooser.choice(words)]
    for _ in range(chooser.randint(1, 3)):
        part = chooser.choice([*others, chooser.choice(words)])
        parts += [chooser.choice([part, f"({part})", f'"{part}"', f"{part},"]), chooser.choice(words)]
    return " ".join(parts)


@pytest.mark.parametrize(
    ("typed", "seen"),
    [
        (SHALOM, SHALOM_SEEN),
        (f"{SHALOM} 12/05/1950", f"12/05/1950 {SHALOM_SEEN}"),
        (f"{SHALOM} 10 - 20", f"20 - 10 {SHALOM_SEEN}"),
        (f"{SHALOM} 5.5%", f"5.5% {SHALOM_SEEN}"),
        (f"{SHALOM} IBM 360 {SHALOM}", f"{SHALOM_SEEN} IBM 360 {SHALOM_SEEN}"),
        (f"{SHALOM} (abc)", f"(abc) {SHALOM_SEEN}"),  # brackets as they are seen, not as they are typed
        (f"({SHALOM})", f"({SHALOM_SEEN})"),
        (f"{SHALOM}.", f".{SHALOM_SEEN}"),
        ("سنة 12-13", "13-12 ةنس"),  # a dash between Arabic numbers is no part of them
        ("١٢/٠٥ سنة", "ةنس ١٢/٠٥"),
    ],
)
def test_a_line_is_reordered_as_the_bidirectional_algorithm_says_and_back(typed, seen):
    assert to_display_order(typed, "rtl") == seen
    assert to_logical_order(seen, "rtl")[0] == typed
    assert to_display_order(typed, "mixed_rtl") == seen


@pytest.mark.parametrize("words", [HEBREW, ARABIC, PERSIAN], ids=["hebrew", "arabic", "persian"])
@pytest.mark.parametrize("others", [NUMBERS, LATIN], ids=["numbers", "latin"])
def test_every_line_with_numbers_or_latin_words_comes_back(words, others):
    chooser = random.Random(7)
    for _ in range(300):
        typed = make_line(words, others, chooser)
        seen = to_display_order(typed, "mixed_rtl")
        assert seen != typed
        logical, places = to_logical_order(seen, "mixed_rtl")
        assert logical == typed
        assert sorted(places) == list(range(len(typed)))


def test_a_text_that_can_be_typed_in_several_ways_is_one_that_looks_like_what_was_seen():
    chooser = random.Random(8)
    for _ in range(300):
        typed = " ".join(chooser.choice(HEBREW + NUMBERS + LATIN) for _ in range(6))
        seen = to_display_order(typed, "rtl")
        assert to_display_order(to_logical_order(seen, "rtl")[0], "rtl") == seen


def test_any_reading_of_a_network_comes_back_with_all_its_symbols():
    chooser = random.Random(9)
    symbols = "אבابab12٣ ()[].,-%\"'\u05b0\u200c\u200f\U000e0030\u202b\u2067\u2069"
    for _ in range(2000):
        seen = "".join(chooser.choices(symbols, k=chooser.randint(0, 12)))
        for direction in DIRECTIONS:
            logical, places = to_logical_order(seen, direction)
            assert len(logical) == len(seen)
            assert sorted(places) == list(range(len(seen)))


def test_places_tell_equal_symbols_apart():
    seen = to_display_order(f"{SHALOM} 11 aa", "rtl")
    logical, places = to_logical_order(seen, "rtl")
    assert logical == f"{SHALOM} aa 11"  # looks alike; the number follows the word
    assert seen == f"aa 11 {SHALOM_SEEN}"
    assert list(places) == [9, 8, 7, 6, 5, 0, 1, 2, 3, 4]


def test_very_long_lines_are_reordered_too():
    for length in (95, 96, 97, 9215, 9216, 9300):
        typed = ("אבגד 12 " * (length // 8 + 1))[: length - 1] + "א"
        assert to_logical_order(to_display_order(typed, "rtl"), "rtl")[0] == typed


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("typed", ["Hello, world! (12)", "", " ", "中文 12"])
def test_a_line_from_left_to_right_stays_as_it_is_unless_it_is_said_to_begin_on_the_right(typed, direction):
    if direction != "rtl":
        assert to_display_order(typed, direction) == typed
        assert to_logical_order(typed, direction)[0] == typed


def test_the_letters_of_a_line_choose_its_direction():
    assert to_display_order(f"{SHALOM} 12", "mixed_ltr") == f"12 {SHALOM_SEEN}"
    assert to_display_order(f"abc {SHALOM} 12.", "mixed_ltr") == f"abc 12 {SHALOM_SEEN}."
    assert to_display_order(f"abc {SHALOM} 12.", "mixed_rtl") == f".12 {SHALOM_SEEN} abc"
    assert to_display_order("12 - 34", "mixed_rtl") == "12 - 34"
    assert to_display_order("12 - 34", "rtl") == "34 - 12"
    assert to_display_order(f"{SHALOM}. 12", "ltr") == f"12 .{SHALOM_SEEN}"


def test_a_collection_has_the_direction_of_most_of_its_letters():
    assert choose_direction({"a": 3, "1": 9}) == "visual"
    assert choose_direction({"١": 3}) == "visual"
    assert choose_direction({"a": 3, "א": 4}) == "mixed_rtl"
    assert choose_direction({"a": 5, "א": 4}) == "mixed_ltr"
    assert choose_direction({"ب": 1, "9": 100}) == "mixed_rtl"
    assert has_right_to_left("a ب")
    assert not has_right_to_left("a ١ 中")


def test_a_charset_encodes_as_seen_and_decodes_as_read():
    charset = Charset(tuple(sorted(set(f"{SHALOM} ()12"))), "rtl")
    typed = f"{SHALOM} (12)"
    ids = charset.encode(typed)
    assert Charset(charset.symbols).decode(ids) == f"(12) {SHALOM_SEEN}"
    assert charset.decode(ids) == typed
    assert charset.missing(typed) == []
    half = Charset(tuple(symbol for symbol in charset.symbols if symbol != "("), "rtl")
    assert half.missing(f"{SHALOM})") == ["("], "the bracket that is seen is the other one"
    with pytest.raises(CharsetError, match=r"\("):
        half.encode(f"{SHALOM})")
    assert charset.add("x").direction == "rtl"
    assert charset.digest == Charset(charset.symbols).digest
