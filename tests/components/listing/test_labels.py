"""Labels from file names and from text files beside images, and the one rule for their text."""

import os
import pathlib
import uuid

import pytest

from components.listing import ImageReference, LabelRules, find_roots, list_images
from components.listing.collection import Tally
from components.listing.labels import add_label
from components.listing.references import strip_suffix
from tests.components.listing.files import put
from tfrecords import DataError, storage


def label_of(folder: pathlib.Path | str, source: str, **rules) -> ImageReference:
    """The only image of a folder, with its label."""
    (reference,) = list_images(str(folder), LabelRules(source, **rules))
    return reference


def label_in_name(folder: pathlib.Path, name: str, **rules) -> ImageReference:
    put(folder, name)
    return label_of(folder, "filename", **rules)


def label_beside(folder: pathlib.Path, content: bytes, **rules) -> ImageReference:
    put(folder, "a.png")
    put(folder, "a.gt.txt", content=content)
    return label_of(folder, "sidecar", **rules)


def unused_labels(folder: pathlib.Path | str) -> list[str]:
    """The names of the text files that no image got."""
    tally = Tally()
    list(list_images(str(folder), LabelRules("sidecar"), tally))
    assert {(label.reason, label.detail) for label in tally.unused_labels} <= {
        ("no_image", "no image of its name lies beside it")
    }
    return [label.uri.rpartition("/")[2] for label in tally.unused_labels]


# Stems


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("line.png", "line"),
        ("line.PNG", "line"),
        ("line.tiff", "line"),
        ("line.JPEG", "line"),
        ("line.jp2", "line"),
        ("line.a", "line"),
        ("line.bin.png", "line.bin"),
        ("x.y.jpeg", "x.y"),
        ("1.5.png", "1.5"),
        ("1.5", "1.5"),
        ("No.7", "No.7"),
        ("line.2nd", "line.2nd"),
        ("line.jpeg2", "line.jpeg2"),
        ("line.ï", "line.ï"),
        ("line.", "line."),
        ("line", "line"),
        ("line.png.", "line.png."),
        ("line.png ", "line.png "),
        ("line.png\n", "line.png\n"),
        ("two\nlines.png", "two\nlines"),
        ("..png", "."),
    ],
)
def test_a_suffix_is_a_point_a_letter_and_at_most_three_more_letters_or_digits(name, stem):
    assert strip_suffix(name) == stem


# File names


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"AB-12.png", "AB-12"),
        (b"x.y.jpeg", "x.y"),
        (b"50%.png", "50%"),
        ("é.png".encode(), "é"),
        ("e\u0301.tiff".encode(), "é"),
        (b"1.5", "1.5"),
        (b"1.5.tif", "1.5"),
        (b"no suffix", "no suffix"),
        (b" two   words .png", "two words"),
        (b"a_b-c.png", "a_b-c"),
    ],
)
def test_the_file_name_without_its_suffix_is_the_label(images, name, text):
    assert label_in_name(images, os.fsdecode(name)).text == text


