"""What a written shard holds, counted again by plain means, and images that occur twice."""

import collections
import dataclasses
import itertools
import pathlib
import random

import numpy as np
import pytest

from components.ingest.describe import (
    CONTACT_SHEET,
    EXTREMES,
    Place,
    ShardDescription,
    Twins,
    choose_search_count,
    describe_shard,
    fetch_examples,
    find_twins,
    keep_highest,
    keep_lowest,
    split_by_search,
)
from tests.components.ingest.written import HEIGHT, TIME_STRIDE, Line, parse_shard, write_lines
from tfrecords import SPLITS, Charset, DataError, decode_png

CHARSET = Charset((" ", "a", "b", "c", "d", "é"))


def random_lines(count: int, seed: int = 0) -> list[Line]:
    """Lines of all widths and lengths, each with a picture of its own."""
    chooser = random.Random(seed)
    return [
        Line(
            text="a".join(chooser.choices("abcé ", k=chooser.randint(0, 5))) + "b",
            width=chooser.randint(8, 120),
            picture=number,
            uri=f"lines/{number}.png",
        )
        for number in range(count)
    ]


def describe(tmp_path: pathlib.Path, lines: list[Line], number: int = 0) -> tuple[ShardDescription, np.ndarray]:
    path = write_lines(tmp_path / f"{number}.tfrecord.gz", lines, CHARSET)
    return describe_shard(path, number, CHARSET, HEIGHT, TIME_STRIDE)


def rows_of(ranked: list[tuple[float, Place]]) -> list[int]:
    return [place.row for _, place in ranked]


# One shard


def test_a_description_agrees_with_a_plain_recount_of_the_shard(tmp_path):
    description, _ = describe(tmp_path, random_lines(300), number=7)
    examples = parse_shard(tmp_path / "7.tfrecord.gz")
    assert len(examples) == 300
    for example in examples:  # the recount counts what is there, not what the example says of itself
        assert decode_png(example["image"]).shape[1] == example["width"]
        assert len(example["text"]) == len(example["label"]) == example["label_length"]
    widths = [decode_png(example["image"]).shape[1] for example in examples]
    lengths = [len(example["text"]) for example in examples]
    spacings = [width / length for width, length in zip(widths, lengths, strict=True)]
    assert description.widths == collections.Counter(widths)
    assert description.label_lengths == collections.Counter(lengths)
    assert description.symbols == collections.Counter("".join(example["text"] for example in examples))
    assert "d" not in description.symbols
    assert description.spacings == collections.Counter(round(spacing) for spacing in spacings)
    steps = [len(range(0, width, TIME_STRIDE)) for width in widths]
    tight = sum(not step > 2 * length + 1 for step, length in zip(steps, lengths, strict=True))
    assert 0 < tight < 300
    assert description.tight_labels == tight

    def first(values: list[float], *, descending: bool) -> list[tuple[float, Place]]:
        rows = sorted(range(300), key=lambda row: (-values[row] if descending else values[row], row))[:EXTREMES]
        return [(pytest.approx(values[row]), Place(7, row)) for row in rows]

    assert description.longest == first(lengths, descending=True)
    assert description.narrowest == first(spacings, descending=False)
    assert description.widest == first(spacings, descending=True)
    densities = [
        1000 * len(example["image"]) / (HEIGHT * width) for example, width in zip(examples, widths, strict=True)
    ]
    assert description.densities == collections.Counter(map(round, densities))
    assert description.emptiest == first(densities, descending=False)
    assert description.fullest == first(densities, descending=True)


def test_a_description_holds_plain_numbers_that_json_can_write(tmp_path):
    description, _ = describe(tmp_path, random_lines(30))
    for name in ("widths", "label_lengths", "symbols", "spacings", "densities"):
        counts = getattr(description, name)
        assert {type(count) for count in counts.values()} == {int}
        assert {type(value) for value in counts} <= {int, str}
    assert type(description.tight_labels) is int


@pytest.mark.parametrize(("width", "tight"), [(28, 1), (29, 0)])
def test_a_label_is_tight_up_to_twice_its_length_and_one(tmp_path, width, tight):
    description, _ = describe(tmp_path, [Line("abc", width=width)])  # 7 and 8 time steps for 3 symbols
    assert description.tight_labels == tight


