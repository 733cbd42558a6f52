"""What a decision keeps of each thing that a key was asked for, and that nothing of it comes from a session key."""

from __future__ import annotations

import hashlib
import threading
import time
from contextlib import suppress

import grpc
import pytest

from privyseal.v1 import signing_pb2 as pb
from privyseal_backends.interface import BusyError, OperatorError
from privyseal_service.domain.decisions import Item, Outcome
from privyseal_service.domain.errors import Code, audit_unavailable
from privyseal_service.signing.scheduler import MOST_CHUNK
from tests.support.farm import Farm

CHECKSUM = hashlib.sha256(b"zip").digest()
SESSION_KEY = b"\xabsession-key-is!"
TIMEOUT_S = 10.0


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def sign(farm: Farm, checksum: bytes = CHECKSUM, key: str = "capgo") -> bytes:
    request = pb.SignChecksumRequest(key=key, checksum=checksum, scheme=pb.SIGNATURE_SCHEME_CAPGO_V3)
    return farm.signing.SignChecksum(request, timeout=TIMEOUT_S).signature


def wrap(farm: Farm, scheme: pb.WrapScheme.ValueType, key: str) -> bytes:
    request = pb.WrapSessionKeyRequest(key=key, session_key=SESSION_KEY, scheme=scheme)
    return farm.signing.WrapSessionKey(request, timeout=TIMEOUT_S).wrapped_key


def batch(farm: Farm, checksums: list[bytes], key: str = "capgo") -> pb.BatchSignChecksumsResponse:
    request = pb.BatchSignChecksumsRequest(key=key, checksums=checksums, scheme=pb.SIGNATURE_SCHEME_CAPGO_V3)
    return farm.signing.BatchSignChecksums(request, timeout=TIMEOUT_S)


def test_a_signature(farm: Farm) -> None:
    signature = sign(farm)
    decision = farm.running.decisions.last
    (item,) = decision.items
    assert (item.checksum, item.signature_sha256, item.wrapped_key_sha256) == (CHECKSUM, digest(signature), None)
    assert item.store_request_id == decision.store_request_id
    assert item.store_s == decision.store_s
    assert decision.key_fingerprint == farm.store.keys["capgo"].description().public_key.fingerprint
    assert decision.batch == 0
    assert repr(CHECKSUM) not in repr(decision)  # what a caller sent for one may be anything


@pytest.mark.parametrize(
    ("scheme", "key"), [(pb.WRAP_SCHEME_CAPGO, "capgo"), (pb.WRAP_SCHEME_RSAES_OAEP_SHA256, "opener")]
)
def test_a_wrapped_key(farm: Farm, scheme: pb.WrapScheme.ValueType, key: str) -> None:
    wrapped = wrap(farm, scheme, key)
    (item,) = farm.running.decisions.last.items
    assert (item.checksum, item.signature_sha256, item.wrapped_key_sha256) == (None, None, digest(wrapped))


def test_an_unwrapping_keeps_what_it_was_given_and_not_what_it_gave(farm: Farm) -> None:
    wrapped = wrap(farm, pb.WRAP_SCHEME_RSAES_OAEP_SHA256, "opener")
    scheme = pb.WRAP_SCHEME_RSAES_OAEP_SHA256
    farm.signing.UnwrapSessionKey(pb.UnwrapSessionKeyRequest(key="opener", wrapped_key=wrapped, scheme=scheme))
    decision = farm.running.decisions.last
    assert decision.items == (
        Item(
            wrapped_key_sha256=digest(wrapped),
            store_request_id=decision.store_request_id,
            queued_s=decision.queued_s,
            store_s=decision.store_s,
        ),
    )
    kept = repr(decision) + repr(decision.items)
    assert SESSION_KEY.hex() not in kept
    assert digest(SESSION_KEY).hex() not in kept
    assert repr(digest(SESSION_KEY)) not in kept


def test_a_failed_wrapping_keeps_nothing_of_the_session_key(farm: Farm) -> None:
    farm.store.faults.fail = lambda _: BusyError("queue", "full")
    with suppress(grpc.RpcError):
        wrap(farm, pb.WRAP_SCHEME_CAPGO, "capgo")
    decision = farm.running.decisions.last
    assert (decision.outcome, decision.items) == (Outcome.FAILED, ())


