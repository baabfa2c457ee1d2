"""A headless Chromium, driven over a pipe by the Chrome DevTools Protocol: no port, no driver, no further package."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import tempfile
import time
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_ANSWER_S = 60.0
_KEYS = {
    "Tab": {"code": "Tab", "windowsVirtualKeyCode": 9},
    "Enter": {"code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"},
    "Escape": {"code": "Escape", "windowsVirtualKeyCode": 27},
    " ": {"code": "Space", "windowsVirtualKeyCode": 32, "text": " "},
    "ArrowLeft": {"code": "ArrowLeft", "windowsVirtualKeyCode": 37},
    "ArrowUp": {"code": "ArrowUp", "windowsVirtualKeyCode": 38},
    "ArrowRight": {"code": "ArrowRight", "windowsVirtualKeyCode": 39},
    "ArrowDown": {"code": "ArrowDown", "windowsVirtualKeyCode": 40},
}
_SHIFT = 8
# In the shell that starts it: what Chromium calls its pipes are its descriptors 3 and 4.
_START = 'exec "$@" 3<&"$IN" 4>&"$OUT"'

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


def find_browser() -> str | None:
    """The path of a Chromium or Chrome, or None."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


needs_browser = pytest.mark.skipif(find_browser() is None, reason=f"none of {', '.join(_NAMES)} is installed")


class Browser:
    """A browser with a profile of its own, until the `with` block ends."""

    def __enter__(self) -> Browser:
        path = find_browser()
        assert path is not None
        self._messages = itertools.count(1)
        self._buffer = b""
        self._events: list[dict[str, Any]] = []
        self._profile = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()
        self._process = subprocess.Popen(
            [
                *("bash", "-c", _START, "bash", path, "--headless=new", "--remote-debugging-pipe"),
                *("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
                *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
                *(f"--user-data-dir={self._profile.name}", "about:blank"),
            ],
            env={**os.environ, "IN": str(commands), "OUT": str(answers)},
            pass_fds=(commands, answers),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(commands)
        os.close(answers)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._write)
        os.close(self._read)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._profile.cleanup()

    def open(self, address: str, width: int = 1200, height: int = 900) -> Page:
        """Loads a page into a window of so many CSS pixels, and waits until it has loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, address)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        page.load()
        return page

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Calls a method of the protocol; its result."""
        number = next(self._messages)
        message = {"id": number, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + _ANSWER_S
        while True:
            answer = self._next_message(deadline, method)
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._events.append(answer)

    def events(self, session: str) -> list[dict[str, Any]]:
        """What a page has said until now, in order."""
        return [event for event in self._events if event.get("sessionId") == session]

    def wait_for(self, session: str, method: str, already: int) -> None:
        """Waits until a page has said something more than `already` times."""
        deadline = time.monotonic() + _ANSWER_S
        while sum(event.get("method") == method for event in self.events(session)) <= already:
            self._events.append(self._next_message(deadline, method))

    def _next_message(self, deadline: float, wanted: str) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"the browser did not answer {wanted} in time"
            block = os.read(self._read, 1 << 20)
            assert block, f"the browser ended before it answered {wanted}"
            self._buffer += block
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


class Page:
    """A page in a browser; opened by `Browser.open`."""

    def __init__(self, browser: Browser, session: str, address: str):
        self._browser, self._session, self.address = browser, session, address

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Calls a method of the protocol for this page; its result."""
        return self._browser.call(method, self._session, **parameters)

    def load(self) -> None:
        """Loads the page, again perhaps, and waits until it has loaded."""
        loaded = sum(event["method"] == "Page.loadEventFired" for event in self._browser.events(self._session))
        answer = self.call("Page.navigate", url=self.address)
        assert "errorText" not in answer, answer["errorText"]
        self._browser.wait_for(self._session, "Page.loadEventFired", loaded)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression as JSON has it; a promise's once it is there."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, *, shift: bool = False) -> None:
        """Presses a key and lets it go: a name as in `KeyboardEvent.key`, or one letter, digit or sign."""
        known = _KEYS.get(key, {"text": key})
        modifiers = _SHIFT if shift else 0
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, modifiers=modifiers, **known)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, modifiers=modifiers, **known)

    def screenshot(self, path: pathlib.Path, *, whole: bool = False) -> None:
        """Writes what the window shows, or the whole page, as PNG."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    @property
    def console(self) -> list[str]:
        """What was printed, logged or not caught until now, whatever its level."""
        self.evaluate("0")  # what came before it is told before it
        found = []
        for event in self._browser.events(self._session):
            parameters = event["params"]
            if event["method"] == "Runtime.consoleAPICalled":
                found.append(" ".join(str(each.get("value", each.get("description"))) for each in parameters["args"]))
            elif event["method"] == "Runtime.exceptionThrown":
                found.append(str(parameters["exceptionDetails"]))
            elif event["method"] == "Log.entryAdded":
                found.append(parameters["entry"]["text"])
        return found

    @property
    def requests(self) -> list[str]:
        """The addresses that were asked for until now, but for the page itself and what its own text holds."""
        self.evaluate("0")
        events = [
            event for event in self._browser.events(self._session) if event["method"] == "Network.requestWillBeSent"
        ]
        addresses = [event["params"]["request"]["url"] for event in events]
        return [each for each in addresses if not each.startswith(("data:", "blob:")) and each != self.address]