@pytest.mark.parametrize(
    ("pattern", "name", "text"),
    [
        ("{label}_{id}", "abc_12.png", "abc"),
        ("{label}_{id}", "a_b_12.png", "a_b"),
        ("{label}_{id}", "a__12.png", "a_"),
        ("{label}_{id}", "1.5_2.png", "1.5"),
        ("{label}_{id}", "two words _12.png", "two words"),
        ("{label}_{id}", "two\nlines_12", None),
        ("{id}_{label}", "12_abc.png", "abc"),
        ("{id}_{label}", "12_a_b.png", "a_b"),
        ("{id}_{label}", "12__b.png", "_b"),
        ("{id}_{label}", "zwölf_é.png", "é"),
        ("{id}-{label}-{page}", "12-abc-3.png", "abc"),
        ("{id}-{label}-{page}", "12-a-b-3.png", "a-b"),
        ("{label}{rest}", "abc.png", "ab"),
        ("line {label}", "line 7.png", "7"),
        ("[{id}] ({label})", "[1] (a+b).png", "a+b"),
        ("{id}.{label}", "1.b.png", "b"),
        ("{page_no}_{label}_{Scan2}", "1_b_3.png", "b"),
        ("é{label}", "éa.png", "a"),
        ("{label}}", "a}.png", "a"),
    ],
)
def test_a_pattern_says_which_part_of_the_name_is_the_label(images, pattern, name, text):
    reference = label_in_name(images, name, pattern=pattern)
    assert (reference.text, reference.problem) == (text, None if text else "several_lines")


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("{label}_{id}", "abc.png"),
        ("{label}_{id}", "abc-12.png"),
        ("{label}_{id}", "abc_.png"),
        ("{id}_{label}", "_abc.png"),
        ("{id}-{label}-{page}", "12-abc.png"),
        ("{id}-{label}-{page}", "12-.png"),
        ("{id}.{label}", "1xb"),
        ("line{label}", "Line7.png"),
        ("[{id}]{label}", "i7.png"),
    ],
)
def test_a_name_that_is_not_like_the_pattern_has_no_label_and_shows_both(images, pattern, name):
    reference = label_in_name(images, name, pattern=pattern)
    assert (reference.text, reference.problem) == (None, "no_label")
    assert reference.detail == f"its name, {strip_suffix(name)!r}, is not like --label_pattern={pattern}"


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("{label}_{id}", "_12.png"),
        ("{id}_{label}", "12_.png"),
        ("{id}-{label}-{page}", "12--3.png"),
        ("{label}_{id}", "  _12.png"),
        ("{label}", " .png"),
    ],
)
def test_an_empty_label_in_a_name_is_a_label_problem(images, pattern, name):
    reference = label_in_name(images, name, pattern=pattern)
    assert (reference.text, reference.problem) == (None, "empty_label")


@pytest.mark.parametrize(
    ("pattern", "name", "text"),
    [
        ("{label}/{name}", "7/0012.png", "7"),
        ("{label}/{name}", "deep/er/two words/a_b.png", "two words"),
        ("{label}/{name}", "a.png", "lines"),  # the folder that was named
        ("{label}/{page}/{name}", "abc/3/0012.png", "abc"),
        ("{page}/{label}_{id}", "3/a_b_12.png", "a_b"),
        ("class_{label}/{name}", "class_50%/1.png", "50%"),
        ("{label}/{name}", "é/1.png", "é"),
    ],
)
def test_a_pattern_with_a_slash_takes_the_label_from_the_folders(images, pattern, name, text):
    assert label_in_name(images, name, pattern=pattern).text == text


def test_a_pattern_with_more_folders_than_the_image_has_gives_no_label(images):
    reference = label_in_name(images, "3/1.png", pattern="{label}/{a}/{b}/{name}")
    assert reference.problem == "no_label"
    assert reference.detail == "its name, 'lines/3/1', is not like --label_pattern={label}/{a}/{b}/{name}"


def test_a_file_name_that_is_not_utf_8_is_no_label(images):
    reference = label_in_name(images, os.fsdecode(b"caf\xe9.png"))
    assert (reference.text, reference.problem) == (None, "label_not_text")
    assert "its name is not UTF-8" in reference.detail


@pytest.mark.parametrize(
    "pattern",
    [
        *("", "label", "{id}", "{Label}", "{ label }", "{label", "label}"),
        *("{label}_{label}", "{id}_{label}_{id}"),
        *("{label}_{}", "{label}_{1}", "{label}_{page no}", "{label}_{page-no}", "{{label}}", "{label}_{id"),
        *("{label}_{a²}", "{label}_{é!}"),
    ],
)
def test_a_pattern_that_does_not_name_the_label_once_and_all_parts_differently_is_refused(pattern):
    with pytest.raises(DataError) as error:
        LabelRules("filename", pattern=pattern)
    assert str(error.value) == (
        f"--label_pattern={pattern} has to name {{label}} once, and other parts by names of their own, "
        "such as {label}_{id}"
    )


def test_rules_say_for_a_person_what_labels_come_from():
    assert str(LabelRules("filename")) == "the file names"
    assert str(LabelRules("filename", pattern="{label}/{name}")) == "the names of folders and files"
    assert str(LabelRules("sidecar")) == "the text file beside each image"
    assert str(LabelRules("table", tables=("/a/labels.csv",))) == "/a/labels.csv"
    assert str(LabelRules("table", tables=("/a/1.csv", "/a/2.tsv"))) == "/a/1.csv and /a/2.tsv"


