"""The policy of the pages: it lets exactly their own style and script be used."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from components.pages import name_source
from components.review.page import render_page
from pipeline.command_line import parse_options
from pipeline.report.page import write_report
from pipeline.report.record import CommandRecord
from pipeline.workspace import Workspace

HOSTILE = "</style></script><script>alert(1)</script>\"'>"


def render_report(folder) -> str:
    record = CommandRecord.start(parse_options(["--steps=infer"]), HOSTILE)
    record.fail(HOSTILE)
    with open(write_report(record, Workspace(str(folder)))["run report"], encoding="utf-8") as file:
        return file.read()


def render_review(_folder, of_labels: bool = False) -> str:
    line = {"text": HOSTILE, "before": "", "after": "", "uri": HOSTILE, "source": "data:,", "read": [(HOSTILE, True)]}
    line |= {"confidence": 0.5, "alternatives": [HOSTILE], "label": [(HOSTILE, True)], "label_confidence": 0.1}
    line |= {"reading": HOSTILE}
    return render_page(review_id=HOSTILE, dataset_id=HOSTILE, lines=[line], of_labels=of_labels)


@pytest.mark.parametrize(
    ("render", "scripts"),
    [(render_report, 0), (render_review, 1), (lambda folder: render_review(folder, True), 1)],
    ids=["report", "review", "review of labels"],
)
def test_the_policy_names_the_page_s_own_style_and_script_and_nothing_else(tmp_path, render, scripts):
    page = render(tmp_path)
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)
    assert page.index("Content-Security-Policy") < page.index("<style>")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.replace("&#39;", "'").split(";"))
    fixed = {"default-src": "'none'", "img-src": "data:", "base-uri": "'none'", "form-action": "'none'"}
    for kind, count in (("style", 1), ("script", scripts)):
        found = re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        assert len(found) == count
        digests = [base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() for content in found]
        fixed |= {f"{kind}-src": f"'sha256-{digest}'" for digest in digests}
    assert rules == fixed
    assert not re.search(r"\sstyle=|\son[a-z]+=", page)


def test_a_source_is_named_by_its_checksum():
    """The checksum of nothing is known: NIST, SHA-256 example values."""
    assert name_source("") == "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
