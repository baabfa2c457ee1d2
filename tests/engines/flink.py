"""Kills task managers of Flink and workers of Beam at random moments, and compares the results with the local runner's.

    python -m tests.engines.flink --kills=10

The images and the model are the tests' tiny ones. After each kill the same command runs again, until it is done.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb

from pipeline.exits import EXIT_AGAIN, EXIT_DONE
from tests.commands import ROOT, start_command
from tests.engines.flink_cluster import FlinkCluster, flink_cluster
from tests.engines.services import make_worker_python
from tests.rendered import render_codes

# As on Flink, a worker has one process. With helper processes, some confidences differ in the seventh digit.
LOCAL = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
_COPIES = 150
_LASTS_S = 20  # a command that nothing disturbs
_ENDS_WITHIN_S = 60
_PROJECT = ("pipeline", "components", "tfrecords", "setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")


def build_project(folder: Path) -> Path:
    """Builds the archive that `--extra_package` sends to workers, from a copy of the checkout."""
    folder.mkdir(exist_ok=True)
    for name in _PROJECT:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    build = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(folder / "dist"), str(folder)]
    subprocess.run(build, check=True, capture_output=True)
    (archive,) = (folder / "dist").iterdir()
    return archive


def copy_often(images: Path, folder: Path, copies: int) -> Path:
    """Makes a folder with so many copies of each image and of its label."""
    folder.mkdir()
    for path in sorted(images.iterdir()):
        for copy in range(copies):
            os.link(path, folder / f"{copy:03d}-{path.name}")
    return folder


def read_results(workspace: Path) -> dict[str, Any]:
    """Reads the rows of all predictions, but for when they were made, and the digests of all datasets' files."""
    files = sorted(workspace.glob("datasets/*/*.tfrecord*"))
    columns = "uri, text, confidence, symbol_confidences, width, height, size_bytes, modified, model_id, run_id"
    rows = f"select {columns} from read_parquet('{workspace}/predictions/*/*/*.parquet') order by uri"
    return {
        "rows": duckdb.sql(rows).fetchall(),
        "files": {f"{path.parent.name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
    }


def _run_through(cluster: FlinkCluster, command: list[str], chooser: random.Random, kills: int) -> int:
    """Runs a command until it is done, with a kill each time while any are left; returns how many there were."""
    struck = 0
    while True:
        began = time.monotonic()
        running = start_command(*command)
        if struck < kills:
            target, moment = chooser.choice(["worker", "task manager"]), began + chooser.uniform(0, _LASTS_S)
            while running.poll() is None and (time.monotonic() < moment or not _list_victims(cluster)[target]):
                time.sleep(0.01)
            if running.poll() is None:
                os.kill(chooser.choice(_list_victims(cluster)[target]), signal.SIGKILL)
                struck += 1
                print(f"{struck}: a {target} is killed after {time.monotonic() - began:.1f} s")
        killed = time.monotonic()
        try:
            said, errors = running.communicate(timeout=_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            running.send_signal(signal.SIGINT)
            print("the command hangs:", *running.communicate())
            raise
        print(f"exit status {running.returncode} after {time.monotonic() - killed:.1f} s")
        while len(_list_victims(cluster)["task manager"]) < 2:
            cluster.start_task_manager()
        if running.returncode == EXIT_DONE:
            return struck
        assert running.returncode == EXIT_AGAIN, said + errors
        assert "Traceback" not in errors
        print(*[line for line in errors.splitlines() if line.startswith("error: ")], flush=True)


def _list_victims(cluster: FlinkCluster) -> dict[str, list[int]]:
    """Lists the processes that can be killed."""
    opened = [int(path.name) for path in cluster.opened.iterdir()]
    return {
        "worker": [pid for pid in opened if Path(f"/proc/{pid}").exists()],
        "task manager": [process.pid for process in cluster.task_managers if process.poll() is None],
    }


def main() -> None:
    """Kills and compares until the given number of kills is reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    chooser = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        render_codes(folder / "codes", "0123", 24)
        images = copy_often(folder / "codes", folder / "many", _COPIES)
        local = folder / "local"
        flags = [f"--images={images}", f"--infer_images={images}", "--height=32"]
        trained = [f"--workspace={folder}/trained", f"--images={folder}/codes", "--steps=ingest,train", "--epochs=1"]
        _run(*trained, "--height=32")
        shutil.copytree(folder / "trained" / "models", local / "models")
        shutil.copy(local / "models" / "LATEST", local / "models" / "ACCEPTED")
        empty = shutil.copytree(local, folder / "empty")
        _run(f"--workspace={local}", *flags, "--steps=ingest,infer", *LOCAL)
        expected = read_results(local)
        (folder / "flink").mkdir()
        project = build_project(folder / "project")
        with flink_cluster(make_worker_python(folder / "python"), folder / "flink") as cluster:
            engine = [*cluster.flags, f"--extra_package={project}", "--parallelism=2"]
            struck = 0
            while struck < given.kills:
                workspace = shutil.copytree(empty, Path(tempfile.mkdtemp(dir=folder)), dirs_exist_ok=True)
                command = [f"--workspace={workspace}", *flags, "--steps=ingest,infer", *engine]
                struck += _run_through(cluster, command, chooser, min(3, given.kills - struck))
                assert read_results(workspace) == expected
                print(f"after {struck} kills every image is there once, as the local runner has it", flush=True)


def _run(*flags: str) -> None:
    running = start_command(*flags)
    said = running.communicate()
    assert running.returncode == EXIT_DONE, said


if __name__ == "__main__":
    main()
