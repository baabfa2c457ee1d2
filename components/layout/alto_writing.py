"""Writing of texts into ALTO files, versions 2 to 4 (https://www.loc.gov/standards/alto/)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from components.layout.element_places import Edit, Element, MarkedFile, replace_children
from components.layout.line_texts import (
    SOFTWARE,
    LineText,
    ProcessingStep,
    choose_id,
    format_attribute,
    format_box,
    format_element,
)

_BEFORE_STEPS = ("MeasurementUnit", "sourceImageInformation", "OCRProcessing")


def edit_alto_line(marked: MarkedFile, line: Element, text: LineText) -> list[Edit]:
    """Replaces strings, spaces and the hyphen of a line.

    Words whose places are known become a `String` each, with `SP` between them. Otherwise the text is one `String` with
    the box of the line, and spaces in its `CONTENT`, which every version of the schema allows: boxes of words would be
    a guess.
    """
    prefix = line.prefix
    if not text.words:
        box = format_box(None, text.box)
        new = [_format_string(prefix, text.text, text.confidence, box)]
        return replace_children(marked, line, ("String", "SP", "HYP"), new, ("Shape",))
    new, last = [], None
    for word in text.words:
        box = format_box(word.polygon, None)
        if last is not None and box is not None:
            new.append(_format_space(prefix, last, box))
        new.append(_format_string(prefix, word.text, word.confidence, box))
        last = box
    return replace_children(marked, line, ("String", "SP", "HYP"), new, ("Shape",))


def _format_string(prefix: str, text: str, confidence: float | None, box: tuple[int, int, int, int] | None) -> str:
    attributes = format_attribute("CONTENT", text) + _format_places(box) + format_attribute("WC", confidence)
    return f"<{prefix}String{attributes}/>"


def _format_places(box: tuple[int, int, int, int] | None) -> str:
    if box is None:
        return ""
    left, top, right, bottom = box
    sides = {"HPOS": left, "VPOS": top, "WIDTH": right - left, "HEIGHT": bottom - top}
    return "".join(format_attribute(name, side) for name, side in sides.items())


def _format_space(prefix: str, before: tuple[int, int, int, int], after: tuple[int, int, int, int]) -> str:
    """Formats the space between two words, whichever of them is to the left."""
    left, right = min(before[2], after[2]), max(before[0], after[0])
    sides = {"WIDTH": max(0, right - left), "HPOS": left, "VPOS": min(before[1], after[1])}
    return f"<{prefix}SP{''.join(format_attribute(name, side) for name, side in sides.items())}/>"


def describe_alto_steps(marked: MarkedFile, steps: Sequence[ProcessingStep]) -> list[Edit]:
    """Adds an `OCRProcessing` for each step, which versions 2 to 4 have; nothing to a file without a description."""
    description = marked.root.find_child("Description")
    if description is None or description.find_child("MeasurementUnit") is None:
        return []
    prefix = description.prefix
    new = []
    for step in steps:
        step_id = choose_id(marked.content, f"recognition-{re.sub(r'[^A-Za-z0-9.-]', '_', step.model_id)}")
        parts = (
            format_element(f"{prefix}processingDateTime", step.at),
            format_element(f"{prefix}processingStepDescription", "recognition of lines"),
            format_element(f"{prefix}processingStepSettings", f"model {step.model_id}"),
            f"<{prefix}processingSoftware>{format_element(f'{prefix}softwareName', SOFTWARE)}"
            f"</{prefix}processingSoftware>",
        )
        new.append(
            f"<{prefix}OCRProcessing{format_attribute('ID', step_id)}><{prefix}ocrProcessingStep>{''.join(parts)}"
            f"</{prefix}ocrProcessingStep></{prefix}OCRProcessing>"
        )
    return replace_children(marked, description, (), new, _BEFORE_STEPS)
