"""Blank fields with empty labels, from a label table to what the model reads on them."""

import csv
import json
import random
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image, ImageDraw, ImageFont

from components.training.data import load_examples, make_training_batches
from pipeline.exits import EXIT_DONE, EXIT_REFUSED
from tests.commands import run_command
from tests.pipeline.steps.test_add_to import examples, latest
from tfrecords import DatasetManifest

SHARES = ("--validation_fraction=0.2", "--test_fraction=0.2")


def draw_field(path: Path, text: str, seed: int) -> None:
    """A field of a form with a frame, 160×48 pixels, blank for an empty text."""
    grain = np.random.default_rng(seed).normal(225, 4, (48, 160)).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(grain)
    ImageDraw.Draw(image).text((10, 6), text, font=ImageFont.load_default(30), fill=40)
    image.save(path)


def put_fields(folder: Path, texts: list[str]) -> Path:
    folder.mkdir()
    for number, text in enumerate(texts):
        draw_field(folder / f"{number:03d}.png", text, number)
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "text"), *((f"{n:03d}.png", text) for n, text in enumerate(texts))])
    return folder


def make_texts(count: int, every: int = 6) -> list[str]:
    chooser = random.Random(1)
    return ["" if n % every == 0 else "".join(chooser.choices("ABCDEF", k=4)) for n in range(count)]


def statistics(workspace: Path) -> dict:
    return json.loads((latest(workspace) / "statistics.json").read_text())


def ingest(workspace: Path, images: Path, *flags: str) -> int:
    return run_command(workspace, "--steps=ingest", f"--images={images}", *SHARES, *flags)


def test_empty_labels_are_rejects_by_default_and_examples_where_they_are_kept(tmp_path, capsys):
    texts = make_texts(60)
    images = put_fields(tmp_path / "fields", texts)
    assert ingest(tmp_path / "ws", images) == EXIT_REFUSED
    said = capsys.readouterr()
    assert "(10 empty_label)" in said.err + said.out
    assert "--empty_labels=keep takes" in said.err + said.out
    assert ingest(tmp_path / "ws", images, "--max_reject_fraction=0.5") == EXIT_DONE
    assert "10 rejected (10 empty_label)" in capsys.readouterr().out
    without = latest(tmp_path / "ws")
    assert ingest(tmp_path / "ws", images, "--empty_labels=keep") == EXIT_DONE
    assert latest(tmp_path / "ws") != without
    assert "blank in grey" not in capsys.readouterr().out
    found = {Path(uri).stem: one for split in examples(latest(tmp_path / "ws")).values() for uri, one in split.items()}
    assert {name: (text, len(label)) for name, (text, _, label) in found.items()} == {
        f"{n:03d}": (text, len(text)) for n, text in enumerate(texts)
    }
    lengths = [pair for split in statistics(tmp_path / "ws")["splits"].values() for pair in split["label_lengths"]]
    assert sum(count for length, count in lengths if length == 0) == 10
    roles = pyarrow.parquet.read_table(latest(tmp_path / "ws") / "samples.parquet").to_pylist()
    assert "" in {row["text"] for row in roles if row["role"] == "contact_sheet"}
    assert all(row["text"] for row in roles if row["role"] == "strangest" and "pixels per symbol" in row["note"])


def test_a_full_label_on_a_blank_field_is_warned_of_and_an_empty_one_is_not(tmp_path, capsys):
    images = put_fields(tmp_path / "fields", make_texts(30))
    for number in (0, 6, 7):  # the third has a text
        Image.new("L", (160, 48), 230 + number).save(images / f"{number:03d}.png")
    assert ingest(tmp_path / "ws", images, "--empty_labels=keep") == EXIT_DONE
    assert statistics(tmp_path / "ws")["blank_lines"] == {"count": 1, "first": [f"{images}/007.png"]}


