"""The reading of a spreadsheet in a process of its own.

The library ends the process where a file asks for more memory than there is, and some files are made to do so. This
file is run as a program, and imports nothing of the project.
"""

from __future__ import annotations

import io
import itertools
import pickle
import resource
import signal
import sys
from typing import IO, Any

LENGTH_BYTES = 8
"""Of the number of bytes of the spreadsheet, big-endian, which stands before it in the input."""
MORE_ROWS, NEXT_SHEET = b"r", b"n"
"""What may be asked for then."""
_ROWS_AT_A_TIME = 1_000


def serve_sheets(questions: IO[bytes], answers: IO[bytes]) -> None:
    """Answers questions about a spreadsheet, pickled.

    The first answer, and that to each `NEXT_SHEET`, is the name of a sheet that is not empty, or None at the end. That
    to each `MORE_ROWS` is a list of rows, empty at the end: each is its number, from 1, and its cells; rows without a
    cell are left out. If the spreadsheet cannot be read, the answer is an `Exception`.
    """
    import python_calamine

    def answer(value: Any) -> None:
        pickle.dump(value, answers)
        answers.flush()

    content = questions.read(int.from_bytes(questions.read(LENGTH_BYTES), "big"))
    try:
        with python_calamine.load_workbook(io.BytesIO(content)) as workbook:
            for name in workbook.sheet_names:
                sheet = workbook.get_sheet_by_name(name)
                if sheet.start is None:
                    continue
                answer(name)
                numbered = enumerate(sheet.iter_rows(), 1)
                rows = (row for row in numbered if any(cell != "" for cell in row[1]))
                while question := questions.read(1):
                    if question == NEXT_SHEET:
                        break
                    answer(list(itertools.islice(rows, _ROWS_AT_A_TIME)))
        answer(None)
    except python_calamine.CalamineError as error:
        answer(Exception(str(error)))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from the terminal it goes to all; the first process decides
    for limit, most in ((resource.RLIMIT_AS, int(sys.argv[1])), (resource.RLIMIT_CPU, int(sys.argv[2]))):
        _, hard = resource.getrlimit(limit)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve_sheets(sys.stdin.buffer, sys.stdout.buffer)
