"""Text that does not run from left to right: Hebrew and Arabic labels as a person reads them, and vertical lines."""

from __future__ import annotations

import dataclasses
import io
import json
import random
import shutil
from pathlib import Path

import duckdb
import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont, features

from components.metrics import ErrorCounts
from components.recogniser import load_recogniser
from components.recogniser.manifest import ModelManifest
from components.review.page import choose_with_images
from components.review.selection import DoubtfulText
from pipeline.command_line import parse_options
from pipeline.exits import EXIT_DONE, EXIT_REFUSED
from pipeline.steps.training_start import find_kept_symbols, find_start
from pipeline.workspace import Workspace
from tests.commands import make_workspace, run_command
from tests.components.ingest.written import parse_shard
from tests.pipeline.steps.test_fine_tuning import change_charset
from tfrecords import Charset, DataError, DatasetManifest, ImageLimits, decode_png

SHALOM = "שלום"
LABELS = [f"{SHALOM} 12", "(ספר) abc", "12 - 34", "abc (12)", "בית 5.5%", "אבגד"]
SHARES = ("--validation_fraction=0.2", "--test_fraction=0.2")


@pytest.fixture
def lines(tmp_path) -> Path:
    """Noisy lines with labels in text files beside them; nothing in them is to be read."""
    folder = tmp_path / "lines"
    folder.mkdir()
    for number, label in enumerate(LABELS * 4):
        Image.effect_noise((200, 32), 90).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(label, encoding="utf-8")
    return folder


def ingest(workspace: Path, lines: Path, *flags: str) -> int:
    return run_command(workspace, "--steps=ingest", f"--images={lines}", "--height=32", *SHARES, *flags)


def read_dataset(workspace: Path) -> tuple[DatasetManifest, dict[str, str]]:
    """The latest dataset, and how each label stands on its image, by the label."""
    folder = workspace / "datasets" / (workspace / "datasets" / "LATEST").read_text().strip()
    manifest = DatasetManifest.read(str(folder))
    symbols = manifest.read_charset(str(folder)).symbols
    examples = [example for shard in manifest.shards for example in parse_shard(folder / shard.name)]
    seen = {example["text"]: "".join(symbols[i] for i in example["label"]) for example in examples}
    return manifest, seen


def test_labels_are_stored_as_typed_and_encoded_as_seen(lines, tmp_path, capsys):
    assert ingest(tmp_path / "ws", lines) == EXIT_DONE
    manifest, seen = read_dataset(tmp_path / "ws")
    assert manifest.base_direction == "mixed_rtl"
    assert seen == {
        f"{SHALOM} 12": f"12 {SHALOM[::-1]}",
        "(ספר) abc": "abc (רפס)",
        "12 - 34": "12 - 34",
        "abc (12)": "abc (12)",
        "בית 5.5%": "5.5% תיב",
        "אבגד": "דגבא",
    }
    assert "right to left where a line has both: see --base_direction" in capsys.readouterr().out


def test_a_given_direction_holds_for_every_line_and_visual_labels_stay(lines, tmp_path):
    assert ingest(tmp_path / "ws", lines, "--base_direction=rtl") == EXIT_DONE
    assert read_dataset(tmp_path / "ws")[1]["12 - 34"] == "34 - 12"
    assert ingest(tmp_path / "ws", lines, "--base_direction=ltr") == EXIT_DONE
    assert read_dataset(tmp_path / "ws")[1]["(ספר) abc"] == "(רפס) abc"
    assert ingest(tmp_path / "ws", lines, "--base_direction=visual") == EXIT_DONE
    manifest, seen = read_dataset(tmp_path / "ws")
    assert manifest.base_direction == "visual"
    assert all(text == label for text, label in seen.items())


def test_a_direction_changes_no_dataset_without_right_to_left_letters(tmp_path, tiny_images):
    ids = set()
    for direction in ("auto", "visual"):
        assert ingest(tmp_path / "ws", tiny_images, f"--base_direction={direction}") == EXIT_DONE
        manifest, _ = read_dataset(tmp_path / "ws")
        ids.add(manifest.dataset_id)
        assert (manifest.base_direction, manifest.vertical) == ("visual", False)
    assert len(ids) == 1


