"""Text normalisation, symbol ids and the blank."""

import hashlib
import random
import unicodedata

import pytest

from tfrecords import Charset, CharsetError, DataError, adjacent_repeats, normalise_text

LATIN_EXTENDED = "\u0301\u0323\u0300\u0308aeiouyAEO \t\u00a0\u1ea1\u00ea\u0627\u064e\u05d0\ufb01\u00b2\u017f"


@pytest.mark.parametrize(
    ("raw", "stored"),
    [
        ("e\u0301", "\u00e9"),
        ("A\u030a", "\u00c5"),
        ("\u212b", "\u00c5"),  # the Angstrom sign is the letter
        ("\u1100\u1161", "\uac00"),  # Hangul is composed
    ],
)
def test_a_decomposed_letter_becomes_one_symbol(raw, stored):
    assert normalise_text(raw) == stored


@pytest.mark.parametrize("symbol", ["\ufb01", "\u00b2", "\u017f", "\uff21", "\u2460", "\u00bd"])
def test_compatibility_characters_stay_what_they_are(symbol):
    assert normalise_text(symbol) == symbol
    assert unicodedata.normalize("NFKC", symbol) != symbol


@pytest.mark.parametrize("order", ["e\u0302\u0323", "e\u0323\u0302", "\u00ea\u0323", "\u1eb9\u0302"])
def test_stacked_vietnamese_diacritics_become_one_symbol_in_whatever_order_they_were_typed(order):
    assert normalise_text(order) == "\u1ec7"


@pytest.mark.parametrize("text", ["q\u0307", "\u05d1\u05bc", "\u0628\u064e", "x\u0301\u0323"[:2]])
def test_marks_without_a_composed_form_stay_symbols_of_their_own(text):
    assert list(normalise_text(text)) == list(text)


def test_marks_that_stay_are_put_in_canonical_order():
    assert normalise_text("q\u0307\u0323") == "q\u0323\u0307"


@pytest.mark.parametrize(
    "raw",
    ["a b", " a b ", "a\tb", "a \n b", "a\r\nb\r\n", "a\u00a0b", "a\u2003\u3000b", "\na\u2028b", "a\x0b\x0cb"],
)
def test_every_run_of_white_space_is_one_space_and_none_is_at_the_ends(raw):
    assert normalise_text(raw) == "a b"


@pytest.mark.parametrize("raw", ["", " ", "\n", "\u00a0\u3000"])
def test_white_space_alone_is_no_text(raw):
    assert normalise_text(raw) == ""


@pytest.mark.parametrize("text", ["\u05e9\u05dc\u05d5\u05dd", "\u0633\u0644\u0627\u0645", "abc \u05d0\u05d1\u05d2 123"])
def test_right_to_left_text_stays_in_logical_order(text):
    assert normalise_text(text) == text
    charset = Charset.from_texts([text])
    assert charset.decode(charset.encode(text)) == text


def test_case_and_zero_width_characters_are_not_touched():
    assert normalise_text("aA\u200d\u200cB") == "aA\u200d\u200cB"


def test_normalising_twice_changes_nothing_and_every_result_can_be_a_charset():
    chooser = random.Random(0)
    for _ in range(500):
        text = normalise_text("".join(chooser.choices(LATIN_EXTENDED, k=12)))
        assert normalise_text(text) == text
        if text:
            charset = Charset.from_texts([text])
            assert charset.decode(charset.encode(text)) == text


@pytest.mark.parametrize(
    ("label", "repeats"),
    [([], 0), ([5], 0), ([1, 2, 1], 0), ([1, 1], 1), ([1, 1, 1], 2), ([1, 1, 2, 2], 2), ([0, 0, 1, 0, 0], 2)],
)
def test_adjacent_repeats_counts_equal_neighbours(label, repeats):
    assert adjacent_repeats(label) == repeats


