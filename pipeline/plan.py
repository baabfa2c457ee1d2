"""The plan of a command: what each step would do, with nothing changed."""

from __future__ import annotations

import copy
import logging
import tempfile

from apache_beam.options.pipeline_options import GoogleCloudOptions, StandardOptions

from pipeline.engines.jobs import describe_runner
from pipeline.options import LinePipelineOptions
from pipeline.steps import choose_steps
from pipeline.steps.step import Context
from pipeline.workspace import Workspace

log = logging.getLogger(__name__)


def print_plan(options: LinePipelineOptions, workspace: Workspace) -> None:
    """Says for each step what it would read, with what, where it would write, and how long that might take.

    Images are listed on this machine, whatever the runner, into a temporary folder.

    Raises:
        DataError: for what the command would refuse, as far as it can be seen without doing it.
    """
    here = copy.deepcopy(options)
    here.view_as(StandardOptions).runner = "DirectRunner"
    here.view_as(GoogleCloudOptions).template_location = None
    log.info(f"plan: workspace {workspace.root}, runner {describe_runner(options)}; nothing is changed")
    steps = choose_steps(options.step_names)
    planned = PlannedWorkspace(workspace.root)
    with tempfile.TemporaryDirectory(prefix="plan-") as folder:
        context = Context(here, planned, Workspace(folder))
        for number, step in enumerate(steps, 1):
            log.info(f"[{number}/{len(steps)}] {step.name}")
            for line in step.plan(context).lines:
                log.info(f"  {line}")


class PlannedWorkspace(Workspace):
    """A workspace whose pointers name what the steps before would make; nothing is written to it."""

    def __init__(self, root: str):
        super().__init__(root)
        self._expected: dict[tuple[str, str], str | None] = {}

    def read_pointer(self, kind: str, name: str) -> str | None:
        """Reads a pointer as it will be, as far as that is known; else as it is."""
        return self._expected.get((kind, name)) or super().read_pointer(kind, name)

    def expects(self, kind: str, name: str) -> bool:
        """Checks whether a pointer will name something that is not there yet, or may."""
        if (kind, name) not in self._expected:
            return False
        target = self._expected[kind, name]
        return target is None or not self.holds(kind, target)

    def expect(self, kind: str, name: str, target: str | None) -> None:
        """Takes note of what a pointer will name; None for what is not known yet."""
        self._expected[kind, name] = target
