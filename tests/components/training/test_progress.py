"""What a person sees while a network trains, at a terminal and in a log."""

from __future__ import annotations

import logging
import re
import time

import pytest

from components.progress_bar import format_duration
from components.training.history import EpochRecord
from components.training.progress import Progress

CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch, caplog):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("COLORTERM", raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    caplog.set_level(logging.INFO, "components")


def record(epoch: int, cer: float = 0.5) -> EpochRecord:
    return EpochRecord(epoch, 10 * epoch, 1e-3, 12.3456, 7.8901, cer, 0.75, 0.125, 1234.5, 0, 3.0, 9)


def shown_on(screen: str) -> list[str]:
    """What a terminal shows after each time that its last line is written."""
    lines = [line.rstrip() for line in CONTROL.sub("", screen).split("\r")]
    assert not any("\x1b" in line for line in lines)
    return [line for line in lines if line.strip()]


def test_a_log_gets_one_line_an_epoch_and_no_bar(capsys, caplog, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Progress(epochs=12, steps=4) as progress:
        for epoch in (9, 10, 12):
            for step in (1, 2, 3, 4):
                progress.show_step(epoch, step, 1.5, 100.0, 60.0)
            now[0] += 0.6
            progress.log_epoch(record(epoch), left_s=125.2, last=epoch == 12)
    assert capsys.readouterr().out == ""
    assert caplog.messages[0] == (
        "epoch  9/12  loss  12.346  validation loss   7.890  CER  50.00%  WER  75.00%  exact  12.5%   1234 images/s"
        "  2:05 left"
    )
    assert [line[:11] for line in caplog.messages] == ["epoch  9/12", "epoch 10/12", "epoch 12/12"]


def test_a_log_gets_a_line_every_thirty_seconds_of_a_long_epoch(capsys, caplog, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Progress(epochs=3, steps=100) as progress:
        for step in range(5, 101, 5):
            now[0] += 7.0
            progress.show_step(1, step, 1.5, 99.6, 600.0)
        progress.log_epoch(record(1, cer=0.0712), left_s=125.2, last=False)
        now[0] += 29.9
        progress.show_step(2, 5, 1.5, 99.6, 600.0)
        now[0] += 0.1
        progress.show_step(2, 10, 1.25, 99.6, 600.0)
    assert capsys.readouterr().out == ""
    assert [line.split("  ")[:2] for line in caplog.messages[:4]] == [
        ["epoch 1/3", f"step {step}/100"] for step in (25, 50, 75, 100)
    ]
    assert caplog.messages[4].startswith("epoch 1/3  loss  12.346")
    assert caplog.messages[5:] == ["epoch 2/3  step 10/100  loss 1.250  CER  7.12%  100 images/s  10:00 left"]


@pytest.mark.parametrize(
    ("seconds_an_epoch", "said_epochs"),
    [(0.1, [1, 6, 11, 16, 20]), (0.3, [*range(1, 20, 2), 20]), (0.5, list(range(1, 21)))],
)
def test_short_epochs_say_at_most_two_lines_a_second_but_always_the_first_and_the_last(
    seconds_an_epoch, said_epochs, monkeypatch, caplog
):
    now = [7.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress(epochs=20, steps=1)
    for epoch in range(1, 21):
        now[0] = 7.0 + seconds_an_epoch * epoch + 1e-6 * epoch
        progress.log_epoch(record(epoch), left_s=1.0, last=epoch == 20)
    assert [int(re.match(r"epoch +(\d+)/20", line)[1]) for line in caplog.messages] == said_epochs


def test_a_training_that_ends_early_says_its_last_epoch_whatever_its_number(caplog):
    progress = Progress(epochs=500, steps=1)
    progress.log_epoch(record(1), left_s=1.0, last=False)
    progress.log_epoch(record(2), left_s=1.0, last=False)
    progress.log_epoch(record(3), left_s=1.0, last=True)
    assert [line[:13] for line in caplog.messages] == ["epoch   1/500", "epoch   3/500"]


@pytest.mark.parametrize("live", [False, True])
def test_every_worker_but_the_first_is_quiet(live, capsys, caplog, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Progress(epochs=3, steps=4, quiet=True, live=live) as progress:
        for step in (1, 2, 3, 4):
            now[0] += 60
            progress.show_step(1, step, 1.5, 100.0, 60.0)
        progress.log_epoch(record(1), left_s=125.2, last=True)
    assert (capsys.readouterr().out, caplog.messages) == ("", [])


def test_a_terminal_sees_a_bar_that_fills_and_is_wiped_for_the_line_of_the_epoch(capsys, caplog):
    with Progress(epochs=3, steps=40, live=True) as progress:
        filled = []
        for step in range(1, 41):
            progress.show_step(1, step, 3.25, 512.4, 3661.0)
            screen = capsys.readouterr().out
            (bar,) = shown_on(screen)
            assert bar == f"epoch 1/3 ━━━━━━━━━━ {step}/40  loss 3.250  CER   --    512 images/s  1:01:01 left" or (
                step < 40 and re.sub("[╸╺]", "━", bar).startswith(f"epoch 1/3 ━━━━━━━━━━ {step}/40  loss 3.250  CER")
            )
            filled.append(len(re.split(r"\x1b\[[^m]*m", screen.partition("epoch 1/3 ")[2])[1].rstrip("╸ ")))
        assert filled[-1] == 10
        assert filled[3::4] == list(range(1, 11))
        progress.log_epoch(record(1, cer=0.0712), left_s=61.0, last=False)
        assert capsys.readouterr().out.endswith("\x1b[2K")  # nothing of the bar stays
        assert caplog.messages[0].startswith("epoch 1/3  loss  12.346  validation loss")
        progress.show_step(2, 40, 0.5, 99.6, 5.0)
        screen = capsys.readouterr().out
        assert shown_on(screen) == ["epoch 2/3 ━━━━━━━━━━ 40/40  loss 0.500  CER  7.12%  100 images/s  0:05 left"]
        assert screen.endswith("\x1b[?25h")  # the cursor stays visible, though the worker be killed


def test_at_a_terminal_every_epoch_has_its_line_however_short(capsys, caplog):
    with Progress(epochs=30, steps=1, live=True) as progress:
        for epoch in range(1, 31):
            progress.show_step(epoch, 1, 1.0, 1.0, 1.0)
            progress.log_epoch(record(epoch), left_s=1.0, last=epoch == 30)
    assert len(caplog.messages) == 30
    assert capsys.readouterr().out.endswith("\x1b[2K")  # nothing of a bar stays


def test_an_error_leaves_no_bar(capsys):
    def train() -> None:
        with Progress(epochs=30, steps=10, live=True) as progress:
            progress.show_step(1, 5, 1.0, 1.0, 1.0)
            raise RuntimeError("a worker is lost")

    with pytest.raises(RuntimeError):
        train()
    assert capsys.readouterr().out.endswith("\x1b[2K")


def test_the_bar_of_a_usual_training_fits_eighty_columns_whole(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with Progress(epochs=30, steps=54, live=True) as progress:
        progress.log_epoch(record(1, cer=0.9876), left_s=1.0, last=False)
        capsys.readouterr()
        progress.show_step(2, 54, 12.345, 512.4, 754.0)
        (bar,) = shown_on(capsys.readouterr().out)
    assert len(bar) < 80
    assert bar.endswith("CER 98.76%  512 images/s  12:34 left")


@pytest.mark.parametrize("columns", [40, 80, 100, 120])
def test_no_bar_is_wider_than_the_terminal(columns, capsys, monkeypatch):
    """In a long training whose loss is still large: a longer line would be wrapped, and could not be wiped."""
    monkeypatch.setenv("COLUMNS", str(columns))
    with Progress(epochs=9999, steps=99_999, live=True) as progress:
        progress.log_epoch(record(1, cer=12.5), left_s=1.0, last=False)
        capsys.readouterr()
        progress.show_step(9999, 99_999, 1234.5678, 98_765.4, 359_999.0)
        (bar,) = shown_on(capsys.readouterr().out)
    assert len(bar) <= columns
    if columns == 120:
        assert bar.endswith("99999/99999  loss 1234.568  CER 1250.00%  98765 images/s  99:59:59 left")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0:00"), (0.4, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (60, "1:00"), (3599.6, "1:00:00")),
        *((3600, "1:00:00"), (3723, "1:02:03"), (86_400, "24:00:00"), (360_000, "100:00:00")),
    ],
)
def test_a_time_is_written_as_a_clock_does(seconds, text):
    assert format_duration(seconds) == text
