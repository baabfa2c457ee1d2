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
from typing import IO

_ROWS_AT_A_TIME = 500


def write_sheets(content: bytes, output: IO[bytes]) -> None:
    """Writes what a spreadsheet has, pickled: for each sheet that is not empty its name and then lists of its rows.

    Each row is its number, from 1, and its cells; rows without a cell are left out. The end is None, or the error as
    an `Exception`.
    """
    import python_calamine

    try:
        with python_calamine.load_workbook(io.BytesIO(content)) as workbook:
            for name in workbook.sheet_names:
                sheet = workbook.get_sheet_by_name(name)
                if sheet.start is None:
                    continue
                pickle.dump(name, output)
                rows = (
                    (number, cells) for number, cells in enumerate(sheet.iter_rows(), 1) if any(c != "" for c in cells)
                )
                while some := list(itertools.islice(rows, _ROWS_AT_A_TIME)):
                    pickle.dump(some, output)
        pickle.dump(None, output)
    except python_calamine.CalamineError as error:
        pickle.dump(Exception(str(error)), output)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from the terminal it goes to all; the first process decides
    for limit, most in ((resource.RLIMIT_AS, int(sys.argv[1])), (resource.RLIMIT_CPU, int(sys.argv[2]))):
        _, hard = resource.getrlimit(limit)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    write_sheets(sys.stdin.buffer.read(), sys.stdout.buffer)
