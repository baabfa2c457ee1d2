"""The Java archives of Flink and of Beam's job server for it, which Maven fetches once.

    python -m tests.engines.jars

Fetches what is lacking, however long it takes, and prints where it lies: beside the job servers that Beam fetches
itself. Beam publishes a job server as one archive; this is the same from its parts, with the Flink that it was built
for.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from apache_beam.utils.subprocess_server import JavaJarServer

BEAM_VERSION = "2.62.0"  # older than the SDK's; Beam's protocol is the same
PARTS = [f"org.apache.beam:beam-runners-flink-1.19:{BEAM_VERSION}", "org.slf4j:slf4j-simple:1.7.30"]
FETCHING_S = 60

_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>tests</groupId><artifactId>flink</artifactId><version>1</version>
  <dependencies>{dependencies}</dependencies>
</project>
"""
_DEPENDENCY = "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>"


class JarsLackError(Exception):
    """The archives, or what runs them, are not here, for a reason that a skipped test can give."""


def fetch_jars(patience_s: float = FETCHING_S) -> Path:
    """Fetches the archives, unless an earlier call did or another process is about to.

    What a call that ran out of time had fetched, Maven keeps: the next one goes on from there.

    Returns:
        The folder of the archives.

    Raises:
        JarsLackError: if there is no Java or no Maven, or it does not fetch them in time.
    """
    folder = Path(JavaJarServer.JAR_CACHE) / f"flink-{BEAM_VERSION}"
    for program in ("java", "javac") if folder.exists() else ("java", "javac", "mvn"):
        if shutil.which(program) is None:
            raise JarsLackError(f"{program} is not installed")
    if folder.exists():
        return folder / "jars"
    folder.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + patience_s
    with open(f"{folder}.lock", "w") as lock, tempfile.TemporaryDirectory(dir=folder.parent) as made:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise _late(patience_s) from None
                time.sleep(0.5)
        if not folder.exists():
            _copy_dependencies(Path(made), until, patience_s)
            os.rename(f"{made}/flink", folder)
    return folder / "jars"


def _copy_dependencies(folder: Path, until: float, patience_s: float) -> None:
    dependencies = "".join(_DEPENDENCY.format(*part.split(":")) for part in PARTS)
    (folder / "pom.xml").write_text(_POM.format(dependencies=dependencies))
    flags = ["-DincludeScope=runtime", f"-DoutputDirectory={folder}/flink/jars"]
    command = ["mvn", "--quiet", "--batch-mode", "dependency:copy-dependencies", *flags]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=max(0, until - time.monotonic())
        )
    except subprocess.TimeoutExpired:
        raise _late(patience_s) from None
    if done.returncode:
        raise JarsLackError(f"Maven does not fetch Flink's archives: {done.stdout.strip()[:300]}")


def _late(patience_s: float) -> JarsLackError:
    return JarsLackError(f"Maven did not fetch Flink's archives within {patience_s:.0f} s")


if __name__ == "__main__":
    print(fetch_jars(3600))