def test_an_empty_shard_is_described_by_nothing(tmp_path):
    description, identities = describe(tmp_path, [], number=3)
    assert not any(dataclasses.asdict(description).values())
    assert len(identities) == 0
    assert list(split_by_search(identities, 2)) == []


def test_a_shard_of_few_lines_shows_them_all(tmp_path):
    description, _ = describe(tmp_path, random_lines(3))
    for name in ("contact_sheet", "longest", "narrowest", "widest", "emptiest", "fullest"):
        assert sorted(rows_of(getattr(description, name))) == [0, 1, 2]


def test_a_shard_of_several_batches_is_counted_as_a_whole(tmp_path):
    lines = [Line("ab", width=8 + number % 5, picture=number % 7) for number in range(2345)]
    lines[2200] = Line("abcabc", width=300, picture=1)
    lines[1500] = Line("c", width=200, picture=2)
    description, identities = describe(tmp_path, lines, number=4)
    assert sum(description.widths.values()) == sum(description.label_lengths.values()) == 2345
    assert description.symbols == {"a": 2343 + 2, "b": 2343 + 2, "c": 3}
    assert description.longest[0] == (6, Place(4, 2200))
    assert description.widest[0] == (200, Place(4, 1500))
    assert description.widest[1] == (50, Place(4, 2200))
    np.testing.assert_array_equal(identities["row"], np.arange(2345))
    assert set(identities["shard"]) == {4}
    assert len(set(identities["image"])) == 5 * 7 + 2
    assert len(set(identities["text"])) == 3


def test_equal_pixels_and_equal_texts_and_no_others_have_equal_identities(tmp_path):
    lines = [Line("a", picture=1), Line("a", picture=2), Line("b", picture=1), Line("a", picture=1, uri="copy.png")]
    _, identities = describe(tmp_path, lines)
    images, texts = identities["image"].tolist(), identities["text"].tolist()
    assert images[0] == images[2] == images[3] != images[1]
    assert texts[0] == texts[1] == texts[3] != texts[2]


def test_a_damaged_shard_is_named(tmp_path):
    path = tmp_path / "0.tfrecord.gz"
    write_lines(path, random_lines(5), CHARSET)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match=r"0\.tfrecord\.gz is damaged"):
        describe_shard(str(path), 0, CHARSET, HEIGHT, TIME_STRIDE)


# What is drawn by chance


def drawn(described: list[tuple[ShardDescription, list[Line]]]) -> list[str]:
    """The images of the contact sheet of several shards, in its order."""
    sheets = itertools.chain.from_iterable(description.contact_sheet for description, _ in described)
    return [described[place.shard][1][place.row].uri for _, place in keep_lowest(sheets, CONTACT_SHEET)]


def test_the_contact_sheet_is_drawn_from_everywhere(tmp_path):
    description, _ = describe(tmp_path, random_lines(500))
    rows = rows_of(description.contact_sheet)
    assert len(set(rows)) == len(rows) == CONTACT_SHEET
    assert min(rows) < 100
    assert max(rows) >= 400
    draws = [draw for draw, _ in description.contact_sheet]
    assert draws == sorted(draws)
    assert all(0 <= draw < 1 for draw in draws)


def test_the_contact_sheet_is_the_same_however_the_images_are_spread_and_labelled(tmp_path):
    lines = random_lines(300)
    whole = drawn([(describe(tmp_path, lines)[0], lines)])
    assert len(whole) == CONTACT_SHEET
    shuffled = random.Random(1).sample(lines, 300)
    parts = [shuffled[:10], shuffled[10:200], [], shuffled[200:]]
    assert drawn([(describe(tmp_path, part, number)[0], part) for number, part in enumerate(parts)]) == whole
    relabelled = [Line("c", line.width, line.picture, line.uri) for line in lines]
    assert drawn([(describe(tmp_path, relabelled)[0], relabelled)]) == whole


def test_entries_of_one_rank_are_in_the_order_of_their_places():
    ranked = [(2.0, Place(1, 5)), (1.0, Place(1, 2)), (2.0, Place(0, 9)), (1.0, Place(1, 1)), (3.0, Place(0, 0))]
    assert keep_lowest(ranked, 3) == [(1.0, Place(1, 1)), (1.0, Place(1, 2)), (2.0, Place(0, 9))]
    assert keep_highest(ranked, 3) == [(3.0, Place(0, 0)), (2.0, Place(0, 9)), (2.0, Place(1, 5))]
    assert keep_lowest(iter([]), 3) == keep_highest([], 3) == []


