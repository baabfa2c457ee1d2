"""The one exception that means: the input or the request is wrong, not the program."""


class DataError(Exception):
    """What is wrong, with which value, in which file, and what to do: one sentence for a person.

    The command line prints the message alone and exits with status 1.
    """
