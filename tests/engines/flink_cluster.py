"""A standalone cluster of Flink on this machine, with Beam's job server: processes of their own."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.engines.jars import fetch_jars
from tests.engines.services import PortableEngine, free_port, service, write_boot

_HOST = "127.0.0.1"
_LOST_AFTER_S = 5  # without a heartbeat, a task manager counts as lost
_REGISTERING_S = 30
# What Flink looks into, as its own start scripts have it for Java 17.
_OPENED = ("lang", "lang.invoke", "lang.reflect", "io", "net", "nio", "text", "time", "util", "util.concurrent")
_OPENED_OF_SUN = ("nio.ch", "nio.cs", "security.action", "util.calendar")
_JAVA = [
    "java",
    *("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Xmx512m"),  # starts in half the time
    *(f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in (*_OPENED, "util.concurrent.atomic")),
    *(f"--add-opens=java.base/sun.{name}=ALL-UNNAMED" for name in _OPENED_OF_SUN),
    "--add-exports=java.base/sun.net.util=ALL-UNNAMED",
    "--add-exports=java.rmi/sun.rmi.registry=ALL-UNNAMED",
]

# Left alone, Beam sends every archive of the job server to Flink with each job: 155 MB, in 14 s.
_JOB_SERVER = """
public class JobServer {
    public static void main(String[] flags) throws Exception {
        System.setProperty("java.class.path", "none");
        org.apache.beam.runners.flink.FlinkJobServerDriver.main(flags);
    }
}
"""


@dataclasses.dataclass(frozen=True)
class FlinkCluster(PortableEngine):
    """A cluster whose task managers start Beam's workers as processes.

    Attributes:
        task_managers: their processes, dead or alive.
        start_task_manager: starts one more.
        address: of its page and its API, as a URL.
    """

    task_managers: list[subprocess.Popen[bytes]]
    start_task_manager: Callable[[], None]
    address: str

    def ask(self, path: str) -> dict:
        """What its API answers."""
        with urllib.request.urlopen(f"{self.address}/{path}", timeout=10) as answer:
            return json.load(answer)


@contextlib.contextmanager
def flink_cluster(python: Path, folder: Path, *, task_managers: int = 2, restarts: int = 0) -> Iterator[FlinkCluster]:
    """A job manager and task managers of two slots, over which tasks are spread.

    Args:
        python: the interpreter of Beam's workers.
        folder: for their files and logs.
        restarts: how often Flink itself starts a job again that lost a worker.

    Raises:
        JarsLackError: if the archives are not here and cannot be fetched soon.
    """
    jars = fetch_jars()
    java = [*_JAVA, f"-Djava.io.tmpdir={folder}", "-cp", f"{jars}/*"]
    rpc, rest, jobs = free_port(), free_port(), free_port()
    (folder / "flink-conf.yaml").write_text(_configure_flink(folder, rpc, rest, restarts))
    manager = ["org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint", "--configDir", str(folder)]
    (folder / "JobServer.java").write_text(_JOB_SERVER)
    job_server = [
        f"{folder}/JobServer.java",
        f"--flink-master={_HOST}:{rest}",
        f"--artifacts-dir={folder}/artifacts",
        *(f"--job-host={_HOST}", f"--job-port={jobs}", "--artifact-port=0", "--expansion-port=0"),
    ]

    def start_task_manager() -> None:
        port = free_port()
        command = ["org.apache.flink.runtime.taskexecutor.TaskManagerRunner", "--configDir", str(folder)]
        process = running.enter_context(service([*java, *command, f"-Dtaskmanager.rpc.port={port}"], port, folder))
        cluster.task_managers.append(process)
        until = time.monotonic() + _REGISTERING_S
        while not any(f":{port}-" in known["id"] for known in cluster.ask("taskmanagers")["taskmanagers"]):
            assert time.monotonic() < until
            time.sleep(0.1)

    with contextlib.ExitStack() as running, ThreadPoolExecutor() as starting:
        manager_starts = starting.submit(running.enter_context, service([*java, *manager], rest, folder))
        server_starts = starting.submit(running.enter_context, service([*java, *job_server], jobs, folder))
        boot = json.dumps({"command": str(write_boot(python, folder))})
        flags = ["--runner=FlinkRunner", f"--job_endpoint={_HOST}:{jobs}", "--environment_type=PROCESS"]
        cluster = FlinkCluster(
            [*flags, f"--environment_config={boot}"],
            folder / "opened",
            server_starts.result(),
            [],
            start_task_manager,
            f"http://{_HOST}:{rest}",
        )
        manager_starts.result()
        for starts in [starting.submit(start_task_manager) for _ in range(task_managers)]:
            starts.result()
        yield cluster


def _configure_flink(folder: Path, rpc: int, rest: int, restarts: int) -> str:
    settings = {
        "jobmanager.rpc.address": _HOST,
        "jobmanager.rpc.port": rpc,
        "jobmanager.bind-host": _HOST,
        "rest.address": _HOST,
        "rest.bind-address": _HOST,
        "rest.port": rest,
        "taskmanager.host": _HOST,
        "taskmanager.bind-host": _HOST,
        "taskmanager.numberOfTaskSlots": 2,
        "cluster.evenly-spread-out-slots": "true",
        "io.tmp.dirs": folder / "tmp",
        "heartbeat.interval": 1000,
        "heartbeat.timeout": _LOST_AFTER_S * 1000,
        "slot.request.timeout": 20_000,
        "restart-strategy.type": "fixed-delay" if restarts else "none",
        "restart-strategy.fixed-delay.attempts": restarts or 1,
        "restart-strategy.fixed-delay.delay": "1 s",
        # What Flink's start scripts work out from a size of the whole process.
        "taskmanager.cpu.cores": 1,
        "taskmanager.memory.task.heap.size": "256m",
        "taskmanager.memory.task.off-heap.size": "0m",
        "taskmanager.memory.framework.heap.size": "128m",
        "taskmanager.memory.framework.off-heap.size": "128m",
        "taskmanager.memory.network.min": "64m",
        "taskmanager.memory.network.max": "64m",
        "taskmanager.memory.managed.size": "64m",
        "taskmanager.memory.jvm-metaspace.size": "256m",
        "taskmanager.memory.jvm-overhead.min": "192m",
        "taskmanager.memory.jvm-overhead.max": "192m",
    }
    return "".join(f"{name}: {value}\n" for name, value in settings.items())
