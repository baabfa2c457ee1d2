"""Images made to take gigabytes or minutes, or to end the process that decodes them: each costs itself and no other."""

from __future__ import annotations

import functools
import os
import pathlib
import signal
import time
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from components.lines import Content, map_in_order, read_referenced_line
from components.listing import ImageReference
from components.processes import HelperPool, bound_decoding, helper, is_helper
from components.rejects import Reject
from tests.bombs import BOMBS, make_exif_bomb
from tfrecords import ImageLimits, ImageRejected, LineImage, ProcessLostError, read_line

LIMITS = ImageLimits(max_decode_seconds=2, max_decode_memory=300_000_000)
READ = functools.partial(read_referenced_line, height=48, limits=LIMITS)
SLOW = ("scans.jpg", "comments.pgm", "comment.gif", "strips.tif")


@pytest.fixture
def helpers() -> Iterator[HelperPool]:
    """The helper processes of a job."""
    with HelperPool.open_for_job() as helpers:
        yield helpers


def refer_to(path: pathlib.Path) -> ImageReference:
    return ImageReference(str(path), path.name, path.stat().st_size, 0)


def draw_good(folder: pathlib.Path, count: int) -> list[ImageReference]:
    paths = [folder / f"good-{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        Image.new("L", (80 + number, 20), 200).save(path)
    return [refer_to(path) for path in paths]


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_a_reject_and_its_neighbours_are_read(name, tmp_path, helpers):
    first, *others = draw_good(tmp_path, 4)
    (tmp_path / name).write_bytes(BOMBS[name]())
    outcomes = list(map_in_order(READ, [first, refer_to(tmp_path / name), *others], 1, LIMITS))
    bomb = outcomes.pop(1)
    assert isinstance(bomb, Reject)
    assert bomb.reason == ("too_slow" if name in SLOW else "too_large")
    assert ("scans, more than 200" if name == "scans.jpg" else "--max_decode_") in bomb.detail
    assert [outcome.source_width for outcome in outcomes] == [80, 81, 82, 83]


def test_what_a_library_prints_about_a_damaged_image_is_not_shown(tmp_path, helpers, capfd):
    """libtiff prints to the standard error of its process, and does not name the image."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 400), np.uint8)
    damaged = tmp_path / "damaged.tif"
    Image.fromarray(noise).save(damaged, compression="tiff_lzw")
    content = damaged.read_bytes()
    damaged.write_bytes(content[:2000] + b"\xff" * 3000 + content[5000:])
    (outcome,) = map_in_order(READ, [refer_to(damaged)], 1, LIMITS)
    assert outcome.reason == "truncated"
    assert capfd.readouterr().err == ""


def test_several_bombs_in_one_call_are_told_apart(tmp_path, helpers):
    good = draw_good(tmp_path, 6)
    for number in range(2):
        (tmp_path / f"{number}.pgm").write_bytes(BOMBS["comments.pgm"]())
    (tmp_path / "2.jpg").write_bytes(BOMBS["exif.jpg"]())
    bombs = [refer_to(tmp_path / name) for name in ("0.pgm", "1.pgm", "2.jpg")]
    listed = [good[0], bombs[0], good[1], good[2], bombs[1], bombs[2], *good[3:]]
    outcomes = list(map_in_order(READ, listed, 2, LIMITS))
    assert [outcome.reason if isinstance(outcome, Reject) else "read" for outcome in outcomes] == (
        ["read", "too_slow", "read", "read", "too_slow", "too_large", "read", "read", "read"]
    )


def test_metadata_that_nobody_needs_are_not_read(tmp_path, helpers):
    (tmp_path / "exif.png").write_bytes(make_exif_bomb())
    (line,) = map_in_order(READ, [refer_to(tmp_path / "exif.png")], 1, LIMITS)
    assert line.source_width == 80


def test_a_file_that_has_grown_to_gigabytes_is_not_read_whole(tmp_path, helpers):
    (reference,) = draw_good(tmp_path, 1)
    os.truncate(reference.uri, 3_000_000_000)
    (outcome,) = map_in_order(READ, [reference], 1, LIMITS)
    assert (outcome.reason, outcome.detail) == ("too_large", "it has more than --max_bytes=50000000 bytes")


def die(reference: ImageReference, content: Content, signals: dict[str, int], once: str) -> LineImage | Reject:
    """Decodes an image, but first ends the process at some images: always, or only if `once` is not there yet."""
    try:
        with bound_decoding(LIMITS):
            if (number := signals.get(reference.key)) and not (once and os.path.exists(once)):
                if once:
                    pathlib.Path(once).touch()
                os.kill(os.getpid(), number)
            return read_line(pathlib.Path(reference.uri).read_bytes(), 48, LIMITS)
    except ImageRejected as error:
        return Reject(reference.uri, error.reason, error.detail)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGSEGV, "the process that decoded it was ended by SIGSEGV"),
        (signal.SIGABRT, "the process that decoded it was ended by SIGABRT"),
        (signal.SIGKILL, "the process that decoded it was ended by SIGKILL twice: was there enough memory?"),
    ],
)
def test_an_image_that_ends_its_process_is_a_reject_that_says_how(number, said, tmp_path, helpers):
    listed = draw_good(tmp_path, 40)
    decode = functools.partial(die, signals={"good-3.png": number, "good-35.png": number}, once="")
    outcomes = list(map_in_order(decode, listed, 1, LIMITS))
    assert [i for i, outcome in enumerate(outcomes) if isinstance(outcome, Reject)] == [3, 35]
    assert (outcomes[3].reason, outcomes[3].detail) == ("crashed", said)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_image_whose_process_somebody_killed_is_read_by_another(number, tmp_path, helpers):
    listed = draw_good(tmp_path, 5)
    decode = functools.partial(die, signals={"good-3.png": number}, once=str(tmp_path / "killed"))
    outcomes = list(map_in_order(decode, listed, 1, LIMITS))
    assert [outcome.source_width for outcome in outcomes] == [80, 81, 82, 83, 84]


def test_an_image_whose_process_somebody_stopped_is_read_by_another(tmp_path, helpers, monkeypatch):
    monkeypatch.setattr(helper, "_PATIENCE", 0.5)
    listed = draw_good(tmp_path, 3)
    decode = functools.partial(die, signals={"good-1.png": signal.SIGSTOP}, once=str(tmp_path / "stopped"))
    outcomes = list(map_in_order(decode, listed, 1, LIMITS))
    assert [outcome.source_width for outcome in outcomes] == [80, 81, 82]


def test_an_image_whose_processes_all_stop_is_too_slow(tmp_path, helpers, monkeypatch):
    monkeypatch.setattr(helper, "_PATIENCE", 0.5)
    listed = draw_good(tmp_path, 3)
    decode = functools.partial(die, signals={"good-1.png": signal.SIGSTOP}, once="")
    outcomes = list(map_in_order(decode, listed, 1, LIMITS))
    assert (outcomes[1].reason, outcomes[1].detail) == (
        "too_slow",
        "it was not decoded within 1 s: see --max_decode_seconds",
    )
    assert [isinstance(outcome, LineImage) for outcome in outcomes] == [True, False, True]


def use_memory_and_time_elsewhere(_: object) -> int:
    with bound_decoding(LIMITS):
        pass
    began = time.process_time()
    while time.process_time() - began < 1.5 * LIMITS.max_decode_seconds:
        pass
    return np.ones(2 * LIMITS.max_decode_memory, np.uint8).nbytes


def test_the_bounds_hold_while_an_image_is_decoded_and_no_longer(helpers):
    assert list(helpers.map(use_memory_and_time_elsewhere, [None], 1)) == [2 * LIMITS.max_decode_memory]


def test_outside_of_helpers_nothing_is_bound():
    assert not is_helper()
    with bound_decoding(ImageLimits(max_decode_memory=1, max_decode_seconds=1)):
        assert np.ones(1_000_000).sum() == 1_000_000


def test_what_is_lost_for_good_is_an_error_that_may_pass():
    from pipeline.exits import EXIT_AGAIN, choose_status

    assert choose_status(ProcessLostError("two helper processes ended")) == EXIT_AGAIN