def test_ids_follow_the_code_points_and_not_the_order_of_the_texts():
    charset = Charset.from_texts(["zä", "b A1", "\U0001d11e"])
    assert charset.symbols == (" ", "1", "A", "b", "z", "ä", "\U0001d11e")
    assert charset.encode("A1z") == [2, 1, 4]
    assert Charset.from_texts(["b A1", "\U0001d11e", "äz"]) == charset


def test_the_blank_is_the_last_class():
    charset = Charset(("a", "b", "c"))
    assert charset.blank == 3
    assert charset.classes == 4
    assert charset.blank not in charset.encode("abc")


def test_encoding_and_decoding_are_inverse():
    charset = Charset.from_texts(["hello world"])
    assert charset.encode("") == []
    assert charset.decode(charset.encode("hello world")) == "hello world"


@pytest.mark.parametrize("wrong", [-1, 2, 3])
def test_decoding_an_id_that_is_no_symbol_names_it_and_the_range(wrong):
    with pytest.raises(CharsetError, match=rf"id {wrong} is no symbol: ids run from 0 to 1, blank 2"):
        Charset(("a", "b")).decode([0, wrong])


def test_unknown_symbols_are_all_named_once_with_their_code_points():
    charset = Charset(("a", "b"))
    assert charset.missing("xaßx") == ["x", "ß"]
    with pytest.raises(CharsetError) as error:
        charset.encode("xaßx")
    message = str(error.value)
    assert "'xaßx'" in message
    assert "'x' (U+0078), 'ß' (U+00DF)" in message
    assert message.count("U+0078") == 1


def test_a_text_within_the_charset_misses_nothing():
    assert Charset(("a", "b")).missing("abba") == []


def test_the_file_has_one_symbol_a_line_and_ends_with_a_newline():
    assert Charset((" ", "a", "ß")).to_file_text() == " \na\nß\n"


@pytest.mark.parametrize("symbols", [(" ",), (" ", "a"), ("#", "0", "\u0301"), ("a", "\u05d0", "\U0001f600")])
def test_a_charset_survives_its_file(symbols):
    charset = Charset(symbols)
    assert Charset.from_file_text(charset.to_file_text(), source="charset.txt") == charset


def test_a_file_without_its_last_newline_is_read_as_well():
    assert Charset.from_file_text(" \na", source="charset.txt").symbols == (" ", "a")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "at least one symbol"),
        ("a\n\nb\n", "'' has 0 code points"),
        ("a\nbc\n", "'bc' has 2 code points"),
        ("a\r\nb\r\n", r"'a\\r' has 2 code points"),
        ("b\na\n", "'a' follows 'b'"),
        ("a\na\n", "'a' follows 'a'"),
        ("\t\n", r"U\+0009"),
        ("\u00a0\n", r"U\+00A0"),
        ("\u212b\n", r"U\+212B.*cannot occur in an NFC label"),
    ],
)
def test_a_file_that_is_no_charset_is_refused_with_its_name_and_the_symbol(content, complaint):
    with pytest.raises(CharsetError, match=rf"^given/charset\.txt: .*{complaint}"):
        Charset.from_file_text(content, source="given/charset.txt")


def test_no_labels_give_no_charset():
    with pytest.raises(CharsetError, match="were there any labels"):
        Charset.from_texts([])


def test_a_charset_error_is_a_sentence_for_a_person():
    assert issubclass(CharsetError, DataError)


def test_the_digest_is_the_sha_256_of_the_file():
    charset = Charset((" ", "é"))
    assert charset.digest == hashlib.sha256(b" \n\xc3\xa9\n").hexdigest()


def test_the_digest_changes_with_any_symbol():
    digests = {
        Charset(symbols).digest for symbols in [("a",), ("b",), ("a", "b"), ("a", "b", "c"), ("\u0061", "\u0301")]
    }
    assert len(digests) == 5


def test_using_a_charset_does_not_make_it_another_value():
    used, fresh = Charset(("a", "b")), Charset(("a", "b"))
    used.encode("ab")
    assert used == fresh
    assert hash(used) == hash(fresh)
