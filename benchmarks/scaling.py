"""Benchmark of scale: the gain of another worker on each engine, and the cost of a path at several counts.

    python benchmarks/scaling.py --images=../shared/data/captcha [--count=12000] [--workspace=WORKSPACE]
        [--levels=10000,100000,1000000] [--only=engines|paths|store] [--scratch=/dev/shm]

Prints one table; all of it is measured now, with a million files: best in memory (`--scratch`). The engines run on this
machine as the tests start them (`tests/engines/services.py`): Beam's local engine in one process, with its helper
processes, and in several; a job service and a worker pool, whose workers install the staged project for each job; a
Dask scheduler and workers. Images and the model are those of `benchmarks/inference.py`. The first engine is held to one
or two cores, which its helpers follow; with the others, one worker has one core, and the scheduler or the command the
other.

Paths are names of empty files, so that listing and grouping are all that is done; each is measured in a fresh process,
which runs the very job that the command runs, but for the reader, in whose place a function counts. The object store is
a server in this process that answers listings as Cloud Storage does, at once, and gives an image under any name.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import hashlib
import os
import pickle
import shutil
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout that this file lies in

import apache_beam as beam
import PIL
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from benchmarks.common import (
    CORES,
    ROOT,
    Original,
    copy_originals,
    make_images,
    name_images,
    parse_counts,
    print_header,
    print_row,
)
from benchmarks.inference import prepare_workspace, run_infer, write_labelled
from benchmarks.ingest import LABEL_FLAGS, run_product
from benchmarks.recognition import run_in_own_process
from components.counts import Counts
from components.inference.commit import commit_run
from components.inference.request import InferenceRequest, RecognisedShard
from components.lines import map_in_order, read_referenced_line
from components.listing import ImageReference, read_listing
from components.listing.transforms import GroupByShard, ListCollection
from components.predictions.manifest import RUN_MANIFEST_NAME
from components.predictions.schema import CONFIDENCE_BINS
from components.transforms import GatherOnce, pack_blocks
from tests.engines.services import (
    Answering,
    dask_cluster,
    make_worker_python,
    portable_service,
    serving,
    token_server,
    write_credentials,
)
from tfrecords import ImageLimits, LineImage, choose_shard, name_shard, storage
from tfrecords.shards import choose_shard_count

FEW = 24  # images, of which a step takes as long as its engine costs whatever their number
GOAL_LEVEL = 1.1  # of the figure at the count before: as much as two equal runs may differ
IMAGES_A_SHARD = 3000
COLLECTIONS = (1_000_000, 10_000_000, 100_000_000)
_PAGE = 1000
_BUCKET, _NAMES_A_FOLDER = "gs://collection", 2000


class Setting(NamedTuple):
    """An engine with a number of workers.

    Attributes:
        engine: its name for a person.
        workers: number of worker processes, or of cores where helpers follow the cores.
        flags: of the command.
        cores: that the command and what it starts may use.
        stays: whether its workers are started once for all jobs.
    """

    engine: str
    workers: int
    flags: Sequence[str]
    cores: int
    stays: bool = False


class Sizes(NamedTuple):
    """Bytes per image: the file, the example in a dataset, the row of predictions."""

    file: float
    example: float
    row: float


# Engines


@contextlib.contextmanager
def open_engine_settings(scratch: Path) -> Iterator[Iterator[Setting]]:
    """Yields every engine that runs here, with one worker and with two; a cluster starts when its turn comes."""
    python = make_worker_python(scratch / "worker-environment")
    with contextlib.ExitStack() as running:

        def settings() -> Iterator[Setting]:
            several = ["--direct_running_mode=multi_processing"]
            for cores in (1, 2):
                yield Setting("DirectRunner in one process, and its helpers", cores, [], cores)
            for workers in (1, 2):
                flags = [*several, f"--direct_num_workers={workers}"]
                yield Setting("DirectRunner, multi_processing", workers, flags, CORES)
            (scratch / "portable").mkdir()
            with portable_service(python, scratch / "portable") as engine:
                for workers in (1, 2):
                    flags = [*engine.flags, f"--setup_file={ROOT}/setup.py", f"--direct_num_workers={workers}"]
                    yield Setting("job service and worker pool", workers, flags, CORES)
            (scratch / "dask").mkdir()
            cluster = running.enter_context(dask_cluster(python, scratch / "dask", workers=1))
            yield Setting("Dask", 1, cluster.flags, CORES, stays=True)
            cluster.start_worker()
            yield Setting("Dask", 2, cluster.flags, CORES, stays=True)

        yield settings()


@contextlib.contextmanager
def hold_to_cores(cores: int) -> Iterator[None]:
    """Holds every process that is started in the block to a number of cores."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def measure_engines(originals: Sequence[Original], count: int, workspace: Path, scratch: Path) -> Sizes:
    """Measures ingest and inference on every engine, with one worker and with two."""
    folders = {number: make_images(scratch / f"images-{number}", originals, number) for number in (FEW, count)}
    for path in folders[count].glob("*/*"):
        path.read_bytes()
    sizes = Sizes(0, 0, 0)

    def ingest(number: int, flags: Sequence[str]) -> float:
        nonlocal sizes
        with tempfile.TemporaryDirectory(prefix="workspace-", dir=scratch) as folder:
            run = run_product(folders[number], number, Path(folder), (*LABEL_FLAGS, *flags))
            sizes = sizes._replace(example=_count_bytes(Path(folder).glob("datasets/*/*.tfrecord.gz")) / number)
            return run.step

    def infer(number: int, flags: Sequence[str]) -> float:
        nonlocal sizes
        run = run_infer(workspace, str(folders[number]), number, *flags)
        sizes = sizes._replace(row=_count_bytes(workspace.glob("predictions/*/*/*.parquet")) / number)
        return run.step

    timings: dict[tuple[str, str, int], tuple[float, float]] = {}
    with open_engine_settings(scratch) as settings:
        for setting in settings:
            for name, step in (("ingest", ingest), ("infer", infer)):
                with hold_to_cores(setting.cores):
                    if setting.stays:
                        step(FEW, setting.flags)  # its workers import what they need
                    seconds = step(FEW, setting.flags), step(count, setting.flags)
                    timings[name, setting.engine, setting.workers] = seconds
    for name in ("ingest", "infer"):
        of_step = {(engine, workers): seconds for (step, engine, workers), seconds in timings.items() if step == name}
        print_row(f"{name}: images per second of the step, {count:,} images (share: of one worker's speed)")
        for (engine, workers), (_, whole) in of_step.items():
            share = f"{of_step[engine, 1][1] / whole:.1%}" if workers > 1 else ""
            print_row(f"{engine}, {workers}", f"{count / whole:,.0f}", share)
        print_row(f"{name}: seconds of a step of {FEW} images (share: of the step of {count:,})")
        for (engine, workers), (few, whole) in of_step.items():
            print_row(f"{engine}, {workers}", f"{few:.1f}", f"{few / whole:.1%}")
        print_row(f"{name}: seconds beyond those, {count:,} images (share: of one worker's)")
        for (engine, workers), (few, whole) in of_step.items():
            one_few, one_whole = of_step[engine, 1]
            share = f"{(whole - few) / (one_whole - one_few):.1%}" if workers > 1 else ""
            print_row(f"{engine}, {workers}", f"{whole - few:.1f}", share)
    return sizes._replace(file=_count_bytes(folders[count].glob("*/*")) / count)


