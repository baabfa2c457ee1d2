"""The pages of the documentation, and what tests need of them: blocks, headings, links, sentences."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
GENERATED = "docs/flags.md"
"""Written by the program from its flags."""
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of one page.

    Attributes:
        page: its path from the project's root.
        language: after the fence, such as `sh`; may be empty.
        text: without the fences.
    """

    page: str
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}: {self.text.splitlines()[0][:80]}"


def find_blocks(*languages: str) -> list[Block]:
    """Finds the blocks of all pages in one of the languages."""
    return [
        Block(page, match[1], match[2])
        for page, text in PAGES.items()
        for match in _FENCE.finditer(text)
        if match[1] in languages
    ]


def strip_blocks(text: str) -> str:
    """Returns a page without its fenced blocks."""
    return _FENCE.sub("", text)


def make_anchor(heading: str) -> str:
    """Returns the anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def find_anchors(text: str) -> set[str]:
    """Finds the anchors of all headings of a page."""
    return {make_anchor(heading) for heading in re.findall(r"^#+ (.+)$", strip_blocks(text), re.MULTILINE)}


def find_sentences(text: str) -> list[str]:
    """Finds the sentences of six words or more in a page's paragraphs and lists, without its blocks and tables."""
    lines = [line for line in strip_blocks(text).splitlines() if not line.startswith(("|", "#", "!["))]
    paragraphs = re.split(r"\n\s*\n|\n(?=- |\d\. )", "\n".join(lines))
    found = (
        sentence.strip(" -*")
        for paragraph in paragraphs
        for sentence in re.split(r"(?<=[.!?:])\s+", " ".join(paragraph.split()))
    )
    return [sentence for sentence in found if len(sentence.split()) >= 6]
