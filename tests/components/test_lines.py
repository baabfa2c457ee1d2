"""What shard jobs share: references worked on in order, digests, finished shards, accounts, how many shards."""

import dataclasses
import functools
import itertools
import os
import threading
from collections.abc import Iterator, Sequence

import fsspec
import numpy as np
import pytest
from PIL import Image

from components import lines
from components.commit import check_files, read_finished_summary
from components.counts import Counts, merge_counts
from components.lines import Content, digest_references, map_in_order, read_referenced_line
from components.listing import ImageReference, path_to_uri
from components.processes import HelperPool
from components.rejects import Reject
from tfrecords import DataError, ImageLimits, storage
from tfrecords.shards import choose_shard_count

REMOTE = "memory://work"
READ_AHEAD = 64


@dataclasses.dataclass(frozen=True)
class Summary:
    inputs: str
    examples: int
    rejects: dict[str, int]


def references(count: int, folder: str = "/lines") -> list[ImageReference]:
    """References to files that nobody looks for."""
    return [ImageReference(f"{folder}/{number:05d}.png", f"lines/{number:05d}.png", 9, 9) for number in range(count)]


def uris(listed: Sequence[ImageReference]) -> list[str]:
    return [reference.uri for reference in listed]


def uri_of(reference: ImageReference, content: Content) -> str:
    return reference.uri


def process_of(_: ImageReference, content: Content) -> int:
    return os.getpid()


def size_or_error(reference: ImageReference, content: Content, forbidden: str) -> int:
    if reference.uri == forbidden:
        raise DataError(f"{forbidden} is not to be read")
    return reference.size_bytes


@pytest.fixture
def helpers() -> Iterator[HelperPool]:
    """The helper processes of a job."""
    with HelperPool.open_for_job() as helpers:
        yield helpers


# Work in order


@pytest.mark.parametrize(
    ("folder", "count", "processes"),
    [("/lines", 0, 1), ("/lines", 300, 1), ("/lines", 0, 2), ("/lines", 700, 2), (REMOTE, 0, 1), (REMOTE, 300, 1)],
)
def test_every_reference_has_its_outcome_in_order(folder, count, processes):
    listed = references(count, folder)
    assert list(map_in_order(uri_of, listed, processes, ImageLimits())) == uris(listed)


@pytest.mark.parametrize(("folder", "processes"), [("/lines", 1), ("/lines", 2), (REMOTE, 1)])
def test_an_exception_in_the_work_reaches_the_caller_with_its_type(folder, processes):
    listed = references(600, folder)
    work = functools.partial(size_or_error, forbidden=listed[500].uri)
    outcomes = map_in_order(work, listed, processes, ImageLimits())
    assert [next(outcomes) for _ in range(400)] == [9] * 400
    with pytest.raises(DataError, match=r"00500\.png is not to be read"):
        list(outcomes)


def put(count: int) -> list[ImageReference]:
    """References to files of an object store, each of which has its own number as its content."""
    memory = fsspec.filesystem("memory")
    listed = references(count, REMOTE)
    memory.pipe({f"/work/{number:05d}.png": b"%d" % number for number in range(count)})
    return listed


def content_of(reference: ImageReference, content: Content) -> Content:
    return content


def test_remote_files_are_read_here_and_local_ones_where_they_are_decoded(helpers):
    listed = [*put(3), *references(2), ImageReference(f"{REMOTE}/gone.png", "gone.png", 9, 9)]
    contents = list(map_in_order(content_of, listed, 1, ImageLimits()))
    assert contents[:5] == [b"0", b"1", b"2", None, None]
    assert contents[5].reason == "unreadable"


def test_a_remote_file_that_has_grown_is_too_large_nevertheless(helpers):
    fsspec.filesystem("memory").pipe("/work/grown.png", bytes(1000))
    listed = [
        ImageReference(f"{REMOTE}/grown.png", "grown.png", 9, 9),
        ImageReference(f"{REMOTE}/gone.png", "", 101, 9),
    ]
    grown, large = map_in_order(content_of, listed, 1, ImageLimits(max_bytes=100))
    assert (grown.reason, grown.detail) == ("too_large", "it has more than --max_bytes=100 bytes")
    assert (large.reason, large.detail) == ("too_large", "101 bytes are more than --max_bytes=100")


def test_remote_files_are_read_while_others_are_on_their_way_and_stay_in_order(helpers, monkeypatch):
    others_are_done = threading.Event()
    read = lines.read_image

    def read_first_last(uri: str, at_most: int) -> bytes:
        if uri.endswith("00000.png"):
            assert others_are_done.wait(10)
        else:
            others_are_done.set()
        return read(uri, at_most)

    monkeypatch.setattr(lines, "read_image", read_first_last)
    contents = list(map_in_order(content_of, put(200), 1, ImageLimits()))
    assert contents == [b"%d" % number for number in range(200)]


