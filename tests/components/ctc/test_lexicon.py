"""Lexicon decoding, held against the posterior of every word by every alignment."""

from __future__ import annotations

import itertools
import string

import numpy as np
import pytest

from components.ctc import lexicon as module
from components.ctc.beam_search import decode_with_beam_search
from components.ctc.decoders import Decoding
from components.ctc.decoding import Decoded, Emissions, align_symbols, compute_label_log_probability
from components.ctc.lexicon import Lexicon, decode_with_lexicon
from tests.alignments import probability_of_every_text
from tfrecords import Charset, DataError

EVERY_WORD = 1_000
ABC = Charset(("a", "b", "c"))


def found(line: Decoded, charset: Charset) -> dict[str, float]:
    """Every word of a decoded line with its log probability, in the order in which they are given."""
    texts = [(line.ids, line.log_probability), *line.alternatives]
    words = {charset.decode(ids.tolist()): log_probability for ids, log_probability in texts}
    assert len(words) == len(texts)
    assert list(words.values()) == sorted(words.values(), reverse=True)
    return words


def random_words(chooser: np.random.Generator, count: int, symbols: str, longest: int) -> list[str]:
    return ["".join(chooser.choice(list(symbols), chooser.integers(1, longest + 1))) for _ in range(count)]


def random_batch(chooser: np.random.Generator, rows: int, steps: int, classes: int, scale: float):
    logits = chooser.normal(0, scale, (rows, steps, classes)).astype(np.float32)
    return logits, chooser.integers(1, steps + 1, rows)


def true_words(logits: np.ndarray, words: list[str], charset: Charset) -> dict[str, float]:
    truth = probability_of_every_text(logits)
    ids = {word: tuple(charset.encode(word)) for word in words}
    return {word: float(np.log(truth[label])) for word, label in ids.items() if truth.get(label)}


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("scale", [0.1, 1, 3, 15])
def test_words_have_their_true_posterior_and_none_is_missed_that_is_not_negligible(seed, scale):
    chooser = np.random.default_rng(seed)
    words = random_words(chooser, int(chooser.integers(1, 25)), "abc", 7)  # prefixes, repeats, some too long
    logits, time_steps = random_batch(chooser, 12, 5, ABC.classes, scale)
    lexicon = Lexicon.from_words(words, ABC)
    for row, line in enumerate(decode_with_lexicon(logits, time_steps, lexicon, EVERY_WORD)):
        truth = true_words(logits[row, : time_steps[row]], words, ABC)
        if not truth:
            assert (line.ids.tolist(), line.log_probability, line.alternatives) == ([], -np.inf, ())
            continue
        texts = found(line, ABC)
        assert texts == pytest.approx({word: truth[word] for word in texts}, abs=1e-6)
        lost = [cut.bound_missed(time_steps[row], max(map(len, words))) for cut in (module._QUICK, module._CAREFUL)]
        negligible = np.log(lost[0] if line.log_probability > np.log(lost[0]) else lost[1])
        assert set(texts) >= {word for word, posterior in truth.items() if posterior > negligible}
        assert len(texts) == len(truth) or scale > 1


def test_a_lexicon_of_every_text_reads_what_a_beam_without_one_reads():
    chooser = np.random.default_rng(20)
    logits, time_steps = random_batch(chooser, 60, 5, ABC.classes, 2)
    words = ["".join(each) for length in range(1, 6) for each in itertools.product("abc", repeat=length)]
    lexicon = Lexicon.from_words(words, ABC)
    unrestricted = decode_with_beam_search(logits, time_steps, 400, alternatives=1)
    compared = 0
    for line, free in zip(decode_with_lexicon(logits, time_steps, lexicon), unrestricted, strict=True):
        if len(free.ids):
            assert line.ids.tolist() == free.ids.tolist()
            assert line.log_probability == pytest.approx(free.log_probability, abs=1e-12)
            compared += 1
    assert compared > 30


