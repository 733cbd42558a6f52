"""A token with the vectors' key "demo", and a module in front of it that fails on cue."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.shim import FaultShim
from tests.support.softhsm import SoftHsmToken, import_rsa_key, make_token
from tests.unit.pkcs11.helpers import VECTORS


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHsmToken]:
    """One for all tests of a module; a test that changes its state makes its own."""
    made = make_token(tmp_path_factory.mktemp("token"), "unit tests")
    import_rsa_key(made, "demo", VECTORS / "capgo-v3" / "private.pem")
    with made.in_this_process():
        yield made


@pytest.fixture
def shim(token: SoftHsmToken, tmp_path: Path) -> Iterator[FaultShim]:
    made = FaultShim.build(tmp_path, token.module_path)
    yield made
    made.clear()
