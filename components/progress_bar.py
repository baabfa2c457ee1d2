"""The progress bar on a terminal, and durations as a person reads them."""

from __future__ import annotations

import sys

_BAR_WIDTH = 10  # so that the line fits 80 columns


class Bar:
    """One line at the bottom of the terminal, with a bar.

    Args:
        total: how much there is to do.
    """

    def __init__(self, total: int):
        import rich.console  # only here: where nobody looks, a command starts without it
        import rich.progress

        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(_BAR_WIDTH, finished_style="bar.complete"),
            rich.progress.TextColumn("{task.completed}/{task.total}  {task.fields[figures]}"),
            console=rich.console.Console(force_terminal=True, highlight=False),
            auto_refresh=False,
            transient=True,
        )
        self._task = self._bar.add_task("", total=total, figures="")

    @classmethod
    def on_terminal(cls, total: int) -> Bar | None:
        """Returns a bar if standard output is a terminal, where somebody looks at it."""
        return cls(total) if sys.stdout.isatty() else None

    def show(self, title: str, done: int, figures: str) -> None:
        """Draws the line, or draws it anew."""
        self._bar.update(self._task, description=title, completed=done, figures=figures)
        if self._bar.live.is_started:
            self._bar.refresh()
        else:
            self._bar.start()
            self._bar.console.show_cursor(True)  # a process that is killed could not bring it back

    def hide(self) -> None:
        """Removes the line."""
        self._bar.stop()


def format_duration(seconds: float) -> str:
    """Formats seconds as a clock does: 1:05, or 2:00:00."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
