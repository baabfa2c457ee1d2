"""Mutated images: a few of those that `python -m tests.fuzz` reads, and a night of the whole command among some."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest

from pipeline.exits import EXIT_DONE
from tests.commands import make_workspace, start_command
from tests.fuzz import describe, format_figures, fuzz, keep
from tests.fuzzing import reading
from tests.fuzzing.mutations import Mutator
from tests.fuzzing.seeds import make_seeds
from tfrecords import ImageLimits, ImageRejected, read_line

IMAGES = 2000
READ = {"bmp", "gif", "jpeg", "jpeg2000", "png", "pnm", "tiff", "webp"}


def is_read(content: bytes) -> bool:
    try:
        read_line(content, 32, ImageLimits())
    except ImageRejected:
        return False
    return True


def test_seeds_of_every_format_are_read():
    seeds = make_seeds()
    assert {name.partition("-")[0] for name, content in seeds.items() if is_read(content)} == READ
    assert len({*seeds.values()}) == len(seeds) > 100


def test_a_number_and_a_seed_say_all_about_a_mutated_image():
    first, second = (Mutator(make_seeds(), seed=5) for _ in range(2))
    assert [first.make(number) for number in range(200)] == [second.make(number) for number in range(200)]
    assert Mutator(make_seeds(), seed=6).make(3).content != first.make(3).content


@pytest.mark.slow
def test_mutated_images_have_one_outcome_each_within_the_bounds():
    figures, findings = fuzz(IMAGES, first=1000)  # with a bomb that is slow, and one that is large
    assert [describe(finding) for finding in findings] == []
    assert figures.outcomes.total() == IMAGES
    assert {form for form, outcome in figures.outcomes if outcome == "read"} == READ
    assert {outcome for form, outcome in figures.outcomes if form == "bomb"} == {"too_slow", "too_large"}
    assert str(IMAGES) in format_figures(figures).splitlines()[-4]


@pytest.mark.slow
def test_what_must_not_be_is_found_and_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(reading, "_OWN_BYTES", -reading.LIMITS.max_decode_memory)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    figures, findings = fuzz(10, first=20)
    assert [finding.image.number for finding in findings] == list(range(20, 30))
    assert figures.largest[0] > 10_000_000
    assert "bytes of memory" in describe(findings[0])
    folder = keep(findings)
    kept = [folder / f"{finding.image.seed}-{finding.image.name}" for finding in findings]
    assert [path.read_bytes() for path in kept] == [finding.image.content for finding in findings]
    assert len((folder / "findings.txt").read_text().splitlines()) == 10


def list_uris(workspace: Path, pattern: str) -> list[str]:
    return [uri for (uri,) in duckdb.sql(f"select uri from read_parquet('{workspace}/{pattern}')").fetchall()]


@pytest.mark.slow
def test_a_night_among_mutated_images_accounts_for_each_file_once(tmp_path, tiny_dataset, tiny_model):
    workspace = make_workspace(tmp_path / "ws", tiny_model, dataset=tiny_dataset)
    seeds, scans = make_seeds(), tmp_path / "scans"
    mutator = Mutator(seeds, seed=1)
    scans.mkdir()
    for image in map(mutator.make, range(300)):
        (scans / image.name).write_bytes(image.content)
    good = {f"good {number}": content for number, content in enumerate(seeds.values()) if is_read(content)}
    for name, content in good.items():
        (scans / name).write_bytes(content)
    process = start_command(
        f"--workspace={workspace}",
        "--steps=ingest,infer",
        f"--images={scans}",
        f"--infer_images={scans}",
        "--label_source=filename",
        "--max_decode_seconds=2",
        "--max_reject_fraction=1",
    )
    said, errors = process.communicate(timeout=300)
    assert process.returncode == EXIT_DONE, said + errors
    listed = sorted(str(path) for path in scans.iterdir())
    read = list_uris(workspace, "predictions/*/*/*.parquet")
    assert sorted(read + list_uris(workspace, "rejects/*/*/*.parquet")) == listed
    assert {str(scans / name) for name in good} <= {*read}
    dataset = workspace / "datasets" / (workspace / "datasets" / "LATEST").read_text().strip()
    manifest = json.loads((dataset / "manifest.json").read_text())
    assert manifest["matched"] == len(listed)
    rejected = list_uris(dataset, "rejects-*.parquet")
    written = sum(shard["examples"] for shard in manifest["shards"])
    assert len({*rejected}) == len(rejected) == len(listed) - written
