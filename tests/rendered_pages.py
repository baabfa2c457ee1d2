"""Pages with lines at known places, and the ALTO or PAGE files that describe them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import quoteattr

from PIL import Image

MARGIN, GAP = 30, 12


@dataclasses.dataclass(frozen=True)
class LineOnPage:
    """A line to be pasted on a page.

    Attributes:
        picture: grey.
        text: None for a line without a transcription.
        types: of the line.
    """

    picture: Image.Image
    text: str | None
    line_id: str
    types: Sequence[str] = ()


def draw_page(lines: Sequence[LineOnPage], path: Path) -> list[tuple[int, int, int, int]]:
    """Draws a page with lines below each other; returns the box of each."""
    width = max(line.picture.width for line in lines) + 2 * MARGIN
    height = sum(line.picture.height + GAP for line in lines) + 2 * MARGIN
    page = Image.new("L", (width, height), 240)
    boxes, top = [], MARGIN
    for number, line in enumerate(lines):
        left = MARGIN - number % 3 * 4
        page.paste(line.picture, (left, top))
        boxes.append((left, top, left + line.picture.width, top + line.picture.height))
        top += line.picture.height + GAP
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path)
    return boxes


def write_alto(
    path: Path, image: Path, lines: Sequence[LineOnPage], boxes: Sequence[tuple[int, int, int, int]], scale: float = 1
) -> None:
    """Writes an ALTO 4 file of a page, for an image of so many times the size."""
    size = [round(side * scale) for side in Image.open(image).size]
    types = sorted({name for line in lines for name in line.types})
    tags = "".join(f'<OtherTag ID="T{number}" LABEL={quoteattr(name)}/>' for number, name in enumerate(types))
    parts = []
    for line, box in zip(lines, boxes, strict=True):
        left, top, right, bottom = (side * scale for side in box)
        refs = " ".join(f"T{types.index(name)}" for name in line.types)
        text = "" if line.text is None else f"<String CONTENT={quoteattr(line.text)}/>"
        parts.append(
            f'<TextLine ID={quoteattr(line.line_id)} TAGREFS="{refs}" HPOS="{left:g}" VPOS="{top:g}" '
            f'WIDTH="{right - left:g}" HEIGHT="{bottom - top:g}">{text}</TextLine>'
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        '<?xml version="1.0" encoding="UTF-8"?><alto xmlns="http://www.loc.gov/standards/alto/ns-v4#">'
        "<Description><MeasurementUnit>pixel</MeasurementUnit>"
        f"<sourceImageInformation><fileName>{image.name}</fileName></sourceImageInformation></Description>"
        f'<Tags>{tags}</Tags><Layout><Page WIDTH="{size[0]}" HEIGHT="{size[1]}"><PrintSpace><TextBlock ID="b">'
        f"{''.join(parts)}</TextBlock></PrintSpace></Page></Layout></alto>",
        encoding="utf-8",
    )


def write_page_xml(
    path: Path, image: Path, lines: Sequence[LineOnPage], boxes: Sequence[tuple[int, int, int, int]]
) -> None:
    """Writes a PAGE 2019 file of a page."""
    width, height = Image.open(image).size
    parts = []
    for line, (left, top, right, bottom) in zip(lines, boxes, strict=True):
        points = f"{left},{top} {right},{top} {right},{bottom} {left},{bottom}"
        text = "" if line.text is None else f"<TextEquiv><Unicode>{line.text}</Unicode></TextEquiv>"
        parts.append(f'<TextLine id="{line.line_id}"><Coords points="{points}"/>{text}</TextLine>')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<PcGts xmlns="http://schema.primaresearch.org/PAGE/gts/pagecontent/2019-07-15">'
        f'<Page imageFilename="{image.name}" imageWidth="{width}" imageHeight="{height}"><TextRegion id="r">'
        f'<Coords points="0,0 {width},0 {width},{height} 0,{height}"/>{"".join(parts)}</TextRegion></Page></PcGts>',
        encoding="utf-8",
    )


def write_corners(path: Path, lines: Sequence[LineOnPage], boxes: Sequence[tuple[int, int, int, int]]) -> None:
    """Writes a file of boxes of a page, as SROIE and ICDAR have them; a line without a text is an illegible one."""
    rows = (
        f"{left},{top},{right},{top},{right},{bottom},{left},{bottom},{'###' if line.text is None else line.text}\r\n"
        for line, (left, top, right, bottom) in zip(lines, boxes, strict=True)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(rows), encoding="utf-8-sig", newline="")


def write_plates(
    path: Path, image: Path, lines: Sequence[LineOnPage], boxes: Sequence[tuple[int, int, int, int]]
) -> None:
    """Writes a file of boxes of a page, as the benchmark of OpenALPR has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = (
        f"{image.name}\t{left}\t{top}\t{right - left}\t{bottom - top}\t{line.text}\n"
        for line, (left, top, right, bottom) in zip(lines, boxes, strict=True)
    )
    path.write_text("".join(rows), encoding="utf-8")
