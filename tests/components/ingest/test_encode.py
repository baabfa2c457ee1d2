"""One listed image as an example, or rejected with exactly the reason that it should have."""

import gzip
import io
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from components.ingest.encode import EncodingRules, encode_reference
from components.listing import ImageReference, path_to_uri
from components.rejects import REASONS, Reject
from tfrecords import Charset, ImageLimits, decode_png

RULES = EncodingRules(
    charset=Charset((" ", "a", "b", "c")),
    height=20,
    time_stride=4,
    limits=ImageLimits(max_pixels=10_000, max_bytes=50_000, max_line_width=500, min_side=4),
)
GIVEN_BY_THE_LISTING = (
    "no_label",
    "empty_label",
    "label_not_text",
    "several_lines",
    "conflicting_labels",
    "no_group",
    "no_split",
    "label_too_long",
    "unreadable_folder",
)
GIVEN_BY_PAGES = (
    "several_page_files",
    "no_page_file",
    "damaged_page_file",
    "no_lines",
    "other_size",
    "no_outline",
    "empty_outline",
    "outside_page",
)
GIVEN_BY_ARCHIVES = ("damaged_archive", "unusable_member")
NOT_OF_IMAGES = ("no_image", "damaged_row", "changed_since", "not_in_xml")


def grain(width: int = 100, height: int = 20) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width), np.uint8))


