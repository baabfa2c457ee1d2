"""Options, markers and small committed artefacts that all tests share.

Nothing here imports TensorFlow before a fixture that needs it is asked for.
"""

from __future__ import annotations

import collections
import datetime
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from components.process_settings import prepare_process

prepare_process()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

LINE_HEIGHT = 32
TEMPERATURE = 1.25
"""Of the tiny model, so that a place that forgets it shows."""
TRAIN = (
    "11",
    "2",
    "1231",
    "3313",
    "b0b",
    "aab1",
    "c222",
    "0a",
    "12b3",
    "ccc",
    "a1b2c3",
    "3",
    "00",
    "b33a0",
    "1c",
    "a2",
)
VALIDATION = ("1a", "b22", "c0c0", "33")
TEST = ("0", "a11b", "2c3", "bb")
LABELS = TRAIN + VALIDATION + TEST


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests that train or start processes")
    parser.addoption(
        "--require-tools",
        action="store_true",
        default=bool(os.environ.get("REQUIRE_TOOLS")),
        help="fail the tests whose tools this machine lacks; or set REQUIRE_TOOLS=1",
    )
    parser.addoption("--airflow-python", metavar="PATH", help="the Python of an environment that has Airflow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    slow = pytest.mark.skip(reason="trains or starts processes for more than a few seconds: run with --slow")
    folder = _shared_data_folder(config)
    absent = pytest.mark.skip(reason=f"the real images are not there: {folder}")
    for item in items:
        if item.get_closest_marker("slow") and not config.getoption("--slow"):
            item.add_marker(slow)
        if item.get_closest_marker("shared_data") and not folder.is_dir():
            item.add_marker(absent)
    if hasattr(config, "workerinput"):
        from tests.scheduling import sort_longest_first

        sort_longest_first(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from tests.scheduling import FileScheduling

    return FileScheduling(config, log) if config.getvalue("dist") == "load" else None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test that this machine has no tool for; fails it with `--require-tools`."""
    for marker in item.iter_markers("tool"):
        reason = marker.args[0]() if callable(marker.args[0]) else find_missing_tool(*marker.args)
        if reason and item.config.getoption("--require-tools"):
            pytest.fail(f"{reason}, and --require-tools was given", pytrace=False)
        elif reason:
            pytest.skip(reason)


def find_missing_tool(*names: str) -> str | None:
    """Returns why none of these commands can be run, or None if one of them can."""
    if any(map(shutil.which, names)):
        return None
    return f"{names[0]} is not installed" if len(names) == 1 else f"none of {', '.join(names)} is installed"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Lists what was skipped, a line a reason."""
    places: dict[str, list[str]] = collections.defaultdict(list)
    for report in terminalreporter.stats.get("skipped", ()):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        places[reason.removeprefix("Skipped: ")].append(report.nodeid)
    if places:
        terminalreporter.section("skipped")
    for reason, tests in sorted(places.items(), key=lambda place: -len(place[1])):
        files = {test.partition("::")[0] for test in tests}
        where = tests[0] if len(tests) == 1 else min(files) if len(files) == 1 else f"{len(files)} files"
        terminalreporter.write_line(f"{len(tests)} {'test' if len(tests) == 1 else 'tests'}, {where}: {reason}")


def _shared_data_folder(config: pytest.Config) -> Path:
    return config.rootpath.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data(pytestconfig: pytest.Config) -> Path:
    """The folder of real images; use it in tests marked `shared_data`."""
    return _shared_data_folder(pytestconfig)


@pytest.fixture(scope="session")
def tiny_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 24 rendered lines, `00-11.png` to `23-bb.png`, each with its label in a `.txt` beside it."""
    folder = tmp_path_factory.mktemp("tiny-images")
    for number, text in enumerate(LABELS):
        _render(text, number).save(folder / f"{number:02d}-{text}.png")
        (folder / f"{number:02d}-{text}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_dataset(tiny_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed dataset of the tiny images: 16 lines to train on in two shards, 4 to validate, 4 to test.

    Widths differ, labels have 1 to 6 symbols of `0123abc`, half of them adjacent repeats.
    Never write into it: copy it first.
    """
    from components.ingest.dataset import IngestRequest, commit_dataset, describe_written_shard, write_training_shard
    from components.listing import LabelRules, list_images
    from tfrecords import Charset, ImageLimits

    folder = tmp_path_factory.mktemp("tiny-dataset")
    request = IngestRequest(
        dataset_id="tinydataset0",
        folder=str(folder / "unfinished"),
        destination=str(folder / "committed"),
        images=len(LABELS),
        shards={"train": 2, "validation": 1, "test": 1},
        height=LINE_HEIGHT,
        time_stride=4,
        charset=Charset.from_texts(LABELS),
        limits=ImageLimits(),
        max_reject_fraction=0.0,
    )
    references = list(list_images(str(tiny_images), LabelRules("sidecar")))
    summaries = [
        write_training_shard(shard, part, request)
        for shard, part in {
            ("train", 0): references[:9],
            ("train", 1): references[9:16],
            ("validation", 0): references[16:20],
            ("test", 0): references[20:],
        }.items()
    ]
    commit_dataset([next(describe_written_shard(summary, request))[1] for summary in summaries], request)
    return folder / "committed"


@pytest.fixture(scope="session")
def tiny_model(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed `ctc_conv` that never trained, but whose random weights make it read something on every line.

    Never write into it: copy it first.
    """
    import keras

    from components.recogniser.manifest import ModelManifest, describe_files
    from components.training.export import export_model
    from components.training.networks import build_ctc_conv
    from tfrecords import DatasetManifest

    dataset = DatasetManifest.read(str(tiny_dataset))
    charset = dataset.read_charset(str(tiny_dataset))
    keras.utils.set_random_seed(3)
    model = build_ctc_conv(charset.classes, dataset.height)
    kernel, bias = model.get_layer("logits").get_weights()
    spread = np.random.default_rng(1).normal(0, 3, kernel.shape)
    model.get_layer("logits").set_weights([spread, bias])

    folder = tmp_path_factory.mktemp("tiny-model")
    export_model(model, charset, dataset.height, str(folder), TEMPERATURE)
    (folder / "charset.txt").write_text(charset.to_file_text(), encoding="utf-8")
    ModelManifest(
        model_id="tinymodel000",
        dataset_id=dataset.dataset_id,
        model="ctc_conv",
        height=dataset.height,
        time_stride=dataset.time_stride,
        temperature=TEMPERATURE,
        charset_sha256=charset.digest,
        options={"model": "ctc_conv", "epochs": 0},
        files=describe_files(str(folder)),
        created_at=datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC).isoformat(),
    ).write(str(folder))
    return folder


@pytest.fixture
def workspace(tmp_path: Path, tiny_model: Path) -> Path:
    """A workspace with the tiny model in use."""
    from tests.commands import make_workspace

    return make_workspace(tmp_path / "ws", tiny_model)


@pytest.fixture(scope="session")
def label_loss() -> Callable[[np.ndarray, list[int]], float]:
    """Minus the log probability of a label given its logits [time, classes], in float64, blank last.

    A reference to hold the fast ones against: plain loops after Graves et al. 2006,
    equations 6 to 8, in logarithms.
    """
    return _label_loss


def _label_loss(logits: np.ndarray, label: list[int]) -> float:
    logits = np.asarray(logits, np.float64)
    log_y = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    steps, classes = logits.shape
    blank = classes - 1
    extended = [blank]  # l' in the paper: blanks at both ends and between all symbols
    for symbol in label:
        extended += [symbol, blank]
    alpha = np.full((steps, len(extended)), -np.inf)
    alpha[0, 0] = log_y[0, blank]
    if label:
        alpha[0, 1] = log_y[0, extended[1]]
    for t in range(1, steps):
        for s, symbol in enumerate(extended):
            total = alpha[t - 1, s]
            if s >= 1:
                total = np.logaddexp(total, alpha[t - 1, s - 1])
            if s >= 2 and symbol != blank and symbol != extended[s - 2]:
                total = np.logaddexp(total, alpha[t - 1, s - 2])
            alpha[t, s] = total + log_y[t, symbol]
    probability = alpha[-1, -1]
    if label:
        probability = np.logaddexp(probability, alpha[-1, -2])
    return -float(probability)


def _render(text: str, seed: int) -> Image.Image:
    """Dark text on a light ground, of its own size and place."""
    chooser = random.Random(seed)
    font = ImageFont.load_default(chooser.randint(24, 34))
    left, top, right, bottom = font.getbbox(text)
    margin = chooser.randint(4, 14)
    size = (round(right - left) + 2 * margin, round(bottom - top) + 12)
    image = Image.new("L", size, chooser.randint(200, 250))
    ImageDraw.Draw(image).text((margin - left, 6 - top), text, font=font, fill=chooser.randint(0, 60))
    return image
