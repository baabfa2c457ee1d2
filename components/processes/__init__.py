"""Work spread over threads and over helper processes, which decode images within bounds."""

from components.processes.bounds import bound_decoding, is_helper
from components.processes.pool import HelperPool
from components.processes.states import StoppedTimes
from components.processes.threads import map_in_threads, split_into_groups

__all__ = ["HelperPool", "StoppedTimes", "bound_decoding", "is_helper", "map_in_threads", "split_into_groups"]
