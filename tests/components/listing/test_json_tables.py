"""JSON documents with labels, in the forms that scripts, docTR, COCO-Text and MMOCR write."""

import contextlib
import itertools
import json
import os
from typing import Any

import pytest

from components.listing import json_tables
from tests.components.listing.label_rows import pairs, refusal, rows
from tfrecords import DataError

PAIRS = [("a.png", "Größe 5"), ("sub/b.JPG", ""), ("c.tif", "x, y")]


@pytest.fixture
def write(tmp_path):
    """Writes a document as labels.json and returns its path."""

    def write_document(document: Any) -> str:
        content = document if isinstance(document, str | bytes) else json.dumps(document)
        path = tmp_path / "labels.json"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write_document


def problems(table: str) -> list[str | None]:
    return [row.problem for row in rows(table)]


@pytest.mark.parametrize(
    "document",
    [
        dict(PAIRS),
        {path: {"text": text, "lang": "de"} for path, text in PAIRS},
        {path: [{"text": text}] for path, text in PAIRS},
        {path: [text] for path, text in PAIRS},
        [{"file": path, "gt": text} for path, text in PAIRS],
        [[path, text] for path, text in PAIRS],
        {"version": 1, "labels": dict(PAIRS)},
        {"labels": [{"image": path, "label": text} for path, text in PAIRS], "meta": {"x": 1}},
        {str(number): {"filename": path, "words": text} for number, (path, text) in enumerate(PAIRS)},
        {
            "metainfo": {"dataset_type": "TextRecogDataset"},
            "data_list": [{"img_path": path, "instances": [{"text": text}]} for path, text in PAIRS],
        },
    ],
    ids=[
        *("texts", "objects", "lists of an object", "lists of a text", "list", "pairs", "inside", "list inside"),
        *("numbered", "MMOCR"),
    ],
)
def test_a_document_gives_the_path_and_the_text_of_each_entry(write, document):
    table = write(document)
    assert pairs(table) == PAIRS
    assert [row.place for row in rows(table)] == [f"entry {number} of {table}" for number in (1, 2, 3)]


def test_a_byte_order_mark_and_lines_of_objects_are_read(write):
    assert pairs(write(json.dumps(dict(PAIRS)).encode("utf-8-sig"))) == PAIRS
    table = write("".join(json.dumps({"path": path, "text": text}) + "\n" for path, text in PAIRS))
    assert pairs(table) == PAIRS
    assert rows(table)[0].place == f"row 1 of {table}"


def test_the_key_is_the_path_though_the_object_has_a_column_of_that_name(write):
    assert pairs(write({"a.png": {"text": "x", "path": "/gone/1", "image": "y"}})) == [("a.png", "x")]
    assert pairs(write({"0001": {"text": "x"}, "0002": {"text": "y"}})) == [("0001", "x"), ("0002", "y")]


def test_columns_can_be_named(write):
    table = write([{"scan": "a.png", "line": "x", "page": 3}])
    assert pairs(table, path="scan", text="line") == [("a.png", "x")]
    assert rows(table, path="scan", text="line", group="page")[0].group == "3"
    assert "no such column" in refusal(write(dict(PAIRS)), text="line")


