"""The pages of the documentation hold together: links lead somewhere, flags exist, nothing is said twice."""

import argparse
import collections
import re
from pathlib import PurePosixPath

import pytest
from apache_beam.options import pipeline_options

from pipeline.options import LinePipelineOptions
from tests.docs.pages import GENERATED, PAGES, ROOT, find_anchors, find_sentences, strip_blocks

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")

OTHER_PROGRAMS = {
    "cron, systemd, useradd": {"--home-dir", "--now", "--system", "--unit"},
    "curl": {"--data"},
    "dask": {"--nthreads", "--nworkers", "--port"},
    "docker": {"--build-arg", "--target"},
    "build": {"--sdist"},
    "gcloud": {"--config", "--display-name", "--image", "--metadata-file", "--parameters", "--sdk-language"}
    | {"--template-file-gcs-location"},
    "the job service and its workers": {"--port", "--service_port"},
    "pytest and ruff": {"--airflow-python", "--check", "--require-tools", "--slow"},
    "tensorboard": {"--logdir"},
    "benchmarks, tests.crashes, tests.fuzz_scanlines and tests.engines.flink": {
        "--changed",
        "--contenders",
        "--inputs",
        "--kills",
        "--only",
    }
    | {"--scratch"},
}
"""Flags that the pages mention and that are not this command's."""
DASK = {"--dask_client_address", "--dask_connection_timeout", "--dask_npartitions", "--dask_partition_size"} | {
    "--dask_scheduler_file"
}
"""Beam registers these when its DaskRunner is loaded, and the command with `--runner=DaskRunner` alone."""


def _flags() -> set[str]:
    parser = argparse.ArgumentParser(add_help=False, conflict_handler="resolve")
    beams = [
        cls
        for cls in vars(pipeline_options).values()
        if isinstance(cls, type) and issubclass(cls, pipeline_options.PipelineOptions)
    ]
    for cls in [LinePipelineOptions, *beams]:
        if "_add_argparse_args" in vars(cls):
            cls._add_argparse_args(parser)
    return {*re.findall(r"--\w+", parser.format_help()), "--help"}


def _links() -> list[tuple[str, str]]:
    return [
        (page, link)
        for page, text in PAGES.items()
        for link in _LINK.findall(strip_blocks(text))
        if not link.startswith(("https://", "mailto:"))
    ]


@pytest.mark.parametrize(("page", "link"), _links())
def test_a_link_leads_somewhere(page, link):
    name, _, anchor = link.partition("#")
    target = (ROOT / page).parent / name if name else ROOT / page
    assert target.resolve().is_relative_to(ROOT)
    assert target.exists(), f"{page} links to {link}"
    if anchor:
        assert anchor in find_anchors(target.read_text(encoding="utf-8")), f"{page} links to {link}"


def test_every_page_is_linked_from_the_readme():
    linked = {link.partition("#")[0] for page, link in _links() if page == "README.md"}
    assert {page for page in PAGES if page != "README.md"} <= linked


@pytest.mark.parametrize("page", [page for page in PAGES if page != GENERATED])
def test_every_flag_that_a_page_mentions_exists(page):
    known = _flags() | DASK | set().union(*OTHER_PROGRAMS.values())
    assert not sorted({*_FLAG.findall(PAGES[page])} - known)


def test_no_sentence_stands_in_two_places():
    places = collections.defaultdict(list)
    for page, text in PAGES.items():
        if page != GENERATED:
            for sentence in find_sentences(text):
                places[sentence].append(page)
    assert not {sentence: pages for sentence, pages in places.items() if len(pages) > 1}


def test_the_readme_is_short():
    assert 140 <= len(PAGES["README.md"].splitlines()) <= 180


def test_the_map_names_every_source_file_and_no_other():
    (table,) = re.findall(r"## Which file does what\n\n(.*?)\n\n", PAGES["docs/development.md"], re.DOTALL)
    named = set()
    for row in table.splitlines()[2:]:
        folder = PurePosixPath()
        for name in re.findall(r"`([^`]+\.(?:py|html\.j2))`", row.split("|")[2]):
            folder = PurePosixPath(name).parent if "/" in name else folder
            named.add(str(folder / PurePosixPath(name).name))
    present = {
        str(path.relative_to(ROOT))
        for package in ("pipeline", "components", "tfrecords")
        for path in (ROOT / package).rglob("*.py")
        if (path.name != "transforms.py" or path.parent.name == "components")
        and (path.name != "__init__.py" or "def " in path.read_text(encoding="utf-8"))
    }
    assert not sorted(present - named), "files that the map lacks"
    assert not sorted(named - present), "files that are not there"
