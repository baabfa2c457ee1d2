"""The training loop: one worker and two must train the same, and what is refused before any step."""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest

from components.ingest.dataset import IngestRequest, commit_dataset, describe_written_shard, write_training_shard
from components.listing import LabelRules, list_images
from components.training import data, epochs, learner, networks, result, trainer
from components.training import launcher as cluster
from components.training.checkpoints import Checkpoints
from components.training.data import shuffle_epoch
from components.training.history import EpochRecord
from components.training.learner import copy_weights
from components.training.recipes import RECIPES
from components.training.request import TrainingRequest
from components.training.result import LEFT_OUT_NAME
from components.training.trainer import train
from components.training.watchdog import TrainingLost, Watchdog
from tests.fork_server import ForkedProcess
from tfrecords import Charset, DataError, DatasetManifest, ImageLimits, decode_png

# What `python -m components.training.worker` does, but with settings under which any number
# of workers must give the same weights: no dropout, no distortion, and plain gradient descent,
# because Adam hides a gradient of the wrong scale. Keeps the weights that this worker began and
# ended with, instead of a model.
PLAIN_WORKER = """
import dataclasses, json, os, sys
import keras, numpy as np
from components.training import learner, networks, trainer

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

networks.NETWORKS = {name: plain(build) for name, build in networks.NETWORKS.items()}
plain_recipe = {"augment": False, "clip_norm": clip_norm, "dropout_from_base": None}
learner.RECIPES = {name: dataclasses.replace(r, **plain_recipe) for name, r in learner.RECIPES.items()}
learner._make_optimizer = lambda request, recipe, steps: keras.optimizers.SGD(
    keras.optimizers.schedules.CosineDecay(request.learning_rate, steps)
)
trainer.write_model = lambda *arguments: None
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


@pytest.fixture
def without_export(monkeypatch) -> None:
    """Trainings in this process write everything but the exported model, which takes longer than they do."""
    monkeypatch.setattr(result, "export_model", lambda *_: None)


@pytest.fixture(scope="module")
def uneven_dataset(tmp_path_factory) -> Path:
    """One shard of 13 lines of many widths: the last batch of 8 is filled up with 3 lines of the first."""
    texts = [f"{a}{b}" for a in "01ab" for b in "0b3c"][:13]
    return make_dataset(tmp_path_factory.mktemp("uneven"), texts, [24 + 4 * number for number in range(13)])


def make_dataset(folder: Path, texts: list[str], widths: list[int], inverted: Collection[int] = ()) -> Path:
    """Noise with labels: a committed dataset with the train split alone."""
    from PIL import Image

    images = folder / "images"
    images.mkdir(parents=True)
    chooser = np.random.default_rng(0)
    for number, (text, width) in enumerate(zip(texts, widths, strict=True)):
        pixels = chooser.integers(0, 256, (32, width), np.uint8)
        Image.fromarray(~pixels if number in inverted else pixels).save(images / f"{number:02d}.png")
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


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What this project logged; TensorFlow and Keras log too."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("components.")]


def train_plainly(server: str, fields, dataset: Path, folder: Path, workers: int, model: str, clip_norm: float):
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
    addresses = [f"localhost:{port}" for port in cluster.find_free_ports(workers)] if workers > 1 else []
    processes = [
        ForkedProcess(
            server,
            [sys.executable, "-c", PLAIN_WORKER, str(folder / "request.json"), str(clip_norm)],
            env=cluster.make_environment(addresses, index),
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
        pytest.param("one_width_dataset", "ctc_conv", 0.1, id="ctc_conv on lines of one width with clipped gradients"),
        # Clipped, as in real life: without it, what rounding leaves grows on some processors.
        pytest.param("tiny_dataset", "ctc_conv", 0.1, id="ctc_conv on lines of many widths"),
        pytest.param("uneven_dataset", "ctc_conv", 1e9, id="ctc_conv on one shard, the batches not even"),
        # Clipped: its large kernels multiply what rounding leaves.
        pytest.param("tiny_dataset", "crnn_v1", 0.03, id="crnn_v1 on lines of many widths"),
    ],
)
def test_two_workers_train_the_very_weights_that_one_trains(
    dataset, model, clip_norm, tmp_path, request, request_for, training_server
):
    dataset = request.getfixturevalue(dataset)
    ((start, alone),) = train_plainly(training_server, request_for, dataset, tmp_path / "one", 1, model, clip_norm)
    (_, first), (_, second) = train_plainly(
        training_server, request_for, dataset, tmp_path / "two", 2, model, clip_norm
    )
    # Far enough that a gradient of half or twice the size would show.
    assert max(np.abs(after - before).max() for after, before in zip(alone, start, strict=True)) > 0.01
    assert_same_weights(first, second, 0)
    assert_same_weights(first, alone, 2e-4)  # batch normalisation is fused for one worker alone


@pytest.mark.slow
def test_a_short_training_in_processes_writes_model_history_and_pictures(
    tiny_dataset, tmp_path, capfd, request_for, warm_workers
):
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
    for name in ("curves.png", "training_samples.png", "distortions.png"):
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
    ["crnn_v1", pytest.param("ctc_conv", marks=pytest.mark.slow), pytest.param("ocr_model_v1", marks=pytest.mark.slow)],
)
def test_every_network_trains_with_its_own_recipe_and_without_a_validation_split(
    model, one_width_dataset, tmp_path, request_for, caplog
):
    assert DatasetManifest.read(str(one_width_dataset)).counts == {"train": 16, "validation": 0, "test": 0}
    fields = request_for(one_width_dataset, model=model, epochs=1, batch_size=16, learning_rate=1e-3)
    caplog.set_level(logging.INFO, "components")
    train(TrainingRequest(**fields))
    said = logged(caplog)
    assert re.fullmatch(r"found no GPU and \d+ processor cores?: training on the CPU", said[0])
    assert "on 16 images for 1 epochs of 1 steps; 1 worker with 1 CPU each" in said[1]
    with open(tmp_path / "model" / "history.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["validation_loss"]) > 0
    assert float(row["cer"]) > 0
    assert 0 < float(row["learning_rate"]) < 1.001e-3
    assert not (tmp_path / "model" / LEFT_OUT_NAME).exists()
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [line for line in warnings if not line.startswith("Collective ops")] == [said[-2]]
    assert said[-2].startswith("the model has not begun to read: its CER was never below ")
    assert (tmp_path / "model" / "saved_model" / "saved_model.pb").exists()


@pytest.mark.slow
def test_training_that_diverges_is_refused_with_the_way_out(one_width_dataset, tmp_path, request_for):
    request = TrainingRequest(**request_for(one_width_dataset, batch_size=16, learning_rate=1e30))
    with pytest.raises(DataError, match=r"training diverged in epoch \d.*lower --learning_rate"):
        train(request)
    assert not (tmp_path / "model" / "model.keras").exists()


# Starting from another model


def network(charset: Charset, height: int = 32, name: str = "ctc_conv", seed: int = 0):
    """An untrained network, whose every weight is its own."""
    import keras

    from components.training.networks import NETWORKS

    keras.utils.set_random_seed(seed)
    model = NETWORKS[name](charset.classes, height, False)
    chooser = np.random.default_rng(seed)
    model.set_weights([weights + chooser.normal(0, 0.01, weights.shape) for weights in model.get_weights()])
    return model


def logits_columns(model, charset: Charset) -> dict[str | None, np.ndarray]:
    """The kernel and bias of every symbol, and of the blank under None."""
    kernel, bias = model.get_layer("logits").get_weights()
    columns = np.concatenate([kernel, bias[None]])
    assert columns.shape[1] == len(charset.symbols) + 1
    return dict(zip((*charset.symbols, None), columns.T, strict=True))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("abc", "abcd", id="one more at the end"),
        pytest.param("bcd", "abcd", id="one more at the beginning"),
        pytest.param("abcd", "bd", id="two less"),
        pytest.param("acx", "abcyz", id="some more and one less"),
        pytest.param("ad", "abcd", id="two more in between"),
        pytest.param("ab", "xyz", id="nothing in common but the blank"),
        pytest.param("ab", "ab", id="the same"),
    ],
)
def test_a_start_from_another_model_keeps_what_it_knows_of_each_symbol(before, after, tmp_path):
    old_charset, charset = Charset(tuple(before)), Charset(tuple(after))
    old, model = network(old_charset, seed=1), network(charset, seed=2)
    fresh = logits_columns(model, charset)
    old.save(tmp_path / "old.keras")
    copy_weights(model, str(tmp_path / "old.keras"), old_charset.symbols, charset)

    known = logits_columns(old, old_charset)
    for symbol, column in logits_columns(model, charset).items():
        expected = known[symbol] if symbol in known else fresh[symbol]
        np.testing.assert_array_equal(column, expected, err_msg=str(symbol))
    for layer, old_layer in zip(model.layers, old.layers, strict=True):
        if layer.name != "logits":
            for found, wanted in zip(layer.get_weights(), old_layer.get_weights(), strict=True):
                np.testing.assert_array_equal(found, wanted, err_msg=layer.name)


def test_a_network_that_started_from_another_gives_the_logits_that_it_gave(tmp_path):
    """Those of known symbols and of the blank, at their new places."""
    old_charset, charset = Charset(("a", "c", "x")), Charset(("a", "b", "c"))
    old, model = network(old_charset, seed=1), network(charset, seed=2)
    old.save(tmp_path / "old.keras")
    copy_weights(model, str(tmp_path / "old.keras"), old_charset.symbols, charset)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 60, 1), np.uint8)
    inputs = [images, np.array([60, 33], np.int32)]
    wanted, found = (np.asarray(each(inputs, training=False)["logits"]) for each in (old, model))
    np.testing.assert_allclose(found[..., [0, 2, 3]], wanted[..., [0, 1, 3]], atol=1e-6)


@pytest.mark.parametrize(
    ("old_name", "old_height", "sentence"),
    [
        ("ocr_model_v1", 32, r"^the model in .*old\.keras is of another network than ctc_conv$"),
        ("ctc_conv_large", 32, r"^the model in .*old\.keras is of another network than ctc_conv$"),
        ("ctc_conv", 64, r"^the model in .*old\.keras is ctc_conv of another size than ctc_conv here$"),
    ],
)
def test_a_start_from_another_network_is_refused(old_name, old_height, sentence, tmp_path):
    charset = Charset(("a", "b"))
    network(charset, old_height, old_name).save(tmp_path / "old.keras")
    with pytest.raises(DataError, match=sentence):
        copy_weights(network(charset), str(tmp_path / "old.keras"), charset.symbols, charset)


# Losses that are not finite


def model_that_never_reads(symbol: str, dataset: Path, path: Path, name: str) -> dict:
    """A start from which a symbol is so improbable that the loss of every label with it is infinite.

    What a training request says of it.
    """
    charset = DatasetManifest.read(str(dataset)).read_charset(str(dataset))
    model = network(charset, name=name)
    kernel, bias = model.get_layer("logits").get_weights()
    bias[charset.encode(symbol)[0]] = -1e4
    model.get_layer("logits").set_weights([kernel, bias])
    model.save(path)
    return {"init_from": str(path), "init_symbols": list(charset.symbols), "model": name}


def step_of_descent(black_pixel: bool, clip_norm: float):
    """One step of plain descent, at rate 1, on three lines; the label of the second does not fit its two time steps.

    The kernel's and bias' change, what the step returned, and the gradient of the two other lines' losses, summed,
    a third of it. A black pixel gives logits that are no numbers.
    """
    import keras
    import tensorflow as tf

    from components.ctc.loss import compute_ctc_loss
    from components.training.learner import _make_training_step

    keras.utils.set_random_seed(3)
    images, widths = keras.Input((8, None, 1)), keras.Input((), dtype="int32")
    darkness = keras.ops.log(keras.layers.Rescaling(1 / 255)(images))
    logits = keras.layers.Dense(4)(keras.ops.mean(darkness, axis=1))
    model = keras.Model([images, widths], {"logits": logits, "time_steps": widths})
    optimizer = keras.optimizers.SGD(1.0)
    optimizer.build(model.trainable_variables)
    batch = {
        "images": np.random.default_rng(0).integers(1, 255, (3, 8, 6, 1), np.uint8),
        "widths": np.array([6, 2, 5], np.int32),
        "labels": np.array([[0, 1], [1, 1], [2, 0]], np.int32),
        "label_lengths": np.array([2, 2, 1], np.int32),
        "indices": np.array([40, 41, 42], np.int32),
    }
    if black_pixel:
        batch["images"][0, 3, 3] = 0
    others = {name: values[[0, 2]] for name, values in batch.items()}
    with tf.GradientTape() as tape:
        outputs = model([others["images"], others["widths"]])
        losses = compute_ctc_loss(outputs["logits"], outputs["time_steps"], others["labels"], others["label_lengths"])
        loss = tf.reduce_sum(losses)
    gradients = [gradient.numpy() / 3 for gradient in tape.gradient(loss, model.trainable_variables)]
    before = model.get_weights()
    step = _make_training_step(tf.distribute.get_strategy(), model, optimizer, 3, clip_norm)
    returned = [value.numpy() for value in step(iter(tf.data.Dataset.from_tensors(batch)))]
    changes = [after - weights for after, weights in zip(model.get_weights(), before, strict=True)]
    return changes, returned, gradients, loss.numpy()


@pytest.mark.parametrize("clip_norm", [math.inf, 0.01])
def test_a_step_follows_the_gradient_of_the_finite_losses_alone(clip_norm):
    changes, (loss, finite, left_out), gradients, wanted_loss = step_of_descent(False, clip_norm)
    assert loss == pytest.approx(wanted_loss, rel=1e-5)
    assert (finite, left_out.tolist()) == (2, [-1, 41, -1])
    norm = math.sqrt(sum((gradient**2).sum() for gradient in gradients))
    assert norm > 0.1
    for change, gradient in zip(changes, gradients, strict=True):
        np.testing.assert_allclose(change, -gradient * min(1, clip_norm / norm), atol=1e-6)


def test_a_step_whose_gradient_is_not_finite_changes_nothing_and_leaves_out_the_whole_batch():
    changes, (loss, finite, left_out), _, _ = step_of_descent(True, 5.0)
    assert all((change == 0).all() for change in changes)
    assert (loss, finite, left_out.tolist()) == (0, 0, [40, 41, 42])


def last_state(request: dict) -> dict[str, np.ndarray]:
    """Every array of a training's last checkpoint: weights, optimiser and seeds, and the best weights."""
    checkpoint = Checkpoints(request["checkpoint_folder"]).find_latest()
    assert checkpoint is not None
    return dict(checkpoint.arrays)


