"""The forecast step: models of parts of the labels say what more labels would bring."""

import json

import pytest

from pipeline.command_line import parse_options
from pipeline.exits import EXIT_DONE, EXIT_LOST, EXIT_REFUSED
from pipeline.steps import forecast
from pipeline.steps.train import resolve_training
from pipeline.workspace import Workspace
from tests.commands import make_workspace, run_command

FLAGS = ("--steps=forecast", "--epochs=1")


@pytest.fixture
def workspace(tmp_path, tiny_dataset, tiny_model, monkeypatch):
    monkeypatch.setattr(forecast, "_LEAST_LINES", 16)
    return make_workspace(tmp_path / "ws", tiny_model, dataset=tiny_dataset)


@pytest.mark.slow
def test_a_stopped_forecast_is_resumed_and_stands_in_the_report(workspace, request, capsys):
    assert run_command(workspace, "--steps=train", "--epochs=1") == EXIT_DONE
    trainings = request.getfixturevalue("trainings")  # of the forecast alone
    assert run_command(workspace, *FLAGS) == EXIT_LOST
    capsys.readouterr()
    assert run_command(workspace, *FLAGS, "--plan") == EXIT_DONE
    assert "3 trainings, on 4, 4, 8 labels, of which 2 are left" in capsys.readouterr().out
    assert run_command(workspace, *FLAGS) == EXIT_DONE
    said = capsys.readouterr().out
    assert len(trainings) == 4
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
    assert len(trainings) == 4


def test_what_is_missing_is_said_with_the_way_out(workspace, monkeypatch, capsys):
    for flags in (["--plan"], []):
        assert run_command(workspace, *FLAGS, *flags) == EXIT_REFUSED
        assert "run the train step first, with the same flags (--steps=train,forecast)" in capsys.readouterr().err
    assert run_command(workspace, *FLAGS, "--init_from=tinymodel000") == EXIT_REFUSED
    assert "has seen labels that the forecast holds back" in capsys.readouterr().err
    other = workspace / "models" / resolve(workspace)
    (workspace / "models" / "tinymodel000").rename(other)
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps({**manifest, "model_id": other.name}))
    monkeypatch.setattr(forecast, "_LEAST_LINES", 40)
    assert run_command(workspace, *FLAGS) == EXIT_REFUSED
    assert "has 16 training lines" in capsys.readouterr().err


def resolve(workspace) -> str:
    """The ID of the model that the train step would make."""
    options = parse_options([f"--workspace={workspace}", *FLAGS])
    return resolve_training(options, Workspace(str(workspace))).model_id
