"""What several tests of the command share."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from components.training.launcher import TrainingLostError
from pipeline.report import notify
from pipeline.steps import training_apart


class Service(http.server.HTTPServer):
    """Answers with the given statuses, one after the other, the last one for ever; keeps what was posted."""

    def __init__(self, statuses: list[int]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses = statuses
        self.posted: list[tuple[str, dict]] = []
        self.credentials: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook?key=abc"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posted.append((self.headers["Content-Type"], json.loads(content)))
        self.server.credentials.append(self.headers["Authorization"])
        statuses = self.server.statuses
        self.send_response(statuses.pop(0) if len(statuses) > 1 else statuses[0])
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def trainings(monkeypatch) -> list[tuple]:
    """The arguments of each training apart that is begun, the second of which is lost."""
    train, begun = training_apart.train_until_reading, []

    def lose_the_second(*arguments, **how):
        begun.append(arguments)
        if len(begun) == 2:
            raise TrainingLostError("worker 0 was killed")
        return train(*arguments, **how)

    monkeypatch.setattr(training_apart, "train_until_reading", lose_the_second)
    return begun


@pytest.fixture
def service(monkeypatch) -> Iterator[Service]:
    """A server that takes what a run posts."""
    monkeypatch.setattr(notify, "_PAUSES_S", (0.0, 0.01, 0.01))
    found = Service([200])
    thread = threading.Thread(target=found.serve_forever)
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()
