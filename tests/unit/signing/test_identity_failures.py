"""Callers without a name: the log says why, and a scanner does not flood it."""

from __future__ import annotations

import re

import pytest

from privyseal_service.domain.caller import IdentityError
from privyseal_service.signing.identity_failures import LINES_AT_ONCE, IdentityFailures

CALLS = 500


def test_beyond_a_rate_calls_are_counted_and_none_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    failures = IdentityFailures()
    for n in range(CALLS):
        failures.report(f"r{n}", f"ipv4:192.0.2.1:{n}", IdentityError("its certificate has no name"))
    lines = caplog.text.count("its certificate has no name")
    assert LINES_AT_ONCE <= lines < CALLS
    failures.report("r", "ipv6:[2001:db8::1]:7", IdentityError("its token has expired"))
    assert "request r from ipv6:[2001:db8::1]:7: its token has expired" in caplog.text
    failures.sum_up()
    (counted,) = re.findall(r"(\d+) more calls from ipv4:192\.0\.2\.1 could not be authenticated", caplog.text)
    assert int(counted) + lines == CALLS
    failures.sum_up()
    assert caplog.text.count("more calls") == 1


def test_many_hosts_share_what_lines_there_are(caplog: pytest.LogCaptureFixture) -> None:
    failures = IdentityFailures()
    for n in range(10 * CALLS):
        failures.report("r", f"ipv4:10.0.{n // 250}.{n % 250}:1", IdentityError("no token"))
    assert caplog.text.count("no token") < CALLS
    failures.sum_up()
    assert "more calls from (others)" in caplog.text