# Text files beside images


@pytest.mark.parametrize(
    ("image", "sidecar"),
    [
        ("a.b.png", "a.b.gt.txt"),
        ("a.b.png", "a.b.txt"),
        ("a.png", "a.GT.TXT"),
        ("a.png", "a.TXT"),
        ("A.PNG", "A.gt.txt"),
        ("a.png", "a.png.txt"),
        ("a.png", "a.png.gt.txt"),
        ("a.bin.png", "a.gt.txt"),
        ("a.nrm.png", "a.gt.txt"),
        ("a.dew.png", "a.txt"),
        ("a.raw.tif", "a.gt.txt"),
        ("a.bin.png", "a.bin.gt.txt"),
        ("a.bin.png", "a.bin.png.txt"),
        ("a", "a.gt.txt"),
        ("a.bin", "a.gt.txt"),
        ("1.5", "1.5.txt"),
        ("a.tiff", "a.txt"),
        ("a [1]*?.png", "a [1]*?.gt.txt"),
    ],
)
@pytest.mark.parametrize("named", ["folder", "image"])
def test_the_text_file_beside_an_image_is_its_label(images, image, sidecar, named):
    put(images, image)
    put(images, sidecar, content=b"caf\xc3\xa9 1\n")
    root = images if named == "folder" else images / image
    assert label_of(root, "sidecar").text == "café 1"
    assert unused_labels(root) == []


@pytest.mark.parametrize(
    ("image", "text_file"),
    [
        ("a.png", "b.txt"),
        ("a.png", "A.txt"),
        ("a.bin.png", "a.nrm.txt"),
        ("a.xyz.png", "a.txt"),
        ("abin.png", "a.txt"),
        ("1.5.png", "1.txt"),
        ("a.png", "a.jpg.txt"),
        ("a.png", "sub/a.txt"),
    ],
)
def test_a_text_file_of_another_name_is_no_label(images, image, text_file):
    put(images, image, text_file)
    reference = next(iter(list_images(str(images), LabelRules("sidecar"))))
    assert (reference.text, reference.problem) == (None, "no_label")
    assert reference.detail == "no .gt.txt or .txt file lies beside the image"


def test_a_gt_txt_file_wins_over_a_txt_file(images):
    put(images, "a.png", "b.bin.png", "c.PNG")
    put(images, "a.txt", "b.bin.txt", "c.TXT", content=b"from .txt")
    put(images, "a.gt.txt", "b.gt.txt", "c.GT.TXT", content=b"from .gt.txt")
    references = list_images(str(images), LabelRules("sidecar"))
    assert [reference.text for reference in references] == ["from .gt.txt"] * 3


def test_the_name_without_suffix_wins_over_the_name_with_it(images):
    put(images, "a.png")
    put(images, "a.txt", content=b"a.txt")
    put(images, "a.png.txt", content=b"a.png.txt")
    assert label_of(images, "sidecar").text == "a.txt"


def test_the_prepared_variants_of_a_line_share_its_label(images):
    put(images, "1.bin.png", "1.nrm.png", "1.png", "2.nrm.png")
    put(images, "1.gt.txt", content=b"one")
    put(images, "2.gt.txt", content=b"two")
    references = list_images(str(images), LabelRules("sidecar"))
    assert [(reference.key, reference.text) for reference in references] == [
        ("lines/1.bin.png", "one"),
        ("lines/1.nrm.png", "one"),
        ("lines/1.png", "one"),
        ("lines/2.nrm.png", "two"),
    ]
    assert unused_labels(images) == []


def test_the_text_file_beside_an_image_with_an_odd_name_is_found(images):
    stem = os.path.join(os.fsencode(images), b"100% [1]\xe9")
    for suffix, content in ((b".png", b"image"), (b".gt.txt", b"label")):
        with open(stem + suffix, "wb") as file:
            file.write(content)
    assert label_of(images, "sidecar").text == "label"


def test_the_text_files_beside_images_that_a_glob_names_are_their_labels(images):
    put(images, "a.png", "b.png")
    put(images, "a.gt.txt", content=b"label")
    roots = find_roots(f"{images}/*.png", flag="--images")
    references = [reference for root in roots for reference in list_images(root, LabelRules("sidecar"))]
    assert [(reference.text, reference.problem) for reference in references] == [("label", None), (None, "no_label")]


