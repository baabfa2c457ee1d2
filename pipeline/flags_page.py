"""The page of all flags: `python -m pipeline.flags_page > docs/flags.md` writes it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from pipeline.beam_flags import COMMON_BEAM_FLAGS
from pipeline.flag_types import Flag
from pipeline.flags import FLAG_SECTIONS, name_steps
from pipeline.step_names import STEP_SUMMARIES, STEPS

_HEAD = """# Flags

<!-- Made by `python -m pipeline.flags_page > docs/flags.md`: change the flags in pipeline/flags.py, not this page. -->

Flags are written `--name=value`; a flag without values is a switch. `--config=FILE` names a YAML file of flags by their
names, without dashes; a list is joined by commas, and `true` sets a switch. The command line wins over the file. An
unknown flag, or a value that a flag does not accept, ends the command with exit status 2 before anything starts, and
one sentence says which flag it was and what it accepts.

`run_pipeline.py --help` prints the steps and the flags common to all, `--steps=infer --help` the flags of one step,
and `--steps=all --help` all flags. `--steps` names some of these steps, which run in this order:"""

_BEAM = """## Apache Beam's own flags

Beam's own flags pass through. These are the common ones; [Beam's documentation](https://beam.apache.org/documentation/)
describes all of them. Flags that begin with `--dask_` exist only with `--runner=DaskRunner`."""


def format_flags_page() -> str:
    """Returns docs/flags.md: every flag with its default, the values that it accepts and its meaning."""
    return "\n\n".join(_format_parts()) + "\n"


def _format_parts() -> Iterator[str]:
    yield _HEAD
    yield _format_table(("step", "what it does"), ((f"`{step}`", text) for step, text in STEP_SUMMARIES.items()))
    for section in FLAG_SECTIONS:
        steps = name_steps(section) if section.steps == STEPS else f"`{'`, `'.join(section.steps)}`"
        yield f"## {section.title} ({steps})"
        yield _format_flags(section.flags)
    yield _BEAM
    yield _format_table(
        ("flag", "default", "meaning"),
        ((_format_name(flag), flag.default_in_words, _mark_flags(flag.meaning)) for flag in COMMON_BEAM_FLAGS),
    )


def _format_flags(flags: Iterable[Flag]) -> str:
    rows = (
        (_format_name(flag), _format_default(flag), _format_allowed(flag), _mark_flags(flag.meaning)) for flag in flags
    )
    return _format_table(("flag", "default", "values", "meaning"), rows)


def _format_name(flag: Flag) -> str:
    return f"`--{flag.name}={flag.placeholder}`" if flag.placeholder else f"`--{flag.name}`"


def _format_default(flag: Flag) -> str:
    """Returns the default as code, or in italics where it is no value that could be given."""
    if not flag.default_in_words:
        return ""
    return f"*{_mark_flags(flag.without)}*" if flag.without else f"`{flag.default_in_words}`"


def _format_allowed(flag: Flag) -> str:
    return ", ".join(f"`{choice}`" for choice in flag.choices) or flag.allowed


def _mark_flags(text: str) -> str:
    """Returns a text with the flags, patterns and URLs in it as code."""
    return re.sub(r"--[a-z_]+(?:=\w+)?|\{label\}[^\s;,]*|gs://|dataset:ID:test", r"`\g<0>`", text)


def _format_table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = (head, ("---",) * len(head), *rows)
    return "\n".join("|" + "".join(f" {cell} |" if cell else " |" for cell in line) for line in lines)


if __name__ == "__main__":
    print(format_flags_page(), end="")
