"""Changed certificates, CAs and issuers' keys, while the service runs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from privyseal.v1.signing_pb2_grpc import SigningServiceStub
from privyseal_service.telemetry.metrics import TLS_RELOAD_FAILURES, TLS_RELOADS
from tests.support.farm import BUILD, SIGN
from tests.support.grpc_servers import grpc_server  # noqa: F401 - an autouse fixture
from tests.support.pki import CA, Issued, of_an_unknown_curve
from tests.support.refusals import refused
from tests.support.service import RunningService, secure_channel
from tests.support.tokens import bearer, jwk, key_set, rsa_key, token


def test_a_new_certificate_without_dropping_a_connection(
    running: RunningService, ca: CA, signing: SigningServiceStub, tmp_path: Path, client: Issued
) -> None:
    signing.SignChecksum(SIGN, timeout=10)
    peer = running.decisions.last.peer
    fresh = ca.server()
    fresh.write(tmp_path, "server")
    running.reload_files()
    signing.SignChecksum(SIGN, timeout=10)
    assert running.decisions.last.peer == peer
    with secure_channel(running.address(), ca, client) as channel:
        SigningServiceStub(channel).SignChecksum(SIGN, timeout=10)
    assert running.service.issues.counters.snapshot()[TLS_RELOADS] == 1
    # With a CA that alone has issued the new certificate, to see that it is the one that is shown.
    other = CA("Other")
    other.server().write(tmp_path, "server")
    running.reload_files()
    with secure_channel(running.address(), other, client) as channel:
        assert SigningServiceStub(channel).SignChecksum(SIGN, timeout=10).signature


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder, ca: (folder / "server.pem").write_text("junk"), "holds no PEM certificate"),
        (lambda folder, ca: (folder / "server.pem").unlink(), "there is no file"),
        (
            lambda folder, ca: ca.server().write(folder, "other")[1].replace(folder / "server-key.pem"),
            "is not the key of",
        ),
        (lambda folder, ca: (folder / "ca.pem").write_text(""), "holds no PEM certificate"),
        (lambda folder, ca: (folder / "ca.pem").write_bytes(of_an_unknown_curve(ca.pem)), "cannot be read"),
    ],
)
def test_a_bad_file_is_reported_and_changes_nothing(
    running: RunningService,
    ca: CA,
    client: Issued,
    tmp_path: Path,
    spoil: Callable[[Path, CA], object],
    says: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    spoil(tmp_path, ca)
    running.reload_files()
    assert says in caplog.text
    (problem,) = running.service.issues.current.values()
    assert says in problem
    assert running.service.issues.counters.snapshot() == {TLS_RELOAD_FAILURES: 1}
    with secure_channel(running.address(), ca, client) as channel:
        assert SigningServiceStub(channel).SignChecksum(SIGN, timeout=10).signature
        _, call = HealthStub(channel).Check.with_call(health_pb2.HealthCheckRequest(), timeout=10)
        assert dict(call.trailing_metadata())["privyseal-problems"] == "1"
    ca.write(tmp_path)
    ca.server().write(tmp_path, "server")
    running.reload_files()
    assert running.service.issues.current == {}


def test_a_defect_in_looking_at_files_ends_nothing(
    running: RunningService, ca: CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("privyseal_service.api.listener.load_tls", lambda _: 1 / 0)
        ca.server().write(tmp_path, "server")
        running.reload_files()
    assert "ZeroDivisionError" in caplog.text
    ca.server().write(tmp_path, "server")
    running.reload_files()
    assert running.service.issues.counters.snapshot()[TLS_RELOADS] == 1


def test_a_ca_that_is_taken_away_proves_nothing_from_the_next_call_on(
    running: RunningService, ca: CA, signing: SigningServiceStub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Over the connection that it was good for until then."""
    signing.SignChecksum(SIGN, timeout=10)
    other = CA("Other")
    other.write(tmp_path)
    running.reload_files()
    refusal = refused(lambda: signing.SignChecksum(SIGN, timeout=10))
    assert refusal.code is grpc.StatusCode.UNAUTHENTICATED
    assert "no client CA that may vouch" in caplog.text
    with secure_channel(running.address(), ca, other.issue(uris=[BUILD])) as channel:
        assert SigningServiceStub(channel).SignChecksum(SIGN, timeout=10).signature
    with secure_channel(running.address(), ca, ca.issue(uris=[BUILD])) as channel, pytest.raises(grpc.RpcError):
        SigningServiceStub(channel).SignChecksum(SIGN, timeout=10)


def test_a_certificate_that_is_denied(
    running: RunningService, config: dict[str, Any], signing: SigningServiceStub, client: Issued
) -> None:
    signing.SignChecksum(SIGN, timeout=10)
    running.reload({**config, "identity": {"denied_certificates": [f"sha256:{client.fingerprint}"]}})
    assert refused(lambda: signing.SignChecksum(SIGN, timeout=10)).code is grpc.StatusCode.UNAUTHENTICATED


def test_keys_of_an_issuer_that_change(
    oidc_running: RunningService, oidc: dict[str, Any], pipeline: SigningServiceStub, tmp_path: Path
) -> None:
    old, new = bearer(token()), bearer(token(rsa_key("b"), kid="b"))
    pipeline.SignChecksum(SIGN, timeout=10, metadata=old)
    refused(lambda: pipeline.SignChecksum(SIGN, timeout=10, metadata=new))
    (tmp_path / "jwks.json").write_bytes(key_set(jwk(rsa_key("b"), "b")))
    oidc_running.reload_files()
    assert pipeline.SignChecksum(SIGN, timeout=10, metadata=new).signature
    refused(lambda: pipeline.SignChecksum(SIGN, timeout=10, metadata=old))
    changed = copy.deepcopy(oidc)
    changed["issuers"][0]["audiences"] = ["another"]
    oidc_running.reload(changed)
    refused(lambda: pipeline.SignChecksum(SIGN, timeout=10, metadata=new))
