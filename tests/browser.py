"""Debian's Chromium, headless, driven by Playwright; and what pages are checked for in it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

LOW_CONTRAST = """
(() => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const context = canvas.getContext("2d", {willReadFrequently: true});
  const parse = text => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = text;
    context.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3]));
  const ground = element => {
    if (!element) return [255, 255, 255];
    const own = parse(getComputedStyle(element).backgroundColor);
    return own[3] === 1 ? own.slice(0, 3) : over(own, ground(element.parentElement));
  };
  const luminance = rgb => rgb.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  let seen = 0;
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || element.closest("script, style, title") || !element.checkVisibility()) continue;
    seen += 1;
    const style = getComputedStyle(element);
    const below = ground(element);
    const ink = over(parse(element.closest("svg") ? style.fill : style.color), below);
    const [low, high] = [luminance(ink), luminance(below)].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    const large = parseFloat(style.fontSize) >= (parseInt(style.fontWeight) >= 700 ? 18.66 : 24);
    if (ratio < (large ? 3 : 4.5)) found.push(`${ratio.toFixed(2)}: ${node.data.trim().slice(0, 60)}`);
  }
  return {seen, found};
})()
"""
"""How many texts can be seen, and those with less contrast than WCAG 2.2, success criterion 1.4.3, asks for."""

needs_browser = pytest.mark.tool(*_NAMES)


@contextlib.contextmanager
def start_browser() -> Iterator[Browser]:
    """Yields a browser with an empty profile, which ends with the `with` block."""
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    flags += ["--disable-sync", "--no-first-run"]
    path = next(filter(None, map(shutil.which, _NAMES)))
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=path, args=flags) as browser:
        yield browser


class OpenPage:
    """A page in a window of its own, with what it printed and asked for since it was opened.

    Attributes:
        page: the page as Playwright has it.
        console: what was printed, logged or not caught until now, whatever its level.
        requests: the addresses that were asked for, but for the page itself and what its own text holds.
    """

    def __init__(self, browser: Browser, address: str, width: int = 1200, height: int = 900) -> None:
        """Loads an address into a window of so many CSS pixels."""
        self.console: list[str] = []
        self.requests: list[str] = []
        self.page: Page = browser.new_page(viewport={"width": width, "height": height})
        self.page.on("console", lambda message: self.console.append(message.text))
        self.page.on("pageerror", lambda error: self.console.append(f"Uncaught {error}"))
        self.page.on("request", lambda request: self._add_request(request.url, address))
        self.page.goto(address)

    def _add_request(self, url: str, address: str) -> None:
        if not url.startswith(("data:", "blob:")) and url != address:
            self.requests.append(url)
