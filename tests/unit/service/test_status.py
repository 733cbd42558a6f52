"""The health detail for a person."""

from __future__ import annotations

from privyseal_service.status import lines


def test_what_a_server_answered_reaches_no_terminal_as_it_came() -> None:
    detail = {
        "ready": True,
        "version": "1",
        "pid": 1,
        "configuration": {"read": "2026-05-28", "keys": 1, "grants": 1},
        "workers": [],
        "sinks": [],
        "problems": {"issuer https://i.example": "its keys cannot be fetched: \x1b[2J\nready: all is well"},
    }
    assert lines(detail)[-1] == (
        "problem: issuer https://i.example: its keys cannot be fetched: \\x1b[2J\\nready: all is well"
    )
