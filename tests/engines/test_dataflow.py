"""Submitting to Dataflow over HTTP: what is sent, and that what was staged runs."""

from __future__ import annotations

import io
import json
import signal
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet
import pytest
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.pipeline_utils import validate_pipeline_graph

from pipeline.exits import EXIT_AGAIN, EXIT_DONE, EXIT_INTERRUPTED, EXIT_REFUSED
from pipeline.main import main
from tests.commands import start_command
from tests.engines.dataflow import Dataflow
from tests.engines.services import wait_until
from tfrecords import storage

ROOT = Path(__file__).parents[2]
STAGED = f"--setup_file={ROOT}/setup.py"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dataflow(object_store, portable_engine, tmp_path_factory) -> Iterator[Dataflow]:
    """A stand-in of Dataflow that runs what is submitted, with workers that see the object store."""
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in portable_engine.flags)
    where = (flags["job_endpoint"], flags["environment_config"], tmp_path_factory.mktemp("dataflow"))
    with Dataflow(object_store.get, *where).serving() as server:
        yield server


@pytest.fixture
def workspace(bucket, tiny_model) -> str:
    """A workspace in a bucket with the tiny model in use."""
    storage.copy_folder(str(tiny_model), f"{bucket}/ws/models/tinymodel000")
    for pointer in ("LATEST", "ACCEPTED"):
        storage.write_bytes(f"{bucket}/ws/models/{pointer}", b"tinymodel000\n")
    return f"{bucket}/ws"


@pytest.fixture
def images(bucket, tiny_images) -> str:
    """The tiny images in a bucket."""
    storage.copy_folder(str(tiny_images), f"{bucket}/images")
    return f"{bucket}/images"


def flags_for(dataflow: Dataflow, bucket: str) -> list[str]:
    return [
        "--runner=DataflowRunner",
        f"--dataflow_endpoint={dataflow.endpoint}",
        "--project=archive-1",
        "--region=europe-west3",
        f"--temp_location={bucket}/temp",
    ]


@pytest.fixture
def untouched(dataflow) -> Iterator[Dataflow]:
    """The stand-in, for a test that tells it what to answer."""
    yield dataflow
    dataflow.refusal = dataflow.outcome = None
    dataflow.silent = False


def read(workspace: str) -> list[tuple]:
    """The rows of all predictions, but for when they were made."""
    rows = []
    for path in storage.open_filesystem(workspace).glob(f"{workspace}/predictions/*/*/*.parquet"):
        table = pyarrow.parquet.read_table(io.BytesIO(storage.read_bytes(f"gs://{path}")))
        rows += table.drop_columns(["scored_at", "date"] if "date" in table.column_names else ["scored_at"]).to_pylist()
    return sorted(rows, key=lambda row: row["uri"])


def test_ingest_and_infer_run_from_bucket_to_bucket_as_on_the_local_runner(
    workspace, images, dataflow, bucket, object_store, tiny_model, capsys
):
    local = f"{bucket}/local"
    storage.copy_folder(str(tiny_model), f"{local}/models/tinymodel000")
    storage.write_bytes(f"{local}/models/LATEST", b"tinymodel000\n")
    storage.write_bytes(f"{local}/models/ACCEPTED", b"tinymodel000\n")
    submitted = len(dataflow.jobs)
    steps = ["--steps=ingest,infer", f"--images={images}", f"--infer_images={images}", "--height=32"]
    assert main([f"--workspace={local}", *steps]) == EXIT_DONE
    flags = [STAGED, *flags_for(dataflow, bucket)]
    assert main([f"--workspace={workspace}", *steps, *flags]) == EXIT_DONE, capsys.readouterr()
    jobs = dataflow.jobs[submitted:]
    assert [job.state for job in jobs] == ["JOB_STATE_DONE"] * 4  # list, ingest, list, infer
    assert len({job.options["temp_location"].count("/") for job in jobs}) == 1

    def records(folder: str) -> dict[str, bytes]:
        found = object_store.objects(f"{folder}/datasets/")
        return {name.rpartition("/")[2]: content for name, content in found.items() if ".tfrecord" in name}

    assert records(workspace) == records(local) != {}
    assert read(workspace) == read(local)
    assert len(read(workspace)) == 24


