"""Ingest on hostile inputs: each one is written, or rejected with exactly the reason that it should have."""

import collections
import dataclasses
import json
import os
import pathlib
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from components.ingest import IngestRequest, write_training_shard
from components.listing import LabelRules, list_images, uri_to_path
from pipeline.exits import EXIT_DONE
from pipeline.main import main
from tests.hostile import (
    INK,
    LINE_SIZE,
    ORDINARY,
    WRITTEN,
    HostileInput,
    build_corpus,
    build_good_images,
    build_names,
    line,
    readers_of_pipes_released,
)
from tfrecords import Charset, ImageLimits, examples_to_record_batch, read_line, read_records

LONGEST_DETAIL = 1_000


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A folder of inputs, and what must become of each."""

    folder: pathlib.Path
    inputs: list[HostileInput]

    def name_of(self, uri: str) -> str:
        return os.path.relpath(uri_to_path(uri), self.folder)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What is in the folder of a committed dataset.

    Attributes:
        manifest: its manifest.json.
        examples: `uri` and `text` of every example.
        rejects: the rows of its rejects files.
        shards: the bytes of its TFRecord files by name.
    """

    manifest: dict[str, Any]
    examples: list[dict[str, Any]]
    rejects: list[dict[str, Any]]
    shards: dict[str, bytes]


def ingest(corpus: Corpus, workspace: pathlib.Path, label_source: str) -> Dataset:
    command = [
        "--runner=DirectRunner",
        "--steps=ingest",
        f"--images={corpus.folder}",
        f"--label_source={label_source}",
        f"--workspace={workspace}",
        "--max_reject_fraction=1",
        "--test_fraction=0",
        "--validation_fraction=0",
    ]
    with readers_of_pipes_released(corpus.folder):
        assert main(command) == EXIT_DONE
    return read_dataset(workspace / "datasets" / (workspace / "datasets" / "LATEST").read_text().strip())


def read_dataset(folder: pathlib.Path) -> Dataset:
    shards = sorted(folder.glob("*.tfrecord.gz"))
    batch = examples_to_record_batch([record for shard in shards for record in read_records(str(shard))])
    rejects = [row for path in folder.glob("rejects-*.parquet") for row in pyarrow.parquet.read_table(path).to_pylist()]
    return Dataset(
        manifest=json.loads((folder / "manifest.json").read_text()),
        examples=[
            {"uri": row["uri"][0].decode(), "text": row["text"][0].decode()}
            for row in batch.select(["uri", "text"]).to_pylist()
        ],
        rejects=rejects,
        shards={shard.name: shard.read_bytes() for shard in shards},
    )


def outcomes_that_differ(corpus: Corpus, dataset: Dataset) -> list[str]:
    """A sentence for every file that did not end exactly once, and as it should have."""
    expected = {entry.name: [entry.expected] for entry in corpus.inputs}
    assert len(expected) == len(corpus.inputs)
    found: dict[str, list[str]] = collections.defaultdict(list)
    for example in dataset.examples:
        found[corpus.name_of(example["uri"])].append(WRITTEN)
    for row in dataset.rejects:
        found[corpus.name_of(row["uri"])].append(row["reason"])
    return [
        f"{name!r}: expected {expected.get(name, [])}, found {found.get(name, [])}"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name, []) != found.get(name, [])
    ]


def texts_that_differ(corpus: Corpus, dataset: Dataset) -> list[str]:
    """A sentence for every example whose text is not the label that its input should have."""
    expected = {entry.name: entry.text for entry in corpus.inputs if entry.expected == WRITTEN}
    found = {corpus.name_of(example["uri"]): example["text"] for example in dataset.examples}
    return [
        f"{name!r}: expected {expected[name]!a}, found {found[name]!a}"
        for name in sorted(expected.keys() & found.keys())
        if expected[name] != found[name]
    ]


