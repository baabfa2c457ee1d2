"""What another worker brings on each engine, and what a path costs at ten thousand, and at a million.

    python benchmarks/scaling.py --images=../shared/data/captcha [--count=12000] [--workspace=WORKSPACE]
        [--levels=10000,100000,1000000] [--only=engines|paths|store] [--scratch=/dev/shm]

Prints one table; all of it is measured in this run, which makes a million files: best in memory (`--scratch`). The
engines run on this machine as the tests start them (`tests/engines/services.py`): Beam's local engine in one process,
with its helper processes, and in several; a job service and a worker pool, whose workers install the staged project for
each job; a Dask scheduler and workers. Images and the model are those of `benchmarks/inference.py`. The first engine is
held to one or two cores, which its helpers follow; with the others, one worker has one core, and the scheduler or the
command the other.

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
    named,
    parse_counts,
    print_header,
    row,
)
from benchmarks.inference import in_own_process, prepare_workspace, run_infer, write_labelled
from benchmarks.ingest import LABEL_FLAGS, run_product
from components.counts import Counts
from components.inference.commit import commit_run
from components.inference.request import InferenceRequest, RecognisedShard
from components.jobs import GatherOnce, pack_blocks
from components.lines import map_in_order, read_referenced_line
from components.listing import ImageReference, read_listing
from components.listing.transforms import GroupByShard, ListCollection
from components.predictions.manifest import RUN_MANIFEST_NAME
from tests.engines.services import (
    Answering,
    dask_cluster,
    make_worker_python,
    portable_service,
    serving,
    token_server,
    write_credentials,
)
from tfrecords import ImageLimits, SplitFractions, choose_shard, name_shard, storage
from tfrecords.shards import choose_shard_count

FEW = 24  # images, of which a step takes as long as its engine costs whatever their number
GOAL_LEVEL = 1.1  # of the figure at the count before: as much as two equal runs may differ
IMAGES_A_SHARD = 3000
COLLECTIONS = (1_000_000, 10_000_000, 100_000_000)
_PAGE = 1000
_BUCKET, _NAMES_A_FOLDER = "gs://collection", 2000


class Setting(NamedTuple):
    """An engine with so many workers.

    Attributes:
        engine: for a person.
        workers: processes that work, or cores where helpers follow those.
        flags: of the command.
        cores: that the command and what it starts may use.
        stays: whether its workers are started once, and not for each job.
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
def engine_settings(scratch: Path) -> Iterator[Iterator[Setting]]:
    """Every engine that runs here with one worker and with two; those of a cluster start when they are come to."""
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
def held_to(cores: int) -> Iterator[None]:
    """What is started meanwhile may use so many cores."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def measure_engines(originals: Sequence[Original], count: int, workspace: Path, scratch: Path) -> Sizes:
    """Ingest and inference on every engine, with one worker and with two."""
    folders = {number: make_images(scratch / f"images-{number}", originals, number) for number in (FEW, count)}
    for path in folders[count].glob("*/*"):
        path.read_bytes()
    sizes = Sizes(0, 0, 0)

    def ingest(number: int, flags: Sequence[str]) -> float:
        nonlocal sizes
        with tempfile.TemporaryDirectory(prefix="workspace-", dir=scratch) as folder:
            run = run_product(folders[number], number, Path(folder), (*LABEL_FLAGS, *flags))
            sizes = sizes._replace(example=_bytes(Path(folder).glob("datasets/*/*.tfrecord.gz")) / number)
            return run.step

    def infer(number: int, flags: Sequence[str]) -> float:
        nonlocal sizes
        run = run_infer(workspace, str(folders[number]), number, *flags)
        sizes = sizes._replace(row=_bytes(workspace.glob("predictions/*/*/*.parquet")) / number)
        return run.step

    found: dict[tuple[str, str, int], tuple[float, float]] = {}
    with engine_settings(scratch) as settings:
        for setting in settings:
            for name, step in (("ingest", ingest), ("infer", infer)):
                with held_to(setting.cores):
                    if setting.stays:
                        step(FEW, setting.flags)  # its workers import what they need
                    seconds = step(FEW, setting.flags), step(count, setting.flags)
                    found[name, setting.engine, setting.workers] = seconds
    for name in ("ingest", "infer"):
        mine = {(engine, workers): seconds for (step, engine, workers), seconds in found.items() if step == name}
        row(f"{name}: images per second of the step, {count:,} images (share: of one worker's speed)")
        for (engine, workers), (_, whole) in mine.items():
            share = f"{mine[engine, 1][1] / whole:.1%}" if workers > 1 else ""
            row(f"{engine}, {workers}", f"{count / whole:,.0f}", share)
        row(f"{name}: seconds of a step of {FEW} images (share: of the step of {count:,})")
        for (engine, workers), (few, whole) in mine.items():
            row(f"{engine}, {workers}", f"{few:.1f}", f"{few / whole:.1%}")
        row(f"{name}: seconds beyond those, {count:,} images (share: of one worker's)")
        for (engine, workers), (few, whole) in mine.items():
            one_few, one_whole = mine[engine, 1]
            share = f"{(whole - few) / (one_whole - one_few):.1%}" if workers > 1 else ""
            row(f"{engine}, {workers}", f"{whole - few:.1f}", share)
    return sizes._replace(file=_bytes(folders[count].glob("*/*")) / count)


def _bytes(paths: Iterable[Path]) -> int:
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
    return in_own_process(_timed, job, *arguments)


def _timed(job: Callable[..., None], *arguments: Any) -> Job:
    before, started = _peak(), time.monotonic()
    job(*arguments)
    return Job(time.monotonic() - started, before, _peak())


def _peak() -> int:
    """The most memory that this process held until now, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def list_paths(root: str, listing: str) -> None:
    """The first job of the infer step."""
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        work = ListCollection(f"{listing}.json", None, SplitFractions())
        pipeline | beam.Create([([root], listing)]) | work


