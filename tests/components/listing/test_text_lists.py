"""Lists of images and texts as PaddleOCR, EasyOCR, ICDAR, MJSynth and IAM write them."""

import itertools
import tracemalloc

import pytest

from components.listing.tables import TableColumns, describe_label_table, read_label_table
from tests.components.listing.label_rows import pairs, refusal, rows
from tfrecords import DataError


@pytest.fixture
def write(tmp_path):
    """Writes a list and returns its path."""

    def write_list(*lines: str, name: str = "gt.txt", encoding: str = "utf-8", end: str = "\n") -> str:
        path = tmp_path / name
        path.write_bytes("".join(line + end for line in lines).encode(encoding))
        return str(path)

    return write_list


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("{}\t{}", "rec_gt.txt"),
        ("{} {}", "labels.txt"),
        ("{},{}", "gt.txt"),
        ("{}, {}", "gt.txt"),
        ('{}, "{}"', "gt.txt"),
        ('{},"{}"', "labels.csv"),
        ('"{}","{}"', "labels.csv"),
        ("{};{}", "labels.csv"),
        ("{}\t{}", "labels.tsv"),
        ("{}\t{}", "labels.csv"),
    ],
)
def test_a_list_gives_the_path_and_the_text_of_each_line(write, form, name, encoding, end):
    written = [("word_1.png", "Größe 5"), ("sub/word_2.JPG", "x"), ("/abs/3.tif", "y z")]
    table = write(*(form.format(*pair) for pair in written), name=name, encoding=encoding, end=end)
    assert pairs(table) == written
    assert [row.place for row in rows(table)] == [f"row {number} of {table}" for number in (1, 2, 3)]


@pytest.mark.parametrize("name", ["gt.txt", "labels.csv"])
@pytest.mark.parametrize("header", [(), ("filename,words",)])
def test_all_that_follows_the_first_comma_is_the_text(write, name, header):
    table = write(*header, "0.jpg,1,299.00 EUR", "1.jpg,Smith, John", "2.jpg,plain", "3.jpg,ends,", name=name)
    assert pairs(table) == [
        ("0.jpg", "1,299.00 EUR"),
        ("1.jpg", "Smith, John"),
        ("2.jpg", "plain"),
        ("3.jpg", "ends,"),
    ]


def test_a_comma_in_the_name_of_an_image_belongs_to_it(write):
    assert pairs(write("Smith, J.png,x,y", "b.png,z")) == [("Smith, J.png", "x,y"), ("b.png", "z")]
    assert pairs(write('"a, ""b"".png","x"', "b.png,z")) == [('a, "b".png', "x"), ("b.png", "z")]


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ('"a, b"', "a, b"),
        ('"say ""a"""', 'say "a"'),
        (r'"say \"a\""', 'say "a"'),
        (r'"\"a\\b\""', r'"a\b"'),
        ('5" pipe', '5" pipe'),
        ('""', ""),
        ("", ""),
    ],
)
def test_quotation_marks_around_a_text_after_a_comma_are_no_part_of_it(write, written, text):
    assert pairs(write(f"a.png, {written}", 'b.png, "x"')) == [("a.png", text), ("b.png", "x")]


def test_quotation_marks_after_a_space_are_no_part_of_the_text_if_every_text_has_them(write):
    assert pairs(write('a.png "x y"', 'b.png "z"')) == [("a.png", "x y"), ("b.png", "z")]
    assert pairs(write('a.png "x"', "b.png y")) == [("a.png", '"x"'), ("b.png", "y")]


def test_a_list_with_spaces_may_have_a_header(write):
    table = write("image text", "a.png one two", "0002 three")
    assert pairs(table) == [("a.png", "one two"), ("0002", "three")]
    assert rows(table)[0].place == f"row 2 of {table}"


@pytest.mark.parametrize("line", ['{}.png "x"', "{}.png\tx y", '{}.png,"x ""y"" z"', "w-{} ok 1 2 3 4 5 NN x"])
def test_any_bytes_give_rows_or_a_clear_error(tmp_path, line):
    """Every damage of one place of the first lines ends in rows or a `DataError`."""
    content = "".join(line.format(number) + "\r\n" for number in range(4)).encode()
    table = tmp_path / "gt.txt"
    for place, byte in itertools.product(
        range(len(content) // 2), [b"", b'"', b"\r", b"\n", b"\0", b"\t", b",", b"\xff"]
    ):
        table.write_bytes(content[:place] + byte + content[place + 1 :])
        try:
            assert all((row.path is None) == (row.problem is not None) for row in rows(str(table)))
        except DataError:
            continue


def test_memory_does_not_grow_with_a_list(tmp_path):
    table = tmp_path / "gt.txt"
    with open(table, "w") as file:
        file.writelines(f"{number}.png {'x' * 1000}\n" for number in range(10_000))
        file.write("z.png " + "x" * 30_000_000 + "\n")
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_label_table(str(table), TableColumns())) == 10_001
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


