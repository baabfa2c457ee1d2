"""The command: options, the steps and their order, the workspace, runners, and the run report."""
