"""The command: options, the steps and their order, the workspace, runners, and the run report."""

import os

# Before Arrow is loaded: its own allocator keeps what a job has given back, this one does not.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
