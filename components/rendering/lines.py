"""Drawing of text lines with random looks: faces, spacing, ink, ground, clutter, blur and grain."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from components.rendering.faces import Face, load_font

_SIZES = (32, 52)  # pixels of the font's square
_APART = 0.35  # of the lines, whose symbols are placed one by one
_TILTED = 12.0  # degrees by which a symbol that is placed by itself is turned, at most
_LIGHT_ON_DARK = 0.2  # of the lines
_LEAST_CONTRAST = 80  # grey levels between the mean of the ground and the ink
_COARSE = 4  # pixels of an image for one of its ground
_WIDEST_JPEG = 65_000  # pixels
_ON_GIVEN_GROUND = 0.8  # of the lines, if there are pictures of grounds


def render_line(text: str, face: Face, ground: np.ndarray | None, chooser: np.random.Generator) -> np.ndarray:
    """Draws a text, differently each time, as `render_line_with_places` does; returns its pixels alone."""
    return render_line_with_places(text, face, ground, chooser)[0]


def render_line_with_places(
    text: str, face: Face, ground: np.ndarray | None, chooser: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a text, differently each time, and says where each symbol lies.

    Args:
        text: of symbols that the face can draw, at least one of them visible.
        ground: uint8 [height, width], on a crop of which the text is drawn as a rule; None for an even ground.
        chooser: decides every choice, so that the same state gives the same pixels.

    Returns:
        Pixels, uint8 [height, width], and the left and right end of each symbol's ink in them, float [symbols, 2]; of
        white space, the ends of the room that it takes.
    """
    ink, places = _draw_ink(text, face, chooser)
    height, width = ink.shape
    given = ground if chooser.random() < _ON_GIVEN_GROUND else None
    paper = _draw_even_ground(height, width, chooser) if given is None else _crop(given, height, width, chooser)
    if chooser.random() < _LIGHT_ON_DARK:
        paper = np.minimum(paper, 255 - _LEAST_CONTRAST)
        colour = chooser.uniform(min(255, paper.mean() + _LEAST_CONTRAST), 255)
    else:
        paper = np.maximum(paper, _LEAST_CONTRAST)
        colour = chooser.uniform(0, max(0, paper.mean() - _LEAST_CONTRAST))
    faded = chooser.uniform(0.75, 1.0) * (1 - chooser.uniform(0, 0.3) * _draw_waves(height, width, 8, chooser))
    ink = np.maximum(ink, chooser.uniform(0.4, 1.0) * _draw_clutter(height, width, chooser))
    pixels = _photograph(paper + (colour - paper) * ink * faded, chooser)
    return pixels, places * (pixels.shape[1] / width)


