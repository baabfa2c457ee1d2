"""Networks that were renamed: what was trained under the former names stays in use."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.command_line import parse_options
from pipeline.exits import EXIT_DONE
from pipeline.main import main
from pipeline.plan import PlannedWorkspace
from pipeline.steps.step import Context
from pipeline.steps.train import TrainStep
from pipeline.workspace import Workspace

CRNN_ID, CRNN_LARGE_ID = "ccf26899cf92", "bb844d8ea599"
"""Of models of the tiny dataset after 94 epochs with all defaults, by the version that called them `crnn` and
`crnn_large`."""


@pytest.fixture
def workspace(tmp_path, tiny_dataset, tiny_model) -> Path:
    """A workspace with the tiny dataset, and a model that was trained on it under the name `crnn`."""
    folder = tmp_path / "workspace"
    shutil.copytree(tiny_dataset, folder / "datasets" / "tinydataset0")
    (folder / "datasets" / "LATEST").write_text("tinydataset0\n")
    shutil.copytree(tiny_model, folder / "models" / CRNN_ID)
    (folder / "models" / "LATEST").write_text(f"{CRNN_ID}\n")
    path = folder / "models" / CRNN_ID / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest |= {"model_id": CRNN_ID, "model": "crnn", "options": {"model": "crnn", "epochs": 94}}
    path.write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize(
    ("flags", "network", "wanted"),
    [
        ([], "ctc_conv", CRNN_ID),
        (["--model=ctc_conv"], "ctc_conv", CRNN_ID),
        (["--model=crnn"], "ctc_conv", CRNN_ID),
        (["--model=ctc_conv_large"], "ctc_conv_large", CRNN_LARGE_ID),
        (["--model=crnn_large"], "ctc_conv_large", CRNN_LARGE_ID),
    ],
)
def test_the_same_request_has_the_same_id_by_either_name(workspace, flags, network, wanted):
    options = parse_options([f"--workspace={workspace}", "--epochs=94", *flags])
    context = Context(options, PlannedWorkspace(str(workspace)), Workspace(str(workspace / "scratch")))
    lines = "\n".join(TrainStep().plan(context).lines)
    assert f"model {network}, epochs 94" in lines
    assert f"{workspace}/models/{wanted}" in lines


@pytest.mark.parametrize("flags", [["--model=crnn"], ["--model=ctc_conv"], []], ids=str)
def test_a_finished_model_is_found_again_and_the_former_name_is_corrected_once(workspace, capsys, flags):
    assert main([f"--workspace={workspace}", "--steps=train", "--epochs=94", *flags]) == EXIT_DONE
    said = capsys.readouterr().out
    assert f"model {CRNN_ID}: ctc_conv, up to 94 epochs" in said
    assert "it was there already" in said
    assert said.count("--model=crnn is now called ctc_conv") == flags.count("--model=crnn")


def test_a_model_with_the_former_name_is_evaluated(workspace):
    status = main([f"--workspace={workspace}", "--steps=evaluate", "--max_cer=1"])
    evaluation = json.loads((workspace / "models" / CRNN_ID / "evaluation.json").read_text())
    assert evaluation["images"] == 4
    assert evaluation["accepted"] == (status == EXIT_DONE)


@pytest.mark.parametrize("flags", [[], ["--model=crnn"], ["--model=ctc_conv"]], ids=str)
def test_a_model_with_the_former_name_can_be_the_start(workspace, flags):
    options = parse_options([f"--workspace={workspace}", f"--init_from={CRNN_ID}", *flags])
    context = Context(options, PlannedWorkspace(str(workspace)), Workspace(str(workspace / "scratch")))
    lines = "\n".join(TrainStep().plan(context).lines)
    assert "model ctc_conv, " in lines
    assert f"init_from {CRNN_ID}" in lines
