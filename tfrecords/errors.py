"""Exceptions for what is wrong with the input, the command or the surroundings, not with the program."""


class DataError(Exception):
    """One sentence for a person: what is wrong, with which value, in which file, and what to do.

    The command line prints the message alone and exits with status 1.
    """


class StoreError(DataError):
    """An object store that does not answer or refuses the credentials, so that no file can be used."""


class StoreLostError(StoreError):
    """An object store that does not answer, or fails to, but may do so later."""


class ProcessLostError(DataError):
    """Processes on this machine that were ended again and again from outside, so that work could not be done."""