def test_nothing_but_empty_labels_is_refused_with_or_without_a_charset(tmp_path, capsys):
    images = put_fields(tmp_path / "fields", [""] * 12)
    (tmp_path / "symbols.txt").write_text("A\nB\n")
    for flags in ((), (f"--charset={tmp_path}/symbols.txt",)):
        assert ingest(tmp_path / "ws", images, "--empty_labels=keep", *flags) == EXIT_REFUSED
        said = capsys.readouterr()
        assert "every label of the 12 images is empty" in said.err + said.out


def test_blank_fields_are_added_to_a_dataset_and_copied_from_one(tmp_path):
    workspace = tmp_path / "ws"
    assert ingest(workspace, put_fields(tmp_path / "first", make_texts(30)), "--empty_labels=keep") == EXIT_DONE
    blanks = put_fields(tmp_path / "second", [""] * 5)
    assert ingest(workspace, blanks, "--empty_labels=keep", "--add_to=LATEST") == EXIT_DONE
    found = [text for split in examples(latest(workspace)).values() for text, _, _ in split.values()]
    assert (len(found), found.count("")) == (35, 10)


def test_batches_of_training_hold_empty_labels_even_where_all_of_a_batch_are_empty(tmp_path):
    texts = ["" if n >= 8 else "AB" for n in range(80)]
    assert ingest(tmp_path / "ws", put_fields(tmp_path / "fields", texts), "--empty_labels=keep") == EXIT_DONE
    folder = str(latest(tmp_path / "ws"))
    train = load_examples(folder, DatasetManifest.read(folder), "train")
    assert train.label_lengths.min() == 0
    seen = []
    batches = make_training_batches(
        train,
        batch_size=4,
        seed=1,
        steps=range(-(-len(train) // 4)),
        replicas=range(1),
        replica_batch_size=4,
        augment=True,
    )
    for batch in batches.as_numpy_iterator():
        assert batch["labels"].shape == (4, batch["label_lengths"].max())
        assert np.array_equal(batch["label_lengths"], train.label_lengths[batch["indices"]])
        seen.append(batch["label_lengths"].max())
    assert {0, 2} == set(seen)


@pytest.mark.slow
def test_a_model_learns_to_read_nothing_in_blank_fields_and_says_so_with_every_decoder(tmp_path, capsys):
    workspace, texts = tmp_path / "ws", make_texts(90)
    images = put_fields(tmp_path / "fields", texts)
    flags = ("--steps=ingest,train,evaluate", f"--images={images}", "--empty_labels=keep", "--epochs=6", *SHARES)
    assert run_command(workspace, *flags, "--max_cer=0.3") == EXIT_DONE
    (evaluation,) = (workspace / "models").glob("*/evaluation.json")
    figures = json.loads(evaluation.read_text())
    blank = figures["by_length"][0]
    assert (blank["from"], blank["to"]) == (0, 0)
    assert blank["exact_match"] == 1
    assert figures["counts"]["symbols"] == 4 * (figures["images"] - blank["images"])
    words = sorted({text for text in texts if text})
    (tmp_path / "words.txt").write_text("\n".join(['""', *words]))
    for decoder in (("greedy",), ("beam",), ("lexicon", f"--lexicon={tmp_path}/words.txt")):
        name, *more = decoder
        flags = ("--steps=infer", f"--infer_images={images}", "--reread", f"--decoder={name}", *more)
        assert run_command(workspace, *flags) == EXIT_DONE
        newest = max(workspace.glob("predictions/*/*/_manifest.json"), key=lambda path: path.stat().st_mtime_ns).parent
        rows = [row for path in newest.glob("*.parquet") for row in pyarrow.parquet.read_table(path).to_pylist()]
        read = {Path(row["uri"]).stem: row["text"] for row in rows}
        assert [read[f"{n:03d}"] for n in range(0, 90, 6)] == [""] * 15
        assert sum(read[f"{n:03d}"] == text for n, text in enumerate(texts)) > 75
