"""A standalone cluster of Flink: a job manager, two task managers, and Beam's job server in front of them."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from pipeline.exits import EXIT_AGAIN, EXIT_DONE, EXIT_REFUSED
from tests.commands import run_command, start_command
from tests.engines.flink import LOCAL, build_project, copy_often, read_results
from tests.engines.flink_cluster import FlinkCluster, flink_cluster
from tests.engines.jars import JarsLackError
from tests.engines.services import wait_until

pytestmark = pytest.mark.slow

COPIES = 150  # of 24 images: 8 shards that are read, in each of which there is work for a part of a second


@pytest.fixture(scope="module")
def cluster(worker_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlinkCluster]:
    try:
        with flink_cluster(worker_python, tmp_path_factory.mktemp("flink")) as running:
            yield running
    except JarsLackError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def flags(cluster: FlinkCluster, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What submits a job to the cluster, with this project."""
    project = build_project(tmp_path_factory.mktemp("project"))
    return [*cluster.flags, f"--extra_package={project}", "--parallelism=2"]


def places(workspace: Path, images: Path) -> list[str]:
    return [f"--workspace={workspace}", f"--images={images}", f"--infer_images={images}", "--height=32"]


def test_every_step_gives_what_the_local_runner_gives(workspace, tiny_images, cluster, flags, tmp_path, capsys):
    images = shutil.copytree(tiny_images, tmp_path / "lines")
    local = shutil.copytree(workspace, tmp_path / "local")
    nights = (
        ("ingest,infer", EXIT_DONE, "24 images matched, 24 read"),
        ("infer", EXIT_DONE, "25 images matched, 24 skipped as read before, 1 read"),
        ("evaluate", EXIT_REFUSED, "model tinymodel000 on"),  # it never trained
    )
    for steps, status, said in nights:
        for folder, engine in ((local, []), (workspace, flags)):
            given = [*places(folder, images)[1:], f"--steps={steps}", *engine]
            assert run_command(folder, *given) == status, capsys.readouterr()
            assert said in capsys.readouterr().out, steps
        shutil.copy(next(images.glob("*.png")), images / "new.png")
    assert read_results(workspace) == read_results(local)
    assert len(read_results(workspace)["rows"]) == 25
    states = [job["state"] for job in cluster.ask("jobs/overview")["jobs"]]
    assert states == ["FINISHED"] * 8  # ingest is three jobs, infer two, evaluate one


def test_what_was_finished_before_a_loss_is_not_done_again(workspace, tiny_images, cluster, flags, tmp_path, capsys):
    images = copy_often(tiny_images, tmp_path / "many", COPIES)
    local = shutil.copytree(workspace, tmp_path / "local")
    command = [*places(workspace, images), "--steps=ingest,infer", *flags]
    assert run_command(local, *command[1:5], *LOCAL) == EXIT_DONE, capsys.readouterr()

    def find_worker() -> int:
        return max(cluster.workers_that_opened(f"{workspace}/unfinished/dataset-"))

    finished, _ = lose(workspace, command, "dataset", find_worker)
    finished_later, began = lose(workspace, command, "run", lambda: cluster.task_managers[0].pid)
    assert count_older(workspace.glob("datasets/*/*.tfrecord.gz"), began) >= finished >= 1
    cluster.start_task_manager()

    began = time.time()
    assert run_command(workspace, *command[1:]) == EXIT_DONE, capsys.readouterr()
    assert count_older(workspace.glob("predictions/*/*/*.parquet"), began) >= finished_later >= 1
    assert read_results(workspace) == read_results(local)
    assert len(read_results(workspace)["rows"]) == 24 * COPIES


def lose(workspace: Path, flags: list[str], step: str, find_victim: Callable[[], int]) -> tuple[int, float]:
    """Kills a process when a step has finished a shard.

    Returns:
        How many shards of the step are finished, and when the command began.
    """
    pattern = f"unfinished/{step}-*/*summaries/*.json"
    began = time.time()
    command = start_command(*flags)
    wait_until(lambda: list(workspace.glob(pattern)), command)
    os.kill(find_victim(), signal.SIGKILL)
    _, said = command.communicate(timeout=60)
    assert command.returncode == EXIT_AGAIN, said
    assert "Traceback" not in said
    (sentence,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "FlinkRunner: the job failed because a worker was lost" in sentence
    assert "run the same command to resume from what is finished" in sentence
    return len(list(workspace.glob(pattern))), began


def count_older(paths: Iterable[Path], moment: float) -> int:
    return len([path for path in paths if path.stat().st_mtime < moment])