@pytest.mark.parametrize("scale", [1, 4])
def test_the_best_of_many_words_is_that_of_scoring_each(scale):
    chooser = np.random.default_rng(21)
    charset = Charset(tuple(string.ascii_lowercase))
    words = sorted(set(random_words(chooser, 300, "abcdefgh", 9)))
    logits, time_steps = random_batch(chooser, 10, 30, charset.classes, scale)
    ids, lengths = Lexicon.from_words(words, charset).get_labels(np.arange(len(words)))
    decoded = decode_with_lexicon(logits, time_steps, Lexicon.from_words(words, charset), alternatives=3)
    for row, line in enumerate(decoded):
        many = np.repeat(logits[row : row + 1], len(words), axis=0)
        truth = compute_label_log_probability(many, np.full(len(words), time_steps[row]), ids, lengths)
        best = np.argsort(-truth)[:4]
        assert list(found(line, charset)) == [words[i] for i in best]
        assert list(found(line, charset).values()) == pytest.approx(truth[best].tolist(), abs=1e-9)


def test_a_word_is_read_whole_though_a_beginning_that_cannot_become_one_looks_much_better():
    logits = np.zeros((1, 6, 4))
    logits[0, 0, 0] = logits[0, 1:, 3] = 40  # the best path spells "a"
    line = decode_with_lexicon(logits, np.array([6]), Lexicon.from_words(["abcab", "aaab"], ABC))[0]
    assert found(line, ABC)["aaab"] == pytest.approx(true_words(logits[0], ["aaab"], ABC)["aaab"])
    assert ABC.decode(line.ids) == "aaab"
    assert line.log_probability < -100


def test_time_steps_are_kept_for_the_blank_between_repeats():
    logits = np.zeros((1, 4, 4))
    logits[0, :3, 0] = logits[0, 3, 1] = 70  # the best path is "aaab", which spells "ab"
    line = decode_with_lexicon(logits, np.array([4]), Lexicon.from_words(["aab"], ABC))[0]
    assert ABC.decode(line.ids) == "aab"
    assert line.log_probability == pytest.approx(-70)


def test_one_long_symbol_is_not_taken_for_repeats():
    logits = np.full((1, 12, 4), -14.0)
    logits[0, :, 0] = 0
    logits[0, 10:, 1] = -3
    repeats = ["a" * count for count in range(2, 12)]
    line = decode_with_lexicon(logits, np.array([12]), Lexicon.from_words([*repeats, "ab"], ABC), alternatives=0)[0]
    assert ABC.decode(line.ids) == "ab"


@pytest.mark.parametrize("misread", [0, 1, 2, 3])
def test_the_nearest_word_is_found_though_the_network_is_sure_of_other_symbols(misread):
    chooser = np.random.default_rng(misread)
    charset = Charset(tuple("abcdefgh"))
    words = sorted(set(random_words(chooser, 400, "abcdefgh", 7)))
    lexicon = Lexicon.from_words(words, charset)
    ids, lengths = lexicon.get_labels(np.arange(len(words)))
    steps, rows = 20, 20
    logits = chooser.normal(0, 2, (rows, steps, charset.classes))
    logits[:, :, -1] += 15
    for row in range(rows):
        seen = ids[chooser.integers(len(words))][:7].copy()
        seen[chooser.choice(len(seen), misread, replace=False)] = chooser.integers(0, 8, misread)
        logits[row, 1 + 2 * np.arange(len(seen)), seen] += 30
    for row, line in enumerate(decode_with_lexicon(logits, np.full(rows, steps), lexicon)):
        many = np.repeat(logits[row : row + 1], len(words), axis=0)
        truth = compute_label_log_probability(many, np.full(len(words), steps), ids, lengths)
        assert charset.decode(line.ids) == words[truth.argmax()]


def test_what_no_word_fits_is_an_empty_text_of_probability_zero_beside_lines_that_read():
    logits = np.zeros((3, 4, 4))
    lines = decode_with_lexicon(logits, np.array([4, 2, 3]), Lexicon.from_words(["aab", "abcab"], ABC))
    assert [ABC.decode(line.ids) for line in lines] == ["aab", "", ""]
    assert [np.isfinite(line.log_probability) for line in lines] == [True, False, False]
    assert lines[1].log_probability == -np.inf
    assert lines[1].symbol_confidences.shape == (0,)
    assert lines[1].alternatives == ()
    alone = decode_with_lexicon(logits[:1], np.array([2]), Lexicon.from_words(["aab"], ABC))[0]
    assert (alone.ids.tolist(), alone.log_probability) == ([], -np.inf)


