"""Rejects: their reasons, their table, and when there are too many."""

import datetime

import pyarrow
import pyarrow.parquet
import pytest

from components.rejects import (
    REASONS,
    REJECTS_SCHEMA,
    Reject,
    count_by_reason,
    explain_too_many_rejects,
    find_example,
    make_rejects_table,
)

AT = datetime.datetime(2026, 1, 2, 3, 4, 5, 678_901, datetime.UTC)


def test_a_reason_outside_the_closed_list_is_refused_and_the_list_named():
    with pytest.raises(ValueError, match=r"'bad_luck' is not a known reason: unreadable, .*damaged_row"):
        Reject("a.png", "bad_luck", "")


@pytest.mark.parametrize("reason", REASONS)
def test_every_listed_reason_can_be_given(reason):
    assert Reject("a.png", reason, "").reason == reason


def test_the_table_has_every_reject_in_the_order_given():
    rejects = [Reject("b.png", "truncated", "ends early"), Reject("a é.png", "no_label", "")]
    table = make_rejects_table(rejects, step="ingest", run_id="r1", at=AT)
    assert table.schema.equals(REJECTS_SCHEMA)
    common = {"step": "ingest", "run_id": "r1", "at": AT, "size_bytes": None, "modified": None}
    assert table.to_pylist() == [
        {"uri": "b.png", "reason": "truncated", "detail": "ends early", **common},
        {"uri": "a é.png", "reason": "no_label", "detail": "", **common},
    ]


def test_the_file_that_was_looked_at_is_told_by_its_size_and_time():
    rejects = [Reject("b.png", "truncated", ""), Reject("a.png", "no_label", "")]
    table = make_rejects_table(rejects, step="infer", run_id="r1", at=AT, files=[(7, 1), (0, 2_000_000)])
    assert table.column("size_bytes").to_pylist() == [7, 0]
    assert table.column("modified").cast(pyarrow.int64()).to_pylist() == [1, 2_000_000]


def test_the_time_is_utc_in_microseconds():
    assert REJECTS_SCHEMA.field("at").type == pyarrow.timestamp("us", tz="UTC")


def test_no_rejects_give_an_empty_table_of_the_same_schema():
    table = make_rejects_table([], step="infer", run_id="r1", at=AT)
    assert table.num_rows == 0
    assert table.schema.equals(REJECTS_SCHEMA)


def test_rejects_are_counted_by_reason_sorted():
    rejects = [Reject("a", reason, "") for reason in ("truncated", "no_label", "truncated")]
    assert list(count_by_reason(rejects).items()) == [("no_label", 1), ("truncated", 2)]


@pytest.mark.parametrize(
    ("rejected", "matched", "allowed"),
    [(0, 0, 0.05), (0, 10, 0.0), (5, 100, 0.05), (29, 100, 0.29), (57, 100, 0.57), (1, 1, 1.0), (1, 20, 0.05)],
)
def test_as_many_rejects_as_allowed_are_no_problem(rejected, matched, allowed):
    assert explain_too_many_rejects({"truncated": rejected}, matched, allowed, where="x") is None


@pytest.mark.parametrize(
    ("rejected", "matched", "allowed"), [(1, 10, 0.0), (6, 100, 0.05), (30, 100, 0.29), (1, 1, 0.99), (2, 20, 0.05)]
)
def test_one_reject_more_than_allowed_is_a_problem(rejected, matched, allowed):
    assert explain_too_many_rejects({"truncated": rejected}, matched, allowed, where="x") is not None


def test_the_refusal_has_the_numbers_the_commonest_reason_first_the_flag_and_the_place():
    sentence = explain_too_many_rejects({"no_label": 1, "truncated": 4}, 50, 0.05, where="out/rejects-*.parquet")
    assert sentence == (
        "5 of 50 images (10.0%) were rejected (4 truncated, 1 no_label), more than --max_reject_fraction=0.05 allows; "
        "each is listed with its reason in out/rejects-*.parquet"
    )


def test_an_example_is_of_the_most_frequent_reason(tmp_path):
    rejects = [Reject("a", "truncated", "damaged"), Reject("b", "empty_label", "its label is ''")]
    table = make_rejects_table(rejects, step="ingest", run_id="r", at=AT)
    pyarrow.parquet.write_table(table, tmp_path / "rejects.parquet")
    paths = [str(tmp_path / "rejects.parquet")]
    assert find_example(paths, {"truncated": 1, "empty_label": 3}) == "b: its label is ''"
    assert find_example(paths, {"truncated": 1}) == "a: damaged"
