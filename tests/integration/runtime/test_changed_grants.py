"""Changed grants, rates and quotas, while the service runs."""

from __future__ import annotations

import copy
import datetime
import threading
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric import rsa

from privyseal.v1 import signing_pb2 as pb
from privyseal.v1.signing_pb2_grpc import SigningServiceStub
from privyseal_service.domain.decisions import Outcome
from tests.fakes.software_store import SoftwareStore
from tests.support.farm import CHECKSUM, SIGN, batch, farm_store, limited
from tests.support.grpc_servers import grpc_server  # noqa: F401 - an autouse fixture
from tests.support.pki import CA, Issued
from tests.support.refusals import Refusal, refused
from tests.support.service import RunningService, secure_channel


def test_a_grant_that_is_taken_away_while_calls_stream_in(
    running: RunningService, config: dict[str, Any], signing: SigningServiceStub, store: SoftwareStore
) -> None:
    """A call in flight finishes; whatever comes after is refused."""
    begun = threading.Event()
    store.faults.delay_s = 0.3
    store.faults.fail = lambda _: begun.set()  # type: ignore[func-returns-value]
    in_flight = signing.SignChecksum.future(SIGN, timeout=20)
    assert begun.wait(10)
    running.reload({**config, "grants": config["grants"][1:]})
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
    running.reload(changed)
    refusal = refused(lambda: signing.SignChecksum(SIGN, timeout=10))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "OUTSIDE_HOURS")
    assert running.decisions.last.outcome is Outcome.DENIED
    changed["grants"][0] = {**config["grants"][0], "context": ["app_id", "source_revision"]}
    running.reload(changed)
    refusal = refused(lambda: signing.SignChecksum(SIGN, timeout=10))
    assert refusal.fields == ["context.app_id", "context.source_revision"]
    said = pb.RequestContext(app_id="com.example.app", source_revision="abc")
    request = pb.SignChecksumRequest(key="capgo", checksum=CHECKSUM, scheme=SIGN.scheme, context=said)
    assert signing.SignChecksum(request, timeout=10).signature


def test_rates_and_quotas(
    running: RunningService, config: dict[str, Any], signing: SigningServiceStub, store: SoftwareStore
) -> None:
    running.reload(limited(config, daily_quota=10))
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
    assert "send less in one call" in refused(lambda: signing.BatchSignChecksums(batch(11), timeout=20)).message
    assert running.service.issues.counters.snapshot()["refusals", "LIMIT_REACHED"] == 2
    # What was counted is not forgotten by a reload.
    running.reload(limited(config, daily_quota=10, schemes=["capgo-v3"]))
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
    running.reload(changed)
    signing.SignChecksum(SIGN, timeout=10)
    assert refused(lambda: signing.SignChecksum(SIGN, timeout=10)).reason == "LIMIT_REACHED"


def test_a_second_grant_steps_in(running: RunningService, config: dict[str, Any], signing: SigningServiceStub) -> None:
    changed = limited(config, daily_quota=1)
    changed["grants"].append({**config["grants"][0], "name": "overflow"})
    running.reload(changed)
    for name in ("build farm", "overflow"):
        signing.SignChecksum(SIGN, timeout=10)
        assert running.decisions.last.grant == name


def test_wrapping_and_unwrapping_count(
    running: RunningService, config: dict[str, Any], signing: SigningServiceStub
) -> None:
    running.reload(limited(config, daily_quota=2))
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
    running.reload({**limited(config, daily_quota=9), "limits": {"storage": "redis://127.0.0.1:1/0"}})
    refusal = refused(lambda: signing.SignChecksum(SIGN, timeout=10))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "LIMITS_UNAVAILABLE")
    assert store.calls.private == 0
    running.reload({**limited(config), "limits": {"storage": "redis://127.0.0.1:1/0"}})
    assert signing.SignChecksum(SIGN, timeout=10).signature