@pytest.mark.parametrize("name", ["line.gt.txt", "line.txt", "line.GT.TXT", "line.png.txt"])
def test_names_of_text_files_in_object_stores_follow_the_same_rule(name):
    url = f"memory://{uuid.uuid4().hex}/lines"
    storage.write_bytes(f"{url}/line.png", b"image")
    storage.write_bytes(f"{url}/{name}", b"label")
    assert label_of(url, "sidecar").text == "label"
    assert label_of(f"{url}/line.png", "sidecar").text == "label"
    storage.remove_folder(url)


def make_folder(path: pathlib.Path) -> None:
    path.mkdir()
    (path / "inside.txt").write_bytes(b"not this one")


def make_broken_link(path: pathlib.Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def make_link_to_itself(path: pathlib.Path) -> None:
    path.symlink_to(path)


def make_pipe(path: pathlib.Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("make", [make_folder, make_broken_link, make_link_to_itself, make_pipe])
@pytest.mark.parametrize("named", ["folder", "image"])
def test_what_is_no_file_in_the_place_of_a_text_file_is_a_label_problem_and_not_a_crash(images, make, named):
    put(images, "a.png")
    make(images / "a.gt.txt")
    references = list(list_images(str(images if named == "folder" else images / "a.png"), LabelRules("sidecar")))
    assert [(reference.key, reference.text, reference.problem) for reference in references] == [
        ("lines/a.png", None, "no_label")
    ]
    if make is not make_folder:
        assert references[0].detail.startswith("its label cannot be read: ")


@pytest.mark.parametrize("named", ["folder", "image"])
def test_a_folder_in_the_place_of_a_text_file_does_not_hide_another(images, named):
    put(images, "a.png")
    put(images, "a.txt", content=b"label")
    (images / "a.gt.txt").mkdir()
    assert label_of(images if named == "folder" else images / "a.png", "sidecar").text == "label"


def test_a_text_file_of_two_million_bytes_is_no_label_of_a_line(images):
    reference = label_beside(images, b"x" * 2_000_000)
    assert (reference.text, reference.problem) == (None, "label_too_long")
    assert reference.detail == f"{images}/a.gt.txt has more than 1000000 bytes: it is no label of a line"


def test_a_link_to_a_text_file_is_read_inside_the_folder_that_was_named(images):
    put(images, "sub/a.png")
    put(images, "texts/1.txt", content=b"label")
    (images / "sub" / "a.gt.txt").symlink_to("../texts/1.txt")
    assert label_of(images, "sidecar").text == "label"


@pytest.mark.parametrize("content", [b"root", b"root:$6$secret\nbin:x\n", b"\xff"])
def test_a_link_to_a_text_file_elsewhere_is_no_label_and_nothing_of_it_is_told(tmp_path, images, content):
    put(images, "a.png")
    put(tmp_path, "shadow", content=content)
    (images / "a.txt").symlink_to(tmp_path / "shadow")
    reference = label_of(images, "sidecar")
    assert (reference.text, reference.problem) == (None, "no_label")
    assert reference.detail == f"{images}/a.txt is a link that leads out of the folder: put the label itself there"


def test_the_text_files_of_a_linked_folder_are_read_where_they_are(tmp_path, images):
    put(tmp_path, "elsewhere/a.png")
    put(tmp_path, "elsewhere/a.txt", content=b"label")
    (images / "linked").symlink_to(tmp_path / "elsewhere")
    assert label_of(images, "sidecar").text == "label"


@pytest.mark.parametrize("content", [b"caf\xe9", b"\xff\xfea\x00", b"good\nbad \xc3"])
def test_a_text_file_that_is_not_utf_8_is_a_label_problem(images, content):
    reference = label_beside(images, content)
    assert (reference.text, reference.problem) == (None, "label_not_text")
    assert f"{images}/a.gt.txt is not UTF-8: " in reference.detail


@pytest.mark.parametrize("content", [b"\xef\xbb\xbflabel", b"\xef\xbb\xbf label \r\n", b"label", b"\n\nlabel\n\n"])
def test_a_byte_order_mark_and_the_ends_of_a_text_file_are_no_part_of_the_label(images, content):
    assert label_beside(images, content).text == "label"


@pytest.mark.parametrize("content", [b"", b" \n", b"\xef\xbb\xbf\n", "\u3000\u00a0\r\n".encode()])
def test_an_empty_text_file_is_a_label_problem(images, content):
    reference = label_beside(images, content)
    assert (reference.text, reference.problem) == (None, "empty_label")
    assert repr(content.decode("utf-8-sig")) in reference.detail


@pytest.mark.parametrize("content", [b"", b" \n", b"\xef\xbb\xbf\n"])
def test_an_empty_text_file_is_a_label_where_empty_ones_are_kept_and_an_empty_name_is_none(images, content):
    put(images, "a.png", "a.gt.txt", content=content)
    (reference,) = list_images(str(images), LabelRules("sidecar", keep_empty=True))
    assert (reference.text, reference.problem) == ("", None)
    put(images, "_b.png")
    rules = LabelRules("filename", pattern="{label}_{id}", keep_empty=True)
    named = {image.key: image.problem for image in list_images(str(images), rules)}
    assert named["lines/_b.png"] == "empty_label"


# Text files that no image got


def test_text_files_without_an_image_are_unused_and_named_in_order(images):
    put(images, "a.png", "a.gt.txt", "c.gt.txt", "b.txt", "sub/a.txt", "sub/d.png", "sub/d.txt", "README.TXT")
    assert unused_labels(images) == ["README.TXT", "b.txt", "c.gt.txt", "a.txt"]


def test_the_name_of_an_unused_text_file_is_text(images):
    put(images, os.fsdecode(b"100%\xe9.txt"))
    assert unused_labels(images) == ["100%25%E9.txt"]


@pytest.mark.parametrize(
    ("image", "used", "beside"),
    [
        ("line.png", "line.gt.txt", "line.txt"),
        ("LINE.PNG", "LINE.GT.TXT", "LINE.TXT"),
        ("line.png", "line.gt.txt", "line.TXT"),
        ("line.bin.png", "line.gt.txt", "line.txt"),
        ("line.bin.png", "line.gt.txt", "line.bin.txt"),
        ("line.bin.png", "line.bin.gt.txt", "line.gt.txt"),
        ("line.png", "line.txt", "line.png.txt"),
        ("line.png", "line.gt.txt", "line.png.gt.txt"),
    ],
)
def test_a_second_text_file_of_an_image_is_not_missed(images, image, used, beside):
    put(images, image)
    put(images, used, content=b"used")
    put(images, beside, content=b"beside")
    assert label_of(images, "sidecar").text == "used"
    assert unused_labels(images) == []


def test_a_text_file_is_unused_only_where_labels_come_from_text_files(images):
    put(images, "a.png", "b.txt")
    tally = Tally()
    list(list_images(str(images), LabelRules("filename"), tally))
    assert tally.unused_labels == []


def test_an_image_that_was_named_itself_does_not_make_the_other_text_files_unused(images):
    put(images, "a.png", "a.txt", "b.png", "b.txt")
    assert unused_labels(images / "a.png") == []


# The rule for text


def ruled(text: str, max_label_length: int = 500) -> ImageReference:
    return add_label(ImageReference("/a.png", "a.png", 1, 2), text, max_label_length)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("plain", "plain"),
        ("e\u0301", "\u00e9"),
        ("A\u030a", "\u00c5"),
        ("\u212b", "\u00c5"),
        ("e\u0323\u0302", "\u1ec7"),
        ("e\u0302\u0323", "\u1ec7"),
        ("\u00ea\u0323", "\u1ec7"),
        ("Tie\u0302\u0301ng Vie\u0323\u0302t", "Ti\u1ebfng Vi\u1ec7t"),
        ("u\u031b\u0309", "\u1eed"),
        ("\u1112\u1161\u11ab", "\ud55c"),
        ("m\u0303", "m\u0303"),
        ("q\u0323\u0307", "q\u0323\u0307"),
        ("q\u0307\u0323", "q\u0323\u0307"),
        ("ﬁ²ſ½Ⅳ①…", "ﬁ²ſ½Ⅳ①…"),
        ("ｆｕｌｌ", "ｆｕｌｌ"),
        ("שלום עולם", "שלום עולם"),
        ("\u0627\u0644\u0639\u064e 12 abc", "\u0627\u0644\u0639\u064e 12 abc"),
        ("क्षि", "क्षि"),
        ("日本語", "日本語"),
        ("\U0001f469\u200d\U0001f4bb", "\U0001f469\u200d\U0001f4bb"),
        ("a\u200bb", "a\u200bb"),
        ("soft\u00adhyphen", "soft\u00adhyphen"),
        ("\ue000", "\ue000"),
        ('"quoted" \\ %', '"quoted" \\ %'),
    ],
)
def test_a_label_is_stored_in_nfc_and_never_nfkc(text, label):
    reference = ruled(text)
    assert (reference.text, reference.problem) == (label, None)


