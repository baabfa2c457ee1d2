"""The explain step: what the command tells of one image after ingest, training, nights, a merge and a review."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
import pyarrow.parquet
import pytest

from pipeline.exits import EXIT_DONE, EXIT_REFUSED, EXIT_USAGE
from pipeline.main import main
from tests.commands import make_workspace, run_command

STORED = Path(__file__).parents[2] / "stored" / "workspace_2026_11"


class Explained(NamedTuple):
    """What a command told of an image: its status, its lines, and the figures of its record."""

    status: int
    lines: list[str]
    errors: str
    figures: dict[str, Any]

    def read_section(self, title: str) -> list[str]:
        """The lines below a heading; none if it says so."""
        if f"{title}: none" in self.lines:
            return []
        start = self.lines.index(f"{title}:") + 1
        rest = self.lines[start:]
        return [line.strip() for line in rest[: next(n for n, line in enumerate(rest) if not line.startswith("  "))]]


@pytest.fixture
def explain(capsys):
    """Runs the step for an image; nothing but the command's record may be new in the workspace."""

    def run(workspace: Path, uri: object, *flags: str) -> Explained:
        before = read_files(workspace)
        capsys.readouterr()
        status = main([f"--workspace={workspace}", "--steps=explain", f"--uri={uri}", *flags])
        said = capsys.readouterr()
        assert read_files(workspace) == before
        records = sorted((workspace / "runs").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        steps = json.loads(records[-1].read_text())["steps"] if records else []
        return Explained(status, said.out.splitlines(), said.err, steps[-1]["figures"] if steps else {})

    return run


def read_files(workspace: Path) -> dict[str, bytes]:
    """Every file but records of commands and the lock."""
    paths = (path for path in workspace.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path): path.read_bytes() for path in paths if path.parent.name != "runs"}


def read_pointer(workspace: Path, kind: str, name: str = "LATEST") -> str:
    return (workspace / kind / name).read_text().strip()


def correct(workspace: Path, path: Path, texts: dict[str, str]) -> None:
    """Saves the review table with the texts that a person gave to images; the rows of others are removed."""
    (table,) = (workspace / "review").glob("*/review.csv")
    with open(table, encoding="utf-8-sig", newline="") as file:
        rows = [row for row in csv.DictReader(file) if Path(row["path"].strip()).name in texts]
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "text": texts[Path(row["path"].strip()).name]} for row in rows)


