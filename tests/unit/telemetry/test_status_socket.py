"""The health detail, as a person reads it."""

from __future__ import annotations

from typing import Any

from privyseal_service.runtime.preflight import Finding
from privyseal_service.telemetry.status_socket import (
    active_issues,
    format_lines,
)

WORKER = {"number": 0, "pid": 7, "state": "serving", "keys": {"app": "serving"}, "problems": {"key 'b'": "away\x1b[2J"}}


DETAIL: dict[str, Any] = {
    "version": "1", "pid": 6, "ready": False, "configuration": {"read": "then", "keys": 1, "grants": 2},
    "workers": [WORKER, {**WORKER, "number": 1}], "sinks": [{"name": "file x", "waiting": 1, "behind_s": 2.5}],
    "problems": {"configuration": "it stays as it was"},
}  # fmt: skip


SAID = "its keys […] cannot be fetched: \x1b[2J\nready: all is well"


SHOWN = "its keys […] cannot be fetched: \\x1b[2J\\nready: all is well"


def test_for_a_person() -> None:
    assert format_lines(DETAIL) == [
        "NOT READY: version 1, process 6",
        "configuration of then: 1 keys, 2 grants",
        "worker 0, process 7: serving; app=serving",
        "worker 1, process 7: serving; app=serving",
        "checkpoints to file x: 1 wait, 2 s behind",
        "problem: configuration: it stays as it was",
        "problem: key 'b': away\\x1b[2J",
    ]
    assert len(active_issues(DETAIL)) == 2  # what both workers say is one


def test_what_a_server_answered_reaches_no_terminal_as_it_came() -> None:
    detail = {
        "ready": True,
        "version": "1",
        "pid": 1,
        "configuration": {"read": "2026-05-28", "keys": 1, "grants": 1},
        "workers": [],
        "sinks": [],
        "problems": {"issuer https://i.example": SAID},
    }
    assert format_lines(detail)[-1] == f"problem: issuer https://i.example: {SHOWN}"
    finding = Finding("issuer", "https://i.example", part="issuer", message=SAID)
    assert finding.line() == f"FAIL  issuer https://i.example: issuer: {SHOWN}"