def test_a_mark_without_a_composed_form_is_a_symbol_of_its_own():
    assert list(ruled("m\u0303e\u0303").text) == ["m", "\u0303", "\u1ebd"]


def test_right_to_left_text_stays_in_the_order_in_which_it_is_read():
    assert list(ruled("אב 12").text) == ["א", "ב", " ", "1", "2"]


@pytest.mark.parametrize(
    "text", ["two words", " two  words ", "two\twords", "two\u00a0words", "two \u3000\u2009 words", "two words\r\n"]
)
def test_white_space_is_collapsed_and_trimmed(text):
    assert ruled(text).text == "two words"


@pytest.mark.parametrize("text", ["first\nsecond", "first\r\nsecond\r\n", "first\rsecond", "first\n\n \nsecond\n"])
@pytest.mark.parametrize("line_end", ["\n", "\x0b", "\x0c", "\x85", "\u2028", "\u2029"])
def test_several_lines_are_a_label_problem(text, line_end):
    reference = ruled(text.replace("\n", line_end))
    assert (reference.text, reference.problem) == (None, "several_lines")
    assert reference.detail.startswith("its label has 2 lines, the image of a line has one: 'first")


@pytest.mark.parametrize("text", ["", " ", "\n", "\t\r\n \u00a0", "\u2028"])
def test_a_text_of_white_space_alone_is_empty(text):
    reference = ruled(text)
    assert (reference.text, reference.problem, reference.detail) == (None, "empty_label", f"its label is {text!r}")