def test_what_is_submitted_is_what_was_asked_for(workspace, images, untouched, bucket, object_store, capsys):
    error = {"error": {"code": 403, "status": "PERMISSION_DENIED", "message": "reader lacks dataflow.jobs.create"}}
    untouched.refusal = (403, error)
    asked = [
        "--num_workers=3",
        "--max_num_workers=40",
        "--machine_type=n1-standard-4",
        "--disk_size_gb=60",
        "--subnetwork=regions/europe-west3/subnetworks/images",
        "--no_use_public_ips",
        "--service_account_email=reader@archive-1.iam.gserviceaccount.com",
        "--dataflow_service_options=worker_accelerator=type:nvidia-tesla-t4;count:1;install-nvidia-driver",
    ]
    where = [f"--workspace={workspace}", f"--infer_images={images}", "--steps=infer", *flags_for(untouched, bucket)]
    assert main([*where, *asked, STAGED]) == EXIT_REFUSED
    said = capsys.readouterr().err
    assert "error: DataflowRunner: the job is refused: 403" in said
    assert "reader lacks dataflow.jobs.create" in said
    assert "Traceback" not in said
    job = untouched.jobs[-1]
    assert (job.project, job.region) == ("archive-1", "europe-west3")
    environment = job.description["environment"]
    assert environment["serviceOptions"] == [asked[-1].partition("=")[2]]
    assert environment["serviceAccountEmail"] == "reader@archive-1.iam.gserviceaccount.com"
    (pool,) = environment["workerPools"]
    assert pool["numWorkers"] == 3
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 40
    assert pool["numThreadsPerWorker"] == 2
    assert pool["machineType"] == "n1-standard-4"
    assert pool["diskSizeGb"] == 60
    assert pool["subnetwork"] == "regions/europe-west3/subnetworks/images"
    assert pool["ipConfiguration"] in (2, "WORKER_IP_PRIVATE")
    staged = {package["name"]: package["location"] for package in pool["packages"]}
    archive = object_store.get(staged["workflow.tar.gz"].replace("storage.googleapis.com/", "gs://"))
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert {"pipeline/main.py", "components/listing/listing.py", "tfrecords/storage/gcs.py", "setup.py"} <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "docs/"))]

    validate_pipeline_graph(job.pipeline)
    bounded = {collection.is_bounded for collection in job.pipeline.components.pcollections.values()}
    assert bounded == {beam_runner_api_pb2.IsBounded.BOUNDED}
    transforms = [transform.unique_name for transform in job.pipeline.components.transforms.values()]
    assert "List/ListFolders" in transforms

    image = "europe-west3-docker.pkg.dev/archive-1/readers/line-reader:1"
    assert main([*where, f"--sdk_container_image={image}"]) == EXIT_REFUSED
    job = untouched.jobs[-1]
    (pool,) = job.description["environment"]["workerPools"]
    assert pool["sdkHarnessContainerImages"][0]["containerImage"] == image
    assert "workflow.tar.gz" not in [package["name"] for package in pool["packages"]]
    (payload,) = {environment.payload for environment in job.pipeline.components.environments.values()}
    assert beam_runner_api_pb2.DockerPayload.FromString(payload).container_image == image


def test_a_failure_on_dataflow_is_told_in_our_sentence(workspace, images, untouched, bucket, capsys):
    story = (
        "Traceback (most recent call last):\n  File x, line 1, in y\n"
        "tfrecords.errors.DataError: model.onnx is damaged: restore it [while running 'Infer/ReadShard']\n"
    )
    untouched.outcome = ("JOB_STATE_FAILED", story)
    where = [f"--workspace={workspace}", f"--infer_images={images}", "--steps=infer", *flags_for(untouched, bucket)]
    assert main([*where, STAGED]) == EXIT_REFUSED
    said = capsys.readouterr().err
    assert "error: model.onnx is damaged: restore it\n" in said
    assert "Traceback" not in said


def test_a_service_that_does_not_say_how_a_job_is_doing_is_told_in_one_sentence(
    workspace, images, untouched, bucket, capsys
):
    untouched.outcome = ("JOB_STATE_RUNNING", "")
    untouched.silent = True
    where = [f"--workspace={workspace}", f"--infer_images={images}", "--steps=infer", *flags_for(untouched, bucket)]
    assert main([*where, STAGED]) == EXIT_AGAIN
    (sentence,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert f"the service does not say how job {len(untouched.jobs) - 1} is doing, and it may go on" in sentence


def test_an_interrupted_command_cancels_its_job(workspace, images, untouched, bucket, object_store):
    untouched.outcome = ("JOB_STATE_RUNNING", "")
    untouched.asked = 0
    submitted = len(untouched.jobs)
    flags = [f"--workspace={workspace}", f"--infer_images={images}", "--steps=infer", STAGED]
    command = start_command(*flags, *flags_for(untouched, bucket), environment=object_store.environment, stdout=None)
    wait_until(lambda: len(untouched.jobs) > submitted and untouched.asked > 0, command)
    command.send_signal(signal.SIGTERM)
    _, said = command.communicate(timeout=30)
    assert command.returncode == EXIT_INTERRUPTED
    assert "what is finished is kept" in said
    assert untouched.jobs[-1].state in (5, "JOB_STATE_CANCELLED")


def test_a_template_is_handed_over_and_commits_by_itself_when_it_is_launched(
    workspace, images, dataflow, bucket, object_store, tmp_path, capsys
):
    submitted = len(dataflow.jobs)
    place = f"{bucket}/launches/42/job"
    where = [f"--workspace={workspace}", f"--infer_images={images}", "--steps=infer", *flags_for(dataflow, bucket)]
    assert main([*where, f"--template_location={place}", STAGED]) == EXIT_DONE
    assert "the job that reads 24 images as run r" in capsys.readouterr().out
    assert len(dataflow.jobs) == submitted
    assert not read(workspace)
    assert dataflow.execute(json.loads(object_store.get(place))) == "JOB_STATE_DONE"
    assert len(read(workspace)) == 24
    assert main([f"--workspace={workspace}", f"--infer_images={images}", "--steps=infer"]) == EXIT_DONE
    assert "nothing new: " in capsys.readouterr().out

    again = f"{bucket}/launches/43/job"  # a night with nothing new: who launches a template expects a job
    assert main([*where, f"--template_location={again}", STAGED]) == EXIT_DONE
    assert dataflow.execute(json.loads(object_store.get(again))) == "JOB_STATE_DONE"
    assert len(read(workspace)) == 24


@pytest.mark.parametrize("flag", ["temp_location", "staging_location"])
def test_a_bucket_that_is_not_there_is_said_before_anything_is_sent(workspace, images, dataflow, bucket, flag, capsys):
    where = [f"--workspace={workspace}", f"--infer_images={images}", "--steps=infer", *flags_for(dataflow, bucket)]
    began = time.monotonic()
    assert main([*where, f"--{flag}=gs://no-such-bucket-here/temp", STAGED]) == EXIT_REFUSED
    assert time.monotonic() - began < 10
    said = capsys.readouterr().err
    assert f"--{flag}=gs://no-such-bucket-here/temp: there is no bucket gs://no-such-bucket-here: create it" in said