def test_the_name_of_an_image_may_have_spaces_before_a_space(write):
    assert pairs(write("my scan 01.png one two", "b.png three")) == [("my scan 01.png", "one two"), ("b.png", "three")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("no path here", "it has no text after the path"),
        ('c.png,"open', "a quotation mark is not closed"),
        ('c.png,"a" b', "a quotation mark is not closed, or not doubled"),
        (",x", "no path"),
        ("c.png,x\0", "it has a NUL byte"),
        ("c.png,x\ry", "a carriage return stands inside the line"),
        ("c.png," + "x" * 1_000_000, "the line has more than 1,000,000 bytes"),
    ],
    ids=lambda value: value[:20],
)
def test_a_line_that_cannot_be_used_is_a_damaged_row(write, line, reason):
    good = [f"{number}.png,a, b" for number in range(20)]
    read = rows(write(*good, line, "z.png,x"))
    assert [row.problem for row in read if row.problem] == [read[20].problem]
    assert (read[20].problem or "").startswith(reason)
    assert (read[20].path, read[21].path) == (None, "z.png")


def test_a_text_file_that_only_mentions_images_is_no_list(write):
    assert "has no path column" in refusal(write("see a.png for an example", "and then", "rest"))
    assert "has no path column" in refusal(write("a.png b.png", "c.png d.png"))
    assert "has no path column" in refusal(write("a.png", "b.png"))


# Three and more columns


def test_of_columns_without_names_the_only_one_that_can_be_the_text_is_taken(write):
    table = write("a.png,4,ABC 1,train", "b.png,3,XYZ,test", "c.png,8,QRS,train", name="labels.csv")
    assert pairs(table) == [("a.png", "ABC 1"), ("b.png", "XYZ"), ("c.png", "QRS")]
    for separator, name in (("\t", "labels.tsv"), (",", "labels.csv"), (";", "gt.txt")):
        lines = ["0;x;a.png;de", "1;y;b.png;de", "2;z;c.png;de"]
        table = write(*(line.replace(";", separator) for line in lines), name=name)
        assert pairs(table) == [("a.png", "x"), ("b.png", "y"), ("c.png", "z")]
    assert pairs(write("0,a.png,x", "1,b.png,y", name="labels.csv")) == [("a.png", "x"), ("b.png", "y")]


def test_a_column_without_a_name_can_be_the_group(write):
    table = write("a.png;ABC 1;train;7", "b.png;XYZ;test;8", "c.png;QRS;train;7", name="labels.csv")
    assert [row.group for row in rows(table, group="split")] == ["train", "test", "train"]
    assert [row.group for row in rows(table, group="4")] == ["7", "8", "7"]
    for group in ("subset", "5", "page"):
        refusal(table, group=group)
    two = write("a.png,x", "b.png,y", name="two.csv")
    assert "has no path column" in refusal(two, group="split")
    iam = write("a-00 ok 1 2 3 4 5 NN x", "b-00 ok 1 2 3 4 5 NN y", name="words.txt")
    assert "has no path column" in refusal(iam, group="split")


def test_columns_without_names_that_could_both_be_the_text_are_asked_about_by_number(write):
    table = write("a.png,printed,ABC", "b.png,stamped,XYZ", name="labels.csv")
    message = refusal(table)
    assert "has 3 columns without names" in message
    assert "column 2 has 'printed' and column 3 has 'ABC'" in message
    assert "begin the table with a header line such as path,text" in message
    assert pairs(table, text="3") == [("a.png", "ABC"), ("b.png", "XYZ")]
    assert pairs(table, path="1", text="2") == [("a.png", "printed"), ("b.png", "stamped")]
    assert "--path_column=1: " in refusal(table, path="1", text="words")


def test_columns_of_numbers_alone_are_asked_about(write):
    assert "it is not clear which holds the text" in refusal(write("a.png,12,34", "b.png,56,78", name="l.csv"))


def test_a_text_with_commas_in_every_line_is_asked_about(write):
    assert "has at least 3 columns" in refusal(write("a.png,Smith, John", "b.png,1,2,3", name="l.csv"))
    assert pairs(write("filename,words", "a.png,Smith, John", "b.png,1,2,3", name="l.csv"))[1] == ("b.png", "1,2,3")