def test_a_bracket_that_only_its_pair_brings_is_no_symbol_that_cannot_be_learned(lines, tmp_path):
    for path in lines.glob("*.txt"):
        path.write_text(path.read_text(encoding="utf-8").replace("(", ""), encoding="utf-8")
    assert ingest(tmp_path / "ws", lines) == EXIT_DONE
    manifest, seen = read_dataset(tmp_path / "ws")
    assert seen["ספר) abc"] == "abc (רפס"
    assert not any("cannot be learned" in warning and "in no image" in warning for warning in manifest.warnings)


def test_a_bracket_that_no_label_from_left_to_right_has_cannot_be_learned(tmp_path):
    folder = tmp_path / "lines"
    folder.mkdir()
    for number in range(12):
        Image.effect_noise((200, 32), 90).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("ab(")
    (tmp_path / "charset.txt").write_text("a\nb\n(\n)\n")
    assert ingest(tmp_path / "ws", folder, f"--charset={tmp_path}/charset.txt") == EXIT_DONE
    manifest, _ = read_dataset(tmp_path / "ws")
    assert any("')'" in warning and "in no image" in warning for warning in manifest.warnings)


def test_added_images_follow_the_direction_of_the_dataset(lines, tmp_path, capsys):
    assert ingest(tmp_path / "ws", lines, "--base_direction=visual") == EXIT_DONE
    new = tmp_path / "new"
    new.mkdir()
    Image.effect_noise((200, 32), 90).save(new / "n.png")
    (new / "n.txt").write_text(f"{SHALOM} 34", encoding="utf-8")
    assert ingest(tmp_path / "ws", new, "--add_to=LATEST", "--base_direction=rtl") == EXIT_REFUSED
    assert "the order in which symbols are seen: leave the flag out" in capsys.readouterr().err
    assert ingest(tmp_path / "ws", new, "--add_to=LATEST") == EXIT_DONE
    manifest, seen = read_dataset(tmp_path / "ws")
    assert manifest.base_direction == "visual"
    assert seen[f"{SHALOM} 34"] == f"{SHALOM} 34"


def test_a_dataset_from_left_to_right_gets_a_direction_with_the_first_letters_that_have_another(lines, tmp_path):
    plain = tmp_path / "plain"
    plain.mkdir()
    for number in range(12):
        Image.effect_noise((200, 32), 90).save(plain / f"p{number}.png")
        (plain / f"p{number}.txt").write_text("abc (12)")
    assert ingest(tmp_path / "ws", plain) == EXIT_DONE
    assert ingest(tmp_path / "ws", lines, "--add_to=LATEST") == EXIT_DONE
    manifest, seen = read_dataset(tmp_path / "ws")
    assert manifest.base_direction == "mixed_rtl"
    assert (seen["abc (12)"], seen["אבגד"]) == ("abc (12)", "דגבא")


def test_a_model_gives_its_texts_as_they_are_read_with_the_confidence_of_each_symbol(tiny_model, tiny_images, tmp_path):
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    charset = Charset(tuple(" 12abאב"))  # as many symbols as those of the tiny dataset
    change_charset(folder, charset)
    image = sorted(tiny_images.glob("*.png"))[3]
    (seen,) = load_recogniser(folder, engine="onnx").recognise([image])
    change_charset(folder, charset, base_direction="rtl")
    recogniser = load_recogniser(folder, engine="onnx")
    (read,) = recogniser.recognise([image])
    assert any(symbol in "אב" for symbol in seen.text)
    assert recogniser.charset.encode(read.text) == Charset(charset.symbols).encode(seen.text)
    assert read.text != seen.text
    assert sorted(zip(read.text, read.symbol_confidences, strict=True)) == sorted(
        zip(seen.text, seen.symbol_confidences, strict=True)
    )
    assert read.symbol_confidences != seen.symbol_confidences
    assert read.confidence == seen.confidence
    assert sorted(read.symbol_spans) == list(seen.symbol_spans)
    assert sorted(zip(read.text, read.symbol_spans, strict=True)) == sorted(
        zip(seen.text, seen.symbol_spans, strict=True)
    )
    assert read.symbol_spans != seen.symbol_spans
    assert read.words[0].start == min(read.symbol_spans[: len(read.words[0].text)])[0]