def _count_bytes(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


# Paths


class Job(NamedTuple):
    """A job in a process of its own.

    Attributes:
        seconds: of the job.
        before, peak: bytes of memory of the process at the start of the job, and at most.
    """

    seconds: float
    before: int
    peak: int


def run_alone(job: Callable[..., None], *arguments: Any) -> Job:
    """Runs a job of Beam's local engine in a fresh process."""
    return run_in_own_process(_run_timed, job, *arguments)


def _run_timed(job: Callable[..., None], *arguments: Any) -> Job:
    before, started = _get_peak(), time.monotonic()
    job(*arguments)
    return Job(time.monotonic() - started, before, _get_peak())


def _get_peak() -> int:
    """Returns the most memory that this process held until now, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def list_paths(root: str, listing: str) -> None:
    """Runs the first job of the infer step."""
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        work = ListCollection(f"{listing}.json", None, None)
        pipeline | beam.Create([([root], listing)]) | work


def group_paths(listing: str, count: int) -> None:
    """Runs the second job of the infer step, with a function that counts the images in place of the recogniser."""
    shards = choose_shard_count(count)

    def choose_place(reference: ImageReference) -> int:
        return choose_shard(reference.key, shards)

    def check(counts: Iterable[int]) -> None:
        if (grouped := sum(counts)) != count:
            raise RuntimeError(f"of {count} paths {grouped} were grouped")

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        counted = beam.MapTuple(lambda _, references: len(references))
        pipeline | beam.Create([listing]) | GroupByShard(choose_place) | "Count" >> counted | GatherOnce(check)


def make_paths(folder: Path, originals: Sequence[Original], count: int, *, flat: bool = False) -> Path:
    """Makes empty files under the names that images would have, in folders of 2,000, or in one."""
    for original, name in name_images(originals, count):
        path = folder / f"{Path(name).name if flat else name}{original.path.suffix}"
        try:
            os.mknod(path)
        except FileNotFoundError:
            path.parent.mkdir(parents=True)
            os.mknod(path)
    return folder


def measure_paths(originals: Sequence[Original], counts: Sequence[int], scratch: Path) -> str:
    """Measures listing and grouping at several counts; returns the path of the longest listing file."""
    in_store = [(f"{count:,}", count, _list_in_store(count, scratch)) for count in counts]
    _print_jobs("listing an object store", in_store)
    local, grouped, listing = [], [], ""
    for count in counts:
        folder = make_paths(scratch / f"paths-{count}", originals, count)
        listing = str(scratch / f"listing-{count}.parquet")
        local.append((f"{count:,}", count, run_alone(list_paths, str(folder), listing)))
        shutil.rmtree(folder)
        grouped.append((f"{count:,}", count, run_alone(group_paths, listing, count)))
    many = counts[-1] // 10  # some file systems take minutes to make a million files
    folder = make_paths(scratch / "one", originals, many, flat=True)
    alone = [(f"{many:,}", many, run_alone(list_paths, str(folder), f"{folder}.parquet"))]
    shutil.rmtree(folder)
    _print_jobs("listing local folders of 2,000", local)
    _print_jobs("listing one local folder", alone)
    _print_jobs("grouping", grouped)
    return listing


def _print_jobs(heading: str, jobs: Sequence[tuple[str, int, Job]]) -> None:
    print_row(f"{heading}: microseconds per path (share: of the count before)")
    before = 0.0
    for name, count, job in jobs:
        micros = job.seconds / count * 1e6
        share, goal = (f"{micros / before:.1%}", f"at most {GOAL_LEVEL:.0%}") if before else ("", "")
        print_row(name, f"{micros:.1f}", share, goal, is_met=micros <= GOAL_LEVEL * before)
        before = micros
    print_row(f"{heading}: MiB of memory (share: bytes per path, beyond the start of the job)")
    for name, count, job in jobs:
        print_row(name, f"{job.peak / 2**20:,.0f}", f"{(job.peak - job.before) / count:,.0f}")


def _list_in_store(count: int, scratch: Path) -> Job:
    with serve_object_store(count, b"", scratch):
        return run_alone(list_paths, f"{_BUCKET}/scans", str(scratch / "stored.parquet"))


@contextlib.contextmanager
def serve_object_store(count: int, image: bytes, scratch: Path) -> Iterator[None]:
    """Serves an object store inside the block: it lists `count` generated names, a thousand a page, of one image."""
    with serving(_make_handler(count, image)) as endpoint, token_server("token") as token_uri:
        write_credentials(scratch / "credentials.json", token_uri)
        environment = {
            "STORAGE_EMULATOR_HOST": endpoint,
            "GOOGLE_APPLICATION_CREDENTIALS": str(scratch / "credentials.json"),
            "NO_GCE_CHECK": "true",
        }
        os.environ.update(environment)
        try:
            yield
        finally:
            for name in environment:
                del os.environ[name]


def _make_handler(count: int, image: bytes) -> type[Answering]:
    class Handler(Answering):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:  # noqa: N802
            if self.path.startswith("/download/"):
                return self.answer(image, kind="image/png")
            address = urllib.parse.urlsplit(self.path)
            if not address.path.endswith("/o"):
                return self.send_error(404)  # of one object: the names asked for are folders
            asked = urllib.parse.parse_qs(address.query)
            there = count if "scans/".startswith(asked.get("prefix", [""])[0]) else 0
            start = int(asked.get("pageToken", ["0"])[0])
            stop = min(start + int(asked.get("maxResults", [str(_PAGE)])[0]), there)
            items = ",".join(
                f'{{"name":"scans/{number // _NAMES_A_FOLDER:06d}/line_{number:09d}.png","size":"9000",'
                '"timeCreated":"2026-01-01T00:00:00.000Z"}'
                for number in range(start, stop)
            )
            following = f',"nextPageToken":"{stop}"' if stop < there else ""
            return self.answer(f'{{"items":[{items}]{following}}}'.encode())

    return Handler


# Shards and what is shuffled


def measure_shuffle(listing: str) -> None:
    """Measures shards of large collections, and the bytes of the shuffled blocks, from the paths of one listing."""
    lengths = [len(reference.uri) for reference in read_listing(listing)]
    print_row("shards (share: images in each)")
    for images in COLLECTIONS:
        print_row(
            f"{images:,} images", f"{choose_shard_count(images):,}", f"{images / choose_shard_count(images):,.0f}"
        )
    print_row(f"shuffled bytes per path, of {sum(lengths) / len(lengths):.0f} symbols (share: elements per path)")
    for images in COLLECTIONS:
        place = functools.partial(_choose_shard, shards=choose_shard_count(images))
        sizes = [len(block) for _, block in pack_blocks(read_listing(listing), place)]
        figure, elements = sum(sizes) / len(lengths), len(sizes) / len(lengths)
        print_row(f"in the shards of {images:,} images", f"{figure:.0f}", f"{elements:.1%}")
    print_row("listing file, bytes per path", f"{storage.get_size(listing) / len(lengths):.0f}")


def _choose_shard(reference: ImageReference, shards: int) -> int:
    return choose_shard(reference.key, shards)


# Reading from a store, and committing many shards


def read_lines_of(names: Sequence[str]) -> tuple[float, float, int]:
    """Reads and decodes images as a worker with one thread does; returns seconds, processor seconds, and pixels."""
    references = [ImageReference(name, name, 0, 0) for name in names]
    read = functools.partial(read_referenced_line, height=48, limits=ImageLimits())
    for _ in map_in_order(read, references[:100], 1, ImageLimits()):
        pass  # imports and connects
    started, used = time.monotonic(), time.process_time()
    lines = map_in_order(read, references, 1, ImageLimits())
    pixels = sum(line.pixels.size for line in lines if isinstance(line, LineImage))
    return time.monotonic() - started, time.process_time() - used, pixels


def commit_shards(folder: str, shards: int) -> None:
    """Calls the last function of the infer step, for a number of shards whose files are empty."""
    request = InferenceRequest(
        run_id="r0123456789ab",
        folder=f"{folder}/unfinished/run",
        destination=f"{folder}/predictions/run",
        rejects_folder=f"{folder}/unfinished/rejects",
        rejects_destination=f"{folder}/rejects/run",
        counts=Counts(matched=IMAGES_A_SHARD * shards),
        shards=shards,
        model_folder="",
        model_id="",
        height=48,
        limits=ImageLimits(),
        max_reject_fraction=0.0,
        scored_at=datetime.datetime.now(datetime.UTC),
    )
    commit_run(map(_make_summary, range(shards)), request)


def _make_summary(index: int) -> RecognisedShard:
    """Makes the summary of a shard whose file is empty."""
    figures = {
        "engine": "onnx",
        "why": "faster on a CPU",
        "model_load_s": 0.123456789,
        "batches": 24,
        "scoring_s": 0.8123456789,
        "slowest_batch_s": 0.0123456789,
        "seconds": 1.7123456789,
    }
    digest = hashlib.sha256(str(index).encode()).hexdigest()
    rows = IMAGES_A_SHARD
    return RecognisedShard(
        index=index,
        inputs=digest,
        matched=rows,
        rows=rows,
        bytes=0,
        sha256=digest[::-1],
        rejects={},
        confidence_sum=0.98123456789 * rows,
        needs_review=0,
        confidence_histogram=[0] * (CONFIDENCE_BINS - 1) + [rows],
        least_confident=[],
        figures=figures,
    )


def measure_store(originals: Sequence[Original], count: int, scratch: Path) -> None:
    """Measures the processor's cost of reading from an object store, and the commit of many shards."""
    image = originals[0].path
    with serve_object_store(0, image.read_bytes(), scratch):
        remote = run_in_own_process(read_lines_of, [f"{_BUCKET}/{number}.png" for number in range(count)])
    local = run_in_own_process(read_lines_of, [str(image)] * count)
    print_row("reading and decoding, one process: processor microseconds per image (share: of those from a disk)")
    print_row("from a disk", f"{local[1] / count * 1e6:,.0f}")
    print_row("from an object store", f"{remote[1] / count * 1e6:,.0f}", f"{remote[1] / local[1]:.1%}")
    print_row("from an object store, images per second, the server on the same machine", f"{count / remote[0]:,.0f}")
    print_row("commit of a run, seconds, on a local disk (share: MiB of memory, beyond its start)")
    manifests = []
    for shards in map(choose_shard_count, COLLECTIONS):
        folder = scratch / f"run-{shards}"
        (folder / "unfinished/run/_summaries").mkdir(parents=True)
        for index in range(shards):
            (folder / "unfinished/run" / name_shard("part", index, shards, "parquet")).touch()
            (folder / "unfinished/run/_summaries" / f"{index:05d}.json").touch()
        job = run_alone(commit_shards, str(folder), shards)
        print_row(f"{shards:,} shards", f"{job.seconds:.2f}", f"{(job.peak - job.before) / 2**20:.0f}")
        manifests.append((shards, (folder / "predictions/run" / RUN_MANIFEST_NAME).stat().st_size))
        shutil.rmtree(folder)
    print_row("manifest of a run, MB (share: what all summaries take on their way to the commit)")
    for shards, size in manifests:
        gathered = shards * len(pickle.dumps(_make_summary(shards - 1), pickle.HIGHEST_PROTOCOL))
        print_row(f"{shards:,} shards", f"{size / 1e6:.1f}", f"{gathered / 1e6:.1f}")


def main() -> None:
    """Runs the measurements that the flags ask for."""
    parser = argparse.ArgumentParser(description="Measure what workers bring, and paths cost.", allow_abbrev=False)
    parser.add_argument("--images", required=True, help="folder of images whose names are their labels")
    parser.add_argument("--count", type=int, default=12_000, help="images for the engines (default: %(default)s)")
    parser.add_argument("--workspace", help="whose accepted model reads (default: one is trained)")
    parser.add_argument(
        "--levels", type=parse_counts, default="10000,100000,1000000", help="counts of paths (default: %(default)s)"
    )
    parser.add_argument("--only", choices=("engines", "paths", "store"), help="one part of the table")
    parser.add_argument("--scratch", help="where the temporary folder is made (default: the system's)")
    options = parser.parse_args()
    if CORES < 2 and options.only in (None, "engines"):
        sys.exit("error: two workers need two cores")
    with tempfile.TemporaryDirectory(prefix="scaling-", dir=options.scratch) as folder:
        scratch = Path(folder).resolve()
        os.environ["TMPDIR"] = folder  # of what is started here, too
        originals = copy_originals(options.images, scratch / "originals")
        workspace, before, started = scratch / "workspace", os.getloadavg()[0], time.monotonic()
        if options.only in (None, "engines"):
            labelled = write_labelled(scratch / "labelled", originals)
            manifest = prepare_workspace(options.workspace, labelled, workspace)
            print_header(originals, f"Pillow {PIL.__version__}, model {manifest.model}")
            sizes = measure_engines(originals, options.count, workspace, scratch)
            print_row("bytes per image")
            for name, size in zip(("file", "example in a dataset", "row of predictions"), sizes, strict=True):
                print_row(name, f"{size:,.0f}")
        else:
            print_header(originals, f"Pillow {PIL.__version__}")
        if options.only in (None, "paths"):
            measure_shuffle(measure_paths(originals, options.levels, scratch))
        if options.only in (None, "store"):
            measure_store(originals, IMAGES_A_SHARD, scratch)
        seconds, after = time.monotonic() - started, os.getloadavg()[0]
        print(f"\nload average {before:.1f} before, {after:.1f} after; {seconds / 60:.1f} minutes")


if __name__ == "__main__":
    main()
