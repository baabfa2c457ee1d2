"""The infer step by the command: what is read, what is marked, and what is said meanwhile."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from pipeline.engines.progress import watch_shards
from pipeline.exits import EXIT_DONE, EXIT_REFUSED, EXIT_USAGE
from pipeline.main import main
from tests.commands import make_workspace
from tfrecords import DatasetManifest, read_record_batches

ROOT = Path(__file__).parents[3]


@pytest.fixture
def workspace(tmp_path, tiny_dataset, tiny_model) -> Path:
    """A workspace with the tiny model in use and the dataset that it was made for."""
    return make_workspace(tmp_path / "ws", tiny_model, dataset=tiny_dataset)


def infer(workspace: Path, *flags: object) -> dict:
    """Reads with some flags; the manifest of the newest run."""
    assert main([f"--workspace={workspace}", "--steps=infer", *map(str, flags)]) == EXIT_DONE
    newest = max((workspace / "predictions").glob("*/*/_manifest.json"), key=lambda path: path.stat().st_mtime_ns)
    return json.loads(newest.read_text())


def rows(workspace: Path, run_id: str) -> list[dict]:
    pattern = f"{workspace}/predictions/*/run={run_id}/*.parquet"
    found = duckdb.sql(f"select * from read_parquet('{pattern}') order by uri")
    return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


@pytest.mark.parametrize("dataset_id", ["tinydataset0", "LATEST"])
def test_a_split_of_a_dataset_is_read_from_its_records_as_from_its_images(workspace, tiny_images, capsys, dataset_id):
    manifest = infer(workspace, f"--infer_images=dataset:{dataset_id}:test")
    assert (manifest["matched"], manifest["rows"], manifest["rejects"]) == (4, 4, {})
    from_records = rows(workspace, manifest["run_id"])

    dataset = DatasetManifest.read(str(workspace / "datasets" / "tinydataset0"))
    (shard,) = dataset.shards_of("test")
    (batch,) = read_record_batches(str(workspace / "datasets" / "tinydataset0" / shard.name))
    uris = batch.column(batch.schema.get_field_index("uri")).flatten().to_pylist()
    assert [row["uri"] for row in from_records] == sorted(uri.decode() for uri in uris)
    widths = batch.column(batch.schema.get_field_index("width")).flatten().to_pylist()
    assert sorted(row["width"] for row in from_records) == sorted(widths)
    for row in from_records:
        assert (row["height"], row["modified"].isoformat()) == (32, dataset.created_at)
        assert row["size_bytes"] > 50

    everything = infer(workspace, f"--infer_images={tiny_images}")
    by_uri = {row["uri"]: row for row in rows(workspace, everything["run_id"])}
    for row in from_records:
        assert row["text"] == by_uri[row["uri"]]["text"]
        assert row["confidence"] == pytest.approx(by_uri[row["uri"]]["confidence"], rel=1e-4)

    again = infer(workspace, f"--infer_images=dataset:{dataset_id}:test")
    assert again["run_id"] in {manifest["run_id"], everything["run_id"]}
    assert "it was there already" in capsys.readouterr().out
    assert len(list((workspace / "predictions").glob("*/*"))) == 2


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        ("dataset:tinydataset0", r"given as dataset:ID:SPLIT, such as dataset:LATEST:test; splits are train, valid"),
        ("dataset:tinydataset0:tests", r"given as dataset:ID:SPLIT"),
        ("dataset:nosuch:test", r"there is no dataset nosuch in .*ws$"),
    ],
)
def test_a_split_that_is_not_there_is_one_sentence(workspace, capsys, images, sentence):
    assert main([f"--workspace={workspace}", "--steps=infer", f"--infer_images={images}"]) == EXIT_REFUSED
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert re.search(rf"^error: --infer_images={images}: .*{sentence}", error)


def test_lines_of_another_height_than_the_model_s_are_refused_before_any_is_read(workspace, capsys):
    path = workspace / "datasets" / "tinydataset0" / "manifest.json"
    path.write_text(path.read_text().replace('"height": 32', '"height": 40'))
    status = main([f"--workspace={workspace}", "--steps=infer", "--infer_images=dataset:LATEST:test"])
    assert status == EXIT_REFUSED
    assert "its lines are 40 pixels high, but model tinymodel000 reads lines of 32" in capsys.readouterr().err


def test_rows_below_the_least_confidence_are_marked_and_none_is_left_out(workspace, tiny_images, capsys):
    plain = infer(workspace, f"--infer_images={tiny_images}")
    assert plain["needs_review"] == 0
    confidences = sorted(row["confidence"] for row in rows(workspace, plain["run_id"]))
    limit = float(f"{(confidences[9] + confidences[10]) / 2:.4g}")
    assert confidences[9] < limit < confidences[10]

    marked = infer(workspace, f"--infer_images={tiny_images}", f"--min_confidence={limit}", "--reread")
    assert marked["run_id"] != plain["run_id"]
    assert (marked["rows"], marked["needs_review"]) == (24, 10)
    for row in rows(workspace, marked["run_id"]):
        assert row["needs_review"] == (row["confidence"] < limit)
    assert f"10 below --min_confidence={limit:g} need a review" in capsys.readouterr().out


@pytest.mark.parametrize("value", ["-0.1", "1.5"])
def test_a_least_confidence_that_is_no_probability_is_refused(workspace, value, capsys):
    assert main([f"--workspace={workspace}", "--steps=infer", f"--min_confidence={value}"]) == EXIT_USAGE
    assert f"--min_confidence={value} must be from 0 to 1" in capsys.readouterr().err


def test_both_engines_read_the_same_and_the_run_says_which_it_was_and_why(workspace, tiny_images, tmp_path, capsys):
    texts = []
    for engine, said in (("onnx", "onnx (as asked for)"), ("tensorflow", "tensorflow (as asked for)")):
        manifest = infer(workspace, f"--infer_images={tiny_images}", f"--engine={engine}")
        figures = manifest["figures"]
        assert figures["engines"] == [said]
        assert said in capsys.readouterr().out
        page = max((workspace / "runs").glob("*.html"), key=lambda path: path.stat().st_mtime_ns).read_text()
        assert f"Engine: {said}; model loaded in" in page
        assert figures["batches"] >= 3  # of many widths
        assert 0 < figures["slowest_batch_s"] <= figures["scoring_s"] < figures["shard_s"] < 60
        assert figures["model_load_s"] > 0
        texts.append([row["text"] for row in rows(workspace, manifest["run_id"])])
        shutil.rmtree(workspace / "predictions")
    assert texts[0] == texts[1]


def test_a_beam_gives_other_texts_too_and_none_is_more_probable(workspace, tiny_images):
    greedy = infer(workspace, f"--infer_images={tiny_images}")
    beam = infer(workspace, f"--infer_images={tiny_images}", "--decoder=beam", "--beam_width=64")
    assert beam["run_id"] != greedy["run_id"]
    better = 0
    for row, plain in zip(rows(workspace, beam["run_id"]), rows(workspace, greedy["run_id"]), strict=True):
        assert row["uri"] == plain["uri"]
        assert row["confidence"] >= plain["confidence"] * (1 - 1e-4)
        better += row["text"] != plain["text"]
        texts = [row["text"], *(other["text"] for other in row["alternatives"])]
        assert 2 <= len(texts) == len(set(texts)) <= 64
        log_probabilities = [other["log_probability"] for other in row["alternatives"]]
        assert log_probabilities == sorted(log_probabilities, reverse=True)
        assert row["margin"] == pytest.approx(math.log(row["confidence"]) - log_probabilities[0], abs=1e-3)
        assert row["margin"] >= 0
        assert (plain["alternatives"], plain["margin"]) == ([], None)
    assert better  # the weights of the tiny model are random: the best path is often not the best text


def test_a_lexicon_lets_only_its_words_be_read(workspace, tiny_images, tmp_path, capsys):
    words = tmp_path / "words.txt"
    words.write_text("\ufeffabab0\n bab0 \n\n3b30\nxyz\nzz\n2\n", encoding="utf-8")
    manifest = infer(workspace, f"--infer_images={tiny_images}", "--decoder=lexicon", f"--lexicon={words}")
    said = capsys.readouterr().out
    assert f"4 words in {words}" in said
    assert "warning: 2 more words of it can never be read, such as 'xyz': the model was trained without x y z" in said
    found = rows(workspace, manifest["run_id"])
    assert len(found) == 24
    for row in found:
        texts = [row["text"], *(other["text"] for other in row["alternatives"])]
        assert set(texts) <= {"abab0", "bab0", "3b30", "2"}
        if len(texts) > 1:
            assert row["margin"] >= 0
    assert len({row["text"] for row in found}) > 1

    words.write_text("1231\n")  # another list is another run
    again = infer(workspace, f"--infer_images={tiny_images}", "--decoder=lexicon", f"--lexicon={words}")
    assert again["run_id"] != manifest["run_id"]
    assert {row["text"] for row in rows(workspace, again["run_id"])} <= {"1231", ""}


@pytest.mark.parametrize(
    ("flags", "status", "sentence"),
    [
        (["--decoder=lexicon"], EXIT_USAGE, "--decoder=lexicon and --lexicon=FILE go together"),
        (["--lexicon={words}"], EXIT_USAGE, "--decoder=lexicon and --lexicon=FILE go together"),
        (["--decoder=lexicon", "--lexicon={words}.gone"], EXIT_USAGE, "words.txt.gone is not a file"),
        (["--decoder=lexicon", "--lexicon={words}"], EXIT_REFUSED, "words.txt: the model's charset lacks symbols of"),
        (["--decoder=lexicon", "--lexicon={empty}"], EXIT_REFUSED, "empty.txt: the lexicon has no words"),
        (["--decoder=lexicon", "--lexicon={latin}"], EXIT_REFUSED, "latin.txt has to hold one word a line, in UTF-8"),
        (["--decoder=beam", "--beam_width=0"], EXIT_USAGE, "--beam_width=0 must be at least 1"),
    ],
)
def test_a_lexicon_that_cannot_be_used_is_one_sentence(
    workspace, tiny_images, tmp_path, capsys, flags, status, sentence
):
    files = {"words": b"xyz\n", "empty": b"\n  \n", "latin": "ü".encode("latin-1")}
    paths = {}
    for name, content in files.items():
        paths[name] = tmp_path / f"{name}.txt"
        paths[name].write_bytes(content)
    flags = [flag.format(**paths) for flag in flags]
    assert main([f"--workspace={workspace}", "--steps=infer", f"--infer_images={tiny_images}", *flags]) == status
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert sentence in error


def test_a_log_says_how_many_shards_are_done_how_fast_and_how_long_it_takes(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("pipeline.engines.progress._LOOK_EVERY_S", 0.05)
    monkeypatch.setattr("pipeline.engines.progress._LOG_EVERY_S", 0.05)
    caplog.set_level("INFO")
    (tmp_path / "00000.json").write_text("{}")  # of an earlier command
    with watch_shards(str(tmp_path), 4, 8000):
        while not any(line.startswith("1 of 4 shards") for line in caplog.messages):
            pass
        assert caplog.messages[-1] == "1 of 4 shards"  # nothing is known yet of how fast it goes
        for name in ("00001.json", "00003.json"):
            (tmp_path / name).write_text("{}")
        while "3 of 4" not in caplog.messages[-1]:
            pass
        for path in tmp_path.iterdir():  # as the commit does
            path.unlink()
        seen = len(caplog.messages)
        while len(caplog.messages) < seen + 3:
            pass
        assert all(line.startswith("3 of 4 shards") for line in caplog.messages[seen:])
    line = next(line for line in caplog.messages if line.startswith("3 of 4 shards"))
    rate, minutes, seconds = re.fullmatch(r"3 of 4 shards, ([\d,]+) images/s, (\d+):(\d\d) left", line).groups()
    left = 2000 / int(rate.replace(",", ""))
    assert int(minutes) * 60 + int(seconds) == pytest.approx(left, abs=1)


def test_a_log_gets_a_line_now_and_then(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("pipeline.engines.progress._LOOK_EVERY_S", 0.02)
    monkeypatch.setattr("pipeline.engines.progress._LOG_EVERY_S", 0.1)
    caplog.set_level("INFO")
    with watch_shards(str(tmp_path / "not there yet"), 3, 100):
        while len(caplog.messages) < 2:
            pass
    assert caplog.messages[0] == "0 of 3 shards"


def test_a_terminal_gets_a_bar_that_is_gone_at_the_end(tmp_path):
    program = (
        "import pathlib, sys, time\n"
        "from pipeline.engines import progress\n"
        "progress._LOOK_EVERY_S = 0.05\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "with progress.watch_shards(str(folder), 4, 8000):\n"
        "    time.sleep(0.3)\n"
        "    (folder / '00001.json').write_text('{}')\n"
        "    time.sleep(0.3)\n"
        "print('the end')\n"
    )
    leader, follower = pty.openpty()
    done = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=follower, cwd=ROOT)
    os.close(follower)
    shown = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while some := os.read(leader, 4096):
            shown += some
    os.close(leader)
    assert done.wait() == 0
    assert re.search(r"shards .*0/4", shown.decode())
    assert re.search(r"1/4  .*[\d,]+ images/s, \d+:\d\d left", shown.decode())
    assert shown.decode().rpartition("\x1b[2K")[2].endswith("the end\r\n")
