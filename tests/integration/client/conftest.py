"""Servers on loopback, and the real program."""

from __future__ import annotations

from tests.support.client_fixtures import (  # noqa: F401 - fixtures
    bundle,
    mutual_server,
    pki,
    program,
    program_here,
    server,
    tls_server,
    vector,
)