# Identical images


def twins_of(
    tmp_path: pathlib.Path, shards: list[tuple[str, list[Line]]], searches: int = 1
) -> tuple[Twins, list[list[Place]]]:
    """What all searches find among shards of the given splits: the sums, and every group that is shown."""
    blocks: dict[int, list[bytes]] = collections.defaultdict(list)
    for number, (_, lines) in enumerate(shards):
        _, identities = describe(tmp_path, lines, number)
        for search, block in split_by_search(identities, searches):
            assert 0 <= search < searches
            blocks[search].append(block)
    splits = [SPLITS.index(split) for split, _ in shards]
    found = [find_twins(blocks[search], splits) for search in sorted(blocks)]
    shown = [group for part in found for group in part.shown]
    return Twins(sum(part.conflicting for part in found), sum(part.leaking for part in found), shown), shown


_OTHERS = [Line("abc", picture=1000 + number) for number in range(20)]
_TWIN, _SAME_LABEL, _OTHER_LABEL = Line("a", uri="1"), Line("a", uri="2"), Line("b", uri="3")


@pytest.mark.parametrize(
    ("train", "test", "conflicting", "leaking"),
    [
        ([_TWIN], [], 0, 0),
        ([_TWIN, _SAME_LABEL], [], 0, 0),
        ([_TWIN, Line("a", picture=1)], [Line("a", picture=2)], 0, 0),
        ([_TWIN], [Line("a", width=99)], 0, 0),
        ([_TWIN, _OTHER_LABEL], [], 2, 0),
        ([_TWIN, _SAME_LABEL, _OTHER_LABEL], [], 3, 0),
        ([_TWIN], [_SAME_LABEL], 0, 2),
        ([_TWIN, _TWIN], [_SAME_LABEL], 0, 3),
        ([_TWIN], [_OTHER_LABEL], 2, 0),
        ([_TWIN, _OTHER_LABEL], [_SAME_LABEL], 3, 2),
        ([_TWIN, _TWIN, _OTHER_LABEL], [_SAME_LABEL, _OTHER_LABEL], 5, 5),
        ([_TWIN, Line("a", picture=1), Line("b", picture=1)], [_SAME_LABEL], 2, 2),
    ],
    ids=[
        "one image",
        "the same label in one split",
        "other images with the same label",
        "the same grain but another width",
        "another label",
        "two labels of three",
        "another split",
        "three in two splits",
        "another label in another split",
        "one image of three with another label, one in another split",
        "two labels, both in two splits",
        "one image with two labels and another in two splits",
    ],
)
def test_images_with_twins_of_other_labels_or_in_other_splits_are_counted(tmp_path, train, test, conflicting, leaking):
    twins, _ = twins_of(tmp_path, [("train", _OTHERS[:10] + train), ("test", test + _OTHERS[10:])])
    assert (twins.conflicting, twins.leaking) == (conflicting, leaking)
    assert bool(twins.shown) == bool(conflicting or leaking)


def test_the_places_that_are_shown_are_those_of_the_twins(tmp_path):
    shards = [
        ("train", [*_OTHERS[:3], Line("a", picture=1), Line("b", picture=2)]),
        ("train", [Line("c", picture=1), *_OTHERS[3:5]]),
        ("validation", [_OTHERS[5], Line("b", picture=2)]),
    ]
    _, shown = twins_of(tmp_path, shards)
    assert [set(group) for group in shown] == [{Place(0, 3), Place(1, 0)}, {Place(0, 4), Place(2, 1)}]


def test_of_images_with_several_labels_one_is_shown_for_each_label(tmp_path):
    _, (group,) = twins_of(tmp_path, [("train", [Line(text) for text in "aaabbbc"])])
    assert {place.row for place in group} == {0, 3, 6}


def test_of_images_in_several_splits_one_is_shown_from_each_however_many_there_are(tmp_path):
    shards = [("train", [Line("a")] * 100), ("validation", [Line("a")]), ("test", [Line("a")] * 2)]
    _, (group,) = twins_of(tmp_path, shards)
    assert len(group) <= 20
    assert {place.shard for place in group} == {0, 1, 2}


