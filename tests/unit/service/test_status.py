"""What a person is shown of the service, by `health` and `check`."""

from __future__ import annotations

from privyseal_service.check import Finding
from privyseal_service.status import lines

SAID = "its keys […] cannot be fetched: \x1b[2J\nready: all is well"
SHOWN = "its keys […] cannot be fetched: \\x1b[2J\\nready: all is well"


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
    assert lines(detail)[-1] == f"problem: issuer https://i.example: {SHOWN}"
    finding = Finding("issuer", "https://i.example", part="issuer", message=SAID)
    assert finding.line() == f"FAIL  issuer https://i.example: issuer: {SHOWN}"
