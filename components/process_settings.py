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
from collections.abc import Iterator, MutableMapping

_MOST_TEXT_BYTES = 16_000_000


def prepare_process() -> None:
    """Sets Arrow and Pillow as this project needs them. Calling it again changes nothing.

    Call it before Arrow is loaded, if possible: parts of Arrow stay with the memory pool that they were loaded with.
    """
    _prepare_arrow()
    prepare_pillow()


def use_utf8() -> None:
    """Starts this process again in Python's UTF-8 mode, unless names of files are UTF-8 already.

    In another encoding, as under `LC_ALL=C` with `PYTHONUTF8=0`, names would have other URIs, and a text with `ü` could
    not become a name. Processes that this one starts inherit the mode.
    """
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def isolate_python(environment: MutableMapping[str, str]) -> None:
    """Has Pythons that start with an environment import this project, and nothing from the folder they start in.

    Python looks there first where it is started with `-m`. A `numpy.py` among somebody's images would be executed.
    """
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    others = environment.get("PYTHONPATH", "").split(os.pathsep)
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([root, *filter(None, others)]))
    environment["PYTHONSAFEPATH"] = "1"


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
