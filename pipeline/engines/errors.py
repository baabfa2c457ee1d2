"""Translation of what an engine raises into the sentence that a person needs."""

from __future__ import annotations

import re
import traceback

import grpc  # type: ignore[import-untyped]

from pipeline.engines.dask_cluster import ClusterLostError
from tfrecords import DataError, ProcessLostError, StoreError, StoreLostError

_LACKS_PROJECT = r"No module named '(pipeline|components|tfrecords)\b"
# What engines say when the connection to a worker breaks; the first line is from Beam's own.
_LOST_WORKER = (
    r"Channel closed prematurely|^grpc\.RpcError$|Worker subprocess exited"
    r"|StatusRuntimeException: CANCELLED: client cancelled"  # Flink's words, of a worker of Beam and of one of its own
    r"|remote task manager was lost|Heartbeat of TaskManager with id \S+ timed out|TaskManager with id \S+ is no longer"
    r"|RecipientUnreachableException: Could not send message \[RemoteRpcInvocation\(TaskExecutorGateway\."
    r"|Process died with exit code (?:137|143)\b"  # of a worker of Beam that was killed while it started
    r"|lost contact with the service|A work item was attempted \d+ times without success"  # Dataflow's words
)
# What Beam's job server says when Flink's job manager has gone; it asks for a minute.
_LOST_ENGINE = r"java\.net\.ConnectException: Connection refused"
# What Flink says when its slots were not enough, or not free, for as long as its `slot.request.timeout`.
_NO_SLOTS = r"TimeoutException: Timeout has occurred: (\d+) ms"


class JobLostError(DataError):
    """A job failed by no fault of its input, and can be run again.

    Attributes:
        story: what the engine said.
    """

    def __init__(self, sentence: str, story: str):
        super().__init__(sentence)
        self.story = story


def translate_error(error: Exception, name: str, *, local: bool) -> DataError | None:
    """Translates an engine's exception for a person; None if the exception says all that can be said.

    Args:
        name: of the runner.
        local: whether the engine runs in this process.
    """
    story = str(error)
    if isinstance(error, DataError):
        kinds: tuple[type[DataError], ...] = (StoreLostError, StoreError, ClusterLostError, ProcessLostError, DataError)
        return next(kind for kind in kinds if isinstance(error, kind))(_strip_place(story))
    if not local and (isinstance(error, grpc.RpcError) or re.search(_LOST_ENGINE, story)):
        return JobLostError(
            f"{name}: the connection to the engine broke ({_describe_status(error)}); when it is back, run the same "
            "command to resume from what is finished",
            format_story(error),
        )
    if re.search(_LACKS_PROJECT, story):
        return DataError(
            f"{name}: the workers lack this project: pass --setup_file=./setup.py, or --sdk_container_image=IMAGE of "
            "an image in which it is installed"
        )
    if own := find_own_error(story):
        return own
    if isinstance(error, grpc.RpcError) or re.search(_LOST_WORKER, story, re.MULTILINE):
        return JobLostError(
            f"{name}: the job failed because a worker was lost (killed, out of memory, or its machine was taken away); "
            "run the same command to resume from what is finished",
            format_story(error),
        )
    if waited := re.search(_NO_SLOTS, story):
        return JobLostError(
            f"{name}: the job got no task slots for {int(waited[1]) // 1000} s: start more task managers, wait for "
            "other jobs to end, or lower --parallelism; then run the same command",
            format_story(error),
        )
    if type(error).__module__.startswith("google.api_core"):
        return DataError(f"{name}: the job is refused: {story}")
    return None


def find_own_error(story: str) -> DataError | None:
    """Finds this project's error in the traceback that an engine passes on as text."""
    found = re.findall(r"^tfrecords\.\w+\.(\w*Error): (.+?)(?: \[while running|$)", story, re.MULTILINE)
    if not found:
        return None
    name, sentence = found[-1]
    kinds: dict[str, type[DataError]] = {kind.__name__: kind for kind in (StoreError, StoreLostError, ProcessLostError)}
    return kinds.get(name, DataError)(sentence)


def format_story(error: Exception) -> str:
    """Formats an exception with its traceback."""
    return "".join(traceback.format_exception(error))


def _describe_status(error: Exception) -> str:
    if not isinstance(error, grpc.RpcError):
        return "connection refused"
    code, details = getattr(error, "code", None), getattr(error, "details", None)
    return f"{code().name}: {details()}" if code and details else type(error).__name__


def _strip_place(message: str) -> str:
    return re.sub(r" \[while running '[^\]]*'\]", "", message)
