"""The train step as a scheduler runs it: several nodes, stopped nodes, and the same command again."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from components.recogniser.manifest import ModelManifest
from components.training import checkpoints, recipes
from components.training.launcher import find_free_ports
from components.training.recipes import RECIPES
from pipeline.exits import EXIT_DONE
from pipeline.steps import repeated_training
from tests.commands import run_command, start_command

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="lists child processes"),
]


@pytest.fixture(scope="module")
def ingested(tiny_images, tmp_path_factory) -> Path:
    """A workspace with a dataset. Never train in it: copy it first."""
    workspace = tmp_path_factory.mktemp("ingested") / "workspace"
    flags = ("--steps=ingest", f"--images={tiny_images}", "--label_source=sidecar", "--height=32")
    done = command(workspace, *flags).communicate()
    assert (workspace / "datasets" / "LATEST").exists(), done
    return workspace


@pytest.fixture
def workspace(ingested, tmp_path) -> Path:
    return shutil.copytree(ingested, tmp_path / "workspace")


def command(workspace: Path, *flags: str, warm: bool = True, **environment: str) -> subprocess.Popen:
    flags = ("--runner=DirectRunner", f"--workspace={workspace}", *flags)
    return start_command(*flags, environment=environment, warm=warm)


def children(pid: int) -> list[int]:
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as file:
            found += map(int, file.read().split())
    return found


def wait_for_epoch(process: subprocess.Popen) -> None:
    """Until a training says how its first epoch went."""
    for line in process.stdout:
        if line.startswith("epoch"):
            return
    pytest.fail(process.stderr.read())


def weights(workspace: Path) -> list[np.ndarray]:
    import keras

    import components.training.networks  # noqa: F401 (its layers are in the file)

    (folder,) = [path.parent for path in workspace.glob("models/*/manifest.json")]
    assert (workspace / "models" / "LATEST").read_text().strip() == folder.name
    manifest = ModelManifest.read(str(folder))
    for name in manifest.files:
        manifest.fetch(str(folder), name)
    return keras.saving.load_model(folder / "model.keras").get_weights()


def test_an_interrupted_training_goes_on_where_it_was_and_ends_as_if_it_had_not_been(workspace, ingested, tmp_path):
    undisturbed = shutil.copytree(ingested, tmp_path / "undisturbed")
    flags = ("--steps=train", "--epochs=12", "--patience=12", "--batch_size=4")
    said, errors = command(undisturbed, *flags).communicate(timeout=300)
    assert "trained for" in said, errors

    stopped = command(workspace, *flags)
    wait_for_epoch(stopped)
    stopped.send_signal(signal.SIGTERM)
    said, errors = stopped.communicate(timeout=60)
    assert stopped.returncode == 130
    assert "run the same command to resume" in errors
    # Another run in between, however successful, leaves the stopped one's checkpoints alone.
    command(workspace, "--steps=ingest", "--images=nowhere").communicate(timeout=60)
    assert list(workspace.glob("unfinished/training-*/checkpoints/checkpoint-*.npz"))

    again = command(workspace, *flags)
    said, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    assert int(re.search(r"resuming from the checkpoint of step (\d+)", said)[1]) >= 4
    for one, other in zip(weights(workspace), weights(undisturbed), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
    assert not list(workspace.glob("unfinished/*"))


def test_two_nodes_of_a_scheduler_train_one_model_although_one_of_them_loses_its_worker(workspace):
    first, second = (f"localhost:{port}" for port in find_free_ports(2))
    cluster = {"chief": [first], "worker": [second]}
    flags = ("--steps=train", "--epochs=12", "--patience=12", "--batch_size=4")
    nodes = [
        command(
            workspace,
            *flags,
            warm=False,
            TF_CONFIG=json.dumps({"cluster": cluster, "task": {"type": kind, "index": 0}, "environment": "cloud"}),
        )
        for kind in ("chief", "worker")
    ]
    try:
        wait_for_epoch(nodes[0])
        (worker,) = children(nodes[1].pid)
        os.kill(worker, signal.SIGKILL)
        said = [node.communicate(timeout=400) for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], said
    assert re.search(r"training worker 0 of 1 lost the other workers.*restart 1 of 2", said[0][0])
    assert re.search(r"training worker 0 of 1 was killed by SIGKILL.*restart 1 of 2", said[1][0])
    assert "worker 1 of 2" in said[1][0]
    assert "the first worker commits it" in said[1][0]
    assert len(weights(workspace)) > 10
    assert len(list((workspace / "runs").glob("*.json"))) == 2  # of the ingest, and of the chief


def test_a_model_starts_from_another_whose_charset_lacks_a_symbol_and_goes_into_use(tiny_images, tmp_path):
    """Ingest, training and recognition with it: `2` comes new to what the first model knows."""
    workspace, fewer = tmp_path / "workspace", tmp_path / "fewer"
    fewer.mkdir()
    for path in tiny_images.iterdir():
        if "2" not in path.stem.partition("-")[2]:
            shutil.copy(path, fewer)

    def run(*flags: str) -> str:
        done = command(workspace, "--label_source=sidecar", "--height=32", *flags)
        said, errors = done.communicate(timeout=400)
        assert done.returncode == 0, errors
        return said

    run("--steps=ingest,train", f"--images={fewer}", "--model=crnn_v1", "--epochs=3")
    first = (workspace / "models" / "LATEST").read_text().strip()
    said = run("--steps=ingest,train", f"--images={tiny_images}", f"--init_from={first}", "--epochs=2")
    second = (workspace / "models" / "LATEST").read_text().strip()
    assert second != first
    assert re.search(
        rf"model {second}: crnn_v1, up to 2 epochs on dataset \w+, from the weights of model {first}", said
    )
    old, new = (ModelManifest.read(str(workspace / "models" / model_id)) for model_id in (first, second))
    assert (old.options["init_from"], new.options["init_from"]) == (None, first)
    assert (old.options["learning_rate"], new.options["learning_rate"]) == (1e-3, 2.5e-4)
    assert (new.model, new.dataset_id != old.dataset_id) == ("crnn_v1", True)
    symbols = [manifest.read_charset(str(workspace / "models" / manifest.model_id)).symbols for manifest in (old, new)]
    assert set(symbols[1]) - set(symbols[0]) == {"2"}
    # The same request finds it, by whichever name it calls its start.
    assert "it was there already" in run("--steps=train", f"--init_from={workspace / 'models' / first}", "--epochs=2")
    assert (workspace / "models" / "LATEST").read_text().strip() == second

    (workspace / "models" / "ACCEPTED").write_text(second)  # no evaluation accepts what learned for so short a time
    run("--steps=infer", f"--infer_images={tiny_images}")
    (manifest,) = workspace.glob("predictions/*/*/_manifest.json")
    assert (json.loads(manifest.read_text())["model_id"], json.loads(manifest.read_text())["rows"]) == (second, 24)


@pytest.mark.parametrize(
    ("flags", "cers", "rate"),
    [
        ((), {"-slower": 0.7, "": 0.8}, 0.0005),
        ((), {"-slower": 0.8, "": 0.7}, 0.004),
        (("--learning_rate=0.004",), None, 0.004),
    ],
    ids=["slower is better", "slower is worse", "rate given"],
)
def test_a_training_in_which_reading_never_begins_is_repeated_with_a_lower_rate_and_the_better_one_kept(
    workspace, tmp_path, monkeypatch, capsys, flags, cers, rate
):
    monkeypatch.setitem(RECIPES, "ctc_conv", dataclasses.replace(RECIPES["ctc_conv"], epochs=2, least_steps=3))
    monkeypatch.setattr(recipes, "_STEPS_PER_SYMBOL", 1)
    histories = {}

    def rate_by_folder(history):
        name = next(name for name, of_folder in histories.items() if of_folder is history)
        return cers[name]

    def read_and_note(folder):
        history = checkpoints.read_history(folder)
        histories["-slower" if folder.endswith("-slower") else ""] = history
        return history

    monkeypatch.setattr(repeated_training, "read_history", read_and_note)
    monkeypatch.setattr(repeated_training, "get_lowest_cer", rate_by_folder)
    (tmp_path / "texts.txt").write_text("a1b2\nc3\n\nUNKNOWN\n")
    flags = ("--steps=train", "--init_from=none", f"--texts={tmp_path / 'texts.txt'}", *flags)
    assert run_command(workspace, *flags) == EXIT_DONE
    said = capsys.readouterr().out
    assert ("training again with a learning rate of 0.0005 in place of 0.004" in said) == (cers is not None)
    model_id = (workspace / "models" / "LATEST").read_text().strip()
    folder = workspace / "models" / model_id
    manifest = ModelManifest.read(str(folder))
    assert manifest.options["learning_rate"] == rate
    rates = [float(row["learning_rate"]) for row in csv.DictReader((folder / "history.csv").open())]
    assert len(rates) == 2
    assert rate / 2 < max(rates) <= rate
    assert not list(workspace.glob("unfinished/*"))
    # The same command finds its model, whichever rate it was trained with; other texts are another model.
    assert run_command(workspace, *flags) == EXIT_DONE
    assert f"model {model_id}: " in (again := capsys.readouterr().out)
    assert "it was there already" in again
    (tmp_path / "texts.txt").write_text("a1b2\n")
    run_command(workspace, *flags, "--plan")
    assert f"write model {model_id}" not in (plan := capsys.readouterr().out)
    assert "write model" in plan
