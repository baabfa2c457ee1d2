"""What is set for a whole process is set by whatever starts one, and by no import."""

import contextlib
import logging
import os
import pkgutil
import subprocess
import sys

import pyarrow
import pytest
from PIL import Image, ImageFile, PngImagePlugin

import components
import pipeline
import tfrecords
from components.process_settings import isolate_python, prepare_process, set_log_level
from components.processes import HelperPool

_STATE = """
def state():
    import logging, os, threading, warnings, csv, signal
    from PIL import Image, ImageFile, PngImagePlugin
    names = ("apache_beam.runners.common", "distributed.client", "gcsfs", "tf2onnx", None)
    loggers = [logging.getLogger(name) for name in names]
    return {
        "environment": dict(os.environ),
        "Pillow": (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK),
        "warnings about images": [entry for entry in warnings.filters if "PIL" in str(entry[3])],
        "loggers": [(logger.name, logger.level, [*logger.filters]) for logger in loggers],
        "ends of threads": threading.excepthook is threading.__excepthook__,
        "tables": csv.field_size_limit(),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
    }
"""


def test_importing_the_project_sets_nothing():
    modules = [
        module.name
        for package in (tfrecords, components, pipeline)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if not module.name.startswith(("components.training", "components.evaluation", "components.ctc.loss"))
    ]
    assert "pipeline.engines.jobs" in modules
    program = f"""{_STATE}
import importlib, apache_beam, gcsfs, pyarrow.parquet  # what these set is their own
before = state()
for name in {modules!r}:
    importlib.import_module(name)
after = state()
print([name for name in before if before[name] != after[name]])
"""
    environment = {name: value for name, value in os.environ.items() if name not in SET_IN_THE_ENVIRONMENT}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment, timeout=300
    )
    assert done.stdout.strip() == "[]"


SET_IN_THE_ENVIRONMENT = ("ARROW_DEFAULT_MEMORY_POOL", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT")


@pytest.mark.parametrize(
    ("first", "given", "expected"),
    [
        ("prepare_process()", None, ["system", "system"]),
        ("import pyarrow; prepare_process()", None, ["system", "system"]),
        ("import pyarrow; prepare_process()", "mimalloc", ["mimalloc", "mimalloc"]),
    ],
    ids=["before Arrow is loaded", "after", "as the user says"],
)
def test_arrow_gives_back_what_a_job_has_given_back(first, given, expected):
    program = f"from components.process_settings import prepare_process; {first}; import os, pyarrow; "
    program += "print(pyarrow.default_memory_pool().backend_name, os.environ['ARROW_DEFAULT_MEMORY_POOL'])"
    environment = {name: value for name, value in os.environ.items() if name != "ARROW_DEFAULT_MEMORY_POOL"}
    if given:
        environment["ARROW_DEFAULT_MEMORY_POOL"] = given
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment, timeout=300
    )
    assert done.stdout.split() == expected


def settings_of(_: object) -> tuple[str, bool, int]:
    return (
        pyarrow.default_memory_pool().backend_name,
        ImageFile.LOAD_TRUNCATED_IMAGES,
        PngImagePlugin.MAX_TEXT_CHUNK,
    )


def test_this_process_and_its_helpers_are_set_alike(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    prepare_process()
    prepare_process()
    with HelperPool() as helpers:
        assert [*helpers.map(settings_of, [0], 1)] == [settings_of(0)]
    assert settings_of(0) == ("system", False, 16_000_000)
    assert Image.MAX_IMAGE_PIXELS is not None  # nobody raises it


def test_a_log_level_is_put_back_whatever_happens():
    logger = logging.getLogger("some.library")
    logger.setLevel(logging.INFO)
    with contextlib.suppress(ZeroDivisionError), set_log_level("some.library", logging.ERROR):
        assert logger.level == logging.ERROR
        raise ZeroDivisionError
    assert logger.level == logging.INFO


def test_the_command_is_prepared_before_it_loads_arrow():
    """Parts of Arrow keep the memory pool that they were loaded with."""
    program = (
        "import os, runpy, sys, types\n"
        "sys.modules['pipeline.main'] = main = types.ModuleType('pipeline.main')\n"
        "main.command = lambda: print('pyarrow' in sys.modules, os.environ['ARROW_DEFAULT_MEMORY_POOL'])\n"
        "runpy.run_path('run_pipeline.py', run_name='__main__')"
    )
    environment = {name: value for name, value in os.environ.items() if name != "ARROW_DEFAULT_MEMORY_POOL"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment, timeout=300
    )
    assert done.stdout.split() == ["False", "system"]


def test_pythons_that_the_command_starts_execute_nothing_of_the_folder_they_start_in(tmp_path):
    for name in ("re", "numpy", "components", "random"):
        (tmp_path / f"{name}.py").write_text("open('executed', 'w').close()")
    environment = {**os.environ, "PYTHONPATH": f"{os.pathsep}{os.pathsep}/nowhere"}
    isolate_python(environment)
    program = "import components.printing, numpy, random, sys; print(sys.path)"
    for command in (["-c", program], ["-m", "components.printing"]):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        assert str(tmp_path) not in done.stdout
    assert "/nowhere" in environment["PYTHONPATH"].split(os.pathsep)
    assert not (tmp_path / "executed").exists()
