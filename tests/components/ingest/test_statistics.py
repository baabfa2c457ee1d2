"""Statistics of a dataset, what is warned of and what is not, and the examples to look at."""

import collections
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
import pytest

from components.ingest import ShardSummary
from components.ingest.describe import (
    CONTACT_SHEET,
    EXTREMES,
    SAMPLES_SCHEMA,
    ShardDescription,
    Twins,
    describe_shard,
    find_twins,
    split_by_search,
)
from components.ingest.statistics import RARE, collect_samples, collect_statistics, find_warnings
from tests.components.ingest.written import HEIGHT, TIME_STRIDE, Line, parse_shard, write_lines
from tfrecords import SPLITS, Charset, decode_png

Shards = list[tuple[str, list[Line]]]

AMPLE = 400


class Dataset:
    """Written shards of any splits, and what is found in them."""

    def __init__(
        self,
        folder: pathlib.Path,
        shards: Shards,
        *,
        charset: str | None = None,
        groups: list[dict[str, int]] | None = None,
        rejects: list[dict[str, int]] | None = None,
        searches: int = 1,
    ):
        self.shards = shards
        self.splits = [split for split, _ in shards]
        texts = [line.text for _, lines in shards for line in lines]
        self.charset = Charset.from_texts(texts if charset is None else [charset])
        self.paths = [
            write_lines(folder / f"{number}.tfrecord.gz", lines, self.charset)
            for number, (_, lines) in enumerate(shards)
        ]
        self.described: list[tuple[list[ShardSummary], ShardDescription]] = []
        blocks: dict[int, list[bytes]] = collections.defaultdict(list)
        for number, (split, lines) in enumerate(shards):
            description, identities = describe_shard(self.paths[number], number, self.charset, HEIGHT, TIME_STRIDE)
            left_out = rejects[number] if rejects else {}
            summary = ShardSummary(
                split=split,
                index=self.splits[:number].count(split),
                inputs="",
                matched=len(lines) + sum(left_out.values()),
                examples=len(lines),
                bytes=0,
                sha256="",
                rejects=left_out,
                groups={},
            )
            description = dataclasses.replace(description, groups=groups[number] if groups else {})
            self.described.append(([summary], description))
            for search, block in split_by_search(identities, searches):
                blocks[search].append(block)
        by_number = [SPLITS.index(split) for split in self.splits]
        self.twins: list[Twins] = [find_twins(blocks[search], by_number) for search in sorted(blocks)]

    def statistics(self, split_by: str = "image", **also: Any) -> dict[str, Any]:
        """As `statistics.json` holds them, with what the commit adds to them."""
        found = collect_statistics(self.described, self.twins, split_by, self.charset)
        return {"rejects": {}, "unused_labels": {}, **found, **also}

    def warnings(self, split_by: str = "image", **also: Any) -> list[str]:
        return list(find_warnings(self.statistics(split_by, **also)))

    def samples(self) -> list[dict[str, Any]]:
        descriptions = [description for _, description in self.described]
        table = collect_samples(descriptions, self.twins, self.splits, self.paths.__getitem__)
        assert table.schema.equals(SAMPLES_SCHEMA)
        return table.to_pylist()

    def samples_of(self, role: str) -> list[dict[str, Any]]:
        return [sample for sample in self.samples() if sample["role"] == role]


def lines_of(text: str, count: int, first_picture: int, width: int = AMPLE) -> list[Line]:
    return [Line(text, width, first_picture + number, f"lines/{first_picture + number}.png") for number in range(count)]


def good(*, train: str = "", validation: str = "", test: str = "") -> Shards:
    """Splits that nothing is warned of, if no text is given in addition."""
    return [
        ("train", lines_of("ab", RARE, 0) + [Line(train, AMPLE, 100)] * bool(train)),
        ("validation", lines_of("ab", 3, 200) + [Line(validation, AMPLE, 300)] * bool(validation)),
        ("test", lines_of("ab", 3, 400) + [Line(test, AMPLE, 500)] * bool(test)),
    ]


