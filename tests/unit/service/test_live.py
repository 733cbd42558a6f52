"""What changes while the service runs: certificates, CAs, grants, limits, issuers, frozen keys."""

from __future__ import annotations

import asyncio
import copy
import datetime
import hashlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from privyseal import capgo
from privyseal.v1 import keys_pb2 as keys_pb
from privyseal.v1 import signing_pb2 as pb
from privyseal.v1.keys_pb2_grpc import KeyServiceStub
from privyseal.v1.signing_pb2_grpc import SigningServiceStub
from privyseal_backends.backoff import Backoff
from privyseal_backends.interface import Purpose
from privyseal_service.config.errors import ConfigError
from privyseal_service.config.loading import parse_config
from privyseal_service.config.root import Config
from privyseal_service.domain.decisions import Outcome
from privyseal_service.runtime.reload import Reloader, UnusableError, check
from privyseal_service.system.file_watch import FileWatch
from privyseal_service.telemetry.active_issues import ActiveIssues
from privyseal_service.telemetry.metrics import RELOAD_FAILURES, RELOADS, TLS_RELOAD_FAILURES, TLS_RELOADS, Counters
from tests.fakes.software_store import SoftwareStore
from tests.support.farm import BUILD, farm_config, farm_store
from tests.support.grpc_servers import grpc_server  # noqa: F401 - an autouse fixture
from tests.support.pki import CA, Issued, of_an_unknown_curve
from tests.support.refusals import Refusal, refused
from tests.support.service import RunningService, secure_channel
from tests.support.tokens import ISSUER, SUBJECT, issuer_settings, jwk, key_set, rsa_key, token

CHECKSUM = hashlib.sha256(b"zip").digest()
SIGN = pb.SignChecksumRequest(key="capgo", checksum=CHECKSUM, scheme=pb.SIGNATURE_SCHEME_CAPGO_V3)


def batch(size: int) -> pb.BatchSignChecksumsRequest:
    return pb.BatchSignChecksumsRequest(key="capgo", checksums=[CHECKSUM] * size, scheme=pb.SIGNATURE_SCHEME_CAPGO_V3)


@pytest.fixture
def store(rsa_key: rsa.RSAPrivateKey) -> SoftwareStore:
    return farm_store(rsa_key)


@pytest.fixture
def config(ca: CA, tmp_path: Path) -> dict[str, Any]:
    data = farm_config(ca, tmp_path)
    data["server"]["state_folder"] = str(tmp_path / "state")
    return data


@pytest.fixture
def running(config: dict[str, Any], store: SoftwareStore) -> Iterator[RunningService]:
    with RunningService(config, store.backends) as running:
        yield running


@pytest.fixture
def client(ca: CA) -> Issued:
    return ca.issue(uris=[BUILD])


@pytest.fixture
def signing(running: RunningService, ca: CA, client: Issued) -> Iterator[SigningServiceStub]:
    with secure_channel(running.address(), ca, client) as channel:
        yield SigningServiceStub(channel)


def reload(running: RunningService, config: dict[str, Any]) -> None:
    running.run(running.service.reload(parse_config(config, "server.toml", Path("/nonexistent"))))


def reload_files(running: RunningService) -> None:
    """Let the service see files that have come to rest."""
    running.run(running.service.reload_files())
    running.run(running.service.reload_files())


# --- TLS ---


def test_a_new_certificate_without_dropping_a_connection(
    running: RunningService, ca: CA, signing: SigningServiceStub, tmp_path: Path, client: Issued
) -> None:
    signing.SignChecksum(SIGN, timeout=10)
    peer = running.decisions.last.peer
    fresh = ca.server()
    fresh.write(tmp_path, "server")
    reload_files(running)
    signing.SignChecksum(SIGN, timeout=10)
    assert running.decisions.last.peer == peer
    with secure_channel(running.address(), ca, client) as channel:
        SigningServiceStub(channel).SignChecksum(SIGN, timeout=10)
    assert running.service.issues.counters.snapshot()[TLS_RELOADS] == 1
    # With a CA that alone has issued the new certificate, to see that it is the one that is shown.
    other = CA("Other")
    other.server().write(tmp_path, "server")
    reload_files(running)
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
    reload_files(running)
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
    reload_files(running)
    assert running.service.issues.current == {}


