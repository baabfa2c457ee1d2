"""What a person sees while a network trains."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable

from components.training.history import EpochRecord

_BAR = 10  # so that the line fits 80 columns
_EVERY_S = 0.5


def show(text: str, end: str = "\n") -> None:
    """Prints; when nobody reads any more, training goes on."""
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Progress:
    """A bar that fills during an epoch, where somebody looks at a terminal, and one line for each epoch.

    Very short epochs do not all get a line: at most two a second do, the first and the last always.

    Args:
        say: prints one line.
        epochs: as planned.
        steps: in an epoch.
        live: whether standard output is a terminal that somebody looks at.
    """

    def __init__(self, say: Callable[[str], None], epochs: int, steps: int, *, live: bool):
        self._say = say
        self._epochs = epochs
        self._steps = steps
        self._live = live
        self._said = -1.0
        self._cer = "  --  "

    def step(self, epoch: int, step: int, loss: float, images_per_second: float, left_s: float) -> None:
        """Shows how far an epoch is.

        Args:
            step: done in this epoch.
            loss: mean over the epoch so far, nats.
            left_s: seconds to the planned end of the training.
        """
        if not self._live:
            return
        filled = _BAR * step // self._steps
        bar = "█" * filled + "░" * (_BAR - filled)
        line = (
            f"{self._number(epoch)} {bar} {step}/{self._steps}  loss {loss:.3f}  CER {self._cer}  "
            f"{images_per_second:.0f} images/s  {format_duration(left_s)} left"
        )
        fitting = line[: shutil.get_terminal_size().columns - 1]  # one that is wrapped could not be wiped
        show(f"\r\x1b[K{fitting}", end="")

    def epoch(self, record: EpochRecord, left_s: float, *, last: bool) -> None:
        """Says how an epoch went."""
        self._cer = f"{record.cer:6.2%}"
        now = time.monotonic()
        if self._live:
            show("\r\x1b[K", end="")
        elif 0 <= self._said > now - _EVERY_S and not last:
            return
        self._said = now
        self._say(
            f"{self._number(record.epoch)}  loss {record.train_loss:7.3f}  "
            f"validation loss {record.validation_loss:7.3f}  CER {record.cer:7.2%}  WER {record.wer:7.2%}  "
            f"exact {record.exact_match:6.1%}  {record.images_per_second:5.0f} images/s  {format_duration(left_s)} left"
        )

    def _number(self, epoch: int) -> str:
        return f"epoch {epoch:>{len(str(self._epochs))}}/{self._epochs}"


def format_duration(seconds: float) -> str:
    """Seconds as a person reads them: 1:05, or 2:00:00."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
