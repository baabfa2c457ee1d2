"""The rendered sample collection, at a smaller size."""

import os
import pathlib

import pytest

from components.ingest import explain_label_misfit, sample
from components.ingest.sample import read_truth, render_sample
from components.listing import LabelRules, choose_labels, list_images
from tfrecords import Charset, ImageLimits, count_adjacent_repeats, read_line

NAMES = LabelRules("filename")


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(sample, "LABELLED", 60)
    monkeypatch.setattr(sample, "UNLABELLED", 20)


def contents(folder: str) -> dict[str, bytes]:
    root = pathlib.Path(folder)
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_labelled_part_has_its_labels_in_the_file_names(tmp_path):
    labelled, _ = render_sample(str(tmp_path))
    chosen, why = choose_labels(LabelRules("auto"), [labelled])
    assert chosen == NAMES
    assert "truth.tsv" not in why
    labels = [reference.text for reference in list_images(labelled, NAMES)]
    assert len(set(labels)) == 60
    assert {len(label) for label in labels} <= set(range(3, 11))
    assert len({len(label) for label in labels}) > 3


def test_many_labels_have_adjacent_repeats_so_that_ctc_is_really_tried(tmp_path):
    labelled, _ = render_sample(str(tmp_path))
    repeated = [ref.text for ref in list_images(labelled, NAMES) if count_adjacent_repeats([*map(ord, ref.text)])]
    assert len(repeated) >= 10


def test_every_image_is_a_line_that_its_label_fits(tmp_path):
    labelled, _ = render_sample(str(tmp_path))
    charset = Charset.from_texts(reference.text for reference in list_images(labelled, NAMES))
    for reference in list_images(labelled, NAMES):
        line = read_line(pathlib.Path(reference.uri).read_bytes(), 32, ImageLimits())
        assert explain_label_misfit(reference.uri, charset.encode(reference.text), line.pixels.shape[1], 4) is None
        assert int(line.pixels.max()) - int(line.pixels.min()) > 60  # there is something to read


def test_the_truth_names_every_unlabelled_image_and_gives_none_away(tmp_path):
    labelled, unlabelled = render_sample(str(tmp_path))
    truth = read_truth(str(tmp_path))
    assert sorted(truth) == sorted(os.listdir(unlabelled)) == [f"plate-{number:04d}.png" for number in range(20)]
    trained = {reference.text for reference in list_images(labelled, NAMES)}
    assert trained.isdisjoint(truth.values())


def test_the_truth_is_a_label_table_of_the_unlabelled_images(tmp_path):
    _, unlabelled = render_sample(str(tmp_path))
    chosen, _ = choose_labels(LabelRules("auto"), [unlabelled])
    assert (chosen.source, chosen.tables) == ("table", (str(tmp_path / "truth.tsv"),))


def test_a_truth_of_an_earlier_version_without_a_header_is_still_read(tmp_path):
    (tmp_path / "truth.tsv").write_text("plate-0000.png\tNFL7\nplate-0001.png\tXT2PU-XX\n")
    assert read_truth(str(tmp_path)) == {"plate-0000.png": "NFL7", "plate-0001.png": "XT2PU-XX"}


def test_equal_seeds_render_equal_files_and_other_seeds_others(tmp_path):
    for name, seed in (("first", 0), ("second", 0), ("third", 1)):
        render_sample(str(tmp_path / name), seed)
    first, second, third = (contents(str(tmp_path / name)) for name in ("first", "second", "third"))
    assert first == second
    assert first["truth.tsv"] != third["truth.tsv"]


def test_a_finished_collection_is_not_rendered_again(tmp_path):
    labelled, unlabelled = render_sample(str(tmp_path))
    (tmp_path / "unlabelled" / "plate-0000.png").write_bytes(b"marker")
    assert render_sample(str(tmp_path)) == (labelled, unlabelled)
    assert (tmp_path / "unlabelled" / "plate-0000.png").read_bytes() == b"marker"


def test_a_collection_whose_rendering_was_stopped_is_rendered_to_the_end(tmp_path):
    render_sample(str(tmp_path / "whole"))
    render_sample(str(tmp_path / "stopped"))
    (tmp_path / "stopped" / "finished").unlink()
    (tmp_path / "stopped" / "truth.tsv").unlink()
    (tmp_path / "stopped" / "unlabelled" / "plate-0007.png").write_bytes(b"half an ima")
    render_sample(str(tmp_path / "stopped"))
    assert contents(str(tmp_path / "stopped")) == contents(str(tmp_path / "whole"))
