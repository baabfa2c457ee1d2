"""Settings of libraries that hold for a whole process.

Importing a module of this project sets nothing. Whatever starts a process does: the command, helper processes,
training workers, and what runs on workers of an engine.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator

_MOST_TEXT_BYTES = 16_000_000


def prepare_process() -> None:
    """Sets Arrow and Pillow as this project needs them. Calling it again changes nothing.

    Call it before Arrow is loaded, if possible: parts of Arrow stay with the memory pool that they were loaded with.
    """
    _prepare_arrow()
    prepare_pillow()


@contextlib.contextmanager
def set_log_level(name: str, level: int) -> Iterator[None]:
    """Sets the level of a library's logger for a while, and puts it back."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


def _prepare_arrow() -> None:
    """Has Arrow use the system's allocator: Arrow's own keeps what a job has given back."""
    chosen = os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # inherited by the processes started here
    if chosen == "system" and (pyarrow := sys.modules.get("pyarrow")):
        pyarrow.set_memory_pool(pyarrow.system_memory_pool())


def prepare_pillow() -> None:
    """Has Pillow refuse truncated files, accept long descriptions, and keep its warnings to itself."""
    from PIL import ImageFile, PngImagePlugin

    # A truncated file must raise, whatever another library in this process prefers.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    # Descriptions of an image may be long; they take memory for a moment only.
    PngImagePlugin.MAX_TEXT_CHUNK = _MOST_TEXT_BYTES
    # What Pillow finds odd, without a file's name, helps nobody; what it cannot read is an error.
    warnings.filterwarnings("ignore", module=r"PIL\..*")
