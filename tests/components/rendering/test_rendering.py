"""Rendered lines: what fonts can draw, and what lines look like."""

import csv
import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from components.rendering import collection
from components.rendering.collection import (
    RenderingRequest,
    choose_faces,
    find_grounds,
    read_texts,
    render_collection,
)
from components.rendering.faces import find_faces
from components.rendering.lines import cut_ground, render_line, render_line_with_places
from tfrecords import DataError, ImageLimits

DEJAVU = ("DejaVuSans.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf")


@pytest.fixture(scope="module")
def fonts(tmp_path_factory) -> Path:
    """Three faces, one with few symbols, and files that are none."""
    folder = tmp_path_factory.mktemp("fonts")
    source = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    (folder / "below").mkdir()
    for name in DEJAVU:
        shutil.copy(source / name, folder / "below" / name)
    shutil.copy(source / "cmex10.ttf", folder / "cmex10.ttf")  # large brackets alone
    (folder / "README.txt").write_text("no font")
    return folder


def test_a_face_has_the_symbols_that_it_draws_and_no_other(fonts):
    faces = find_faces(str(fonts), set("Aậ0 \u3042"))
    assert {Path(face.path).name for face in faces} >= set(DEJAVU)
    for face in faces:
        if Path(face.path).name in DEJAVU:
            assert face.symbols >= set("A0 ")
            assert "\u3042" not in face.symbols
    assert {"ậ" in face.symbols for face in faces if "Sans.ttf" in face.path} == {True}


def test_a_damaged_font_is_passed_over_with_its_name(fonts, tmp_path, caplog):
    shutil.copytree(fonts, tmp_path / "fonts")
    (tmp_path / "fonts" / "broken.ttf").write_bytes(b"no font at all")
    assert len(find_faces(str(tmp_path / "fonts"), {"A"})) >= 3
    assert "broken.ttf is passed over" in caplog.text
    with pytest.raises(DataError, match="has no font files"):
        find_faces(str(tmp_path / "fonts"), {"\u3042"})


def test_texts_that_no_face_has_are_left_out_with_their_symbols(fonts, caplog):
    faces, drawn = choose_faces(str(fonts), ["A1", "\u3042", "B"])
    assert faces
    assert drawn == ["A1", "B"]
    assert "1 of 3 texts cannot be drawn, and are left out: no face has 'あ'" in caplog.text
    with pytest.raises(DataError, match="can draw any of the texts whole"):
        choose_faces(str(fonts), ["A\u3042", "1\u3042"])


def test_texts_that_would_be_drawn_wrong_are_left_out(fonts, caplog):
    texts = ["A", "\u05d0\u05d1", "\u0628", "x\u0323\u0302y", "A" * 501, "A" * 500]
    assert choose_faces(str(fonts), texts)[1] == ["A", "A" * 500]
    assert "4 of 6 texts are left out" in caplog.text
    with pytest.raises(DataError, match="no text that can be drawn"):
        choose_faces(str(fonts), ["\u05d0"])


def test_the_longest_text_in_the_widest_face_is_drawn(fonts):
    faces, _ = choose_faces(str(fonts / "below"), ["W" * 500])
    for face in faces:
        for seed in range(4):
            assert render_line("W" * 500, face, None, np.random.default_rng(seed)).shape[1] > 3000


def test_grounds_are_a_sample_of_the_files_and_an_empty_folder_is_refused(tmp_path, monkeypatch):
    for number in range(9):
        (tmp_path / f"{number}.png").write_bytes(b"x" * number)
    monkeypatch.setattr(collection, "MOST_GROUNDS", 4)
    found = find_grounds(str(tmp_path))
    assert len(found) == 4
    assert found == sorted(found)
    assert all(size == int(Path(path).stem) for path, size, _ in found)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no files"):
        find_grounds(str(tmp_path / "empty"))


