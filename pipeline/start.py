"""Entry point of the installed command: settings that have to precede all other imports, then the command."""

from __future__ import annotations

from typing import NoReturn

from components.printing import prepare_streams
from components.process_settings import prepare_process


def command() -> NoReturn:
    """Prepares this process before anything opens a file or loads Arrow, and runs the command."""
    prepare_streams()
    prepare_process()
    from pipeline.main import command as run_command

    run_command()
