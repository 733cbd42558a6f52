"""One emulator for the run; a fault proxy and AWS variables for each test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import fault_proxy
from tests.fakes.fault_proxy import FaultProxy
from tests.integration.aws_kms.helpers import SECRET
from tests.support import ministack as emulator
from tests.support.ministack import Ministack


@pytest.fixture(scope="session")
def ministack() -> Iterator[Ministack]:
    with emulator.running() as running:
        yield running


@pytest.fixture
def proxy(ministack: Ministack) -> Iterator[FaultProxy]:
    with fault_proxy.running(ministack.endpoint) as running:
        yield running


@pytest.fixture(scope="session")
def signing_key(ministack: Ministack) -> str:
    """The ARN of an RSA-2048 key for signatures, which no test changes."""
    return ministack.create_key()


@pytest.fixture(scope="session")
def decryption_key(ministack: Ministack) -> str:
    """The ARN of an RSA-2048 key for decryption, which no test changes."""
    return ministack.create_key(usage="ENCRYPT_DECRYPT")


@pytest.fixture(autouse=True)
def aws_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An AWS configuration of the test alone: two variables with credentials, empty files, no instance role."""
    for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        (tmp_path / name).touch()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", emulator.ACCOUNT)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