def test_a_model_with_a_direction_that_does_not_exist_is_refused(tiny_model, tmp_path):
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**content, "base_direction": "down"}))
    with pytest.raises(DataError, match="base direction 'down', which must be one of visual, ltr"):
        load_recogniser(folder, engine="onnx")


def test_right_to_left_letters_are_not_kept_where_a_dataset_does_not_say_how_they_stand(
    tiny_dataset, tiny_model, tmp_path
):
    folder = Path(shutil.copytree(tiny_model, tmp_path / "start"))
    manifest = change_charset(folder, Charset(tuple("0123abא")), base_direction="mixed_rtl")
    dataset = DatasetManifest.read(str(tiny_dataset))
    with pytest.raises(DataError, match="writes right-to-left text, of which dataset tinydataset0 has none: ingest"):
        find_kept_symbols(parse_options([]), (str(folder), manifest), dataset, str(tiny_dataset))
    named = tmp_path / "charset.txt"
    named.write_text("0\n1\n2\n3\na\nb\nc\nx")
    options = parse_options([f"--charset={named}"])
    assert find_kept_symbols(options, (str(folder), manifest), dataset, str(tiny_dataset)) == "x"


# Vertical lines


@pytest.fixture
def columns(tmp_path) -> Path:
    """Columns: each has a mark at its top."""
    folder = tmp_path / "columns"
    folder.mkdir()
    for number in range(20):
        pixels = np.full((200 + number, 32), 255, np.uint8)
        pixels[:20, 4:28] = 0
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text("中文字典"[: 2 + number % 3], encoding="utf-8")
    return folder


def test_vertical_lines_are_turned_so_that_the_first_symbol_is_the_leftmost(columns, tmp_path):
    assert ingest(tmp_path / "ws", columns, "--vertical") == EXIT_DONE
    manifest, _ = read_dataset(tmp_path / "ws")
    assert manifest.vertical
    folder = tmp_path / "ws" / "datasets" / manifest.dataset_id
    for shard in manifest.shards:
        for example in parse_shard(folder / shard.name):
            line = decode_png(example["image"])
            assert line.shape[0] == 32
            assert line.shape[1] >= 200
            assert line[4:28, :19].max() < 10
            assert line[:, 24:].min() > 245


def test_columns_that_are_taken_for_lines_are_refused_with_the_way_out(columns, tmp_path, capsys):
    assert ingest(tmp_path / "ws", columns) == EXIT_REFUSED
    assert "if its text runs from top to bottom, use --vertical" in capsys.readouterr().err


def test_images_are_added_only_to_a_dataset_whose_lines_run_alike(columns, tmp_path, capsys):
    assert ingest(tmp_path / "ws", columns, "--vertical") == EXIT_DONE
    assert ingest(tmp_path / "ws", columns, "--add_to=LATEST") == EXIT_REFUSED
    assert "has vertical lines: ingest with --vertical" in capsys.readouterr().err


def test_a_model_of_vertical_lines_turns_every_image_that_it_reads(tiny_model, tiny_images, tmp_path):
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    upright = tmp_path / "upright"
    upright.mkdir()
    paths = sorted(tiny_images.glob("*.png"))
    for path in paths:
        with Image.open(path) as image:
            image.transpose(Image.Transpose.ROTATE_270).save(upright / path.name)
    across = list(load_recogniser(folder, engine="onnx").recognise(paths))
    expected = [found.text for found in across]
    dataclasses.replace(ModelManifest.read(str(folder)), vertical=True).write(str(folder))
    turned = sorted(upright.glob("*.png"))
    down = list(load_recogniser(folder, engine="onnx").recognise(turned))
    assert [found.text for found in down] == expected
    assert [found.symbol_spans for found in down] == [found.symbol_spans for found in across], "along the text"
    workspace = make_workspace(tmp_path / "ws", folder)
    assert run_command(workspace, "--steps=infer", f"--infer_images={upright}", "--alarm_confidence=0") == EXIT_DONE
    rows = duckdb.sql(
        f"select uri, text, width, height, symbol_spans from '{workspace}/predictions/**/*.parquet' order by uri"
    ).fetchall()
    assert [(row[0], row[1]) for row in rows] == [
        (str(path), text) for path, text in zip(turned, expected, strict=True)
    ]
    with Image.open(turned[0]) as image:
        assert rows[0][2:4] == image.size, "width and height are those of the image as it lies there"
    for row, found in zip(rows, down, strict=True):
        assert [(span["start"], span["end"]) for span in row[4]] == list(found.symbol_spans)
        assert all(span["end"] <= row[3] for span in row[4])


