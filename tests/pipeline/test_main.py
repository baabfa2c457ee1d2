"""The command as a person runs it: what it prints, what it leaves behind, and its exit status."""

import json
import os
import pathlib
import subprocess
import sys

import duckdb
import pandas
import pytest
from PIL import Image, ImageDraw, ImageFont

from pipeline.exits import EXIT_DONE, EXIT_REFUSED, EXIT_USAGE
from pipeline.main import main
from tests.commands import RUN_PIPELINE, run_python
from tests.docs.pages import find_blocks


def _write_lines(folder: pathlib.Path, labels: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for label in labels:
        image = Image.new("L", (24 * len(label) + 20, 40), 240)
        ImageDraw.Draw(image).text((10, 2), label, font=ImageFont.load_default(30), fill=20)
        image.save(folder / f"{label}.png")


def _labels(count: int) -> list[str]:
    return [f"{number:03d}{'AB' if number % 2 else 'C'}" for number in range(count)]


def _run(*argv: object, cwd: pathlib.Path | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(RUN_PIPELINE), *map(str, argv)], cwd=cwd, capture_output=True, text=True, timeout=1500
    )


def _error(capsys) -> str:
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, captured.err
    return errors[0]


def test_ingest_alone_commits_a_dataset_and_a_second_run_finds_it(tmp_path, capsys):
    _write_lines(tmp_path / "scans", _labels(60))
    command = ["--steps=ingest", f"--images={tmp_path / 'scans'}", f"--workspace={tmp_path / 'ws'}"]
    assert main(command) == EXIT_DONE
    assert "60 images matched, 60 written" in capsys.readouterr().out
    (dataset_id,) = [path.name for path in (tmp_path / "ws" / "datasets").iterdir() if path.is_dir()]
    assert (tmp_path / "ws" / "datasets" / "LATEST").read_text() == f"{dataset_id}\n"
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "ws" / "datasets" / dataset_id).iterdir()}

    assert main(command) == EXIT_DONE
    assert "it was there already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "ws" / "datasets" / dataset_id).iterdir()} == written
    assert not (tmp_path / "ws" / "unfinished").exists()


def test_a_changed_label_makes_another_dataset(tmp_path, capsys):
    _write_lines(tmp_path / "scans", _labels(40))
    command = ["--steps=ingest", f"--images={tmp_path / 'scans'}", f"--workspace={tmp_path / 'ws'}"]
    assert main(command) == EXIT_DONE
    first = (tmp_path / "ws" / "datasets" / "LATEST").read_text()
    (tmp_path / "scans" / "000C.png").rename(tmp_path / "scans" / "777C.png")
    assert main(command) == EXIT_DONE
    assert (tmp_path / "ws" / "datasets" / "LATEST").read_text() != first


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        ("train", "no dataset is committed in {ws}: run the ingest step first (--steps=ingest)"),
        ("evaluate", "no model is committed in {ws}: run the train step first (--steps=train)"),
        ("infer", "no model in {ws} has been accepted: run the train and evaluate steps first"),
    ],
)
def test_a_step_alone_says_what_is_missing(tmp_path, capsys, step, sentence):
    assert main([f"--steps={step}", f"--workspace={tmp_path}"]) == EXIT_REFUSED
    assert sentence.format(ws=tmp_path) in _error(capsys)


def test_a_folder_that_does_not_exist_is_named(tmp_path, capsys):
    missing = tmp_path / "nowhere"
    assert main(["--steps=ingest", f"--images={missing}", f"--workspace={tmp_path / 'ws'}"]) == EXIT_REFUSED
    assert f"--images: nothing matches '{missing}'" in _error(capsys)


@pytest.mark.parametrize("content", [{}, {"notes.txt": "no image", "table.csv": "a,b", ".hidden.png": "x"}])
def test_a_folder_without_images_is_named(tmp_path, capsys, content):
    (tmp_path / "scans").mkdir()
    for name, text in content.items():
        (tmp_path / "scans" / name).write_text(text)
    assert main(["--steps=ingest", f"--images={tmp_path / 'scans'}", f"--workspace={tmp_path / 'ws'}"]) == EXIT_REFUSED
    assert f"--images: there is not one image in {tmp_path / 'scans'}" in _error(capsys)


