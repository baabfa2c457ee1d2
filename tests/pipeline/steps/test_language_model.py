"""A model with a language model: the evaluation and the run decode with it, and alike."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from components.ctc.language_model import NgramCounts
from components.recogniser import Decoding, load_recogniser
from components.recogniser.manifest import describe_files
from pipeline.exits import EXIT_DONE, EXIT_REFUSED, EXIT_USAGE
from tests.commands import label_as_read, make_workspace, run_command
from tests.conftest import LABELS
from tfrecords import Charset

ACCEPT = ("--max_cer=1", "--max_cer_regression=1")


@pytest.fixture
def workspace(tmp_path, tiny_dataset, tiny_model) -> Path:
    """A workspace whose model, which reads at random, has a language model with much to say."""
    workspace = make_workspace(tmp_path / "ws", tiny_model, dataset=tiny_dataset)
    folder = workspace / "models" / "tinymodel000"
    charset = Charset.from_texts(LABELS)
    labels = [np.array(charset.encode(text)) for text in LABELS]
    NgramCounts.from_labels(labels, charset.classes).write(str(folder / "language_model.npz"))
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").unlink()
    manifest["language_model"] = {"weight": 2.0, "bonus": 0.5}
    manifest["files"] = describe_files(str(folder))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return workspace


def read_texts(workspace: Path, *flags: str) -> dict[str, tuple[str, float]]:
    """Recognises the test split; returns text and confidence by URI."""
    images = "--infer_images=dataset:LATEST:test"
    assert run_command(workspace, "--steps=infer", images, *flags) == EXIT_DONE
    rows = []
    for file in workspace.glob("predictions/*/*/*.parquet"):
        rows += pyarrow.parquet.read_table(file).to_pylist()
    newest = max(row["scored_at"] for row in rows)
    return {row["uri"]: (row["text"], row["confidence"]) for row in rows if row["scored_at"] == newest}


def read_evaluation(workspace: Path) -> tuple[dict[str, tuple[str, float]], dict]:
    folder = workspace / "models" / "tinymodel000"
    rows = [
        row
        for file in folder.glob("evaluation/readings-*.parquet")
        for row in pyarrow.parquet.read_table(file).to_pylist()
    ]
    figures = json.loads((folder / "evaluation.json").read_text())
    return {row["uri"]: (row["text"], row["confidence"]) for row in rows}, figures


def test_evaluation_and_run_decode_alike_with_it_and_without(workspace, capsys):
    label_as_read(workspace / "datasets" / "tinydataset0", workspace / "models" / "tinymodel000")
    assert run_command(workspace, "--steps=evaluate", *ACCEPT) == EXIT_DONE
    evaluated, figures = read_evaluation(workspace)
    assert figures["decoding"] == ["beam", 10]
    assert read_texts(workspace) == evaluated
    run_command(workspace, "--steps=infer", "--infer_images=dataset:LATEST:test", "--plan")
    assert "with model tinymodel000, decoder beam" in capsys.readouterr().out
    greedy = read_texts(workspace, "--decoder=greedy")
    assert {uri: text for uri, (text, _) in greedy.items()} != {uri: text for uri, (text, _) in evaluated.items()}
    # What either decoder has read is not read by it again.
    for decoder in ("auto", "beam", "greedy"):
        run_command(workspace, "--steps=infer", "--infer_images=dataset:LATEST:test", f"--decoder={decoder}")
        assert "it was there already, read from the very same images" in capsys.readouterr().out
    run_command(workspace, "--steps=evaluate", "--decoder=greedy", *ACCEPT)  # refused: it reads at random
    evaluated, figures = read_evaluation(workspace)
    assert figures["decoding"] == ["greedy"]
    assert evaluated == greedy


def test_a_loaded_model_uses_it_as_the_command_does(workspace, tiny_images):
    evaluated = read_texts(workspace)
    paths = sorted(evaluated)
    loaded = load_recogniser(workspace)
    for path, found in zip(paths, loaded.recognise(paths), strict=True):
        assert (found.text, pytest.approx(found.confidence, rel=1e-4)) == evaluated[path]
        assert 1 <= len(found.alternatives) <= 2
        assert found.margin is not None
    greedy = load_recogniser(workspace, decoding=Decoding("greedy"))
    assert [found.text for found in greedy.recognise(paths)] != [text for text, _ in map(evaluated.get, paths)]


def test_a_damaged_one_is_refused_with_the_way_out(workspace, capsys):
    path = workspace / "models" / "tinymodel000" / "language_model.npz"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert run_command(workspace, "--steps=infer", "--infer_images=dataset:LATEST:test") == EXIT_REFUSED
    said = capsys.readouterr().err
    assert "language_model.npz has checksum" in said
    assert said.count("\n") == 1
    path.unlink()
    assert run_command(workspace, "--steps=infer", "--infer_images=dataset:LATEST:test") == EXIT_REFUSED
    assert "language_model.npz is missing" in capsys.readouterr().err


def test_texts_that_cannot_be_read_are_refused(workspace, tmp_path, capsys):
    assert run_command(workspace, "--steps=train", "--texts=gone.txt") == EXIT_USAGE
    assert "--texts=gone.txt is not a file" in capsys.readouterr().err
    (tmp_path / "texts.txt").write_bytes(b"\xff\xfe\xff")
    assert run_command(workspace, "--steps=train", f"--texts={tmp_path / 'texts.txt'}") == EXIT_REFUSED
    assert "has to hold one text a line, in UTF-8" in capsys.readouterr().err