# Counts


def test_statistics_agree_with_a_plain_recount_of_all_shards(tmp_path):
    shards = [
        ("train", lines_of("abba", 30, 0, 90) + lines_of("c a", 20, 100, 64)),
        ("train", lines_of("abba", 5, 200, 90) + lines_of("d", 4, 300, 1000)),
        ("validation", lines_of("ba", 6, 400, 120)),
        ("test", []),
        ("test", lines_of("ba", 7, 500, 9)),
    ]
    rejects = [{"truncated": 2}, {"truncated": 1, "no_label": 1}, {}, {"no_label": 4}, {}]
    dataset = Dataset(tmp_path, shards, charset="abcd e", rejects=rejects)
    statistics = dataset.statistics()
    expected_rejects = {
        "train": {"no_label": 1, "truncated": 3},
        "validation": {},
        "test": {"no_label": 4},
    }
    for split in SPLITS:
        examples = [
            example
            for (mine, _), path in zip(shards, dataset.paths, strict=True)
            if mine == split
            for example in parse_shard(path)
        ]
        found = statistics["splits"][split]
        assert found["examples"] == len(examples)
        for name, feature in (("widths", "width"), ("label_lengths", "label_length")):
            counts = collections.Counter(example[feature] for example in examples)
            assert found[name] == sorted([value, count] for value, count in counts.items())
        assert found["symbols"] == collections.Counter("".join(example["text"] for example in examples))
        assert found["rejects"] == expected_rejects[split]
    assert statistics["symbols"] == collections.Counter("abba" * 35 + "c a" * 20 + "d" * 4 + "ba" * 13)
    assert list(statistics["symbols"]) == sorted(statistics["symbols"])
    assert statistics["symbols_without_image"] == ["e"]
    assert statistics["rare_symbols"] == {"d": 4}
    assert statistics["symbols_in_one_split"] == {"train": [" ", "c", "d"], "validation": [], "test": []}
    assert statistics["tight_labels"] == 7  # 9 pixels are 3 time steps
    assert statistics["split_by"] == "image"
    assert json.loads(json.dumps(statistics)) == statistics


@pytest.mark.parametrize(
    ("spacings", "median"),
    [([5], 5), ([5, 7], 5), ([5, 7, 9], 7), ([1, 1, 1, 100], 1), ([2, 9, 9, 9, 100], 9), ([], 0)],
)
def test_the_median_width_per_symbol_is_that_of_the_example_in_the_middle(tmp_path, spacings, median):
    shards = [("train", [Line("ab", 2 * spacing) for spacing in spacings[:2]])]
    shards += [("test", [Line("abc", 3 * spacing) for spacing in spacings[2:]])]
    assert Dataset(tmp_path, shards, charset="abc").statistics()["median_pixels_per_symbol"] == median


def test_groups_are_counted_over_all_shards_of_a_split(tmp_path):
    shards = [("train", []), ("train", []), ("validation", []), ("test", [])]
    groups = [{"a": 3, "b": 2}, {"a": 1, "c": 5, "d": 4}, {"e": 1}, {}]
    splits = Dataset(tmp_path, shards, charset="a", groups=groups).statistics("folder")["splits"]
    assert {split: splits[split]["groups"] for split in SPLITS} == {"train": 4, "validation": 1, "test": 0}
    assert list(splits["train"]["largest_groups"].items()) == [("c", 5), ("a", 4), ("d", 4), ("b", 2)]
    assert splits["validation"]["largest_groups"] == {"e": 1}
    assert splits["test"]["largest_groups"] == {}


