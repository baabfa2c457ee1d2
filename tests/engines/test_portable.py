"""A job service, and workers in other processes that get this project as staged packages alone."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import duckdb
import grpc
import pytest
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc

from pipeline.exits import EXIT_AGAIN, EXIT_DONE, EXIT_INTERRUPTED, EXIT_REFUSED
from tests.commands import ROOT, run_command, start_command
from tests.engines.services import portable_service, wait_until

STAGED = f"--setup_file={ROOT}/setup.py"

pytestmark = pytest.mark.slow


def digests(folder: Path, pattern: str) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob(pattern))}


def read(workspace: Path) -> list[tuple]:
    """The rows of all predictions, but for when they were made."""
    pattern = f"{workspace}/predictions/*/*/*.parquet"
    columns = "uri, text, confidence, symbol_confidences, width, height, size_bytes, modified, model_id, run_id"
    return duckdb.sql(f"select {columns} from read_parquet('{pattern}') order by uri").fetchall()


def run(workspace: Path, images: Path, *flags: str) -> int:
    return run_command(workspace, f"--images={images}", f"--infer_images={images}", "--height=32", *flags)


def test_ingest_and_infer_give_what_the_local_runner_gives(workspace, tiny_images, portable_engine, tmp_path, capsys):
    local = shutil.copytree(workspace, tmp_path / "local")
    for folder, flags in ((local, []), (workspace, [*portable_engine.flags, STAGED])):
        for step in ("ingest", "infer"):
            assert run(folder, tiny_images, f"--steps={step}", *flags) == EXIT_DONE, capsys.readouterr()
        assert run(folder, tiny_images, "--steps=ingest", "--add_to=LATEST", *flags) == EXIT_DONE, capsys.readouterr()
    assert len(list(workspace.glob("datasets/*/manifest.json"))) == 2
    assert digests(workspace, "datasets/*/*.tfrecord*") == digests(local, "datasets/*/*.tfrecord*") != {}
    assert read(workspace) == read(local)
    assert len(read(workspace)) == 24
    (manifest,) = workspace.glob("predictions/*/*/_manifest.json")
    assert json.loads(manifest.read_text())["matched"] == 24


def test_the_next_night_reads_only_what_is_new(workspace, tiny_images, portable_engine, tmp_path, capsys):
    images = shutil.copytree(tiny_images, tmp_path / "lines")
    local = shutil.copytree(workspace, tmp_path / "local")
    for night, said in (("first", "24 images matched, 24 read"), ("second", "25 images matched, 24 skipped as read")):
        for folder, flags in ((local, []), (workspace, [*portable_engine.flags, STAGED])):
            assert run(folder, images, "--steps=infer", *flags) == EXIT_DONE, capsys.readouterr()
            assert said in capsys.readouterr().out, night
        shutil.copy(next(images.glob("*.png")), images / "new.png")
    assert read(workspace) == read(local)
    assert len(read(workspace)) == 25


def test_workers_without_the_project_say_what_to_pass(workspace, tiny_images, portable_engine, capsys):
    assert run(workspace, tiny_images, "--steps=ingest", *portable_engine.flags) == EXIT_REFUSED
    said = capsys.readouterr().err
    assert "the workers lack this project: pass --setup_file=./setup.py" in said
    assert "Traceback" not in said
    assert not list(workspace.glob("datasets/*/manifest.json"))


@pytest.fixture
def many_images(tiny_images, tmp_path) -> Path:
    """A folder of 3,600 lines: eight shards, in each of which there is work for a good part of a second."""
    folder = tmp_path / "many"
    folder.mkdir()
    for path in sorted(tiny_images.iterdir()):
        for copy in range(150):
            os.link(path, folder / f"{copy:03d}-{path.name}")
    return folder


def start(workspace: Path, images: Path, *flags: str) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    places = (f"--workspace={workspace}", f"--images={images}", f"--infer_images={images}")
    return start_command(*places, "--height=32", *flags)


@pytest.mark.parametrize(("step", "folder"), [("ingest", "dataset-"), ("infer", "run-")])
def test_two_workers_share_the_work_and_what_they_finished_before_one_was_killed_is_not_done_again(
    workspace, many_images, portable_engine, tmp_path, step, folder
):
    undisturbed = shutil.copytree(workspace, tmp_path / "undisturbed")
    flags = [f"--steps={step}", *portable_engine.flags, STAGED, "--direct_num_workers=2"]
    assert run(undisturbed, many_images, *flags) == EXIT_DONE
    assert len(portable_engine.workers_that_opened(f"{undisturbed}/unfinished/{folder}")) == 2

    command = start(workspace, many_images, *flags)
    wait_until(lambda: list(workspace.glob(f"unfinished/{folder}*/*summaries/*.json")), command)
    os.kill(max(portable_engine.workers_that_opened(f"{workspace}/unfinished/{folder}")), signal.SIGKILL)
    _, said = command.communicate(timeout=30)
    assert command.returncode == EXIT_AGAIN
    (sentence,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "a worker was lost" in sentence
    assert "run the same command to resume from what is finished" in sentence
    (story,) = (workspace / "runs").glob("*.log")
    assert str(story) in sentence
    assert "Traceback" in story.read_text()
    assert "Traceback" not in said
    assert not list(workspace.glob("datasets/*/manifest.json")) + list(workspace.glob("predictions/*/*/_manifest.json"))
    finished = {path.name for path in workspace.glob(f"unfinished/{folder}*/*summaries/*.json")}
    began = time.time()

    assert run(workspace, many_images, *flags) == EXIT_DONE
    results = [*workspace.glob("datasets/*/*.tfrecord.gz"), *workspace.glob("predictions/*/*/*.parquet")]
    assert len([path for path in results if path.stat().st_mtime < began]) >= len(finished) >= 1
    assert digests(workspace, "datasets/*/*.tfrecord*") == digests(undisturbed, "datasets/*/*.tfrecord*")
    if step == "infer":
        assert read(workspace) == read(undisturbed)
        assert len(read(workspace)) == 3600
        times = f"select distinct scored_at from read_parquet('{workspace}/predictions/*/*/*.parquet')"
        assert len(duckdb.sql(times).fetchall()) == 1, "the second attempt would not write what the first one did"


def test_a_killed_worker_process_of_the_local_runner_is_one_sentence_too(workspace, many_images):
    local = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    command = start(workspace, many_images, "--steps=infer", *local)
    wait_until(lambda: list(workspace.glob("unfinished/run-*/_summaries/*.json")), command)
    workers = subprocess.run(["pgrep", "--parent", str(command.pid)], capture_output=True, text=True).stdout.split()
    shells = subprocess.run(["pgrep", "--parent", ",".join(workers)], capture_output=True, text=True).stdout.split()
    os.kill(int((shells or workers)[-1]), signal.SIGKILL)
    _, said = command.communicate(timeout=30)
    assert command.returncode == EXIT_AGAIN
    assert "a worker was lost" in said
    assert "Traceback" not in said


def test_an_interrupted_command_cancels_its_job(workspace, many_images, portable_engine):
    command = start(workspace, many_images, "--steps=infer", *portable_engine.flags, STAGED)
    wait_until(lambda: list(workspace.glob("unfinished/run-*/_summaries/*.json")), command)
    command.send_signal(signal.SIGINT)
    _, said = command.communicate(timeout=30)
    assert command.returncode == EXIT_INTERRUPTED
    assert "what is finished is kept" in said
    (endpoint,) = [flag.partition("=")[2] for flag in portable_engine.flags if flag.startswith("--job_endpoint=")]
    with grpc.insecure_channel(endpoint) as channel:
        jobs = beam_job_api_pb2_grpc.JobServiceStub(channel).GetJobs(beam_job_api_pb2.GetJobsRequest()).job_info
    assert beam_job_api_pb2.JobState.CANCELLED in [job.state for job in jobs]


def test_a_job_service_that_is_lost_is_one_sentence(workspace, many_images, worker_python, tmp_path):
    folder = tmp_path / "engine"
    folder.mkdir()
    with portable_service(worker_python, folder) as engine:
        command = start(workspace, many_images, "--steps=infer", *engine.flags, STAGED)
        wait_until(lambda: list(workspace.glob("unfinished/run-*/_summaries/*.json")), command)
        engine.job_service.kill()
        _, said = command.communicate(timeout=60)
    assert command.returncode == EXIT_AGAIN
    assert "the connection to the engine broke (UNAVAILABLE" in said
    assert "run the same command to resume from what is finished" in said
    assert "Traceback" not in said
