"""The plan of a step says what the command then does, whatever state the workspace is in."""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from components import commit
from pipeline.command_line import parse_options
from pipeline.plan import PlannedWorkspace
from pipeline.steps import choose_steps
from pipeline.steps import step as step_module
from pipeline.steps.step import Context, Outcome, Plan, StepResult
from pipeline.workspace import Workspace
from tests.commands import fork_trainings
from tfrecords import DataError

DAY = datetime.datetime.now(datetime.UTC).date().isoformat()


@pytest.fixture
def workspace(tmp_path, tiny_dataset, tiny_model) -> Path:
    """A workspace with the tiny dataset, and the tiny model in use."""
    folder = tmp_path / "ws"
    shutil.copytree(tiny_dataset, folder / "datasets" / "tinydataset0")
    shutil.copytree(tiny_model, folder / "models" / "tinymodel000")
    (folder / "datasets" / "LATEST").write_text("tinydataset0\n")
    for pointer in ("LATEST", "ACCEPTED"):
        (folder / "models" / pointer).write_text("tinymodel000\n")
    return folder


@pytest.fixture
def images(tmp_path, tiny_images) -> Path:
    """A folder of images with labels that may be changed."""
    return Path(shutil.copytree(tiny_images, tmp_path / "images"))


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def plan(folder: Path, name: str, *flags: str) -> Plan | str:
    """The plan of one step, or the sentence with which it is refused; makes sure that nothing changes."""
    before = contents(folder)
    options = parse_options([f"--workspace={folder}", f"--steps={name}", *flags])
    (step,) = choose_steps(options.step_names)
    try:
        return step.plan(Context(options, PlannedWorkspace(str(folder)), Workspace(f"{folder}-plan")))
    except DataError as error:
        return str(error)
    finally:
        assert contents(folder) == before
        shutil.rmtree(f"{folder}-plan", ignore_errors=True)


def do(folder: Path, name: str, *flags: str) -> StepResult | str:
    """The result of one step, or the sentence with which it is refused."""
    workspace = Workspace(str(folder))
    options = parse_options([f"--workspace={folder}", f"--steps={name}", *flags])
    (step,) = choose_steps(options.step_names)
    try:
        with fork_trainings():
            return step.run(Context(options, workspace, workspace))
    except DataError as error:
        return str(error)


def plan_and_do(folder: Path, name: str, *flags: str) -> tuple[Plan, StepResult]:
    planned, done = plan(folder, name, *flags), do(folder, name, *flags)
    assert isinstance(planned, Plan), planned
    assert isinstance(done, StepResult), done
    assert planned.outcome == done.outcome
    return planned, done


def text_of(planned: Plan | str) -> str:
    return planned if isinstance(planned, str) else "\n".join(planned.lines)


@pytest.fixture
def stop(monkeypatch):
    """Makes a function fail once, so that what it should have done is left undone."""

    def at(target: object, name: str) -> None:
        original = getattr(target, name)

        def interrupt(*arguments, **named):
            monkeypatch.setattr(target, name, original)
            raise RuntimeError("stopped here")

        monkeypatch.setattr(target, name, interrupt)

    return at


# ingest


def test_ingest_from_nothing_to_there_already_to_damaged(tmp_path, images):
    folder, flags = tmp_path / "ws", (f"--images={images}", "--height=32")
    planned, done = plan_and_do(folder, "ingest", *flags)
    assert done.outcome == Outcome.MADE
    assert f"write dataset {done.figures['dataset_id']}" in text_of(planned)
    assert f"read {done.figures['matched']} images below {images}" in text_of(planned)
    planned, done = plan_and_do(folder, "ingest", *flags)
    assert done.outcome == Outcome.REUSED
    assert f"nothing to write: {done.folder} is there already" in text_of(planned)
    Path(done.folder, "statistics.json").unlink()
    planned, done = plan_and_do(folder, "ingest", *flags)
    assert done.outcome == Outcome.REMADE
    assert "statistics.json should have" in text_of(planned)


def test_an_ingest_that_was_stopped_is_resumed(tmp_path, images, stop):
    from components.ingest import transforms

    folder, flags = tmp_path / "ws", (f"--images={images}", "--height=32")
    stop(transforms, "commit_dataset")
    with pytest.raises(RuntimeError, match="stopped here"):
        do(folder, "ingest", *flags)
    planned, done = plan_and_do(folder, "ingest", *flags)
    assert done.outcome == Outcome.RESUMED
    assert "resume: 3 of 3 shards are finished" in text_of(planned)


def test_an_ingest_that_is_refused_is_so_in_the_plan_of_the_next_one(tmp_path, images):
    folder, flags = tmp_path / "ws", (f"--images={images}", "--height=32")
    for path in sorted(images.glob("*.png"))[:3]:
        path.write_bytes(b"no image")
    refusal = do(folder, "ingest", *flags)
    assert isinstance(refusal, str)
    assert "3 of 24 images (12.5%) were rejected" in refusal
    assert "3 of 24 images (12.5%) were rejected" in text_of(plan(folder, "ingest", *flags))
    planned, done = plan_and_do(folder, "ingest", *flags, "--max_reject_fraction=0.2")
    assert "were rejected" not in text_of(planned)
    assert plan(folder, "ingest", *flags) == do(folder, "ingest", *flags)  # it is there, with too many rejects
    assert done.rejects == {"not_an_image": 3}


