"""Text normalisation, symbol ids and the blank."""

import hashlib
import random
import unicodedata

import pytest

from tfrecords import Charset, CharsetError, DataError, count_adjacent_repeats, normalise_text

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
    assert count_adjacent_repeats(label) == repeats


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


# The list of symbols that a person wrote


@pytest.mark.parametrize(
    ("content", "symbols"),
    [
        ("b\na\nc\n", ("a", "b", "c")),
        ("a\nb", ("a", "b")),
        ("a\r\n \r\nb\r\n", (" ", "a", "b")),
        (" \na\n", (" ", "a")),
        ("a\nb\na\n", ("a", "b")),
        ("\na\n\n\nb\n", ("a", "b")),
        (" a\nb \n\tc\n", ("a", "b", "c")),
        ("e\u0301\n", ("\u00e9",)),
        ("\u212b\n\u00c5\nA\u030a\n", ("\u00c5",)),
        ("m\u0303\na\n", ("a", "m", "\u0303")),
        ("q\u0307\u0323\n", ("q", "\u0307", "\u0323")),
        ("\u0301\n", ("\u0301",)),
        ("\u05d1\u05bc\n", ("\u05bc", "\u05d1")),
        ("\u200c\n\u0645\n", ("\u0645", "\u200c")),
        ("\ufb01\n\u00b2\n", ("\u00b2", "\ufb01")),
        ("\U0001f600\n#\n", ("#", "\U0001f600")),
    ],
    ids=[
        "any order",
        "no newline at the end",
        "carriage returns",
        "a space",
        "repeated lines",
        "empty lines",
        "white space around",
        "a decomposed letter",
        "three spellings of one letter",
        "a mark that no letter composes with",
        "two such marks",
        "a mark alone",
        "a pointed letter",
        "a joiner alone",
        "compatibility characters",
        "beyond the basic plane",
    ],
)
def test_a_list_of_symbols_is_read_as_a_person_means_it(content, symbols):
    assert Charset.from_lines(content).symbols == symbols


def test_a_list_encodes_the_labels_that_are_written_with_its_letters():
    labels = [normalise_text(text) for text in ("m\u0303 e\u0301", "\u00e9m")]
    charset = Charset.from_lines("e\u0301\r\nm\u0303\r\n \r\n")
    assert [charset.missing(label) for label in labels] == [[], []]


def test_a_byte_order_mark_is_no_symbol_if_the_bytes_are_read_as_utf_8_with_a_signature():
    assert Charset.from_lines(b"\xef\xbb\xbfb\r\na\r\n".decode("utf-8-sig")).symbols == ("a", "b")


@pytest.mark.parametrize(
    ("content", "number", "line"),
    [
        ("ab\n", 1, "ab"),
        ("a\nb\nc d\n", 3, "c d"),
        ("a\r\n\r\nbc\r\n", 3, "bc"),
        ("e\u0301e\u0301\n", 1, "e\u0301e\u0301"),
        ("a,\n", 1, "a,"),
        ("\ufeffa\n", 1, "\ufeffa"),
        ("a\rb\n", 1, "a\rb"),
    ],
)
def test_a_line_of_more_than_one_letter_is_refused_with_its_number(content, number, line):
    with pytest.raises(CharsetError) as error:
        Charset.from_lines(content)
    assert str(error.value) == f"line {number} holds {line!r}, which is more than one symbol"


@pytest.mark.parametrize("content", ["", "\n\n", "\t\n\u00a0\n"])
def test_a_list_without_symbols_is_no_charset(content):
    with pytest.raises(CharsetError, match="at least one symbol"):
        Charset.from_lines(content)


def test_the_symbols_that_a_text_lacks_are_named_in_order():
    charset = Charset(("a", "b", "c", "d"))
    assert charset.missing_from("bdx") == ["a", "c"]
    assert charset.missing_from({"a": 1, "b": 2, "c": 3, "d": 4}) == []