def last_weights(request: dict) -> list[np.ndarray]:
    """The weights with which a training ended, as a network has them."""
    state = last_state(request)
    weights = [state[f"model/{i}"] for i in range(sum(name.startswith("model/") for name in state))]
    return [array for array in weights if array.dtype == np.float32]  # the others are seeds


def history_of(request: dict) -> list[dict[str, str]]:
    with open(Path(request["output_folder"]) / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_an_example_without_a_finite_loss_leaves_no_trace_in_the_weights_but_is_named(
    tmp_path, request_for, without_export, caplog
):
    """The same training with other images and labels in its place ends with the very same weights, and Adam's state.

    `ocr_model_v1` has no batch normalisation, through which the image could have an influence that is not the loss's.
    """
    import keras

    requests = []
    for name, one, other, inverted in (("first", "0c", "c1", ()), ("second", "cc", "1c0", (1, 4))):
        dataset = make_dataset(tmp_path / name, ["01", one, "1", "00", other, "0"], [64] * 6, inverted)
        request = request_for(
            dataset,
            **model_that_never_reads("c", dataset, tmp_path / "start.keras", "ocr_model_v1"),
            batch_size=3,
            epochs=2,
            output_folder=str(tmp_path / name / "model"),
            checkpoint_folder=str(tmp_path / name / "checkpoints"),
        )
        train(TrainingRequest(**request))
        images = [str(tmp_path / name / "images" / image) for image in ("01.png", "04.png")]
        assert json.loads((tmp_path / name / "model" / LEFT_OUT_NAME).read_text()) == images
        assert logged(caplog)[-1] == (
            "2 images had a loss or a gradient that was not finite and were left out of those steps; "
            f"left_out.json beside the model lists them: {images[0]}, {images[1]}"
        )
        for row in history_of(request):
            assert row["non_finite"] == "2"
            assert 0 < float(row["train_loss"]) < 1000
            assert 0 < float(row["validation_loss"]) < 1000
        requests.append(request)
    first, second = map(last_state, requests)
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert np.isfinite(array).all()
        np.testing.assert_array_equal(array, second[name], err_msg=name)
    # The others did leave a trace.
    start = keras.saving.load_model(tmp_path / "start.keras").get_weights()
    for before, after in zip(start, last_weights(requests[0]), strict=True):
        assert np.abs(after - before).max() > 1e-4


@pytest.mark.slow
def test_the_chief_names_the_examples_that_any_worker_left_out(tmp_path, request_for, capfd, warm_workers):
    warm_workers.skip_export()
    texts = [symbol + other for symbol in "c0" for other in "01ab01ab"]
    dataset = make_dataset(tmp_path / "noise", texts, [64] * 16)
    start = model_that_never_reads("c", dataset, tmp_path / "start.keras", "ctc_conv")
    request = request_for(dataset, **start, batch_size=8, epochs=1)
    shares = np.split(shuffle_epoch(np.full(16, 64, np.int32), 8, request["seed"], 0), 2, axis=1)
    left_out_by_worker = [sorted(i for i in share.flat if i < 8) for share in shares]
    assert all(left_out_by_worker)  # each worker meets some, and no two the same
    cluster.train_in_processes(request, str(tmp_path / "work"), workers=2)
    uris = json.loads((tmp_path / "model" / LEFT_OUT_NAME).read_text())
    assert uris == [str(tmp_path / "noise" / "images" / f"{number:02d}.png") for number in range(8)]
    said = capfd.readouterr().out
    assert said.count("warning: 8 images had a loss or a gradient that was not finite") == 1
    assert f"{uris[0]}, {uris[1]}, {uris[2]}, …" in said
    (row,) = history_of(request)
    assert row["non_finite"] == "8"
    assert math.isfinite(float(row["train_loss"]))
    assert all(np.isfinite(array).all() for array in last_state(request).values())


@pytest.mark.slow
def test_a_shard_that_is_damaged_while_its_lines_are_trained_on_is_named(
    tiny_dataset, tmp_path, request_for, without_export, monkeypatch
):
    monkeypatch.setattr(data, "_LINES_AT_A_TIME", 16)  # so that most are not read before they are damaged
    dataset = shutil.copytree(tiny_dataset, tmp_path / "dataset")

    class Damage(Watchdog):
        signs = 0

        def report_alive(self) -> None:
            self.signs += 1
            if self.signs == 8:  # as the first epoch is validated
                for path in dataset.glob("train-*"):
                    with open(path, "r+b") as file:
                        file.seek(300)
                        file.write(bytes(path.stat().st_size - 400))

    refusal = r"/dataset/train-\d+-of-00002\.tfrecord\.gz has changed since the training read it first: .*ingest"
    with pytest.raises(DataError, match=refusal):
        train(TrainingRequest(**request_for(dataset, epochs=20)), Damage(1))


@pytest.mark.slow
def test_a_wish_to_end_is_heard_while_validation_lines_are_read(
    tiny_dataset, tmp_path, request_for, without_export, caplog
):
    """They may take longer than a scheduler waits. What then goes on ends as if nothing had been."""

    class Wish(Watchdog):
        signs = 0

        def report_alive(self) -> None:
            self.signs += 1
            # Two limits, three shards that are indexed, two steps, and the first batch of validation lines.
            self.asked_to_end = self.signs == 8

    undisturbed = request_for(
        tiny_dataset,
        output_folder=str(tmp_path / "undisturbed" / "model"),
        checkpoint_folder=str(tmp_path / "undisturbed" / "checkpoints"),
    )
    train(TrainingRequest(**undisturbed))
    request = request_for(tiny_dataset)
    with pytest.raises(TrainingLost, match="was asked to end by SIGTERM"):
        train(TrainingRequest(**request), Wish(1))
    stopped = Checkpoints(request["checkpoint_folder"]).find_latest()
    assert (stopped.step, stopped.facts["history"]) == (2, [])  # the epoch is trained, and not yet closed
    caplog.set_level(logging.INFO, "components")
    train(TrainingRequest(**request))
    assert "resuming from the checkpoint of step 2 (epoch 1)" in logged(caplog)
    assert [row["epoch"] for row in history_of(request)] == ["1", "2", "3"]
    for found, wanted in zip(last_weights(request), last_weights(undisturbed), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


# When training ends, with which weights, and in which precision


@pytest.mark.slow
def test_a_training_that_ends_early_keeps_the_weights_of_the_epoch_that_was_best(
    tiny_dataset, tmp_path, request_for, monkeypatch, caplog
):
    """Those are what a training of just so many epochs ends with, as `crnn_v1` learns at a constant rate."""
    import keras

    for module in (trainer, epochs):  # as if the others were worse
        monkeypatch.setattr(module, "choose_best_epoch", lambda history: min(2, len(history)))
    changes = {"model": "crnn_v1", "learning_rate": 0.02, "batch_size": 4}
    patient = request_for(tiny_dataset, **changes, epochs=200, patience=1)
    caplog.set_level(logging.INFO, "components")
    train(TrainingRequest(**patient))
    history = [{name: float(value) for name, value in row.items()} for row in history_of(patient)]
    assert 2 < len(history) < 200
    assert logged(caplog)[-1] == (
        f"trained for {history[-1]['seconds']:.0f} s; kept the weights of epoch 2, with a CER of "
        f"{history[1]['cer']:.2%}; stopped after epoch {len(history)}: none was better for 1 epochs"
    )
    monkeypatch.setattr(result, "export_model", lambda *_: None)
    short = request_for(
        tiny_dataset,
        **changes,
        epochs=2,
        output_folder=str(tmp_path / "short" / "model"),
        checkpoint_folder=str(tmp_path / "short" / "checkpoints"),
    )
    train(TrainingRequest(**short))
    assert "stopped" not in logged(caplog)[-1]
    kept = keras.saving.load_model(tmp_path / "model" / "model.keras").get_weights()
    for found, wanted in zip(kept, last_weights(short), strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert any((found != wanted).any() for found, wanted in zip(kept, last_weights(patient), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["ctc_conv", "crnn_v1", "ocr_model_v1"])
def test_a_network_trained_in_half_precision_is_kept_and_read_in_single(model, tiny_dataset, tmp_path, request_for):
    import keras
    import tensorflow as tf

    request = request_for(tiny_dataset, model=model, epochs=2, precision="mixed_bfloat16")
    train(TrainingRequest(**request))
    for row in history_of(request):
        assert row["non_finite"] == "0"
        assert all(math.isfinite(float(value)) for value in row.values())
    assert keras.config.dtype_policy().name == "float32"  # left as it was
    state = last_state(request)
    assert {array.dtype for name, array in state.items() if name.startswith(("model/", "best/"))} <= {
        np.dtype(np.float32),
        np.dtype(np.int64),  # seeds
    }
    loaded = keras.saving.load_model(tmp_path / "model" / "model.keras")
    assert {layer.dtype_policy.name for layer in loaded.layers} <= {"float32", "int32"}
    charset = DatasetManifest.read(str(tiny_dataset)).read_charset(str(tiny_dataset))
    reader = network(charset, name=model)
    reader.set_weights([state[f"best/{i}"] for i in range(len(reader.weights))])
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 64, 1), np.uint8)
    widths = np.array([64, 40, 9], np.int32)
    wanted = np.asarray(reader([images, widths], training=False)["logits"])
    assert wanted.dtype == np.float32
    saved = tf.saved_model.load(str(tmp_path / "model" / "saved_model"))
    for found in (loaded([images, widths], training=False), saved.score(tf.constant(images), tf.constant(widths))):
        assert found["logits"].dtype == tf.float32
        # bfloat16 has 8 bits: had it any part in this, the difference would be a hundred times larger.
        np.testing.assert_allclose(found["logits"], wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_the_logits_of_every_network_are_computed_in_single_precision_whatever_the_rest():
    import keras

    from components.training.networks import NETWORKS

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        for build in NETWORKS.values():
            model = build(5, 32, False)
            outputs = model([np.zeros((1, 32, 40, 1), np.uint8), np.array([40], np.int32)], training=False)
            assert outputs["logits"].dtype == "float32"
            assert {weight.dtype for weight in model.weights} == {"float32"}
            assert any(layer.compute_dtype == "bfloat16" for layer in model.layers)
    finally:
        keras.config.set_dtype_policy(before)


@pytest.mark.slow
def test_the_same_request_trains_the_same_weights_to_the_bit_and_another_seed_others(
    tiny_dataset, tmp_path, request_for, warm_workers
):
    """With dropout and distortions, each training in a process of its own."""
    warm_workers.skip_export()
    states = []
    for name, seed in (("once", 0), ("again", 0), ("other", 2**32 - 1)):
        request = request_for(
            tiny_dataset,
            seed=seed,
            output_folder=str(tmp_path / name / "model"),
            checkpoint_folder=str(tmp_path / name / "checkpoints"),
        )
        cluster.train_in_processes(request, str(tmp_path / name), workers=1)
        states.append(last_state(request))
    once, again, other = states
    assert once.keys() == again.keys() == other.keys()
    for name, array in once.items():
        np.testing.assert_array_equal(array, again[name], err_msg=name)
    kernels = [name for name, array in once.items() if name.startswith("model/") and array.ndim > 1]
    assert len(kernels) >= 9
    for name in kernels:
        assert np.abs(once[name] - other[name]).max() > 0.01, name


@pytest.mark.parametrize(
    ("from_base", "few", "share"),
    [(True, 17, RECIPES["ctc_conv"].dropout_from_base), (True, 16, 0.1), (False, 17, 0.1)],
)
def test_from_the_base_weights_on_few_images_more_values_are_dropped_out_and_the_exported_network_is_the_usual_one(
    one_width_dataset, request_for, without_export, monkeypatch, from_base, few, share
):
    import keras

    built = []
    build = networks.NETWORKS["ctc_conv"]
    monkeypatch.setitem(networks.NETWORKS, "ctc_conv", lambda *arguments: built.append(build(*arguments)) or built[-1])
    monkeypatch.setattr(learner, "FEW_IMAGES", few)
    train(TrainingRequest(**request_for(one_width_dataset, epochs=1, batch_size=16, from_base=from_base)))
    trained, exported = [
        {layer.rate for layer in network.layers if isinstance(layer, keras.layers.Dropout)} for network in built[:2]
    ]
    assert (trained, exported) == ({share}, {0.1})
