"""Real engines and object stores in processes of their own, for tests and benchmarks."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import json
import os
import random
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_CHOOSER = random.SystemRandom()  # Keras seeds the other one, alike in every process
PATIENCE = 60  # seconds for a service to listen, which takes 3 to 10


def make_worker_python(folder: Path) -> Path:
    """An interpreter, in a new environment, that imports everything that this one does, except for this project."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    # A .pth file within a folder that is named by a .pth file counts for nothing: so editable installs do not.
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = folder / "bin" / "python"
    program = "import apache_beam, tfrecords"
    tried = subprocess.run([python, "-c", program], cwd=folder, env=clean_environment(), capture_output=True, text=True)
    assert "No module named 'tfrecords'" in tried.stderr
    return python


def clean_environment() -> dict[str, str]:
    """This process's environment, without what leads Python to the checkout."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def free_port() -> int:
    """A port that nothing listens on, of those that no system gives to clients: it stays free until it is served."""
    while True:
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", _CHOOSER.randint(20_000, 32_000)))
            return listener.getsockname()[1]


def wait_until(reached: Callable[[], object], command: subprocess.Popen[str]) -> None:
    """Waits for something to be true while a command runs, which must not end before."""
    until = time.monotonic() + 3 * PATIENCE
    while not reached():
        assert command.poll() is None, command.communicate()
        assert time.monotonic() < until
        time.sleep(0.005)


@contextlib.contextmanager
def service(command: list[str], port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that listens on a port; it and all that it started are killed at the end."""
    log = folder / f"{port}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=folder, env=clean_environment(), stdout=file, stderr=file, start_new_session=True
        )
    try:
        started = time.monotonic()
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None, log.read_text()
            assert time.monotonic() - started < PATIENCE, log.read_text()
            time.sleep(0.1)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@dataclasses.dataclass(frozen=True)
class PortableEngine:
    """A job service whose workers are started by a pool in another process.

    Attributes:
        flags: that submit to it.
        opened: the folder in which each worker notes the files that it opens; see `boot.py`.
        job_service: its process.
    """

    flags: list[str]
    opened: Path
    job_service: subprocess.Popen[bytes]

    def workers_that_opened(self, what: str) -> set[int]:
        """The processes that opened a file with this in its path, dead or alive."""
        return {int(path.name) for path in self.opened.iterdir() if what in path.read_text()}


def write_boot(python: Path, folder: Path) -> Path:
    """Writes a program that becomes a worker of Beam, with an interpreter of `make_worker_python`.

    In `opened/` of the folder, each worker notes the files that it opens.
    """
    opened = folder / "opened"
    opened.mkdir()
    boot = folder / "boot"
    boot.write_text(f'#!/bin/sh\nOPENED_FILES="{opened}" exec "{python}" "{ROOT}/tests/engines/boot.py" "$@"\n')
    boot.chmod(0o755)
    return boot


@contextlib.contextmanager
def portable_service(python: Path, folder: Path) -> Iterator[PortableEngine]:
    """A job service and a worker pool, whose workers run with an interpreter of `make_worker_python`."""
    boot = write_boot(python, folder)
    jobs, pool = free_port(), free_port()
    job_service = [f"{ROOT}/tests/engines/job_service.py", str(jobs)]
    worker_pool = ["-m", "apache_beam.runners.worker.worker_pool_main", f"--service_port={pool}"]
    with (
        service([str(python), *job_service], jobs, folder) as jobs_process,
        service([str(python), *worker_pool, f"--container_executable={boot}"], pool, folder),
    ):
        flags = [
            "--runner=PortableRunner",
            f"--job_endpoint=localhost:{jobs}",
            "--environment_type=EXTERNAL",
            f"--environment_config=localhost:{pool}",
        ]
        yield PortableEngine(flags, folder / "opened", jobs_process)


@dataclasses.dataclass
class DaskCluster:
    """A Dask scheduler and workers, each of one thread, in processes of their own."""

    address: str
    scheduler: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]]
    start_worker: Callable[[], None]

    @property
    def flags(self) -> list[str]:
        """What submits to it."""
        return ["--runner=DaskRunner", f"--dask_client_address={self.address}"]


@contextlib.contextmanager
def dask_cluster(python: Path, folder: Path, workers: int = 2, *, has_project: bool = True) -> Iterator[DaskCluster]:
    """A Dask cluster whose processes import what `python` does, and this project if they have it."""
    module = [str(python), "-m"]
    if has_project:
        module = ["env", f"PYTHONPATH={ROOT}", *module]
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    scheduler = ["distributed.cli.dask_scheduler", "--host=127.0.0.1", f"--port={port}", "--no-dashboard"]
    with contextlib.ExitStack() as running:
        started = running.enter_context(service([*module, *scheduler], port, folder))

        def start_worker() -> None:
            port = free_port()
            flags = ["--no-nanny", "--nthreads=1", f"--worker-port={port}", f"--local-directory={folder}"]
            command = [*module, "distributed.cli.dask_worker", address, "--host=127.0.0.1", "--no-dashboard", *flags]
            cluster.workers.append(running.enter_context(service(command, port, folder)))

        cluster = DaskCluster(address, started, [], start_worker)
        for _ in range(workers):
            start_worker()
        yield cluster


