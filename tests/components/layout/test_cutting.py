"""Cutting of lines: by polygon, box and baseline, straight, slanted and curved, and lines that cannot be cut."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageDraw

from components.layout import PageLine, cut_line, parse_page_file
from components.rejects import REASONS
from tfrecords import ImageRejected

PAPER, INK, OTHER = 220, 30, 120  # shades; the last is of what lies around a line
X_HEIGHT = 20
BASELINE, LEFT, RIGHT = 150.0, 60.0, 640.0
SCALE = 4

Points = list[tuple[float, float]]
Curve = Callable[[float], float]  # from columns to rows


def level(column: float) -> float:
    return BASELINE


def slanted(column: float) -> float:
    return BASELINE + math.tan(math.radians(5)) * (column - LEFT)


def rising(column: float) -> float:
    return BASELINE - math.tan(math.radians(20)) * (column - RIGHT)


def curved(column: float) -> float:
    return BASELINE + 40 * math.sin((column - LEFT) / (RIGHT - LEFT) * math.pi)


def sample(curve: Curve, count: int = 30) -> Points:
    return [(float(column), curve(column)) for column in np.linspace(LEFT, RIGHT, count)]


def shift(points: Points, distance: float) -> Points:
    """Shifts points at right angles to their curve, downwards."""
    array = np.array(points)
    along = np.gradient(array, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    return [(float(x), float(y)) for x, y in array + distance * np.stack([-along[:, 1], along[:, 0]], axis=1)]


def outline(curve: Curve, above: float = 30, below: float = 12) -> Points:
    points = sample(curve)
    return [*shift(points, -above), *reversed(shift(points, below))]


def draw_page(curve: Curve, *, paper: int = PAPER, ink: int = INK, around: int | None = None) -> Image.Image:
    """Draws a page, 700x420, with words that are bars of ink from the baseline to the x-height.

    Args:
        around: the shade outside the line's outline, if that is not paper.
    """
    image = Image.new("L", (700 * SCALE, 420 * SCALE), paper if around is None else around)
    draw = ImageDraw.Draw(image)

    def fill(points: Points, shade: int) -> None:
        draw.polygon([(x * SCALE, y * SCALE) for x, y in points], fill=shade)

    if around is not None:
        fill(outline(curve), paper)
    points = sample(curve, 200)
    upper = shift(points, -X_HEIGHT)
    for place in range(5, 194, 20):
        fill([*points[place : place + 16], *reversed(upper[place : place + 16])], ink)
    return image.resize((700, 420), Image.Resampling.BOX)


def make_line(
    polygon: Points | None = None, baseline: Points | None = None, box: tuple[float, ...] | None = None
) -> PageLine:
    return PageLine("l1", None, tuple(polygon or ()), tuple(baseline or ()), box, frozenset())  # type: ignore[arg-type]


def find_ink(cut: Image.Image, paper: int = PAPER, ink: int = INK) -> np.ndarray:
    """Finds the first and last row of the ink in each column of a word, [columns, 2]."""
    is_ink = np.abs(np.asarray(cut).astype(int) - ink) < abs(paper - ink) / 2
    columns = is_ink[:, is_ink.sum(axis=0) >= X_HEIGHT - 1]
    return np.stack([columns.argmax(axis=0), columns.shape[0] - 1 - columns[::-1].argmax(axis=0)], axis=1)


def spread(cut: Image.Image, **shades: int) -> int:
    rows = find_ink(cut, **shades)
    assert len(rows) > 100
    return int((rows.max(axis=0) - rows.min(axis=0)).max())


def test_a_level_line_is_cut_as_it_is():
    page = draw_page(level)
    cut = cut_line(page, make_line(outline(level), sample(level)))
    assert (cut.mode, cut.size) == ("L", (580, 42))
    assert np.array_equal(np.asarray(cut), np.asarray(page)[120:162, 60:640])


@pytest.mark.parametrize("curve", [slanted, rising, curved])
@pytest.mark.parametrize(("paper", "ink"), [(PAPER, INK), (20, 200)], ids=["dark ink", "light ink"])
def test_slanted_and_curved_lines_become_straight(curve, paper, ink):
    page = draw_page(curve, paper=paper, ink=ink)
    cut = cut_line(page, make_line(outline(curve), sample(curve)))
    assert spread(cut, paper=paper, ink=ink) <= 2
    assert abs(cut.height - 42) <= 3
    assert cut.width == pytest.approx(math.dist((0, 0), (580, curve(RIGHT) - curve(LEFT))), rel=0.03)
    top, bottom = np.median(find_ink(cut, paper=paper, ink=ink), axis=0)
    assert (top, bottom) == pytest.approx((30 - X_HEIGHT, 29), abs=1.5)  # upright, and whole


def test_without_a_baseline_nothing_is_straightened():
    page = draw_page(slanted)
    cut = cut_line(page, make_line(outline(slanted)))
    assert spread(cut) > 40
    assert np.asarray(cut).min() >= np.asarray(page).min()


def test_a_baseline_drawn_with_a_trembling_hand_does_not_bend_the_line():
    points = sample(slanted, 150)
    trembling = [(x, y + (1.5 if place % 2 else -1.5)) for place, (x, y) in enumerate(points)]
    assert spread(cut_line(draw_page(slanted), make_line(outline(slanted), trembling))) <= 2


def test_a_baseline_from_right_to_left_gives_the_same_line():
    page = draw_page(curved)
    one = cut_line(page, make_line(outline(curved), sample(curved)))
    other = cut_line(page, make_line(outline(curved), sample(curved)[::-1]))
    assert one.size == other.size
    assert np.abs(np.asarray(one).astype(int) - np.asarray(other)).mean() < 2


def test_a_baseline_shorter_than_its_line_straightens_the_whole_line():
    cut = cut_line(draw_page(slanted), make_line(outline(slanted), sample(slanted)[5:-8]))
    assert spread(cut) <= 2
    assert cut.width == pytest.approx(582, abs=8)


@pytest.mark.parametrize("curve", [level, slanted, curved])
@pytest.mark.parametrize(("paper", "ink"), [(PAPER, INK), (20, 200)], ids=["dark ink", "light ink"])
def test_what_lies_outside_the_polygon_becomes_paper(curve, paper, ink):
    page = draw_page(curve, paper=paper, ink=ink, around=OTHER)
    without = np.asarray(cut_line(page, make_line(outline(curve, above=28, below=10))))
    assert not (np.abs(without.astype(int) - OTHER) < 5).mean() > 0.02  # edges of words may have this shade
    corners = without[[0, -1]][:, [0, -1]].ravel()
    assert sum(corners == paper) >= (0 if curve is level else 2)
    straight = np.asarray(cut_line(page, make_line(outline(curve, above=28, below=10), sample(curve))))
    assert (straight[:3] == paper).mean() > 0.8
    assert (straight[-3:] == paper).mean() > 0.8


def test_paper_is_estimated_inside_the_polygon_alone():
    page = Image.new("L", (100, 60), 0)
    page.paste(181, (20, 20, 80, 40))
    cut = cut_line(page, make_line([(20, 20), (80, 20), (80, 30), (50, 30), (50, 40), (20, 40)]))
    assert set(np.asarray(cut).ravel()) == {181}


def test_a_polygon_that_crosses_itself_has_no_hole():
    page = Image.new("L", (100, 60), 200)
    page.paste(0, (40, 20, 50, 30))
    twice = [(10.0, 10.0), (90.0, 10.0), (90.0, 50.0), (10.0, 50.0)] * 2
    assert np.asarray(cut_line(page, make_line(twice))).min() == 0
    bow = [(10.0, 10.0), (90.0, 50.0), (90.0, 10.0), (10.0, 50.0)]  # the two halves of a bow turn in other directions
    assert cut_line(page, make_line(bow)).size == (80, 40)


def test_a_box_is_cut_where_there_is_no_polygon():
    page = draw_page(level)
    cut = cut_line(page, make_line(box=(60.4, 119.6, 639.5, 161.2)))
    assert np.array_equal(np.asarray(cut), np.asarray(page)[119:162, 60:640])
    assert cut_line(page, make_line([(5, 5), (30, 5), (30, 20)], box=(0, 0, 600, 100))).size == (25, 15)


@pytest.mark.parametrize("curve", [slanted, curved])
def test_a_box_around_a_slanted_line_is_straightened_to_the_line_alone(curve):
    points = outline(curve, above=24, below=6)
    columns, rows = zip(*points, strict=True)
    cut = cut_line(
        draw_page(curve), make_line(baseline=sample(curve), box=(min(columns), min(rows), max(columns), max(rows)))
    )
    assert spread(cut) <= 2
    assert 30 <= cut.height <= 38  # the box itself is 70 and more


def test_a_polygon_that_is_an_upright_box_counts_as_one():
    columns, rows = zip(*outline(slanted, above=24, below=6), strict=True)
    left, top, right, bottom = map(round, (min(columns), min(rows), max(columns), max(rows)))
    corners: Points = [(left, top), (right, top), (right, bottom), (left, bottom)]
    page = draw_page(slanted)
    as_polygon = cut_line(page, make_line(corners, sample(slanted)))
    as_box = cut_line(page, make_line(None, sample(slanted), (left, top, right, bottom)))
    assert np.array_equal(np.asarray(as_polygon), np.asarray(as_box))
    assert as_box.height <= 38


@pytest.mark.parametrize(
    "baseline",
    [
        [(50.0, 20.0), (50.0, 380.0)],
        [(50.0, 380.0), (52.0, 20.0)],
        [(50.0, 30.0), (54.0, 34.0)],
        [(50.0, 50.0), (50.0, 50.0)],
        [(-1e7, -1e7), (1e7, 1e6), (-1e7, 1e7), (1e7, -1e6)] * 1000,
    ],
    ids=["downwards", "upwards", "short", "a point", "to and fro"],
)
def test_lines_that_do_not_run_to_the_right_are_cut_as_they_are(baseline):
    page = draw_page(level)
    polygon = [(30.0, 20.0), (70.0, 20.0), (70.0, 380.0), (30.0, 380.0)]
    cut = cut_line(page, make_line(polygon, baseline))
    assert np.array_equal(np.asarray(cut), np.asarray(page)[20:380, 30:70])


def test_a_line_partly_outside_the_page_is_cut_at_its_edge():
    page = draw_page(level)
    polygon = [(-30.0, -20.5), (80.0, -20.5), (80.0, 40.0), (-30.0, 40.0)]
    assert cut_line(page, make_line(polygon)).size == (80, 40)
    assert cut_line(page, make_line(box=(650, 400, 1e7, 1e7))).size == (50, 20)
    beyond = [(x + 300, y) for x, y in outline(slanted)]
    cut = cut_line(page, make_line(beyond, [(x + 300, y) for x, y in sample(slanted)]))
    assert cut.width == pytest.approx(340, abs=8)
    assert cut.height == pytest.approx(42, abs=3)


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (make_line(), "no_outline", "neither a polygon nor a box"),
        (make_line(baseline=[(1, 1), (90, 1)]), "no_outline", "neither"),
        (make_line([(9, 9), (9, 9), (9, 9)]), "empty_outline", "no area: columns 9 to 9, rows 9 to 9"),
        (make_line([(9, 9), (90, 9), (90, 9)]), "empty_outline", "no area"),
        (make_line([(9, 9), (90, 50), (90, 50)]), "empty_outline", "no pixel in it: columns 9 to 90, rows 9 to 50"),
        (make_line([(9, 9.6), (90, 9.6), (90, 9.9)]), "empty_outline", "no pixel"),
        (make_line(box=(10, 10, 10, 50)), "empty_outline", "no area"),
        (make_line(box=(10, 50, 20, 10)), "empty_outline", "no area"),
        (
            make_line([(700, 9), (800, 9), (800, 30)]),
            "outside_page",
            "outline is columns 700 to 800, rows 9 to 30, the page 700x420 pixels",
        ),
        (make_line(box=(-50, -50, 0, 20)), "outside_page", "columns -50 to 0"),
        (make_line([(690, -100), (800, -100), (800, 10)]), "outside_page", "columns 690 to 800"),
    ],
)
def test_what_cannot_be_cut_is_rejected_with_the_numbers(line, reason, detail):
    with pytest.raises(ImageRejected, match=detail) as rejected:
        cut_line(Image.new("L", (700, 420), PAPER), line)
    assert rejected.value.reason == reason
    assert reason in REASONS


def test_lines_with_a_baseline_alone_are_cut_as_high_as_they_lie_apart():
    lines = "".join(
        f'<TextLine ID="{y}"><Baseline points="{x},{y} {x + 500},{y + 20}"/></TextLine>'
        for x, y in ((100, 100), (100, 140), (600, 120), (100, 180), (600, 160), (100, 260))
    )
    tall = '<TextLine ID="tall"><Baseline points="50,50 50,300"/></TextLine>'
    given = '<TextLine ID="given"><Coords points="0,0 9,0 9,9"/><Baseline points="0,0 9,0"/></TextLine>'
    content = f"<PcGts><Page><TextRegion>{lines}{tall}{given}</TextRegion></Page></PcGts>"
    *parsed, steep, with_polygon = parse_page_file(content.encode()).lines
    page = Image.new("L", (1200, 400), PAPER)
    for line in parsed:
        assert cut_line(page, line).height == pytest.approx(40, abs=2)
        assert line.box is not None
        assert line.box[1] == pytest.approx(line.baseline[0][1] - 30, abs=1)
    assert (steep.polygon, steep.box) == ((), None)
    assert with_polygon.polygon == ((0, 0), (9, 0), (9, 9))


def test_a_line_with_a_baseline_alone_on_its_page_has_no_height():
    content = b'<PcGts><Page><TextLine><Baseline points="100,100 600,110"/></TextLine></Page></PcGts>'
    (line,) = parse_page_file(content).lines
    with pytest.raises(ImageRejected, match="no_outline"):
        cut_line(Image.new("L", (700, 420), PAPER), line)


@pytest.mark.shared_data
def test_lines_of_real_pages_are_cut_as_high_as_their_outlines(shared_data):
    for file in sorted((shared_data / "pages" / "alto_typescript").rglob("*.xml"))[:3]:
        parsed = parse_page_file(file.read_bytes())
        with Image.open(file.with_name(str(parsed.image_name))) as image:
            page = image.convert("L")
        for line in parsed.lines:
            cut = cut_line(page, line)
            assert line.box is not None
            left, top, right, bottom = line.box
            assert cut.height <= bottom - top + 2
            assert cut.width == pytest.approx(right - left, rel=0.02, abs=4)
