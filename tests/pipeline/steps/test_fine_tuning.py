"""A model that goes on from another one: the symbols that it keeps, and what it must not forget."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from components.recogniser.manifest import ModelManifest, describe_files
from components.training.data import load_examples
from pipeline.command_line import parse_options
from pipeline.exits import EXIT_DONE, EXIT_REFUSED
from pipeline.steps.training_start import find_kept_symbols
from tests.commands import label_as_read, make_workspace, run_command
from tests.rendered import render_codes
from tfrecords import Charset, DataError, DatasetManifest

OTHER = Charset(tuple("XYZabcd"))
"""A charset of as many symbols as that of the tiny dataset, `0123abc`."""


def change_charset(model: Path, charset: Charset, **changes) -> ModelManifest:
    """Gives a model another charset of as many symbols, so that it reads other texts."""
    (model / "charset.txt").write_text(charset.to_file_text(), encoding="utf-8")
    manifest = ModelManifest.read(str(model))
    (model / "manifest.json").unlink()
    files = describe_files(str(model))
    manifest = dataclasses.replace(manifest, charset_sha256=charset.digest, files=files, **changes)
    manifest.write(str(model))
    return manifest


def kept_symbols(tiny_dataset: Path, start, *flags: str) -> str:
    manifest = DatasetManifest.read(str(tiny_dataset))
    return find_kept_symbols(parse_options(list(flags)), start, manifest, str(tiny_dataset))


@pytest.fixture
def start(tiny_model, tmp_path) -> tuple[str, ModelManifest]:
    """A model that knows `X`, `Y`, `Z` and `d` beside symbols of the tiny dataset, but no digits."""
    folder = shutil.copytree(tiny_model, tmp_path / "start")
    return str(folder), change_charset(folder, OTHER)


def test_a_fine_tuned_model_keeps_the_symbols_of_the_model_that_it_starts_from(tiny_dataset, start):
    assert kept_symbols(tiny_dataset, start) == "XYZd"
    assert kept_symbols(tiny_dataset, None) == ""


def test_base_weights_add_no_symbols(tiny_dataset, start, monkeypatch):
    monkeypatch.setattr("components.training.base_weights._FOLDER", str(Path(start[0]).parent))
    assert kept_symbols(tiny_dataset, start) == ""


def test_a_charset_file_says_otherwise_but_has_to_have_the_symbols_of_the_dataset(tiny_dataset, start, tmp_path):
    path = tmp_path / "charset.txt"
    path.write_text("\n".join("0123abcX?"))
    assert kept_symbols(tiny_dataset, start, f"--charset={path}") == "?X"
    path.write_text("\n".join("012abcX"))
    with pytest.raises(DataError, match=r"lacks symbols of dataset tinydataset0 \('3'\)"):
        kept_symbols(tiny_dataset, start, f"--charset={path}")


def test_labels_keep_their_texts_when_the_charset_grows(tiny_dataset):
    folder = str(tiny_dataset)
    manifest = DatasetManifest.read(folder)
    examples, old = load_examples(folder, manifest, "train"), manifest.read_charset(folder)
    new = old.add("XYZ!")
    assert new.symbols == tuple("!0123XYZabc")
    grown = examples.change_charset(old, new)
    assert [new.decode(grown.get_label(i).tolist()) for i in range(len(grown))] == examples.read_texts(
        range(len(examples))
    )
    assert old.add("") == old


@pytest.fixture
def workspace(tmp_path, tiny_dataset, tiny_model) -> Path:
    """A workspace whose latest model reads its own test lines, but none of those of model `old`, from which it started.

    Model `old` is in use, and reads the test lines of its dataset `olddata`.
    """
    workspace = make_workspace(tmp_path / "ws", tiny_model, accepted=False, dataset=tiny_dataset)
    models, datasets = workspace / "models", workspace / "datasets"
    old = shutil.copytree(tiny_model, models / "old")
    dataclasses.replace(ModelManifest.read(str(old)), model_id="old", dataset_id="olddata").write(str(old))
    shutil.copytree(tiny_dataset, datasets / "olddata")
    manifest = DatasetManifest.read(str(tiny_dataset))
    dataclasses.replace(manifest, dataset_id="olddata").write(str(datasets / "olddata"))
    label_as_read(datasets / "olddata", old)
    change_charset(models / "tinymodel000", OTHER, options={"model": "ctc_conv", "init_from": "old"})
    (models / "ACCEPTED").write_text("old\n")
    label_as_read(datasets / "tinydataset0", models / "tinymodel000")
    return workspace


def evaluate(workspace: Path, *flags: str) -> tuple[int, dict]:
    status = run_command(workspace, "--steps=evaluate", *flags)
    return status, json.loads((workspace / "models" / "tinymodel000" / "evaluation.json").read_text())


def read_accepted(workspace: Path) -> str:
    return (workspace / "models" / "ACCEPTED").read_text().strip()


def test_a_model_that_forgot_what_it_could_read_is_refused_with_both_figures(workspace, capsys):
    assert run_command(workspace, "--steps=evaluate", "--plan") == EXIT_DONE
    assert "the 4 held-out images of dataset olddata with it and with model old" in capsys.readouterr().out
    status, figures = evaluate(workspace)
    assert status == EXIT_REFUSED
    assert (figures["cer"], figures["start"]["start_cer"], figures["start"]["images"]) == (0, 0, 4)
    assert figures["start"]["cer"] > 0.3
    assert figures["refused_because"] == (
        f"it has forgotten what it could read: its CER of {figures['start']['cer']:.2%} on the 4 held-out images of "
        "dataset olddata is more than --max_cer_regression=0.005 worse than the 0.00% of model old, from which it "
        "started: train on the old lines too, by --add_to=olddata in the ingest step, or with a lower --learning_rate"
    )
    assert read_accepted(workspace) == "old"
    (page,) = (workspace / "runs").glob("*.html")
    assert f"{figures['start']['cer']:.2%}" in page.read_text()
    assert evaluate(workspace, "--max_cer_regression=1")[0] == EXIT_DONE
    assert read_accepted(workspace) == "tinymodel000"


@pytest.mark.parametrize("gone", ["datasets/olddata", "models/old"])
def test_a_model_whose_start_is_gone_is_judged_by_its_own_lines_and_the_log_says_so(workspace, capsys, gone):
    (workspace / "models" / "ACCEPTED").unlink()
    shutil.rmtree(workspace / gone)
    status, figures = evaluate(workspace)
    assert (status, figures["start"]) == (EXIT_DONE, None)
    assert "started from model old, whose dataset is not in" in capsys.readouterr().out


@pytest.mark.slow
def test_going_on_with_new_symbols_alone_forgets_the_old_ones_and_rehearsing_old_lines_mends_it(tmp_path, capsys):
    """Letters first, then digits: both models know all symbols, but only one still reads letters."""
    workspace = tmp_path / "ws"
    letters, digits = tmp_path / "letters", tmp_path / "digits"
    render_codes(letters, "ABCDEFGHKLMN", 150)
    render_codes(digits, "0123456789", 150)

    def train(images: Path, *flags: str) -> tuple[int, str, str, dict]:
        status = run_command(workspace, "--steps=ingest,train,evaluate", f"--images={images}", "--epochs=10", *flags)
        model_id = (workspace / "models" / "LATEST").read_text().strip()
        figures = json.loads((workspace / "models" / model_id / "evaluation.json").read_text())
        return status, model_id, (workspace / "datasets" / "LATEST").read_text().strip(), figures

    status, first, old_dataset, figures = train(letters)
    assert (status, read_accepted(workspace), figures["start"]) == (EXIT_DONE, first, None)
    capsys.readouterr()
    status, second, new_dataset, figures = train(
        digits, f"--init_from={first}", "--learning_rate=0.004", "--epochs=20", "--patience=20"
    )
    said = capsys.readouterr()
    assert f"the model keeps 12 symbols of model {first} that the dataset lacks (A B C D E F G H K L M N)" in said.out
    assert (
        "".join(
            ModelManifest.read(str(workspace / "models" / second))
            .read_charset(str(workspace / "models" / second))
            .symbols
        )
        == "0123456789ABCDEFGHKLMN"
    )
    assert DatasetManifest.read(str(workspace / "datasets" / new_dataset)).read_charset(
        str(workspace / "datasets" / new_dataset)
    ).symbols == tuple("0123456789")
    assert figures["cer"] < 0.2  # it reads digits
    assert figures["start"]["cer"] > figures["start"]["start_cer"] + 0.05  # and letters no more as before
    assert (status, read_accepted(workspace)) == (EXIT_REFUSED, first)
    assert f"it has forgotten what it could read: its CER of {figures['start']['cer']:.2%}" in said.err

    status, third, _, figures = train(digits, f"--init_from={first}", f"--add_to={old_dataset}")
    assert figures["cer"] < 0.2
    assert figures["start"]["cer"] <= figures["start"]["start_cer"] + 0.005
    assert (status, read_accepted(workspace)) == (EXIT_DONE, third)
