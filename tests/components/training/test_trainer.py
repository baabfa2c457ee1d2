"""The training loop: one worker and two must train the same, and what is refused before any step."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from components.ingest.dataset import IngestRequest, commit_dataset, describe_written_shard, write_training_shard
from components.listing import LabelRules, list_images
from components.training import cluster
from components.training.history import EpochRecord
from components.training.trainer import TrainingRequest, train
from tfrecords import Charset, DataError, DatasetManifest, ImageLimits, decode_png

# What `python -m components.training.worker` does, but with settings under which any number
# of workers must give the same weights: no dropout, no distortion, and plain gradient descent,
# because Adam hides a gradient of the wrong scale. Keeps the weights
# that this worker began and ended with.
PLAIN_WORKER = """
import dataclasses, json, os, sys
import keras, numpy as np
from components.training import trainer

with open(sys.argv[1]) as file:
    request = trainer.TrainingRequest(**json.load(file))
clip_norm = float(sys.argv[2])
task = json.loads(os.environ.get("TF_CONFIG", "{}")).get("task", {"index": 0})["index"]
models, starts = [], []

def plain(build):
    def build_plain(*arguments):
        model = build(*arguments)
        for layer in model.layers:
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0.0
        models.append(model)
        starts.append(model.get_weights())
        return model
    return build_plain

trainer.NETWORKS = {name: plain(build) for name, build in trainer.NETWORKS.items()}
plain_recipe = {"augment": False, "clip_norm": clip_norm}
trainer.RECIPES = {name: dataclasses.replace(r, **plain_recipe) for name, r in trainer.RECIPES.items()}
trainer._optimizer = lambda request, recipe, steps: keras.optimizers.SGD(
    keras.optimizers.schedules.CosineDecay(request.learning_rate, steps)
)
trainer.train(request)
folder = os.path.dirname(sys.argv[1])
for name, weights in (("start", starts[0]), ("end", models[0].get_weights())):
    np.savez(os.path.join(folder, f"{name}-{task}.npz"), *weights)
