"""Posting a run's record: to a real server that takes it, refuses it, or is not there."""

from __future__ import annotations

import pytest

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


@pytest.mark.parametrize("url", ["http://user:SECRET@127.0.0.1:port/", "http://127.0.0.1/SECRET x", "http:///SECRET"])
def test_an_address_that_cannot_be_is_not_told(url, monkeypatch):
    monkeypatch.setattr(module, "_PAUSES_S", (0.0,))
    problem = post_record(url, {})
    assert problem
    assert "SECRET" not in problem
