"""The check of promises about texts: are they kept in worlds that are drawn from readings whose labels are known?

    python benchmarks/promises.py --workspace=work/

Takes the held-out readings of the latest evaluated model. In each world, held-out lines are drawn from them (whole
groups, if the dataset was split by groups), with replacement. The promise that these lines make is held against all
readings, from which further lines would be drawn.
"""

from __future__ import annotations

import argparse
import os

import numpy as np

from components.evaluation.evaluate import EVALUATION_FOLDER, read_line_counts
from components.evaluation.promise import USUAL_TARGETS, describe_acceptance, make_promise
from components.metrics import LineCounts
from pipeline.workspace import LATEST, Workspace


def main() -> None:
    """Prints, for each target, how many worlds make a promise, how many keep it, and how many texts are accepted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--worlds", type=int, default=200)
    parser.add_argument("--lines", type=int, default=1000, help="held-out lines of a world, or about so many in groups")
    arguments = parser.parse_args()
    workspace = Workspace(arguments.workspace)
    model_id = workspace.read_pointer("models", LATEST)
    assert model_id is not None, f"no model in {arguments.workspace}"
    lines, names = read_line_counts(os.path.join(workspace.model(model_id), EVALUATION_FOLDER))
    _, groups = np.unique(np.array([name or "" for name in names.to_pylist()]), return_inverse=True)
    members = [np.flatnonzero(groups == group) for group in range(groups.max() + 1)]
    is_grouped = len(members) > 1
    units = members if is_grouped else [np.array([line]) for line in range(len(groups))]
    count = max(2, round(arguments.lines / (len(groups) / len(units))))
    drawn_of = f"{len(units):,} groups" if is_grouped else "single lines"
    wrong = lines.get_column("exact") == 0
    print(f"{len(wrong):,} readings, {wrong.mean():.2%} wrong; each world draws {count:,} of {drawn_of}")
    print("target   promised   kept   accepted on average")
    acceptances = []
    for world in range(arguments.worlds):
        chosen = np.random.default_rng(world).integers(0, len(units), count)
        picked = np.concatenate([units[unit] for unit in chosen])
        group = np.repeat(np.arange(count), [len(units[unit]) for unit in chosen]) if is_grouped else None
        acceptances.append(describe_acceptance(LineCounts(lines.counts[picked], lines.confidences[picked]), group))
    for target in USUAL_TARGETS:
        made, kept, accepted = 0, 0, 0.0
        for acceptance in acceptances:
            promise = make_promise(acceptance, target)
            if promise.threshold is None:
                kept += 1
                continue
            inside = lines.confidences >= np.float32(promise.threshold)
            made += 1
            kept += bool(wrong[inside].mean() <= target)
            accepted += inside.mean()
        share = accepted / made if made else 0.0
        print(f"{target:<8g} {made / arguments.worlds:>8.1%} {kept / arguments.worlds:>6.1%} {share:>10.1%}")


if __name__ == "__main__":
    main()
