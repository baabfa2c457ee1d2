"""The browser that tests drive tells what is wrong with a page."""

from __future__ import annotations

import pytest
from PIL import Image

from tests.browser import LOW_CONTRAST, OpenPage, needs_browser, start_browser

pytestmark = needs_browser

BAD = """<!doctype html><html><body style="background: #fff">
<p style="color: #999">too pale</p><p style="background: rgba(0, 0, 0, .8)">black on nearly black</p>
<svg><text y="20" fill="#ccc">pale in a picture</text></svg><p style="display: none; color: #fff">not seen</p>
<p>right</p><div style="width: 600px">wide</div><img src="http://127.0.0.1:9/nowhere.png"><input>
<script>console.warn("be warned"); document.querySelector("input").onkeydown = event => { throw event.key }</script>
</body></html>"""


@pytest.fixture(scope="module")
def browser():
    with start_browser() as browser:
        yield browser


def test_everything_that_is_wrong_with_a_page_is_told(browser, tmp_path):
    (tmp_path / "bad.html").write_text(BAD)
    opened = OpenPage(browser, (tmp_path / "bad.html").as_uri(), 390)
    page = opened.page
    contrast = page.evaluate(LOW_CONTRAST)
    assert [text.partition(": ")[2] for text in contrast["found"]] == [
        "too pale",
        "black on nearly black",
        "pale in a picture",
    ]
    assert contrast["seen"] == 5
    assert page.evaluate("document.documentElement.scrollWidth > innerWidth")
    assert opened.requests == ["http://127.0.0.1:9/nowhere.png"]
    assert "be warned" in opened.console
    assert any("Failed to load resource" in message for message in opened.console)
    page.keyboard.press("Tab")
    page.keyboard.press("x")
    assert page.evaluate("document.querySelector('input').value") == "x"
    assert any("Uncaught" in message for message in opened.console)


def test_pages_are_apart_and_have_the_width_that_was_asked_for(browser, tmp_path):
    (tmp_path / "bad.html").write_text(BAD)
    (tmp_path / "good.html").write_text("<!doctype html><title>good</title><p>good</p>")
    OpenPage(browser, (tmp_path / "bad.html").as_uri(), 390)
    opened = OpenPage(browser, (tmp_path / "good.html").as_uri(), 777, 444)
    assert (opened.console, opened.requests) == ([], [])
    assert opened.page.evaluate("[innerWidth, innerHeight]") == [777, 444]
    assert opened.page.evaluate("Promise.resolve(document.title)") == "good"
    opened.page.screenshot(path=tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as image:
        assert image.size == (777, 444)
