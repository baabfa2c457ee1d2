"""Finding out where the labels of a collection are, on a real disk and in fsspec's in-memory file system."""

import os
import pathlib
import unicodedata

import pytest

from components.listing import (
    LABEL_SOURCES,
    LabelRules,
    TableColumns,
    check_choice,
    choice,
    choose_labels,
    find_roots,
    write_listing,
)
from tests.components.listing.files import put, put_remote, write_old_spreadsheet, write_open_document
from tfrecords import DataError, SplitFractions


def put_table(path: pathlib.Path, *names: str, header: str = "path,text") -> str:
    """Writes a table with a row for each name; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in [header, *(f"{name},some words" for name in names)]))
    return str(path)


def put_text(path: pathlib.Path, content: str) -> str:
    path.write_text(content)
    return str(path)


def choose(*roots: pathlib.Path | str, **rules) -> tuple[LabelRules, str]:
    return choose_labels(LabelRules("auto", **rules), [str(root) for root in roots])


def chosen(*roots: pathlib.Path | str, **rules) -> tuple[str, tuple[str, ...]]:
    """The source and the tables; everything else of the rules is as it was asked for."""
    found, why = choose(*roots, **rules)
    assert found == LabelRules(found.source, tables=found.tables, **rules)
    assert why == "" or why.startswith(f"labels come from {found}: ")
    return found.source, found.tables


def refusal(*roots: pathlib.Path | str) -> str:
    with pytest.raises(DataError) as error:
        choose(*roots)
    return str(error.value)


def check_all(images: pathlib.Path, rules: LabelRules) -> None:
    """Lists all images, and checks the choice that was made by the first ones."""
    listing = write_listing([str(images)], f"{images.parent}/.listing/0.parquet", rules, SplitFractions())
    check_choice(rules, listing, [listing.path], [str(images)])


# What was asked for


@pytest.mark.parametrize(
    ("rules", "place"),
    [
        (LabelRules("sidecar"), "the text file beside each image"),
        (LabelRules("filename", pattern="{label}_{id}"), "the file names"),
        (LabelRules("table", tables=("/nowhere/a.csv", "/nowhere/b.csv")), "/nowhere/a.csv and /nowhere/b.csv"),
    ],
)
def test_a_label_source_that_was_named_is_not_questioned(images, rules, place):
    put(images, "a.png", "b.png", "b.txt")
    assert choose_labels(rules, [str(images)]) == (rules, f"labels come from {place}, as --label_source says")


def test_the_label_sources_are_those_that_the_help_text_names():
    assert LABEL_SOURCES == ("auto", "filename", "sidecar")


# Text files and names


def test_auto_takes_the_text_files_if_every_image_has_one(images):
    put(images, "a.png", "a.gt.txt", "sub/b.png", "sub/b.txt", "c.bin.png", "c.GT.TXT", "README.txt")
    rules, why = choose(images)
    assert rules == LabelRules("sidecar")
    assert why == "labels come from the text file beside each image: all of the first 3 have one"


def test_auto_takes_the_file_names_if_no_image_has_a_text_file(images):
    put(images, "a.png", "b.png", "README.txt")
    rules, why = choose(images, split_by="folder", max_label_length=7)
    assert rules == LabelRules("filename", split_by="folder", max_label_length=7)
    assert why == (
        "labels come from the file names: none of the first 2 images has a text file beside it, and no table names them"
    )


@pytest.mark.parametrize(
    ("box", "said"),
    [
        (b"0 0.5 0.25 0.1 0.05", "the text files beside the images hold numbers of boxes, such as '"),
        (b"12 1 .5 0.123456 1\n", "the text files beside the images hold numbers of boxes, such as '"),
        (b"377,117,463,117,465,130,378,130,Genaxis", "a.txt is a file of boxes: if the images are pages"),
        (b"377,117,463,130\n1,2,3,4,###\n", "say --pages; if all that stands in such a file is the label"),
        (b"a.png\t195\t251\t115\t47\tAYO9034\n", "a.txt is a file of boxes: if the images are pages"),
        (b'38 43 920 215 "Tiredness"\r\n', "a.txt is a file of boxes: if the images are pages"),
    ],
)
def test_text_files_with_the_places_of_boxes_are_refused(images, box, said):
    put(images, "a.png", "b.png")
    put(images, "a.txt", "b.txt", content=box)
    assert said in refusal(images)
    assert choose_labels(LabelRules("sidecar"), [str(images)])[0] == LabelRules("sidecar")
    put(images, "b.txt", content=b"12 34.5 6")
    assert chosen(images) == ("sidecar", ())


@pytest.mark.parametrize("name", ["labels.xls", "labels.ods"])
@pytest.mark.parametrize("header", [[], [["path", "text"]]])
def test_an_old_or_open_spreadsheet_beside_the_images_is_found(images, name, header):
    put(images, "a.png", "b.png")
    writer = write_old_spreadsheet if name.endswith(".xls") else write_open_document
    table = writer(str(images / name), Lines=[*header, ["a.png", "one"], ["b.png", 12345.0]])
    assert chosen(images) == ("table", (table,))


@pytest.mark.parametrize("content", [b"", b"\xff", b"two\nlines", b"x" * 501])
def test_a_text_file_that_holds_no_label_counts_as_one_for_the_choice(images, content):
    put(images, "a.png", "b.png", "b.txt")
    put(images, "a.txt", content=content)
    assert chosen(images) == ("sidecar", ())


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("nowhere")], ids=["pipe", "broken link"])
def test_a_text_file_that_cannot_be_read_counts_as_one_for_the_choice(images, make):
    put(images, "a.png", "b.png", "b.txt")
    make(images / "a.txt")
    assert chosen(images) == ("sidecar", ())


def test_auto_refuses_to_guess_if_only_some_images_have_a_text_file(images):
    put(images, "a.png", "a.gt.txt", "b.png", "c.png")
    assert refusal(images) == (
        "1 of the first 3 images have a text file beside them and the other 2 have none: say where the labels are "
        "with --label_source=sidecar (images without one are rejected) or --label_source=filename"
    )


def test_auto_refuses_to_guess_if_only_one_of_several_folders_has_text_files(tmp_path):
    put(tmp_path, "1/a.png", "1/a.txt", "2/b.png")
    assert refusal(tmp_path / "1", tmp_path / "2").startswith("1 of the first 2 images have a text file beside them")


def test_auto_finds_the_text_files_beside_images_that_a_glob_names(images):
    put(images, "a.png", "a.gt.txt", "b.png", "b.gt.txt")
    assert chosen(*find_roots(f"{images}/*.png", flag="--images")) == ("sidecar", ())


def test_without_images_there_is_nothing_to_say(images):
    put(images, "README.txt")
    put_table(images / "labels.csv", "a.png")
    assert choose(images) == (LabelRules("filename"), "")


def test_a_root_that_cannot_be_listed_ends_the_choice(images, monkeypatch):
    def deny(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", deny)
    assert refusal(images).startswith(f"cannot list the folder '{images}' (Permission denied)")


@pytest.mark.parametrize("source", ["filename", "sidecar", "table"])
def test_a_folder_that_cannot_be_listed_does_not_count_for_or_against_any_place(images, monkeypatch, source):
    put(images, "a.png", "b.png")
    (images / "closed").mkdir()
    if source == "sidecar":
        put(images, "a.txt", "b.txt")
    if source == "table":
        put_table(images / "labels.csv", "a.png", "b.png")
    scandir = os.scandir

    def deny(path):
        if str(path) == f"{images}/closed":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
    assert chosen(images)[0] == source


# Sidecars that come late


def test_only_the_first_500_images_are_looked_at_and_the_rest_when_all_are_listed(images):
    put(images, *(f"{number:03d}.png" for number in range(502)), "500.txt", "501.gt.txt")
    rules, why = choose(images)
    assert rules.source == "filename"
    assert "none of the first 500 images" in why
    with pytest.raises(DataError) as error:
        check_all(images, rules)
    assert str(error.value) == (
        "2 of 502 images have a text file beside them and the other 500 have none: say where the labels are "
        "with --label_source=sidecar (images without one are rejected) or --label_source=filename"
    )


def test_one_image_without_a_text_file_among_the_first_500_is_enough_to_ask(images):
    put(images, *(f"{number:03d}.png" for number in range(500)), *(f"{number:03d}.txt" for number in range(499)))
    assert refusal(images).startswith("499 of the first 500 images have a text file beside them and the other 1 have")


@pytest.mark.parametrize("source", ["filename", "sidecar"])
def test_a_choice_that_is_right_for_all_images_passes(images, source):
    put(images, "a.png", "b.png", "README.txt")
    if source == "sidecar":
        put(images, "a.txt", "b.txt")
    rules, _ = choose(images)
    assert rules.source == source
    check_all(images, rules)


# Tables


@pytest.mark.parametrize("name", ["labels.csv", "truth.tsv", "metadata.jsonl", "LABELS.CSV"])
def test_auto_takes_a_table_in_the_folder_whose_rows_name_its_images(images, name):
    put(images, "a.png", "sub/b.png")
    if name.endswith("jsonl"):
        (images / name).write_text('{"file_name": "sub/b.png", "text": "x"}\n')
    else:
        delimiter = "\t" if name.endswith("tsv") else ","
        (images / name).write_text(f"path{delimiter}text\nsub/b.png{delimiter}x\n")
    rules, why = choose(images)
    assert rules == LabelRules("table", tables=(f"{images}/{name}",))
    assert why == f"labels come from {images}/{name}: its rows name images that are there"


@pytest.mark.parametrize("path", ["lines/a.png", "./lines/a.png", "lines/sub/b.png", "elsewhere/../lines/a.png"])
def test_auto_takes_a_table_in_the_folder_above(tmp_path, images, path):
    put(images, "a.png", "sub/b.png")
    put(tmp_path, "elsewhere/c.png")
    table = put_table(tmp_path / "labels.csv", path)
    assert chosen(images) == ("table", (table,))


def test_auto_takes_a_table_with_absolute_paths(tmp_path, images):
    put(images, "a.png")
    table = put_table(tmp_path / "labels.csv", f"{images}/a.png")
    assert chosen(images) == ("table", (table,))


def test_auto_takes_a_table_without_a_header(images):
    put(images, "a.png", "b.png")
    (images / "labels.csv").write_text("a.png,x\nb.png,y\n")
    assert chosen(images) == ("table", (f"{images}/labels.csv",))


@pytest.mark.parametrize("place", ["lines", "."])
@pytest.mark.parametrize("row", ["lines/{}.png\t", "data/lines/{}.png\t", "{}.png\t"])
def test_auto_takes_a_text_file_whose_lines_are_names_and_texts_with_a_tab_between(images, place, row):
    put(images, "a.png", "b.png")
    content = "".join(row.format(code) + 'some, words "\n' for code in "ab").encode()
    put(images.parent, f"{place}/rec_gt_train.txt", content=content)
    if place == "lines" and row.startswith("data"):
        put(images.parent, f"{place}/rec_gt_train.txt", content=content.replace(b"data/lines", b"data/set/lines"))
    assert chosen(images) == ("table", (os.path.normpath(f"{images.parent}/{place}/rec_gt_train.txt"),))


@pytest.mark.parametrize("content", [b"a\tb\n", b"x.png\ty\n", b"no tab", b"\xff\t\n", b"path\ttext\nno.png\tx\n"])
def test_text_files_of_something_else_are_no_tables(images, content):
    put(images, "a.png", "b.png")
    put(images, "notes.txt", content=content)
    assert chosen(images) == ("filename", ())


def test_text_files_with_a_tab_that_belong_to_images_are_no_tables(images):
    put(images, "a.png", "b.png", "c.bin.png")
    put(images, "a.txt", "b.gt.txt", "c.txt", content=b"a.png\tb")
    assert chosen(images) == ("sidecar", ())


def test_auto_takes_the_tables_of_folders_below_if_there_is_no_other(images):
    put(images, "train/images/a.png", "deep/er/b.png", ".hidden/c.png")
    first = put_text(images / "train" / "labels.json", '{"a.png": "x"}')
    second = put_table(images / "deep" / "er" / "metadata.csv", "b.png")
    put_table(images / ".hidden" / "labels.csv", "c.png")
    put_table(images / "deep" / "other.csv", "gone.png")
    rules, why = choose(images)
    assert (rules.source, set(rules.tables)) == ("table", {first, second})
    assert first in why
    above = put_table(images.parent / "labels.csv", "lines/deep/er/b.png")
    assert chosen(images) == ("table", (above,))
    os.remove(above)
    put(images, "train/images/a.txt", "deep/er/b.txt")
    assert chosen(images) == ("sidecar", ())


def test_auto_takes_a_list_in_a_folder_beside_the_images_below_the_root(images):
    put(images, "images/a.png", "images/b.png")
    put(images, "annotations/gt.txt", content=b"a.png, x\nb.png, y\n")
    assert chosen(images) == ("table", (f"{images}/annotations/gt.txt",))
    put(images, "annotations/more.txt", content=b"a.png, x\nb.png, z\n")
    assert "images/b.png is 'y' in " in refusal(images)


def test_tables_in_folders_far_below_make_auto_ask_if_it_would_take_the_file_names(images):
    put(images, "a/b/book/a.png")
    put_table(images / "a" / "b" / "book" / "labels.csv", "a.png")
    rules, _ = choose(images)
    assert rules.source == "filename"
    with pytest.raises(DataError, match=r"^1 \.csv, \.tsv, \.jsonl files lie in folders below"):
        check_all(images, rules)


def test_the_columns_that_were_named_are_looked_for(images):
    put(images, "a.png")
    table = put_table(images / "labels.csv", "a.png", header="scan,line")
    assert "has no path column" in refusal(images)
    assert chosen(images, columns=TableColumns("scan", "line")) == ("table", (table,))
    with pytest.raises(DataError, match=r"^--path_column=scan --text_column=line --split_by=page: .*no such column"):
        chosen(images, columns=TableColumns("scan", "line", "page"))


def test_auto_takes_the_table_of_images_that_a_glob_names(images):
    put(images, "a.png", "b.png")
    table = put_table(images / "labels.csv", "a.png", "b.png")
    assert chosen(*find_roots(f"{images}/*.png", flag="--images")) == ("table", (table,))


def test_auto_takes_a_table_of_a_folder_that_is_reached_through_a_link(tmp_path, images):
    put(images, "a.png")
    (tmp_path / "link").symlink_to(images)
    put_table(images / "labels.csv", "a.png")
    assert chosen(tmp_path / "link") == ("table", (f"{tmp_path}/link/labels.csv",))


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
@pytest.mark.parametrize("place", ["lines", "."])
def test_auto_takes_a_table_whose_names_have_another_unicode_form(tmp_path, images, place, forms):
    written, stored = (unicodedata.normalize(form, "café.png") for form in forms)
    put(images, stored)
    table = put_table(tmp_path / place / "labels.csv", written if place == "lines" else f"lines/{written}")
    assert chosen(images) == ("table", (table,))


@pytest.mark.parametrize(
    "path", ["a.png", "lines\\a.png", "C:\\data\\lines\\a.png", "lines/A.PNG", "/data/lines/a.png"]
)
def test_auto_takes_a_table_above_whose_paths_were_written_for_another_place(tmp_path, images, path):
    put(images, "a.png", "b.png")
    table = put_table(tmp_path / "labels.csv", path)
    assert chosen(images) == ("table", (table,))


def test_several_folders_may_have_a_table_each(tmp_path):
    put(tmp_path, "1/a.png", "2/b.png")
    tables = tuple(put_table(tmp_path / name / "labels.csv", image) for name, image in (("1", "a.png"), ("2", "b.png")))
    rules, why = choose(tmp_path / "1", tmp_path / "2")
    assert rules == LabelRules("table", tables=tables)
    assert why.startswith(f"labels come from {tables[0]} and {tables[1]}: ")


def test_several_folders_may_share_the_table_above_them(tmp_path):
    put(tmp_path, "1/a.png", "2/b.png")
    table = put_table(tmp_path / "labels.csv", "1/a.png", "2/b.png")
    assert chosen(tmp_path / "1", tmp_path / "2") == ("table", (table,))


def test_auto_refuses_two_tables_for_one_folder_that_differ_and_names_an_image(tmp_path, images):
    put(images, "a.png", "b.png")
    above = put_table(tmp_path / "labels.csv", "lines/a.png", "lines/b.png")
    inside = put_text(images / "more.csv", "path,text\na.png,some words\nb.png,other words\n")
    assert refusal(images) == (
        f"{inside} and {above} could both hold the labels, and are not alike ({images}/b.png is 'some words' in "
        f"{above} and 'other words' in {inside}): say which with --label_source={inside}, or name both, separated by "
        "a comma"
    )


def test_auto_refuses_two_tables_neither_of_which_names_all_images(tmp_path, images):
    put(images, "a.png", "b.png")
    above = put_table(tmp_path / "labels.csv", "lines/a.png")
    inside = put_table(images / "more.csv", "b.png")
    assert f"{images}/b.png is in {inside} and not in {above}" in refusal(images)


def test_auto_takes_the_first_by_name_of_tables_that_say_the_same_of_every_image(tmp_path, images):
    put(images, "a.png", "b.PNG")
    first = put_text(images / "b.csv", "path;text\na.png;caf\u00e9  1\nb.PNG;2\ngone.png;3\nb.PNG;2\n")
    second = put_text(tmp_path / "c.csv", "path,text\nC:\\x\\lines\\a.png,cafe\u0301 1\nC:\\x\\lines\\b.png, 2\n")
    third = put_text(
        images / "d.tsv", "path\ttext\n/elsewhere/lines/a.png\tcaf\u00e9 1\n/elsewhere/lines/b.png\t2\n\t5\n"
    )
    rules, why = choose(images)
    assert (rules.source, rules.tables) == ("table", (first,))
    assert why.endswith(f"; {second} and {third} say the same of every image")


def test_auto_takes_the_one_of_equal_tables_that_names_more_images(images):
    put(images, "a.png", "b.png", "c.png")
    put_table(images / "a.csv", "a.png", "b.png", "gone.png")
    table = put_table(images / "b.csv", "a.png", "b.png", "c.png")
    assert chosen(images) == ("table", (table,))


def test_auto_takes_the_tables_of_splits_before_an_equal_one_of_all_images(images):
    put(images, "a.png", "b.png")
    put_table(images / "all.csv", "a.png", "b.png")
    tables = (put_table(images / "test.csv", "b.png"), put_table(images / "train.csv", "a.png"))
    assert chosen(images) == ("table", tables)
    split = put_text(images / "labels.csv", "path,text,split\na.png,some words,train\nb.png,some words,test\n")
    assert chosen(images) == ("table", (split,))


def test_auto_takes_a_table_for_each_split_though_they_say_nothing_of_the_same_images(images):
    put(images, "a.png", "b.png")
    tables = (put_table(images / "gt_test.csv", "b.png"), put_table(images / "gt_train.csv", "a.png"))
    assert chosen(images) == ("table", tables)


def test_auto_refuses_text_files_and_a_table(images):
    put(images, "a.png", "b.png", "b.txt")
    table = put_table(images / "labels.csv", "a.png")
    assert refusal(images) == (
        f"1 of the first 2 images have a text file beside them, and {table} names images too: say where the labels "
        f"are with --label_source=sidecar or --label_source={table}"
    )


@pytest.mark.parametrize(
    "content",
    [
        b"path,text\nmissing.png,x\n",
        b"path,text\n../elsewhere/c.png,x\n",
        b"path,size\na.png,12\n",
        b"name,date\nAnna,2026\n",
        b"path,text\n",
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xfep\0a\0t\0h\0",
        b"path,text\nsub,x\n../lines,y\nlines,z\n",
        b"path,text\nnotes.md,x\nlines/notes.md,y\nother.csv,z\n",
    ],
    ids=[
        *("missing images", "images elsewhere", "no text", "of something else", "no rows", "empty", "no table"),
        *("UTF-16", "folders", "companions"),
    ],
)
def test_tables_of_something_else_are_passed_over_above_the_images_and_asked_about_among_them(
    tmp_path, images, content
):
    put(images, "a.png", "sub/b.png", "notes.md")
    put(tmp_path, "elsewhere/c.png")
    (tmp_path / "other.csv").write_bytes(content)
    assert chosen(images) == ("filename", ())
    (images / "other.csv").write_bytes(content)
    sentence = refusal(images)
    assert sentence.startswith("a table lies among the images, but cannot be used: ")
    assert f"name it with --label_source={images}/other.csv" in sentence
    put(images, "a.txt", "sub/b.txt")
    assert chosen(images) == ("sidecar", ())


def test_auto_ignores_hidden_tables_and_folders_with_a_tables_name(tmp_path, images):
    put(images, "a.png")
    put_table(images / ".labels.csv", "a.png")
    put_table(images / "._labels.csv", "a.png")
    (images / "folder.csv").mkdir()
    (images / "broken.csv").symlink_to(images / "nowhere.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    assert chosen(images) == ("filename", ())


def test_a_table_of_another_folder_above_does_not_count(tmp_path, images):
    put(images, "a.png")
    put(tmp_path, "unlabelled/a.png", "lines-2/a.png")
    put_table(tmp_path / "truth.csv", "unlabelled/a.png", "lines-2/a.png")
    assert chosen(images) == ("filename", ())


def test_some_of_the_first_rows_may_name_images_that_are_not_there(images):
    put(images, "z.png")
    table = put_table(images / "labels.csv", *(f"{number}.png" for number in range(19)), "z.png")
    assert chosen(images) == ("table", (table,))


def test_damaged_rows_do_not_hide_a_table(images):
    put(images, "a.png")
    (images / "labels.csv").write_text("path,text,page\na.png,x,y,1\na.png,x,1\n")
    assert chosen(images) == ("table", (f"{images}/labels.csv",))


def test_a_table_whose_rows_are_all_damaged_is_refused_with_the_reason(images):
    put(images, "a.png", "b.png")
    (images / "labels.csv").write_text("filename,words,page\na.png,Smith, John,1\nb.png,1,50,2\n")
    table = f"{images}/labels.csv"
    assert (
        f"{table} names no image in {images} in a row that can be read; 2 of 2 rows cannot, such as row 2 of {table}: "
        "it has 4 cells instead of 3: perhaps a text has a comma and is not quoted; name it"
    ) in refusal(images)


@pytest.mark.parametrize(
    "bad_row", [b"b.png,caf\xe9\n", b'b.png,"open\n' * 2 + b"c.png,x"], ids=["Latin-1", "open quotation mark"]
)
def test_a_table_that_names_images_and_cannot_be_read_to_its_end_is_not_passed_over(images, bad_row):
    put(images, "a.png", "b.png")
    (images / "labels.csv").write_bytes(b"path,text\na.png,x\n" + bad_row)
    assert chosen(images) == ("table", (f"{images}/labels.csv",))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"path,text\ngone.png,x\na.png,caf\xe9\n", "line 3 of {table} is not UTF-8 (byte 0xE9): "),
        (b'path,text\n"a.png,x\n', "row 2 of {table} has a quotation mark that is not closed"),
    ],
)
def test_a_table_with_the_columns_of_labels_that_cannot_be_read_ends_the_choice_in_the_folder_and_not_above(
    tmp_path, images, content, what
):
    put(images, "a.png")
    put(tmp_path, "labels.csv", content=content)
    assert chosen(images) == ("filename", ())
    put(images, "labels.csv", content=content)
    sentence = refusal(images)
    assert what.format(table=f"{images}/labels.csv") in sentence
    assert sentence.endswith("or say that labels are the file names with --label_source=filename")


def test_a_folder_above_that_cannot_be_listed_does_not_end_the_choice(images, monkeypatch):
    put(images, "a.png")
    listdir = os.listdir

    def deny(path):
        if str(path) == str(images.parent):
            raise PermissionError(13, "Permission denied", path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", deny)
    assert chosen(images) == ("filename", ())


# Files that are no tables, and names that are no labels


def test_auto_refuses_file_names_if_another_file_mentions_the_images(images):
    codes = [f"{chr(97 + number)}bc" for number in range(20)]
    put(images, *(f"{code}.png" for code in codes))
    rules, _ = choose(images)
    check_all(images, rules)
    put(images.parent, "gt.list", content="".join(f"{code}.png some words\n" for code in codes).encode())
    with pytest.raises(DataError) as error:
        check_all(images, rules)
    assert str(error.value) == (
        f"{images.parent}/gt.list mentions 20 of 20 images that were looked for in it: if the labels are in there, put "
        "them in a .gt.txt file beside each image, or in a .csv, .tsv or .jsonl table with the columns path and text, "
        "and name the table with --label_source; if labels are the file names, say --label_source=filename"
    )


def test_auto_refuses_file_names_if_files_in_another_folder_are_named_like_the_images(tmp_path, images):
    codes = [f"{chr(97 + number)}bc" for number in range(20)]
    put(images, *(f"{code}.png" for code in codes))
    put(tmp_path / "annotations", *(f"{code}.xml" for code in codes), content=b"<text>some words</text>")
    with pytest.raises(DataError, match=r"^20 files in .*/annotations are named like images, such as .*/abc\.xml: if "):
        check_all(images, LabelRules("filename"))


def test_auto_refuses_file_names_that_do_not_look_like_labels(images):
    put(images, *(f"{folder}/scan_{number:02d}.png" for folder in "012" for number in range(10)))
    with pytest.raises(DataError) as error:
        check_all(images, LabelRules("filename"))
    assert str(error.value) == (
        "the file names, such as 'scan_00.png', 'scan_00.png', 'scan_00.png', do not look like labels: they are a few "
        "fixed words with a number. If they are the labels, say --label_source=filename; if the names of the folders "
        "are, such as '0', say --label_pattern={label}/{name}; if the labels are elsewhere, put them in a .gt.txt file "
        "beside each image, or in a .csv, .tsv or .jsonl table with the columns path and text, and name the table with "
        "--label_source"
    )
    check_all(images, LabelRules("filename", pattern="{label}_{id}"))


# Object stores


def test_auto_looks_for_text_files_in_object_stores(bucket):
    put_remote(bucket, "lines/a.png", "lines/a.txt", "other/b.png")
    assert chosen(f"{bucket}/lines") == ("sidecar", ())
    assert chosen(f"{bucket}/other") == ("filename", ())
    assert refusal(f"{bucket}/lines", f"{bucket}/other").startswith("1 of the first 2 images")


@pytest.mark.parametrize(("place", "path"), [("lines/", "sub/a.png"), ("", "lines/sub/a.png"), ("", "./lines/b.png")])
def test_auto_looks_for_tables_in_object_stores(bucket, place, path):
    put_remote(bucket, "lines/sub/a.png", "lines/b.png")
    put_remote(bucket, f"{place}labels.csv", content=f"path,text\n{path},x\n".encode())
    assert chosen(f"{bucket}/lines") == ("table", (f"{bucket}/{place}labels.csv",))


def test_auto_asks_about_tables_in_object_stores_whose_images_are_not_there(bucket):
    put_remote(bucket, "lines/a.png", "other/b.png")
    put_remote(bucket, "lines/labels.csv", content=b"path,text\nmissing.png,x\n../other/b.png,x\n")
    with pytest.raises(DataError, match="names no image in its folder"):
        chosen(f"{bucket}/lines")


def test_a_pattern_of_names_says_that_labels_are_in_the_names(images):
    put(images, "a_1.png", "a_1.txt")
    rules, why = choose(images, pattern="{label}_{id}")
    assert (rules.source, why) == ("filename", "labels come from the file names, as --label_pattern says")
    check_all(images, rules)


def test_a_table_that_is_a_link_out_of_its_folder_is_named_by_a_person_or_not_used(tmp_path, images):
    put(images, "a.png")
    (tmp_path / "shadow").write_text("root:$6$secret:19000\n")
    (images / "labels.csv").symlink_to(tmp_path / "shadow")
    message = refusal(images)
    assert f"{images}/labels.csv is a link that leads out of its folder" in message
    assert f"--label_source={images}/labels.csv" in message
    assert "secret" not in message


@pytest.mark.parametrize("place", [".", "lines"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.json", '{"a.png": "some words", "b.png": "x"}'),
        ("truth.JSON", '[{"image": "lines/a.png", "text": "x"}, {"image": "lines/b.png", "text": "y"}]'),
        ("gt.txt", 'a.png, "some, words"\nb.png, "x"\n'),
        ("list.txt", "lines/a.png some words\nlines/b.png x\n"),
        ("all.txt", "filename,words\na.png,some, words\nb.png,x\n"),
    ],
)
def test_auto_takes_lists_and_documents_that_name_the_images(tmp_path, images, name, content, place):
    put(images, "a.png", "b.png")
    put(tmp_path, "lines/a.json", "lines/a.xml", content=b'{"shapes": []}')
    put(tmp_path, f"{place}/config.json", content=b'{"name": "x", "version": "1"}')
    table = os.path.normpath(tmp_path / place / name)
    put_text(pathlib.Path(table), content)
    assert chosen(images) == ("table", (table,))


def test_auto_does_not_read_a_large_document_of_which_it_knows_nothing(images, monkeypatch):
    put(images, "a.png", "b.png")
    table = put_text(images / "labels.json", '{"a.png": "x", "b.png": "y"}')
    monkeypatch.setattr(choice, "_MOST_BYTES_READ_WHOLE", os.path.getsize(table) - 1)
    assert chosen(images) == ("filename", ())
    monkeypatch.setattr(choice, "_MOST_BYTES_READ_WHOLE", os.path.getsize(table))
    assert chosen(images) == ("table", (table,))


def test_auto_refuses_a_table_and_a_document_that_differ_and_takes_one_of_two_equal_ones(images):
    put(images, "a.png", "b.png")
    first = put_text(images / "a.json", '{"a.png": "x", "b.png": "y"}')
    put(images, "a.json")
    first = put_text(images / "gt.json", '{"a.png": "x", "b.png": "y"}')
    second = put_text(images / "labels.txt", "a.png x\nb.png z\n")
    assert f"({images}/b.png is 'y' in {first} and 'z' in {second})" in refusal(images)
    put_text(images / "labels.txt", "a.png x\nb.png y\n")
    assert chosen(images) == ("table", (first,))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("gt.txt", "{}.png 10 20 100 50 abc\n", "has the places of boxes in images"),
        ("annotation_train.txt", "{}.png\tfirst\n", None),
    ],
)
def test_auto_says_why_a_file_that_mentions_the_images_cannot_be_read(tmp_path, images, name, content, reason):
    codes = [f"{chr(97 + number)}bc" for number in range(20)]
    put(images, *(f"{code}.png" for code in codes))
    folder = images if reason else tmp_path / "annotations"
    put(folder, name, content="".join(map(content.format, codes)).encode())
    rules, _ = choose(images)
    with pytest.raises(DataError) as error:
        check_all(images, rules)
    assert (reason or f"if the labels are in there, name it with --label_source={folder}/{name}; ") in str(error.value)


def test_auto_takes_a_table_that_names_images_at_any_depth_without_their_suffixes(tmp_path, images):
    put(images, "a01/a01-000u/a01-000u-00-00.png", "a01/a01-000u/a01-000u-00-01.png")
    rows = "a01-000u-00-00 ok 154 408 768 27 51 AT A\na01-000u-00-01 err 154 507 766 213 48 NN MOVE\n"
    table = put_text(tmp_path / "words.txt", f"#--- words.txt\n{rows}")
    put(tmp_path, "words/other.png")
    put_text(tmp_path / "forms.txt", "#--- forms.txt\na01-000u 000 2 prt 7 5 52 36\n")
    assert chosen(images) == ("table", (table,))
    same = put_text(tmp_path / "a.csv", "image_id,identity\na01-000u-00-00,A\n")
    assert chosen(images) == ("table", (table,))
    put_text(tmp_path / "a.csv", "image_id,identity\na01-000u-00-00,B\n")
    assert f"a01-000u-00-00.png is 'B' in {same} and 'A' in {table}" in refusal(images)
