"""Every Python block of docs/models.md runs as it stands, and the ways that it shows give the same text."""

from __future__ import annotations

import re
import runpy
import shutil
from pathlib import Path

import pytest

from components.recogniser import Decoding, Recogniser, load_recogniser

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tiny_model, tiny_images, tmp_path, monkeypatch) -> Path:
    """What the page supposes: a workspace `work/`, an image `line.png`, and more in `scans/`."""
    shutil.copytree(tiny_model, tmp_path / "work" / "models" / "ID")
    (tmp_path / "work" / "models" / "ACCEPTED").write_text("ID\n")
    (tmp_path / "scans").mkdir()
    paths = sorted(tiny_images.glob("*.png"))
    shutil.copy(paths[3], tmp_path / "line.png")
    for number, path in enumerate(paths[4:8]):
        shutil.copy(path, tmp_path / "scans" / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    return tmp_path


@pytest.fixture
def recogniser(folder) -> Recogniser:
    return load_recogniser(folder / "work")


def run_block(capsys, sign: str) -> list[str]:
    """Runs the one block that contains a sign as a script, and returns the lines that it prints."""
    (block,) = [block for block in BLOCKS if sign in block]
    Path("script.py").write_text(block, encoding="utf-8")
    capsys.readouterr()
    runpy.run_path("script.py", run_name="__main__")
    return capsys.readouterr().out.splitlines()


SIGNS = {
    "two images": '"scans/1.png"]):\n',
    "three forms of an image": "content, pixels]",
    "alternatives": 'Decoding("beam"',
    "images that cannot be read": "return_rejects=True",
    "Beam": "RunInference(",
    "SavedModel": "saved_model.load",
    "ONNX Runtime": "InferenceSession(",
    "Keras": "load_model(",
}


def test_every_block_is_run_by_a_test():
    for block in BLOCKS:
        assert sum(sign in block for sign in SIGNS.values()) == 1, block


def test_images_are_recognised_in_two_lines(folder, recogniser, capsys):
    wanted = recogniser.recognise(["line.png", "scans/1.png"])
    assert run_block(capsys, SIGNS["two images"]) == [f"{found.text} {found.confidence}" for found in wanted]


def test_a_file_its_bytes_and_its_pixels_are_said_to_be_equal_and_are(folder, recogniser, capsys):
    (found,) = recogniser.recognise(["line.png"])
    assert found.text
    assert run_block(capsys, SIGNS["three forms of an image"]) == [found.text] * 3


def test_alternatives_come_best_first(folder, capsys):
    first, *others = run_block(capsys, SIGNS["alternatives"])
    beam = load_recogniser("work/", decoding=Decoding("beam", beam_width=5))
    (found,) = beam.recognise(["line.png"])
    assert first == f"{found.text} with {found.confidence:.1%}"
    assert [line.split()[1] for line in others] == [text for text, _ in found.alternatives if text]
    assert 0 < len(others) < 5


def test_an_image_that_cannot_be_read_is_left_out_in_its_place(folder, recogniser, capsys):
    first, last = recogniser.recognise(["line.png", "scans/1.png"])
    assert run_block(capsys, SIGNS["images that cannot be read"]) == [
        first.text,
        "left out: gone.png: unreadable: No such file or directory",
        last.text,
    ]


def test_stock_run_inference_recognises_every_image(folder, recogniser, capsys):
    paths = sorted(str(path) for path in Path("scans").glob("*.png"))
    texts = {path: found.text for path, found in zip(paths, recogniser.recognise(paths), strict=True)}
    printed = [line.split(" ") for line in run_block(capsys, SIGNS["Beam"])]
    assert len(printed) == 4
    assert {path: text for path, text, _ in printed} == texts


def test_tensorflow_alone_gives_the_same_text_and_confidence(folder, recogniser, capsys):
    (found,) = recogniser.recognise(["line.png"])
    ((text, confidence),) = [line.split() for line in run_block(capsys, SIGNS["SavedModel"])]
    assert text == found.text
    assert float(confidence) == pytest.approx(found.confidence, rel=1e-3)


def test_onnx_runtime_alone_gives_the_same_text(folder, recogniser, capsys):
    (found,) = recogniser.recognise(["line.png"])
    assert run_block(capsys, SIGNS["ONNX Runtime"]) == [found.text]


def test_keras_loads_the_network(folder, recogniser, capsys):
    (line,) = run_block(capsys, SIGNS["Keras"])
    assert line.startswith("(1, ")
    assert line.endswith(f", {recogniser.charset.classes})")
