"""The request for a training: the data, the network and the settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class TrainingRequest:
    """The data, the network and the settings of a training; the same on every worker.

    Attributes:
        dataset_folder: of a committed dataset, local.
        output_folder: local; the chief writes the model here.
        checkpoint_folder: local or remote, the same for all workers.
        model: a name in `NETWORKS`.
        epochs, batch_size, learning_rate: `batch_size` is that of all replicas together.
        patience: epochs without a better one after which training ends.
        least_steps: steps before which `patience` does not end it.
        seed: of the weights' start, the order of examples and the distortions.
        init_from: local `.keras` file of a model of the same network, whose weights are the start;
            or None.
        init_symbols: that model's charset.
        from_base: whether these are the base weights that come with the program.
        kept_symbols: that the new model knows beside those of the dataset, none of which is among them.
        texts: local file of texts, one a line, from which the language model learns beside the labels; or None.
        checkpoint_every_s: seconds between checkpoints; one is due at the next look at results or the epoch's end.
        start_timeout_s: seconds that a worker waits for the others to start.
        stall_timeout_s: seconds that it waits for them later, for example for one that hangs.
        index_folder: local; for the index of the lines, which the workers of a machine share; None for a temporary one.
        precision: of the network's arithmetic, a Keras dtype policy; None for the one that suits the devices.
    """

    dataset_folder: str
    output_folder: str
    checkpoint_folder: str
    model: str
    epochs: int
    batch_size: int
    learning_rate: float
    patience: int
    seed: int
    least_steps: int = 0
    init_from: str | None = None
    init_symbols: Sequence[str] = ()
    from_base: bool = False
    kept_symbols: Sequence[str] = ()
    texts: str | None = None
    checkpoint_every_s: float = 60.0
    start_timeout_s: float = 600.0
    stall_timeout_s: float = 300.0
    index_folder: str | None = None
    precision: str | None = None