def test_rows_of_a_table_that_cannot_be_read_are_explained_where_the_run_is_refused(tmp_path, capsys):
    labels = _labels(20)
    _write_lines(tmp_path / "scans", labels)
    rows = [f"{label}.png,{label}{', and more' * (number % 2)},1" for number, label in enumerate(labels)]
    table = tmp_path / "scans" / "labels.csv"
    table.write_text("\n".join(["filename,words,page", *rows]))
    assert main(["--steps=ingest", f"--images={tmp_path / 'scans'}", f"--workspace={tmp_path / 'ws'}"]) == EXIT_REFUSED
    error = _error(capsys)
    assert "; labels without an image: 10 damaged_row, such as row " in error
    assert error.endswith(f" of {table}: it has 4 cells instead of 3: perhaps a text has a comma and is not quoted")


def test_a_text_file_named_png_becomes_a_rejects_row(tmp_path, capsys):
    _write_lines(tmp_path / "scans", _labels(60))
    (tmp_path / "scans" / "fake.png").write_text("this is no image")
    assert main(["--steps=ingest", f"--images={tmp_path / 'scans'}", f"--workspace={tmp_path / 'ws'}"]) == EXIT_DONE
    assert "61 images matched, 60 written" in capsys.readouterr().out
    rows = duckdb.sql(f"select uri, step, reason from '{tmp_path}/ws/datasets/*/rejects-*.parquet'").fetchall()
    assert rows == [(str(tmp_path / "scans" / "fake.png"), "ingest", "not_an_image")]


def test_too_many_rejects_commit_nothing_and_say_why(tmp_path, capsys):
    _write_lines(tmp_path / "scans", _labels(20))
    for number in range(4):
        (tmp_path / "scans" / f"fake{number}.png").write_text("this is no image")
    command = ["--steps=ingest", f"--images={tmp_path / 'scans'}", f"--workspace={tmp_path / 'ws'}"]
    assert main(command) == EXIT_REFUSED
    error = _error(capsys)
    assert "4 of 24 images (16.7%) were rejected (4 not_an_image), more than --max_reject_fraction=0.05" in error
    assert not (tmp_path / "ws" / "datasets").exists()
    assert main([*command, "--max_reject_fraction=0.2"]) == EXIT_DONE


def test_a_symbol_that_the_given_charset_lacks_becomes_a_rejects_row(tmp_path, capsys):
    _write_lines(tmp_path / "scans", [*_labels(60), "12Ж"])
    (tmp_path / "charset.txt").write_text("".join(f"{symbol}\n" for symbol in "0123456789ABC"))
    command = ["--steps=ingest", f"--images={tmp_path / 'scans'}", f"--workspace={tmp_path / 'ws'}"]
    assert main([*command, f"--charset={tmp_path / 'charset.txt'}"]) == EXIT_DONE
    rows = duckdb.sql(f"select reason, detail from '{tmp_path}/ws/datasets/*/rejects-*.parquet'").fetchall()
    assert rows == [("symbol_not_in_charset", "label '12Ж' has 'Ж': see --charset")]


def test_a_label_that_does_not_fit_is_refused_with_the_numbers(tmp_path, capsys):
    _write_lines(tmp_path / "scans", _labels(60))
    Image.new("L", (20, 40), 240).save(tmp_path / "scans" / "1122334455.png")
    assert main(["--steps=ingest", f"--images={tmp_path / 'scans'}", f"--workspace={tmp_path / 'ws'}"]) == EXIT_DONE
    ((reason, detail),) = duckdb.sql(
        f"select reason, detail from '{tmp_path}/ws/datasets/*/rejects-*.parquet'"
    ).fetchall()
    assert reason == "label_too_long"
    assert "is 10 symbols and needs 15 time steps (5 repeats), but the image is 24 px wide and gives 6" in detail


def test_a_bad_flag_exits_with_status_2_and_one_sentence(capsys):
    assert main(["--epoch=3"]) == EXIT_USAGE
    assert _error(capsys) == "error: unknown flag --epoch: did you mean --epochs?"


def test_a_failed_run_leaves_a_record_and_a_page_that_say_so(tmp_path, capsys):
    assert main(["--steps=train", f"--workspace={tmp_path}"]) == EXIT_REFUSED
    (record_path,) = (tmp_path / "runs").glob("*.json")
    record = json.loads(record_path.read_text())
    assert record["status"] == "failed"
    assert "no dataset is committed" in record["problems"][0]
    assert "no dataset is committed" in record_path.with_suffix(".html").read_text()


def _find_first_command() -> list[str]:
    """The flags of the first command of the README, which installs the project before."""
    (block, *_) = (block for block in find_blocks("sh") if block.page == "README.md")
    program, *flags = block.text.partition(" && .venv/bin/python ")[2].split()
    assert program == "run_pipeline.py"
    return flags


