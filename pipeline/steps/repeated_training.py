"""A training that is repeated with a lower learning rate if reading never began."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from components.training.checkpoints import read_history
from components.training.diagnosis import get_lowest_cer, has_never_begun
from components.training.history import EpochRecord
from components.training.launcher import TrainingLostError, train_in_processes
from components.training.place import ClusterPlace
from components.training.watchdog import TrainingLost
from tfrecords import storage

log = logging.getLogger(__name__)

SLOWER = "-slower"
"""Behind the names of the repeated training's folders."""
_SLOWED_BY = 8


def train_until_reading(
    request: dict[str, Any],
    scratch: str,
    workers: int,
    *,
    restarts: int,
    place: ClusterPlace | None = None,
    repeats: bool = True,
) -> dict[str, Any]:
    """Trains in processes of their own, and once more with a lower rate if reading never began.

    A training on several nodes is not repeated: they would have to agree on it.

    Args:
        request: the fields of a `TrainingRequest`.
        scratch: local, for the workers' logs.
        workers, restarts, place: as for `train_in_processes`.
        repeats: whether a training may be repeated.

    Returns:
        The request of the better training, whose `output_folder` has the model.

    Raises:
        DataError: if a worker refuses the data, or fails.
        TrainingLostError: if it was ended from outside too often, or its checkpoints cannot be read.
    """

    def train(asked: dict[str, Any]) -> None:
        storage.remove_folder(asked["output_folder"])
        train_in_processes(asked, scratch, workers, restarts=restarts, place=place)

    train(request)
    if not repeats or (place is not None and len(place.addresses) > 1):
        return request
    history = read_epochs(request)
    if not has_never_begun(history, request["least_steps"]):
        return request
    slower = {
        **request,
        "output_folder": f"{request['output_folder']}{SLOWER}",
        "checkpoint_folder": f"{request['checkpoint_folder']}{SLOWER}",
        "learning_rate": request["learning_rate"] / _SLOWED_BY,
    }
    log.warning(
        f"the model has not begun to read: training again with a learning rate of {slower['learning_rate']:g} in "
        f"place of {request['learning_rate']:g}"
    )
    train(slower)
    return slower if get_lowest_cer(read_epochs(slower)) < get_lowest_cer(history) else request


def remove_checkpoints(folder: str) -> None:
    """Removes the checkpoints of a training, and of its repetition, from which it would resume."""
    for suffix in ("", SLOWER):
        storage.remove_folder(f"{folder}{suffix}")


def read_epochs(request: dict[str, Any]) -> Sequence[EpochRecord]:
    """Reads the finished epochs of a training; raises a `TrainingLostError` if its checkpoints cannot be read."""
    try:
        return read_history(request["checkpoint_folder"])
    except TrainingLost as error:
        raise TrainingLostError(str(error)) from None
