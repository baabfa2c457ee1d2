"""What the run report says of an evaluation, read as a browser's parser reads it."""

from __future__ import annotations

import base64
import collections
import html.parser
import io
import pathlib
import shutil

import pytest
from PIL import Image

from pipeline.main import main
from pipeline.options import parse_options
from pipeline.report import RunRecord, _marked
from tfrecords import DatasetManifest, LineExample, encode_example, read_record_batches, write_records


class Page(html.parser.HTMLParser):
    """The texts, table rows and pictures of a page; fails where an element is never closed."""

    def __init__(self, content: str):
        super().__init__()
        self.rows: list[list[str]] = []
        self.pictures: dict[str, bytes] = {}
        self.marked: list[str] = []
        self.text = ""
        self.open: collections.deque[str] = collections.deque()
        self.feed(content)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            named = dict(attributes)
            self.pictures[named["alt"]] = base64.b64decode(named["src"].removeprefix("data:image/png;base64,"))
        if tag not in ("img", "meta", "link", "br"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "mark":
            self.marked.append("")

    def handle_endtag(self, tag):
        if tag not in ("rect", "line"):
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_data(self, data):
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] = " ".join(f"{self.rows[-1][-1]} {data}".split())
        if "mark" in self.open:
            self.marked[-1] += data


@pytest.fixture
def page(tmp_path, tiny_dataset, tiny_model) -> Page:
    """The report of an evaluation of lines whose labels look like HTML, and have marks and spaces."""
    workspace = tmp_path / "ws"
    dataset = pathlib.Path(shutil.copytree(tiny_dataset, workspace / "datasets" / "tiny"))
    shutil.copytree(tiny_model, workspace / "models" / "first")
    (workspace / "datasets" / "LATEST").write_text("tiny\n")
    (workspace / "models" / "LATEST").write_text("first\n")
    (shard,) = DatasetManifest.read(str(dataset)).shards_of("test")
    (batch,) = read_record_batches(str(dataset / shard.name))
    images = batch.column(batch.schema.get_field_index("image")).flatten().to_pylist()
    labels = ["<b>&amp;\u0303", "ſ ſ ſ", "ũ", "</table>"]
    examples = [
        LineExample(image, 40, (0,), label, f"/in/{label}.png") for image, label in zip(images, labels, strict=True)
    ]
    write_records(str(dataset / shard.name), map(encode_example, examples))
    main([f"--workspace={workspace}", "--steps=evaluate"])
    (path,) = (workspace / "runs").glob("*.html")
    return Page(path.read_text())


def test_flags_that_only_their_owner_may_know_are_in_no_record():
    secrets = ["--s3_secret_access_key=hush-1", "--s3_session_token=hush-2", "--azure_connection_string=hush-3"]
    record = RunRecord.start(parse_options([*secrets, "--epochs=3"]), "ws")
    assert record.options["epochs"] == 3
    assert record.options["s3_session_token"] == "(not told)"
    assert "hush" not in repr(record)


def test_every_figure_of_the_evaluation_is_on_the_page_with_its_interval(page):
    assert ["4 images", "measured", "95 % interval"] in page.rows
    (cer,) = (row for row in page.rows if row[0] == "CER")
    low, high = cer[2].removesuffix("%").split(" to ")
    assert float(low) <= float(cer[1].removesuffix("%")) <= float(high)
    assert ["exact match", "0.00%", "0.00 to 0.00%"] in page.rows
    assert ["verdict", "refused", ""] in page.rows
    assert "2,000 resamples of 4 lines." in page.text
    assert ["symbols", "images", "exact match", "CER"] in page.rows
    assert ["confidence", "images", "exact match", "CER"] in page.rows


def test_confusions_are_named_and_shown(page):
    start = page.rows.index(["truth", "read", "count", "of", "symbols"])
    rows = page.rows[start + 1 : start + 21]
    counts = [int(row[2]) for row in rows if len(row) == 5]
    assert counts == sorted(counts, reverse=True)
    assert len(counts) > 3
    assert any("U+017F LATIN SMALL LETTER LONG S" in row[4] for row in rows if len(row) == 5)


def test_pictures_are_there_with_a_text_for_who_cannot_see_them(page):
    assert "Held-out lines as the model reads them" in page.pictures
    assert any(text.startswith("image that says <b>&amp;\u0303 and was read as ") for text in page.pictures)
    assert len(page.pictures) == 4 + 4
    for content in page.pictures.values():
        with Image.open(io.BytesIO(content)) as image:
            assert image.format == "PNG"


def test_differing_symbols_are_marked_and_spaces_can_be_seen(page):
    assert page.marked
    assert any("␣" in text for text in page.marked)


def test_runs_of_symbols_spell_both_texts():
    sides = _marked("ab cd", "axcd!")
    assert sides == {
        "truth": [(False, "a"), (True, "b␣"), (False, "cd")],
        "read": [(False, "a"), (True, "x"), (False, "cd"), (True, "!")],
    }
