"""The run report in a real browser, wide and narrow: nothing is fetched, cut off, unlabelled or too pale."""

from __future__ import annotations

import itertools
import json
import pathlib
import shutil

import pytest
from PIL import Image

from pipeline.command_line import parse_options
from pipeline.exits import EXIT_DONE, EXIT_REFUSED
from pipeline.main import main
from pipeline.report.page import write_report
from pipeline.report.record import CommandRecord
from pipeline.workspace import Workspace
from tests.browser import LOW_CONTRAST, OpenPage, needs_browser, start_browser

pytestmark = needs_browser

WIDTHS = (1200, 390)


@pytest.fixture(scope="module")
def pages(tmp_path_factory, tiny_images, tiny_model) -> dict[str, pathlib.Path]:
    """Reports with everything that a report may have, of a night without anything new, and of a failure."""
    folder = tmp_path_factory.mktemp("reports")
    workspace, images = folder / "ws", folder / "in"
    shutil.copytree(tiny_model, workspace / "models" / "tinymodel000")
    shutil.copytree(tiny_model, workspace / "models" / "latest")  # which is refused, so that the other one reads
    (workspace / "models" / "ACCEPTED").write_text("tinymodel000\n")
    (workspace / "models" / "LATEST").write_text("latest\n")
    images.mkdir()
    for path in sorted(tiny_images.glob("*.png"))[:12]:
        shutil.copy2(path, images)
    assert main([f"--workspace={workspace}", f"--infer_images={images}", "--steps=infer"]) == EXIT_DONE
    for path in sorted(tiny_images.glob("*.png")):
        shutil.copy2(path, images)
        (images / f"cut-{path.name}").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    Image.new("L", (9000, 20), 200).save(images / f"{'a-long-name' * 15}.png")
    (images / "page.png").write_bytes(b"<script>alert(1)</script>")
    (images / "empty.png").write_bytes(b"")
    asked = [f"--workspace={workspace}", f"--images={tiny_images}", f"--infer_images={images}", "--height=32"]
    asked += ["--label_source=sidecar", "--max_reject_fraction=1", "--min_confidence=0.5"]
    assert main([*asked, "--steps=ingest,evaluate,infer"]) == EXIT_REFUSED
    whole = max((workspace / "runs").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    assert main([*asked, "--steps=infer"]) == EXIT_DONE
    nothing_new = max((workspace / "runs").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)

    known = json.loads(whole.read_text())
    record = CommandRecord(**{**known, "run": "with-alarms", "status": "done"})
    record.add_alarms(
        [
            {"name": "rejects", "sentence": "It is fine.", "measured": 0.01, "limit": 0.05, "raised": False},
            {"name": "confidence", "sentence": "It fell " + "far" * 60, "measured": 0.7, "limit": 0.9, "raised": True},
        ]
    )
    alarmed = write_report(record, Workspace(str(workspace)))["run report"]
    failed = CommandRecord.start(parse_options(["--steps=infer"]), str(workspace))
    failed.fail(f"no image in /{'nowhere' * 40}")
    refused = write_report(failed, Workspace(str(workspace)))["run report"]
    return {
        "whole": whole.with_suffix(".html"),
        "alarm": pathlib.Path(alarmed),
        "nothing new": nothing_new.with_suffix(".html"),
        "failed": pathlib.Path(refused),
    }


@pytest.fixture(scope="module")
def browser():
    with start_browser() as browser:
        yield browser


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", ["whole", "alarm", "nothing new", "failed"])
def test_a_report_is_whole_by_itself_and_can_be_read(browser, pages, kind, width):
    opened = OpenPage(browser, pages[kind].as_uri(), width)
    page = opened.page
    # Whatever lies out of sight is shown too.
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert opened.console == []
    assert opened.requests == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    contrast = page.evaluate(LOW_CONTRAST)
    assert contrast["found"] == []
    assert contrast["seen"] > 20
    assert page.evaluate("[...document.images].every(each => each.alt.trim() && each.complete && each.naturalWidth)")
    assert page.evaluate("document.documentElement.lang") == "en"
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map(each => Number(each.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(levels))
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(each => each.id)")
    assert len(set(ids)) == len(ids)
    targets = page.evaluate("[...document.links].map(each => each.getAttribute('href'))")
    assert {target.removeprefix("#") for target in targets} <= set(ids)


def test_an_alarm_s_badge_is_neither_done_s_nor_failed_s(browser, pages):
    colours = [
        OpenPage(browser, pages[kind].as_uri()).page.evaluate(
            "getComputedStyle(document.querySelector('.badge')).backgroundColor"
        )
        for kind in ("nothing new", "alarm", "failed")
    ]
    assert len(set(colours)) == 3


def test_everything_is_reached_by_keys_and_seen_where_it_is(browser, pages):
    page = OpenPage(browser, pages["whole"].as_uri(), 390).page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left >= 0")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    reached = 0
    while True:
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):
            break
        reached += 1
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") not in ("none", None)
        assert page.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)") >= 2
    boxes = "[...document.querySelectorAll('main .scroll, main summary')].filter(each => each.checkVisibility())"
    assert reached == page.evaluate(f"{boxes}.length") > 5
    wide = "[...document.querySelectorAll('main *')].filter(each => getComputedStyle(each).overflowX === 'auto')"
    assert page.evaluate(f"{wide}.every(each => each.tabIndex === 0 && each.getAttribute('aria-label'))")


def test_a_box_that_is_too_narrow_for_its_table_scrolls_by_keys(browser, pages):
    page = OpenPage(browser, pages["whole"].as_uri(), 390).page
    box = "document.querySelector('[aria-label=\"The last nights\"]')"
    assert page.evaluate(f"{box}.scrollWidth > {box}.clientWidth")
    page.evaluate(f"{box}.focus()")
    page.keyboard.press("ArrowRight")
    page.evaluate("new Promise(done => setTimeout(done, 500))")
    assert page.evaluate(f"{box}.scrollLeft") > 0


BROUGHT_IN = """
(html) => {
  window.executed = [];
  const place = document.createElement("div");
  document.body.append(place);
  place.innerHTML = html;
  const script = document.createElement("script");
  script.textContent = "window.executed.push('script')";
  place.append(script);
  return new Promise(done => setTimeout(() => done(window.executed), 300));
}
"""
"""Brings elements into a page, as a name of a file could if it were not escaped; returns what was executed."""


@pytest.mark.parametrize("kind", ["whole", "failed"])
def test_what_would_be_brought_into_a_report_is_neither_executed_nor_fetched(browser, pages, kind):
    opened = OpenPage(browser, pages[kind].as_uri())
    html = (
        """<img src="data:," onerror="window.executed.push('image')"><style>body { display: none }</style>"""
        """<img src="http://127.0.0.1:9/nowhere.png"><iframe src="http://127.0.0.1:9/frame"></iframe>"""
        """<p style="color: rgb(1, 2, 3)" id="brought-in">text</p>"""
    )
    assert opened.page.evaluate(BROUGHT_IN, html) == []
    assert opened.page.evaluate("getComputedStyle(document.body).display") != "none"
    assert opened.page.evaluate("getComputedStyle(document.getElementById('brought-in')).color") != "rgb(1, 2, 3)"
    blocked = [message for message in opened.console if "Content Security Policy" in message]
    assert len(blocked) >= 5
