"""Posting a run's record: to a real server that takes it, refuses it, or is not there."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pipeline.exits import EXIT_DONE
from pipeline.main import main
from pipeline.report import notify as module
from pipeline.report.notify import post_record


def test_the_record_is_posted_as_json(service):
    assert post_record(service.url, {"status": "done", "name": "ü \udce9"}) is None
    assert service.posted == [("application/json", {"status": "done", "name": "ü \udce9"})]


@pytest.mark.parametrize(
    ("statuses", "posts", "problem"),
    [
        ([503, 429, 204], 3, None),
        ([500], 3, "it answered 500 Internal Server Error"),
        ([404], 1, "it answered 404 Not Found"),
        ([302], 1, "it answered 302 Found"),
    ],
)
def test_a_fault_that_may_pass_is_tried_again_and_no_other(service, statuses, posts, problem):
    service.statuses = statuses
    assert post_record(service.url, {}) == problem
    assert len(service.posted) == posts


def test_a_service_that_is_not_there_is_a_sentence(service):
    service.server_close()
    assert "refused" in (post_record(service.url, {}) or "")


@pytest.mark.parametrize(
    "url", ["http://user:SECRET@127.0.0.1:port/", "http://127.0.0.1/SECRET x", "http:///SECRET", "http://SECRET@[::1/"]
)
def test_an_address_that_cannot_be_is_not_told(url, monkeypatch):
    monkeypatch.setattr(module, "_PAUSES_S", (0.0,))
    problem = post_record(url, {})
    assert problem
    assert "SECRET" not in problem


@contextlib.contextmanager
def serve_slowly(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Yields the URL of a service that reads a request, and answers as it likes until the client is gone."""
    listener = socket.create_server(("127.0.0.1", 0))
    gone = threading.Event()

    def serve() -> None:
        with contextlib.suppress(OSError):
            while not gone.is_set():
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.recv(1 << 16)
                    while not gone.is_set():
                        answer(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    gone.set()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def drip(connection: socket.socket) -> None:
    """Sends one byte of a header that never ends."""
    connection.sendall(b"x")
    time.sleep(0.05)


def go_on_and_on(connection: socket.socket) -> None:
    """Says that it is ready for the content, which it has."""
    connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    time.sleep(0.001)


@pytest.mark.parametrize("answer", [drip, go_on_and_on])
def test_a_service_that_answers_for_ever_is_given_up(monkeypatch, answer):
    monkeypatch.setattr(module, "_DEADLINE_S", 0.5)
    with serve_slowly(answer) as url:
        began = time.monotonic()
        assert post_record(url, {}) == "it was not done within 0.5 s"
        assert 0.5 <= time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("credentials", "sent"), [("night%40reader:p%3As@", b"night@reader:p:s"), ("reader@", b"reader:"), ("", None)]
)
def test_a_name_and_a_password_in_the_address_are_sent_as_browsers_do(service, credentials, sent):
    assert post_record(service.url.replace("://", f"://{credentials}"), {}) is None
    assert service.credentials == [sent and f"Basic {base64.b64encode(sent).decode()}"]


@pytest.mark.parametrize("flags", [("--steps=infer",), ("--steps=compact", "--date=2026-03-01")])
def test_the_service_hears_of_it_when_all_is_said_and_the_workspace_is_free(tmp_path, monkeypatch, capsys, flags):
    """The first command is refused by its step, the second one finds nothing to do."""
    seen = []

    def look(_url: str | None, record: dict) -> None:
        seen.append((capsys.readouterr().out.splitlines()[-1][:16], record["status"]))
        if len(seen) == 1:
            assert main([f"--workspace={tmp_path}", "--steps=compact", "--date=2026-03-01"]) == EXIT_DONE

    monkeypatch.setattr("pipeline.main.notify_service", look)
    status = main([f"--workspace={tmp_path}", *flags, "--notify_url=http://127.0.0.1/"])
    assert seen == [("summary: status=", "done" if status == EXIT_DONE else "failed")]