def test_remote_files_are_read_only_so_far_ahead_of_what_is_consumed(helpers, monkeypatch):
    started = itertools.count(1)
    most = [0]
    read = lines.read_image

    def count_and_read(uri: str, at_most: int) -> bytes:
        most[0] = next(started)
        return read(uri, at_most)

    monkeypatch.setattr(lines, "read_image", count_and_read)
    outcomes = map_in_order(content_of, put(10 * READ_AHEAD), 1, ImageLimits())
    for consumed in range(1, 50):
        next(outcomes)
        assert most[0] <= READ_AHEAD + consumed + 4 * 32  # and the calls that wait for the helper
    outcomes.close()


@pytest.mark.parametrize(("count", "processes"), [(1, 1), (1, 2), (200, 1), (200, 2)])
def test_only_helper_processes_decode(count, processes, helpers):
    pids = set(map_in_order(process_of, references(count), processes, ImageLimits()))
    assert os.getpid() not in pids
    assert len(pids) <= processes
    assert helpers.has_helpers


def test_a_helper_decodes_by_itself(helpers):
    decode = functools.partial(decode_in_helper, count=3)
    ((helper, *others),) = helpers.map(decode, [None], 1)
    assert others == [helper] * 2


def decode_in_helper(_: None, count: int) -> list[int]:
    return list(map_in_order(process_of, references(count), 1, ImageLimits()))


def test_without_a_job_helpers_end_with_the_work():
    (helper, *_) = pids = set(map_in_order(process_of, references(200), 2, ImageLimits()))
    assert os.getpid() not in pids
    with pytest.raises(ProcessLookupError):
        os.kill(helper, 0)


# One referenced image


def drawn(path, size: tuple[int, int] = (60, 20)) -> ImageReference:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, size[::-1], np.uint8)).save(path)
    return ImageReference(path_to_uri(str(path)), f"lines/{path.name}", path.stat().st_size, 0, text="a")


def test_the_line_of_a_reference_is_scaled_to_the_height(tmp_path):
    line = read_referenced_line(drawn(tmp_path / "a.png"), None, 40, ImageLimits())
    assert line.pixels.shape == (40, 120)
    assert (line.source_width, line.source_height) == (60, 20)


def test_a_remote_line_is_read_as_a_local_one(tmp_path):
    reference = drawn(tmp_path / "a.png")
    fsspec.filesystem("memory").pipe("/work/a.png", (tmp_path / "a.png").read_bytes())
    remote = reference._replace(uri=f"{REMOTE}/a.png")
    local_line, remote_line = (read_referenced_line(r, None, 20, ImageLimits()) for r in (reference, remote))
    np.testing.assert_array_equal(local_line.pixels, remote_line.pixels)
    assert (
        read_referenced_line(reference._replace(uri=f"{REMOTE}/b.png"), None, 20, ImageLimits()).reason == "unreadable"
    )


def test_the_problem_that_the_listing_found_is_given_without_reading_the_image(tmp_path):
    reference = ImageReference(str(tmp_path / "gone.png"), "gone.png", 1, 1).reject("no_label", "nothing names it")
    assert read_referenced_line(reference, None, 20, ImageLimits()) == Reject(
        reference.uri, "no_label", "nothing names it"
    )


def test_a_file_that_was_listed_as_too_large_is_not_opened(tmp_path):
    reference = ImageReference(str(tmp_path / "gone.png"), "gone.png", 1001, 1)
    outcome = read_referenced_line(reference, None, 20, ImageLimits(max_bytes=1000))
    assert (outcome.reason, outcome.detail) == ("too_large", "1001 bytes are more than --max_bytes=1000")


def test_a_file_that_grew_after_it_was_listed_is_too_large_nevertheless(tmp_path):
    reference = drawn(tmp_path / "a.png")._replace(size_bytes=1)
    assert read_referenced_line(reference, None, 20, ImageLimits(max_bytes=100)).reason == "too_large"


# Digests


def test_equal_references_have_equal_digests():
    assert digest_references(references(3)) == digest_references(references(3))
    assert len(digest_references([])) == 64


def test_any_change_of_the_references_changes_the_digest():
    first, second = references(2)
    changes = {
        "uri": "/other/a.png",
        "key": "other/a.png",
        "size_bytes": 10,
        "modified_us": 10,
        "text": "a",
        "problem": "no_label",
        "detail": "none",
        "group": "lines",
        "split": "test",
    }
    assert {*changes, "offset", "length"} == set(ImageReference._fields)
    assert digest_references([first._replace(offset=1, length=2)]) == digest_references([first])  # its place alone
    variants = [[], [first], [second], [first, second], [second, first], [first, first]]
    variants += [[first._replace(**{name: value}), second] for name, value in changes.items()]
    variants += [
        [first._replace(text="a", problem="b")],
        [first._replace(text="a', 'b")],
        [first._replace(text="None")],
    ]
    assert len({digest_references(variant) for variant in variants}) == len(variants)


# Finished shards


def finished(
    tmp_path, *, inputs: str = "same", files: tuple[str, ...] = ("shard",), size: int | None = 0, **rejects: int
) -> Summary | None:
    """Asks for a shard that was finished with the inputs `same` and the one file `shard`, of 0 bytes."""
    storage.write_json(str(tmp_path / "summary.json"), dataclasses.asdict(Summary("same", 3, rejects)))
    storage.write_bytes(str(tmp_path / "shard"), b"")
    return read_finished_summary(
        Summary, str(tmp_path / "summary.json"), inputs, lambda _: {str(tmp_path / n): size for n in files}
    )