def test_a_label_table_that_cannot_be_used_is_refused_by_the_plan_too(tmp_path, images):
    table = tmp_path / "labels.csv"
    table.write_text("file,remark\nx.png,nice\n")
    flags = (f"--images={images}", f"--label_source={table}")
    refusal = plan(tmp_path / "ws", "ingest", *flags)
    assert isinstance(refusal, str)
    assert "has no text column" in refusal
    assert refusal == do(tmp_path / "ws", "ingest", *flags)


# train


@pytest.mark.slow
def test_train_from_nothing_to_there_already_to_damaged(workspace):
    flags = ("--epochs=1",)
    planned, done = plan_and_do(workspace, "train", *flags)
    assert done.outcome == Outcome.MADE
    assert f"write model {done.figures['model_id']}" in text_of(planned)
    planned, done = plan_and_do(workspace, "train", *flags)
    assert done.outcome == Outcome.REUSED
    assert f"nothing to train: {done.folder} is there already" in text_of(planned)
    Path(done.folder, "model.onnx").unlink()
    planned, done = plan_and_do(workspace, "train", *flags)
    assert done.outcome == Outcome.REMADE
    assert "model.onnx should have" in text_of(planned)


@pytest.mark.slow
def test_a_training_that_was_stopped_is_resumed(workspace, stop):
    import importlib

    stop(importlib.import_module("pipeline.steps.train"), "_commit")
    with pytest.raises(RuntimeError, match="stopped here"):
        do(workspace, "train", "--epochs=1")
    planned, done = plan_and_do(workspace, "train", "--epochs=1")
    assert done.outcome == Outcome.RESUMED
    assert "resume from the last checkpoint" in text_of(planned)
    assert plan(workspace, "train", "--epochs=1", "--resume=never").outcome == Outcome.REUSED


@pytest.mark.parametrize("step", ["train", "evaluate", "review", "compact"])
def test_what_a_step_lacks_its_plan_says_in_the_same_words(tmp_path, step):
    flags = ("--date=2026-01-01",) if step == "compact" else ()
    planned, done = plan(tmp_path / "ws", step, *flags), do(tmp_path / "ws", step, *flags)
    if step == "compact":
        assert planned.outcome == done.outcome == Outcome.NOTHING
    else:
        assert isinstance(planned, str)
        assert planned == done


# evaluate


def test_evaluate_is_done_anew_each_time_and_its_plan_names_model_and_images(workspace):
    for _ in range(2):
        planned, done = plan_and_do(workspace, "evaluate", "--max_cer=1")
        assert f"model tinymodel000 on {done.figures['images']} held-out images" in text_of(planned)
    Path(workspace, "models", "tinymodel000", "model.onnx").unlink()
    damaged = do(workspace, "evaluate", "--max_cer=1")
    assert isinstance(damaged, str)
    assert "model.onnx is missing" in damaged


def test_a_model_that_is_refused_was_announced_as_the_one_to_evaluate(workspace):
    planned, done = plan_and_do(workspace, "evaluate", "--max_cer=0")
    assert done.refused is not None
    assert "accepted until now: model tinymodel000" in text_of(planned)
    assert "accepted until now: no model" in text_of(plan(workspace, "evaluate"))


# infer


def test_infer_from_nothing_to_nothing_new_to_damaged(workspace, images):
    flags = (f"--infer_images={images}",)
    planned, done = plan_and_do(workspace, "infer", *flags)
    assert done.outcome == Outcome.MADE
    assert "24 images matched" in text_of(planned)
    assert "24 are to be read" in text_of(planned)
    planned, done = plan_and_do(workspace, "infer", *flags)
    assert done.outcome == Outcome.NOTHING
    assert "24 were read before, 0 are to be read" in text_of(planned)
    next(workspace.glob("predictions/*/*/*.parquet")).unlink()
    planned, done = plan_and_do(workspace, "infer", *flags)
    assert done.outcome == Outcome.MADE
    assert "24 are to be read" in text_of(planned)
    assert done.figures["rows"] == 24


def test_a_split_that_was_read_is_found(workspace):
    flags = ("--infer_images=dataset:LATEST:test",)
    assert plan_and_do(workspace, "infer", *flags)[1].outcome == Outcome.MADE
    planned, done = plan_and_do(workspace, "infer", *flags)
    assert done.outcome == Outcome.REUSED
    assert f"nothing to read: {done.folder} is the very same" in text_of(planned)


def test_a_run_that_was_stopped_is_resumed(workspace, images, stop):
    flags = (f"--infer_images={images}",)
    stop(commit, "check_files")
    with pytest.raises(RuntimeError, match="stopped here"):
        do(workspace, "infer", *flags)
    planned, done = plan_and_do(workspace, "infer", *flags)
    assert done.outcome == Outcome.RESUMED
    assert "resume: 1 of 1 shards are finished" in text_of(planned)