"""


@pytest.fixture(scope="module")
def one_width_dataset(tmp_path_factory) -> Path:
    """A dataset like the tiny one, but every line is 64 pixels wide."""
    texts = [f"{a}{b}{a}" for a in "01ab" for b in "0b3c"]
    return make_dataset(tmp_path_factory.mktemp("one-width"), texts, [64] * 16)


def make_dataset(folder: Path, texts: list[str], widths: list[int]) -> Path:
    """Noise with labels: a committed dataset with the train split alone."""
    from PIL import Image

    images = folder / "images"
    images.mkdir()
    chooser = np.random.default_rng(0)
    for number, (text, width) in enumerate(zip(texts, widths, strict=True)):
        Image.fromarray(chooser.integers(0, 256, (32, width), np.uint8)).save(images / f"{number:02d}.png")
        (images / f"{number:02d}.txt").write_text(text, encoding="utf-8")
    request = IngestRequest(
        dataset_id="noise",
        folder=str(folder / "unfinished"),
        destination=str(folder / "committed"),
        images=len(texts),
        shards={"train": 1, "validation": 1, "test": 1},
        height=32,
        time_stride=4,
        charset=Charset.from_texts(texts),
        limits=ImageLimits(),
        max_reject_fraction=0.0,
    )
    summary = write_training_shard(("train", 0), list(list_images(str(images), LabelRules("sidecar"))), request)
    commit_dataset([next(describe_written_shard(summary, request))[1]], request)
    return folder / "committed"


def train_plainly(fields, dataset: Path, folder: Path, workers: int, model: str, clip_norm: float):
    """Trains on a cluster of real processes; the weights with which each worker began and ended."""
    folder.mkdir()
    (folder / "model").mkdir()
    fields = fields(
        dataset,
        output_folder=str(folder / "model"),
        checkpoint_folder=str(folder / "checkpoints"),
        model=model,
        learning_rate=1e-3 if clip_norm > 1 else 0.1,
        seed=1,
    )
    (folder / "request.json").write_text(json.dumps(fields))
    addresses = [f"localhost:{port}" for port in cluster._free_ports(workers)] if workers > 1 else []
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PLAIN_WORKER, str(folder / "request.json"), str(clip_norm)],
            env=cluster._environment(addresses, index),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(workers)
    ]
    try:
        for process in processes:
            said, _ = process.communicate(timeout=240)
            assert process.returncode == 0, said
    finally:
        for process in processes:
            process.kill()
    return [(load_weights(folder / f"start-{i}.npz"), load_weights(folder / f"end-{i}.npz")) for i in range(workers)]


def load_weights(path: Path) -> list[np.ndarray]:
    with np.load(path) as saved:
        return [saved[f"arr_{i}"] for i in range(len(saved.files))]


def assert_same_weights(found: list[np.ndarray], wanted: list[np.ndarray], tolerance: float) -> None:
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dataset", "model", "clip_norm"),
    [
        pytest.param("one_width_dataset", "crnn", 1e9, id="crnn on lines of one width"),
        pytest.param("one_width_dataset", "crnn", 0.1, id="crnn on lines of one width with clipped gradients"),
        pytest.param("tiny_dataset", "crnn", 1e9, id="crnn on lines of many widths"),
        pytest.param("tiny_dataset", "crnn_v1", 1e9, id="crnn_v1 on lines of many widths"),
    ],
)
def test_two_workers_train_the_very_weights_that_one_trains(dataset, model, clip_norm, tmp_path, request, request_for):
    dataset = request.getfixturevalue(dataset)
    ((start, alone),) = train_plainly(request_for, dataset, tmp_path / "one", 1, model, clip_norm)
    (_, first), (_, second) = train_plainly(request_for, dataset, tmp_path / "two", 2, model, clip_norm)
    # Far enough that a gradient of half or twice the size would show.
    assert max(np.abs(after - before).max() for after, before in zip(alone, start, strict=True)) > 0.01
    assert_same_weights(first, second, 0)
    assert_same_weights(first, alone, 1e-4)


@pytest.mark.slow
def test_a_short_training_in_processes_writes_model_history_and_pictures(tiny_dataset, tmp_path, capfd, request_for):
    import keras
    import tensorflow as tf

    cluster.train_in_processes(request_for(tiny_dataset), str(tmp_path), workers=2)

    said = capfd.readouterr().out
    assert "2 workers with 1 CPU each" in said
    for epoch in ("epoch 1/3", "epoch 3/3"):
        assert said.count(epoch) == 1  # the chief alone speaks
    with open(tmp_path / "model" / "history.csv", newline="") as file:
        history = list(csv.DictReader(file))
    assert list(history[0]) == [field.name for field in dataclasses.fields(EpochRecord)]
    assert [int(row["epoch"]) for row in history] == [1, 2, 3]
    for row in history:
        assert all(math.isfinite(float(value)) for value in row.values())
        assert row["non_finite"] == "0"
    assert float(history[-1]["train_loss"]) < float(history[0]["train_loss"])
    for name in ("curves.png", "training_samples.png"):
        assert decode_png((tmp_path / "model" / "plots" / name).read_bytes()).shape[0] > 100
    loaded = keras.models.load_model(tmp_path / "model" / "model.keras")
    exported = tf.saved_model.load(str(tmp_path / "model" / "saved_model"))
    images, widths = tf.fill((2, 32, 60, 1), tf.constant(9, tf.uint8)), tf.constant([60, 31])
    wanted = loaded([images, widths])
    found = exported.score(images, widths)
    np.testing.assert_allclose(found["logits"][1, :8], wanted["logits"][1, :8], atol=1e-5)
    assert found["time_steps"].numpy().tolist() == [15, 8]


def test_labels_that_never_fit_a_network_of_fixed_width_are_refused_before_training(tmp_path, request_for):
    texts = ["01", "0" * 26, "0" * 25]  # 51 time steps are needed for the second, 49 for the third
    dataset = make_dataset(tmp_path, texts, [50, 400, 400])
    request = TrainingRequest(**request_for(dataset, model="crnn_v1", batch_size=2))
    wanted = r'--model=crnn_v1 gives 50 time steps, too few for 1 of 3 labels: "0{26}" of .*01\.png needs 51'
    with pytest.raises(DataError, match=wanted):
        train(request)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "model",
    ["crnn_v1", pytest.param("crnn", marks=pytest.mark.slow), pytest.param("ocr_model_v1", marks=pytest.mark.slow)],
)
def test_every_network_trains_with_its_own_recipe_and_without_a_validation_split(
    model, one_width_dataset, tmp_path, request_for
):
    assert DatasetManifest.read(str(one_width_dataset)).counts == {"train": 16, "validation": 0, "test": 0}
    fields = request_for(one_width_dataset, model=model, epochs=1, batch_size=16, learning_rate=1e-3)
    said: list[str] = []
    train(TrainingRequest(**fields), said.append)
    assert re.fullmatch(r"found no GPU and \d+ processor cores?: training on the CPU", said[0])
    assert "on 16 images for 1 epochs of 1 steps; 1 worker with 1 CPU each" in said[1]
    with open(tmp_path / "model" / "history.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["validation_loss"]) > 0
    assert float(row["cer"]) > 0
    assert 0 < float(row["learning_rate"]) < 1.001e-3
    assert (tmp_path / "model" / "saved_model" / "saved_model.pb").exists()


@pytest.mark.slow
def test_training_that_diverges_is_refused_with_the_way_out(one_width_dataset, tmp_path, request_for):
    request = TrainingRequest(**request_for(one_width_dataset, batch_size=16, learning_rate=1e30))
    with pytest.raises(DataError, match=r"training diverged in epoch \d.*lower --learning_rate"):
        train(request, lambda line: None)
    assert not (tmp_path / "model" / "model.keras").exists()


@pytest.mark.slow
def test_a_chief_that_a_scheduler_names_is_the_first_of_the_workers(tiny_dataset, tmp_path, request_for):
    (tmp_path / "request.json").write_text(json.dumps(request_for(tiny_dataset, epochs=1)))
    first, second = (f"localhost:{port}" for port in cluster._free_ports(2))
    processes = []
    for kind in ("chief", "worker"):
        config = {"cluster": {"chief": [first], "worker": [second]}, "task": {"type": kind, "index": 0}}
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "components.training.worker", str(tmp_path / "request.json")],
                env={**cluster._environment([], 0), "TF_CONFIG": json.dumps(config)},
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        )
    try:
        said = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0]
    assert "2 workers with 1 CPU each" in said[0]
    assert said[1] == ""  # it is not the chief
    assert (tmp_path / "model" / "model.keras").exists()
