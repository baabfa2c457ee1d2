"""`--help` is made from the table of flags, and says what the checks say."""

from __future__ import annotations

import re

import pytest

from pipeline.command_line import format_usage, parse_options
from pipeline.exits import EXIT_DONE, EXIT_USAGE
from pipeline.flag_types import Flag, Number
from pipeline.flags import FLAG_SECTIONS
from pipeline.main import main
from pipeline.options import STEPS, UsageError

FLAGS = [flag for section in FLAG_SECTIONS for flag in section.flags]
COMMON = {flag.name for section in FLAG_SECTIONS if section.steps == STEPS for flag in section.flags}


def flags_in(text: str) -> set[str]:
    """The flags that a help text explains, each at the start of a line."""
    return set(re.findall(r"^  --(\w+)", text, re.MULTILINE))


def flags_of(*steps: str) -> set[str]:
    return {flag.name for section in FLAG_SECTIONS if set(steps) & set(section.steps) for flag in section.flags}


def test_every_flag_is_in_the_table_once():
    names = [flag.name for flag in FLAGS]
    assert len(set(names)) == len(names)
    assert set(names) == set(parse_options([]).get_all_options(current_only=True))


def test_every_section_belongs_to_steps_in_their_order():
    for section in FLAG_SECTIONS:
        assert section.steps
        assert list(section.steps) == [step for step in STEPS if step in section.steps]


def test_a_bare_help_has_the_steps_and_the_common_flags_and_says_how_to_see_the_rest():
    text = format_usage()
    assert flags_in(text) == COMMON
    assert tuple(re.findall(r"^  ([a-z]+) ", text, re.MULTILINE)) == STEPS
    assert "--steps=infer --help" in text
    assert "--steps=all --help" in text
    assert len(text.splitlines()) <= 45


@pytest.mark.parametrize("steps", [*((step,) for step in STEPS), ("ingest", "train")])
def test_help_for_steps_has_their_flags_and_the_common_ones(steps):
    text = format_usage([f"--steps={','.join(steps)}", "--help"])
    assert flags_in(text) == flags_of(*steps) | COMMON
    assert flags_in(text) < flags_in(format_usage(["--steps=all", "--help"]))
    assert format_usage(["-h", "--steps", ",".join(steps)]) == text


def test_help_for_all_steps_has_every_flag_and_those_of_beam():
    found = flags_in(format_usage(["--help", "--steps=all"]))
    assert {flag.name for flag in FLAGS} < found
    assert {"runner", "job_endpoint"} <= found


@pytest.mark.parametrize("argv", [[], *([f"--steps={step}"] for step in (*STEPS, "all"))])
def test_help_fits_a_terminal(argv):
    assert max(map(len, format_usage(argv).splitlines())) <= 96


def test_help_for_a_misspelt_step_is_refused(capsys):
    with pytest.raises(UsageError, match="there is no step 'trian'; did you mean train"):
        format_usage(["--steps=trian", "--help"])
    assert main(["--steps=trian", "--help"]) == EXIT_USAGE
    assert "did you mean train?" in capsys.readouterr().err
    assert main(["--help", "--steps=train"]) == EXIT_DONE
    assert flags_in(capsys.readouterr().out) == flags_of("train") | COMMON


def first_refused(flag: Flag) -> list[str]:
    """Values just outside the limits of a flag for numbers, and inside where there is no limit."""
    assert isinstance(flag.type, Number)
    step = 1 if flag.type.kind is int else 0.001
    limits = {"least": -step, "most": step, "above": 0, "below": 0}
    bounds = {name: getattr(flag.type, name) for name in limits}
    return [str(bound + limits[name]) for name, bound in bounds.items() if bound is not None]


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if isinstance(flag.type, Number)], ids=lambda flag: flag.name)
def test_the_error_and_the_help_of_a_number_say_the_same_limits(flag):
    help_text = " ".join(format_usage(["--steps=all"]).split())
    assert flag.allowed
    assert f"({flag.allowed}" in help_text
    for value in first_refused(flag):
        with pytest.raises(UsageError) as refusal:
            parse_options([f"--{flag.name}={value}"])
        assert str(refusal.value) == f"--{flag.name}={value} must be {flag.allowed}"
    if flag.default is not None:
        assert flag.type(str(flag.default)) == flag.default


def test_defaults_are_values_that_the_flags_accept():
    given = [f"--{flag.name}={flag.default}" for flag in FLAGS if flag.default is not None]
    options = parse_options(given)
    assert options.get_all_options(current_only=True) == parse_options([]).get_all_options(current_only=True)
