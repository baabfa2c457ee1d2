"""Which listed images count as read: digests of identities that meet, and what is left over."""

from __future__ import annotations

import collections
import datetime
import pathlib
import random

import pyarrow
import pyarrow.parquet
import pytest

from components.listing import ImageReference, read_listing, write_references
from components.predictions import unread as module
from components.predictions.schema import PREDICTIONS_SCHEMA
from components.predictions.unread import SkipRule, Source, keep_unread, list_identities, merge_unread
from components.rejects import Reject, make_rejects_table
from tfrecords import DataError, SplitFractions

AT = datetime.datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=datetime.UTC)
OURS = SkipRule("ours", 0.5)
PLACES = 4


def image(number: int, **changes) -> ImageReference:
    return ImageReference(f"/lines/ü {number}.png", f"lines/{number}", number, 1_000_000 + number)._replace(**changes)


def listing(tmp_path, references, name="listing") -> Source:
    path = str(tmp_path / f"{name}.parquet")
    write_references(references, path, SplitFractions())
    return Source("listing", path)


def predictions(tmp_path, rows: list[tuple[ImageReference, str, float]], name="part") -> Source:
    constant = {"text": "", "symbol_confidences": [], "alternatives": [], "width": 1, "height": 1, "run_id": "r"}
    table = pyarrow.Table.from_pylist(
        [
            {
                "uri": reference.uri,
                "size_bytes": reference.size_bytes,
                "modified": reference.modified,
                "model_id": model,
                "confidence": confidence,
                "scored_at": AT,
                "needs_review": False,
                **constant,
            }
            for reference, model, confidence in rows
        ],
        PREDICTIONS_SCHEMA,
    )
    pyarrow.parquet.write_table(table, tmp_path / f"{name}.parquet")
    return Source("predictions", str(tmp_path / f"{name}.parquet"))


def rejected(tmp_path, rows: list[tuple[ImageReference, str]], name="rejects") -> Source:
    table = make_rejects_table(
        [Reject(reference.uri, reason, "") for reference, reason in rows],
        step="infer",
        run_id="r",
        at=AT,
        files=[(reference.size_bytes, reference.modified_us) for reference, _ in rows],
    )
    pyarrow.parquet.write_table(table, tmp_path / f"{name}.parquet")
    return Source("rejects", str(tmp_path / f"{name}.parquet"))


def unread(tmp_path, *sources: Source, read: SkipRule = OURS, places: int = PLACES):
    """The summary of all places, and the references that are left, sorted by URI."""
    met = collections.defaultdict(list)
    for source in sources:
        for place, block in list_identities(source, places, read):
            met[place].append(block)
    paths = {place: str(tmp_path / f"unread-{place}.parquet") for place in met}
    summaries = [keep_unread(blocks, paths[place]) for place, blocks in met.items()]
    left = [reference for path in paths.values() for reference in read_listing(path)]
    return merge_unread(summaries), sorted(left)


@pytest.mark.parametrize("places", [1, 4, 64])
def test_an_image_is_left_unless_a_row_has_its_uri_its_size_and_its_time(tmp_path, places):
    images = [image(number) for number in range(500)]
    chosen = random.Random(1)
    read = chosen.sample(images, 200)
    rows = [(reference, "ours", 0.9) for reference in read]
    others = [image(7, size_bytes=8), image(8, modified_us=9), image(9, uri="/lines/elsewhere.png")]
    rows += [(reference, "ours", 0.9) for reference in others]
    chosen.shuffle(rows)
    sources = [
        listing(tmp_path, images[:300]),
        listing(tmp_path, images[300:], "second"),
        predictions(tmp_path, rows[:50]),
        predictions(tmp_path, rows[50:], "later"),
    ]
    summary, left = unread(tmp_path, *sources, places=places)
    assert left == sorted(set(images) - set(read))
    assert (summary.listing.images, summary.skipped, summary.reread, summary.retried) == (300, 200, 0, 0)


