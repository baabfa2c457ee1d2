"""Checks of what another engine needs, before anything is sent there."""

from __future__ import annotations

import os
import re
import shutil

import grpc  # type: ignore[import-untyped]
from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PortableOptions,
    SetupOptions,
    StandardOptions,
    WorkerOptions,
)

from pipeline.options import LinePipelineOptions, UsageError
from tfrecords import DataError, storage

_CONNECTING_S = 10
# In each process of a worker, which holds a shard's lines in memory while it reads. Dataflow's own 12 can be too many.
_SHARDS_AT_A_TIME = 2
_OWN_JOB_SERVER = ("flinkrunner", "sparkrunner")


def check_submission(options: LinePipelineOptions) -> None:
    """Checks what the runner needs and sets what is left out, so that a job that cannot run is refused unbuilt.

    Takes at most 10 seconds for a job service, and as long as the object store may take for a bucket.

    Raises:
        UsageError: for flags that are missing or cannot be.
        DataError: for a service or a bucket that is not there.
    """
    if options.step_names == ("train",):  # no job is sent anywhere
        return
    _check_packages(options)
    kind = options.runner_kind
    if options.template and kind != "dataflowrunner":
        raise UsageError(f"--template_location={options.template} is for --runner=DataflowRunner alone")
    if kind == "portablerunner" or kind in _OWN_JOB_SERVER:
        _check_job_service(options, kind)
    if kind == "dataflowrunner":
        _check_dataflow(options)


def _check_packages(options: LinePipelineOptions) -> None:
    """Makes the path of setup.py absolute: Beam fails on one without a folder."""
    setup = options.view_as(SetupOptions)
    if setup.setup_file is None:
        return
    path = os.path.abspath(os.path.expanduser(setup.setup_file))
    if os.path.basename(path) != "setup.py" or not os.path.isfile(path):
        raise UsageError(
            f"--setup_file={setup.setup_file} is not the setup.py of a checkout of this project: give its path, such "
            "as ./setup.py"
        )
    setup.setup_file = path


def _check_job_service(options: LinePipelineOptions, kind: str) -> None:
    endpoint = options.view_as(PortableOptions).job_endpoint
    runner = options.view_as(StandardOptions).runner
    if endpoint is None:
        if kind not in _OWN_JOB_SERVER:
            raise UsageError(f"--runner={runner} needs --job_endpoint=HOST:PORT, the address of its job service")
        if shutil.which("java") is None:
            raise UsageError(
                f"--runner={runner} starts its own job server with Java, which is not installed here: install it, or "
                "give the address of one that runs, --job_endpoint=HOST:PORT"
            )
        return
    if endpoint == "embed":
        return
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"--job_endpoint={endpoint} is not an address of the form HOST:PORT")
    channel = grpc.insecure_channel(endpoint)
    try:
        grpc.channel_ready_future(channel).result(timeout=_CONNECTING_S)
    except grpc.FutureTimeoutError:
        raise DataError(
            f"--job_endpoint={endpoint}: no job service has answered there for {_CONNECTING_S} s: is it running, and "
            "is this its address?"
        ) from None
    finally:
        channel.close()


def _check_dataflow(options: LinePipelineOptions) -> None:
    cloud = options.view_as(GoogleCloudOptions)
    if options.template and options.step_names != ("infer",):
        raise UsageError(f"--steps={options.steps}: a template is one job, which nobody waits for: give --steps=infer")
    if not cloud.project:
        raise UsageError("--runner=DataflowRunner needs --project=ID, the Google Cloud project that pays for the job")
    if not (cloud.region or os.environ.get("CLOUDSDK_COMPUTE_REGION")):
        raise UsageError(
            "--runner=DataflowRunner needs --region=NAME, such as europe-west3: where the workers run, best where the "
            "images are"
        )
    if not cloud.temp_location:
        raise UsageError("--runner=DataflowRunner needs --temp_location=gs://BUCKET/FOLDER, for what it stages")
    places = {"temp_location": cloud.temp_location, "staging_location": cloud.staging_location}
    for flag, place in places.items():
        if place and not re.fullmatch(r"gs://[a-z0-9][a-z0-9._-]+[a-z0-9]/.*[^/].*", place):
            raise UsageError(f"--{flag}={place} is not a folder in a bucket: it has to look like gs://BUCKET/FOLDER")
    read = {flag: (getattr(options, flag) or "").split(",") for flag in ("workspace", "images", "infer_images")}
    read |= {"label_source": list(options.label_rules.tables), "lexicon": [options.lexicon or ""]}
    for flag, given in read.items():
        for place in given:
            if place and not place.startswith(("gs://", "dataset:")):
                raise UsageError(
                    f"--{flag}={place} is on this machine, where the workers of Dataflow cannot see it: copy it to a "
                    f"bucket and give --{flag}=gs://BUCKET/FOLDER"
                )
    if not options.images and "ingest" in options.step_names and not options.label_rules.tables:
        raise UsageError("--images=gs://BUCKET/FOLDER is needed: the sample collection is for this machine only")
    setup, workers = options.view_as(SetupOptions), options.view_as(WorkerOptions)
    if not setup.setup_file and not workers.sdk_container_image:
        raise UsageError(
            "the workers of Dataflow would lack this project: pass --setup_file=./setup.py, or better "
            "--sdk_container_image=IMAGE, built with deploy/Dockerfile --target=worker"
        )
    debug = options.view_as(DebugOptions)
    if debug.number_of_worker_harness_threads is None:
        debug.number_of_worker_harness_threads = _SHARDS_AT_A_TIME
    for flag, place in places.items():
        if place:
            storage.require_bucket(place, f"--{flag}")
