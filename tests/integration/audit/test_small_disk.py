"""The real program on a real small disk: full, it answers nothing; with room again, it serves by itself."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from privyseal import Client, SignatureScheme
from privyseal.errors import UnavailableError
from tests.integration.audit.conftest import Farm
from tests.support.service import secure_channel
from tests.support.serving import CALLER, PROGRAM

SIZE = 8 << 20
SCRIPT = Path(__file__).with_name("on_small_disk.py")


def until(what: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def health(channel: grpc.Channel) -> int:
    return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20).status


def fill(client: Client, full: Path) -> tuple[list[bytes], UnavailableError]:
    """Sign until it is refused: the signatures, and the refusal. A file stands for a disk that is full by now."""
    signatures = []
    for number in range(5_000):
        if number == 50:
            full.touch()
        try:
            checksum = hashlib.sha256(b"%d" % number).digest()
            signatures.append(client.sign_checksum(checksum, scheme=SignatureScheme.CAPGO_V3, key="demo").signature)
        except UnavailableError as error:
            return signatures, error
    raise AssertionError("the disk was never full")


@pytest.mark.parametrize("kind", ["tmpfs", "limit"])
def test_a_full_disk_stops_answers_until_there_is_room(farm: Farm, kind: str) -> None:
    farm.audit.mkdir(mode=0o700)
    command = [sys.executable, str(SCRIPT), kind, str(farm.audit), str(SIZE)]
    process = subprocess.Popen(
        [*command, PROGRAM, "serve", "--config", str(farm.place.config)],
        env=farm.place.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(farm.folder / "log").open("w"),
        text=True,
    )
    try:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        assert words[:2] == ["listening", "mtls"], (farm.folder / "log").read_text()
        address = words[2]
        certificate, key = farm.certificate(CALLER)
        issued = farm.place.ca.issue(dns=[CALLER.removeprefix("dns:")])
        with (
            Client(address, ca=farm.folder / "ca.pem", cert=certificate, cert_key=key, timeout_s=5) as client,
            secure_channel(address, farm.place.ca, issued) as channel,
        ):
            signatures, refusal = fill(client, farm.audit.with_suffix(".full"))
            assert refusal.details.reason == "AUDIT_UNAVAILABLE"
            assert len(signatures) >= 50
            assert health(channel) == health_pb2.HealthCheckResponse.NOT_SERVING
            farm.audit.with_suffix(".room").touch()
            until(lambda: health(channel) == health_pb2.HealthCheckResponse.SERVING)
            last = client.sign_checksum(bytes(32), scheme=SignatureScheme.CAPGO_V3, key="demo")
            assert last.audit is not None
            assert client.prove(last.audit).proven is not None
            used = farm.audit.with_suffix(".kind").read_text()
            # The disk is seen through the process that mounted it.
            seen = Path(f"/proc/{process.pid}/root{farm.audit}") if used == "tmpfs" else farm.audit
            lines = b"".join(path.read_bytes() for path in seen.glob("segments/*/*.jsonl"))
        missing = [s for s in (*signatures, last.signature) if hashlib.sha256(s).hexdigest().encode() not in lines]
        assert missing == []
        assert b"-failed" in lines  # the new segment says how the one before ended
        if used == "tmpfs":  # the limit holds for the log's file too
            assert "No space left" in (farm.folder / "log").read_text()
    finally:
        process.communicate("", timeout=200)
