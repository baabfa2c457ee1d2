"""The file of `--charset`: the symbols that a person wants."""

from __future__ import annotations

from tfrecords import Charset, CharsetError, DataError, storage


def read_charset_file(path: str) -> Charset:
    """Reads the file of `--charset`; raises a `DataError` if it does not hold one symbol a line, in UTF-8."""
    try:
        return Charset.from_lines(storage.read_bytes(path).decode("utf-8-sig"))
    except (UnicodeDecodeError, CharsetError) as error:
        raise DataError(f"--charset={path} has to hold one symbol a line, in UTF-8: {error}") from None