def test_of_very_many_groups_the_largest_are_named(tmp_path):
    groups = [{f"group {number:04d}": 1 + number % 7 for number in range(1500)}]
    part = Dataset(tmp_path, [("train", [])], charset="a", groups=groups).statistics("folder")["splits"]["train"]
    assert part["groups"] == 1500
    named = list(part["largest_groups"].items())
    assert len(named) == 1000
    assert named == sorted(groups[0].items(), key=lambda item: (-item[1], item[0]))[:1000]


# Warnings


def test_nothing_is_warned_of_if_there_is_nothing_doubtful(tmp_path):
    assert Dataset(tmp_path, good()).warnings() == []


@pytest.mark.parametrize("empty", ["validation", "test"])
@pytest.mark.parametrize(
    ("split_by", "what"),
    [
        ("image", "images"),
        ("folder", "images or groups of --split_by=folder"),
        ("writer", "images or groups of --split_by=writer"),
    ],
)
def test_an_empty_split_is_warned_of_with_what_it_was_split_by(tmp_path, empty, split_by, what):
    shards = [(split, [] if split == empty else lines) for split, lines in good()]
    assert Dataset(tmp_path, shards).warnings(split_by) == [
        f"the {empty} split is empty: there are too few {what} for it"
    ]


def test_a_split_that_no_shard_was_written_for_is_empty_too(tmp_path):
    assert Dataset(tmp_path, good()[:1]).warnings() == [
        "the validation split is empty: there are too few images for it",
        "the test split is empty: there are too few images for it",
    ]


@pytest.mark.parametrize(("count", "words"), [(1, "1 folder cannot be listed"), (3, "3 folders cannot be listed")])
def test_folders_that_cannot_be_listed_are_warned_of(tmp_path, count, words):
    (warning,) = Dataset(tmp_path, good()).warnings(rejects={"truncated": 9, "unreadable_folder": count})
    assert warning.startswith(words)


@pytest.mark.parametrize(
    ("unused", "words"),
    [
        ({"no_image": 1}, "1 label belongs to no image (1 no_image)"),
        ({"damaged_row": 1, "no_image": 4}, "5 labels belong to no image (1 damaged_row, 4 no_image)"),
    ],
)
def test_labels_without_an_image_are_warned_of_with_their_file(tmp_path, unused, words):
    (warning,) = Dataset(tmp_path, good()).warnings(unused_labels=unused)
    assert warning == f"{words}: unused_labels.parquet lists them"


def test_identical_images_with_other_labels_are_warned_of(tmp_path):
    shards = good()
    shards[0][1].extend([Line("ab", AMPLE, 7), Line("ba", AMPLE, 8)])  # twins of the eighth and the ninth
    (warning,) = Dataset(tmp_path, shards).warnings()
    assert warning == "2 images are identical to others with another label: samples.parquet has some of them"


def test_identical_images_in_several_splits_are_warned_of(tmp_path):
    shards = good()
    shards[2][1].append(Line("ab", AMPLE, 7))
    (warning,) = Dataset(tmp_path, shards).warnings()
    assert warning.startswith("2 images have an identical one in another split: ")
    assert "--split_by" in warning


