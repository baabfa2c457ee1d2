"""Benchmark of training: its speed, its bounds, and the time until each network recognises well.

    python benchmarks/training.py --images=../shared/data/captcha [--split_by=image] [--only=speed|race]
        [--models=ctc_conv,ocr_model_v1,crnn_v1] [--seeds=0] [--scratch=DIR]

`speed`: images a second of the input alone (decode, distort, pad), of the network alone on ready batches, and of the
training that has both, all measured now; and the share of the pixels that is padding.
`race`: each network trained and evaluated by the command itself, one after the other on the same dataset: seconds of
training until 95 % of the validation lines were recognised exactly, and what the others had reached in the seconds that
the first one took. Seconds count validation, not the start of the process. Beside each speed stand the microseconds of
processor time an image, and the share of the cores that other processes took meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout that this file lies in

from benchmarks.common import run_command
from benchmarks.machine import CORES, Rate, Usage, measure_usage

RECOGNISED_WELL = 0.95
GOAL_FASTER, GOAL_PADDING = 5, 0.15
WARM_UP_STEPS, TIMED_STEPS = 10, 60
ACCEPT_ALL = ("--max_cer=1", "--max_cer_regression=1")


def measure_speed(workspace: Path) -> None:
    """Measures the input, the network, and both."""
    import keras
    import numpy as np
    import tensorflow as tf

    from components.ctc.loss import compute_ctc_loss
    from components.training.data import load_examples, make_training_batches, shuffle_epoch
    from components.training.networks import NETWORKS
    from components.training.recipes import DEFAULT_MODEL, RECIPES
    from tfrecords import DatasetManifest

    folder = str(workspace / "datasets" / (workspace / "datasets" / "LATEST").read_text().strip())
    manifest = DatasetManifest.read(folder)
    examples = load_examples(folder, manifest, "train")
    recipe = RECIPES[DEFAULT_MODEL]
    widest = examples.widths[shuffle_epoch(examples.widths, recipe.batch_size, 0, 0)]
    padding = 1 - widest.sum() / (widest.max(axis=1).sum() * recipe.batch_size)

    steps = WARM_UP_STEPS + TIMED_STEPS
    batches = make_training_batches(
        examples,
        batch_size=recipe.batch_size,
        seed=0,
        steps=range(steps),
        replicas=range(1),
        replica_batch_size=recipe.batch_size,
        augment=recipe.augment,
    )
    ready: list[Any] = []
    input_alone = measure_steps(batches, ready.append, recipe.batch_size)

    keras.utils.set_random_seed(0)
    model = NETWORKS[DEFAULT_MODEL](manifest.read_charset(folder).classes, manifest.height, False)
    optimizer = keras.optimizers.AdamW(recipe.learning_rate)
    optimizer.build(model.trainable_variables)

    @tf.function(reduce_retracing=True)
    def step(images, widths, labels, label_lengths):
        with tf.GradientTape() as tape:
            outputs = model([images, widths], training=True)
            loss = tf.reduce_mean(compute_ctc_loss(outputs["logits"], outputs["time_steps"], labels, label_lengths))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    def run(source: Iterable[Any]) -> Rate:
        fields = ("images", "widths", "labels", "label_lengths")
        return measure_steps(source, lambda batch: step(*(batch[name] for name in fields)), recipe.batch_size)

    run(ready)  # traces every shape that is met
    network_alone, both = run(ready), run(batches)
    heading = f"images/s, {DEFAULT_MODEL}, lines of {np.mean(examples.widths):.0f} px; cpu: us an image"
    print(f"{heading:<54}{'figure':>9}{'cpu':>9}{'others':>8}")
    for name, rate in (("input alone", input_alone), ("network alone", network_alone), ("training", both)):
        print(f"{'  ' + name:<54}{rate.rate:>9,.0f}{rate.processor:>9,.0f}{rate.others:>8.0%}")
    met = "met" if padding < GOAL_PADDING else "MISSED"
    print(f"{'padding, of all pixels':<54}{padding:>9.1%}   below {GOAL_PADDING:.0%}: {met}\n")


def measure_steps(batches: Iterable[Any], step: Callable[[Any], object], images: int) -> Rate:
    """Measures the speed of steps over batches of so many images, without the first steps."""
    usage = Usage()
    with contextlib.ExitStack() as measured:
        for number, batch in enumerate(batches, 1):
            step(batch)
            if number == WARM_UP_STEPS:
                usage = measured.enter_context(measure_usage())
    return usage.make_rate(TIMED_STEPS * images)


def measure_race(workspace: Path, models: list[str], seeds: list[int]) -> None:
    """Measures the seconds until each network recognises well."""
    print(
        f"{'network':<16}{'seed':>5}{'seconds':>9}{'to 95 %':>9}{'exact then':>12}{'test exact':>12}{'test CER':>10}"
        f"{'slower':>8}{'others':>8}"
    )
    for seed in seeds:
        first: float | None = None
        for number, model in enumerate(models):
            run = run_command(workspace, "--steps=train,evaluate", f"--model={model}", f"--seed={seed}", *ACCEPT_ALL)
            folder = workspace / "models" / (workspace / "models" / "LATEST").read_text().strip()
            with open(folder / "history.csv", newline="", encoding="utf-8") as file:
                history = [(float(row["seconds"]), float(row["exact_match"])) for row in csv.DictReader(file)]
            evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
            reached = next((seconds for seconds, exact in history if exact >= RECOGNISED_WELL), None)
            if number == 0:
                first = reached
            then = max((exact for seconds, exact in history if first and seconds <= first), default=0.0)
            slower = f"{reached / first:.1f}x" if reached and first else "never"
            print(
                f"{model:<16}{seed:>5}{history[-1][0]:>9.0f}{reached or float('nan'):>9.0f}{then:>12.1%}"
                f"{evaluation['exact_match']:>12.1%}{evaluation['cer']:>10.2%}{slower:>8}{run.others:>8.0%}",
                flush=True,
            )
    print(f"\n'exact then': of the validation lines, when {models[0]} had recognised 95 % of them.")
    print(f"Goal: the reference network takes at least {GOAL_FASTER} times the seconds to 95 %.")


def main() -> None:
    """Runs the measurements that the flags ask for."""
    parser = argparse.ArgumentParser(description="Measure training.", allow_abbrev=False)
    parser.add_argument("--images", required=True, help="labelled images")
    parser.add_argument("--split_by", default="image", help="as the command has it (default: %(default)s)")
    parser.add_argument("--models", default="ctc_conv,ocr_model_v1,crnn_v1", help="for the race (default: %(default)s)")
    parser.add_argument("--seeds", default="0", help="for the race, comma separated (default: %(default)s)")
    parser.add_argument("--only", choices=("speed", "race"), help="one part")
    parser.add_argument("--scratch", help="where the temporary folder is made (default: the system's)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="training-", dir=options.scratch) as folder:
        workspace = Path(folder).resolve() / "workspace"
        run_command(workspace, "--steps=ingest", f"--images={options.images}", f"--split_by={options.split_by}")
        print(f"{CORES} cores\n")
        if options.only in (None, "speed"):
            measure_speed(workspace)
        if options.only in (None, "race"):
            measure_race(workspace, options.models.split(","), [int(seed) for seed in options.seeds.split(",")])


if __name__ == "__main__":
    main()