def file_of(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def reference_to(path: pathlib.Path, text: str | None = "abc") -> ImageReference:
    size = os.lstat(path).st_size if os.path.lexists(path) else 0
    return ImageReference(path_to_uri(str(path)), f"lines/{path.name}", size, 0, text=text)


def outcome_of(tmp_path: pathlib.Path, content: bytes, text: str | None = "abc") -> bytes | Reject:
    path = tmp_path / "line.png"
    path.write_bytes(content)
    return encode_reference(reference_to(path, text), None, RULES)


def test_a_labelled_image_becomes_an_example_with_its_pixels_and_its_label(tmp_path):
    record = outcome_of(tmp_path, file_of(grain()), "c ab")
    feature = tf.train.Example.FromString(record).features.feature
    assert sorted(feature) == ["image", "label", "label_length", "text", "uri", "width"]
    np.testing.assert_array_equal(decode_png(feature["image"].bytes_list.value[0]), np.asarray(grain()))
    assert list(feature["label"].int64_list.value) == [3, 0, 1, 2]
    assert list(feature["label_length"].int64_list.value) == [4]
    assert list(feature["width"].int64_list.value) == [100]
    assert feature["text"].bytes_list.value[0] == b"c ab"
    assert feature["uri"].bytes_list.value[0] == str(tmp_path / "line.png").encode()


def test_an_image_is_scaled_to_the_height(tmp_path):
    record = outcome_of(tmp_path, file_of(grain(100, 40)))
    feature = tf.train.Example.FromString(record).features.feature
    assert decode_png(feature["image"].bytes_list.value[0]).shape == (20, 50)
    assert list(feature["width"].int64_list.value) == [50]


def test_an_image_encoded_twice_gives_the_same_bytes(tmp_path):
    content = file_of(grain())
    assert outcome_of(tmp_path, content) == outcome_of(tmp_path, content)


def test_an_example_can_have_a_name_that_is_not_utf_8(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9 100%.png")
    path.write_bytes(file_of(grain()))
    feature = tf.train.Example.FromString(encode_reference(reference_to(path), None, RULES)).features.feature
    assert feature["uri"].bytes_list.value[0] == f"{tmp_path}/caf%E9 100%25.png".encode()


def test_a_label_exactly_fits_and_one_repeat_more_does_not(tmp_path):
    assert isinstance(outcome_of(tmp_path, file_of(grain(16)), "abca"), bytes)
    assert outcome_of(tmp_path, file_of(grain(16)), "abcc").reason == "label_too_long"
    assert isinstance(outcome_of(tmp_path, file_of(grain(17)), "abcc"), bytes)


_PNG = file_of(grain())
_CONTENTS = {
    "0 bytes": ("empty_file", b"", "the file has 0 bytes"),
    "text": ("not_an_image", b"ab\n", "its 3 bytes are none of PNG"),
    "compressed": ("not_an_image", gzip.compress(_PNG, mtime=0), " bytes are none of PNG"),
    "half a PNG": ("truncated", _PNG[: len(_PNG) // 2], "the PNG ends at byte"),
    "half a JPEG": ("truncated", file_of(grain(), "JPEG")[:-900], "ends early or is damaged"),
    "a flipped byte": ("truncated", _PNG[:300] + bytes([_PNG[300] ^ 255]) + _PNG[301:], "checksum"),
    "too many bytes": ("too_large", _PNG + bytes(50_000), "more than --max_bytes=50000"),
    "too many pixels": ("too_large", file_of(Image.new("L", (501, 20))), "10020, more than --max_pixels=10000"),
    "too wide a line": ("too_large", file_of(Image.new("L", (131, 5))), "are 524 pixels wide, more than --max_line"),
    "too low": ("too_small", file_of(Image.new("L", (100, 3))), "100x3 pixels: a line has at least 4"),
    "an animation": (
        "several_images",
        file_of(grain(), "GIF", save_all=True, append_images=[Image.new("L", (100, 20))]),
        "the GIF file holds several images, not 1",
    ),
    "floating point": ("unsupported_pixels", file_of(Image.new("F", (100, 20)), "TIFF"), "TIFF pixels of mode F"),
}


@pytest.mark.parametrize(("reason", "content", "detail"), _CONTENTS.values(), ids=_CONTENTS.keys())
def test_what_is_no_line_is_rejected_with_its_reason(tmp_path, reason, content, detail):
    outcome = outcome_of(tmp_path, content)
    assert isinstance(outcome, Reject)
    assert (outcome.uri, outcome.reason) == (str(tmp_path / "line.png"), reason)
    assert detail in outcome.detail


@pytest.mark.parametrize(
    ("make", "detail"),
    [
        (lambda path: None, "No such file or directory"),
        (lambda path: path.mkdir(), "is not a regular file"),
        (lambda path: os.mkfifo(path), "is not a regular file"),
        (lambda path: path.symlink_to("nowhere.png"), "No such file or directory"),
        (lambda path: path.symlink_to(path.name), "symbolic links"),
        (lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
        (lambda path: path.symlink_to("/proc/self/mem"), "error"),
    ],
    ids=["nothing", "a folder", "a named pipe", "a broken link", "a link to itself", "a device", "an unreadable file"],
)
def test_what_cannot_be_read_is_rejected_as_unreadable_and_is_not_waited_for(tmp_path, make, detail):
    path = tmp_path / "line.png"
    make(path)
    outcome = encode_reference(reference_to(path), None, RULES)
    assert isinstance(outcome, Reject)
    assert (outcome.uri, outcome.reason) == (str(path), "unreadable")
    assert detail in outcome.detail


@pytest.mark.parametrize("reason", GIVEN_BY_THE_LISTING)
def test_an_image_that_the_listing_found_unusable_keeps_its_reason_and_is_not_read(tmp_path, reason):
    reference = reference_to(tmp_path / "gone.png").reject(reason, "as the listing said")
    assert encode_reference(reference, None, RULES) == Reject(reference.uri, reason, "as the listing said")


def test_an_image_that_was_listed_without_labels_has_no_label(tmp_path):
    path = tmp_path / "line.png"
    path.write_bytes(_PNG)
    outcome = encode_reference(reference_to(path, text=None), None, RULES)
    assert (outcome.reason, outcome.detail) == ("no_label", "no label was asked for")


def test_symbols_outside_the_charset_are_all_named(tmp_path):
    outcome = outcome_of(tmp_path, _PNG, "bxßx a")
    assert outcome.reason == "symbol_not_in_charset"
    assert outcome.detail == "label 'bxßx a' has 'x', 'ß': see --charset"


def test_a_label_that_does_not_fit_is_rejected_with_every_number(tmp_path):
    outcome = outcome_of(tmp_path, file_of(grain(16)), "abcc")
    assert outcome.reason == "label_too_long"
    assert outcome.detail == (
        f'label of "{tmp_path}/line.png" is 4 symbols and needs 5 time steps (1 repeats), but the image is 16 px wide '
        "and gives 4: use a greater --height or leave the image out"
    )


def test_these_are_all_reasons_that_an_image_can_have():
    tested = {reason for reason, _, _ in _CONTENTS.values()} | {*GIVEN_BY_THE_LISTING}
    tested |= {"unreadable", "symbol_not_in_charset", "too_slow", "crashed"}  # the last two: test_bounds.py
    assert tested | {*NOT_OF_IMAGES} | {*GIVEN_BY_PAGES} | {*GIVEN_BY_ARCHIVES} == set(REASONS)
