"""The nightly run as a DAG of Airflow 3, on a worker that has the project and sees the workspace: docs/nightly.md."""

from datetime import datetime, timedelta
from typing import Any

from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.sdk import BaseOperator, dag, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException

PROJECT = "/srv/line-reader"
DONE, ALARM = 0, 4
AGAIN = {
    3: "another run holds the workspace",
    75: "an engine or an object store was lost",
    130: "it was interrupted",
    138: "training lost its workers",
}


class ReadCollection(BaseOperator):
    """Runs the command; its result is the exit status, 0 or 4."""

    def execute(self, context: Any) -> int:
        """Raises what Airflow repeats (AirflowException) or does not (AirflowFailException)."""
        self._hook = SubprocessHook()
        command = [f"{PROJECT}/.venv/bin/python", "run_pipeline.py", "--config=nightly.yaml"]
        status: int = self._hook.run_command(command, cwd=PROJECT).exit_code
        if status in (DONE, ALARM):
            return status
        if status in AGAIN or status < 0:  # the latter: a signal, such as that of a machine without memory
            raise AirflowException(f"status {status}: {AGAIN.get(status, 'killed')}; it goes on when repeated")
        raise AirflowFailException(f"status {status}: repeated, it would fail again; the reason is above")

    def on_kill(self) -> None:
        """The command stops at SIGTERM, and keeps what is finished."""
        self._hook.send_sigterm()


@dag(
    schedule="30 1 * * *",  # UTC
    start_date=datetime(2026, 1, 1),
    catchup=False,  # one run reads whatever is new, of however many nights
    max_active_runs=1,
)
def nightly() -> None:
    """`read` is done when the predictions are committed; `alarm` is red when a person should look at them."""

    @task(retries=0)
    def alarm(status: int) -> None:
        if status == ALARM:
            raise AirflowFailException(
                "read and committed, but with an alarm: see the log of `read` and the run report"
            )

    read = ReadCollection(
        task_id="read",
        retries=5,
        retry_delay=timedelta(minutes=15),
        retry_exponential_backoff=True,
        max_retry_delay=timedelta(hours=2),
        execution_timeout=timedelta(hours=20),
    )
    alarm(read.output)


nightly()
