"""What the run report says, read as a browser's parser reads it."""

from __future__ import annotations

import base64
import collections
import html.parser
import io
import json
import os
import pathlib
import re
import shutil

import pytest
from PIL import Image

from pipeline.command_line import parse_options
from pipeline.exits import EXIT_DONE
from pipeline.main import main
from pipeline.report.page import _mark_differences, write_report
from pipeline.report.record import CommandRecord
from pipeline.workspace import Workspace
from tfrecords import DatasetManifest, LineExample, encode_example, read_record_batches, write_records

_VOID = ("img", "meta", "link", "br")


class Page(html.parser.HTMLParser):
    """The texts, table rows, list items and pictures of a page; fails where an element is never closed."""

    def __init__(self, content: str):
        super().__init__()
        self.items: list[str] = []
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
            self.pictures[named["alt"]] = base64.b64decode(named["src"].partition(";base64,")[2])
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "li":
            self.items.append("")
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "mark":
            self.marked.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_data(self, data):
        self.text = re.sub(r"\s+", " ", self.text + data)
        if "li" in self.open:
            self.items[-1] += data
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


def infer(workspace: pathlib.Path, images: str | pathlib.Path, *flags: str) -> tuple[dict, Page]:
    """Reads some images, however many are rejected; the record and the page of the run."""
    known = set((workspace / "runs").glob("*.json"))
    arguments = [f"--workspace={workspace}", f"--infer_images={images}", "--max_reject_fraction=1", *flags]
    assert main([*arguments, "--steps=infer"]) == EXIT_DONE
    (path,) = set((workspace / "runs").glob("*.json")) - known
    return json.loads(path.read_text()), Page(path.with_suffix(".html").read_text())


def add_images(folder: pathlib.Path, tiny_images: pathlib.Path, start: int, stop: int) -> None:
    folder.mkdir(exist_ok=True)
    for path in sorted(tiny_images.glob("*.png"))[start:stop]:
        shutil.copy(path, folder)


