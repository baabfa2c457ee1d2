"""The command line: parsed with the flags of `--config` and Beam's own."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from typing import Any, NoReturn

import yaml
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.checks import check_options
from pipeline.engines import dask_cluster
from pipeline.options import LinePipelineOptions, UsageError, normalise_runner
from tfrecords import storage


def parse_options(argv: Sequence[str]) -> LinePipelineOptions:
    """The options of a command line, and of the file that its `--config` names.

    Raises:
        UsageError: for an unknown flag, naming the nearest known one, or a value that cannot be.
    """
    found = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    found.add_argument("--config")
    found.add_argument("--runner")
    given = found.parse_known_args(list(argv))[0]
    config = _read_config(given.config) if given.config else {}
    on_dask = normalise_runner(given.runner or config.get("runner")) == "daskrunner"
    if on_dask:
        dask_cluster.register_flags()
    parser = _Parser(prog="run_pipeline.py", allow_abbrev=False, add_help=False)
    for options_class in _find_option_classes():
        options_class._add_argparse_args(parser)
    flags = {flag for action in parser._actions for flag in action.option_strings}
    argv = [*_make_flags(config, given.config, flags), *argv]
    _, unknown = parser.parse_known_args(argv)
    if unknown:
        raise UsageError(_explain_unknown_flag(unknown[0], flags))
    options = PipelineOptions(argv).view_as(LinePipelineOptions)
    check_options(options)
    if on_dask:
        dask_cluster.check_flags(options)
    return options


def format_usage() -> str:
    """The help text: this project's flags."""
    parser = argparse.ArgumentParser(
        prog="run_pipeline.py",
        description="Train a CTC line recogniser on labelled images, and read a collection with it.",
        epilog="Beam's own flags pass through, --runner first of all: DirectRunner runs everything on this machine.",
        add_help=False,
    )
    LinePipelineOptions._add_argparse_args(parser)
    return parser.format_help()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see --help")


def _find_option_classes() -> list[Any]:
    """Ours and Beam's own."""
    return [cls for cls in PipelineOptions.__subclasses__() if "_add_argparse_args" in cls.__dict__]


def _explain_unknown_flag(flag: str, flags: set[str]) -> str:
    name = flag.partition("=")[0]
    near = difflib.get_close_matches(name, flags, 1)
    if not name.startswith("--"):
        return f"{flag!r} is not a flag: flags are written --name=value; see --help"
    if name.startswith("--dask_") and not near:
        return f"{name} is a flag for --runner=DaskRunner alone"
    return f"unknown flag {name}" + (f": did you mean {near[0]}?" if near else "; see --help")


def _read_config(path: str) -> dict[str, Any]:
    try:
        content: Any = yaml.safe_load(storage.read_bytes(path).decode())
    except OSError as error:
        raise UsageError(f"--config={path} cannot be read: {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--config={path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UsageError(f"--config={path} must hold flags by name, such as 'epochs: 20'")
    return content


def _make_flags(config: dict[str, Any], path: str, flags: set[str]) -> list[str]:
    argv = []
    for name, value in config.items():
        if f"--{name}" not in flags or name == "config":
            raise UsageError(f"--config={path}: {_explain_unknown_flag(f'--{name}', flags - {'--config'})}")
        if value is None:
            raise UsageError(f"--config={path}: {name} has no value; leave it out to get the default")
        if isinstance(value, bool):
            argv += [f"--{name}"] if value else []
        elif isinstance(value, list):
            argv.append(f"--{name}={','.join(map(str, value))}")
        else:
            argv.append(f"--{name}={value}")
    return argv