# An object store: an emulator of GCS, with credentials that look real.


@dataclasses.dataclass(frozen=True)
class ObjectStore:
    """An emulator of GCS that runs.

    Attributes:
        endpoint: where it serves, as `STORAGE_EMULATOR_HOST` has it.
        environment: what makes gcsfs and Beam talk to it; set in this process already.
        private_key: a line of the service account's key, which nothing may tell.
        access_token: what the token server gives for it, which nothing may tell.
    """

    endpoint: str
    environment: dict[str, str]
    private_key: str
    access_token: str

    def make_bucket(self) -> str:
        """The `gs://` URL of a new bucket."""
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        body = json.dumps({"name": name}).encode()
        request = urllib.request.Request(
            f"{self.endpoint}/storage/v1/b?project=p", body, {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=PATIENCE).close()
        return f"gs://{name}"

    def put(self, url: str, content: bytes) -> None:
        """Makes an object under any name, as no file system would."""
        bucket, _, name = url.removeprefix("gs://").partition("/")
        address = (
            f"{self.endpoint}/upload/storage/v1/b/{bucket}/o?uploadType=media&name={urllib.parse.quote(name, safe='')}"
        )
        headers = {"Content-Type": "application/octet-stream"}
        urllib.request.urlopen(urllib.request.Request(address, content, headers), timeout=PATIENCE).close()

    def objects(self, url: str) -> dict[str, bytes]:
        """The content of every object whose URL begins with this one, by its name in the bucket."""
        bucket, _, prefix = url.removeprefix("gs://").partition("/")
        listing = f"{self.endpoint}/storage/v1/b/{bucket}/o?prefix={urllib.parse.quote(prefix, safe='')}"
        with urllib.request.urlopen(listing, timeout=PATIENCE) as answer:
            names = [item["name"] for item in json.load(answer).get("items", [])]
        return {name: self.get(f"gs://{bucket}/{name}") for name in names}

    def get(self, url: str) -> bytes:
        """The content of an object."""
        bucket, _, name = url.removeprefix("gs://").partition("/")
        address = f"{self.endpoint}/download/storage/v1/b/{bucket}/o/{urllib.parse.quote(name, safe='')}?alt=media"
        with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
            return answer.read()


class Answering(http.server.BaseHTTPRequestHandler):
    """A handler of requests that says nothing of them."""

    def answer(self, content: bytes, status: int = 200, kind: str = "application/json") -> None:
        """Sends a whole answer."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving(handler: type[Answering]) -> Iterator[str]:
    """The address of a server in threads of this process."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@contextlib.contextmanager
def token_server(access_token: str, status: int = 200) -> Iterator[str]:
    """The address of a server that gives an access token to whoever asks, or refuses with another status."""
    refusal = {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
    answer = {"access_token": access_token, "token_type": "Bearer", "expires_in": 3600}

    class Handler(Answering):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(json.dumps(answer if status == 200 else refusal).encode(), status)

    with serving(Handler) as endpoint:
        yield f"{endpoint}/token"


def write_credentials(path: Path, token_uri: str) -> str:
    """Writes a service account's file with a new private key; one line of the key."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    pem = (
        rsa.generate_private_key(public_exponent=65537, key_size=2048)
        .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        .decode()
    )
    account = {
        "type": "service_account",
        "project_id": "line-reader-tests",
        "private_key_id": "0123456789abcdef",
        "private_key": pem,
        "client_email": "reader@line-reader-tests.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": token_uri,
    }
    path.write_text(json.dumps(account), encoding="utf-8")
    return pem.splitlines()[5]


def forget_file_systems() -> None:
    """Lets gcsfs look at its environment and its credentials anew."""
    from gcsfs.core import GCSFileSystem

    GCSFileSystem.clear_instance_cache()


@contextlib.contextmanager
def emulated_store(folder: Path) -> Iterator[ObjectStore]:
    """An emulator of GCS in another process, to which this process and its children talk inside the block."""
    port = free_port()
    access_token = f"ya29.secret-{uuid.uuid4().hex}"
    command = ["-m", "gcp_storage_emulator", "start", "--host", "127.0.0.1", "--port", str(port), "--in-memory"]
    with (
        token_server(access_token) as token_uri,
        service([sys.executable, *command], port, folder),
        pytest.MonkeyPatch.context() as patch,
    ):
        environment = {
            "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}",
            "GOOGLE_APPLICATION_CREDENTIALS": str(folder / "credentials.json"),
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # would ask the real service what kind of bucket this is
            "NO_GCE_CHECK": "true",
        }
        private_key = write_credentials(folder / "credentials.json", token_uri)
        for name, value in environment.items():
            patch.setenv(name, value)
        forget_file_systems()
        yield ObjectStore(environment["STORAGE_EMULATOR_HOST"], environment, private_key, access_token)
    forget_file_systems()
