"""Progress of a training, as a person sees it on a terminal or in a log."""

from __future__ import annotations

import logging
import time
from types import TracebackType

from components.progress_bar import Bar, format_duration
from components.training.history import EpochRecord

log = logging.getLogger(__name__)

_SHORTEST_GAP_S = 0.5
_LONGEST_GAP_S = 30.0


class Progress:
    """A bar that fills during an epoch, where somebody looks at a terminal, and one log line for each epoch.

    In a log, very short epochs do not all get a line: at most two a second do, the first and the last always.
    During a long epoch a line comes every 30 seconds and says how far the epoch is.

    Leaving the `with` statement removes the bar.

    Args:
        epochs: as planned.
        steps: in an epoch.
        quiet: whether nothing is shown or logged, as on every worker but the first.
        live: whether standard output is a terminal that somebody looks at.
    """

    def __init__(self, epochs: int, steps: int, *, quiet: bool = False, live: bool = False):
        self._epochs = epochs
        self._steps = steps
        self._quiet = quiet
        self._bar = Bar(steps) if live and not quiet else None
        self._logged_epoch = False
        self._logged_at = time.monotonic()
        self._cer = "  --  "

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, _kind: type | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self._hide_bar()

    def show_step(self, epoch: int, step: int, loss: float, images_per_second: float, left_s: float) -> None:
        """Shows how far an epoch is.

        Args:
            step: done in this epoch.
            loss: mean over the epoch so far, nats.
            left_s: seconds to the planned end of the training.
        """
        figures = f"loss {loss:.3f}  CER {self._cer}  {images_per_second:.0f} images/s  {format_duration(left_s)} left"
        now = time.monotonic()
        if self._bar is not None:
            self._bar.show(self._number_epoch(epoch), step, figures)
        elif not self._quiet and now >= self._logged_at + _LONGEST_GAP_S:
            self._logged_at = now
            log.info(f"{self._number_epoch(epoch)}  step {step}/{self._steps}  {figures}")

    def log_epoch(self, record: EpochRecord, left_s: float, *, last: bool) -> None:
        """Logs how an epoch went."""
        self._cer = f"{record.cer:6.2%}"
        self._hide_bar()
        now = time.monotonic()
        too_soon = self._logged_epoch and now < self._logged_at + _SHORTEST_GAP_S
        if self._quiet or (too_soon and self._bar is None and not last):
            return
        self._logged_epoch, self._logged_at = True, now
        log.info(
            f"{self._number_epoch(record.epoch)}  loss {record.train_loss:7.3f}  "
            f"validation loss {record.validation_loss:7.3f}  CER {record.cer:7.2%}  WER {record.wer:7.2%}  "
            f"exact {record.exact_match:6.1%}  {record.images_per_second:5.0f} images/s  {format_duration(left_s)} left"
        )

    def _hide_bar(self) -> None:
        if self._bar is not None:
            self._bar.hide()

    def _number_epoch(self, epoch: int) -> str:
        return f"epoch {epoch:>{len(str(self._epochs))}}/{self._epochs}"
