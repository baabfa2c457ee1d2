"""The forecast step: models of parts of the labels say what more labels would bring."""

import json

import pytest

from components.training.launcher import TrainingLostError
from pipeline.exits import EXIT_DONE, EXIT_LOST, EXIT_REFUSED
from pipeline.steps import forecast, training_apart
from tests.commands import make_workspace, run_command

FLAGS = ("--steps=forecast", "--epochs=1")


@pytest.fixture
def workspace(tmp_path, tiny_dataset, tiny_model, monkeypatch):
    monkeypatch.setattr(forecast, "_LEAST_LINES", 16)
    return make_workspace(tmp_path / "ws", tiny_model, dataset=tiny_dataset)


@pytest.mark.slow
def test_a_stopped_forecast_is_resumed_and_stands_in_the_report(workspace, monkeypatch, capsys):
    model = json.loads((workspace / "models" / "tinymodel000" / "manifest.json").read_text())
    dataset = json.loads((workspace / "datasets" / "tinydataset0" / "manifest.json").read_text())
    assert model["dataset_id"] == dataset["dataset_id"]
    (workspace / "datasets" / "tinydataset0").rename(workspace / "datasets" / model["dataset_id"])
    (workspace / "datasets" / "LATEST").write_text(model["dataset_id"])
    train, calls = training_apart.train_until_reading, []

    def lose_the_second(*arguments, **how):
        calls.append(arguments)
        if len(calls) == 2:
            raise TrainingLostError("worker 0 was killed")
        return train(*arguments, **how)

    monkeypatch.setattr(training_apart, "train_until_reading", lose_the_second)
    assert run_command(workspace, *FLAGS) == EXIT_LOST
    capsys.readouterr()
    assert run_command(workspace, *FLAGS, "--plan") == EXIT_DONE
    assert "3 trainings, on 4, 4, 8 labels, of which 2 are left" in capsys.readouterr().out
    assert run_command(workspace, *FLAGS) == EXIT_DONE
    said = capsys.readouterr().out
    assert len(calls) == 4
    assert "with 16 labels; expected: " in said
    (folder,) = (workspace / "forecasts").iterdir()
    made = json.loads((folder / "forecast.json").read_text())
    assert [point["labels"] for point in made["measured"]] == [4, 4, 8, 16]
    assert [point["labels"] for point in made["forecast"]] == [32, 64]
    assert all(point["low"] <= point["cer"] <= point["high"] for point in made["forecast"])
    assert not list(workspace.glob("unfinished/*"))
    page = max((workspace / "runs").glob("*.html")).read_text()
    assert "What more labels would bring" in page
    assert page.count('<td class="quiet">forecast</td>') == 2
    for flags in (["--plan"], []):
        assert run_command(workspace, *FLAGS, *flags) == EXIT_DONE
        assert "there already" in capsys.readouterr().out
    assert len(calls) == 4


def test_what_is_missing_is_said_with_the_way_out(workspace, monkeypatch, capsys):
    monkeypatch.setattr(forecast, "_LEAST_LINES", 40)
    manifest = workspace / "models" / "tinymodel000" / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "dataset_id": "another00000"}))
    for flags in (["--plan"], []):
        assert run_command(workspace, *FLAGS, *flags) == EXIT_REFUSED
        assert "run the train step first (--steps=train,evaluate,forecast)" in capsys.readouterr().err
    manifest.write_text(json.dumps({**content, "dataset_id": "tinydataset0"}))
    assert run_command(workspace, *FLAGS) == EXIT_REFUSED
    assert "has 16 training lines" in capsys.readouterr().err