@dataclasses.dataclass(frozen=True)
class FaintLine(Line):
    """A line whose left half is darker than its right one, by `contrast` grey levels."""

    contrast: int = 0

    @property
    def pixels(self) -> np.ndarray:
        pixels = np.full((HEIGHT, self.width), 200, np.uint8)
        pixels[:, : self.width // 2] -= self.contrast
        return pixels


def test_lines_that_are_blank_are_warned_of_with_the_first_of_them(tmp_path):
    shards = good()
    shards[0][1].extend(FaintLine("ab", AMPLE + n, uri=f"faint/{n}.png", contrast=15 - n) for n in (4, 3, 2, 1))
    shards[2][1].append(FaintLine("ab", AMPLE, uri="faint/0.png", contrast=15))
    (warning,) = Dataset(tmp_path, shards).warnings()
    assert warning == (
        "5 lines are blank in grey, and cannot be learned: no two pixels are 16 grey levels apart "
        "(faint/0.png, faint/1.png, faint/2.png, …)"
    )


@pytest.mark.parametrize(("text", "contrast"), [("ab", 16), ("ab", 100), ("", 0)])
def test_a_faint_line_and_an_empty_field_are_no_blank_lines(tmp_path, text, contrast):
    shards = good()
    shards[1][1].append(FaintLine(text, AMPLE, uri="one.png", contrast=contrast))
    assert Dataset(tmp_path, shards).warnings() == []


@pytest.mark.parametrize(
    ("widths", "words"),
    [
        ([21], None),
        ([20], "1 label fits its image but leaves no room"),
        ([20, 12, 21], "2 labels fit their images but leave no room"),
    ],
)
def test_tight_labels_are_warned_of(tmp_path, widths, words):
    shards = good()
    shards[1][1].extend(Line("ab", width, 50) for width in widths)  # 2 symbols: from 6 time steps on there is room
    warnings = Dataset(tmp_path, shards).warnings()
    assert len(warnings) == bool(words)
    assert all(warning.startswith(words) and "--height" in warning for warning in warnings)


def test_a_symbol_that_is_in_the_training_split_alone_cannot_be_measured(tmp_path):
    assert Dataset(tmp_path, good(train="c" * RARE)).warnings() == [
        "1 symbol occurs ('c') only in the training split: how well they are read cannot be measured"
    ]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_symbols_that_are_not_in_the_training_split_cannot_be_learned(tmp_path, split):
    assert Dataset(tmp_path, good(**{split: "dcab"})).warnings() == [
        f"2 symbols occur ('c' 'd') only in the {split} split and cannot be learned"
    ]


def test_a_symbol_of_both_other_splits_that_is_never_trained_cannot_be_learned_either(tmp_path):
    (warning,) = Dataset(tmp_path, good(validation="abc", test="bca")).warnings()
    assert warning.startswith("1 symbol occurs ('c') only in ")
    assert "validation" in warning
    assert "test" in warning
    assert warning.endswith(" and cannot be learned")


def test_a_symbol_of_a_dataset_of_one_split_is_not_called_one_of_one_split(tmp_path):
    warnings = Dataset(tmp_path, good(train="c" * RARE)[:1]).warnings()
    assert not [warning for warning in warnings if "'c'" in warning]


@pytest.mark.parametrize(("times", "rare"), [(1, True), (RARE - 1, True), (RARE, False), (RARE + 1, False)])
def test_a_symbol_is_rare_below_ten_occurrences_in_the_training_split(tmp_path, times, rare):
    warnings = Dataset(tmp_path, good(train="c" * times, test="cc")).warnings()
    expected = "1 symbol occurs ('c') fewer than 10 times in the training split and will be read badly"
    assert warnings == [expected] * rare


def test_a_symbol_of_the_charset_that_no_label_has_is_warned_of(tmp_path):
    assert Dataset(tmp_path, good(), charset="abxé").warnings() == [
        "2 symbols occur ('x' 'é') in the charset but in no image that was written, and cannot be learned"
    ]


def test_of_many_symbols_twenty_are_named(tmp_path):
    charset = "ab" + "".join(chr(ord("A") + number) for number in range(26))
    (warning,) = Dataset(tmp_path, good(), charset=charset).warnings()
    assert warning.startswith("26 symbols occur ('A' 'B' ")
    assert "'T' and 6 more) in the charset" in warning
    assert "'U'" not in warning


def with_symbol(symbol: str) -> Shards:
    """Splits in all of which a symbol occurs often."""
    return good(**dict.fromkeys(("train", "validation", "test"), f"a{symbol}b" * RARE))


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("\u200b", "U+200B"),  # zero width space
        ("\u200e", "U+200E"),  # left-to-right mark
        ("\u202e", "U+202E"),  # right-to-left override
        ("\u2060", "U+2060"),  # word joiner
        ("\ufeff", "U+FEFF"),  # byte order mark
        ("\ufffd", "'\ufffd'"),  # what a damaged text is decoded to
    ],
)
def test_a_symbol_that_no_image_shows_is_warned_of_by_its_code_point(tmp_path, symbol, name):
    assert Dataset(tmp_path, with_symbol(symbol)).warnings() == [
        f"1 symbol occurs ({name}) in labels, though no image shows them: are the labels damaged?"
    ]