def test_a_file_that_is_named_twice_has_both_rows(write):
    assert pairs(write('{"a.png": "x", "b.png": "z", "a.png": "y"}')) == [
        ("a.png", "x"),
        ("b.png", "z"),
        ("a.png", "y"),
    ]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (1.5, "'text' is a floating-point number: write it as a string"),
        (None, "'text' is null"),
        (["x", "y"], "'text' is a list"),
        ("\ud83d", "'text' has half a surrogate pair"),
        ("\0", "it has a NUL byte"),
    ],
)
def test_an_entry_that_cannot_be_used_is_a_damaged_row(write, value, reason):
    first, second, third = problems(write({"a.png": "x", "b.png": value, "c.png": 12}))
    assert (first, third) == (None, None)
    assert second is not None
    assert second.startswith(reason)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ("", "is not valid JSON"),
        ('{"a.png": "x"', "is not valid JSON (Expecting ',' delimiter in line 1)"),
        ("[" * 100_000, "is not valid JSON"),
        (b'{"a.png": "\xff"}', "is not UTF-8"),
        ("12", "holds an integer, and no labels"),
        ("[]", "holds a list without entries, and no labels"),
        ("[1, 2]", "no line of"),
        ('{"a.png": {"size": 1}}', "has no text column"),
        ('[{"file": "a.png"}]', "has no text column"),
        ("{}", "has no rows"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_document_that_holds_no_labels_is_refused(write, document, reason):
    assert reason in refusal(write(document))


def test_a_document_that_is_too_large_is_refused(write, monkeypatch):
    table = write(dict(PAIRS))
    monkeypatch.setattr(json_tables, "MAX_DOCUMENT_BYTES", os.path.getsize(table))
    assert pairs(table) == PAIRS
    monkeypatch.setattr(json_tables, "MAX_DOCUMENT_BYTES", os.path.getsize(table) - 1)
    assert "write it as .jsonl, with one object a line" in refusal(table)


@pytest.mark.parametrize(
    "document",
    ['{"a.png": "x", "b.png": {"text": "y"}}', '[{"path": "a.png", "text": "x"}, {"path": "b.png", "text": 1}]'],
)
def test_any_bytes_give_rows_or_a_clear_error(write, document):
    """Every damage of one place ends in rows or a `DataError`."""
    content = document.encode()
    for place, byte in itertools.product(
        range(len(content)), [b"", b'"', b"\n", b"\0", b",", b"{", b"]", b"1", b"\xff"]
    ):
        table = write(content[:place] + byte + content[place + 1 :])
        try:
            assert all((row.path is None) == (row.problem is not None) for row in rows(table))
        except DataError:
            continue


@pytest.mark.parametrize(
    "document",
    [
        {"images": [1, "x"], "annotations": [None]},
        {"images": {"a": []}, "annotations": {"b": {"image_id": {}}}},
        {"images": [{"id": 1}], "annotations": [{"image_id": 1, "text": "x"}]},
        {"images": [{"file_name": 5, "id": 1}], "annotations": [{"image_id": 1, "text": ["x"], "bbox": "no"}]},
        {
            "images": [{"file_name": "a.png", "id": [1]}],
            "annotations": [{"image_id": [1], "text": "x", "bbox": [0] * 4}],
        },
        {"labels": {"labels": {"labels": {"a.png": 1.5}}}},
        '{"a": ' * 900 + "1" + "}" * 900,
        [[1, 2], ["a.png", "x"], "y", None],
        [{"instances": [{"text": "x"}, {}]}, {"instances": {}}],
        [{"path": "a.png", "text": "x", "instances": []}],
    ],
    ids=lambda document: str(document)[:40],
)
def test_strange_documents_give_rows_or_a_clear_error(write, document):
    with contextlib.suppress(DataError):
        assert all((row.path is None) == (row.problem is not None) for row in rows(write(document)))


# Images and annotations


def coco(*texts: str, boxes: list | None = None, **names: Any) -> dict[str, Any]:
    images = [
        {"id": number + 7, "file_name": f"{number}.png", "width": 100, "height": 20} for number in range(len(texts))
    ]
    annotations = [{"id": number, "image_id": number + 7, "caption": text} for number, text in enumerate(texts)]
    for annotation, box in zip(annotations, boxes or [], strict=False):
        annotation["bbox"] = box
    return {"info": {}, "images": images, "annotations": annotations}


def test_annotations_are_joined_with_the_images_that_they_name(write):
    document = coco("x", "y", boxes=[[0, 0, 100, 20], [2, 1, 90, 18]])
    assert pairs(write(document)) == [("0.png", "x"), ("1.png", "y")]
    by_id = {"imgs": {"5": {"file_name": "a.png"}}, "anns": {"1": {"image_id": 5, "utf8_string": "x"}}}
    assert pairs(write(by_id)) == [("a.png", "x")]


def test_an_annotation_without_its_image_is_a_damaged_row(write):
    document = coco("x", "y", "z")
    document["images"].pop()
    assert problems(write(document)) == [None, None, "there is no image '9' in the list of images"]


def test_a_single_image_with_several_boxes_has_damaged_rows(write):
    document = coco("x", "y", "z", boxes=[[0, 0, 100, 20]] * 3)
    document["annotations"].append({"image_id": 7, "caption": "w", "bbox": [0, 0, 9, 9]})
    found = problems(write(document))
    assert sorted(map(str, found)) == ["None", "None", *["it has 2 annotations with places"] * 2]


def test_several_boxes_an_image_are_refused_with_the_way_out(write):
    document = coco("x", "y", boxes=[[0, 0, 9, 9]] * 2)
    document["annotations"] += [{**annotation, "caption": "w"} for annotation in document["annotations"]]
    message = refusal(write(document))
    assert "has the texts of boxes in images (0.png: it has 2 annotations with places; 2 of 2 images" in message
    assert "cut the boxes out as images of lines" in message


def test_a_box_that_is_a_small_part_of_its_image_is_refused(write):
    message = refusal(write(coco("x", boxes=[[5, 5, 40, 10]])))
    assert "its text stands in a box of 40×10 pixels of 100×20" in message


def test_annotations_without_texts_are_refused(write):
    document = coco("x")
    del document["annotations"][0]["caption"]
    assert "has no text column: its annotations has 'id', 'image_id'" in refusal(write(document))
