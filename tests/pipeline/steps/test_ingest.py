"""What users trust ingest for: the same bytes from any workers, and nothing lost or half done after a kill."""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet
import pytest
from PIL import Image

from pipeline.main import main
from tests.commands import start_command
from tfrecords import read_records

IMAGES = 2400

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small noisy lines in six folders, of different widths, a few of them broken, labelled by their names."""
    folder = tmp_path_factory.mktemp("promises") / "lines"
    chooser = random.Random(0)
    for number in range(IMAGES):
        path = folder / f"book {number % 6}" / f"{chooser.randrange(10**5)}_{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (chooser.randrange(100, 180), 24)
        Image.frombytes("L", size, chooser.randbytes(size[0] * size[1])).save(path)
    for number in range(20):
        (folder / "book 0" / f"broken_{number}.png").write_bytes(b"" if number % 2 else b"no image")
    return folder


def arguments(collection: Path, workspace: Path, *more: str) -> list[str]:
    return [
        *("--steps=ingest", f"--images={collection}", f"--workspace={workspace}"),
        *("--label_source=filename", "--label_pattern={label}_{id}", "--split_by=folder", "--height=24", *more),
    ]


def dataset_of(workspace: Path) -> Path:
    return workspace / "datasets" / (workspace / "datasets" / "LATEST").read_text().strip()


def contents(dataset: Path) -> dict[str, object]:
    """Every file of a dataset, without the times in them."""
    found: dict[str, object] = {}
    for path in sorted(dataset.iterdir()):
        if path.name == "manifest.json":
            found[path.name] = {**json.loads(path.read_bytes()), "created_at": None}
        elif path.name.startswith("rejects-"):
            found[path.name] = pyarrow.parquet.read_table(path).drop_columns("at").to_pylist()
        else:
            found[path.name] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def undisturbed(collection: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset that an ordinary run makes."""
    workspace = tmp_path_factory.mktemp("undisturbed")
    assert main(arguments(collection, workspace)) == 0
    return dataset_of(workspace)


def test_the_work_is_done_by_helper_processes(collection: Path, tmp_path: Path):
    process = start(collection, tmp_path)
    while len(processes_of_group(process.pid)) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_every_image_is_in_the_dataset_once(undisturbed: Path):
    manifest = json.loads((undisturbed / "manifest.json").read_bytes())
    records = [record for shard in manifest["shards"] for record in read_records(str(undisturbed / shard["name"]))]
    assert len(set(records)) == len(records) == IMAGES
    assert manifest["rejects"] == {"empty_file": 10, "not_an_image": 10}


@pytest.mark.parametrize(
    "flags",
    [
        ("--direct_num_workers=1",),
        ("--direct_running_mode=multi_threading", "--direct_num_workers=3"),
        ("--direct_running_mode=multi_processing", "--direct_num_workers=2"),
    ],
)
def test_any_number_of_workers_writes_the_same_bytes(flags, collection, undisturbed, tmp_path):
    assert main(arguments(collection, tmp_path / "workspace", *flags)) == 0
    assert contents(dataset_of(tmp_path / "workspace")) == contents(undisturbed)


def start(collection: Path, workspace: Path, *flags: str, stderr: int = subprocess.DEVNULL) -> subprocess.Popen:
    how = {"stdout": subprocess.DEVNULL, "stderr": stderr, "start_new_session": True}
    return start_command(*arguments(collection, workspace, *flags), **how)


def processes_of_group(group: int) -> list[int]:
    """The processes, dead ones not counted, that a command started and its own."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, of_group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(of_group) == group and state != "Z":
            found.append(int(folder.name))
    return found


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def kill_when(process: subprocess.Popen, moment: Callable[[], bool]) -> bool:
    """Kills a run at a moment; says whether it came before the run's end."""
    while process.poll() is None:
        if moment():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.001)
    return False


@pytest.mark.parametrize("files", [1, 2, 4, 8, 13])
def test_a_killed_run_leaves_nothing_to_read_and_the_next_one_makes_the_same_dataset(
    files, collection, undisturbed, tmp_path
):
    unfinished = tmp_path / "unfinished"
    assert kill_when(start(collection, tmp_path), lambda: len(files_below(unfinished)) >= files)
    assert not (tmp_path / "datasets" / "LATEST").exists()
    assert not list((tmp_path / "datasets").glob("*/manifest.json"))
    assert main(arguments(collection, tmp_path)) == 0
    assert contents(dataset_of(tmp_path)) == contents(undisturbed)
    assert not unfinished.exists()


def test_shards_that_were_finished_before_a_kill_are_kept(collection, undisturbed, tmp_path):
    def finished() -> list[Path]:
        return sorted(tmp_path.glob("unfinished/dataset-*/summaries/*.json"))

    assert kill_when(start(collection, tmp_path), lambda: len(finished()) >= 3)
    kept = {path.name.replace(".json", ".tfrecord.gz"): path for path in finished()}
    written = {name: (path.parents[1] / name).stat().st_mtime_ns for name, path in kept.items()}
    assert main(arguments(collection, tmp_path)) == 0
    dataset = dataset_of(tmp_path)
    assert {name: (dataset / name).stat().st_mtime_ns for name in written} == written
    assert contents(dataset) == contents(undisturbed)


def test_a_run_that_is_killed_again_and_again_gets_there(collection, undisturbed, tmp_path):
    for seconds in (2.5, 3.0, 3.5, 4.0, 4.5):
        process, started = start(collection, tmp_path), time.monotonic()
        kill_when(process, lambda: time.monotonic() > started + seconds)  # noqa: B023 (called before the next round)
    assert main(arguments(collection, tmp_path)) == 0
    assert contents(dataset_of(tmp_path)) == contents(undisturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("flags", [(), ("--direct_running_mode=multi_processing", "--direct_num_workers=2")])
def test_a_run_that_is_told_to_stop_says_so_and_ends_with_all_its_processes(number, flags, collection, tmp_path):
    process = start(collection, tmp_path, *flags, stderr=subprocess.PIPE)
    while not list((tmp_path / "unfinished").glob("dataset-*/summaries/*.json")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "error: interrupted: what is finished is kept" in said
    until = time.monotonic() + 10
    while processes_of_group(process.pid):
        assert time.monotonic() < until, processes_of_group(process.pid)
        time.sleep(0.05)


def test_running_again_finds_the_dataset_and_says_so(collection, undisturbed, capsys):
    workspace = undisturbed.parents[1]
    before = {path: path.stat().st_mtime_ns for path in undisturbed.iterdir()}
    capsys.readouterr()
    assert main(arguments(collection, workspace)) == 0
    assert "it was there already, made from the very same images" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in undisturbed.iterdir()} == before