def test_texts_are_read_once_each_in_their_normal_form(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_bytes("\ufeffone\r\n  two  words \n\none\ne\u0301\n".encode())
    assert read_texts(str(path)) == ["one", "two words", "é"]
    path.write_bytes(b"\xff")
    with pytest.raises(DataError, match="in UTF-8"):
        read_texts(str(path))
    path.write_text("\n \n")
    with pytest.raises(DataError, match="no text to render"):
        read_texts(str(path))


def test_a_line_is_drawn_from_the_state_of_chance_alone_and_never_twice_alike(fonts):
    (face, *_) = find_faces(str(fonts / "below"), set("AB12 "))
    chooser = np.random.default_rng(5)
    lines = [render_line("AB 12", face, None, chooser) for _ in range(40)]
    again = np.random.default_rng(5)
    for line in lines:
        assert line.dtype == np.uint8
        np.testing.assert_array_equal(line, render_line("AB 12", face, None, again))
        assert line.std() > 4  # something can be seen
    assert len({line.tobytes() for line in lines}) == len(lines)
    darker = [line.mean() < np.median(line) for line in lines]
    assert 20 < sum(darker) < 40  # most have dark ink on a light ground, some light ink on a dark one


def test_a_longer_text_makes_a_wider_line_and_a_given_ground_shows(fonts):
    (face, *_) = find_faces(str(fonts / "below"), set("AB12 "))
    widths = {
        text: np.mean([render_line(text, face, None, np.random.default_rng(i)).shape[1] for i in range(20)])
        for text in ("A", "AB12AB12")
    }
    assert widths["AB12AB12"] > 3 * widths["A"]
    stripes = np.tile(np.where(np.arange(400) % 40 < 20, 120, 240).astype(np.uint8), (96, 1))
    shown = [render_line("A", face, stripes, np.random.default_rng(i)) for i in range(20)]
    plain = [render_line("A", face, None, np.random.default_rng(i)) for i in range(20)]
    assert np.median([line[0].std() for line in shown]) > 2 * np.median([line[0].std() for line in plain])


def test_the_places_of_symbols_hold_their_ink_and_those_of_white_space_hold_none(fonts):
    (face, *_) = find_faces(str(fonts / "below"), set("AB12 "))
    inked, empty = [], []
    for seed in range(60):
        pixels, places = render_line_with_places("AB 12", face, None, np.random.default_rng(seed))
        np.testing.assert_array_equal(pixels, render_line("AB 12", face, None, np.random.default_rng(seed)))
        assert places.shape == (5, 2)
        assert (places[:, 0] < places[:, 1]).all()
        assert (np.diff(places.mean(axis=1)) > 0).all()
        assert places[0, 0] >= 0
        assert places[-1, 1] <= pixels.shape[1] + 1
        contrast = np.ptp(pixels, axis=0) / np.ptp(pixels)
        inked += [contrast[round(left) : round(right)].max() for left, right in places[[0, 1, 3, 4]]]
        left, right = places[1, 1], places[3, 0]  # from ink to ink
        empty.append(contrast[round(left + (right - left) / 4) : round(right - (right - left) / 4)].mean())
    assert np.median(inked) > 0.8
    assert np.median(empty) < 0.4


@pytest.mark.parametrize(("paper", "ink"), [(220, 30), (40, 230)])
def test_the_ground_of_a_line_has_no_ink(paper, ink):
    line = np.full((96, 300), paper, np.uint8)
    line[30:60, 50:56] = line[30:36, 50:120] = ink
    assert np.abs(cut_ground(line).astype(int) - paper).max() < 25


def test_a_collection_has_every_text_and_the_same_bytes_whatever_the_processes(fonts, tmp_path):
    texts = [f"A{number}" for number in range(30)]
    faces, _ = choose_faces(str(fonts / "below"), texts)
    grounds = tmp_path / "grounds"
    grounds.mkdir()
    Image.new("L", (200, 60), 180).save(grounds / "paper.png")
    (grounds / "notes.txt").write_text("no image")
    found = [path for path, _, _ in find_grounds(str(grounds))]
    assert [Path(path).name for path in found] == ["notes.txt", "paper.png"]
    made = []
    for processes in (1, 2):
        folder = tmp_path / f"made{processes}"
        request = RenderingRequest(str(folder), texts, faces, found, 70, 3, ImageLimits())
        render_collection(request, processes)
        with open(folder / "labels.tsv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        assert len(rows) == 70
        assert {row["text"] for row in rows[:30]} == {row["text"] for row in rows[30:60]} == set(texts)
        made.append([(row["text"], (folder / row["path"]).read_bytes()) for row in rows])
    assert made[0] == made[1]
    only_notes = RenderingRequest(str(tmp_path), texts, faces, [str(grounds / "notes.txt")], 1, 0, ImageLimits())
    with pytest.raises(DataError, match=r"none of the images for grounds can be read.*notes\.txt"):
        render_collection(only_notes, 1)