@pytest.fixture
def night(tmp_path, tiny_images) -> Path:
    """A folder of four new images, and of one that is none."""
    folder = tmp_path / "night"
    folder.mkdir()
    for number, path in enumerate(sorted(tiny_images.glob("*.png"))[:4]):
        shutil.copy2(path, folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no image at all")
    return folder


def infer(workspace: Path, images: Path | str, *flags: str) -> int:
    return run_command(workspace, "--steps=infer", f"--infer_images={images}", "--max_reject_fraction=0.5", *flags)


@pytest.fixture
def workspace(tmp_path, tiny_model, tiny_dataset) -> Path:
    """A workspace with the tiny dataset, and the tiny model in use."""
    return make_workspace(tmp_path / "ws", tiny_model, dataset=tiny_dataset)


@pytest.mark.slow
def test_a_reading_that_was_corrected_and_learned(workspace, night, tmp_path, explain):
    assert infer(workspace, night) == EXIT_DONE
    assert run_command(workspace, "--steps=review") == EXIT_DONE
    correct(workspace, tmp_path / "review.csv", {"0.png": "a2", "1.png": "b1"})
    flags = ("--steps=ingest,train", f"--label_source={tmp_path}/review.csv", "--height=32", "--epochs=1")
    assert run_command(workspace, *flags, "--validation_fraction=0", "--test_fraction=0") == EXIT_DONE
    dataset_id, model_id = read_pointer(workspace, "datasets"), read_pointer(workspace, "models")
    found = explain(workspace, night / "0.png")
    assert found.status == EXIT_DONE
    assert str(night / "0.png") in found.lines
    (review,) = (workspace / "review").iterdir()
    assert found.read_section("datasets") == [
        f'{dataset_id}, train split: label "a2", from {tmp_path}/review.csv, a correction of review {review.name}'
    ]
    assert found.read_section("models") == [
        f"{model_id} learned this image: it is one of its training lines of dataset {dataset_id}"
    ]
    (reading,) = found.read_section("readings")
    assert f"model tinymodel000: {json.dumps(found.figures['readings'][0]['text'])} with confidence 0." in reading
    (given,) = found.read_section("reviews")
    assert f"review {review.name} gave out the " in given
    assert f'in {review}/review.csv; corrected to "a2" in dataset {dataset_id}' in given
    assert found.read_section("rejects") == []
    assert explain(workspace, night / "2.png").read_section("reviews")[0].endswith("; nothing has come back")


def test_images_of_a_dataset_are_told_with_split_and_label_and_who_learned_them(workspace, tiny_images, explain):
    found = explain(workspace, "00-11.png")
    source = "from a source that the dataset does not name"
    assert found.read_section("datasets") == [f'tinydataset0, train split: label "11", {source}']
    assert found.read_section("models") == [
        "tinymodel000 (in use) learned this image: it is one of its training lines of dataset tinydataset0"
    ]
    assert found.figures["uri"] == str(tiny_images / "00-11.png")
    assert "it was held out for the evaluation" in explain(workspace, "23-bb.png").read_section("models")[0]
    assert "by which its best epoch was chosen" in explain(workspace, "16-1a.png").read_section("models")[0]


def test_every_reading_counts_once_before_and_after_a_merge(workspace, night, explain):
    assert infer(workspace, night) == EXIT_DONE
    assert infer(workspace, night, "--reread") == EXIT_DONE
    before = explain(workspace, night / "1.png")
    assert len(before.read_section("readings")) == 2
    assert len(explain(workspace, night / "broken.png").read_section("rejects")) == 2
    (day,) = {path.parent.parent.name for path in workspace.glob("predictions/*/*/_manifest.json")}
    assert run_command(workspace, "--steps=compact", f"--date={day.removeprefix('date=')}") == EXIT_DONE
    after = explain(workspace, night / "1.png")
    (merged,) = (path.parent.name.removeprefix("run=") for path in workspace.glob("predictions/*/*/_manifest.json"))
    assert [line.replace(f", now in run {merged}", "") for line in after.read_section("readings")] == (
        before.read_section("readings")
    )
    assert {reading["merged_into"] for reading in after.figures["readings"]} == {merged}


def test_a_reject_is_told_with_its_reason(workspace, night, explain):
    assert infer(workspace, night) == EXIT_DONE
    found = explain(workspace, "night/broken.png")
    (reject,) = found.read_section("rejects")
    assert ", infer r" in reject
    assert ": not_an_image (" in reject
    assert (found.status, found.read_section("readings"), found.read_section("datasets")) == (EXIT_DONE, [], [])


def test_an_unknown_image_is_nowhere_known_in_one_sentence(tmp_path, workspace, explain):
    found = explain(workspace, "/nowhere/1.png")
    assert found.status == EXIT_DONE
    assert any("/nowhere/1.png is nowhere known in " in line for line in found.lines)
    assert "datasets:" not in found.lines
    empty = tmp_path / "empty"
    empty.mkdir()
    found = explain(empty, "1.png")
    assert found.status == EXIT_DONE
    assert any("0 datasets, 0 models, 0 runs and 0 reviews do not name it" in line for line in found.lines)


def test_an_ending_of_several_uris_lists_them(workspace, night, tmp_path, explain):
    other = shutil.copytree(night, tmp_path / "other" / "night")
    assert infer(workspace, f"{night},{other}") == EXIT_DONE
    found = explain(workspace, "night/0.png")
    assert found.status == EXIT_REFUSED
    assert "--uri=night/0.png is the end of several URIs: give more of the path (" in found.errors
    assert f"{night}/0.png, {other}/0.png)" in found.errors
    assert len(explain(workspace, "other/night/0.png").read_section("readings")) == 1
    assert len(explain(workspace, night / "0.png").read_section("readings")) == 1  # it is that as a whole
    assert explain(workspace, "ght/0.png").status == EXIT_DONE  # no name of a folder: nowhere known


def test_a_model_that_another_one_taught_learned_its_reading(workspace, explain):
    model = workspace / "models" / "tinymodel000"
    row = {"uri": "/in/a.png", "text": "1", "confidence": 0.9, "model_id": "teacher"}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), model / "taught_labels.parquet")
    manifest = json.loads((model / "manifest.json").read_text())
    manifest["files"]["taught_labels.parquet"] = {"bytes": 1, "sha256": ""}
    (model / "manifest.json").write_text(json.dumps(manifest))
    assert explain(workspace, "a.png").read_section("models") == [
        'tinymodel000 (in use) learned this image as "1", which model teacher read on it'
    ]


def test_a_workspace_of_an_older_version_is_explained(tmp_path, explain):
    workspace = shutil.copytree(STORED, tmp_path / "ws")
    found = explain(workspace, "/srv/archive/new/0.png")
    assert found.read_section("readings")
    assert found.read_section("reviews")
    assert found.read_section("datasets") == []


def test_damaged_files_are_named_and_the_rest_is_told(workspace, night, explain):
    assert infer(workspace, night) == EXIT_DONE
    (part,) = workspace.glob("predictions/*/*/*.parquet")
    part.write_bytes(part.read_bytes()[:-40])
    (workspace / "models" / "broken").mkdir()
    (workspace / "models" / "broken" / "manifest.json").write_text("{}")
    found = explain(workspace, night / "broken.png")
    assert f"warning: {part} is damaged or gone: what it says of the image is not known" in found.lines
    assert any(line.startswith(f"warning: {workspace}/models/broken is left out: ") for line in found.lines)
    assert len(found.read_section("rejects")) == 1


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--steps=explain"], "say which, as --uri=PATH"),
        (["--steps=infer", "--uri=1.png"], "is for the explain step"),
        (["--steps=explain", "--uri=/"], "names no image"),
    ],
)
def test_flags_that_do_not_go_together(tmp_path, capsys, flags, sentence):
    assert main([f"--workspace={tmp_path}", *flags]) == EXIT_USAGE
    assert sentence in capsys.readouterr().err


def test_neither_unfinished_work_nor_old_predictions_are_removed(tmp_path, explain):
    workspace = shutil.copytree(STORED, tmp_path / "ws")
    (workspace / "unfinished" / "dataset1").mkdir(parents=True)
    (workspace / "unfinished" / "dataset1" / "refused.json").write_text("{}")
    flags = ("--prediction_retention_days=1", "--retention_days=1", "--max_prune_fraction=1")
    assert explain(workspace, "new/0.png", *flags).status == EXIT_DONE  # which compares the files


def test_a_plan_says_where_it_would_look(workspace, explain):
    assert any("look for 1.png in 1 dataset, 1 model" in line for line in explain(workspace, "1.png", "--plan").lines)
