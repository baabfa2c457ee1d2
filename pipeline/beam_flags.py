"""Apache Beam's own flags, which pass through beside the project's."""

from __future__ import annotations

from typing import Any

from apache_beam.options import pipeline_options
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.engines import dask_cluster
from pipeline.flag_types import Flag

COMMON_BEAM_FLAGS = (
    Flag(
        "runner",
        "engine that runs the jobs: DirectRunner is this machine, others are DaskRunner, DataflowRunner, FlinkRunner, "
        "SparkRunner and PortableRunner",
        "NAME",
        without="DirectRunner",
    ),
    Flag(
        "direct_running_mode",
        "with DirectRunner, multi_processing uses several processes, as many as --direct_num_workers says",
        "MODE",
    ),
    Flag("direct_num_workers", "number of processes of DirectRunner", "N"),
    Flag("job_endpoint", "address of a job service, for PortableRunner, FlinkRunner and SparkRunner", "HOST:PORT"),
    Flag("dask_client_address", "address of a Dask scheduler, for DaskRunner", "ADDRESS"),
    Flag("project", "Google Cloud project that pays for a job of DataflowRunner", "ID"),
    Flag("region", "region of Dataflow's workers", "NAME"),
    Flag("temp_location", "folder for the files that a job of Dataflow needs", "gs://BUCKET/FOLDER"),
    Flag("setup_file", "setup.py of this project, which workers elsewhere install", "FILE"),
    Flag("sdk_container_image", "container image of workers that has this project installed", "IMAGE"),
)
"""The flags of Beam that help texts mention; their parser is Beam's."""

_BEAM_OPTION_CLASSES: tuple[Any, ...] = tuple(
    option_class
    for option_class in vars(pipeline_options).values()
    if isinstance(option_class, type)
    and issubclass(option_class, PipelineOptions)
    and option_class is not PipelineOptions
)


def list_beam_options(*, on_dask: bool) -> tuple[Any, ...]:
    """Returns the classes of options whose flags a command may have besides the project's, whatever was imported.

    Args:
        on_dask: whether the runner is DaskRunner, which has flags of its own.

    Raises:
        DataError: if they are those of DaskRunner, and Dask is not installed.
    """
    return (*_BEAM_OPTION_CLASSES, dask_cluster.load_dask_options()) if on_dask else _BEAM_OPTION_CLASSES