def test_a_run_that_is_refused_is_so_in_the_plan_of_the_next_one(workspace, images):
    flags = (f"--infer_images={images}",)
    for path in sorted(images.glob("*.png"))[:3]:
        path.write_bytes(b"no image")
    refusal = do(workspace, "infer", *flags)
    assert isinstance(refusal, str)
    assert "3 of 24 images (12.5%) were rejected" in refusal
    assert "3 of 24 images (12.5%) were rejected" in text_of(plan(workspace, "infer", *flags))


def make_runs(workspace: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StepResult]:
    """Recognises the images in two runs of one day."""
    later = images.parent / "later"
    later.mkdir()
    for path in sorted(images.glob("*.png"))[12:]:
        path.rename(later / path.name)
    yield do(workspace, "infer", f"--infer_images={images}")
    for path in later.iterdir():
        path.rename(images / path.name)
    yield do(workspace, "infer", f"--infer_images={images}")


def test_a_damaged_merged_run_beside_its_sources_counts_for_nothing_in_plan_and_command(
    workspace, images, monkeypatch, tmp_path
):
    """A merge was stopped before it removed its sources; then a file of the merged run was damaged."""
    days = {result.folder.split("date=")[1][:10] for result in make_runs(workspace, images, monkeypatch)}
    if len(days) > 1:
        pytest.skip("the day ended meanwhile")
    (day,) = days
    sources = shutil.copytree(workspace / "predictions", tmp_path / "sources")
    _, merged = plan_and_do(workspace, "compact", f"--date={day}")
    assert merged.figures["runs"] == 1
    shutil.copytree(sources, workspace / "predictions", dirs_exist_ok=True)
    (file,) = Path(workspace, "predictions", f"date={day}").glob("run=m*/*.parquet")
    file.unlink()
    planned, done = plan_and_do(workspace, "infer", f"--infer_images={images}")
    assert done.outcome == Outcome.NOTHING
    assert "24 were read before, 0 are to be read" in text_of(planned)


# review and compact


def test_review_until_nothing_is_left(workspace, images):
    (workspace / "datasets" / "LATEST").write_text("tinydataset0\n")
    new = images.parent / "new"
    new.mkdir()
    for path in sorted(images.glob("*.png"))[:5]:  # at another place, so that they are not in the dataset
        path.rename(new / path.name)
    do(workspace, "infer", f"--infer_images={new}")
    planned, done = plan_and_do(workspace, "review", "--review_count=3")
    assert "give out the 3 least confident readings" in text_of(planned)
    assert done.figures["images"] == 3
    planned, done = plan_and_do(workspace, "review", "--review_count=3")
    assert "give out the 2 least confident readings" in text_of(planned)
    planned, done = plan_and_do(workspace, "review", "--review_count=3")
    assert done.outcome == Outcome.NOTHING
    assert "nothing is left to review" in text_of(planned)
    assert "nothing is left to review" in done.summary


def test_compact_until_nothing_is_left(workspace, images, monkeypatch):
    days = {result.folder.split("date=")[1][:10] for result in make_runs(workspace, images, monkeypatch)}
    if len(days) > 1:
        pytest.skip("the day ended meanwhile")
    (day,) = days
    planned, done = plan_and_do(workspace, "compact", f"--date={day}")
    assert done.outcome == Outcome.MADE
    assert f"2 runs of {day}, 24 rows in 2 files" in text_of(planned)
    assert "merge 2 runs into 1, 1 file" in text_of(planned)
    planned, done = plan_and_do(workspace, "compact", f"--date={day}")
    assert done.outcome == Outcome.NOTHING
    assert "nothing to merge" in text_of(planned)
    assert "nothing to merge" in done.summary


# several steps


def test_a_later_step_is_planned_on_what_the_earlier_one_would_make(tmp_path, images):
    folder, flags = tmp_path / "ws", [f"--images={images}", "--height=32"]
    do(folder, "ingest", *flags)
    options = parse_options([f"--workspace={folder}", "--steps=ingest,train", "--epochs=1", *flags])
    context = Context(options, PlannedWorkspace(str(folder)), Workspace(str(tmp_path / "scratch")))
    _, trained = (step.plan(context) for step in choose_steps(options.step_names))
    assert "on dataset" in text_of(trained)  # which is there, so that all is known of the training
    images.joinpath("00-11.png").unlink()
    context = Context(options, PlannedWorkspace(str(folder)), Workspace(str(tmp_path / "scratch")))
    _, trained = (step.plan(context) for step in choose_steps(options.step_names))
    assert trained.outcome is None
    assert "on the dataset that the ingest step makes" in text_of(trained)


def test_the_record_of_a_command_says_what_each_step_did(tmp_path, images):
    from pipeline.exits import EXIT_DONE
    from pipeline.main import main

    for expected in ("made", "reused"):
        assert main([f"--workspace={tmp_path}/ws", "--steps=ingest", f"--images={images}", "--height=32"]) == EXIT_DONE
        newest = max((tmp_path / "ws" / "runs").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        assert json.loads(newest.read_text())["steps"][0]["outcome"] == expected
    assert step_module.Outcome(expected) == Outcome.REUSED
