"""Every Python block of docs/models.md runs as it stands, and the ways that it shows give the same text."""

from __future__ import annotations

import re
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from components.recogniser import Decoding, Recogniser, load_recogniser
from tests.conftest import LINE_HEIGHT

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
    "places of words": "found.words",
    "alternatives": 'Decoding("beam"',
    "images that cannot be read": "return_rejects=True",
    "Beam": "RunInference(",
    "SavedModel": "saved_model.load",
    "TensorFlow Lite": "TFLiteConverter",
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


def test_words_have_places(folder, recogniser, capsys):
    (found,) = recogniser.recognise(["line.png"])
    printed = run_block(capsys, SIGNS["places of words"])
    assert printed == [f"{w.text}: pixels {w.start} to {w.end}, {w.confidence:.1%}" for w in found.words]
    assert [line.partition(":")[0] for line in printed] == found.text.split()


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


def save_turned(image: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save("line.png", exif=exif)


def save_tinted(image: Image.Image) -> None:
    """Red on a green of equal luma."""
    ink = image.point(lambda value: 255 - value)
    Image.merge("RGB", [ink, ink.point(lambda value: 130 - value // 2), Image.new("L", image.size)]).save("line.png")


def save_deep(image: Image.Image, factor: int) -> None:
    Image.fromarray(np.asarray(image).astype(np.uint16) * np.uint16(factor)).save("line.png")


PLAIN = {
    "RGB": lambda image: image.convert("RGB").save("line.png"),
    "bits": lambda image: image.convert("1").save("line.png"),
    "JPEG": lambda image: image.convert("RGB").save("line.png", "JPEG"),
    "TIFF": lambda image: image.save("line.png", "TIFF"),
    "turned": save_turned,
}
OTHERS = {
    "palette": lambda image: image.quantize(16).save("line.png"),
    "transparent colour": lambda image: image.save("line.png", transparency=image.getpixel((0, 0))),
    "grey and alpha": lambda image: image.convert("LA").save("line.png"),
    "colour and alpha": lambda image: image.convert("RGBA").save("line.png"),
    "CMYK": lambda image: image.convert("CMYK").save("line.png", "JPEG"),
    "16 bits": lambda image: save_deep(image, 257),
    "12 bits": lambda image: save_deep(image, 16),
    "equal luma": save_tinted,
    "animation": lambda image: image.save(
        "line.png", save_all=True, append_images=[image.point(lambda value: 255 - value)]
    ),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_onnx_runtime_alone_reads_other_plain_images_as_the_project_does(folder, recogniser, capsys, kind):
    PLAIN[kind](Image.open("line.png").copy())
    (found,) = recogniser.recognise(["line.png"])
    assert run_block(capsys, SIGNS["ONNX Runtime"]) == [found.text]


@pytest.mark.parametrize("kind", OTHERS)
def test_the_script_for_onnx_runtime_refuses_what_it_would_read_otherwise(folder, capsys, kind):
    OTHERS[kind](Image.open("line.png").copy())
    with pytest.raises(SystemExit, match=r"line\.png has to be one picture, grey or RGB of 8 bits"):
        run_block(capsys, SIGNS["ONNX Runtime"])


def test_tensorflow_lite_scores_as_tensorflow_does(folder, capsys):
    run_block(capsys, SIGNS["TensorFlow Lite"])
    score = tf.saved_model.load("work/models/ID/saved_model").signatures["score"]
    lite = tf.lite.Interpreter("model.tflite").get_signature_runner("score")
    chooser = np.random.default_rng(0)
    for count, width in ((1, 64), (3, 100)):
        images = chooser.integers(0, 256, (count, LINE_HEIGHT, width, 1), np.uint8)
        widths = chooser.integers(8, width + 1, count, np.int32)
        wanted, found = (
            score(images=tf.constant(images), widths=tf.constant(widths)),
            lite(images=images, widths=widths),
        )
        np.testing.assert_allclose(found["logits"], wanted["logits"], atol=1e-3)
        np.testing.assert_array_equal(found["time_steps"], wanted["time_steps"])


def test_keras_loads_the_network(folder, recogniser, capsys):
    (line,) = run_block(capsys, SIGNS["Keras"])
    assert line.startswith("(1, ")
    assert line.endswith(f", {recogniser.charset.classes})")
