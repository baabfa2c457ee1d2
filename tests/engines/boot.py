"""What a worker's container does first: fetches what was staged, installs it, and becomes Beam's worker.

Run by a worker pool as its `--container_executable`, with the interpreter of the workers' environment. In the folder
that OPENED_FILES names, a file with the number of the worker's process tells which files that process opened.
The contract is that of Beam's containers (apache/beam, sdks/python/container): flags, artifact service, environment.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile

import grpc
from apache_beam.portability.api import (
    beam_artifact_api_pb2,
    beam_artifact_api_pb2_grpc,
    beam_provision_api_pb2,
    beam_provision_api_pb2_grpc,
    beam_runner_api_pb2,
    endpoints_pb2,
)
from google.protobuf import json_format, text_format

_WORKER = """
import os, runpy, sys
opened = open(os.path.join(os.environ["OPENED_FILES"], str(os.getpid())), "a", buffering=1)
sys.addaudithook(lambda event, about: event == "open" and isinstance(about[0], str) and print(about[0], file=opened))
runpy.run_module("apache_beam.runners.worker.sdk_worker_main", run_name="__main__")
"""


def main() -> None:
    """Never returns."""
    parser = argparse.ArgumentParser()
    for flag in ("id", "logging_endpoint", "artifact_endpoint", "provision_endpoint", "control_endpoint"):
        parser.add_argument(f"--{flag}", required=True)
    given = parser.parse_args()
    headers = [("worker_id", given.id)]
    with grpc.insecure_channel(given.provision_endpoint) as channel:
        provision = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        request = beam_provision_api_pb2.GetProvisionInfoRequest()
        info = provision.GetProvisionInfo(request, metadata=headers).info
    folder = tempfile.mkdtemp(prefix="worker-")
    packages = os.path.join(folder, "packages")
    with grpc.insecure_channel(given.artifact_endpoint) as channel:
        artifacts = beam_artifact_api_pb2_grpc.ArtifactRetrievalServiceStub(channel)
        for dependency in info.dependencies:
            role = beam_runner_api_pb2.ArtifactStagingToRolePayload.FromString(dependency.role_payload)
            path = os.path.join(folder, role.staged_name)
            with open(path, "wb") as file:
                call = beam_artifact_api_pb2.GetArtifactRequest(artifact=dependency)
                for part in artifacts.GetArtifact(call, metadata=headers):
                    file.write(part.data)
            if path.endswith(".tar.gz"):
                pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
                subprocess.run([*pip, "--target", packages, path], check=True)

    def described(url: str) -> str:
        return text_format.MessageToString(endpoints_pb2.ApiServiceDescriptor(url=url))

    environment = {
        **os.environ,
        "PYTHONPATH": packages,
        "WORKER_ID": given.id,
        "PIPELINE_OPTIONS": json_format.MessageToJson(info.pipeline_options),
        "SEMI_PERSISTENT_DIRECTORY": folder,
        "LOGGING_API_SERVICE_DESCRIPTOR": described(given.logging_endpoint),
        "CONTROL_API_SERVICE_DESCRIPTOR": described(given.control_endpoint),
    }
    os.chdir(folder)
    os.execve(sys.executable, [sys.executable, "-c", _WORKER], environment)


if __name__ == "__main__":
    main()