@pytest.mark.slow
def test_the_main_job_trains_reads_and_reports_on_its_own_sample(tmp_path):
    done = _run(*_find_first_command(), cwd=tmp_path)
    assert done.returncode == EXIT_DONE, done.stdout + done.stderr
    assert done.stderr == ""
    workspace = tmp_path / "workspace"

    assert "truth.tsv" not in done.stdout  # no warning about a file of its own making
    truth = pandas.read_csv(workspace / "sample" / "truth.tsv", sep="\t", dtype=str)
    truth = truth.assign(name=truth.path.map(os.path.basename), truth=truth.text).drop(columns=["path", "text"])
    read = duckdb.sql(
        f"select parse_filename(uri) as name, text, confidence, model_id, date, run from "
        f"read_parquet('{workspace}/predictions/**/*.parquet', hive_partitioning = true)"
    ).df()
    assert len(read) == len(truth) == 400
    both = read.merge(truth, on="name", validate="one_to_one")
    assert (both.text == both.truth).mean() >= 0.9
    assert both.confidence.between(0, 1).all()
    assert len(pandas.read_parquet(workspace / "predictions")) == 400

    (model_id,) = {*read.model_id}
    assert (workspace / "models" / "ACCEPTED").read_text().strip() == model_id
    trial = json.loads((workspace / "models" / model_id / "manifest.json").read_text())["int8"]
    assert (trial["lines"], trial["float_cer"]) == (88, pytest.approx(0, abs=0.05))
    (run,) = (workspace / "predictions").glob("*/*/_manifest.json")
    (engine,) = json.loads(run.read_text())["figures"]["engines"]
    assert engine.startswith("onnx-int8 (" if trial["layers"] else "onnx (")
    for name in (
        "plots/training_samples.png",
        "plots/distortions.png",
        "evaluation/predictions.png",
        "plots/curves.png",
    ):
        with Image.open(workspace / "models" / model_id / name) as picture:
            assert min(picture.size) > 300
    (page,) = (workspace / "runs").glob("*.html")
    content = page.read_text()
    assert content.count('<img src="data:image/png;base64,') >= 3 + 16
    assert "http://" not in content
    assert "https://" not in content
    assert str(page) in done.stdout
    assert "first rows of 400:" in done.stdout
    assert not (workspace / "unfinished").exists()

    # Each step alone finds what is committed, and the same request does nothing again.
    again = run_python(RUN_PIPELINE, *_find_first_command(), cwd=tmp_path)
    assert again.returncode == EXIT_DONE, again.stdout + again.stderr
    assert again.stdout.count("it was there already") == 2
    assert "nothing new: 400 images matched, all of which were read before" in again.stdout
    assert "epoch" not in again.stdout.replace("epochs on dataset", "")

    # A model that learned nothing is refused, and the accepted one goes on reading.
    refused = run_python(RUN_PIPELINE, "--steps=train,evaluate,infer", "--epochs=1", cwd=tmp_path)
    assert refused.returncode == EXIT_REFUSED
    assert "is above --max_cer=0.2" in refused.stderr
    assert (workspace / "models" / "ACCEPTED").read_text().strip() == model_id


@pytest.mark.slow
@pytest.mark.shared_data
def test_real_captchas_are_read_97_percent_exactly(tmp_path, shared_data):
    done = run_python(
        RUN_PIPELINE,
        "--runner=DirectRunner",
        f"--images={shared_data / 'captcha'}",
        f"--workspace={tmp_path}",
        f"--infer_images={shared_data / 'captcha'}",
    )
    assert done.returncode == EXIT_DONE, done.stdout + done.stderr
    evaluation = json.loads(next((tmp_path / "models").glob("*/evaluation.json")).read_text())
    assert evaluation["images"] > 80
    assert evaluation["exact_match"] >= 0.97
    ((images, exact),) = duckdb.sql(
        f"select count(*), count_if(text = parse_filename(uri, true)) from '{tmp_path}/predictions/*/*/*.parquet'"
    ).fetchall()
    assert images == 936
    assert exact / images >= 0.97


