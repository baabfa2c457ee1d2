"""Exit statuses, and the choice of one for an error."""

from __future__ import annotations

from components.training.launcher import TrainingLostError
from pipeline.engines.dask_cluster import ClusterLostError
from pipeline.options import UsageError
from tfrecords import DataError, ProcessLostError, StoreLostError

EXIT_DONE, EXIT_REFUSED, EXIT_USAGE, EXIT_HELD, EXIT_ALARM = 0, 1, 2, 3, 4
EXIT_AGAIN, EXIT_INTERRUPTED, EXIT_LOST = 75, 130, 138


def choose_status(error: DataError) -> int:
    """Chooses the exit status for an error: it says whether the same command may well succeed later."""
    from pipeline.engines.errors import JobLostError

    if isinstance(error, UsageError):
        return EXIT_USAGE
    if isinstance(error, TrainingLostError):
        return EXIT_LOST
    lost = isinstance(error, JobLostError | ClusterLostError | StoreLostError | ProcessLostError)
    return EXIT_AGAIN if lost else EXIT_REFUSED


def describe_error(error: Exception) -> str:
    """Returns an error in one sentence, with the file's name if it has one."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)