def test_a_row_of_another_model_counts_if_its_confidence_is_not_below_the_one_asked_for(tmp_path):
    images = [image(number) for number in range(6)]
    rows = [
        (images[0], "theirs", 0.5),
        (images[1], "theirs", 0.4999),
        (images[2], "ours", 0.1),
        (images[3], "theirs", 0.1),
        (images[3], "others", 0.9),
        (images[4], "theirs", 0.2),
        (images[4], "others", 0.3),
    ]
    sources = [listing(tmp_path, images), predictions(tmp_path, rows)]
    summary, left = unread(tmp_path, *sources)
    assert left == [images[1], images[4], images[5]]
    assert (summary.skipped, summary.reread, summary.retried) == (3, 2, 0)
    assert unread(tmp_path, *sources, read=SkipRule("ours", 0))[1] == [images[5]]
    assert unread(tmp_path, *sources, read=SkipRule("new", 1))[1] == images


def test_a_rejected_image_is_left_out_unless_what_was_wrong_may_have_passed(tmp_path):
    images = [image(number) for number in range(5)]
    reasons = ["truncated", "unreadable", "unreadable_folder", "not_an_image"]
    again = [(images[1], "truncated")]  # in another run: once for good is enough
    sources = [listing(tmp_path, images), rejected(tmp_path, list(zip(images, reasons, strict=False)))]
    summary, left = unread(tmp_path, *sources)
    assert left == [images[1], images[2], images[4]]
    assert (summary.skipped, summary.reread, summary.retried) == (2, 0, 2)
    assert unread(tmp_path, *sources, rejected(tmp_path, again, "more"))[1] == [images[2], images[4]]


def test_a_file_that_changed_since_it_was_rejected_is_left(tmp_path):
    before, after = image(1), image(1, size_bytes=77)
    summary, left = unread(tmp_path, listing(tmp_path, [after]), rejected(tmp_path, [(before, "truncated")]))
    assert left == [after]
    assert summary.retried == 0


def test_rejects_that_do_not_say_which_file_they_are_of_count_for_nothing(tmp_path):
    source = rejected(tmp_path, [(image(1), "truncated")])
    table = pyarrow.parquet.read_table(source.path).drop_columns(["size_bytes", "modified"])
    pyarrow.parquet.write_table(table, source.path)
    assert unread(tmp_path, listing(tmp_path, [image(1)]), source)[1] == [image(1)]


def test_what_is_left_keeps_all_that_its_listing_says(tmp_path):
    odd = image(1, text=None, problem="unreadable", detail="row 3 names it: there is no such file", group=None)
    summary, left = unread(tmp_path, listing(tmp_path, [odd, image(2)]), predictions(tmp_path, [(image(2), "ours", 1)]))
    assert left == [odd]
    assert summary.listing.problems == {"unreadable": 1}


def test_the_order_in_which_files_are_met_makes_no_difference(tmp_path):
    images = [image(number) for number in range(300)]
    sources = [
        listing(tmp_path, images[:150]),
        listing(tmp_path, images[150:], "second"),
        predictions(tmp_path, [(reference, "ours", 1.0) for reference in images[::3]]),
    ]
    digests = set()
    for order in (sources, sources[::-1]):
        summary, _ = unread(tmp_path, *order)
        digests.add(summary.listing.digest)
    assert len(digests) == 1


@pytest.mark.parametrize("damage", ["footer", "data"])
def test_a_file_that_cannot_be_read_counts_for_nothing_and_is_named(tmp_path, damage):
    images = [image(number) for number in range(50)]
    whole = predictions(tmp_path, [(reference, "ours", 1.0) for reference in images[:20]])
    damaged = predictions(tmp_path, [(reference, "ours", 1.0) for reference in images[20:]], "damaged")
    content = bytearray(pathlib.Path(damaged.path).read_bytes())
    start = len(content) - 200 if damage == "footer" else 4
    content[start : start + 150] = bytes(150)
    pathlib.Path(damaged.path).write_bytes(content)
    summary, left = unread(tmp_path, listing(tmp_path, images), whole, damaged)
    assert summary.damaged == [damaged.path]
    assert left == sorted(images[20:])


def test_a_disk_that_does_not_answer_is_no_damage(tmp_path, monkeypatch):
    source = predictions(tmp_path, [(image(1), "ours", 1.0)])

    def failing(path):
        raise OSError(5, "Input/output error", path)

    monkeypatch.setattr(module.storage, "open_to_read", failing)
    with pytest.raises(DataError, match=r"part.parquet cannot be read: Input/output error: run the same command again"):
        list(list_identities(source, 4, OURS))


def test_rejects_that_were_pruned_meanwhile_count_for_nothing(tmp_path):
    assert list(list_identities(Source("rejects", str(tmp_path / "gone.parquet")), 4, OURS)) == []