@pytest.mark.parametrize("form", ["{} {}", "{}\t{}", "{},{}"])
@pytest.mark.parametrize("folder", [".", "images"])
def test_names_without_suffixes_begin_the_lines_of_a_list_if_such_images_lie_near(tmp_path, write, folder, form):
    written = [(f"{number:04d}", f"some {number}, words") for number in range(5)]
    table = write(*(form.format(*pair) for pair in written))
    assert "has no path column" in refusal(table)
    (tmp_path / folder).mkdir(exist_ok=True)
    for name, _ in written:
        (tmp_path / folder / f"{name}.JPG").touch()
    assert pairs(table) == written
    assert "has no path column" in refusal(write("0001 x", "0002 y", "other line", "more", "0003 x"))
    assert "has no path column" in refusal(write("0001", "0002", "0003", "0004"))


@pytest.mark.parametrize(
    ("lines", "name", "form"),
    [
        (["a.png,x", "b.png,y, z"], "l.csv", "has no header: what stands after the path and a comma is the text"),
        (["a.png x", "b.png y z"], "gt.txt", "has no header: what stands after the path and a space is the text"),
        (["a.png\tx", "b.png\ty"], "gt.txt", "has no header: what stands after the path and a tab is the text"),
        (["x,a.png", "y,b.png"], "l.csv", "has no header: column 2 is read as the path, and column 1 as the text"),
        (
            ["1;x;a.png", "2;y;b.png"],
            "l.csv",
            "has no header: column 3 is read as the path, and column 2 as the text",
        ),
        (["a-00 ok 1 2 3 4 5 NN x"], "words.txt", "is read as a list of the IAM database"),
        (["path,text", "a.png,x"], "l.csv", None),
        (["prose"], "gt.txt", None),
        (["{}"], "l.json", None),
    ],
)
def test_how_a_table_without_a_header_is_read_is_told(write, lines, name, form):
    assert describe_label_table(write(*lines, name=name), TableColumns()) == form


# What is no label


@pytest.mark.parametrize("form", ["./3000/7/{0}_slinking_{1}.jpg {1}", "{0}_slinking_{1}.jpg\t{1}"])
def test_a_number_that_the_names_end_with_is_no_label(write, form):
    message = refusal(write(*(form.format(number, 71711 + number) for number in range(5))))
    assert "--label_source=filename --label_pattern={id}_{label}_{index}" in message


def test_a_text_that_only_some_names_end_with_is_a_label(write):
    written = [("room_12.png", "12"), ("hall_7.png", "seven"), ("a_1.png", "x")]
    assert pairs(write(*map(" ".join, written))) == written


@pytest.mark.parametrize(
    "form",
    [
        'p/{0}.jpg\t[{{"transcription": "x", "points": [[0, 0], [9, 9]]}}]',
        "us/{0}.jpg 10 20 100 50 ABC{0}",
        "us/{0}.jpg\t10\t20\t100\t50\tABC{0}",
        "{0}.jpg,3,4,5,6,7,8,9,1,T{0}, x",
    ],
)
def test_places_of_boxes_are_no_labels(write, form):
    assert "has the places of boxes in images" in refusal(write(*map(form.format, range(5))))


# IAM


def test_the_words_of_iam_are_read_and_those_cut_wrongly_are_left_out(write):
    table = write(
        "#--- words.txt ---------------------------------------------------------------#",
        "# format: a01-000u-00-00 ok 154 1 408 768 27 51 AT A",
        "a01-000u-00-00 ok 154 408 768 27 51 AT A",
        "a01-000u-00-01 err 154 507 766 213 48 NN MOVE",
        "a01-000u-00-02  ok  154 796 764  70  50 TO  to",
        "a01-000u-00-03 ok -1 -1 -1 -1 -1 , ,",
        name="words.txt",
    )
    read = rows(table)
    assert [(row.place.split()[1], row.path, row.text, row.problem) for row in read] == [
        ("3", "a01-000u-00-00", "A", None),
        ("4", "a01-000u-00-01", None, None),
        ("5", "a01-000u-00-02", "to", None),
        ("6", "a01-000u-00-03", ",", None),
    ]


def test_in_the_lines_of_iam_a_bar_stands_for_a_space(write):
    table = write(
        "#--- lines.txt",
        "a01-000u-00 ok 154 19 408 746 1661 89 A|MOVE|to|stop|Mr.|Gaitskell|from",
        "a01-000u-01 ok 156 19 395 932 1850 105 nominating|any 3 more",
        name="lines.txt",
    )
    assert pairs(table) == [
        ("a01-000u-00", "A MOVE to stop Mr. Gaitskell from"),
        ("a01-000u-01", "nominating any 3 more"),
    ]