def cut_ground(pixels: np.ndarray) -> np.ndarray:
    """Takes the ink off a line: what is left is its ground.

    Args:
        pixels: uint8 [height, width].

    Returns:
        uint8 of the same shape: at each place the lightest pixel nearby, or the darkest where ink is light.
    """
    dark_ink = pixels.mean() <= np.median(pixels)
    kind = ImageFilter.MaxFilter if dark_ink else ImageFilter.MinFilter
    image = Image.fromarray(pixels)
    small = image.resize((max(1, image.width // _COARSE), max(1, image.height // _COARSE)), Image.Resampling.BOX)
    reach = max(3, small.height // 3 | 1)
    return np.asarray(small.filter(kind(reach)).resize(image.size, Image.Resampling.BICUBIC))


def _crop(ground: np.ndarray, height: int, width: int, chooser: np.random.Generator) -> np.ndarray:
    """Crops a ground at a random place, mirrored at its edges if it is too small; float [height, width]."""
    spare = [max(0, have - need) for have, need in zip(ground.shape, (height, width), strict=True)]
    top, left = (int(chooser.integers(0, more + 1)) for more in spare)
    crop = ground[top : top + height, left : left + width].astype(float)
    missing = [(0, height - crop.shape[0]), (0, width - crop.shape[1])]
    return np.pad(crop, missing, mode="symmetric")


def _draw_even_ground(height: int, width: int, chooser: np.random.Generator) -> np.ndarray:
    """Draws an even or slightly cloudy ground, float [height, width]."""
    level, depth = chooser.uniform(90, 255), chooser.uniform(0, 40) * chooser.random()
    clouds = _draw_waves(height, width, int(chooser.integers(2, 40)), chooser)
    return np.clip(level + depth * (clouds - 0.5), 0, 255)


def _draw_ink(text: str, face: Face, chooser: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws a text with a margin around it: the coverage of its ink, float [height, width] from 0 to 1, and its places.

    The places are those that `render_line_with_places` returns.
    """
    size = int(chooser.integers(*_SIZES))
    font = load_font(face.path, size)
    stroke = int(chooser.random() < 0.15)
    if chooser.random() < _APART:
        image, places = _place_apart(text, font, size, stroke, chooser)
    else:
        left, top, right, bottom = font.getbbox(text, stroke_width=stroke)
        image = Image.new("L", (max(1, math.ceil(right - left)), max(1, math.ceil(bottom - top))))
        ImageDraw.Draw(image).text((-left, -top), text, 255, font, stroke_width=stroke)
        places = _measure_places(text, font, stroke) - left
    width = image.width
    if chooser.random() < 0.5:  # condensed or wide
        image = _scale(image, chooser.uniform(0.7, 1.35), 1.0)
    margins = np.round(size * chooser.uniform(0.02, [0.35, 0.6, 0.35, 0.6])).astype(int)
    above, left_of, below, right_of = margins.tolist()
    ink = np.pad(np.asarray(image, float) / 255, [(above, below), (left_of, right_of)])
    return ink, places * (image.width / width) + left_of


def _measure_places(text: str, font: ImageFont.FreeTypeFont, stroke: int) -> np.ndarray:
    """Measures where symbols lie that are drawn from 0 on, float [symbols, 2]."""
    places = []
    for end, symbol in enumerate(text, 1):
        advance = font.getlength(symbol)
        start = font.getlength(text[:end]) - advance  # with the kerning before it
        left, _, right, _ = font.getbbox(symbol, stroke_width=stroke)
        places.append((start, start + advance) if symbol.isspace() else (start + left, start + right))
    return np.array(places, float)


def _place_apart(
    text: str, font: ImageFont.FreeTypeFont, size: int, stroke: int, chooser: np.random.Generator
) -> tuple[Image.Image, np.ndarray]:
    """Draws symbols one by one, each turned, scaled and moved a little; returns their places, float [symbols, 2]."""
    tilt, gap = chooser.uniform(0, _TILTED), size * chooser.uniform(-0.06, 0.3)
    rise, growth = size * chooser.uniform(0, 0.12), chooser.uniform(0, 0.15)
    canvas = Image.new("L", (math.ceil((size * 2 + max(0, gap)) * (len(text) + 1)), size * 3))
    x = float(size)
    places = []
    for symbol in text:
        advance = font.getlength(symbol)
        if symbol.isspace():
            places.append((x, x + advance + gap))
            x += advance + gap
            continue
        box = Image.new("L", (math.ceil(advance) + size, size * 2))
        ImageDraw.Draw(box).text((size // 2, size // 2), symbol, 255, font, stroke_width=stroke)
        scale = 1 + chooser.uniform(-growth, growth)
        box = _scale(box, scale, scale).rotate(chooser.uniform(-tilt, tilt), Image.Resampling.BILINEAR)
        place = (round(x - size / 2 * scale), round(size / 2 - size / 2 * (scale - 1) + chooser.uniform(-rise, rise)))
        canvas.paste(255, place, box)
        left, _, right, _ = box.getbbox() or (0, 0, box.width, 0)
        places.append((place[0] + left, place[0] + right))
        x += advance * scale + gap
    drawn = canvas.getbbox() or (0, 0, size, size)
    return canvas.crop(drawn), np.array(places, float) - drawn[0]


def _scale(image: Image.Image, across: float, down: float) -> Image.Image:
    size = max(1, round(image.width * across)), max(1, round(image.height * down))
    return image.resize(size, Image.Resampling.BILINEAR)


def _draw_clutter(height: int, width: int, chooser: np.random.Generator) -> np.ndarray:
    """Draws rules, strokes and specks over a text, float [height, width] from 0 to 1; most texts have none."""
    image = Image.new("L", (width, height))
    draw = ImageDraw.Draw(image)
    if chooser.random() < 0.2:  # the rule of a form below the text
        y = chooser.uniform(0.75, 1.0) * height
        draw.line((0, y, width, y + chooser.uniform(-2, 2)), 255, int(chooser.integers(1, 3)))
    if chooser.random() < 0.1:  # and one between two of its fields
        x = chooser.uniform(0, width)
        draw.line((x, 0, x + chooser.uniform(-2, 2), height), 255, int(chooser.integers(1, 3)))
    if chooser.random() < 0.2:
        for _ in range(int(chooser.integers(1, 4))):
            ends = [(chooser.uniform(-0.1, 1.1) * width, chooser.uniform(0, 1) * height) for _ in range(2)]
            draw.line(ends, 255, int(chooser.integers(1, 4)))
    if chooser.random() < 0.15:
        for _ in range(int(chooser.integers(3, 40))):
            x, y, radius = chooser.uniform(0, width), chooser.uniform(0, height), chooser.uniform(0.5, 1.8)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), 255)
    return np.asarray(image, float) / 255


def _draw_waves(height: int, width: int, cell: int, chooser: np.random.Generator) -> np.ndarray:
    """Draws smooth random light, float [height, width] from 0 to 1; `cell` is its coarseness in pixels."""
    small = chooser.integers(0, 256, (height // cell + 2, width // cell + 2), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC), float) / 255


def _photograph(grey: np.ndarray, chooser: np.random.Generator) -> np.ndarray:
    """Adds a fall of light, blur, grain, and the loss of a small or compressed file; uint8 [height, width]."""
    slope = chooser.uniform(-25, 25) * chooser.random()
    image = Image.fromarray(np.clip(grey + np.linspace(-slope, slope, grey.shape[1]), 0, 255).astype(np.uint8))
    image = image.filter(ImageFilter.GaussianBlur(chooser.uniform(0, 1.3)))
    if chooser.random() < 0.3:
        image = _scale(image, *[chooser.uniform(0.4, 0.9)] * 2)
    noisy = np.asarray(image, float) + chooser.normal(0, chooser.uniform(0, 12), (image.height, image.width))
    image = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    if chooser.random() < 0.5 and image.width < _WIDEST_JPEG:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=int(chooser.integers(35, 95)))
        image = Image.open(buffer)
    return np.asarray(image)
