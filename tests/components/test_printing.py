"""What is printed of names and words that others chose, and printing to streams that take nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from components.printing import make_printable


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("scans/ü 中 אב.png", "scans/ü 中 אב.png"),
        ("a\nsummary: status=done", r"a\nsummary: status=done"),
        ("a\r\tb\x0b\x0c", r"a\r\tb\x0b\x0c"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("\x7f\x85\x9b31m", r"\x7f\x85\x9b31m"),
        ("a\u2028b\u2029c", r"a\u2028b\u2029c"),
        ("gnp.\u202egnj.exe\u2066\u2069\u200e\u200f\u061c", r"gnp.\u202egnj.exe\u2066\u2069\u200e\u200f\u061c"),
        ("not UTF-8: \udce9", r"not UTF-8: \udce9"),
    ],
)
def test_what_could_act_on_a_terminal_is_escaped(text, printed):
    assert make_printable(text) == printed
    assert len(make_printable(text).splitlines()) == 1


_PROGRAM = """
import json, sys
from components.printing import list_losses, prepare_streams
prepare_streams()
print("one")
print("two", file=sys.stderr)
file = open(sys.argv[1], "w")  # takes the place of a stream that is closed
print("three")
file.write(json.dumps(list_losses()))
file.close()
sys.stdout.flush()
sys.stdout.close()
"""


@pytest.mark.parametrize(
    ("redirection", "losses"),
    [
        ("", []),
        (">/dev/full", ["standard output did not take all that was printed: No space left on device"]),
        ("2>/dev/full", ["standard error did not take all that was printed: No space left on device"]),
        (">&-", ["standard output did not take all that was printed: it was closed from the beginning"]),
        (
            "<&- >&- 2>&-",
            [
                "standard error did not take all that was printed: it was closed from the beginning",
                "standard output did not take all that was printed: it was closed from the beginning",
            ],
        ),
    ],
)
def test_a_stream_that_takes_nothing_is_noted_and_ends_nothing(tmp_path, redirection, losses):
    said = tmp_path / "said"
    shell = f'exec "$0" -c "$1" "$2" {redirection}'
    done = subprocess.run(
        ["sh", "-c", shell, sys.executable, _PROGRAM, str(said)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert json.loads(said.read_text()) == losses
    if not redirection:
        assert (done.stdout, done.stderr) == ("one\nthree\n", "two\n")