def details_that_explain_nothing(dataset: Dataset) -> list[str]:
    """A sentence for every reject whose detail is empty, a traceback, or too long to be read."""
    return [
        f"{row['uri']!r}: {row['reason']}: {row['detail'][:LONGEST_DETAIL]!r}"
        for row in dataset.rejects
        if not row["detail"].strip()
        or "Traceback" in row["detail"]
        or 'File "' in row["detail"]
        or len(row["detail"]) > LONGEST_DETAIL
    ]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Hostile inputs of all kinds, and ordinary lines among them, labelled by sidecars."""
    folder = tmp_path_factory.mktemp("hostile") / "corpus"
    return Corpus(folder, build_corpus(folder) + build_good_images(folder))


@pytest.fixture(scope="module")
def dataset(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The corpus as it was ingested by the command."""
    return ingest(corpus, tmp_path_factory.mktemp("workspace"), "sidecar")


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Images with hostile names, and ordinary lines among them, labelled by these names."""
    folder = tmp_path_factory.mktemp("named") / "corpus"
    return Corpus(folder, build_names(folder) + build_good_images(folder))


@pytest.fixture(scope="module")
def named_dataset(named: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The images with hostile names as they were ingested by the command."""
    return ingest(named, tmp_path_factory.mktemp("workspace"), "filename")


# The whole corpus, end to end


def test_the_corpus_is_as_large_as_it_should_be_and_every_entry_says_what_it_is(corpus):
    hostile = [entry for entry in corpus.inputs if entry.description != ORDINARY]
    assert len(hostile) >= 55
    assert len(corpus.inputs) - len(hostile) >= 30
    assert all(entry.description for entry in corpus.inputs)
    assert all(os.path.lexists(corpus.folder / entry.name) for entry in corpus.inputs)


def test_every_input_ends_once_as_an_example_or_with_exactly_its_reason(corpus, dataset):
    differing = outcomes_that_differ(corpus, dataset)
    assert not differing, "\n".join(differing)


def test_the_manifest_accounts_for_every_input(corpus, dataset):
    written = sum(shard["examples"] for shard in dataset.manifest["shards"])
    rejected = sum(dataset.manifest["rejects"].values())
    assert dataset.manifest["matched"] == written + rejected == len(corpus.inputs)
    assert (written, rejected) == (len(dataset.examples), len(dataset.rejects))
    assert dataset.manifest["rejects"] == collections.Counter(row["reason"] for row in dataset.rejects)


def test_every_label_is_written_as_it_should_be(corpus, dataset):
    differing = texts_that_differ(corpus, dataset)
    assert not differing, "\n".join(differing)


def test_every_reject_is_explained_to_a_person(dataset):
    unexplained = details_that_explain_nothing(dataset)
    assert not unexplained, "\n".join(unexplained)


def test_what_is_beyond_a_limit_names_the_flag_that_sets_it(corpus, dataset):
    details = {corpus.name_of(row["uri"]): row["detail"] for row in dataset.rejects}
    limited = {entry.name: entry.flag for entry in corpus.inputs if entry.flag}
    assert set(limited.values()) == {"--max_pixels", "--max_bytes", "--max_line_width", "--max_label_length"}
    silent = [f"{name}: {details.get(name)}" for name, flag in limited.items() if flag not in details.get(name, "")]
    assert not silent, "\n".join(silent)


def test_no_name_makes_a_uri_that_is_not_text_or_that_two_inputs_share(corpus, dataset):
    uris = [row["uri"] for row in (*dataset.examples, *dataset.rejects)]
    assert len(set(uris)) == len(uris)
    assert f"{corpus.folder}/names/caf%E9.png" in uris
    assert f"{corpus.folder}/names/%2541.png" in uris
    assert f"{corpus.folder}/names/two\nlines.png" in uris


def test_the_corpus_ingested_twice_gives_the_same_shards_to_the_byte(corpus, dataset, tmp_path):
    assert dataset.shards
    assert ingest(corpus, tmp_path / "workspace", "sidecar").shards == dataset.shards


# Names as labels


def test_every_hostile_name_ends_once_as_an_example_or_with_exactly_its_reason(named, named_dataset):
    differing = outcomes_that_differ(named, named_dataset)
    assert not differing, "\n".join(differing)
    assert named_dataset.manifest["matched"] == len(named.inputs)


