"""The command in a folder of others, with tables and pointers of others: nothing of theirs is executed or left open."""

from __future__ import annotations

import pytest
from PIL import Image

from pipeline.exits import EXIT_DONE, EXIT_REFUSED
from pipeline.main import main
from tests.commands import RUN_PIPELINE, run_python
from tests.components.recogniser.test_manifest import change_manifest


@pytest.fixture
def scans(tmp_path):
    """A folder of ten images with labels in their names."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in range(10):
        Image.new("L", (100, 32), 255).save(folder / f"{number}ab.png")
    return folder


@pytest.mark.slow
def test_workers_of_beam_execute_nothing_of_the_folder_that_the_command_is_run_in(tmp_path, scans):
    folder = tmp_path / "of others"
    folder.mkdir()
    for name in ("numpy", "apache_beam", "components", "random"):
        (folder / f"{name}.py").write_text(f"open('{folder}/executed', 'w').close()")
    done = run_python(
        RUN_PIPELINE,
        "--steps=ingest",
        f"--images={scans}",
        f"--workspace={tmp_path / 'ws'}",
        "--label_source=filename",
        "--direct_running_mode=multi_processing",
        "--direct_num_workers=2",
        cwd=folder,
        warm=False,
    )
    assert done.returncode == EXIT_DONE, done.stderr
    assert not (folder / "executed").exists()


def test_a_review_table_whose_dataset_lies_elsewhere_is_refused(tmp_path, scans, tiny_dataset, capsys):
    table = scans / "review.csv"
    table.write_text(f"path,text,dataset,model_id,run_id\n0ab.png,0ab,../../{tiny_dataset.name},m,r\n")
    assert main(["--steps=ingest", f"--label_source={table}", f"--workspace={tmp_path / 'ws'}"]) == EXIT_REFUSED
    assert f"'../../{tiny_dataset.name}' is no ID of one of the datasets in " in capsys.readouterr().err


def test_a_pointer_that_leads_out_of_the_workspace_is_refused(tmp_path, workspace, scans, capsys):
    (workspace / "models" / "tinymodel000").rename(tmp_path / "elsewhere")
    (workspace / "models" / "ACCEPTED").write_text("../../elsewhere\n")
    assert main(["--steps=infer", f"--infer_images={scans}", f"--workspace={workspace}"]) == EXIT_REFUSED
    assert "ACCEPTED holds '../../elsewhere', which is no ID" in capsys.readouterr().err


def test_a_model_that_its_manifest_does_not_describe_is_not_executed(workspace, scans, capsys):
    change_manifest(workspace / "models" / "tinymodel000", files={})
    assert main(["--steps=infer", f"--infer_images={scans}", f"--workspace={workspace}"]) == EXIT_REFUSED
    assert "does not name saved_model/" in capsys.readouterr().err
    assert not list(workspace.glob("predictions/*"))


def test_links_and_rows_that_lead_elsewhere_are_told_and_nothing_of_their_content(tmp_path, workspace, scans, capsys):
    secret = tmp_path / "shadow"
    secret.write_text("root:$6$secret:19000\nbin:*:19000\n")
    (scans / "0ab.txt").symlink_to(secret)
    (scans / "link.png").symlink_to(secret)
    (scans / "workspace").symlink_to(workspace)
    (scans / "system").symlink_to("/proc")
    (scans / "environment.png").symlink_to("/proc/self/environ")
    flags = [f"--workspace={workspace}", "--max_reject_fraction=0.9"]
    assert main([*flags, "--steps=ingest", f"--images={scans}", "--label_source=sidecar"]) == EXIT_REFUSED
    assert "none of the 12 images in --images has a usable label" in capsys.readouterr().err
    assert main([*flags, "--steps=infer", f"--infer_images={scans}"]) == EXIT_DONE
    assert "12 images matched, 10 read" in capsys.readouterr().out
    table = tmp_path / "list.csv"
    rows = (
        f"file://{scans}/0ab.png",
        f"{scans}/0ab.png",
        "http://[::1/x",
        "zip://x::http://127.0.0.1:1/x",
        "/dev/zero",
    )
    table.write_text("path\n" + "".join(f"{row}\n" for row in rows))
    assert main([*flags, "--steps=infer", f"--infer_images={table}", "--reread"]) == EXIT_DONE
    assert "1 read" in capsys.readouterr().out
    for path in workspace.rglob("*"):
        if path.is_file():
            assert b"$6$secret" not in path.read_bytes(), path
