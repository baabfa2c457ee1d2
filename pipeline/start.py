"""Entry point of the installed command: settings that have to precede all other imports, then the command."""

from __future__ import annotations

import gc
import os
from typing import NoReturn

from components.printing import prepare_streams
from components.process_settings import isolate_python, prepare_process, use_utf8


def command() -> NoReturn:
    """Prepares this process before anything opens a file or loads Arrow, and runs the command.

    What is imported stays until the end. The garbage collector would look through all of it again and again, so it does
    not: that takes a quarter of a second each time.
    """
    use_utf8()
    prepare_streams()
    prepare_process()
    isolate_python(os.environ)
    gc.disable()
    from pipeline.main import command as run_command

    gc.freeze()
    gc.enable()
    run_command()
