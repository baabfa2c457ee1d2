"""The Python API: a recogniser from a workspace or a folder, and images in every form."""

from __future__ import annotations

import io
import itertools
import math
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from components.recogniser import (
    DataError,
    Decoding,
    ImageLimits,
    ImageRejected,
    Recogniser,
    Recognition,
    find_model,
    load_recogniser,
    make_line,
)
from components.recogniser import model as model_file
from components.recogniser.handler import LineModelHandler
from tfrecords import read_line


@pytest.fixture(scope="module")
def workspace(tiny_model, tmp_path_factory) -> Path:
    """A workspace whose accepted model is the tiny one."""
    folder = tmp_path_factory.mktemp("workspace")
    shutil.copytree(tiny_model, folder / "models" / "tinymodel000")
    (folder / "models" / "ACCEPTED").write_text("tinymodel000\n")
    return folder


@pytest.fixture(scope="module")
def recogniser(tiny_model) -> Recogniser:
    return load_recogniser(tiny_model, engine="onnx")


@pytest.fixture(scope="module")
def paths(tiny_images) -> list[Path]:
    return sorted(tiny_images.glob("*.png"))


# What is loaded


@pytest.mark.parametrize("form", [str, Path, lambda path: f"{path}/"])
def test_a_workspace_stands_for_its_accepted_model(workspace, form):
    recogniser = load_recogniser(form(workspace), engine="onnx")
    assert recogniser.manifest.model_id == "tinymodel000"
    assert find_model(form(workspace)) == str(workspace / "models" / "tinymodel000")


def test_the_folder_of_a_model_is_loaded_whether_it_was_accepted_or_not(tiny_model):
    assert find_model(tiny_model) == str(tiny_model)
    assert load_recogniser(str(tiny_model), engine="onnx").manifest.model_id == "tinymodel000"


def test_a_workspace_and_images_may_lie_in_an_object_store(workspace, recogniser, paths):
    memory = fsspec.filesystem("memory")
    bucket = f"memory://{uuid.uuid4().hex}"
    memory.put(str(workspace), f"{bucket}/work", recursive=True)
    memory.put(str(paths[3]), f"{bucket}/line.png")
    found = load_recogniser(f"{bucket}/work", engine="onnx").recognise([f"{bucket}/line.png"])
    assert list(found) == list(recogniser.recognise([paths[3]]))


def test_a_folder_that_holds_nothing_to_load_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(DataError, match="is neither the folder of a model nor a workspace with an accepted"):
        load_recogniser(tmp_path)


def test_a_dataset_is_no_model(tiny_dataset):
    with pytest.raises(DataError, match=r"the manifest in .* is not that of a model"):
        load_recogniser(tiny_dataset)