def test_words_of_probability_zero_are_no_reading():
    logits = np.full((1, 3, 4), -2000.0)
    logits[0, :, 0] = 0
    line = decode_with_lexicon(logits, np.array([3]), Lexicon.from_words(["b", "ab"], ABC))[0]
    assert (line.ids.tolist(), line.log_probability) == ([], -np.inf)


def test_confidences_are_those_of_the_most_probable_alignment():
    chooser = np.random.default_rng(22)
    logits, _ = random_batch(chooser, 5, 8, ABC.classes, 2)
    steps = np.full(5, 8)
    for row, line in enumerate(decode_with_lexicon(logits, steps, Lexicon.from_words(["ab", "cab", "bb"], ABC))):
        emissions = Emissions.from_logits(logits[row : row + 1], steps[:1])
        confidences, runs = align_symbols(emissions, line.ids[None], np.array([len(line.ids)]))[0]
        np.testing.assert_array_equal(line.symbol_confidences, confidences)
        np.testing.assert_array_equal(line.runs, runs)
        assert line.symbol_confidences.dtype == np.float32


def test_a_line_reads_the_same_alone_and_in_a_longer_batch():
    chooser = np.random.default_rng(23)
    logits, time_steps = random_batch(chooser, 20, 15, ABC.classes, 1.5)
    lexicon = Lexicon.from_words(random_words(chooser, 60, "abc", 8), ABC)
    padded = np.concatenate([logits, np.full((20, 3, 4), np.nan, np.float32)], axis=1)
    for row, line in enumerate(decode_with_lexicon(padded, time_steps, lexicon)):
        steps = time_steps[row]
        alone = decode_with_lexicon(logits[row : row + 1, :steps], np.array([steps]), lexicon)[0]
        assert list(found(line, ABC)) == list(found(alone, ABC))
        assert found(line, ABC) == pytest.approx(found(alone, ABC), abs=1e-12)
        np.testing.assert_array_equal(line.symbol_confidences, alone.symbol_confidences)


def test_of_too_many_beginnings_the_best_go_on(monkeypatch):
    chooser = np.random.default_rng(24)
    words = ["".join(each) for length in range(1, 6) for each in itertools.product("abc", repeat=length)]
    logits, time_steps = random_batch(chooser, 20, 12, ABC.classes, 3)
    lexicon = Lexicon.from_words(words, ABC)
    wanted = [ABC.decode(line.ids) for line in decode_with_lexicon(logits, time_steps, lexicon)]
    monkeypatch.setattr(module, "_MOST_BEGINNINGS", 40)
    narrow = decode_with_lexicon(logits, time_steps, lexicon)
    assert [ABC.decode(line.ids) for line in narrow] == wanted
    monkeypatch.setattr(module, "_MOST_BEGINNINGS", 1)
    for row, line in enumerate(decode_with_lexicon(logits, time_steps, lexicon)):
        steps = time_steps[row : row + 1]
        if len(line.ids):
            truth = compute_label_log_probability(
                logits[row : row + 1], steps, line.ids[None], np.array([len(line.ids)])
            )
            assert line.log_probability == pytest.approx(truth[0], abs=1e-9)


def test_the_best_of_each_image_are_those_of_sorting_by_both():
    chooser = np.random.default_rng(25)
    images = np.sort(chooser.integers(0, 40, 2_000))
    values = chooser.random(2_000) ** 40 + 1e-300
    order = np.lexsort((-values, images))
    wanted = [order[images[order] == image][:7] for image in range(40)]
    np.testing.assert_array_equal(module._choose_greatest(images, values, 7), np.concatenate(wanted))


def test_no_lines_are_no_words():
    assert decode_with_lexicon(np.zeros((0, 4, 4)), np.zeros(0, int), Lexicon.from_words(["a"], ABC)) == []


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_refused_within_a_line(broken):
    logits = np.zeros((2, 4, 4))
    logits[1, 3, 0] = broken
    lexicon = Lexicon.from_words(["ab"], ABC)
    decode_with_lexicon(logits, np.array([4, 3]), lexicon)
    with pytest.raises(ValueError, match="not finite"):
        decode_with_lexicon(logits, np.array([4, 4]), lexicon)


def test_a_lexicon_of_another_charset_is_refused():
    with pytest.raises(ValueError, match="the lexicon is of 4 classes, the logits have 7"):
        decode_with_lexicon(np.zeros((1, 4, 7)), np.array([4]), Lexicon.from_words(["ab"], ABC))


