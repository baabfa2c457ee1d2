"""The command line: parsed with the flags of `--config` and Beam's own, and explained by `--help`."""

from __future__ import annotations

import argparse
import difflib
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import yaml
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.beam_flags import COMMON_BEAM_FLAGS, list_beam_options
from pipeline.engines import dask_cluster
from pipeline.flag_checks import check_options
from pipeline.flag_types import Flag, FlagSection, UsageError
from pipeline.flags import FLAG_SECTIONS, name_steps
from pipeline.options import LinePipelineOptions, normalise_runner
from pipeline.step_names import STEP_SUMMARIES, STEPS, read_steps, split_steps
from tfrecords import storage

_PROGRAM = "run_pipeline.py"
_USAGE = f"usage: {_PROGRAM} [--steps=STEP,STEP] [--FLAG=VALUE ...]"
_ALL = "all"
_WIDTH, _COLUMN = 96, 30


def parse_options(argv: Sequence[str]) -> LinePipelineOptions:
    """Returns the options of a command line, and of the file that its `--config` names.

    Raises:
        UsageError: for an unknown flag, naming the nearest known one, or a value that a flag does not accept.
    """
    given = _find_flags(argv, "config", "runner")
    config = _read_config(given.config) if given.config else {}
    on_dask = normalise_runner(given.runner or config.get("runner")) == "daskrunner"
    parser = _Parser(prog=_PROGRAM, allow_abbrev=False, add_help=False)
    for options_class in (LinePipelineOptions, *list_beam_options(on_dask=on_dask)):
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


def format_usage(argv: Sequence[str] = ()) -> str:
    """Returns the text of `--help`: the steps and common flags, or the flags of the steps that `--steps` names.

    Raises:
        UsageError: if `--steps` names a step that does not exist.
    """
    asked = _find_flags([flag for flag in argv if flag not in ("--help", "-h")], "steps").steps
    if asked is None:
        return "\n\n".join(_format_overview())
    steps = set(STEPS) if asked.strip() == _ALL else split_steps(read_steps(asked))
    return "\n\n".join(_format_details(steps, with_beam=asked.strip() == _ALL))


def _format_overview() -> Iterator[str]:
    yield _USAGE
    yield "Trains a CTC line recogniser on labelled images, and recognises a collection with it."
    yield _format_steps(STEPS)
    yield from (_format_section(section) for section in FLAG_SECTIONS if section.steps == STEPS)
    yield (
        "More help:\n"
        f"  {_PROGRAM} --steps=infer --help    the flags of a step, or of several\n"
        f"  {_PROGRAM} --steps={_ALL} --help      all flags, and the common ones of Apache Beam"
    )
    yield _wrap(
        "Apache Beam's own flags pass through. Without --runner, or with --runner=DirectRunner, everything runs on "
        "this machine."
    )


def _format_details(steps: set[str], *, with_beam: bool) -> Iterator[str]:
    yield _USAGE
    yield _format_steps([step for step in STEPS if step in steps])
    chosen = [section for section in FLAG_SECTIONS if steps & set(section.steps)]
    yield from map(_format_section, sorted(chosen, key=lambda section: len(section.steps)))
    if with_beam:
        yield "\n".join(("Apache Beam's own flags pass through, among them:", *map(_format_flag, COMMON_BEAM_FLAGS)))
    else:
        yield f"All flags, and the common ones of Apache Beam: {_PROGRAM} --steps={_ALL} --help"


def _format_steps(steps: Sequence[str]) -> str:
    """Returns what steps do, in a sentence for one step or a table for several."""
    if len(steps) == 1:
        return f"The {steps[0]} step {STEP_SUMMARIES[steps[0]]}."
    lines = (f"  {step:<10} {STEP_SUMMARIES[step]}" for step in steps)
    return "\n".join(("Steps, which run in this order:", *lines))


def _format_section(section: FlagSection) -> str:
    return "\n".join((f"{section.title} ({name_steps(section)}):", *map(_format_flag, section.flags)))


def _format_flag(flag: Flag) -> str:
    """Returns the lines of a flag: its name to the left, its meaning, limits and default to the right."""
    name = f"  --{flag.name}" + (f"={flag.placeholder}" if flag.placeholder else "")
    default = f"default: {flag.default_in_words}" if flag.default_in_words else ""
    notes = "; ".join(note for note in (flag.allowed, default) if note)
    text = _wrap(flag.meaning + (f" ({notes})" if notes else ""), indent=_COLUMN)
    return f"{name:<{_COLUMN}}{text.lstrip()}" if len(name) < _COLUMN - 1 else f"{name}\n{text}"


def _wrap(text: str, indent: int = 0) -> str:
    space = " " * indent
    return textwrap.fill(
        text, _WIDTH, initial_indent=space, subsequent_indent=space, break_long_words=False, break_on_hyphens=False
    )


def _find_flags(argv: Sequence[str], *names: str) -> argparse.Namespace:
    """Returns the values of some flags of a command line; None for those that it lacks."""
    parser = _Parser(allow_abbrev=False, add_help=False)
    for name in names:
        parser.add_argument(f"--{name}")
    return parser.parse_known_args(list(argv))[0]


class _Parser(argparse.ArgumentParser):
    """A parser that raises `UsageError` where argparse ends the process."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see --help")


def _explain_unknown_flag(flag: str, flags: set[str]) -> str:
    name = flag.partition("=")[0]
    near = difflib.get_close_matches(name, flags, 1)
    if not name.startswith("--"):
        return f"{flag!r} is not a flag: flags are written --name=value; see --help"
    if name.startswith("--dask_") and not any(other.startswith("--dask_") for other in flags):
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