def add_rejects(folder: pathlib.Path, tiny_images: pathlib.Path) -> None:
    """Ten truncated images, two that are none, one of too many pixels."""
    for path in sorted(tiny_images.glob("*.png"))[:10]:
        content = path.read_bytes()
        (folder / f"cut-{path.name}").write_bytes(content[: len(content) // 2])
    (folder / "page.png").write_bytes(b"<script>alert(1)</script>")
    (folder / "empty.png").write_bytes(b"")
    Image.new("1", (5000, 5000)).save(folder / "huge.png")


def test_flags_that_only_their_owner_may_know_are_in_no_record():
    secrets = ["--s3_secret_access_key=hush-1", "--s3_session_token=hush-2", "--azure_connection_string=hush-3"]
    record = CommandRecord.start(parse_options([*secrets, "--epochs=3"]), "ws")
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
    start = page.rows.index(["truth", "recognised", "count", "of", "symbols"])
    rows = page.rows[start + 1 : start + 21]
    counts = [int(row[2]) for row in rows if len(row) == 5]
    assert counts == sorted(counts, reverse=True)
    assert len(counts) > 3
    assert any("U+017F LATIN SMALL LETTER LONG S" in row[4] for row in rows if len(row) == 5)


def test_pictures_are_there_with_a_text_for_who_cannot_see_them(page):
    assert "Held-out lines as the model recognised them" in page.pictures
    assert any(text.startswith("image that says <b>&amp;\u0303 and was recognised as ") for text in page.pictures)
    assert len(page.pictures) == 4 + 5
    for content in page.pictures.values():
        with Image.open(io.BytesIO(content)) as image:
            assert image.format == "PNG"


def test_differing_symbols_are_marked_and_spaces_can_be_seen(page):
    assert page.marked
    assert any("␣" in text for text in page.marked)


def test_runs_of_symbols_spell_both_texts():
    sides = _mark_differences("ab cd", "axcd!")
    assert sides == {
        "truth": [(False, "a"), (True, "b␣"), (False, "cd")],
        "recognised": [(False, "a"), (True, "x"), (False, "cd"), (True, "!")],
    }


def test_the_counts_on_top_add_up_and_say_what_ran(workspace, tiny_images, tmp_path):
    images = tmp_path / "in"
    add_images(images, tiny_images, 0, 8)
    infer(workspace, images)
    add_images(images, tiny_images, 8, 14)
    add_rejects(images, tiny_images)
    record, page = infer(workspace, images)
    assert "27 images matched = 6 recognised + 13 rejected + 8 skipped since an earlier run has them." in page.text
    (step,) = record["steps"]
    assert step["images_per_s"] == pytest.approx(19 / step["seconds"], abs=0.1, rel=0.01)
    assert f"infer: {step['seconds']:.1f} s, {step['images_per_s']:.4g} images/s" in page.text
    used = record["used"]
    assert (used["model_id"], used["network"], used["dataset_id"]) == ("tinymodel000", "ctc_conv", "tinydataset0")
    said = (
        "recognised by model tinymodel000 (ctc_conv, trained on dataset tinydataset0, 2026-01-02 00:00 UTC), "
        "decoder greedy."
    )
    assert f"Ran with DirectRunner (Beam's FnApiRunner, in memory); {said}" in page.text
    for package in ("python", "tensorflow", "apache-beam", "pillow"):
        assert f"{package} {used['versions'][package]}" in page.text


def test_what_was_tried_again_is_told_and_nothing_is_counted_twice(workspace, tiny_images, tmp_path):
    images = tmp_path / "in"
    add_images(images, tiny_images, 0, 3)
    (images / "late.png").symlink_to(tmp_path / "late.png")
    infer(workspace, images)
    _, page = infer(workspace, images)
    said = (
        "of the 4 images that matched, 3 were recognised, or rejected for good, on earlier nights, and 1 still cannot "
        "be read."
    )
    assert said in page.text
    add_images(images, tiny_images, 3, 4)
    _, page = infer(workspace, images)
    assert "5 images matched = 1 recognised + 1 rejected + 3 skipped since an earlier run has them." in page.text
    assert "Of the 2 recognised or rejected, 0 were recognised again" in page.text
    assert "and 1 were tried again, since an earlier run could not read them." in page.text
    assert "Mean confidence" in page.text
    (images / "late.png").unlink()
    _, page = infer(workspace, images)
    assert "Mean confidence" not in page.text.split("Steps")[1].split("The last nights")[0]


def test_rejects_are_counted_by_reason_and_some_of_each_are_drawn(workspace, tiny_images, tmp_path):
    images = tmp_path / "in"
    add_images(images, tiny_images, 0, 2)
    add_rejects(images, tiny_images)
    record, page = infer(workspace, images)
    counts = {"truncated": 10, "empty_file": 1, "not_an_image": 1, "too_large": 1}
    assert record["rejects"] == {"infer": counts}
    start = page.rows.index(["step", "count", "reason", "meaning"])
    rows = page.rows[start + 1 : start + 5]
    assert [row[:3] for row in rows] == [["infer", str(count), reason] for reason, count in counts.items()]
    assert all(row[3] for row in rows)
    cut = [item for item in page.items if "/cut-" in item]
    assert len(cut) == 8
    assert all("drawn as far as it can be decoded" in item for item in cut)
    assert "8 of 10 shown; all are in the rejects files in" in page.text
    assert "rejected image, as far as it can be decoded" in page.pictures
    assert "rejected image" not in page.pictures
    assert "not drawn: decoding it was too much before" in " ".join(page.text.split())  # of 25 million pixels
    (item,) = (item for item in page.items if "/page.png" in item)
    assert "not drawn: nothing of it can be decoded" in " ".join(item.split())
    assert "alert" not in item
    (item,) = (item for item in page.items if "/empty.png" in item)
    assert "not drawn: the file has 0 bytes" in " ".join(item.split())


def test_a_night_is_compared_with_those_before_it_of_the_same_model_and_decoding(workspace, tiny_images, tmp_path):
    images = tmp_path / "in"
    add_images(images, tiny_images, 0, 2)
    infer(workspace, images)
    (first,) = (workspace / "predictions").glob("*/*")
    for day in range(1, 10):  # of which the second was another model's
        night = shutil.copytree(first, workspace / "predictions" / f"date=2026-01-{day:02d}" / f"run=r{day}")
        manifest = json.loads((night / "_manifest.json").read_text())
        bins = [0] * 100
        bins[10 * day], bins[10 * day + 1], bins[99] = 1, 2, 1
        changed = {"run_id": f"r{day}", "scored_at": f"2026-01-{day:02d}T03:00:00+00:00", "confidence_histogram": bins}
        changed |= {"model_id": "other"} if day == 2 else {}
        (night / "_manifest.json").write_text(json.dumps({**manifest, **changed}))
    shutil.rmtree(first.parent)
    add_images(images, tiny_images, 2, 7)
    record, page = infer(workspace, images)

    nights = record["nights"]
    assert [night["run_id"] for night in nights[:-1]] == [f"r{day}" for day in range(3, 10)]
    assert [night["compared"] for night in nights] == [True] * 7 + [False]
    assert [night["tonight"] for night in nights] == [False] * 7 + [True]
    assert nights[0]["confidence_shares"] == [0] * 6 + [0.75] + [0] * 12 + [0.25]
    assert sum(nights[-1]["confidence_shares"]) == pytest.approx(1)
    assert all(night["images_per_s"] > 0 for night in nights)
    assert "mean of 7 earlier runs of the same model and decoding" in page.text
    start = page.rows.index(["confidence", "tonight", "earlier, mean"])
    rows = page.rows[start + 1 : start + 21]
    assert [row[0] for row in rows] == [f"{i / 20:.2f} to {(i + 1) / 20:.2f}" for i in range(20)]
    assert [row[1] for row in rows] == [f"{share:.2%}" for share in nights[-1]["confidence_shares"]]
    means = [0.75 / 7 if i in range(6, 19, 2) else 0.25 if i == 19 else 0 for i in range(20)]
    assert [row[2] for row in rows] == [f"{mean:.2%}" for mean in means]
    times = [row[0] for row in page.rows if row[-1] == "tinymodel000 greedy"]
    assert times == [nights[-1]["scored_at"][:16].replace("T", " ") + ", tonight"] + [
        f"2026-01-{day:02d} 03:00" for day in range(9, 2, -1)
    ]

    record, page = infer(workspace, images, "--decoder=beam")
    assert [night["compared"] for night in record["nights"]] == [False] * 8
    assert "no earlier run of the same model and decoding has recorded any" in page.text
    assert [row[-1] for row in page.rows if row[0].endswith(", tonight")] == ["tinymodel000 beam 10"]


def test_runs_of_before_there_were_histograms_are_nights_too(workspace, tiny_images, tmp_path):
    images = tmp_path / "in"
    add_images(images, tiny_images, 0, 2)
    infer(workspace, images)
    (path,) = (workspace / "predictions").glob("*/*/_manifest.json")
    manifest = json.loads(path.read_text())
    for name in ("confidence_histogram", "least_confident", "decoding", "skipped", "reread", "retried"):
        del manifest[name]
    del manifest["figures"]["shard_s"]
    path.write_text(json.dumps(manifest))
    record, page = infer(workspace, images)
    assert [(night["read"], night["compared"]) for night in record["nights"]] == [(2, False), (2, False)]
    assert ["2", "0", "0", f"{manifest['mean_confidence']:.3f}", "–", "tinymodel000 unknown"] in [
        row[1:] for row in page.rows
    ]


def test_the_least_confident_rows_are_those_of_the_whole_run_with_their_images(workspace, tiny_images, tmp_path):
    images = tmp_path / "in"
    images.mkdir()
    for number in range(60):
        (path,) = tiny_images.glob(f"{number % 24:02d}-*.png")
        shutil.copy(path, images / f"{number}.png")
    record, page = infer(workspace, images)
    least = record["steps"][0]["figures"]["least_confident"]
    assert len(least) == 50
    assert "The 50 least confident of 60" in page.text
    items = [" ".join(item.split()) for item in page.items if "/in/" in item]
    assert items == [f"{text or '(nothing)'} {confidence:.3f}{uri}" for confidence, uri, text in least]
    assert {f"image recognised as {text or 'nothing'}" for _, _, text in least} == set(page.pictures)


def test_images_that_are_gone_by_the_morning_are_told(workspace, tiny_dataset, tiny_images, tmp_path):
    dataset = workspace / "datasets" / "tinydataset0"
    shutil.copytree(tiny_dataset, dataset)
    (shard,) = DatasetManifest.read(str(dataset)).shards_of("test")
    (batch,) = read_record_batches(str(dataset / shard.name))
    uris = batch.column(batch.schema.get_field_index("uri")).flatten().to_pylist()
    moved = tmp_path / "moved"
    try:
        os.rename(os.path.dirname(uris[0]), os.fsencode(moved))
        _, page = infer(workspace, "dataset:tinydataset0:test")
    finally:
        os.rename(os.fsencode(moved), os.path.dirname(uris[0]))
    items = [item for item in page.items if "not shown: the file is gone" in item]
    assert len(items) == 4
    assert not page.pictures


def test_a_night_without_anything_new_says_so(workspace, tiny_images, tmp_path):
    images = tmp_path / "in"
    add_images(images, tiny_images, 0, 2)
    infer(workspace, images)
    record, page = infer(workspace, images)
    assert (
        "Nothing was new: all 2 images that matched were recognised, or rejected for good, on earlier nights"
        in page.text
    )
    assert [night["tonight"] for night in record["nights"]] == [False]
    assert not any(row[0].endswith("tonight") for row in page.rows if row)
    assert "least confident" not in page.text
    assert "NaN" not in page.text


def test_alarms_are_told_with_their_figures_and_raised_ones_come_first(tmp_path):
    quiet = {"name": "slower", "sentence": "It read as fast.", "measured": 1234.5, "limit": 500, "raised": False}
    raised = {"name": "rejects", "sentence": "More were <b>.", "measured": 0.25, "limit": 0.05, "raised": True}
    unmeasured = {"name": "first", "sentence": "Nothing before.", "measured": None, "limit": 7, "raised": False}
    record = CommandRecord.start(parse_options(["--steps=infer"]), str(tmp_path))
    record.add_alarms([quiet, raised, unmeasured])
    paths = write_report(record, Workspace(str(tmp_path)))
    assert record.status == "alarm"
    written = json.loads(pathlib.Path(paths["run record"]).read_text())
    assert (written["status"], written["alarms"]) == ("alarm", [quiet, raised, unmeasured])
    page = Page(pathlib.Path(paths["run report"]).read_text())
    assert "Alarms: 1 of 3 raised" in page.text
    assert [" ".join(item.split()) for item in page.items if ": " in item] == [
        "raised: rejects measured 0.25, limit 0.05More were <b>.",
        "not raised: slower measured 1,234, limit 500It read as fast.",
        "not raised: first measured –, limit 7Nothing before.",
    ]


@pytest.mark.parametrize(("raised", "failed", "status"), [(False, False, "done"), (True, True, "failed")])
def test_a_run_is_an_alarm_only_if_it_is_done_and_one_was_raised(tmp_path, raised, failed, status):
    record = CommandRecord.start(parse_options(["--steps=infer"]), str(tmp_path))
    record.add_alarms([{"name": "rejects", "sentence": "More.", "measured": 1, "limit": 2, "raised": raised}])
    if failed:
        record.fail("it broke")
    write_report(record, Workspace(str(tmp_path)))
    assert record.status == status
