"""The commands of the documentation, taken from its pages and run on tiny data."""

import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys

import duckdb
import pytest

from tests.docs.pages import ROOT, Block, find_blocks

TINY = "epochs: 30\npatience: 30\nbatch_size: 8\nmax_cer: 1\nmax_cer_regression: 1\n"
"""Flags that every command gets: few epochs, but enough that the model, which starts from base weights, is accepted."""
CORRECT = """
import csv, glob, os
(table,) = glob.glob("work/review/*/review.csv")
with open(table, encoding="utf-8-sig", newline="") as file:
    rows = list(csv.DictReader(file))
for row in rows:
    row["text"] = os.path.basename(row["path"].strip()).partition(".")[0].partition("-")[2]
with open("review.csv", "w", encoding="utf-8-sig", newline="") as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)
"""
"""What a person does with the review page: every text becomes that of the image's name."""


@dataclasses.dataclass(frozen=True)
class Run:
    """How a block is run here.

    Attributes:
        replace: text of the block by what stands for it here.
        statuses: exit statuses that are right.
        said: what the output has to hold.
    """

    replace: dict[str, str] = dataclasses.field(default_factory=dict)
    statuses: tuple[int, ...] = (0,)
    said: str = ""


OWN_IMAGES = ("README.md", ".venv/bin/python run_pipeline.py --runner=DirectRunner --images=labelled/")
RUNS = {
    OWN_IMAGES: Run(said="dataset"),
    ("README.md", ".venv/bin/python run_pipeline.py --steps=infer --infer_images=collection/"): Run(said="skipped=8"),
    ("README.md", ".venv/bin/python run_pipeline.py --workspace=work/ --steps=infer,review"): Run(
        {"# open work/review/ID/review.html": f"{sys.executable} correct.py #"}, said="accepted"
    ),
    ("README.md", "from components.recogniser import load_recogniser"): Run(),
    ("docs/archives.md", "tar -cf night.tar scans/"): Run(said="matched=4"),
    ("docs/export.md", ".venv/bin/python run_pipeline.py --steps=export"): Run(said="readings as txt"),
    ("docs/nightly.md", "python run_pipeline.py --config=nightly.yaml"): Run(statuses=(0, 4), said="steps=infer"),
    ("docs/nightly.md", ".venv/bin/python run_pipeline.py --steps=compact"): Run({"yesterday": "today"}),
    ("docs/nightly.md", ".venv/bin/python run_pipeline.py --steps=explain"): Run(
        {"scans/0012.png": "collection/00-11.png"}, said='"11"'
    ),
    ("docs/reading.md", ".venv/bin/python run_pipeline.py --workspace=work/ --steps=infer"): Run(said="steps=infer"),
    ("docs/reading.md", "import pyarrow"): Run(said="words"),
    ("docs/workspace.md", ".venv/bin/python run_pipeline.py --plan"): Run(),
}
NOT_HERE = {
    (
        "README.md",
        "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e . && .venv/bin/python run_pipeline.py",
    ): "takes a minute of training; tests/pipeline/test_main.py takes it from the page and runs all of it",
    ("README.md", 'python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e ".[test]"'): "runs this test",
    ("docs/development.md", ".venv/bin/ruff check ."): "runs this test, and what .ci/run runs beside it",
    ("docs/engines.md", ".venv/bin/python -m apache_beam.runners.portability"): "starts services that never end; "
    "tests/engines/test_portable.py runs the command with services on ports of their own",
    ("docs/engines.md", '.venv/bin/pip install -c constraints.txt -e ".[dask]"'): "starts a cluster that never ends; "
    "tests/engines/test_dask.py runs the command on one of its own",
    ("docs/engines.md", "docker build -f deploy/Dockerfile --target=worker"): "needs Docker, a registry and Dataflow; "
    "tests/engines/test_dataflow.py submits to a stand-in",
    ("docs/engines.md", "docker build -f deploy/Dockerfile --target=launcher"): "needs Docker, a registry and Dataflow",
    ("docs/engines.md", ".venv/bin/python run_pipeline.py --runner=FlinkRunner"): "needs a cluster; "
    "tests/engines/test_flink.py runs the command on one of its own",
    ("docs/engines.md", ".venv/bin/python run_pipeline.py --runner=SparkRunner"): "needs a cluster of Spark; "
    "tests/pipeline/engines checks the job graphs",
    ("docs/few-labels.md", ".venv/bin/python run_pipeline.py --workspace=work/ --steps=infer"): "trains models; "
    "tests/pipeline/steps/test_selftrain.py runs the step",
    ("docs/few-labels.md", ".venv/bin/python run_pipeline.py --workspace=work/ --steps=forecast"): "trains models; "
    "tests/pipeline/steps/test_forecast.py runs the step",
    (
        "docs/few-labels.md",
        ".venv/bin/python run_pipeline.py --workspace=work-rendered/ --steps=render",
    ): "needs fonts; tests/pipeline/steps/test_render.py runs the step",
    ("docs/few-labels.md", ".venv/bin/python run_pipeline.py --workspace=work-rendered/ --steps=ingest"): "trains "
    "models; tests/pipeline/steps/test_training_start.py starts from one",
    ("docs/few-labels.md", ".venv/bin/python benchmarks/base_weights.py"): "trains for an hour",
    ("docs/nightly.md", "useradd"): "changes the users of the machine",
    ("docs/nightly.md", "cp deploy/nightly.service"): "changes the machine's services; tests/deploy verifies the units",
    ("docs/nightly.md", "crontab"): "changes the machine's schedules; tests/deploy runs the line",
    ("docs/nightly.md", "cp deploy/airflow_nightly.py"): "needs Airflow; tests/deploy parses the DAG where it is",
    ("docs/nightly.md", "jq"): "needs a Google Cloud project; tests/deploy checks the request",
    ("docs/pages.md", ".venv/bin/python run_pipeline.py --workspace=work/ --pages"): "trains a model; "
    "tests/pipeline/test_pages.py runs ingest and infer",
    ("docs/pages.md", "kraken"): "needs kraken and Tesseract",
    ("docs/review.md", ".venv/bin/python run_pipeline.py --workspace=work/ --steps=review --review=labels"): "trains "
    "models; tests/pipeline/steps/test_label_review.py runs the step",
    ("docs/scaling.md", "run_pipeline.py --steps=infer --infer_images=gs://BUCKET"): "needs a bucket",
    ("docs/training.md", "docker build -f deploy/Dockerfile"): "needs Docker and a registry",
    ("docs/training.md", "kubectl"): "needs a Kubernetes cluster; tests/deploy checks the specifications",
    ("docs/training.md", ".venv/bin/python run_pipeline.py --steps=ingest --images=gs://"): "needs Vertex AI; "
    "tests/deploy checks the specification",
}
"""Blocks that are not run here, by page and first words, and why."""