def test_a_page_for_review_shows_columns_upright(columns):
    doubtful = [
        DoubtfulText(str(path), "中", 0.5, "m", "r", None, ("", 0, 0)) for path in sorted(columns.glob("*.png"))[:2]
    ]
    ((_, picture), _), gone = choose_with_images(iter(doubtful), 2, ImageLimits(), True)
    assert gone == 0
    with Image.open(io.BytesIO(picture)) as image:
        assert image.width == 64
        assert image.height >= 400
        assert np.asarray(image)[:30, 20:44].max() < 10


def test_a_model_of_horizontal_lines_is_no_start_for_vertical_ones(tiny_dataset, tiny_model, tmp_path):
    options = parse_options([f"--workspace={tmp_path}", f"--init_from={tiny_model}"])
    dataset = dataclasses.replace(DatasetManifest.read(str(tiny_dataset)), vertical=True)
    with pytest.raises(
        DataError, match="reads horizontal lines, but dataset tinydataset0 has vertical lines: ingest wi"
    ):
        find_start(options, Workspace(str(tmp_path)), dataset, str(tiny_dataset), 4.0)


# The whole way


def find_missing_layout() -> str | None:
    """Says why Pillow draws no right-to-left text here; None if it does."""
    return None if features.check("raqm") and features.check("fribidi") else "the library fribidi is not installed"


@pytest.mark.slow
@pytest.mark.tool.with_args(find_missing_layout)
def test_hebrew_is_learned_from_labels_as_they_are_typed(tmp_path):
    face = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf"
    chooser = random.Random(5)
    for part, count in (("lines", 500), ("new", 40)):
        (tmp_path / part).mkdir()
        for number in range(count):
            words = ["".join(chooser.choices("אבגדהח", k=chooser.randint(2, 4))) for _ in range(2)]
            text = chooser.choice(["{0} {2} {1}", "{0} ({1})", "{0} ab {1}", "{2} {0}"]).format(
                *words, chooser.randrange(10, 99)
            )
            font = ImageFont.truetype(face, chooser.randint(28, 34), layout_engine=ImageFont.Layout.RAQM)
            left, top, right, bottom = font.getbbox(text, direction="rtl")
            image = Image.new("L", (round(right - left) + 20, round(bottom - top) + 14), chooser.randint(200, 250))
            where = (10 - left, 7 - top)
            ImageDraw.Draw(image).text(where, text, font=font, fill=chooser.randint(0, 60), direction="rtl")
            image.save(tmp_path / part / f"{part}{number:03d}.png")
            if part == "lines":
                (tmp_path / part / f"{part}{number:03d}.txt").write_text(text, encoding="utf-8")
            else:
                with open(tmp_path / "truth.tsv", "a", encoding="utf-8") as file:
                    file.write(f"{part}{number:03d}.png\t{text}\n")
    flags = ("--height=32", "--epochs=25", "--batch_size=16", "--seed=1")
    steps = ("--steps=ingest,train,evaluate,infer", f"--images={tmp_path}/lines", f"--infer_images={tmp_path}/new")
    assert run_command(tmp_path / "ws", *steps, *flags) == EXIT_DONE
    rows = dict(
        duckdb.sql(f"select parse_filename(uri), text from '{tmp_path}/ws/predictions/**/*.parquet'").fetchall()
    )
    truth = dict(line.split("\t") for line in (tmp_path / "truth.tsv").read_text(encoding="utf-8").splitlines())
    counts = sum((ErrorCounts.from_texts(text, rows[name]) for name, text in truth.items()), ErrorCounts())
    assert counts.cer < 0.05, [(text, rows[name]) for name, text in truth.items() if rows[name] != text]
