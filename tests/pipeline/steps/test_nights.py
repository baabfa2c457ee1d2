"""One night after the other, by the command: what is read, what is not, and what is said of it."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import duckdb
import pytest

from components.inference import commit, shards
from pipeline.exits import EXIT_ALARM, EXIT_DONE, EXIT_HELD, EXIT_REFUSED
from pipeline.main import main
from pipeline.workspace import Workspace
from tfrecords import choose_shard


@pytest.fixture
def workspace(tmp_path, tiny_model) -> Path:
    """A workspace with two models, of which the first is in use."""
    folder = tmp_path / "ws"
    for name in ("first", "second"):
        model = shutil.copytree(tiny_model, folder / "models" / name)
        manifest = json.loads((model / "manifest.json").read_text())
        (model / "manifest.json").write_text(json.dumps({**manifest, "model_id": name}))
    use(folder, "first")
    return folder


@pytest.fixture
def lines(tmp_path, tiny_images) -> list[Path]:
    """Twelve images in the folder `lines`; twelve more are in `later`."""
    for number, path in enumerate(sorted(tiny_images.glob("*.png"))):
        folder = tmp_path / ("lines" if number % 2 else "later")
        folder.mkdir(exist_ok=True)
        shutil.copy2(path, folder)
    return sorted((tmp_path / "lines").iterdir())


def use(workspace: Path, model: str) -> None:
    for name in ("LATEST", "ACCEPTED"):
        (workspace / "models" / name).write_text(f"{model}\n")


def night(workspace: Path, *flags: str, status: int = EXIT_DONE, images: str | None = None) -> dict:
    """Reads what is new; the figures of the step."""
    images = images or f"{workspace.parent}/lines"
    assert main([f"--workspace={workspace}", "--steps=infer", f"--infer_images={images}", *flags]) == status
    record = json.loads(max((workspace / "runs").glob("*.json"), key=lambda path: path.stat().st_mtime_ns).read_text())
    (step,) = record["steps"]
    return step["figures"]


def rows(workspace: Path) -> list[tuple]:
    pattern = f"{workspace}/predictions/*/*/*.parquet"
    return duckdb.sql(f"select uri, model_id, run_id from read_parquet('{pattern}') order by all").fetchall()


def counts(figures: dict) -> tuple[int, ...]:
    """matched, skipped, read, rejected."""
    rejected = sum(figures["rejects"].values())
    assert figures["matched"] == figures["skipped"] + figures["rows"] + rejected
    return figures["matched"], figures["skipped"], figures["rows"], rejected


def test_a_night_reads_what_is_new_or_changed_and_nothing_twice(tmp_path, workspace, lines, capsys):
    assert counts(night(workspace)) == (12, 0, 12, 0)
    assert counts(night(workspace)) == (12, 12, 0, 0)
    assert "nothing new: 12 images matched, all of which were read before" in capsys.readouterr().out
    for path in sorted((tmp_path / "later").iterdir())[:2]:
        shutil.copy2(path, tmp_path / "lines")
    os.utime(lines[0], (1, 1))
    lines[1].unlink()
    assert counts(night(workspace)) == (13, 10, 3, 0)
    assert "13 images matched, 10 skipped as read before, 3 read with mean confidence" in capsys.readouterr().out
    found = [uri for uri, _, _ in rows(workspace)]
    assert len(found) == 15
    assert found.count(str(lines[0])) == 2  # it is another image now
    assert found.count(str(lines[1])) == 1
    assert not (workspace / "unfinished").exists()


def test_a_night_that_is_far_less_confident_than_the_evaluation_raises_an_alarm_without_flags(
    workspace, tiny_images, capsys
):
    figures = night(workspace, images=str(tiny_images))
    mean = figures["mean_confidence"]
    for held_out, status in ((mean, EXIT_DONE), (0.98, EXIT_ALARM)):
        evaluation = {"mean_confidence": held_out, "images": 1000, "decoding": ["greedy"]}
        (workspace / "models" / "first" / "evaluation.json").write_text(json.dumps(evaluation))
        night(workspace, "--reread", images=str(tiny_images), status=status)
    assert f"alarm: --alarm_confidence: the mean confidence is {mean:.3f}" in capsys.readouterr().err
    night(workspace, "--reread", "--alarm_confidence=0", images=str(tiny_images))


def test_a_later_least_confidence_is_held_against_what_was_read_before(workspace, lines, capsys):
    night(workspace)
    table = duckdb.sql(f"select confidence from read_parquet('{workspace}/predictions/*/*/*.parquet') order by all")
    confidences = [confidence for (confidence,) in table.fetchall()]
    limit = (confidences[4] + confidences[5]) / 2
    capsys.readouterr()
    figures = night(workspace, f"--min_confidence={limit}")
    assert (figures["rows"], figures["needs_review"]) == (0, 5)
    said = capsys.readouterr().out
    assert f"; 5 readings of earlier runs are below --min_confidence={limit:g} and need a review" in said
    assert "needs_review=5 " in said
    (page, record) = (
        max((workspace / "runs").glob(name), key=lambda path: path.stat().st_mtime_ns) for name in ("*.html", "*.json")
    )
    assert "5 readings of earlier nights are below --min_confidence" in page.read_text()
    assert [each["needs_review"] for each in json.loads(record.read_text())["nights"]] == [5]
    # What was read again with more confidence needs no review any more; a night without the flag counts none.
    night(workspace, "--reread")
    assert night(workspace, f"--min_confidence={limit}")["needs_review"] == 5
    assert night(workspace)["needs_review"] == 0


def test_a_run_that_was_there_already_is_judged_by_the_least_confidence_of_now(workspace, tiny_dataset, capsys):
    shutil.copytree(tiny_dataset, workspace / "datasets" / "tinydataset0")
    (workspace / "datasets" / "LATEST").write_text("tinydataset0\n")
    images = "dataset:LATEST:train"
    assert night(workspace, images=images)["needs_review"] == 0
    figures = night(workspace, "--min_confidence=1", images=images)
    assert (figures["rows"], figures["needs_review"], figures["min_confidence"]) == (16, 16, 1)
    assert "16 below --min_confidence=1 need a review" in capsys.readouterr().out


def test_reread_reads_everything_each_time(workspace, lines):
    night(workspace)
    assert counts(night(workspace, "--reread")) == (12, 0, 12, 0)
    assert counts(night(workspace, "--reread")) == (12, 0, 12, 0)
    assert len({run for _, _, run in rows(workspace)}) == 3
    assert len(rows(workspace)) == 36


def test_a_new_model_reads_again_only_what_the_others_were_not_confident_of(tmp_path, workspace, lines, capsys):
    night(workspace)
    confidences = sorted(
        confidence
        for (confidence,) in duckdb.sql(
            f"select confidence from read_parquet('{workspace}/predictions/*/*/*.parquet')"
        ).fetchall()
    )
    limit = (confidences[4] + confidences[5]) / 2
    use(workspace, "second")
    for path in sorted((tmp_path / "later").iterdir())[:2]:
        shutil.copy2(path, tmp_path / "lines")
    figures = night(workspace)
    assert counts(figures) == (14, 12, 2, 0)
    assert figures["reread"] == 0
    figures = night(workspace, f"--reread_below={limit}")
    assert counts(figures) == (14, 9, 5, 0)
    assert figures["reread"] == 5
    assert "5 were read again, since another model had read them with less confidence" in capsys.readouterr().out
    assert counts(night(workspace, f"--reread_below={limit}")) == (14, 14, 0, 0)  # once is enough for this model


def test_another_decoder_reads_everything_and_remembers_it(workspace, lines):
    night(workspace)
    assert counts(night(workspace, "--decoder=beam")) == (12, 0, 12, 0)
    assert counts(night(workspace, "--decoder=beam", "--beam_width=5")) == (12, 0, 12, 0)
    for flags in ([], ["--decoder=beam"], ["--decoder=beam", "--beam_width=5"]):
        assert counts(night(workspace, *flags)) == (12, 12, 0, 0)


def test_a_rejected_image_is_not_looked_at_again_until_it_changes_or_the_limits_do(tmp_path, workspace, lines, capsys):
    lines[0].write_bytes(lines[0].read_bytes()[:60])
    (tmp_path / "lines" / "notes").write_text("no image")
    flags = ["--max_reject_fraction=0.5"]
    assert counts(night(workspace, *flags)) == (13, 0, 11, 2)
    assert counts(night(workspace, *flags)) == (13, 13, 0, 0)
    shutil.copy2(tmp_path / "later" / os.listdir(tmp_path / "later")[0], lines[0])
    assert counts(night(workspace, *flags)) == (13, 12, 1, 0)
    assert counts(night(workspace, *flags, "--max_bytes=100000")) == (13, 12, 0, 1)  # what was rejected is tried
    assert counts(night(workspace, *flags, "--max_bytes=100000")) == (13, 13, 0, 0)


def test_what_could_not_be_read_is_tried_again_every_night(tmp_path, workspace, lines, capsys):
    table = tmp_path / "night.csv"
    table.write_text("path\n" + "".join(f"{path}\n" for path in [*lines, tmp_path / "lines" / "later.png"]))
    flags = ["--max_reject_fraction=0.5", "--alarm_no_new_images"]
    assert counts(night(workspace, *flags, images=str(table))) == (13, 0, 12, 1)
    committed = contents(workspace / "predictions") | contents(workspace / "rejects")
    figures = night(workspace, *flags, images=str(table), status=EXIT_ALARM)
    assert counts(figures) == (13, 12, 0, 1)
    assert figures["retried"] == 1
    captured = capsys.readouterr()
    assert "which were read before, but for those that still cannot be: 1 rejected (1 unreadable)" in captured.out
    assert contents(workspace / "predictions") | contents(workspace / "rejects") == committed
    assert not (workspace / "unfinished").exists()
    assert "alarm: --alarm_no_new_images: 0 of 13 images were new" in captured.err
    shutil.copy2(lines[0], tmp_path / "lines" / "later.png")
    assert counts(night(workspace, *flags, images=str(table))) == (13, 12, 1, 0)


def test_one_broken_image_among_a_few_new_ones_does_not_stop_the_night(tmp_path, workspace, lines):
    for number in range(20):
        shutil.copy2(lines[0], tmp_path / "lines" / f"more{number}.png")
    night(workspace)
    (tmp_path / "lines" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert counts(night(workspace)) == (33, 32, 0, 1)  # 1 of 33, not 1 of 1


def test_a_file_of_a_committed_run_that_was_damaged_is_read_again_and_nothing_else(tmp_path, workspace, lines, capsys):
    night(workspace)
    shutil.copytree(tmp_path / "later", tmp_path / "lines", dirs_exist_ok=True)
    night(workspace)
    part = min(workspace.glob("predictions/*/*/*.parquet"), key=lambda path: path.stat().st_mtime_ns)
    part.write_bytes(part.read_bytes()[:-1])
    assert counts(night(workspace)) == (24, 12, 12, 0)
    assert re.search(r"warning: .*parquet should have \d+ bytes but has \d+: it was damaged", capsys.readouterr().out)
    assert len({uri for uri, _, _ in rows(workspace)}) == len(rows(workspace)) == 24


def test_an_interrupted_run_goes_on_though_images_came_meanwhile(tmp_path, workspace, lines, monkeypatch):
    for number in range(600):
        os.link(lines[number % 12], tmp_path / "lines" / f"more{number}.png")
    read, read_before = shards._recognise, []

    def stopping(index, *args):
        if read_before:
            raise OSError(28, "No space left on device")
        read_before.append(index)
        return read(index, *args)

    monkeypatch.setattr(shards, "_recognise", stopping)
    command = [f"--workspace={workspace}", "--steps=infer", f"--infer_images={tmp_path}/lines"]
    assert main(command) == EXIT_REFUSED
    (started,) = workspace.glob("unfinished/run-*/_started.json")
    run_id = json.loads(started.read_text())["run_id"]
    (finished,) = workspace.glob("unfinished/run-*/*.parquet")
    written_at = finished.stat().st_mtime_ns
    monkeypatch.setattr(shards, "_recognise", read)
    (shard,) = read_before
    new = next(name for name in map("new{}.png".format, range(99)) if choose_shard(f"lines/{name}", 2) != shard)
    os.link(lines[0], tmp_path / "lines" / new)
    figures = night(workspace)
    assert figures["run_id"] == run_id
    assert counts(figures) == (613, 0, 613, 0)
    (kept,) = workspace.glob(f"predictions/*/run={run_id}/{finished.name}")
    assert kept.stat().st_mtime_ns == written_at
    assert {run for _, _, run in rows(workspace)} == {run_id}
    assert len({uri for uri, _, _ in rows(workspace)}) == len(rows(workspace)) == 613


def test_the_run_is_told_of_in_one_line_and_to_a_service(workspace, lines, service, capsys):
    night(workspace, f"--notify_url={service.url}")
    (last,) = capsys.readouterr().out.strip().splitlines()[-1:]
    ((_, posted),) = service.posted
    record = workspace / "runs" / f"{posted['run']}.json"
    assert last.startswith(
        f"summary: status=done exit=0 run={posted['run']} steps=infer matched=12 skipped=0 needs_review=0 rejected=0 "
        "read=12 alarms=none seconds="
    )
    assert last.endswith(f" record={record}")
    assert (posted["status"], posted["exit"]) == ("done", EXIT_DONE)
    assert posted["steps"] == json.loads(record.read_text())["steps"]
    for path in workspace.glob("runs/*"):
        assert service.url not in path.read_text()


def test_a_failed_run_is_told_of_too_and_a_service_that_fails_changes_nothing(workspace, lines, service, capsys):
    service.statuses = [400]
    flags = [f"--workspace={workspace}", "--steps=infer", f"--notify_url={service.url}"]
    assert main([*flags, f"--infer_images={workspace.parent}/nowhere"]) == EXIT_REFUSED
    captured = capsys.readouterr()
    assert "error: --notify_url was told nothing of this command: it answered 400 Bad Request" in captured.err
    assert captured.out.splitlines()[-1].startswith("summary: status=failed exit=1 ")
    assert service.posted[0][1]["problems"][0].startswith("--infer_images: nothing matches")
    assert main([*flags, f"--infer_images={workspace.parent}/lines"]) == EXIT_DONE


def test_an_alarm_is_raised_when_all_is_committed_and_the_record_names_all(workspace, lines, capsys):
    lines[0].write_bytes(b"")
    flags = ["--max_reject_fraction=0.5", "--alarm_reject_fraction=0.05", "--alarm_drift=0.25"]
    assert counts(night(workspace, *flags, status=EXIT_ALARM)) == (12, 0, 11, 1)
    captured = capsys.readouterr()
    assert captured.err == ("alarm: --alarm_reject_fraction: 1 of 12 images were rejected (8.3%; allowed 5.0%)\n")
    assert "status=alarm exit=4" in captured.out
    assert "alarms=alarm_reject_fraction" in captured.out
    (record,) = (json.loads(path.read_text()) for path in workspace.glob("runs/*.json"))
    assert [(alarm["name"], alarm["raised"]) for alarm in record["alarms"]] == [
        ("alarm_reject_fraction", True),
        ("alarm_drift", False),
    ]
    assert record["status"] == "alarm"
    assert len(rows(workspace)) == 11


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_a_plan_says_what_would_be_read_and_changes_nothing(tmp_path, workspace, lines, capsys):
    flags = [f"--workspace={workspace}", "--steps=infer", f"--infer_images={tmp_path}/lines", "--plan"]

    def plan() -> str:
        before = contents(tmp_path)
        capsys.readouterr()
        assert main(flags) == EXIT_DONE
        assert contents(tmp_path) == before
        return capsys.readouterr().out

    said = plan()
    assert "nothing is changed" in said
    assert f"12 images matched by {tmp_path}/lines: 0 were read before, 12 are to be read" in said
    assert "with model first, decoder greedy, engine auto" in said
    assert "time: not known" in said
    night(workspace)
    shutil.copy2(next((tmp_path / "later").iterdir()), tmp_path / "lines")
    said = plan()
    assert "13 images matched" in said
    assert "12 were read before, 1 are to be read" in said
    assert re.search(r"time: about 0:0\d, as an earlier command took 0:0\d for 12", said)
    night(workspace)
    assert "13 were read before, 0 are to be read" in plan()


def test_a_plan_of_all_steps_names_what_each_would_take(tmp_path, workspace, tiny_images, capsys):
    flags = [f"--images={tiny_images}", f"--infer_images={tiny_images}", "--plan", "--epochs=3"]
    before = contents(tmp_path)
    assert main([f"--workspace={workspace}", *flags]) == EXIT_DONE
    said = capsys.readouterr().out
    assert contents(tmp_path) == before
    assert f"read 24 images below {tiny_images}" in said
    assert "labels come from" in said
    assert "on the dataset that the ingest step makes" in said
    assert "with the new model, or, if it is refused, with model first" in said
    assert main([f"--workspace={tmp_path}/none", "--plan"]) == EXIT_DONE
    assert "render the sample collection" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()


def test_a_plan_of_what_cannot_be_done_says_so(tmp_path, capsys):
    assert main([f"--workspace={tmp_path}/none", "--plan", "--steps=infer"]) == EXIT_REFUSED
    assert "no model in" in capsys.readouterr().err


def test_a_run_that_rejects_too_much_shows_what_it_rejected(workspace, lines, capsys):
    for path in lines[:3]:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) * 3 // 4])
    flags = [f"--workspace={workspace}", "--steps=infer", f"--infer_images={workspace.parent}/lines"]
    assert main(flags) == EXIT_REFUSED
    (record,) = (json.loads(path.read_text()) for path in workspace.glob("runs/*.json"))
    assert record["rejects"] == {"infer": {"truncated": 3}}
    (page,) = workspace.glob("runs/*.html")
    assert page.read_text().count("data:image/png") == 3
    assert record["reject_folders"]["infer"] in page.read_text()


@pytest.mark.parametrize("kind", ["predictions", "rejects"])
def test_a_file_whose_bytes_were_damaged_is_put_aside_and_what_it_held_is_read_again(
    tmp_path, workspace, lines, capsys, kind
):
    lines[0].write_bytes(b"")
    flags = ["--max_reject_fraction=0.5"]
    night(workspace, *flags)
    (file,) = workspace.glob(f"{kind}/*/*/*.parquet")
    content = file.read_bytes()
    file.write_bytes(content[:-60] + bytes(60))
    capsys.readouterr()
    expected = (12, 1, 11, 0) if kind == "predictions" else (12, 11, 0, 1)
    assert counts(night(workspace, *flags)) == expected
    assert f"warning: {file} cannot be read: it was damaged after it was committed" in capsys.readouterr().out
    assert len(list(file.parent.glob("*damaged*"))) == 1
    assert len(rows(workspace)) == 11
    assert counts(night(workspace, *flags)) == (12, 12, 0, 0)


def test_another_step_between_a_stop_and_the_same_command_takes_nothing_away(
    tmp_path, workspace, lines, tiny_images, monkeypatch
):
    lines[0].write_bytes(b"")
    flags = ["--max_reject_fraction=0.5"]

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(commit, "move_rejects", stop)
        assert main([f"--workspace={workspace}", "--steps=infer", f"--infer_images={tmp_path}/lines", *flags]) != 0
    (pending,) = workspace.glob("unfinished/rejects-*/*.parquet")
    assert main([f"--workspace={workspace}", "--steps=ingest", f"--images={tiny_images}", "--height=32"]) == EXIT_DONE
    assert pending.exists()
    assert counts(night(workspace, *flags)) == (12, 12, 0, 0)
    assert len(list(workspace.glob("rejects/*/*/*.parquet"))) == 1
    assert not (workspace / "unfinished").exists()


def test_a_workspace_that_is_held_is_told_of(workspace, lines, service, capsys):
    with Workspace(str(workspace)).lock(end=print):
        flags = [f"--workspace={workspace}", "--steps=infer", f"--notify_url={service.url}"]
        assert main([*flags, f"--infer_images={workspace.parent}/lines"]) == EXIT_HELD
    ((_, posted),) = service.posted
    assert (posted["status"], posted["exit"]) == ("held", EXIT_HELD)
    assert "another command works in" in posted["problems"][0]
    assert capsys.readouterr().out.splitlines()[-1].startswith("summary: status=held exit=3 ")


@pytest.mark.parametrize(("damage", "status"), [("file", EXIT_DONE), ("record", EXIT_DONE), ("inside", EXIT_REFUSED)])
def test_a_plan_finds_what_the_command_would(tmp_path, workspace, lines, capsys, damage, status):
    night(workspace)
    flags = [f"--workspace={workspace}", "--steps=infer", f"--infer_images={tmp_path}/lines", "--plan"]
    if damage == "file":
        next(workspace.glob("predictions/*/*/*.parquet")).unlink()
    elif damage == "record":
        next(workspace.glob("runs/*.json")).write_text("{")
    else:
        flags[2] = f"--infer_images={tmp_path}"
    before = contents(tmp_path)
    capsys.readouterr()
    assert main(flags) == status
    assert contents(tmp_path) == before
    captured = capsys.readouterr()
    if damage == "inside":
        assert re.search(r"^error: --infer_images: the workspace .*ws lies inside", captured.err)
    else:
        assert f"{12 if damage == 'file' else 0} are to be read" in captured.out


def test_a_report_that_cannot_be_written_is_told_and_the_predictions_are_there(workspace, lines, service, capsys):
    (workspace / "runs").write_text("in the way")
    flags = [f"--workspace={workspace}", "--steps=infer", f"--notify_url={service.url}"]
    assert main([*flags, f"--infer_images={workspace.parent}/lines"]) == EXIT_REFUSED
    assert len(rows(workspace)) == 12
    captured = capsys.readouterr()
    assert "error: the run report cannot be written: " in captured.err
    assert captured.out.splitlines()[-1].startswith("summary: status=failed exit=1 ")
    ((_, posted),) = service.posted
    assert (posted["status"], posted["exit"]) == ("failed", EXIT_REFUSED)