# The Python of docs/models.md is run beside the code that it describes.
BLOCKS = [
    block for block in find_blocks("sh", "python") if (block.page, block.language) != ("docs/models.md", "python")
]


def _find(table, block: Block) -> list:
    return [key for key in table if key[0] == block.page and block.text.startswith(key[1])]


RUNNABLE = [(block, RUNS[key]) for block in BLOCKS for key in _find(RUNS, block)]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block_is_run_or_has_a_reason_not_to_be(block):
    assert len(_find({**RUNS, **NOT_HERE}, block)) == 1


@pytest.mark.parametrize("key", [*RUNS, *NOT_HERE], ids=": ".join)
def test_every_entry_of_the_tables_is_of_one_block(key):
    assert len([block for block in BLOCKS if key in _find([key], block)]) == 1


def _run(block: Block, run: Run, home: pathlib.Path) -> str:
    text = block.text
    for old, new in run.replace.items():
        assert old in text
        text = text.replace(old, new)
    if block.language == "python":
        command = [sys.executable, "-c", text]
    else:
        program = rf"{sys.executable} {ROOT}/run_pipeline.py --config=tiny.yaml"
        text = re.sub(r"(?:\.venv/bin/)?python run_pipeline\.py", lambda _: program, text)
        command = ["bash", "-euo", "pipefail", "-c", text]
    done = subprocess.run(
        command,
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in run.statuses, done.stdout + done.stderr
    assert run.said in done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def home(tiny_images, tmp_path_factory) -> pathlib.Path:
    """The folder in which commands run: images as the pages call them, and a workspace `work` that has read some."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(tiny_images, home / "labelled")
    images = sorted(tiny_images.glob("*.png"))
    for folder, part in {"collection": images[:8], "night": images[8:12], "scans": images[12:16]}.items():
        (home / folder).mkdir()
        for image in part:
            shutil.copy(image, home / folder)
    shutil.copy(images[0], home / "line.png")
    (home / "tiny.yaml").write_text(TINY)
    (home / "correct.py").write_text(CORRECT)
    nightly = (ROOT / "deploy" / "nightly.yaml").read_text()
    nightly = nightly.replace("/var/lib/line-reader/work", "work").replace("/srv/scans #", "scans #")
    (home / "nightly.yaml").write_text(nightly)
    ((block, run),) = [(block, run) for block, run in RUNNABLE if _find([OWN_IMAGES], block)]
    _run(block, run, home)
    return home


@pytest.mark.slow
@pytest.mark.parametrize(("block", "run"), RUNNABLE, ids=lambda value: str(value) if isinstance(value, Block) else "")
def test_a_command_of_the_documentation_runs(block, run, home):
    _run(block, run, home)


@pytest.mark.slow
@pytest.mark.parametrize("block", find_blocks("sql"), ids=str)
def test_a_query_of_the_documentation_runs(block, home):
    with duckdb.connect() as connection:
        query = block.text.replace("'workspace/", f"'{home}/work/")
        assert query != block.text
        assert connection.execute(query).fetchall()
