"""What shard jobs share: ordered threads, digests, finished shards, how many shards."""

import dataclasses
import threading

import pytest

from components.work import READ_AHEAD, digest_of, finished_summary, in_order, shards_for
from tfrecords import DataError, storage


@dataclasses.dataclass(frozen=True)
class Input:
    name: str
    size: int


@dataclasses.dataclass(frozen=True)
class Summary:
    inputs: str
    examples: int


def test_outcomes_keep_the_order_of_the_items_even_if_the_first_is_slowest():
    others_are_done = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            assert others_are_done.wait(10)
        else:
            others_are_done.set()
        return number * number

    assert list(in_order(work, range(1000))) == [number * number for number in range(1000)]


def test_no_items_give_no_outcomes():
    assert list(in_order(str, [])) == []


def test_items_are_taken_only_so_far_ahead_of_what_is_consumed():
    taken = 0

    def items():
        nonlocal taken
        for number in range(10 * READ_AHEAD):
            taken += 1
            yield number

    outcomes = in_order(lambda number: number, items())
    for consumed in range(1, 50):
        next(outcomes)
        assert taken <= READ_AHEAD + consumed
    outcomes.close()


def test_an_exception_in_the_work_reaches_the_caller_at_its_place():
    outcomes = in_order(lambda number: 10 // number, [5, 2, 0, 1])
    assert [next(outcomes), next(outcomes)] == [2, 5]
    with pytest.raises(ZeroDivisionError):
        next(outcomes)


def test_equal_inputs_have_equal_digests():
    assert digest_of([Input("a", 1), Input("b", 2)]) == digest_of([Input("a", 1), Input("b", 2)])


def test_any_change_of_the_inputs_changes_the_digest():
    variants = [
        [],
        [Input("a", 1)],
        [Input("a", 2)],
        [Input("b", 1)],
        [Input("a", 1), Input("b", 2)],
        [Input("b", 2), Input("a", 1)],
        [Input("a', 1), ('b", 2)],
    ]
    assert len({digest_of(variant) for variant in variants}) == len(variants)


def finished(tmp_path, *, inputs: str = "same", files: tuple[str, ...] = ("shard",)) -> Summary | None:
    """Asks for a shard that was finished with the inputs `same` and the one file `shard`."""
    storage.write_json(str(tmp_path / "summary.json"), dataclasses.asdict(Summary("same", 3)))
    storage.write_bytes(str(tmp_path / "shard"), b"")
    return finished_summary(
        Summary, str(tmp_path / "summary.json"), inputs, lambda _: [str(tmp_path / n) for n in files]
    )


def test_a_shard_that_was_finished_for_the_same_inputs_is_remembered(tmp_path):
    assert finished(tmp_path) == Summary("same", 3)


def test_a_shard_of_other_inputs_is_not_finished(tmp_path):
    assert finished(tmp_path, inputs="changed") is None


def test_a_shard_of_which_a_file_is_gone_is_not_finished(tmp_path):
    assert finished(tmp_path, files=("shard", "gone")) is None


def test_a_shard_without_a_summary_is_not_finished(tmp_path):
    storage.write_bytes(str(tmp_path / "shard"), b"")
    assert (
        finished_summary(Summary, str(tmp_path / "summary.json"), "same", lambda _: [str(tmp_path / "shard")]) is None
    )


def test_a_damaged_summary_is_named(tmp_path):
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(DataError, match=r"summary\.json is not valid JSON"):
        finished_summary(Summary, str(tmp_path / "summary.json"), "same", lambda _: [])


@pytest.mark.parametrize(
    ("images", "shards"),
    [
        (0, 1),
        (1, 1),
        (499, 1),
        (500, 2),
        (2_000, 8),
        (32_000, 8),
        (32_001, 9),
        (4_000_000, 1_000),
        (4_000_001, 1_001),
    ],
)
def test_shards_hold_about_4000_images_and_small_collections_are_still_spread(images, shards):
    assert shards_for(images) == shards
