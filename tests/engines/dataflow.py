"""A stand-in of the Dataflow API, which runs the jobs that are submitted to it on a job service."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc, beam_runner_api_pb2, endpoints_pb2
from apache_beam.runners.portability.portable_runner import JobServiceHandle

from tests.engines.services import Answering

_JOBS = re.compile(
    r"/v1b3/projects/(?P<project>[^/]+)/locations/(?P<region>[^/]+)/jobs(?:/(?P<id>[^/]+)(?P<what>/.*)?)?"
)


@dataclasses.dataclass
class Job:
    """A submitted job.

    Attributes:
        description: what the client sent.
        pipeline: the graph that it staged.
        state: as the API names it.
        errors: what the engine said of a failure.
    """

    project: str
    region: str
    description: dict[str, Any]
    pipeline: beam_runner_api_pb2.Pipeline
    state: str = "JOB_STATE_RUNNING"
    errors: list[str] = dataclasses.field(default_factory=list)

    @property
    def options(self) -> dict[str, Any]:
        """The pipeline options that the service is told."""
        return self.description["environment"]["sdkPipelineOptions"]["options"]


class Dataflow(http.server.ThreadingHTTPServer):
    """The part of the API that Beam's client uses: creating a job, its state, its messages, its end.

    Args:
        staged: gives the content of a `gs://` URL.
        job_endpoint, worker_pool: of the job service, and of the pool that starts its workers.
        folder: for the artifacts of jobs that run.

    Attributes:
        jobs: all that were submitted.
        refusal: the status and the answer to submissions, if they are to be refused.
        outcome: the state and the error of jobs, if they are not to be run.
        silent: whether the state of jobs is refused to all.
        asked: how often it was asked for.
    """

    daemon_threads = True

    def __init__(self, staged: Callable[[str], bytes], job_endpoint: str, worker_pool: str, folder: Path):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.jobs: list[Job] = []
        self.refusal: tuple[int, dict[str, Any]] | None = None
        self.outcome: tuple[str, str] | None = None
        self.silent = False
        self.asked = 0
        self.staged = staged
        self._job_endpoint, self._worker_pool, self._folder = job_endpoint, worker_pool, folder

    @property
    def endpoint(self) -> str:
        """What `--dataflow_endpoint` has to be."""
        return f"http://localhost:{self.server_address[1]}"

    @contextlib.contextmanager
    def serving(self) -> Iterator[Dataflow]:
        """Serves until the block ends."""
        threading.Thread(target=self.serve_forever, daemon=True).start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()

    def execute(self, description: dict[str, Any], outcome: Callable[[str, str | None], None] | None = None) -> str:
        """Runs a job's staged pipeline in this project's worker pool; its last state."""
        pipeline = self.read_pipeline(description)
        folder = self._folder / f"job-{len(list(self._folder.iterdir()))}"
        folder.mkdir()
        for environment in pipeline.components.environments.values():
            self._run_outside(environment, folder)
        with grpc.insecure_channel(self._job_endpoint) as channel:
            stub = beam_job_api_pb2_grpc.JobServiceStub(channel)
            _, messages, states = JobServiceHandle(stub, PipelineOptions([])).submit(pipeline)
            said = [
                message.message_response.message_text
                for message in messages
                if message.message_response.importance == beam_job_api_pb2.JobMessage.JOB_MESSAGE_ERROR
            ]
            state = [beam_job_api_pb2.JobState.Enum.Name(event.state) for event in states][-1]
        state = f"JOB_STATE_{state}"
        if outcome:
            outcome(state, said[-1] if said else None)
        return state

    def read_pipeline(self, description: dict[str, Any]) -> beam_runner_api_pb2.Pipeline:
        """The graph that a job's description names."""
        options = description["environment"]["sdkPipelineOptions"]["options"]
        return beam_runner_api_pb2.Pipeline.FromString(self.staged(options["pipelineUrl"]))

    def _run_outside(self, environment: beam_runner_api_pb2.Environment, folder: Path) -> None:
        """A container's environment to one of the worker pool, with what was staged on this disk."""
        for dependency in environment.dependencies:
            payload = beam_runner_api_pb2.ArtifactUrlPayload.FromString(dependency.type_payload)
            path = folder / payload.url.rpartition("/")[2]
            path.write_bytes(self.staged(payload.url))
            dependency.type_urn = common_urns.artifact_types.FILE.urn
            dependency.type_payload = beam_runner_api_pb2.ArtifactFilePayload(
                path=str(path), sha256=payload.sha256
            ).SerializeToString()
        environment.urn = common_urns.environments.EXTERNAL.urn
        environment.payload = beam_runner_api_pb2.ExternalPayload(
            endpoint=endpoints_pb2.ApiServiceDescriptor(url=self._worker_pool)
        ).SerializeToString()


class _Handler(Answering):
    server: Dataflow

    def do_POST(self) -> None:  # noqa: N802
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        found = self._found()
        job = Job(found["project"], found["region"], body, self.server.read_pipeline(body))
        self.server.jobs.append(job)
        if self.server.refusal:
            return self._answer(self.server.refusal[1], self.server.refusal[0])
        if self.server.outcome:
            self._answer(self._described(len(self.server.jobs) - 1))
            job.state, error = self.server.outcome
            return job.errors.append(error)

        def ended(state: str, error: str | None) -> None:
            job.errors += [error] if error else []
            if job.state == "JOB_STATE_RUNNING":
                job.state = state

        threading.Thread(target=self.server.execute, args=(body, ended), daemon=True).start()
        return self._answer(self._described(len(self.server.jobs) - 1))

    def do_GET(self) -> None:  # noqa: N802
        found = self._found()
        job = self.server.jobs[int(found["id"])]
        if found["what"] is None:
            self.server.asked += 1
            if self.server.silent:
                return self._answer({"error": {"code": 403, "message": "try tomorrow"}}, 403)
            return self._answer(self._described(int(found["id"])))
        if found["what"] == "/messages":
            time = datetime.datetime.now(datetime.UTC).isoformat()
            messages = [
                {"id": str(i), "time": time, "messageText": error, "messageImportance": "JOB_MESSAGE_ERROR"}
                for i, error in enumerate(job.errors)
            ]
            return self._answer({"jobMessages": messages})
        return self._answer({"metrics": []})

    def do_PUT(self) -> None:  # noqa: N802
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.jobs[int(self._found()["id"])].state = body["requestedState"]
        self._answer(self._described(int(self._found()["id"])))

    def _found(self) -> re.Match[str]:
        found = _JOBS.fullmatch(urllib.parse.urlparse(self.path).path)
        assert found is not None, self.path
        return found

    def _described(self, number: int) -> dict[str, Any]:
        job = self.server.jobs[number]
        return {"id": str(number), "name": job.description["name"], "currentState": job.state}

    def _answer(self, content: dict[str, Any], status: int = 200) -> None:
        self.answer(json.dumps(content).encode(), status)