def test_words_are_normalised_and_distinct_and_the_unreadable_ones_named():
    charset = Charset.from_texts(["été ab"])
    words = ["ab", "  ab\t", "e\u0301te\u0301", "été", "", " ", "a  b", "abc", "x\u00b2", "abc "]
    lexicon = Lexicon.from_words(words, charset)
    assert lexicon.words == ("a b", "ab", "été")
    assert lexicon.unreadable == ("abc", "x²")
    ids, lengths = lexicon.get_labels(np.arange(3))
    assert [charset.decode(row[:length]) for row, length in zip(ids, lengths, strict=True)] == list(lexicon.words)


def test_the_trie_has_a_node_for_each_beginning_and_the_time_steps_to_the_nearest_word():
    lexicon = Lexicon.from_words(["aab", "ab", "abb", "cc"], ABC)
    trie = lexicon.forwards
    beginnings = ["", "a", "c", "aa", "ab", "cc", "aab", "abb"]
    paths = {0: ""}
    for node in range(len(trie.symbols)):
        for child in range(trie.first_child[node], trie.first_child[node + 1]):
            paths[child] = paths[node] + ABC.symbols[trie.symbols[child]]
    assert [paths[node] for node in range(len(paths))] == beginnings
    assert [lexicon.words[i] if i >= 0 else "" for i in trie.word] == ["", "", "", "", "ab", "cc", "aab", "abb"]
    assert trie.steps_after_blank.tolist() == [2, 1, 1, 1, 0, 0, 0, 0]
    assert trie.steps_after_symbol.tolist() == [2, 1, 2, 1, 0, 0, 0, 0]


def test_a_lexicon_without_a_word_that_can_be_read_is_refused():
    with pytest.raises(DataError, match="lacks symbols of each of the lexicon's 2 words, such as 'x'"):
        Lexicon.from_words(["x", "yz"], ABC)
    with pytest.raises(DataError, match="no words"):
        Lexicon.from_words([" ", ""], ABC)


def test_a_pinned_lexicon_is_that_of_its_file_then_and_no_other(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("ab\nba\n", encoding="utf-8")
    free = Decoding("lexicon", lexicon=str(path))
    pinned = free.pin_lexicon()
    assert pinned == free.pin_lexicon()
    assert len(pinned.read_lexicon(Charset("ab")).words) == 2
    path.write_text("ab\n", encoding="utf-8")
    assert len(free.read_lexicon(Charset("ab")).words) == 1
    with pytest.raises(DataError, match=r"words\.txt was changed while the job ran: run it again"):
        pinned.read_lexicon(Charset("ab"))
    assert pinned != free.pin_lexicon()
    assert Decoding("beam").pin_lexicon() == Decoding("beam")


@pytest.mark.parametrize("seed", range(6))
def test_the_empty_text_is_a_word_where_it_is_asked_for(seed):
    chooser = np.random.default_rng(seed)
    words = [*random_words(chooser, 6, "abc", 4), ""]
    logits, time_steps = random_batch(chooser, 12, 5, ABC.classes, 2)
    logits[:4, :, -1] += 6
    lexicon = Lexicon.from_words(words, ABC, with_empty=True)
    for row, line in enumerate(decode_with_lexicon(logits, time_steps, lexicon, EVERY_WORD)):
        truth = true_words(logits[row, : time_steps[row]], words, ABC)
        assert ABC.decode(line.ids) == max(truth, key=truth.__getitem__)
        assert line.log_probability == pytest.approx(max(truth.values()), abs=1e-6)
        assert row >= 4 or not len(line.ids)


def test_two_quotation_marks_in_a_file_of_words_are_the_empty_text_and_an_empty_line_is_none(tmp_path):
    (tmp_path / "words.txt").write_text('ab\n\n""\nc\n')
    assert Decoding("lexicon", lexicon=str(tmp_path / "words.txt")).read_lexicon(ABC).words == ("", "ab", "c")
    (tmp_path / "words.txt").write_text("ab\n\nc\n\n")
    assert Decoding("lexicon", lexicon=str(tmp_path / "words.txt")).read_lexicon(ABC).words == ("ab", "c")
    (tmp_path / "words.txt").write_text('""\n')
    with pytest.raises(DataError, match="no words"):
        Decoding("lexicon", lexicon=str(tmp_path / "words.txt")).read_lexicon(ABC)
