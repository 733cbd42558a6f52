"""Peers that hold what they can: connections that say nothing, streams, headers, pings."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.farm import farm_store
from tests.support.grpc_servers import grpc_server  # noqa: F401 - an autouse fixture
from tests.support.pki import CA
from tests.support.processes import until
from tests.support.service import RunningService
from tests.support.targets import SIGN, Target, config

SILENT = 1000


@pytest.fixture(scope="module", autouse=True)
def _descriptors() -> Iterator[None]:
    """Both ends are in this process, so it needs more descriptors than a shell gives."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def serving(ca: CA, folder: Path, **server: object) -> Iterator[Target]:
    data = config(ca, folder)
    data["server"].update(server)
    store = farm_store(rsa.generate_private_key(65537, 2048))
    with RunningService(data, store.backends) as running:
        yield Target(running, store, ca, folder)


@contextlib.contextmanager
def silent(address: str, number: int) -> Iterator[list[socket.socket]]:
    """Connections that say nothing."""
    host, _, port = address.rpartition(":")
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection((host, int(port)), timeout=30)) for _ in range(number)]


def ended(connections: list[socket.socket]) -> int:
    """How many the service has ended by now."""
    count = 0
    for each in connections:
        each.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            try:
                count += each.recv(1) == b""
            except ConnectionError:
                count += 1
    return count


def resident_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def test_a_thousand_connections_that_say_nothing(target_ca: CA, tmp_path: Path) -> None:
    """The service goes on, at little cost, and is rid of them after its time for handshakes."""
    with serving(target_ca, tmp_path, handshake_timeout_s=2.0) as target:
        assert target.build().SignChecksum(SIGN, timeout=20).signature
        before_mib = resident_mib()
        with silent(target.running.address(), SILENT) as connections:
            for _ in range(5):
                assert target.build().SignChecksum(SIGN, timeout=20).signature
            assert resident_mib() - before_mib < 150
            for each in connections:
                each.settimeout(60)
                with contextlib.suppress(ConnectionError):
                    assert each.recv(1) == b""
        assert target.build().SignChecksum(SIGN, timeout=20).signature


def test_more_connections_than_there_may_be(target_ca: CA, tmp_path: Path) -> None:
    with serving(target_ca, tmp_path, max_connections=20, handshake_timeout_s=2.0) as target:
        with silent(target.running.address(), 60) as connections:
            connections[-1].settimeout(60)
            with contextlib.suppress(ConnectionError):
                assert connections[-1].recv(1) == b""
            until(lambda: ended(connections) >= 40)
        assert target.build().SignChecksum(SIGN, timeout=20, wait_for_ready=True).signature