def group_paths(listing: str, count: int) -> None:
    """The second job of the infer step, which here counts what it would read."""
    shards = choose_shard_count(count)

    def shard_of(reference: ImageReference) -> int:
        return choose_shard(reference.key, shards)

    def check(counts: Iterable[int]) -> None:
        if (grouped := sum(counts)) != count:
            raise RuntimeError(f"of {count} paths {grouped} were grouped")

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        counted = beam.MapTuple(lambda _, references: len(references))
        pipeline | beam.Create([listing]) | GroupByShard(shard_of) | "Count" >> counted | GatherOnce(check)


def make_paths(folder: Path, originals: Sequence[Original], count: int, *, flat: bool = False) -> Path:
    """Empty files under the names that images would have, in folders of 2,000, or in one."""
    for original, name in named(originals, count):
        path = folder / f"{Path(name).name if flat else name}{original.path.suffix}"
        try:
            os.mknod(path)
        except FileNotFoundError:
            path.parent.mkdir(parents=True)
            os.mknod(path)
    return folder


def measure_paths(originals: Sequence[Original], counts: Sequence[int], scratch: Path) -> str:
    """Listing and grouping at several counts; the path of the longest listing file."""
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


def _print_jobs(what: str, jobs: Sequence[tuple[str, int, Job]]) -> None:
    row(f"{what}: microseconds per path (share: of the count before)")
    before = 0.0
    for name, count, job in jobs:
        micros = job.seconds / count * 1e6
        share, goal = (f"{micros / before:.1%}", f"at most {GOAL_LEVEL:.0%}") if before else ("", "")
        row(name, f"{micros:.1f}", share, goal, is_met=micros <= GOAL_LEVEL * before)
        before = micros
    row(f"{what}: MiB of memory (share: bytes per path, beyond the start of the job)")
    for name, count, job in jobs:
        row(name, f"{job.peak / 2**20:,.0f}", f"{(job.peak - job.before) / count:,.0f}")


def _list_in_store(count: int, scratch: Path) -> Job:
    with object_store(count, b"", scratch):
        return run_alone(list_paths, f"{_BUCKET}/scans", str(scratch / "stored.parquet"))


@contextlib.contextmanager
def object_store(count: int, image: bytes, scratch: Path) -> Iterator[None]:
    """A server for what is started meanwhile: it lists so many generated names, a thousand a page, of one image."""
    with serving(_handler(count, image)) as endpoint, token_server("token") as token_uri:
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