def test_a_shard_that_was_finished_for_the_same_inputs_is_remembered(tmp_path):
    assert finished(tmp_path) == Summary("same", 3, {})
    assert finished(tmp_path, size=None, truncated=2) == Summary("same", 3, {"truncated": 2})


def test_a_shard_of_other_inputs_is_not_finished(tmp_path):
    assert finished(tmp_path, inputs="changed") is None


def test_a_shard_of_which_a_file_is_gone_is_not_finished(tmp_path):
    assert finished(tmp_path, files=("shard", "gone")) is None


def test_a_shard_of_which_a_file_has_another_size_is_not_finished(tmp_path):
    assert finished(tmp_path, size=7) is None


def test_a_shard_with_an_image_that_could_not_be_read_is_tried_again(tmp_path):
    assert finished(tmp_path, truncated=2, unreadable=1) is None


def test_a_shard_without_a_summary_is_not_finished(tmp_path):
    storage.write_bytes(str(tmp_path / "shard"), b"")
    assert (
        read_finished_summary(Summary, str(tmp_path / "summary.json"), "same", lambda _: {str(tmp_path / "shard"): 0})
        is None
    )


def test_a_damaged_summary_is_named(tmp_path):
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(DataError, match=r"summary\.json is not valid JSON"):
        read_finished_summary(Summary, str(tmp_path / "summary.json"), "same", lambda _: {})


def test_a_summary_of_an_older_version_is_none(tmp_path):
    storage.write_json(str(tmp_path / "summary.json"), {"inputs": "same", "examples": 3, "widths": {}})
    assert read_finished_summary(Summary, str(tmp_path / "summary.json"), "same", lambda _: {}) is None
    storage.write_json(str(tmp_path / "summary.json"), {"inputs": "same"})
    assert read_finished_summary(Summary, str(tmp_path / "summary.json"), "same", lambda _: {}) is None


# Accounts


def test_counts_are_summed_and_sorted():
    merged = merge_counts([{"b": 1, "a": 2}, {}, {"c": 1, "a": 3}])
    assert list(merged.items()) == [("a", 5), ("b", 1), ("c", 1)]
    assert merge_counts([]) == {}


@pytest.mark.parametrize(
    ("listed", "matched", "done", "rejects"), [(0, 0, 0, {}), (5, 5, 5, {}), (5, 5, 2, {"truncated": 2, "no_label": 1})]
)
def test_images_that_are_all_done_or_rejected_are_accounted_for(listed, matched, done, rejects):
    Counts(listed, done, rejects).check_accounted(matched, verb="read")
    Counts(listed + 7, done, rejects, skipped=7).check_accounted(matched, verb="read")


@pytest.mark.parametrize(
    ("listed", "matched", "done", "rejected"), [(6, 5, 5, 0), (4, 5, 5, 0), (5, 5, 4, 0), (5, 5, 5, 1), (5, 4, 4, 1)]
)
def test_a_lost_or_doubled_image_is_an_error_with_all_numbers(listed, matched, done, rejected):
    sentence = (
        f"{listed} images were listed, {matched} reached a shard, {done} were read and {rejected} rejected: "
        "an image was lost or doubled"
    )
    with pytest.raises(RuntimeError, match=sentence):
        Counts(listed, done, {"truncated": rejected}).check_accounted(matched, verb="read")


def test_files_that_workers_wrote_have_to_be_there_in_their_size(tmp_path):
    (tmp_path / "shard").write_bytes(b"12345")
    check_files(str(tmp_path), {"shard": 5})
    with pytest.raises(RuntimeError, match="shard should have 6 bytes but has 5: do all workers share the workspace"):
        check_files(str(tmp_path), {"shard": 6})
    with pytest.raises(RuntimeError, match="other should have 5 bytes but is missing: do all workers share"):
        check_files(str(tmp_path), {"shard": 5, "other": 5})


# How many shards


@pytest.mark.parametrize(
    ("images", "shards"),
    [
        (0, 1),
        (1, 1),
        (499, 1),
        (500, 2),
        (999, 2),
        (1_000, 4),
        (2_000, 8),
        (32_000, 8),
        (32_001, 16),
        (64_000, 16),
        (64_001, 32),
        (10_000_000, 4096),
    ],
)
def test_the_number_of_shards_follows_from_the_number_of_images(images, shards):
    assert choose_shard_count(images) == shards


def test_shards_hold_neither_too_many_images_nor_too_few_and_grow_by_doubling():
    before = 1
    for images in [*range(70_000), *range(70_000, 200_000_000, 999_983)]:
        shards = choose_shard_count(images)
        assert shards & (shards - 1) == 0
        assert shards >= before
        assert images <= 4000 * shards
        assert shards == 1 or images >= 250 * shards
        assert shards <= 8 or images > 2000 * shards
        before = shards
