"""The published tools of others: where one of the programs that they run in is missing, their tests fail and say so."""

from __future__ import annotations

import pytest

from tests.support.needed import program


@pytest.fixture(scope="session")
def with_node():
    """What a module that runs node asks for."""
    for name in ("node", "npm"):
        program(name)
