"""Entry point of the installed command: settings that have to precede all other imports, then the command."""

from __future__ import annotations

import os
from typing import NoReturn

from components.printing import prepare_streams
from components.process_settings import isolate_python, prepare_process, use_utf8


def command() -> NoReturn:
    """Prepares this process before anything opens a file or loads Arrow, and runs the command."""
    use_utf8()
    prepare_streams()
    prepare_process()
    isolate_python(os.environ)
    from pipeline.main import command as run_command

    run_command()