def test_every_hostile_name_that_is_a_label_is_written_as_text(named, named_dataset):
    differing = texts_that_differ(named, named_dataset)
    assert not differing, "\n".join(differing)


def test_every_name_that_is_no_label_is_explained_to_a_person(named_dataset):
    unexplained = details_that_explain_nothing(named_dataset)
    assert not unexplained, "\n".join(unexplained)


# Files that change between their listing and their reading


def test_images_that_vanish_after_they_were_listed_are_unreadable(tmp_path):
    folder = tmp_path / "lines"
    good = build_good_images(folder, 4)
    references = list(list_images(str(folder), LabelRules("sidecar")))
    gone, replaced = folder / good[0].name, folder / good[1].name
    gone.unlink()
    replaced.unlink()
    replaced.mkdir()
    request = IngestRequest(
        dataset_id="0123456789ab",
        folder=str(tmp_path / "unfinished"),
        destination=str(tmp_path / "datasets" / "0123456789ab"),
        images=4,
        shards={"train": 1, "validation": 1, "test": 1},
        height=48,
        time_stride=4,
        charset=Charset.from_texts([entry.text for entry in good]),
        limits=ImageLimits(),
        max_reject_fraction=1.0,
    )
    open_before = os.listdir("/proc/self/fd")
    summary = write_training_shard(("train", 0), references, request)
    assert len(os.listdir("/proc/self/fd")) == len(open_before)
    assert (summary.matched, summary.examples, summary.rejects) == (4, 2, {"unreadable": 2})
    rows = pyarrow.parquet.read_table(tmp_path / "unfinished" / "rejects-train-00000-of-00001.parquet").to_pylist()
    assert [(row["uri"], row["reason"]) for row in rows] == [(str(gone), "unreadable"), (str(replaced), "unreadable")]
    assert all(row["detail"] for row in rows)


# Pixels


def pixels_of(corpus: Corpus, name: str) -> np.ndarray:
    return read_line((corpus.folder / name).read_bytes(), LINE_SIZE[1], ImageLimits()).pixels


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("a-jpeg.png", 8),
        ("a-png.jpg", 0),
        ("with-thumbnail.tif", 0),
        ("phone.jpg", 8),
        ("1-bit.png", 0),
        ("16-bit.png", 0),
        ("16-bit.tif", 0),
        ("16-bit.pgm", 0),
        ("10-bit.pgm", 0),
        ("8-bit.pgm", 0),
        ("windows.bmp", 0),
        ("one-frame.gif", 0),
        ("lossless.webp", 0),
        ("boxed.jp2", 0),
        ("bare.j2k", 0),
        ("cmyk.jpg", 8),
        ("cmyk.tif", 0),
        ("lab.tif", 4),
        ("ycbcr.tif", 8),
        ("white-is-zero.tif", 0),
        ("white-is-zero-1-bit.tif", 0),
        ("white-is-zero-16-bit.tif", 0),
        ("palette.png", 0),
        ("palette-transparent.png", 0),
        ("la.png", 0),
        ("rgba.png", 0),
        ("turned.jpg", 8),
    ],
)
def test_black_ink_on_a_white_ground_is_read_as_such_from_every_format(corpus, name, tolerance):
    pixels = pixels_of(corpus, name)
    assert pixels.shape == (LINE_SIZE[1], LINE_SIZE[0])
    assert np.abs(pixels.astype(int) - np.asarray(line())).mean() <= tolerance
    assert pixels[7, 20] <= tolerance
    assert pixels[7, 70] >= 255 - tolerance
    assert pixels[18, 20] >= 255 - tolerance


@pytest.mark.parametrize("name", ["white-ink-la.png", "white-ink-rgba.png"])
def test_white_ink_on_a_transparent_ground_is_laid_on_black(corpus, name):
    left, top, right, bottom = INK
    pixels = pixels_of(corpus, name)
    assert (pixels[top:bottom, left:right] == 255).all()
    assert (np.delete(pixels, np.s_[left:right], axis=1) == 0).all()