def test_an_accepted_model_that_is_gone_is_named(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "ACCEPTED").write_text("0123456789ab\n")
    with pytest.raises(DataError, match=r"model 0123456789ab, which .*ACCEPTED names, is gone from .*run the train"):
        load_recogniser(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"engine": "onyx"}, "engine is 'onyx', but must be one of auto, tensorflow, onnx"),
        ({"threads": 0}, "threads must be at least 1, not 0"),
    ],
)
def test_a_wrong_argument_is_an_error_at_once(tiny_model, wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        load_recogniser(tiny_model, **wrong)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"decoder": "beams"}, "decoder is 'beams', but must be one of auto, greedy, beam, lexicon"),
        ({"decoder": "beam", "beam_width": 0}, "beam_width must be at least 1, not 0"),
        ({"decoder": "lexicon"}, "decoder='lexicon' and lexicon=FILE go together"),
        ({"lexicon": "words.txt"}, "decoder='lexicon' and lexicon=FILE go together"),
    ],
)
def test_a_decoding_that_cannot_be_is_an_error_at_once(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        Decoding(**arguments)


# What is recognised


def test_results_come_in_order_with_text_confidences_and_nothing_else_from_greedy_decoding(recogniser, paths):
    found = list(recogniser.recognise(paths))
    assert len({recognition.text for recognition in found}) > 10
    for path, recognition in zip(paths, found, strict=True):
        line = read_line(path.read_bytes(), 32, ImageLimits()).pixels
        (alone,) = recogniser.recognise_lines([line])
        assert recognition.text == alone.text
        assert recognition.confidence == pytest.approx(alone.confidence, rel=1e-3)
        assert len(recognition.symbol_confidences) == len(recognition.text)
        assert (recognition.alternatives, recognition.margin) == ([], None)


@pytest.mark.parametrize("name", ["greedy", "beam", "lexicon"])
def test_every_symbol_and_word_has_a_place_in_the_pixels_of_the_image_whatever_its_size(
    tiny_model, recogniser, paths, tmp_path, name
):
    words = tmp_path / "words.txt"
    words.write_text("".join(f"{found.text}\n" for found in recogniser.recognise(paths) if found.text))
    decoding = Decoding(name, lexicon=str(words) if name == "lexicon" else None)
    decoder = load_recogniser(tiny_model, engine="onnx", decoding=decoding)
    found = list(decoder.recognise(paths))
    images = [Image.open(path) for path in paths]
    larger = [image.resize((3 * image.width, 3 * image.height), Image.Resampling.NEAREST) for image in images]
    moved = []
    for image, one, other in zip(images, found, decoder.recognise(larger), strict=True):
        edges = [edge for span in one.symbol_spans for edge in span]
        assert len(edges) == 2 * len(one.text)
        assert edges == sorted(edges)
        assert all(0 <= edge <= image.width for edge in edges)
        if one.text:
            ((text, confidence, start, end),) = one.words
            assert (text, start, end) == (one.text, edges[0], edges[-1])
            assert confidence == pytest.approx(math.prod(one.symbol_confidences))
        if other.text == one.text:
            places = [edge for span in other.symbol_spans for edge in span]
            moved += [abs(place / 3 - edge) for place, edge in zip(places, edges, strict=True)]
    assert np.median(moved) < 1
    assert len(moved) > 20
    assert sum(bool(one.words) for one in found) > 15


def grey(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("L"))


@pytest.mark.parametrize(
    "form",
    [
        str,
        Path.read_bytes,
        lambda path: bytearray(path.read_bytes()),
        lambda path: memoryview(path.read_bytes()),
        Image.open,
        grey,
        lambda path: grey(path)[:, :, None],
        lambda path: np.asfortranarray(grey(path)),
        lambda path: np.repeat(grey(path)[:, :, None], 3, axis=2),
        lambda path: np.dstack([*[grey(path)] * 3, np.full_like(grey(path), 255)]),
    ],
    ids=["path", "bytes", "bytearray", "memoryview", "Pillow", "grey", "one channel", "Fortran", "RGB", "RGBA"],
)
def test_a_file_its_bytes_and_its_pixels_give_the_same(recogniser, paths, form):
    assert {grey(path).shape[0] for path in paths} != {32}  # they are scaled
    assert list(recogniser.recognise(map(form, paths))) == list(recogniser.recognise(paths))


def test_transparency_and_orientation_of_a_pillow_image_are_those_of_its_file(tmp_path, paths):
    ink = Image.new("RGBA", (60, 40), (255, 255, 255, 0))
    ink.paste((10, 40, 90, 200), (5, 8, 40, 30))
    ink.save(tmp_path / "ink.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(paths[2]).save(tmp_path / "turned.jpg", exif=exif)
    for name in ("ink.png", "turned.jpg"):
        from_file, from_pixels = make_line(tmp_path / name, 32), make_line(Image.open(tmp_path / name), 32)
        np.testing.assert_array_equal(from_file.pixels, from_pixels.pixels)
        assert (from_file.source_width, from_file.source_height) == (
            from_pixels.source_width,
            from_pixels.source_height,
        )


def test_a_stack_of_arrays_is_a_batch_of_images(recogniser, paths):
    line = make_line(paths[1], 32).pixels
    found = list(recogniser.recognise(np.stack([line, 255 - line])))
    assert found == list(recogniser.recognise([line, 255 - line]))


def test_a_wide_beam_gives_other_texts_and_a_margin(tiny_model, paths):
    recogniser = load_recogniser(tiny_model, engine="onnx", decoding=Decoding("beam", beam_width=5))
    for found in recogniser.recognise(paths[:4]):
        text, log_probability = found.alternatives[0]
        assert text != found.text
        assert found.margin == pytest.approx(math.log(found.confidence) - log_probability)


def test_a_lexicon_gives_one_of_its_words(tiny_model, paths, tmp_path):
    (tmp_path / "words.txt").write_text("11\n1231\nb0b\n")
    decoding = Decoding("lexicon", lexicon=str(tmp_path / "words.txt"))
    recogniser = load_recogniser(tiny_model, engine="onnx", decoding=decoding)
    assert {found.text for found in recogniser.recognise(paths)} <= {"11", "1231", "b0b"}


def test_images_are_taken_as_results_are_asked_for(recogniser, paths, monkeypatch):
    monkeypatch.setattr(model_file, "_READ_AHEAD", 6)
    taken = 0

    def endless():
        nonlocal taken
        for path in itertools.cycle(paths[:8]):
            taken += 1
            yield path

    found = recogniser.recognise(endless())
    assert taken == 0
    texts = [next(found).text for _ in range(15)]
    assert taken == 18
    wanted = [recognition.text for recognition in recogniser.recognise(paths[:8])]
    assert texts == [*wanted, *wanted[:7]]


def test_no_image_gives_no_result(recogniser):
    assert list(recogniser.recognise([])) == []


# What cannot be read


@pytest.fixture
def with_bad_ones(paths, tmp_path) -> list:
    """Good images between a missing file, a text, half a PNG, a speck and an empty array."""
    (tmp_path / "text.png").write_text("no image")
    half = paths[0].read_bytes()[:-20]
    speck = np.zeros((2, 40), np.uint8)
    nothing = np.zeros((0, 0), np.uint8)
    return [paths[0], tmp_path / "gone.png", paths[1], str(tmp_path / "text.png"), half, speck, nothing, paths[2]]


def test_an_image_that_cannot_be_read_raises_in_its_turn_after_the_results_before_it(recogniser, with_bad_ones):
    found = recogniser.recognise(with_bad_ones)
    assert next(found).text
    with pytest.raises(ImageRejected, match=r"gone\.png: unreadable: No such file or directory$") as caught:
        next(found)
    assert caught.value.reason == "unreadable"
    assert caught.value.image.endswith("gone.png")


def test_rejects_can_be_returned_in_their_places(recogniser, with_bad_ones, paths):
    found = list(recogniser.recognise(with_bad_ones, return_rejects=True))
    good = [outcome for outcome in found if isinstance(outcome, Recognition)]
    assert [outcome.text for outcome in good] == [outcome.text for outcome in recogniser.recognise(paths[:3])]
    kinds = [outcome.reason if isinstance(outcome, ImageRejected) else "" for outcome in found]
    assert kinds == ["", "unreadable", "", "not_an_image", "truncated", "too_small", "too_small", ""]
    assert str(found[4]).startswith("images[4]: truncated: the PNG ends at byte ")
    assert str(found[5]) == "images[5]: too_small: 40x2 pixels: a line has at least 4 on each side"


@pytest.mark.parametrize("form", [Path, Path.read_bytes, grey])
def test_limits_are_the_callers(recogniser, paths, form):
    limits = ImageLimits(max_line_width=10)
    (found,) = recogniser.recognise([form(paths[4])], return_rejects=True, limits=limits)
    assert (found.reason, "max_line_width=10" in found.detail) == ("too_large", True)


def test_a_file_of_too_many_bytes_is_not_read(recogniser, tmp_path, monkeypatch):
    monkeypatch.setattr("components.recogniser.images.read_regular_file", None)
    with open(tmp_path / "huge.png", "wb") as file:
        file.truncate(1001)
    (found,) = recogniser.recognise([tmp_path / "huge.png"], return_rejects=True, limits=ImageLimits(max_bytes=1000))
    assert found.reason == "too_large"


def test_half_a_pillow_image_is_truncated_as_its_file_is(recogniser, paths):
    noise = np.random.default_rng(0).integers(0, 256, (64, 400), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    image = Image.open(io.BytesIO(file.getvalue()[:9000]))
    (found,) = recogniser.recognise([image], return_rejects=True)
    assert found.reason == "truncated"


@pytest.mark.parametrize("one", ["line.png", b"bytes", Path("line.png"), np.zeros((32, 40), np.uint8)], ids=repr)
def test_one_image_in_the_place_of_several_is_a_mistake(recogniser, one):
    with pytest.raises(TypeError, match=r"takes several images, not one .*: give it \[image\]"):
        recogniser.recognise(one)


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (np.zeros((32, 40)), r"must be uint8 \[height, width\].*, not float64 \[32, 40\]"),
        (np.zeros((32, 40, 2), np.uint8), r"not uint8 \[32, 40, 2\]"),
        (7, r"images\[0\] is a int, but must be a path, the bytes of an image file"),
    ],
)
def test_what_is_no_image_at_all_is_a_mistake(recogniser, image, sentence):
    with pytest.raises(TypeError, match=sentence):
        list(recogniser.recognise([image]))


# What is imported


def test_recognising_with_onnx_imports_neither_tensorflow_nor_beam(workspace, paths):
    program = (
        "import sys\n"
        "from components.recogniser import load_recogniser\n"
        f"(found,) = load_recogniser({str(workspace)!r}).recognise([{str(paths[0])!r}])\n"
        "heavy = {'tensorflow', 'keras', 'apache_beam', 'tf2onnx', 'matplotlib', 'tfx_bsl', 'onnxruntime'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    environment = {"CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "['onnxruntime']", done.stderr
    assert done.stderr == ""


def test_lines_for_a_beam_handler_are_made_from_the_same_images(tiny_model, recogniser, paths):
    handler = LineModelHandler(find_model(tiny_model), "onnx")
    lines = [make_line(path, 32).pixels for path in paths]
    found = list(handler.run_inference(lines, handler.load_model()))
    assert [one.text for one in found] == [one.text for one in recogniser.recognise(paths)]
