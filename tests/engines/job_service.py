"""Beam's local job service, which gives a job as many workers as `--direct_num_workers` says.

Left alone it has one for each job: it leaves out what FnApiRunner does with that flag in its own process.
"""

from __future__ import annotations

import sys
from typing import Any

from apache_beam.options.pipeline_options import DirectOptions
from apache_beam.portability.api import beam_job_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.local_job_service import BeamJob, LocalJobServicer
from apache_beam.runners.portability.local_job_service_main import serve


class _Job(BeamJob):
    def _invoke_runner(self) -> Any:
        self.set_state(beam_job_api_pb2.JobState.RUNNING)
        runner = FnApiRunner(provision_info=self._provision_info)
        options = self.pipeline_options()
        runner._num_workers = int(options.view_as(DirectOptions).direct_num_workers)
        return runner.run_via_runner_api(self._pipeline_proto, options)


if __name__ == "__main__":
    LocalJobServicer(beam_job_type=_Job).start_grpc_server(int(sys.argv[1]))
    serve("listening for jobs")