def test_of_many_identical_images_few_are_shown_and_those_with_other_labels_first(tmp_path):
    train = [Line("a", picture=number) for number in range(60)] + [Line("b", picture=7), Line("b", picture=9)]
    twins, shown = twins_of(tmp_path, [("train", train), ("test", [Line("a", picture=n) for n in range(10, 60)])])
    assert (twins.conflicting, twins.leaking) == (4, 100)
    assert len(shown) == 20
    conflicts = [{train[place.row].picture for place in group if place.shard == 0} for group in shown[:2]]
    assert sorted(map(sorted, conflicts)) == [[7], [9]]


def test_nothing_has_no_twins():
    assert find_twins([], [0, 1, 2]) == Twins(0, 0, [])


@pytest.mark.parametrize("searches", [2, 3, 17])
def test_several_searches_find_together_what_one_finds(tmp_path, searches):
    chooser = random.Random(3)
    shards = [
        (split, [Line(chooser.choice("ab"), picture=chooser.randrange(60)) for _ in range(25)])
        for split in ("train", "train", "validation", "test")
    ]
    (tmp_path / "one").mkdir()
    (tmp_path / "several").mkdir()
    alone, groups = twins_of(tmp_path / "one", shards)
    together, groups_together = twins_of(tmp_path / "several", shards, searches)
    assert alone.conflicting > 10
    assert alone.leaking > 10
    assert (together.conflicting, together.leaking) == (alone.conflicting, alone.leaking)

    def counted(groups: list[list[Place]]) -> collections.Counter:
        return collections.Counter(frozenset((place.shard, place.row) for place in group) for group in groups)

    assert counted(groups) <= counted(groups_together)  # each search shows as many as one would


def test_every_identity_goes_to_one_search_and_equal_images_to_the_same(tmp_path):
    lines = [Line(text, picture=picture) for picture in range(40) for text in "abc"]
    _, identities = describe(tmp_path, lines)
    blocks = {search: np.frombuffer(block, identities.dtype) for search, block in split_by_search(identities, 5)}
    assert set(blocks) == set(range(5))
    assert sorted(row for block in blocks.values() for row in block["row"]) == list(range(120))
    homes = collections.defaultdict(set)
    for search, block in blocks.items():
        for image in block["image"].tolist():
            homes[image].add(search)
    assert len(homes) == 40
    assert all(len(home) == 1 for home in homes.values())


def test_the_search_is_spread_only_when_there_are_very_many_images():
    assert choose_search_count(0) == choose_search_count(499_999) == 1
    assert choose_search_count(10_000_000) == 21


# Single examples


def test_single_examples_are_fetched_from_their_places(tmp_path):
    lines = {
        number: [Line("ab" if row % 2 else "c é", 8 + row % 3, row, f"lines/{number}/{row}.png") for row in range(1200)]
        for number in (0, 2)
    }
    paths = {n: write_lines(tmp_path / f"{n}.tfrecord.gz", part, CHARSET) for n, part in lines.items()}
    places = [Place(2, 1199), Place(0, 0), Place(2, 3), Place(0, 1001), Place(2, 3)]
    examples = fetch_examples(places, paths.__getitem__)
    assert set(examples) == set(places)
    for place, example in examples.items():
        line = lines[place.shard][place.row]
        assert (example["text"], example["uri"], example["width"]) == (line.text, line.uri, line.width)
        np.testing.assert_array_equal(decode_png(example["image"]), line.pixels)


def test_no_shard_is_read_of_which_nothing_is_wanted(tmp_path):
    def path_of(number: int) -> str:
        raise AssertionError(f"shard {number} was asked for")

    assert fetch_examples([], path_of) == {}


def test_lines_with_empty_labels_are_counted_and_are_no_strange_ones_for_being_blank(tmp_path):
    filled = [Line("ab", width=40 + number, picture=number) for number in range(30)]
    blanks = [Line("", width=400 + number, picture=100 + number) for number in range(6)]
    description, _ = describe(tmp_path, [*blanks, *filled])
    assert description.label_lengths == {0: 6, 2: 30}
    assert sum(description.widths.values()) == 36
    assert sum(description.spacings.values()) == sum(description.densities.values()) == 30
    for name in ("narrowest", "widest", "emptiest"):
        assert min(rows_of(getattr(description, name))) >= 6
    assert description.symbols == {"a": 30, "b": 30}
    alone, _ = describe(tmp_path, blanks)
    assert (alone.spacings, alone.narrowest, alone.label_lengths) == ({}, [], {0: 6})
