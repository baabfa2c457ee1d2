"""The base weights that come with the program."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest

from components.metrics import ErrorCounts
from components.recogniser.manifest import KERAS_NAME
from components.rendering.faces import find_faces
from components.rendering.lines import render_line
from components.training.base_weights import find_base_weights
from components.training.recipes import DEFAULT_MODEL, DEFAULT_MODEL_FOR_LONG_LINES, TIME_STRIDE
from tfrecords import ImageLimits, convert_line, pad_lines

CODES = "ABCDEFGHJKLMNPRSTUVWXYZ23456789"
TEXTS = {
    DEFAULT_MODEL: ["".join(CODES[(i * 7 + k * (3 + i)) % len(CODES)] for k in range(6)) for i in range(40)],
    DEFAULT_MODEL_FOR_LONG_LINES: [f"The house of {CODES[i]}eople, No. {i * 37 + 11}" for i in range(20)],
}


def test_base_weights_are_intact_and_small():
    total = 0
    for network in TEXTS:
        folder, manifest = find_base_weights(network)
        assert (manifest.model, manifest.height, manifest.time_stride) == (network, 48, TIME_STRIDE)
        for name in manifest.files:
            assert manifest.fetch(folder, name) == f"{folder}/{name}"
        assert set(CODES + "abcäßéđặ.,-/") <= set(manifest.read_charset(folder).symbols)
        assert {path.name for path in Path(folder).iterdir()} == {*manifest.files, "manifest.json"}
        total += sum(path.stat().st_size for path in Path(folder).iterdir())
    assert total < 4_000_000
    assert find_base_weights("crnn_v1") is None


@pytest.mark.slow
@pytest.mark.parametrize("network", TEXTS)
def test_they_read_rendered_lines(network):
    import keras

    from components.ctc.decoding import decode_greedily
    from components.training.learner import make_logits_function

    folder, manifest = find_base_weights(network)
    charset = manifest.read_charset(folder)
    model = keras.saving.load_model(manifest.fetch(folder, KERAS_NAME), compile=False, safe_mode=True)
    compute_logits = make_logits_function(model, manifest.height)
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    texts = TEXTS[network]
    faces = [face for face in find_faces(str(fonts), set("".join(texts))) if "DejaVu" in face.path]
    counts = ErrorCounts()
    for number, text in enumerate(texts):
        face = next(face for face in faces[number % len(faces) :] + faces if face.symbols.issuperset(text))
        picture = render_line(text, face, None, np.random.default_rng(number))
        line = convert_line(picture, manifest.height, ImageLimits()).pixels
        logits, time_steps = compute_logits(*pad_lines([line], TIME_STRIDE))
        (decoded,) = decode_greedily(logits.numpy(), time_steps.numpy())
        counts += ErrorCounts.from_texts(text, charset.decode(decoded.ids))
    assert counts.cer < 0.1
