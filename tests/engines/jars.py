"""The Java archives of Flink, Spark and Beam's job servers for them, which Maven fetches once.

    python -m tests.engines.jars

Fetches what is lacking, however long it takes, and prints where it lies: beside the job servers that Beam fetches
itself. Beam publishes a job server as one archive; this is the same from its parts, with the engine that it was built
for.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from apache_beam.utils.subprocess_server import JavaJarServer

BEAM_VERSION = "2.62.0"  # the newest of which Maven has all parts of both; Beam's protocol is the SDK's
PARTS = {
    "flink": [f"org.apache.beam:beam-runners-flink-1.19:{BEAM_VERSION}", "org.slf4j:slf4j-simple:1.7.30"],
    "spark": [f"org.apache.beam:beam-runners-spark-3:{BEAM_VERSION}", "org.apache.spark:spark-streaming_2.12:3.5.0"],
}
FETCHING_S = 60

_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>tests</groupId><artifactId>{name}</artifactId><version>1</version>
  <dependencies>{dependencies}</dependencies>
</project>
"""
_DEPENDENCY = "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>"


class JarsLackError(Exception):
    """The archives of an engine are not here, for a reason that a skipped test can give."""


def fetch_jars(engine: str, patience_s: float | None = FETCHING_S) -> Path:
    """Fetches the archives of an engine, unless an earlier call did.

    What a call that ran out of time had fetched, Maven keeps: the next one goes on from there.

    Returns:
        A folder with them in `jars/`.

    Raises:
        JarsLackError: if there is no Java or no Maven, or it does not fetch them in time.
    """
    folder = Path(JavaJarServer.JAR_CACHE) / f"{engine}-{BEAM_VERSION}"
    if not folder.exists():
        for program in ("java", "mvn"):
            if shutil.which(program) is None:
                raise JarsLackError(f"{program} is not installed")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            _copy_dependencies(engine, Path(made), patience_s)
            with contextlib.suppress(OSError):  # another process was faster
                os.rename(made, folder)
                os.mkdir(made)  # for its removal
    return folder


def _copy_dependencies(engine: str, folder: Path, patience_s: float | None) -> None:
    dependencies = "".join(_DEPENDENCY.format(*part.split(":")) for part in PARTS[engine])
    (folder / "pom.xml").write_text(_POM.format(name=engine, dependencies=dependencies))
    flags = ["-DincludeScope=runtime", f"-DoutputDirectory={folder}/jars"]
    command = ["mvn", "--quiet", "--batch-mode", "dependency:copy-dependencies", *flags]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=patience_s)
    except subprocess.TimeoutExpired:
        raise JarsLackError(f"Maven did not fetch the archives of {engine} within {patience_s} s") from None
    if done.returncode:
        raise JarsLackError(f"Maven does not fetch the archives of {engine}: {done.stdout.strip()[:300]}")


if __name__ == "__main__":
    for name in sys.argv[1:] or PARTS:
        print(fetch_jars(name, None))
