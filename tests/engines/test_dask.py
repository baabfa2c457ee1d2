"""Beam's DaskRunner on a Dask scheduler and workers, which are killed in some tests."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import distributed
import duckdb
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.dask.dask_runner import DaskRunnerResult
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from pipeline.engines import dask_cluster as on_dask
from pipeline.exits import EXIT_AGAIN, EXIT_DONE, EXIT_REFUSED
from tests.commands import run_command
from tests.engines.services import DaskCluster, dask_cluster

pytestmark = pytest.mark.slow

COPIES = 100  # of 24 images: enough for 4 shards that train, and 8 that are read


@pytest.fixture(scope="module")
def cluster(worker_python, tmp_path_factory) -> Iterator[DaskCluster]:
    with dask_cluster(worker_python, tmp_path_factory.mktemp("dask")) as running:
        yield running


@pytest.fixture
def doomed_cluster(worker_python, tmp_path) -> Iterator[DaskCluster]:
    """A cluster for one test, which kills its workers."""
    folder = tmp_path / "dask"
    folder.mkdir()
    with dask_cluster(worker_python, folder) as running:
        yield running


@pytest.fixture(scope="session")
def many_images(tiny_images, tmp_path_factory) -> Path:
    """2,400 labelled lines."""
    folder = tmp_path_factory.mktemp("many-images")
    for path in tiny_images.iterdir():
        for copy in range(COPIES):
            shutil.copy(path, folder / f"{copy:02d}-{path.name}")
    return folder


def run(workspace: Path, *flags: str) -> int:
    return run_command(workspace, "--height=32", *flags)


def digests(workspace: Path) -> dict[str, str]:
    files = sorted(workspace.glob("datasets/*/*.tfrecord.gz"))
    return {f"{path.parent.name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read(workspace: Path) -> list[tuple]:
    pattern = f"{workspace}/predictions/*/*/*.parquet"
    columns = "uri, text, confidence, symbol_confidences, width, height, size_bytes, model_id, run_id"
    return duckdb.sql(f"select {columns} from read_parquet('{pattern}') order by uri, run_id").fetchall()


def evaluation(workspace: Path) -> dict:
    figures = json.loads((workspace / "models" / "tinymodel000" / "evaluation.json").read_text())
    return {name: value for name, value in figures.items() if name != "files" and not name.endswith("_s")}


def seconds(task: dict) -> float:
    """What a task took without its communication."""
    return sum(part["stop"] - part["start"] for part in task["startstops"] if part["action"] == "compute")


def test_every_kind_of_input_gives_what_the_local_runner_gives(
    workspace, tiny_images, many_images, cluster, tmp_path, capfd
):
    local = shutil.copytree(workspace, tmp_path / "local")
    table = tmp_path / "labels.csv"
    rows = [f"{path},{path.stem.partition('-')[2]}" for path in sorted(tiny_images.glob("*.png"))]
    table.write_text("\n".join(["file,text", *rows]) + "\n")
    commands = (
        (EXIT_DONE, ["--steps=ingest", f"--images={tiny_images}", f"--label_source={table}"]),
        (EXIT_DONE, ["--steps=ingest", f"--images={many_images}"]),
        (EXIT_DONE, ["--steps=infer", f"--infer_images={many_images}"]),
        (EXIT_DONE, ["--steps=infer", f"--infer_images={many_images}"]),  # nothing is read, but all is listed again
        (EXIT_DONE, ["--steps=infer", f"--infer_images={tiny_images},{table}"]),
        (EXIT_DONE, ["--steps=infer", "--infer_images=dataset:LATEST:test"]),
        (EXIT_REFUSED, ["--steps=evaluate"]),  # an untrained model
        (EXIT_DONE, ["--steps=ingest", f"--images={tiny_images}", f"--label_source={table}", "--add_to=LATEST"]),
    )
    for status, flags in commands:
        assert run(local, *flags) == status, capfd.readouterr()
    capfd.readouterr()
    with distributed.Client(cluster.address, set_as_default=False) as client:
        for number, (status, flags) in enumerate(commands):
            with distributed.get_task_stream(client) as stream:
                assert run(workspace, *flags, *cluster.flags) == status, capfd.readouterr()
            said = capfd.readouterr()
            assert said.err.count("\n") == (status == EXIT_REFUSED), said.err
            if number in (1, 2):
                assert {task["worker"] for task in stream.data if seconds(task) > 0.05} == set(client.nthreads())
    assert digests(workspace) == digests(local) != {}
    assert read(workspace) == read(local) != []
    assert evaluation(workspace) == evaluation(local)


def kill_when_busy(
    cluster: DaskCluster, function: str, what: str = "busy", signalled: int = signal.SIGKILL
) -> threading.Thread:
    """Kills that worker ("busy"), "all" or the "scheduler" as soon as a worker is inside a function; to be joined."""

    def watch() -> None:
        with distributed.Client(cluster.address, set_as_default=False) as client:
            processes = client.run(os.getpid)
            while True:
                for worker, tasks in client.call_stack().items():
                    if any(f" in {function}" in frame for stack in tasks.values() for frame in stack):
                        busy, scheduler = [processes[worker]], [cluster.scheduler.pid]
                        for process in {"busy": busy, "all": processes.values(), "scheduler": scheduler}[what]:
                            os.kill(process, signalled)
                        return
                time.sleep(0.02)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize(("step", "function"), [("ingest", "write_training_shard"), ("infer", "recognise_shard")])
def test_a_killed_worker_costs_time_alone(step, function, workspace, many_images, doomed_cluster, tmp_path, capfd):
    undisturbed = shutil.copytree(workspace, tmp_path / "undisturbed")
    flags = [f"--steps={step}", f"--images={many_images}", f"--infer_images={many_images}"]
    assert run(undisturbed, *flags) == EXIT_DONE
    capfd.readouterr()
    killer = kill_when_busy(doomed_cluster, function)
    assert run(workspace, *flags, *doomed_cluster.flags) == EXIT_DONE, capfd.readouterr()
    killer.join(timeout=10)
    assert {worker.poll() for worker in doomed_cluster.workers} == {-signal.SIGKILL, None}
    assert capfd.readouterr().err == ""
    if step == "ingest":
        assert digests(workspace) == digests(undisturbed) != {}
        (manifest,) = workspace.glob("datasets/*/manifest.json")
    else:
        assert read(workspace) == read(undisturbed)
        assert len(read(workspace)) == 24 * COPIES
        (manifest,) = workspace.glob("predictions/*/*/_manifest.json")
    assert json.loads(manifest.read_text())["matched"] == 24 * COPIES


def test_a_worker_that_is_killed_while_the_other_is_idle_is_replaced_by_it(
    workspace, tiny_images, doomed_cluster, tmp_path, capfd
):
    folder = tmp_path / "few"  # one shard
    folder.mkdir()
    for path in sorted(tiny_images.glob("*.png")):
        for copy in range(20):
            os.link(path, folder / f"{copy:02d}-{path.name}")
    killer = kill_when_busy(doomed_cluster, "recognise_shard")
    last_resort = threading.Timer(60, doomed_cluster.scheduler.kill)
    last_resort.start()
    assert run(workspace, "--steps=infer", f"--infer_images={folder}", *doomed_cluster.flags) == EXIT_DONE
    last_resort.cancel()
    killer.join(timeout=10)
    assert {worker.poll() for worker in doomed_cluster.workers} == {-signal.SIGKILL, None}
    assert len(read(workspace)) == 480


def test_without_workers_a_job_ends_and_goes_on_when_there_is_one(
    workspace, many_images, doomed_cluster, monkeypatch, capfd
):
    monkeypatch.setattr(on_dask, "PATIENCE_S", 4)
    flags = ["--steps=ingest", f"--images={many_images}", *doomed_cluster.flags]
    killer = kill_when_busy(doomed_cluster, "write_training_shard", "all")
    assert run(workspace, *flags) == EXIT_AGAIN
    killer.join(timeout=10)
    said = capfd.readouterr().err
    assert f"the Dask scheduler at {doomed_cluster.address} has had no worker for 4 s" in said
    assert "Traceback" not in said
    assert not list(workspace.glob("datasets/*/manifest.json"))

    assert run(workspace, *flags) == EXIT_AGAIN  # nor is there one at the start
    assert "has had no worker for 4 s" in capfd.readouterr().err

    doomed_cluster.start_worker()
    assert run(workspace, *flags) == EXIT_DONE, capfd.readouterr()


def test_a_job_whose_scheduler_is_lost_is_no_success(workspace, many_images, doomed_cluster, capfd):
    killer = kill_when_busy(doomed_cluster, "write_training_shard", "scheduler")
    assert run(workspace, "--steps=ingest", f"--images={many_images}", *doomed_cluster.flags) == EXIT_AGAIN
    killer.join(timeout=10)
    (said,) = capfd.readouterr().err.splitlines()
    assert f"the Dask scheduler at {doomed_cluster.address} was lost" in said
    assert not list(workspace.glob("datasets/*/manifest.json"))


def test_a_scheduler_that_is_frozen_is_not_waited_for_for_ever(
    workspace, many_images, doomed_cluster, monkeypatch, capfd
):
    monkeypatch.setattr(on_dask, "ANSWER_S", 3)
    flags = ["--steps=ingest", f"--images={many_images}", *doomed_cluster.flags]
    killer = kill_when_busy(doomed_cluster, "write_training_shard", "scheduler", signal.SIGSTOP)
    try:
        assert run(workspace, *flags) == EXIT_AGAIN
        said = capfd.readouterr().err
        assert f"the Dask scheduler at {doomed_cluster.address} has not answered for 3 s" in said
        assert "Traceback" not in said
        assert not list(workspace.glob("datasets/*/manifest.json"))
    finally:
        doomed_cluster.scheduler.send_signal(signal.SIGCONT)
        killer.join(timeout=10)


def test_what_a_worker_refuses_is_one_sentence(workspace, tiny_images, cluster, tmp_path, capfd):
    table = tmp_path / "labels.csv"
    table.write_text("file,text\nnowhere.png\n")
    flags = ["--steps=ingest", f"--images={tiny_images}", f"--label_source={table}"]
    assert run(workspace, *flags) == EXIT_REFUSED
    (expected,) = capfd.readouterr().err.splitlines()
    assert run(workspace, *flags, *cluster.flags) == EXIT_REFUSED
    assert capfd.readouterr().err.splitlines() == [expected]


def test_a_worker_without_the_project_is_told_of(workspace, tiny_images, worker_python, tmp_path, capfd):
    folder = tmp_path / "dask"
    folder.mkdir()
    with dask_cluster(worker_python, folder, 1, has_project=False) as bare:
        assert run(workspace, "--steps=ingest", f"--images={tiny_images}", *bare.flags) == EXIT_REFUSED
    said = capfd.readouterr().err
    assert "the Dask worker at tcp://127.0.0.1:" in said
    assert "lacks this project (No module named 'pipeline')" in said
    assert "Traceback" not in said


def test_a_worker_that_does_not_see_the_workspace_is_told_of(tiny_images, cluster, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)  # the same name, but another folder in each process
    assert run(Path("/proc/self/cwd/ws"), "--steps=ingest", f"--images={tiny_images}", *cluster.flags) == EXIT_REFUSED
    assert "does not see this --workspace: give a folder that all machines share" in capfd.readouterr().err


@pytest.mark.parametrize("listens", [False, True])
def test_where_no_scheduler_answers_is_said_soon(listens, workspace, tiny_images, capfd):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if listens:
            listener.listen()
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        flags = ["--runner=DaskRunner", f"--dask_client_address={address}", "--dask_connection_timeout=1"]
        started = time.monotonic()
        assert run(workspace, "--steps=ingest", f"--images={tiny_images}", *flags) == EXIT_REFUSED
        assert time.monotonic() - started < 20
    said = capfd.readouterr().err
    assert f"no Dask scheduler answers at {address}" in said
    assert "Traceback" not in said


class _Tagged(beam.DoFn):
    def process(self, element):
        yield element
        yield beam.pvalue.TaggedOutput("again", -element)


class _Last(beam.DoFn):
    def process(self, element):
        return []

    def finish_bundle(self):
        yield beam.utils.windowed_value.WindowedValue("end", 0, (beam.transforms.window.GlobalWindow(),))


def _time_of(element, timestamp=beam.DoFn.TimestampParam):
    return element, timestamp.micros


def _beside_themselves(numbers):
    return numbers | "Count" >> beam.Map(lambda number, all: (number, len(all)), beam.pvalue.AsList(numbers))


class _Write:
    """Appends what it gets to a file, and says nothing."""

    def __init__(self, path: Path):
        self._path = path

    def __call__(self, element) -> None:
        with self._path.open("a") as file:
            file.write(f"{element}\n")


WRONG = {
    "tags": lambda n: [(n | beam.ParDo(_Tagged()).with_outputs("again", main="main")).main],
    "ends": lambda n: [n, n | beam.Map(str)],
    "finish_bundle": lambda n: [n | beam.ParDo(_Last())],
    "side": lambda n: [_beside_themselves(n | beam.Map(abs))],
    "timestamp": lambda n: [n | beam.Map(_time_of)],
    "windows": lambda n: [
        n
        | beam.Map(lambda e: beam.window.TimestampedValue((0, e), e))
        | beam.WindowInto(beam.window.FixedWindows(3))
        | beam.GroupByKey()
        | "Sorted" >> beam.MapTuple(lambda _, found: sorted(found))
    ],
}


@pytest.mark.parametrize("shape", WRONG)
def test_what_is_refused_is_really_wrong(shape, cluster, tmp_path):
    """Should DaskRunner learn one of these, it can be let through."""

    def written(name: str, runner, options: PipelineOptions) -> list[str]:
        out = tmp_path / name
        pipeline = beam.Pipeline(runner=runner, options=options)
        for number, end in enumerate(WRONG[shape](pipeline | beam.Create(range(6)))):
            end | f"Write{number}" >> beam.Map(_Write(out))
        result = pipeline.run()
        result.wait_until_finish()
        if isinstance(result, DaskRunnerResult):
            result.client.close()
        return sorted(out.read_text().splitlines()) if out.exists() else []

    flags = [f"--dask_client_address={cluster.address}", "--dask_npartitions=3"]
    expected = written("local", FnApiRunner(), PipelineOptions([]))
    assert written("dask", on_dask.DASK_RUNNER, PipelineOptions(flags)) != expected != []