def test_a_refused_checksum_is_on_record(farm: Farm) -> None:
    with suppress(grpc.RpcError):
        sign(farm, key="unknown")
    decision = farm.running.decisions.last
    assert decision.outcome is Outcome.DENIED
    assert decision.items == (Item(CHECKSUM),)


def test_each_of_a_batch(farm: Farm) -> None:
    checksums = [digest(b"%d" % number) for number in range(4)]
    failures = {checksums[1]: BusyError("queue", "full"), checksums[2]: OperatorError("PIN", "wrong")}
    farm.store.faults.fail = lambda signing_input: failures.get(signing_input.data) if signing_input else None
    answer = batch(farm, checksums)
    decision = farm.running.decisions.last
    assert decision.batch == 4
    assert [item.checksum for item in decision.items] == checksums
    assert [item.failure and item.failure.code for item in decision.items] == [
        None, Code.RESOURCE_EXHAUSTED, Code.FAILED_PRECONDITION, None,
    ]  # fmt: skip
    assert [item.signature_sha256 for item in decision.items] == [
        digest(answer.results[0].signature), None, None, digest(answer.results[3].signature),
    ]  # fmt: skip
    assert len({item.store_request_id for item in decision.items}) == 3


def test_a_long_batch_is_on_record_as_it_is_signed(farm: Farm) -> None:
    farm.running.decisions.parts.clear()
    checksums = [hashlib.sha256(b"%d" % number).digest() for number in range(200)]
    answer = batch(farm, checksums)
    parts = farm.running.decisions.parts
    assert len(parts) > 2
    items = [item for part in parts for item in part.items]
    assert [(item.place, item.checksum) for item in items] == list(enumerate(checksums))
    assert [item.signature_sha256 for item in items] == [
        hashlib.sha256(result.signature).digest() for result in answer.results
    ]
    decision = farm.running.decisions.last
    assert (decision.outcome, decision.batch, decision.items, decision.items_recorded) == (
        Outcome.ANSWERED, 200, (), True,
    )  # fmt: skip
    assert decision.signatures == 200


def test_what_was_signed_of_a_batch_that_is_cut_short_is_on_record(farm: Farm) -> None:
    farm.running.decisions.parts.clear()
    signed, before = threading.Event(), farm.store.calls.signed

    def slow_down(_: object) -> None:
        """From here on, so that the batch is cut short while some that are signed are not on record yet."""
        if farm.store.calls.signed >= before + 165:
            farm.store.faults.delay_s = 0.02
            signed.set()

    farm.store.faults.fail = slow_down  # type: ignore[assignment]
    request = pb.BatchSignChecksumsRequest(
        key="capgo", checksums=[CHECKSUM] * 2000, scheme=pb.SIGNATURE_SCHEME_CAPGO_V3
    )
    call = farm.signing.BatchSignChecksums.future(request, timeout=60)
    assert signed.wait(30)
    call.cancel()
    deadline_s = time.monotonic() + 30
    while farm.running.decisions.last.outcome is not Outcome.CANCELLED:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    decision = farm.running.decisions.last
    assert (decision.batch, decision.items, decision.items_recorded) == (2000, (), False)
    recorded = sum(len(part.items) for part in farm.running.decisions.parts)
    # All but the chunk that was being signed, and nothing that was not.
    assert farm.store.calls.signed - before - MOST_CHUNK <= recorded <= farm.store.calls.signed - before


def test_a_part_that_cannot_be_recorded_fails_the_whole_batch(farm: Farm) -> None:
    farm.running.decisions.failure = audit_unavailable(1.0)
    with pytest.raises(grpc.RpcError) as caught:
        batch(farm, [CHECKSUM] * 200)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_batch_that_no_key_saw_has_its_size(farm: Farm) -> None:
    with suppress(grpc.RpcError):
        batch(farm, [CHECKSUM] * 7, key="unknown")
    decision = farm.running.decisions.last
    assert (decision.outcome, decision.batch, decision.items) == (Outcome.DENIED, 7, ())
