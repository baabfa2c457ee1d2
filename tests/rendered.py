"""Rendered codes with their labels, for tests that train a model."""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont


def render_codes(folder: Path, alphabet: str, count: int, labels: list[str] | None = None) -> list[str]:
    """Renders codes of some symbols, each with its label in a text file beside it; returns the codes.

    Args:
        labels: of the images, in place of what they say.
    """
    folder.mkdir()
    chooser = random.Random(alphabet)
    codes = ["".join(chooser.choices(alphabet, k=chooser.randint(3, 6))) for _ in range(count)]
    for number, (code, label) in enumerate(zip(codes, labels or codes, strict=True)):
        font = ImageFont.load_default(chooser.randint(28, 36))
        left, top, right, bottom = font.getbbox(code)
        image = Image.new("L", (round(right - left) + 20, round(bottom - top) + 14), chooser.randint(190, 250))
        ImageDraw.Draw(image).text((10 - left, 7 - top), code, font=font, fill=chooser.randint(0, 60))
        image.save(folder / f"{alphabet[0]}{number:03d}.png")
        (folder / f"{alphabet[0]}{number:03d}.txt").write_text(label)
    return codes