def test_a_defect_in_looking_at_files_ends_nothing(
    running: RunningService, ca: CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("privyseal_service.api.listener.load_tls", lambda _: 1 / 0)
        ca.server().write(tmp_path, "server")
        reload_files(running)
    assert "ZeroDivisionError" in caplog.text
    ca.server().write(tmp_path, "server")
    reload_files(running)
    assert running.service.issues.counters.snapshot()[TLS_RELOADS] == 1


def test_a_ca_that_is_taken_away_proves_nothing_from_the_next_call_on(
    running: RunningService, ca: CA, signing: SigningServiceStub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Over the connection that it was good for until then."""
    signing.SignChecksum(SIGN, timeout=10)
    other = CA("Other")
    other.write(tmp_path)
    reload_files(running)
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
    reload(running, {**config, "identity": {"denied_certificates": [f"sha256:{client.fingerprint}"]}})
    assert refused(lambda: signing.SignChecksum(SIGN, timeout=10)).code is grpc.StatusCode.UNAUTHENTICATED


# --- grants ---


def test_a_grant_that_is_taken_away_while_calls_stream_in(
    running: RunningService, config: dict[str, Any], signing: SigningServiceStub, store: SoftwareStore
) -> None:
    """A call in flight finishes; whatever comes after is refused."""
    begun = threading.Event()
    store.faults.delay_s = 0.3
    store.faults.fail = lambda _: begun.set()  # type: ignore[func-returns-value]
    in_flight = signing.SignChecksum.future(SIGN, timeout=20)
    assert begun.wait(10)
    reload(running, {**config, "grants": config["grants"][1:]})
    refusals = [refused(lambda: signing.SignChecksum(SIGN, timeout=10)) for _ in range(3)]
    assert {refusal.reason for refusal in refusals} == {"NO_GRANT"}
    assert len(in_flight.result().signature) == 256


def test_grants_for_other_hours_and_with_a_context(
    running: RunningService, config: dict[str, Any], signing: SigningServiceStub
) -> None:
    now = datetime.datetime.now(datetime.UTC)
    other_day = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")[(now.weekday() + 3) % 7]
    changed = copy.deepcopy(config)
    changed["grants"][0]["window"] = {"days": [other_day]}
    reload(running, changed)
    refusal = refused(lambda: signing.SignChecksum(SIGN, timeout=10))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "OUTSIDE_HOURS")
    assert running.decisions.last.outcome is Outcome.DENIED
    changed["grants"][0] = {**config["grants"][0], "context": ["app_id", "source_revision"]}
    reload(running, changed)
    refusal = refused(lambda: signing.SignChecksum(SIGN, timeout=10))
    assert refusal.fields == ["context.app_id", "context.source_revision"]
    said = pb.RequestContext(app_id="com.example.app", source_revision="abc")
    request = pb.SignChecksumRequest(key="capgo", checksum=CHECKSUM, scheme=SIGN.scheme, context=said)
    assert signing.SignChecksum(request, timeout=10).signature


# --- limits ---


def limited(config: dict[str, Any], **limits: object) -> dict[str, Any]:
    changed = copy.deepcopy(config)
    changed["grants"][0].update(limits)
    return changed


def test_rates_and_quotas(
    running: RunningService, config: dict[str, Any], signing: SigningServiceStub, store: SoftwareStore
) -> None:
    reload(running, limited(config, daily_quota=10))
    assert len(signing.BatchSignChecksums(batch(8), timeout=20).results) == 8
    before = store.calls.private
    refusal = refused(lambda: signing.BatchSignChecksums(batch(3), timeout=20))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED")
    assert 0 < refusal.retry_after_s <= 86_400
    assert refusal.details["ErrorInfo"].metadata["limit"] == "10 a day"
    assert (running.decisions.last.outcome, running.decisions.last.grant) == (Outcome.DENIED, "")
    # What is refused for another reason costs nothing.
    unfit = pb.SignChecksumRequest(key="capgo", checksum=b"short", scheme=SIGN.scheme)
    for _ in range(5):
        refused(lambda: signing.SignChecksum(unfit, timeout=10))
    assert store.calls.private == before
    assert len(signing.BatchSignChecksums(batch(2), timeout=20).results) == 2
    assert "ask for less in one call" in refused(lambda: signing.BatchSignChecksums(batch(11), timeout=20)).message
    assert running.service.issues.counters.snapshot()["refusals", "LIMIT_REACHED"] == 2
    # What was counted is not forgotten by a reload.
    reload(running, limited(config, daily_quota=10, schemes=["capgo-v3"]))
    assert refused(lambda: signing.SignChecksum(SIGN, timeout=10)).reason == "LIMIT_REACHED"


def test_what_was_counted_outlives_the_service(
    config: dict[str, Any], rsa_key: rsa.RSAPrivateKey, ca: CA, client: Issued
) -> None:
    for size in (5, 1):
        running = RunningService(limited(config, daily_quota=5), farm_store(rsa_key).backends)
        with running, secure_channel(running.address(), ca, client) as channel:
            call = SigningServiceStub(channel).BatchSignChecksums.future(batch(size), timeout=20)
            failure = call.exception()
    assert isinstance(failure, grpc.RpcError)
    assert Refusal(failure).reason == "LIMIT_REACHED"


def test_a_second_grant_that_does_not_hold_now_never_steps_in(
    running: RunningService, config: dict[str, Any], signing: SigningServiceStub
) -> None:
    changed = limited(config, daily_quota=1)
    changed["grants"].append({**config["grants"][0], "name": "with a context", "context": ["app_id"]})
    reload(running, changed)
    signing.SignChecksum(SIGN, timeout=10)
    assert refused(lambda: signing.SignChecksum(SIGN, timeout=10)).reason == "LIMIT_REACHED"


def test_a_second_grant_steps_in(running: RunningService, config: dict[str, Any], signing: SigningServiceStub) -> None:
    changed = limited(config, daily_quota=1)
    changed["grants"].append({**config["grants"][0], "name": "overflow"})
    reload(running, changed)
    for name in ("build farm", "overflow"):
        signing.SignChecksum(SIGN, timeout=10)
        assert running.decisions.last.grant == name


def test_wrapping_and_unwrapping_count(
    running: RunningService, config: dict[str, Any], signing: SigningServiceStub
) -> None:
    reload(running, limited(config, daily_quota=2))
    wrap = pb.WrapSessionKeyRequest(key="opener", session_key=bytes(16), scheme=pb.WRAP_SCHEME_RSAES_OAEP_SHA256)
    wrapped = signing.WrapSessionKey(wrap, timeout=10).wrapped_key
    unwrap = pb.UnwrapSessionKeyRequest(key="opener", wrapped_key=wrapped, scheme=wrap.scheme)
    assert signing.UnwrapSessionKey(unwrap, timeout=10).session_key == bytes(16)
    for call in (
        lambda: signing.WrapSessionKey(wrap, timeout=10),
        lambda: signing.UnwrapSessionKey(unwrap, timeout=10),
    ):
        assert refused(call).reason == "LIMIT_REACHED"


def test_a_counting_place_that_fails_closes(
    running: RunningService, config: dict[str, Any], signing: SigningServiceStub, store: SoftwareStore
) -> None:
    reload(running, {**limited(config, daily_quota=9), "limits": {"storage": "redis://127.0.0.1:1/0"}})
    refusal = refused(lambda: signing.SignChecksum(SIGN, timeout=10))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "LIMITS_UNAVAILABLE")
    assert store.calls.private == 0
    reload(running, {**limited(config), "limits": {"storage": "redis://127.0.0.1:1/0"}})
    assert signing.SignChecksum(SIGN, timeout=10).signature


# --- frozen keys ---


def frozen(config: dict[str, Any]) -> dict[str, Any]:
    changed = copy.deepcopy(config)
    changed["keys"][0]["state"] = "frozen"
    return changed


def test_a_frozen_key(
    running: RunningService, config: dict[str, Any], signing: SigningServiceStub, ca: CA, client: Issued,
    store: SoftwareStore,
) -> None:  # fmt: skip
    signing.SignChecksum(SIGN, timeout=10)
    reload(running, frozen(config))
    before = store.calls.private
    wrap = pb.WrapSessionKeyRequest(key="capgo", session_key=bytes(16), scheme=pb.WRAP_SCHEME_CAPGO)
    for call in (lambda: signing.SignChecksum(SIGN, timeout=10), lambda: signing.WrapSessionKey(wrap, timeout=10)):
        refusal = refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "KEY_FROZEN")
        assert running.decisions.last.reason == "KEY_FROZEN"
    assert store.calls.private == before
    with secure_channel(running.address(), ca, client) as channel:
        key = KeyServiceStub(channel).GetKey(keys_pb.GetKeyRequest(name="capgo"), timeout=10).key
    assert key.state == keys_pb.KEY_STATE_FROZEN
    assert running.service.unhealthy == frozenset()
    reload(running, config)
    assert signing.SignChecksum(SIGN, timeout=10).signature
    assert store.calls.opened == 3


def test_a_freeze_stops_what_waits_for_a_turn(
    running: RunningService, config: dict[str, Any], signing: SigningServiceStub, store: SoftwareStore
) -> None:
    """A batch goes in chunks: those that have not reached the store when the key is frozen never do."""
    begun = threading.Event()
    store.faults.delay_s = 0.02
    store.faults.fail = lambda _: begun.set()  # type: ignore[func-returns-value]
    call = signing.BatchSignChecksums.future(batch(400), timeout=60)
    assert begun.wait(10)
    reload(running, frozen(config))
    results = call.result().results
    signed = [result.WhichOneof("result") == "signature" for result in results]
    assert any(signed)
    assert signed.count(True) == store.calls.signed < 400
    assert {result.error.message for result in results if not result.signature} == {
        "key 'capgo' is frozen by the security team, so it is used for nothing; ask them"
    }


# --- keys ---


def test_keys_that_come_and_go(
    running: RunningService, config: dict[str, Any], signing: SigningServiceStub, store: SoftwareStore
) -> None:
    other = rsa.generate_private_key(65537, 2048)
    store.add("second", other)
    changed = copy.deepcopy(config)
    changed["keys"].append({"name": "second", "uri": "software:second", "schemes": ["capgo-v3"]})
    changed["keys"] = changed["keys"][1:]
    for grant in changed["grants"]:
        grant["keys"] = ["second" if key == "capgo" else key for key in grant["keys"]]
    reload(running, changed)
    assert refused(lambda: signing.SignChecksum(SIGN, timeout=10)).reason == "NO_GRANT"
    request = pb.SignChecksumRequest(key="second", checksum=CHECKSUM, scheme=SIGN.scheme)
    assert eventually(lambda: signing.SignChecksum(request, timeout=10)).signature


def eventually(call: Callable[[], Any]) -> Any:
    """As a client would: again when the answer says that it may help."""
    end_s = time.monotonic() + 30
    while True:
        with suppress(grpc.RpcError):
            return call()
        assert time.monotonic() < end_s, "it never answered"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"custody": {"protection": "hardware"}}, "key 'capgo': custody: protection is software"),
        ({"fingerprint": "0" * 64}, "key 'capgo': object: another key has the name"),
        ({"uri": "software:none"}, "key 'capgo': object: there is no key none"),
        ({"uri": "software:signer"}, "key 'capgo': mechanism: the key cannot serve capgo"),
        ({"schemes": ["rsassa-pss-sha256"]}, "key 'capgo': mechanism: the key cannot serve rsassa-pss-sha256"),
        ({"uri": "other:x"}, "key 'capgo': backend: no key store serves the scheme 'other'"),
    ],
)
def test_a_key_that_does_not_fit_changes_nothing(
    running: RunningService, config: dict[str, Any], signing: SigningServiceStub, change: dict[str, Any], says: str
) -> None:
    """Not even what is right in the same configuration."""
    changed = copy.deepcopy(config)
    changed["keys"][0].update(change)
    changed["keys"][1]["state"] = "frozen"
    changed["grants"] = [{**config["grants"][0], "keys": ["signer"]}]
    with pytest.raises(UnusableError, match=re.escape(says)):
        reload(running, changed)
    assert signing.SignChecksum(SIGN, timeout=10).signature
    pss = pb.SignChecksumRequest(key="signer", checksum=CHECKSUM, scheme=pb.SIGNATURE_SCHEME_RSASSA_PSS_SHA256)
    assert signing.SignChecksum(pss, timeout=10).signature


def test_a_second_name_of_a_key_for_another_purpose_changes_nothing(
    running: RunningService, config: dict[str, Any], signing: SigningServiceStub, store: SoftwareStore
) -> None:
    store.add("both", store.keys["capgo"].private_key, Purpose.SIGNATURES)
    changed = copy.deepcopy(config)
    changed["keys"].append({"name": "both", "uri": "software:both", "schemes": ["rsassa-pss-sha256"]})
    with pytest.raises(UnusableError, match="it is the same RSA key as"):
        reload(running, changed)
    assert "both" not in running.service._keyring.keys
    assert signing.SignChecksum(SIGN, timeout=10).signature


def test_a_key_whose_store_is_away_is_taken_up_as_at_a_start(
    running: RunningService, config: dict[str, Any], signing: SigningServiceStub, store: SoftwareStore
) -> None:
    """It is looked for in the background, unless it is required; and a freeze waits for nobody."""
    store.add("second", rsa.generate_private_key(65537, 2048))
    changed = copy.deepcopy(config)
    changed["keys"].append({"name": "second", "uri": "software:second", "schemes": ["capgo-v3"], "required": True})
    changed["grants"][0]["keys"].append("second")
    store.faults.away = True
    with pytest.raises(UnusableError, match="key 'second': network:"):
        reload(running, changed)
    changed["keys"][-1]["required"] = False
    changed["keys"][0]["state"] = "frozen"
    reload(running, changed)
    assert refused(lambda: signing.SignChecksum(SIGN, timeout=10)).reason == "KEY_FROZEN"
    request = pb.SignChecksumRequest(key="second", checksum=CHECKSUM, scheme=SIGN.scheme)
    assert refused(lambda: signing.SignChecksum(request, timeout=10)).reason == "KEY_STORE_AWAY"
    store.faults.away = False
    assert eventually(lambda: signing.SignChecksum(request, timeout=10)).signature


def test_a_new_key_serves_from_the_moment_of_the_change_on(
    running: RunningService, config: dict[str, Any], signing: SigningServiceStub, store: SoftwareStore
) -> None:
    store.add("second", rsa.generate_private_key(65537, 2048))
    changed = copy.deepcopy(config)
    changed["keys"][0]["uri"] = "software:second"
    reload(running, changed)
    public_key = store.keys["second"].description().public_key
    signature = signing.SignChecksum(SIGN, timeout=10).signature
    assert capgo.recover(public_key.key, signature) == CHECKSUM


def test_what_is_called_off_leaves_nothing_open(running: RunningService, config: dict[str, Any]) -> None:
    changed = limited(config, daily_quota=1)
    changed["limits"] = {"storage": "redis://127.0.0.1:1/0"}
    before = list(running.service._limiters)
    prepared = running.run(running.service.prepare(parse_config(changed, "server.toml", Path("/nonexistent"))))
    running.run(prepared.discard())
    assert running.service._limiters == before
    assert running.service.config.limits.storage is None


# --- tokens ---


@pytest.fixture
def oidc(config: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "jwks.json").write_bytes(key_set(jwk(rsa_key(), "a")))
    changed = copy.deepcopy(config)
    tls = {name: changed["listeners"][0][name] for name in ("certificate", "certificate_key")}
    changed["listeners"].append({"address": "127.0.0.1:0", "auth": "oidc", **tls})
    changed["issuers"] = [issuer_settings(tmp_path / "jwks.json")]
    changed["grants"].append(
        {
            "name": "pipeline",
            "callers": [f"oidc:{ISSUER}:repo:octo-org/app:ref:refs/heads/**"],
            "claims": {"environment": "production"},
            "keys": ["capgo"],
            "operations": ["sign-checksum"],
        }
    )
    return changed


@pytest.fixture
def oidc_running(oidc: dict[str, Any], store: SoftwareStore) -> Iterator[RunningService]:
    with RunningService(oidc, store.backends) as running:
        yield running


@pytest.fixture
def pipeline(oidc_running: RunningService, ca: CA) -> Iterator[SigningServiceStub]:
    credentials = grpc.ssl_channel_credentials(ca.pem)
    with grpc.secure_channel(oidc_running.address(1), credentials) as channel:
        yield SigningServiceStub(channel)


def bearer(shown: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {shown}")]


def test_a_token_signs(oidc_running: RunningService, pipeline: SigningServiceStub) -> None:
    assert pipeline.SignChecksum(SIGN, timeout=10, metadata=bearer(token())).signature
    decision = oidc_running.decisions.last
    assert (decision.caller, decision.grant, decision.proof.method) == (f"oidc:{ISSUER}:{SUBJECT}", "pipeline", "oidc")
    assert decision.proof.details["environment"] == "production"


def test_tokens_that_do_not(
    oidc_running: RunningService, pipeline: SigningServiceStub, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller hears the same of each; the log says which it was."""
    shown = [token(exp=int(time.time()) - 60), token(aud="x"), token(kid="z"), token(rsa_key("b")), "x.y.z"]
    refusals = [refused(lambda t=t: pipeline.SignChecksum(SIGN, timeout=10, metadata=bearer(t))) for t in shown]  # type: ignore[misc]
    refusals.append(refused(lambda: pipeline.SignChecksum(SIGN, timeout=10)))
    twice = bearer(token()) * 2
    refusals.append(refused(lambda: pipeline.SignChecksum(SIGN, timeout=10, metadata=twice)))
    assert {str(refusal.words) for refusal in refusals} == {str(refusals[0].words)}
    assert refusals[0].code is grpc.StatusCode.UNAUTHENTICATED
    for why in (
        "expired",
        "another audience",
        "its kid is none",
        "not the key's",
        "cannot be parsed",
        "no authorization",
    ):
        assert why in caplog.text
    assert oidc_running.service.issues.counters.snapshot()["refusals", "UNAUTHENTICATED"] == len(refusals)
    assert not [each for each in shown if each in caplog.text]


def test_claims_without_a_grant(pipeline: SigningServiceStub) -> None:
    for changes in ({"environment": "staging"}, {"environment": None}, {"sub": "repo:octo-org/app:pull_request"}):
        metadata = bearer(token(**changes))
        assert refused(lambda m=metadata: pipeline.SignChecksum(SIGN, timeout=10, metadata=m)).reason == "NO_GRANT"  # type: ignore[misc]


def test_each_listener_has_its_own_proof(
    oidc_running: RunningService, signing_of: Callable[[int, Issued | None], SigningServiceStub], client: Issued
) -> None:
    """A certificate is nothing to a listener of tokens, and a token nothing to one of certificates."""
    with suppress(grpc.RpcError):
        signing_of(1, client).SignChecksum(SIGN, timeout=10)
    assert oidc_running.decisions.last.code.name == "UNAUTHENTICATED"
    signing_of(0, client).SignChecksum(SIGN, timeout=10, metadata=bearer(token()))
    assert oidc_running.decisions.last.caller == BUILD


@pytest.fixture
def signing_of(oidc_running: RunningService, ca: CA) -> Iterator[Callable[[int, Issued | None], SigningServiceStub]]:
    channels: list[grpc.Channel] = []

    def of(listener: int, shown: Issued | None) -> SigningServiceStub:
        channels.append(secure_channel(oidc_running.address(listener), ca, shown))
        return SigningServiceStub(channels[-1])

    yield of
    for channel in channels:
        channel.close()


def test_keys_of_an_issuer_that_change(
    oidc_running: RunningService, oidc: dict[str, Any], pipeline: SigningServiceStub, tmp_path: Path
) -> None:
    old, new = bearer(token()), bearer(token(rsa_key("b"), kid="b"))
    pipeline.SignChecksum(SIGN, timeout=10, metadata=old)
    refused(lambda: pipeline.SignChecksum(SIGN, timeout=10, metadata=new))
    (tmp_path / "jwks.json").write_bytes(key_set(jwk(rsa_key("b"), "b")))
    reload_files(oidc_running)
    assert pipeline.SignChecksum(SIGN, timeout=10, metadata=new).signature
    refused(lambda: pipeline.SignChecksum(SIGN, timeout=10, metadata=old))
    changed = copy.deepcopy(oidc)
    changed["issuers"][0]["audiences"] = ["another"]
    reload(oidc_running, changed)
    refused(lambda: pipeline.SignChecksum(SIGN, timeout=10, metadata=new))


# --- reading the configuration again ---


class Reading:
    """A reloader over a configuration that a test changes."""

    def __init__(self, running: RunningService, config: dict[str, Any]) -> None:
        self.data: dict[str, Any] | Exception = config
        self.issues = ActiveIssues(Counters())
        first = parse_config(config, "server.toml", Path("/nonexistent"))
        self.reloader = Reloader(self.load, first, running.service.reload, self.issues)

    def load(self) -> Config:
        if isinstance(self.data, Exception):
            raise self.data
        return parse_config(self.data, "server.toml", Path("/nonexistent"))


def test_a_bad_configuration_changes_nothing(
    running: RunningService, config: dict[str, Any], signing: SigningServiceStub, caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:  # fmt: skip
    reading = Reading(running, config)
    (tmp_path / "bad.pem").write_text("junk")
    moved = copy.deepcopy(config)
    moved["listeners"][0]["address"] = "127.0.0.1:7"
    no_ca = copy.deepcopy(config)
    no_ca["listeners"][0]["client_cas"][0]["file"] = str(tmp_path / "bad.pem")
    no_ca["grants"] = []
    bad: list[dict[str, Any] | Exception] = [
        {**config, "grants": [{**config["grants"][0], "keys": ["none"]}]}, moved, no_ca, ConfigError("x: is not TOML"),
        ZeroDivisionError("a defect"),
    ]  # fmt: skip
    for number, data in enumerate(bad, 1):
        reading.data = data
        assert running.run(reading.reloader.reload()) is False
        assert reading.issues.counters.snapshot() == {RELOAD_FAILURES: number}
        assert "stays as it was" in reading.issues.current["configuration"]
        assert signing.SignChecksum(SIGN, timeout=10).signature
    assert "the configuration stays as it was" in caplog.text
    reading.data = {**config, "grants": []}
    assert running.run(reading.reloader.reload()) is True
    assert (reading.issues.current, reading.issues.counters.snapshot()[RELOADS]) == ({}, 1)
    assert refused(lambda: signing.SignChecksum(SIGN, timeout=10)).reason == "NO_GRANT"


def test_a_change_that_was_refused_is_tried_again_where_files_are_watched(
    running: RunningService, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What refused it may have been away for a moment, and no file of the configuration changes when it is back."""
    monkeypatch.setattr("privyseal_service.runtime.reload.CHECK_EVERY_S", 0.01)
    monkeypatch.setattr("privyseal_service.runtime.reload.BACKOFF", Backoff(0.01, 0.01))
    watched = {**config, "server": {**config["server"], "watch": True}}
    reading = Reading(running, watched)
    reading.data = ConfigError("the folder of grants cannot be read")
    counted = reading.issues.counters

    async def heal() -> None:
        assert not await reading.reloader.reload()
        assert "is retried from time to time: the folder" in reading.issues.current["configuration"]
        watching = asyncio.create_task(reading.reloader.keep_watching())
        while counted.snapshot()[RELOAD_FAILURES] < 3:
            await asyncio.sleep(0.01)
        reading.data = {**watched, "grants": []}
        while reading.issues.current:
            await asyncio.sleep(0.01)
        watching.cancel()

    running.run(heal())
    assert counted.snapshot()[RELOADS] == 1


def test_a_change_that_needs_a_restart_is_not_tried_again(
    running: RunningService, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    def look(watch: FileWatch) -> bool:
        looks.append(watch)
        return False

    monkeypatch.setattr("privyseal_service.runtime.reload.CHECK_EVERY_S", 0.0)
    monkeypatch.setattr("privyseal_service.runtime.reload.BACKOFF", Backoff(0.0, 0.0))
    monkeypatch.setattr(FileWatch, "changed", look)
    watched = {**config, "server": {**config["server"], "watch": True}}
    reading = Reading(running, watched)
    reading.data = copy.deepcopy(watched)
    reading.data["listeners"][0]["address"] = "127.0.0.1:7"

    async def wait() -> None:
        assert not await reading.reloader.reload()
        watching = asyncio.create_task(reading.reloader.keep_watching())
        while len(looks) < 5:
            await asyncio.sleep(0.01)
        watching.cancel()

    running.run(wait())
    assert reading.issues.counters.snapshot() == {RELOAD_FAILURES: 1}
    assert "retried" not in reading.issues.current["configuration"]


def test_issuers_files_are_looked_at_before(oidc: dict[str, Any], tmp_path: Path) -> None:
    good = parse_config(oidc, "server.toml", Path("/nonexistent"))
    check(good, good)
    (tmp_path / "jwks.json").write_text("{}")
    with pytest.raises(UnusableError, match="is no JWK set"):
        check(good, good)


def test_decisions_name_no_token(
    pipeline: SigningServiceStub, oidc_running: RunningService, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    shown = token()
    pipeline.SignChecksum(SIGN, timeout=10, metadata=bearer(shown))
    kept = repr(oidc_running.decisions.kept) + caplog.text + json.dumps(dict(oidc_running.service.issues.current))
    assert not [part for part in shown.split(".") if part in kept]
