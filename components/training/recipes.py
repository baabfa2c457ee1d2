"""Default training settings of each network. Free of TensorFlow, so that options can be checked fast."""

from __future__ import annotations

import dataclasses
import math

DEFAULT_MODEL = "ctc_conv"
DEFAULT_MODEL_FOR_LONG_LINES = "ctc_conv_context"
LONG_LINE = 15
"""Symbols; a longer line is text rather than a code."""
TIME_STRIDE = 4
"""Pixels of width per time step of every network here, for lines that are not squeezed."""


_STEPS_PER_SYMBOL = 100  # so that lines of more symbols than `LONG_LINE` get more steps than others
_ENOUGH_STEPS = 5000


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Training settings that suit one network.

    Attributes:
        epochs: passes over the training images; more if these make fewer steps than `count_least_steps`.
        least_steps: steps that a network needs to learn anything at all, however few the images. Lines of many symbols
            need more.
        batch_size: images a step, all workers together.
        learning_rate: at its peak.
        weight_decay: decoupled (Loshchilov & Hutter 2019); 0 gives plain Adam.
        one_cycle: whether the rate warms up and falls to zero along a cosine; otherwise it is constant.
        clip_norm: greatest norm of all gradients together; infinity clips nothing.
        augment: whether training lines are distorted a little, differently each time.
        fine_tuning: factor on the learning rate when training starts from another model's weights.
        from_base: the same for the base weights, which are farther from what is to be learned.
        dropout_from_base: the share of values that dropout leaves out in a training from base weights on few images;
            None for the network's own share.
    """

    epochs: int
    least_steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    one_cycle: bool
    clip_norm: float
    augment: bool
    fine_tuning: float = 0.25
    from_base: float = 0.5
    dropout_from_base: float | None = None

    def count_least_steps(self, symbols: float) -> int:
        """Counts the steps that a training needs.

        Args:
            symbols: of a line, on average.
        """
        if not self.least_steps:
            return 0
        return max(self.least_steps, min(round(_STEPS_PER_SYMBOL * symbols), _ENOUGH_STEPS))

    def epochs_for(self, images: int, batch_size: int, symbols: float = 0) -> int:
        """Returns the epochs for a number of training images, whose lines have so many symbols on average."""
        steps_per_epoch = -(-images // batch_size)
        return max(self.epochs, -(-self.count_least_steps(symbols) // steps_per_epoch))


# Unclipped as in the originals. On captcha codes, ocr_model_v1 had a CER of 50 % after 40 epochs with gradients clipped
# at 5, and of 0.2 % after 27 epochs without.
_REFERENCE = Recipe(
    epochs=100,
    least_steps=0,
    batch_size=16,
    learning_rate=1e-3,
    weight_decay=0.0,
    one_cycle=False,
    clip_norm=math.inf,
    augment=False,
)
_CTC_CONV = Recipe(
    epochs=30,
    least_steps=1500,
    batch_size=16,
    learning_rate=4e-3,
    weight_decay=1e-2,
    one_cycle=True,
    clip_norm=5.0,
    augment=True,
)
RECIPES = {
    "ctc_conv": dataclasses.replace(_CTC_CONV, dropout_from_base=0.4),
    "ctc_conv_context": _CTC_CONV,
    "ctc_conv_large": dataclasses.replace(_CTC_CONV, epochs=24, learning_rate=2e-3, weight_decay=5e-2),
    "crnn_v1": _REFERENCE,
    "ocr_model_v1": _REFERENCE,
}


def choose_model(symbols: float) -> str:
    """Chooses the network for lines that have so many symbols on average."""
    return DEFAULT_MODEL_FOR_LONG_LINES if symbols > LONG_LINE else DEFAULT_MODEL