@pytest.mark.parametrize("symbol", ["\0", "\x07", "\x1b", "\x7f", "\x80", "\x9f"])
def test_a_control_character_is_a_label_problem(symbol):
    reference = ruled(f"a{symbol}b")
    assert (reference.text, reference.problem) == (None, "label_not_text")
    assert f"the control character U+{ord(symbol):04X}: " in reference.detail


def test_half_a_surrogate_pair_is_a_label_problem_that_can_be_written_down():
    reference = ruled("a\ud83d")
    assert (reference.text, reference.problem) == (None, "label_not_text")
    reference.detail.encode()


def test_a_label_may_have_as_many_symbols_as_the_limit_says_after_composition():
    assert ruled("x" * 500).text == "x" * 500
    assert ruled("e\u0301 " * 250, 499).text == " ".join("é" * 250)
    assert ruled("ab", 2).text == "ab"
    reference = ruled("abc", 2)
    assert (reference.text, reference.problem) == (None, "label_too_long")
    assert reference.detail == "its label has 3 symbols, more than --max_label_length=2"


@pytest.mark.parametrize("text", ["x" * 100_000, "x\n" * 50_000, " " * 100_000, "\x07" * 400])
def test_the_detail_of_a_long_text_is_short(text):
    reference = ruled(text)
    assert reference.problem is not None
    assert len(reference.detail) < 600


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("two\nlines.png", "several_lines"),
        ("bell\x07.png", "label_not_text"),
        ("\u3000.png", "empty_label"),
        ("abcdefghijk.png", "label_too_long"),
        ("m\u0303.png", None),
    ],
)
def test_the_same_rule_holds_for_file_names_and_for_text_files(images, name, problem):
    text = strip_suffix(name)
    assert label_in_name(images, name, max_label_length=10).problem == problem
    (images / name).unlink()
    assert label_beside(images, text.encode(), max_label_length=10).problem == problem
