"""Labels in the files that people have, from the command to the dataset."""

import json
import logging
import pathlib

import pyarrow.parquet
import pytest
from PIL import Image, ImageDraw, ImageFont

from pipeline.main import main
from tfrecords import DatasetManifest


def draw(path: pathlib.Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("L", (20 + 12 * len(text), 32), 240)
    ImageDraw.Draw(image).text((8, 4), text, font=ImageFont.load_default(20), fill=20)
    image.save(path)


def ingest(workspace: pathlib.Path, *flags: str) -> DatasetManifest:
    assert main(["--steps=ingest", f"--workspace={workspace}", *flags]) == 0
    dataset = (workspace / "datasets" / "LATEST").read_text().strip()
    return DatasetManifest.read(str(workspace / "datasets" / dataset))


def test_a_collection_of_iam_is_read_without_a_flag_and_without_the_lines_cut_out_wrongly(tmp_path, caplog):
    lines = ["#--- words.txt ---#"]
    for number in range(12):
        form = f"a01-{number % 2:03d}u"
        draw(tmp_path / "iam" / "words" / "a01" / form / f"{form}-00-{number:02d}.png", f"word{number}")
        lines.append(f"{form}-00-{number:02d} {'err' if number % 6 == 5 else 'ok'} 154 408 768 27 51 NN word{number}")
    (tmp_path / "iam" / "words.txt").write_text("\n".join(lines) + "\n")
    with caplog.at_level(logging.INFO):
        manifest = ingest(tmp_path / "ws", f"--images={tmp_path / 'iam'}")
    assert (manifest.matched, sum(manifest.counts.values()), manifest.rejects) == (10, 10, {})
    assert manifest.unused_labels == {"damaged_row": 2}
    said = caplog.text
    assert "2 of the images as cut out wrongly" in said
    assert "words.txt is read as a list of the IAM database" in said
    assert "12 rows lead to an image: 12 by name without its suffix" in said
    (unused,) = (tmp_path / "ws" / "datasets").glob("*/unused_labels.parquet")
    names = [pathlib.Path(row["uri"]).name for row in pyarrow.parquet.read_table(unused).to_pylist()]
    assert names == ["a01-001u-00-05.png", "a01-001u-00-11.png"]


def test_names_of_folders_are_labels_if_the_pattern_says_so(tmp_path, caplog):
    for number in range(20):
        draw(tmp_path / "classes" / str(number % 5) / f"{number}.png", str(number % 5))
    flags = [f"--images={tmp_path / 'classes'}", "--label_pattern={label}/{name}"]
    with caplog.at_level(logging.INFO):
        manifest = ingest(tmp_path / "ws", *flags)
    assert sum(manifest.counts.values()) == 20
    assert "labels come from the names of folders and files, as --label_pattern says" in caplog.text


@pytest.mark.slow
@pytest.mark.shared_data
def test_the_labels_of_real_handwriting_are_found(tmp_path, shared_data, caplog):
    with caplog.at_level(logging.INFO):
        manifest = ingest(tmp_path / "ws", f"--images={shared_data / 'vn_handwriting'}")
    assert (manifest.matched, sum(manifest.counts.values())) == (1470, 1470)
    labels = json.loads((shared_data / "vn_handwriting" / "labels.json").read_text(encoding="utf-8"))
    assert f"{len(labels):,} rows lead to an image" in caplog.text
