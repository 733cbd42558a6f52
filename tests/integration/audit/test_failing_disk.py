"""A disk that fails under the whole service: what was not safely on record does not leave, and no key is asked."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from grpc_health.v1 import health_pb2, health_pb2_grpc

from privyseal.v1 import signing_pb2 as pb
from privyseal.v1.signing_pb2_grpc import SigningServiceStub
from privyseal_service.audit.journal import open_journal
from privyseal_service.audit.recorder import AuditRecorder
from privyseal_service.config.loading import parse_config
from privyseal_service.runtime.service import Service
from tests.fakes.software_store import SoftwareStore
from tests.integration.audit.conftest import LOG
from tests.support.audit.helpers import FaultyFiles, fail_on, no_fault
from tests.support.pki import CA
from tests.support.service import secure_channel
from tests.support.serving import CALLER

TIMEOUT_S = 20.0


class WatchedFiles(FaultyFiles):
    """Remembers what was on the device after each sync that succeeded."""

    def __init__(self) -> None:
        super().__init__()
        self.durable = b""
        self._written: dict[int, bytes] = {}

    def write(self, descriptor: int, data: bytes) -> None:
        super().write(descriptor, data)
        self._written[descriptor] = self._written.get(descriptor, b"") + data

    def sync(self, descriptor: int) -> None:
        super().sync(descriptor)
        self.durable += self._written.pop(descriptor, b"")

    def close(self, descriptor: int) -> None:
        self._written.pop(descriptor, None)
        super().close(descriptor)


class Running:
    """A service in this process, on files that fail on cue."""

    def __init__(self, folder: Path, ca: CA, private_key: rsa.RSAPrivateKey) -> None:
        self.files = WatchedFiles()
        self.store = SoftwareStore()
        self.store.add("demo", private_key)
        certificate, key = ca.server().write(folder, "server")
        self._config = parse_config(
            {
                "audit": {"folder": "audit", "log": LOG, "key": "audit.key"},
                "listeners": [
                    {
                        "address": "127.0.0.1:0",
                        "auth": "mtls",
                        "certificate": str(certificate),
                        "certificate_key": str(key),
                        "client_cas": [{"file": str(ca.write(folder)), "names": ["dns:*.build.example"]}],
                    }
                ],
                "keys": [{"name": "demo", "uri": "software:demo", "schemes": ["capgo", "capgo-v3"]}],
                "grants": [
                    {
                        "name": "all",
                        "callers": [CALLER],
                        "keys": ["demo"],
                        "operations": ["sign-checksum", "wrap-session-key"],
                    }
                ],
            },
            "server.toml",
            folder,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="service")
        self.service: Service
        self.channel: grpc.Channel
        self._ca = ca

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _start(self) -> None:
        assert self._config.audit is not None
        recorder = AuditRecorder(self._config.audit, open_with=partial(open_journal, files=self.files))
        self.service = Service(self._config, backends=self.store.backends, recorder=recorder)
        await self.service.start()

    @contextmanager
    def serving(self) -> Iterator[Running]:
        self._thread.start()
        try:
            self.run(self._start())
            address = self.service.addresses[0][1]
            with secure_channel(address, self._ca, self._ca.issue(dns=[CALLER.removeprefix("dns:")])) as self.channel:
                yield self
        finally:
            self.files.fault = no_fault
            self.run(self.service.stop(5))
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def sign(self, text: bytes = b"zip") -> bytes:
        request = pb.SignChecksumRequest(checksum=hashlib.sha256(text).digest(), scheme=pb.SIGNATURE_SCHEME_CAPGO_V3)
        return SigningServiceStub(self.channel).SignChecksum(request, timeout=TIMEOUT_S).signature

    def is_durable(self, signature: bytes) -> bool:
        return hashlib.sha256(signature).hexdigest().encode() in self.files.durable

    def health(self) -> int:
        stub = health_pb2_grpc.HealthStub(self.channel)
        return stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S).status

    def until_healthy(self) -> None:
        deadline_s = time.monotonic() + 30
        while self.health() != health_pb2.HealthCheckResponse.SERVING:
            assert time.monotonic() < deadline_s, "the service did not resume"
            time.sleep(0.02)


@pytest.fixture
def running(tmp_path: Path, audit_ca: CA, audit_private_key: rsa.RSAPrivateKey) -> Iterator[Running]:
    with Running(tmp_path, audit_ca, audit_private_key).serving() as started:
        yield started


def refused(call: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as found:
        call()
    assert found.value.code() is grpc.StatusCode.UNAVAILABLE
    details = dict(found.value.trailing_metadata())["grpc-status-details-bin"]
    assert b"AUDIT_UNAVAILABLE" in details
    return found.value


@pytest.mark.parametrize("verb", ["write", "sync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_nothing_leaves_the_store_is_not_asked_again_and_service_resumes(
    running: Running, verb: str, code: int
) -> None:
    assert running.is_durable(running.sign(b"before"))
    running.files.fault = fail_on(verb, code=code)
    refused(lambda: running.sign(b"the first that fails"))
    asked = running.store.calls.signed
    for _ in range(5):
        error = refused(running.sign)
        assert "audit" in error.details()
        assert str(running.files.names) not in error.details()
    assert running.store.calls.signed == asked
    assert running.health() == health_pb2.HealthCheckResponse.NOT_SERVING
    running.files.fault = no_fault
    running.until_healthy()
    assert running.is_durable(running.sign(b"after"))


def test_denials_do_not_leave_either(running: Running) -> None:
    running.files.fault = fail_on("sync")
    refused(running.sign)
    request = pb.SignChecksumRequest(key="another", checksum=bytes(32), scheme=pb.SIGNATURE_SCHEME_CAPGO_V3)
    refused(lambda: SigningServiceStub(running.channel).SignChecksum(request, timeout=TIMEOUT_S))


def test_what_waits_for_its_turn_does_not_reach_the_store_after_a_failure(running: Running) -> None:
    """A batch is in the queue when the disk fails: its later chunks are not signed."""
    running.store.faults.delay_s = 0.01
    request = pb.BatchSignChecksumsRequest(
        checksums=[hashlib.sha256(b"%d" % number).digest() for number in range(400)],
        scheme=pb.SIGNATURE_SCHEME_CAPGO_V3,
    )
    before = running.store.calls.signed
    batch = SigningServiceStub(running.channel).BatchSignChecksums.future(request, timeout=TIMEOUT_S)
    deadline_s = time.monotonic() + 20
    while running.store.calls.signed < before + 5:
        assert time.monotonic() < deadline_s
        time.sleep(0.005)
    running.files.fault = fail_on("sync")
    with pytest.raises(grpc.RpcError):
        running.sign(b"the one that finds out")
    refused(batch.result)
    assert running.store.calls.signed - before < 400


def test_every_answer_came_after_its_own_successful_sync(running: Running) -> None:
    """Failures of every third write or sync, under load: each signature that leaves is on the device by then."""
    answered: list[bytes] = []
    early: list[bytes] = []
    failures = [0]
    stop = threading.Event()
    asked = [0]

    def fault(verb: str, _name: str) -> int | None:
        if verb not in ("write", "sync"):
            return None
        asked[0] += 1
        return errno.EIO if asked[0] % 7 == 0 else None

    def build(number: int) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            try:
                signature = running.sign(b"%d %d" % (number, turn))
            except grpc.RpcError:
                failures[0] += 1
                time.sleep(0.01)
                continue
            (answered if running.is_durable(signature) else early).append(signature)

    running.files.fault = fault
    threads = [threading.Thread(target=build, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    deadline_s = time.monotonic() + 20
    while (len(answered) < 40 or failures[0] < 10) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    stop.set()
    for thread in threads:
        thread.join()
    assert early == []
    assert len(answered) >= 40
    assert failures[0] >= 10