@pytest.mark.parametrize(
    "symbol",
    ["\u200c", "\u200d", "\u0301", "\u064e", " ", "\u00ad", "\u06dd", "\u0600"],
    ids=["non-joiner", "joiner", "acute", "fatha", "space", "soft hyphen", "end of ayah", "Arabic number sign"],
)
def test_a_symbol_that_can_be_seen_or_shapes_its_neighbours_is_not_warned_of(tmp_path, symbol):
    assert Dataset(tmp_path, with_symbol(symbol)).warnings() == []


def test_all_that_is_doubtful_is_warned_of_each_in_a_sentence_of_its_own(tmp_path):
    shards = [
        ("train", [*lines_of("ab", RARE, 0), Line("c", AMPLE, 0), Line("ab", 20, 60), Line("a\u200b", AMPLE, 61)]),
        ("validation", [Line("ab", AMPLE, 3)]),
    ]
    warnings = Dataset(tmp_path, shards, charset="abcx\u200b").warnings(
        rejects={"unreadable_folder": 1}, unused_labels={"no_image": 1}
    )
    parts = (
        "the test split is empty",
        "1 folder cannot be listed",
        "1 label belongs to no image",
        "2 images are identical to others with another label",
        "2 images have an identical one in another split",
        "1 label fits its image",
        "2 symbols occur ('c' U+200B) only in the training split",
        "2 symbols occur ('c' U+200B) fewer than 10 times",
        "1 symbol occurs ('x') in the charset",
        "1 symbol occurs (U+200B) in labels",
    )
    assert len(warnings) == len(parts)
    assert all(warning.startswith(part) for warning, part in zip(warnings, parts, strict=True))


# Examples to look at


def test_the_samples_come_in_the_order_of_their_roles_and_are_those_of_the_shards(tmp_path):
    shards = [
        ("train", lines_of("ab", 30, 0)),
        ("train", [*lines_of("abab", 20, 100), Line("ba", AMPLE, 3, "wrong.png")]),
        ("test", lines_of("a", 20, 200)),
    ]
    dataset = Dataset(tmp_path, shards)
    samples = dataset.samples()
    roles = [sample["role"] for sample in samples]
    assert list(dict.fromkeys(roles)) == ["contact_sheet", "longest", "strangest", "twins"]
    assert roles == sorted(roles, key=["contact_sheet", "longest", "strangest", "twins"].index)
    assert collections.Counter(roles) == {
        "contact_sheet": CONTACT_SHEET,
        "longest": EXTREMES,
        "strangest": EXTREMES,
        "twins": 2,
    }
    by_uri = {
        (split, example["uri"]): example
        for split, path in zip(dataset.splits, dataset.paths, strict=True)
        for example in parse_shard(path)
    }
    for sample in samples:
        example = by_uri[sample["split"], sample["uri"]]
        assert (sample["text"], sample["width"], sample["image"]) == (
            example["text"],
            example["width"],
            example["image"],
        )


def test_the_longest_samples_are_the_longest_of_all_shards_the_longest_first(tmp_path):
    lengths = [*range(1, 30), 100]
    shards = [
        (split, [Line("a" * length, AMPLE, length, str(length)) for length in lengths[start::3]])
        for start, split in enumerate(SPLITS)
    ]
    longest = Dataset(tmp_path, shards).samples_of("longest")
    assert [len(sample["text"]) for sample in longest] == [100, *range(29, 20, -1)]
    assert longest[0]["note"] == "100 symbols"


