"""A node's place in the cluster that a scheduler describes in `TF_CONFIG`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

from tfrecords import DataError


@dataclasses.dataclass(frozen=True)
class ClusterPlace:
    """This node's place in the cluster that a scheduler describes in `TF_CONFIG`.

    Attributes:
        worker: its number among all workers, from 0; the first is the chief.
        addresses: `host:port` of each worker.
    """

    worker: int
    addresses: tuple[str, ...]

    @property
    def is_chief(self) -> bool:
        """Checks whether this node writes checkpoints and the model."""
        return self.worker == 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> ClusterPlace | None:
        """Reads the place from `TF_CONFIG`; returns None if that describes no cluster.

        A scheduler may call the first worker "chief", or (older ones) "master".

        Raises:
            DataError: if `TF_CONFIG` cannot be understood, or names tasks that do not train here.
        """
        text = environment.get("TF_CONFIG", "").strip()
        if not text:
            return None
        try:
            config = json.loads(text)
            cluster = {kind: tuple(addresses) for kind, addresses in config.get("cluster", {}).items() if addresses}
            if not all(isinstance(addresses, list) for addresses in config.get("cluster", {}).values()):
                raise TypeError("the addresses of a kind of task have to be a list")
            task = config.get("task", {})
            kind, index = task.get("type", "worker"), int(task.get("index", 0))
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(f"TF_CONFIG={text} is not what TensorFlow's documentation describes: {error}") from None
        if not cluster:
            return None
        if unknown := set(cluster) - {"chief", "master", "worker"}:
            raise DataError(
                f"TF_CONFIG names tasks of the kind {', '.join(sorted(unknown))}, which have nothing to do here: "
                "describe a cluster of workers, the first of which may be called chief"
            )
        if kind not in cluster or not 0 <= index < len(cluster[kind]):
            raise DataError(f"TF_CONFIG={text} names this task {kind} {index}, but its cluster has no such task")
        chiefs = (*cluster.get("chief", ()), *cluster.get("master", ()))
        return cls(index + len(chiefs) * (kind == "worker"), (*chiefs, *cluster.get("worker", ())))
