"""Labels that a model gives to lines, and the dataset that has them beside the true ones."""

import shutil

import pyarrow.parquet
import pytest

from components.listing import ImageReference
from components.recogniser import RecogniserSpec
from components.training.data import load_examples
from components.training.taught_labels import (
    label_confident_lines,
    read_unlabelled_lines,
    write_taught_dataset,
    write_taught_labels,
)
from tfrecords import Charset, DatasetManifest, ImageLimits


@pytest.fixture
def references(tiny_images, tmp_path) -> list[ImageReference]:
    paths = sorted(tiny_images.glob("*.png"))
    return [ImageReference(str(path), "", path.stat().st_size, 0) for path in paths]


@pytest.fixture(scope="module")
def recogniser(tiny_model):
    return RecogniserSpec(str(tiny_model), "onnx").load()


def test_the_share_of_which_the_model_is_most_confident_gets_what_it_reads(references, recogniser):
    lines, gone = read_unlabelled_lines(references, 32, ImageLimits())
    assert (len(lines), gone) == (24, 0)
    found = dict(zip([line.uri for line in lines], recogniser.recognise([r.uri for r in references]), strict=True))
    ranked = sorted(found, key=lambda uri: -found[uri].confidence)
    for share, count in ((0.25, 6), (0.3, 8), (1.0, 24)):
        taught = label_confident_lines(lines, recogniser, recogniser.charset, share)
        expected = [uri for uri in sorted(ranked[:count]) if found[uri].text]
        assert [one.line.uri for one in taught] == expected
        assert [one.text for one in taught] == [found[uri].text for uri in expected]
        assert [one.confidence for one in taught] == pytest.approx([found[uri].confidence for uri in expected])


def test_readings_that_the_dataset_cannot_have_are_left_out(references, recogniser):
    lines, _ = read_unlabelled_lines(references, 32, ImageLimits())
    taught = label_confident_lines(lines, recogniser, recogniser.charset, 1)
    symbol = taught[0].text[0]
    others = Charset(tuple(one for one in recogniser.charset.symbols if one != symbol))
    left = label_confident_lines(lines, recogniser, others, 1)
    assert [one.text for one in left] == [one.text for one in taught if symbol not in one.text]


def test_images_that_are_gone_are_counted(references, tmp_path):
    shutil.copy(references[0].uri, tmp_path / "kept.png")
    some = [references[1], references[2]._replace(uri=str(tmp_path / "gone.png"))]
    lines, gone = read_unlabelled_lines(some, 32, ImageLimits())
    assert ([line.uri for line in lines], gone) == ([references[1].uri], 1)


def test_the_dataset_has_the_taught_lines_in_its_training_split_alone(references, recogniser, tiny_dataset, tmp_path):
    lines, _ = read_unlabelled_lines(references, 32, ImageLimits())
    taught = label_confident_lines(lines, recogniser, recogniser.charset, 1)
    manifest = DatasetManifest.read(str(tiny_dataset))
    charset = manifest.read_charset(str(tiny_dataset))
    grown = write_taught_dataset(str(tmp_path), str(tiny_dataset), manifest, charset, taught)
    assert grown == DatasetManifest.read(str(tmp_path))
    assert grown.counts == {"train": 16 + len(taught), "validation": 4, "test": 0}
    true = load_examples(str(tiny_dataset), manifest, "train")
    both = load_examples(str(tmp_path), grown, "train")
    texts, true_texts = (some.read_texts(range(len(some))) for some in (both, true))
    assert sorted(texts) == sorted(true_texts + [one.text for one in taught])
    write_taught_labels(str(tmp_path), taught, "m")
    rows = pyarrow.parquet.read_table(tmp_path / "taught_labels.parquet").to_pylist()
    assert [(row["uri"], row["text"], row["model_id"]) for row in rows] == [
        (one.line.uri, one.text, "m") for one in taught
    ]
