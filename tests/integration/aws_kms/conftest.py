"""One emulator for the run; a fault proxy and AWS variables for each test."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import fault_proxy
from tests.fakes.fault_proxy import FaultProxy
from tests.support import aws_environment
from tests.support import ministack as emulator
from tests.support.ministack import ACCOUNT, Ministack


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


@pytest.fixture
def unused_endpoint() -> Iterator[str]:
    """An endpoint on a port that is taken and that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture(autouse=True)
def isolated_aws_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    aws_environment.isolate(monkeypatch, tmp_path, ACCOUNT)