def _handler(count: int, image: bytes) -> type[Answering]:
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
    """Shards of large collections, and the bytes of the blocks that are shuffled, from the paths of one listing."""
    lengths = [len(reference.uri) for reference in read_listing(listing)]
    row("shards (share: images in each)")
    for images in COLLECTIONS:
        row(f"{images:,} images", f"{choose_shard_count(images):,}", f"{images / choose_shard_count(images):,.0f}")
    row(f"shuffled bytes per path, of {sum(lengths) / len(lengths):.0f} symbols (share: elements per path)")
    for images in COLLECTIONS:
        place = functools.partial(_shard_of, shards=choose_shard_count(images))
        sizes = [len(block) for _, block in pack_blocks(read_listing(listing), place)]
        figure, elements = sum(sizes) / len(lengths), len(sizes) / len(lengths)
        row(f"in the shards of {images:,} images", f"{figure:.0f}", f"{elements:.1%}")
    row("listing file, bytes per path", f"{storage.get_size(listing) / len(lengths):.0f}")


def _shard_of(reference: ImageReference, shards: int) -> int:
    return choose_shard(reference.key, shards)


# Reading from a store, and committing many shards


def read_lines_of(names: Sequence[str]) -> tuple[float, float, int]:
    """Reads and decodes images as a worker with one thread does: seconds, those of the processor, and bytes."""
    references = [ImageReference(name, name, 0, 0) for name in names]
    read = functools.partial(read_referenced_line, height=48, limits=ImageLimits())
    for _ in map_in_order(read, references[:100], 1):
        pass  # imports and connects
    started, used = time.monotonic(), time.process_time()
    pixels = sum(line.pixels.size for line in map_in_order(read, references, 1))
    return time.monotonic() - started, time.process_time() - used, pixels


def commit_shards(folder: str, shards: int) -> None:
    """The last function of the infer step, for so many shards whose files are there, but empty."""
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
    commit_run(map(_summary, range(shards)), request)


def _summary(index: int) -> RecognisedShard:
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
    return RecognisedShard(index, digest, rows, rows, 0, digest[::-1], {}, 0.98123456789 * rows, 0, [], [], figures)


def measure_store(originals: Sequence[Original], count: int, scratch: Path) -> None:
    """What reading from an object store costs a processor, and what a commit of many shards takes."""
    image = originals[0].path
    with object_store(0, image.read_bytes(), scratch):
        remote = in_own_process(read_lines_of, [f"{_BUCKET}/{number}.png" for number in range(count)])
    local = in_own_process(read_lines_of, [str(image)] * count)
    row("reading and decoding, one process: processor microseconds per image (share: of those from a disk)")
    row("from a disk", f"{local[1] / count * 1e6:,.0f}")
    row("from an object store", f"{remote[1] / count * 1e6:,.0f}", f"{remote[1] / local[1]:.1%}")
    row("from an object store, images per second, the server on the same machine", f"{count / remote[0]:,.0f}")
    row("commit of a run, seconds, on a local disk (share: MiB of memory, beyond its start)")
    manifests = []
    for shards in map(choose_shard_count, COLLECTIONS):
        folder = scratch / f"run-{shards}"
        (folder / "unfinished/run/_summaries").mkdir(parents=True)
        for index in range(shards):
            (folder / "unfinished/run" / name_shard("part", index, shards, "parquet")).touch()
            (folder / "unfinished/run/_summaries" / f"{index:05d}.json").touch()
        job = run_alone(commit_shards, str(folder), shards)
        row(f"{shards:,} shards", f"{job.seconds:.2f}", f"{(job.peak - job.before) / 2**20:.0f}")
        manifests.append((shards, (folder / "predictions/run" / RUN_MANIFEST_NAME).stat().st_size))
        shutil.rmtree(folder)
    row("manifest of a run, MB (share: what all summaries take on their way to the commit)")
    for shards, size in manifests:
        gathered = shards * len(pickle.dumps(_summary(shards - 1), pickle.HIGHEST_PROTOCOL))
        row(f"{shards:,} shards", f"{size / 1e6:.1f}", f"{gathered / 1e6:.1f}")


def main() -> None:
    """Measures what the command line asks for."""
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
            row("bytes per image")
            for name, size in zip(("file", "example in a dataset", "row of predictions"), sizes, strict=True):
                row(name, f"{size:,.0f}")
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
