"""What is refused before a job is sent anywhere, and in which words."""

from __future__ import annotations

import os
import socket

import pytest
from apache_beam.options.pipeline_options import SetupOptions

from pipeline.command_line import parse_options
from pipeline.engines import submission
from pipeline.engines.submission import check_submission
from pipeline.exits import EXIT_REFUSED, EXIT_USAGE
from pipeline.main import main
from pipeline.options import UsageError
from tfrecords import DataError

DATAFLOW = {
    "runner": "DataflowRunner",
    "project": "archive-1",
    "region": "europe-west3",
    "temp_location": "gs://a-bucket/temp",
    "workspace": "gs://a-bucket/ws",
    "images": "gs://a-bucket/images",
    "steps": "ingest",
    "sdk_container_image": "registry/line-reader:1",
}


def check(flags: dict[str, str | None]) -> None:
    check_submission(parse_options([f"--{name}={value}" for name, value in flags.items() if value is not None]))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"project": None}, "needs --project=ID"),
        ({"region": None}, "needs --region=NAME"),
        ({"temp_location": None}, "needs --temp_location=gs://BUCKET/FOLDER"),
        ({"temp_location": "/tmp"}, "--temp_location=/tmp is not a folder in a bucket"),
        ({"temp_location": "gs://a-bucket"}, "it has to look like gs://BUCKET/FOLDER"),
        ({"staging_location": "a-bucket/staging"}, "--staging_location=a-bucket/staging is not a folder in a bucket"),
        ({"workspace": None}, "--workspace=workspace is on this machine, where the workers of Dataflow cannot see it"),
        ({"images": "gs://a-bucket/images,scans"}, "--images=scans is on this machine"),
        ({"images": None}, "--images=gs://BUCKET/FOLDER is needed"),
        ({"steps": "infer", "infer_images": "night.csv"}, "--infer_images=night.csv is on this machine"),
        ({"decoder": "lexicon", "lexicon": __file__}, f"--lexicon={__file__} is on this machine"),
        ({"sdk_container_image": None}, "IMAGE, built with deploy/Dockerfile --target=worker"),
        ({"template_location": "gs://a-bucket/t/job"}, "a template is one job, which nobody waits for"),
        ({"runner": "dataflow", "project": None}, "needs --project=ID"),
        ({"runner": "apache_beam.runners.dataflow.dataflow_runner.DataflowRunner", "region": None}, "needs --region"),
        (
            {"runner": "DirectRunner", "template_location": "gs://a-bucket/t/job"},
            "is for --runner=DataflowRunner alone",
        ),
    ],
)
def test_what_dataflow_needs_is_said_before_anything_is_built(change, sentence, monkeypatch):
    monkeypatch.delenv("CLOUDSDK_COMPUTE_REGION", raising=False)
    with pytest.raises(UsageError) as refusal:
        check({**DATAFLOW, **change})
    assert sentence in str(refusal.value)


def test_a_label_table_on_this_machine_cannot_be_seen_by_dataflow(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("file,text\n")
    with pytest.raises(UsageError, match=f"--label_source={table} is on this machine"):
        check({**DATAFLOW, "label_source": str(table)})


def test_the_train_step_needs_nothing_of_an_engine():
    check({"runner": "DataflowRunner", "steps": "train"})


def test_a_setup_file_is_made_absolute_since_beam_fails_on_one_without_a_folder(tmp_path, monkeypatch):
    (tmp_path / "setup.py").touch()
    monkeypatch.chdir(tmp_path)
    options = parse_options(["--setup_file=setup.py"])
    check_submission(options)
    assert options.view_as(SetupOptions).setup_file == os.path.realpath(tmp_path / "setup.py")


@pytest.mark.parametrize("name", ["missing/setup.py", "pyproject.toml"])
def test_a_setup_file_that_is_none_is_refused(tmp_path, monkeypatch, name):
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"is not the setup\.py of a checkout of this project"):
        check({"setup_file": name})


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--runner=PortableRunner"], "needs --job_endpoint=HOST:PORT"),
        (["--runner=PortableRunner", "--job_endpoint=jobs"], "is not an address of the form HOST:PORT"),
    ],
)
def test_a_job_service_is_looked_for_first(flags, sentence):
    with pytest.raises(DataError) as refusal:
        check_submission(parse_options(flags))
    assert sentence in str(refusal.value)


@pytest.mark.parametrize("runner", ["PortableRunner", "FlinkRunner", "SparkRunner"])
def test_a_job_service_that_does_not_run_is_one_sentence(runner, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(submission, "_CONNECTING_S", 1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()  # and never says a word
        endpoint = f"127.0.0.1:{taken.getsockname()[1]}"
        status = main([f"--runner={runner}", f"--job_endpoint={endpoint}", f"--workspace={tmp_path}", "--steps=ingest"])
    assert status == EXIT_REFUSED
    assert f"--job_endpoint={endpoint}: no job service has answered there for 1 s" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_flags_that_cannot_be_end_the_command_as_others_do(tmp_path, capsys):
    assert main(["--runner=DataflowRunner", f"--workspace={tmp_path}"]) == EXIT_USAGE
    assert "needs --project=ID" in capsys.readouterr().err


@pytest.mark.parametrize("runner", ["FlinkRunner", "SparkRunner"])
def test_engines_with_a_job_server_in_java_say_that_it_is_missing(runner, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="with Java, which is not installed here"):
        check({"runner": runner})