def test_a_collection_without_any_usable_label_is_refused_with_counts_and_an_example(tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(3):
        (images / f"{number}.png").write_bytes(b"any bytes")
    flags = [f"--images={images}", f"--workspace={tmp_path / 'ws'}", "--steps=ingest"]
    assert main([*flags, "--label_source=filename", "--label_pattern={label}_{id}"]) == 1
    said = capsys.readouterr().err
    assert "none of the 3 images in --images has a usable label (3 no_label)" in said
    assert f"{images}/0.png: its name, '0', is not like --label_pattern={{label}}_{{id}}" in said
    table = tmp_path / "labels.csv"
    table.write_text("path,text\nC:\\scans\\9.png,x\n")
    assert main([*flags, f"--label_source={table}"]) == 1
    said = capsys.readouterr().err
    assert "(3 no_label, 1 no_image)" in said
    assert f"{tmp_path}/C:\\scans\\9.png: row 2 of {table}: there is no such image" in said


# In a scheduler's cluster


def _tf_config(monkeypatch, *addresses: str, kind: str = "worker", index: int = 0) -> None:
    config = {"cluster": {"worker": list(addresses)}, "task": {"type": kind, "index": index}, "environment": "cloud"}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("steps", [[], ["--steps=ingest,train"], ["--steps=train,evaluate"]])
def test_nodes_that_train_together_may_do_nothing_else(tmp_path, capsys, monkeypatch, steps, index):
    _tf_config(monkeypatch, "a:1", "b:1", index=index)
    assert main([*steps, f"--workspace={tmp_path / 'ws'}"]) == EXIT_USAGE
    assert _error(capsys) == (
        "error: TF_CONFIG describes a cluster of 2 workers, which train together: give --steps=train to all of them, "
        "and run the other steps before and after, on one machine"
    )
    assert not (tmp_path / "ws").exists()


@pytest.mark.parametrize("index", [0, 1])
def test_nodes_that_train_together_start_one_worker_each(tmp_path, capsys, monkeypatch, index):
    _tf_config(monkeypatch, "a:1", "b:1", index=index)
    assert main(["--steps=train", "--train_workers=2", f"--workspace={tmp_path / 'ws'}"]) == EXIT_USAGE
    assert "--train_workers=2 is for one machine, but TF_CONFIG describes a cluster" in _error(capsys)
    assert not (tmp_path / "ws").exists()


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ("{", "TF_CONFIG={ is not what TensorFlow's documentation describes"),
        ('{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}}', "TF_CONFIG names tasks of the kind ps"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}', "names this task worker 1, but"),
    ],
)
def test_a_tf_config_that_cannot_be_followed_is_refused_before_anything_starts(
    tmp_path, capsys, monkeypatch, config, sentence
):
    monkeypatch.setenv("TF_CONFIG", config)
    assert main(["--steps=train", f"--workspace={tmp_path / 'ws'}"]) == EXIT_USAGE
    assert sentence in _error(capsys)
    assert not (tmp_path / "ws").exists()
    # Steps that do not train do not look at it.
    assert main(["--steps=evaluate", f"--workspace={tmp_path / 'ws'}"]) == EXIT_REFUSED
    assert "no model is committed" in _error(capsys)


@pytest.mark.parametrize(
    "flags", [["--steps=train"], ["--steps=train,evaluate,infer"], ["--steps=train", "--train_workers=2"]]
)
def test_one_node_alone_is_no_cluster(tmp_path, capsys, monkeypatch, flags):
    said = []
    for name in ("without", "with"):
        if name == "with":
            _tf_config(monkeypatch, "a:1")
        assert main([*flags, f"--workspace={tmp_path / 'ws'}"]) == EXIT_REFUSED
        said.append(_error(capsys))
    assert said[0] == said[1]
    assert "no dataset is committed" in said[0]


def test_a_node_that_only_helps_neither_holds_the_workspace_nor_reports(tmp_path, capsys, monkeypatch):
    _tf_config(monkeypatch, "a:1", "b:1", index=1)
    assert main(["--steps=train", f"--workspace={tmp_path / 'ws'}"]) == EXIT_REFUSED
    captured = capsys.readouterr()
    assert captured.out == f"workspace {tmp_path / 'ws'}, worker 1 of 2\n"
    assert captured.err.startswith("error: no dataset is committed")
    assert not (tmp_path / "ws").exists()


def test_no_thread_that_an_engine_leaves_behind_can_change_the_exit_status():
    """An abort at the interpreter's end stands for a thread that is within C++ then."""
    program = "import atexit, os, sys; atexit.register(os.abort); from pipeline.main import command; command()"
    for flags, status in ((["--help"], EXIT_DONE), (["--epochs=0"], EXIT_USAGE)):
        ended = run_python("-c", program, *flags, warm=False)  # the server's processes end in a way of their own
        assert ended.returncode == status
        assert ended.stdout + ended.stderr
