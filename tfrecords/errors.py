"""The exceptions that mean: the input, the request or the surroundings are wrong, not the program."""


class DataError(Exception):
    """What is wrong, with which value, in which file, and what to do: one sentence for a person.

    The command line prints the message alone and exits with status 1.
    """


class StoreError(DataError):
    """An object store does not answer, or refuses who asks: no fault of any one file, so that nothing can go on."""


class StoreLostError(StoreError):
    """An object store does not answer, or fails to: it may well do so later."""
