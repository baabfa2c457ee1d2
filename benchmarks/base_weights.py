"""The base weights: networks trained on rendered lines, from which trainings with few labels start.

    python benchmarks/base_weights.py --network=ctc_conv --workspace=DIR [--fonts=DIR] [--output=DIR]

renders random texts in every font of `/usr/share/fonts`, trains a network on them, and writes what a training can
start from to `components/training/base/NETWORK`. It takes half an hour on two cores. The fonts were those of Debian's
packages in `docs/few-labels.md`.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout that this file lies in

import numpy as np

from benchmarks.common import ROOT, run_command
from components.recogniser.manifest import KERAS_NAME, ModelManifest, describe_files
from tfrecords import storage
from tfrecords.manifest import CHARSET_NAME

_CAPITALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SMALL = _CAPITALS.lower()
_DIGITS = "0123456789"
_MARKS = ".,:;-/()'\"!?&%+#*=§"
_VIETNAMESE = "ăâđêôơưáàảãạấầẩẫậắằẳẵặéèẻẽẹếềểễệíìỉĩịóòỏõọốồổỗộớờởỡợúùủũụứừửữựýỳỷỹỵ"
_EUROPEAN = "äöüßéèêëàâçîïôœùûñíóúæøåſ"
_ACCENTED = _VIETNAMESE + _VIETNAMESE.upper() + _EUROPEAN + "ÄÖÜÉÈÀÇÆØÅ"
_CODES = (_DIGITS, _SMALL + _DIGITS, _CAPITALS + _DIGITS, _CAPITALS + _SMALL + _DIGITS)
_EVERYTHING = _CAPITALS + _SMALL + _DIGITS + _MARKS + _ACCENTED


@dataclasses.dataclass(frozen=True)
class Kind:
    """The lines that a network is trained on.

    Attributes:
        codes: share of texts that are codes; of the others, most are made of words.
        words: fewest and most words of a text.
        count: lines.
        epochs: passes over them.
    """

    codes: float
    words: tuple[int, int]
    count: int
    epochs: int


KINDS = {
    "ctc_conv": Kind(codes=0.65, words=(1, 3), count=40_000, epochs=10),
    "ctc_conv_context": Kind(codes=0.1, words=(3, 10), count=20_000, epochs=6),
}


def make_texts(kind: Kind, seed: int = 0) -> list[str]:
    """Makes random texts: codes, words with marks behind them, and strings of all symbols."""
    chooser = np.random.default_rng(seed)

    def draw(symbols: str, fewest: int, most: int) -> str:
        return "".join(symbols[i] for i in chooser.integers(0, len(symbols), chooser.integers(fewest, most + 1)))

    def make_word() -> str:
        accents = _VIETNAMESE + _EUROPEAN if chooser.random() < 0.4 else ""
        word = draw(_SMALL * 4 + accents, 1, 8)
        if chooser.random() < 0.3 and len(word[0].upper()) == 1:
            word = word[0].upper() + word[1:]
        return word + (draw(_MARKS, 1, 1) if chooser.random() < 0.2 else "")

    def make_text() -> str:
        if chooser.random() < kind.codes:
            return draw(_CODES[chooser.integers(len(_CODES))], 2, 12)
        if chooser.random() < 0.2:
            return draw(_EVERYTHING, 4, 4 * kind.words[1])
        words = [make_word() for _ in range(chooser.integers(kind.words[0], kind.words[1] + 1))]
        if kind.codes < 0.5 and chooser.random() < 0.5:
            words[chooser.integers(len(words))] = draw(_DIGITS, 1, 6)
        return " ".join(words)

    return [make_text() for _ in range(kind.count)]


def copy_start(model: str, folder: str) -> None:
    """Copies what a training can start from, out of a model's folder: the Keras file, the charset and a manifest."""
    manifest = ModelManifest.read(model)
    storage.remove_folder(folder)
    for name in (KERAS_NAME, CHARSET_NAME):
        storage.copy_file(storage.join(model, name), storage.join(folder, name))
    dataclasses.replace(manifest, files=describe_files(folder), language_model=None).write(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes the weights of one network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=KINDS, required=True)
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--fonts", default="/usr/share/fonts")
    parser.add_argument("--output", default=str(ROOT / "components" / "training" / "base"))
    asked = parser.parse_args(arguments)
    kind, workspace = KINDS[asked.network], Path(asked.workspace).absolute()
    texts = workspace / "texts.txt"
    storage.write_bytes(str(texts), "\n".join(make_texts(kind)).encode())
    count = f"--render_count={kind.count}"
    rendered = run_command(workspace, "--steps=render", f"--texts={texts}", f"--fonts={asked.fonts}", count).figures
    images = workspace / "rendered" / rendered["rendered_id"]
    run_command(workspace, "--steps=ingest", f"--images={images}", "--validation_fraction=0.02", "--test_fraction=0.02")
    run_command(workspace, "--steps=train,evaluate", f"--model={asked.network}", f"--epochs={kind.epochs}")
    model = (workspace / "models" / "ACCEPTED").read_text().strip()
    copy_start(str(workspace / "models" / model), str(Path(asked.output) / asked.network))


if __name__ == "__main__":
    main()