def test_the_strangest_samples_are_farthest_from_the_median_in_proportion(tmp_path):
    def symbols(count: int) -> Line:
        return Line("a" * count, 120, count, f"{120 / count:g}")

    ordinary = [Line("a" * 6, 120, 1000 + number) for number in range(40)]  # 20 pixels a symbol
    shards = [
        ("train", [*ordinary[:20], symbols(24), symbols(4)]),  # 5 and 30
        ("test", [symbols(2), *ordinary[20:], symbols(12), symbols(5)]),  # 60, 10 and 24
    ]
    strangest = Dataset(tmp_path, shards).samples_of("strangest")
    assert [sample["uri"] for sample in strangest[:5]] == ["5", "60", "10", "30", "24"]
    assert [sample["note"] for sample in strangest[:2]] == [
        "5.0 pixels per symbol, the median is 20",
        "60.0 pixels per symbol, the median is 20",
    ]
    assert len(strangest) == EXTREMES


def test_an_image_with_next_to_nothing_in_it_is_among_the_strangest(tmp_path):
    ordinary = lines_of("ab", 30, 0)
    shards = [("train", [*ordinary[:15], Line("ab", AMPLE, None, "white.png"), *ordinary[15:]])]
    first, *others = Dataset(tmp_path, shards).samples_of("strangest")
    assert first["uri"] == "white.png"
    assert decode_png(first["image"]).min() == 255
    density = 1000 * len(first["image"]) / (AMPLE * HEIGHT)
    assert first["note"].startswith(f"{density:.1f} bytes in 1,000 pixels, the median is ")
    assert all(sample["uri"] != "white.png" for sample in others)


def test_each_image_is_among_the_strangest_only_once(tmp_path):
    shards = [("train", [*lines_of("ab", 30, 0), Line("ab" * 50, AMPLE, None, "white.png")])]
    uris = [sample["uri"] for sample in Dataset(tmp_path, shards).samples_of("strangest")]
    assert uris[0] == "white.png"
    assert len(set(uris)) == len(uris) == EXTREMES


def test_identical_images_are_shown_group_by_group(tmp_path):
    shards = [
        ("train", [*lines_of("ab", 5, 0), Line("ba", AMPLE, 3, "other label")]),
        ("test", [Line("ab", AMPLE, 1, "other split")]),
    ]
    twins = Dataset(tmp_path, shards).samples_of("twins")
    assert [(sample["note"], sample["split"]) for sample in twins] == [
        ("group 1", "train"),
        ("group 1", "train"),
        ("group 2", "train"),
        ("group 2", "test"),
    ]
    assert {sample["uri"] for sample in twins[:2]} == {"lines/3.png", "other label"}
    assert {sample["uri"] for sample in twins[2:]} == {"lines/1.png", "other split"}
    assert twins[0]["image"] == twins[1]["image"] != twins[2]["image"]


@pytest.mark.parametrize("searches", [1, 2, 5])
def test_images_with_other_labels_are_shown_before_those_in_other_splits_whatever_the_search(tmp_path, searches):
    many = 80
    wrong = [Line("ba", AMPLE, picture, "wrong") for picture in (3, 17, 31, 44, 58)]
    shards = [
        ("train", [*lines_of("ab", many, 0), *wrong]),
        ("test", [line for line in lines_of("ab", many, 0) if line.picture not in {w.picture for w in wrong}]),
    ]
    twins = Dataset(tmp_path, shards, searches=searches).samples_of("twins")
    assert [sample["uri"] for sample in twins].count("wrong") == 5
    assert {sample["split"] for sample in twins[:10]} == {"train"}
    assert len({sample["note"] for sample in twins}) == EXTREMES


def test_a_dataset_of_one_example_shows_it(tmp_path):
    roles = [sample["role"] for sample in Dataset(tmp_path, [("train", [Line("a")])]).samples()]
    assert roles == ["contact_sheet", "longest", "strangest"]
