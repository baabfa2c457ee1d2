"""What a worker's container does first: fetches what was staged, installs it, and becomes Beam's worker.

The workers of one pool install the same package once, and share it, as containers share the layers of an image.

Run by a worker pool as its `--container_executable`, with the interpreter of the workers' environment. In the folder
that OPENED_FILES names, a file with the number of the worker's process tells which files that process opened.
The contract is that of Beam's containers (apache/beam, sdks/python/container): flags, artifact service, environment.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import runpy
import subprocess
import sys
import tarfile
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


def main() -> None:
    """Never returns."""
    parser = argparse.ArgumentParser()
    for flag in ("id", "provision_endpoint"):
        parser.add_argument(f"--{flag}", required=True)
    for flag in ("logging_endpoint", "artifact_endpoint", "control_endpoint"):  # a pool gives them, Flink does not
        parser.add_argument(f"--{flag}")
    given = parser.parse_args()
    headers = [("worker_id", given.id)]
    with grpc.insecure_channel(given.provision_endpoint) as channel:
        provision = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        request = beam_provision_api_pb2.GetProvisionInfoRequest()
        info = provision.GetProvisionInfo(request, metadata=headers).info
    logging, artifacts_at, control = (
        getattr(given, f"{name}_endpoint") or getattr(info, f"{name}_endpoint").url
        for name in ("logging", "artifact", "control")
    )
    folder = tempfile.mkdtemp(prefix="worker-")
    packages = folder
    with grpc.insecure_channel(artifacts_at) as channel:
        artifacts = beam_artifact_api_pb2_grpc.ArtifactRetrievalServiceStub(channel)
        for dependency in info.dependencies:
            role = beam_runner_api_pb2.ArtifactStagingToRolePayload.FromString(dependency.role_payload)
            path = os.path.join(folder, role.staged_name)
            with open(path, "wb") as file:
                call = beam_artifact_api_pb2.GetArtifactRequest(artifact=dependency)
                for part in artifacts.GetArtifact(call, metadata=headers):
                    file.write(part.data)
            if path.endswith(".tar.gz"):
                packages = install_once(path)

    def described(url: str) -> str:
        return text_format.MessageToString(endpoints_pb2.ApiServiceDescriptor(url=url))

    os.environ |= {
        "PYTHONPATH": packages,
        "WORKER_ID": given.id,
        "PIPELINE_OPTIONS": json_format.MessageToJson(info.pipeline_options),
        "SEMI_PERSISTENT_DIRECTORY": folder,
        "LOGGING_API_SERVICE_DESCRIPTOR": described(logging),
        "CONTROL_API_SERVICE_DESCRIPTOR": described(control),
    }
    os.chdir(folder)
    note_opened_files()
    # Beam's modules are loaded already; this project is found where it was installed, as nothing of it is loaded yet.
    sys.path[0] = packages
    sys.argv = ["sdk_worker_main"]
    runpy.run_module("apache_beam.runners.worker.sdk_worker_main", run_name="__main__")


def install_once(archive: str) -> str:
    """Installs a staged archive, unless another worker of the pool did; returns the folder of its packages."""
    digest = hashlib.sha256()
    with tarfile.open(archive) as members:  # each command packs it again: only the times in it are new
        for member in members:
            content = members.extractfile(member) if member.isfile() else None
            digest.update(f"{member.name} {member.size} ".encode() + (content.read() if content else b""))
    packages = os.path.join(os.path.dirname(os.environ["OPENED_FILES"]), f"packages-{digest.hexdigest()[:12]}")
    with open(f"{packages}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(packages):
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
            subprocess.run([*pip, "--target", f"{packages}.new", archive], check=True)
            os.rename(f"{packages}.new", packages)
    return packages


def note_opened_files() -> None:
    """Notes from here on which files this process opens."""
    path = os.path.join(os.environ["OPENED_FILES"], str(os.getpid()))
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(event: str, about: tuple) -> None:
        if event == "open" and isinstance(about[0], str):
            os.write(opened, f"{about[0]}\n".encode())

    sys.addaudithook(note)


if __name__ == "__main__":
    main()
