"""Calls over the wire: what each gives, what refuses it, and what a refusal says."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import NoDigestInfo, Prehashed
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, HashAlgorithm

from privyseal.v1 import keys_pb2 as keys_pb
from privyseal.v1 import signing_pb2 as pb
from privyseal.v1.keys_pb2_grpc import KeyServiceStub
from privyseal.v1.signing_pb2_grpc import SigningServiceStub
from privyseal_backends.interface import (
    BusyError,
    CallerError,
    IntegrityError,
    Mechanism,
    OperatorError,
    SigningInput,
    UnavailableError,
)
from privyseal_service.domain.decisions import Outcome
from privyseal_service.domain.errors import Code, ServiceError
from privyseal_service.signing.scheduler import QueueRequest, Scheduler
from tests.support.farm import BUILD, Farm, farm_config, farm_store
from tests.support.pki import CA
from tests.support.refusals import Refusal, refused
from tests.support.service import RunningService, secure_channel

CHECKSUM = hashlib.sha256(b"zip").digest()
TIMEOUT_S = 10.0


def wrap(farm: Farm, scheme: pb.WrapScheme.ValueType, session_key: bytes, key: str = "capgo", **more: Any) -> bytes:
    request = pb.WrapSessionKeyRequest(key=key, session_key=session_key, scheme=scheme, **more)
    return farm.signing.WrapSessionKey(request, timeout=TIMEOUT_S).wrapped_key


def sign(
    farm: Farm, scheme: pb.SignatureScheme.ValueType, checksum: bytes = CHECKSUM, key: str = "capgo", **more: Any
) -> bytes:
    request = pb.SignChecksumRequest(key=key, checksum=checksum, scheme=scheme, **more)
    return farm.signing.SignChecksum(request, timeout=TIMEOUT_S).signature


def batch(
    farm: Farm, checksums: list[bytes], scheme: pb.SignatureScheme.ValueType = pb.SIGNATURE_SCHEME_CAPGO_V3
) -> pb.BatchSignChecksumsResponse:
    request = pb.BatchSignChecksumsRequest(key="capgo", checksums=checksums, scheme=scheme)
    return farm.signing.BatchSignChecksums(request, timeout=30)


def unwrap(farm: Farm, scheme: pb.WrapScheme.ValueType, wrapped: bytes, key: str = "opener") -> bytes:
    request = pb.UnwrapSessionKeyRequest(key=key, wrapped_key=wrapped, scheme=scheme)
    return farm.signing.UnwrapSessionKey(request, timeout=TIMEOUT_S).session_key


# --- what is answered ---


def test_capgo_makes_the_type_1_block(farm: Farm, rsa_key: rsa.RSAPrivateKey) -> None:
    session_key = bytes(range(16))
    wrapped = wrap(farm, pb.WRAP_SCHEME_CAPGO, session_key)
    rsa_key.public_key().verify(wrapped, session_key, padding.PKCS1v15(), NoDigestInfo())  # type: ignore[arg-type]
    signature = sign(farm, pb.SIGNATURE_SCHEME_CAPGO_V3)
    rsa_key.public_key().verify(signature, CHECKSUM, padding.PKCS1v15(), NoDigestInfo())  # type: ignore[arg-type]


def test_the_grants_priority_weighs_at_the_key_store(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten more of priority double the share: the build farm's grant has 0, that of one key 20."""
    turns: list[QueueRequest] = []
    queued = Scheduler.sign

    async def spying(scheduler: Scheduler, key: Any, inputs: Any, turn: QueueRequest, *on_results: Any) -> Any:
        turns.append(turn)
        return await queued(scheduler, key, inputs, turn, *on_results)

    monkeypatch.setattr(Scheduler, "sign", spying)
    sign(farm, pb.SIGNATURE_SCHEME_CAPGO_V3)
    with farm.channel_of(dns=["one.build.example"]) as channel:
        request = pb.SignChecksumRequest(key="capgo", checksum=CHECKSUM, scheme=pb.SIGNATURE_SCHEME_CAPGO_V3)
        SigningServiceStub(channel).SignChecksum(request, timeout=TIMEOUT_S)
    assert [(turn.caller, turn.weight) for turn in turns] == [(BUILD, 1.0), ("dns:one.build.example", 4.0)]


def test_rsassa(farm: Farm) -> None:
    public_key, prehashed = farm.store.keys["signer"].private_key.public_key(), Prehashed(SHA256())
    pkcs1 = sign(farm, pb.SIGNATURE_SCHEME_RSASSA_PKCS1_V1_5_SHA256, key="signer")
    public_key.verify(pkcs1, CHECKSUM, padding.PKCS1v15(), prehashed)
    pss = sign(farm, pb.SIGNATURE_SCHEME_RSASSA_PSS_SHA256, key="signer")
    public_key.verify(pss, CHECKSUM, padding.PSS(padding.MGF1(SHA256()), 32), prehashed)


@pytest.mark.parametrize("size", [16, 24, 32])
@pytest.mark.parametrize(
    ("scheme", "digest"), [(pb.WRAP_SCHEME_RSAES_OAEP_SHA256, SHA256()), (pb.WRAP_SCHEME_RSAES_OAEP_SHA1, SHA1())]
)
def test_oaep_wraps_without_the_store(
    farm: Farm, scheme: pb.WrapScheme.ValueType, digest: HashAlgorithm, size: int
) -> None:
    private_key = farm.store.keys["opener"].private_key
    before, session_key = farm.store.calls.private, bytes(range(size))
    wrapped = wrap(farm, scheme, session_key, key="opener")
    assert farm.store.calls.private == before
    assert private_key.decrypt(wrapped, padding.OAEP(padding.MGF1(digest), digest, None)) == session_key
    assert unwrap(farm, scheme, wrapped) == session_key
    assert farm.store.calls.private == before + 1


def test_a_batch_is_in_order(farm: Farm, rsa_key: rsa.RSAPrivateKey) -> None:
    checksums = [hashlib.sha256(str(number).encode()).digest() for number in range(50)]
    answer = batch(farm, checksums)
    assert answer.key_version == "01"
    for checksum, result in zip(checksums, answer.results, strict=True):
        rsa_key.public_key().verify(result.signature, checksum, padding.PKCS1v15(), NoDigestInfo())  # type: ignore[arg-type]


def test_a_batch_of_2000_fits(farm: Farm) -> None:
    farm.store.faults.fail = lambda _: BusyError("queue", "hsm-7 is full")
    answer = batch(farm, [CHECKSUM] * 2000)
    assert len(answer.results) == 2000
    assert {result.error.code for result in answer.results} == {Code.RESOURCE_EXHAUSTED}


def test_in_a_batch_each_fails_alone(farm: Farm) -> None:
    """And what the store said of it stays inside."""
    checksums = [hashlib.sha256(str(number).encode()).digest() for number in range(6)]
    failures = {
        checksums[1]: BusyError("queue", "hsm-7 is full"),
        checksums[2]: UnavailableError("network", "hsm-7 is away"),
        checksums[3]: IntegrityError("signature", "hsm-7 lied"),
        checksums[4]: OperatorError("PIN", "hsm-7 wants a PIN"),
    }
    farm.store.faults.fail = lambda signing_input: failures.get(signing_input.data) if signing_input else None
    answer = batch(farm, checksums)
    assert [result.WhichOneof("result") for result in answer.results] == ["signature", *["error"] * 4, "signature"]
    assert [result.error.code for result in answer.results[1:5]] == [
        Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE, Code.INTERNAL, Code.FAILED_PRECONDITION,
    ]  # fmt: skip
    assert "hsm-7" not in str(answer)
    assert farm.running.decisions.last.signatures == 2


def test_the_only_key_needs_no_name(farm: Farm) -> None:
    with farm.channel_of(dns=["one.build.example"]) as channel:
        request = pb.SignChecksumRequest(checksum=CHECKSUM, scheme=pb.SIGNATURE_SCHEME_CAPGO_V3)
        assert SigningServiceStub(channel).SignChecksum(request, timeout=TIMEOUT_S).signature
        assert KeyServiceStub(channel).GetKey(keys_pb.GetKeyRequest(), timeout=TIMEOUT_S).key.name == "capgo"
    assert farm.running.decisions.last.key == "capgo"


def test_list_keys_shows_what_the_caller_may_use(farm: Farm) -> None:
    keys = farm.keys.ListKeys(keys_pb.ListKeysRequest(), timeout=TIMEOUT_S).keys
    assert [key.name for key in keys] == ["capgo", "opener", "signer"]
    with farm.channel_of(dns=["one.build.example"]) as channel:
        (key,) = KeyServiceStub(channel).ListKeys(keys_pb.ListKeysRequest(), timeout=TIMEOUT_S).keys
    assert (key.name, list(key.wrap_schemes)) == ("capgo", [])
    assert list(key.signature_schemes) == [pb.SIGNATURE_SCHEME_CAPGO_V3]
    with farm.channel_of(dns=["none.build.example"]) as channel:
        assert list(KeyServiceStub(channel).ListKeys(keys_pb.ListKeysRequest(), timeout=TIMEOUT_S).keys) == []


def test_a_caller_without_a_grant_cannot_fill_the_record_with_questions(farm: Farm) -> None:
    with farm.channel_of(dns=["none.build.example"]) as channel:
        ask = KeyServiceStub(channel).ListKeys
        calls = [ask.future(keys_pb.ListKeysRequest(), timeout=TIMEOUT_S) for _ in range(100)]
        failures = [call.exception() for call in calls]
    refusals = [Refusal(failure) for failure in failures if isinstance(failure, grpc.RpcError)]
    assert len(refusals) > 50
    assert {(each.code, each.reason) for each in refusals} == {(grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED")}
    assert all(0 < each.retry_after_s <= 1 for each in refusals)
    # Whoever has a grant may ask as much as it likes.
    for _ in range(30):
        assert farm.keys.ListKeys(keys_pb.ListKeysRequest(), timeout=TIMEOUT_S).keys


def test_get_key_shows_public_key_and_custody(farm: Farm, rsa_key: rsa.RSAPrivateKey) -> None:
    key = farm.keys.GetKey(keys_pb.GetKeyRequest(name="opener"), timeout=TIMEOUT_S).key
    assert list(key.wrap_schemes) == [pb.WRAP_SCHEME_RSAES_OAEP_SHA256, pb.WRAP_SCHEME_RSAES_OAEP_SHA1]
    assert key.state == keys_pb.KEY_STATE_SERVING
    assert key.key_version == "01"
    assert key.public_key.pkcs1_pem.startswith("-----BEGIN RSA PUBLIC KEY-----\n")
    assert key.public_key.spki_pem.startswith("-----BEGIN PUBLIC KEY-----\n")
    assert key.public_key.modulus_bits == 2048
    assert key.public_key.capgo_key_id == key.public_key.pkcs1_pem.splitlines()[1][:20]
    assert len(key.public_key.fingerprint) == 64
    assert key.custody.protection == keys_pb.PROTECTION_SOFTWARE
    assert key.custody.origin == keys_pb.ORIGIN_GENERATED_INSIDE
    assert key.custody.export == keys_pb.EXPORT_NEVER_POSSIBLE
    assert key.custody.evidence[0].name == "store"


# --- what is refused ---


def test_an_unknown_key_and_a_key_without_grant_are_the_same_word_for_word(farm: Farm) -> None:
    with farm.channel_of(dns=["one.build.example"]) as channel:
        signing, keys = SigningServiceStub(channel), KeyServiceStub(channel)

        def asked(name: str, scheme: pb.SignatureScheme.ValueType = pb.SIGNATURE_SCHEME_CAPGO_V3) -> tuple[object, ...]:
            request = pb.SignChecksumRequest(key=name, checksum=CHECKSUM, scheme=scheme)
            return refused(lambda: signing.SignChecksum(request, timeout=TIMEOUT_S)).words

        def shown(name: str) -> tuple[object, ...]:
            return refused(lambda: keys.GetKey(keys_pb.GetKeyRequest(name=name), timeout=TIMEOUT_S)).words

        schemes = [pb.SIGNATURE_SCHEME_CAPGO_V2, pb.SIGNATURE_SCHEME_RSASSA_PSS_SHA256]
        unknown = asked("no-such-key")
        assert unknown[0] is grpc.StatusCode.PERMISSION_DENIED
        assert {str(asked(name, scheme)) for name in ("signer", "opener", "nope") for scheme in schemes} == {
            str(unknown)
        }
        assert shown("signer") == shown("no-such-key") == unknown
        # A grant on the key without the operation: the same again.
        wrapping = pb.WrapSessionKeyRequest(key="capgo", session_key=bytes(16), scheme=pb.WRAP_SCHEME_CAPGO)
        assert refused(lambda: signing.WrapSessionKey(wrapping, timeout=TIMEOUT_S)).words == unknown
    with farm.channel_of(dns=["none.build.example"]) as channel:
        nameless = pb.SignChecksumRequest(checksum=CHECKSUM, scheme=pb.SIGNATURE_SCHEME_CAPGO_V3)
        assert refused(lambda: SigningServiceStub(channel).SignChecksum(nameless, timeout=TIMEOUT_S)).words == unknown


def test_no_name_and_several_keys(farm: Farm) -> None:
    refusal = refused(lambda: sign(farm, pb.SIGNATURE_SCHEME_CAPGO_V3, key=""))
    assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["key"])
    assert "capgo, opener, signer" in refusal.message
    assert refused(lambda: farm.keys.GetKey(keys_pb.GetKeyRequest(), timeout=TIMEOUT_S)).fields == ["name"]


def test_no_name_and_more_keys_than_an_answer_has_room_for(ca: CA, rsa_key: rsa.RSAPrivateKey, tmp_path: Path) -> None:
    config, names = farm_config(ca, tmp_path), [f"app-{'x' * 120}-{number:03}" for number in range(100)]
    config["keys"] += [{"name": name, "uri": "software:capgo", "schemes": ["capgo-v3"]} for name in names]
    config["grants"][0]["keys"] = names
    store = farm_store(rsa_key)
    client = ca.issue(uris=[BUILD])
    with (
        RunningService(config, store.backends) as running,
        secure_channel(running.address(), ca, client) as channel,
    ):
        refusal = refused(lambda: sign(Farm(running, store, ca, channel), pb.SIGNATURE_SCHEME_CAPGO_V3, key=""))
    assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["key"])
    assert f"{names[9]} and 90 more" in refusal.message


@pytest.mark.parametrize("scheme", [0, 99, -1])
def test_an_unset_or_unknown_scheme(farm: Farm, scheme: Any) -> None:
    calls: list[Callable[[], object]] = [
        lambda: sign(farm, scheme),
        lambda: wrap(farm, scheme, bytes(16)),
        lambda: batch(farm, [CHECKSUM], scheme),
        lambda: unwrap(farm, scheme, bytes(256)),
    ]
    before = farm.store.calls.private
    for call in calls:
        refusal = refused(call)
        assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["scheme"])
    assert farm.store.calls.private == before


def test_a_scheme_that_the_key_is_not_enrolled_for(farm: Farm) -> None:
    before = farm.store.calls.private
    refusal = refused(lambda: sign(farm, pb.SIGNATURE_SCHEME_RSASSA_PSS_SHA256))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "KEY_CANNOT")
    assert dict(refusal.details["ErrorInfo"].metadata) == {"key": "capgo", "schemes": "capgo-v2,capgo-v3"}
    assert "use capgo-v2 or capgo-v3" in refusal.message
    refusal = refused(lambda: wrap(farm, pb.WRAP_SCHEME_CAPGO, bytes(16), key="signer"))
    assert dict(refusal.details["ErrorInfo"].metadata) == {"key": "signer", "schemes": ""}
    assert farm.store.calls.private == before


def test_a_refusal_names_granted_schemes_alone(farm: Farm) -> None:
    with farm.channel_of(dns=["one.build.example"]) as channel:
        request = pb.SignChecksumRequest(checksum=CHECKSUM, scheme=pb.SIGNATURE_SCHEME_RSASSA_PSS_SHA256)
        refusal = refused(lambda: SigningServiceStub(channel).SignChecksum(request, timeout=TIMEOUT_S))
    assert refusal.details["ErrorInfo"].metadata["schemes"] == "capgo-v3"


@pytest.mark.parametrize(
    ("key", "scheme", "says"),
    [
        ("capgo", pb.WRAP_SCHEME_RSAES_OAEP_SHA256, "not made for decryption"),
        ("signer", pb.WRAP_SCHEME_RSAES_OAEP_SHA1, "not made for decryption"),
        ("capgo", pb.WRAP_SCHEME_CAPGO, "with the public key"),
        ("opener", pb.WRAP_SCHEME_CAPGO, "with the public key"),
    ],
)
def test_what_no_key_unwraps(farm: Farm, key: str, scheme: pb.WrapScheme.ValueType, says: str) -> None:
    before = farm.store.calls.private
    refusal = refused(lambda: unwrap(farm, scheme, bytes(256), key))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "KEY_CANNOT")
    assert says in refusal.message
    assert farm.store.calls.private == before


def test_what_was_not_wrapped_for_the_key_is_refused_in_the_same_words(farm: Farm) -> None:
    public_key = farm.store.keys["opener"].private_key.public_key()

    def oaep(digest: HashAlgorithm, plain: bytes) -> bytes:
        return public_key.encrypt(plain, padding.OAEP(padding.MGF1(digest), digest, None))

    damaged = [bytes(256), b"\xff" * 256, oaep(SHA1(), bytes(16)), oaep(SHA256(), bytes(17)), oaep(SHA256(), b"")]
    words = [refused(lambda w=w: unwrap(farm, pb.WRAP_SCHEME_RSAES_OAEP_SHA256, w)) for w in damaged]  # type: ignore[misc]
    assert words[0].code is grpc.StatusCode.INVALID_ARGUMENT
    assert words[0].fields == ["wrapped_key"]
    assert {str(refusal.words) for refusal in words} == {str(words[0].words)}


@pytest.mark.parametrize("size", [0, 1, 128, 255, 257, 512])
def test_a_wrapped_key_of_another_length(farm: Farm, size: int) -> None:
    before = farm.store.calls.private
    refusal = refused(lambda: unwrap(farm, pb.WRAP_SCHEME_RSAES_OAEP_SHA256, bytes(size)))
    assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["wrapped_key"])
    assert farm.store.calls.private == before


def test_one_wrong_length_refuses_the_whole_batch(farm: Farm) -> None:
    before = farm.store.calls.private
    checksums = [CHECKSUM] * 10
    checksums[3], checksums[7] = bytes(31), bytes(51)
    refusal = refused(lambda: batch(farm, checksums))
    assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["checksums[3]", "checksums[7]"])
    assert farm.store.calls.private == before


def test_a_batch_with_2000_wrong_lengths_names_some(farm: Farm) -> None:
    refusal = refused(lambda: batch(farm, [b"x"] * 2000))
    assert refusal.fields == [f"checksums[{place}]" for place in range(10)]
    assert refusal.message.endswith("and 1990 more fields")


@pytest.mark.parametrize("number", [0, 2001])
def test_a_batch_of_another_size(farm: Farm, number: int) -> None:
    before = farm.store.calls.private
    refusal = refused(lambda: batch(farm, [CHECKSUM] * number))
    assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["checksums"])
    assert farm.store.calls.private == before


@pytest.mark.parametrize("name", ["app_id", "bundle_version", "source_revision", "build_url"])
@pytest.mark.parametrize("value", ["x" * 513, "a\nb", "\x00", "\x7f", "\x9f", "\x1b[31m"])
def test_an_unfit_context(farm: Farm, name: str, value: str) -> None:
    context = pb.RequestContext(**{name: value})
    refusal = refused(lambda: sign(farm, pb.SIGNATURE_SCHEME_CAPGO_V3, context=context))
    assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [f"context.{name}"])


def test_a_context_is_recorded(farm: Farm) -> None:
    said = {
        "app_id": "com.example.app",
        "bundle_version": "1.4.2",
        "source_revision": "\u00e9" * 512,
        "build_url": "https://ci",
    }
    sign(farm, pb.SIGNATURE_SCHEME_CAPGO_V3, context=pb.RequestContext(**said))
    context = farm.running.decisions.last.context
    assert {name: getattr(context, name) for name in said} == said


@pytest.mark.parametrize("body", [b"\xff", b"\x0a\xff", b"\x0a\x02\xff\xfe", b"\x08" * 41])
@pytest.mark.parametrize(
    "method", ["SigningService/SignChecksum", "SigningService/BatchSignChecksums", "KeyService/GetKey"]
)
def test_what_is_no_message(farm: Farm, method: str, body: bytes) -> None:
    call = farm.channel.unary_unary(f"/privyseal.v1.{method}")
    refusal = refused(lambda: call(body, timeout=TIMEOUT_S))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "the request is no privyseal.v1." in refusal.message


def test_what_is_too_long_is_not_read(farm: Farm) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        batch(farm, [bytes(4096)] * 100)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


# --- what a caller is told of a key store ---


@pytest.mark.parametrize(
    ("failure", "code", "reason"),
    [
        (BusyError("queue", "hsm-7", retry_after_s=0.75), grpc.StatusCode.RESOURCE_EXHAUSTED, "KEY_STORE_BUSY"),
        (UnavailableError("network", "hsm-7", retry_after_s=0.75), grpc.StatusCode.UNAVAILABLE, "KEY_STORE_AWAY"),
        (OperatorError("PIN", "hsm-7"), grpc.StatusCode.FAILED_PRECONDITION, "KEY_BLOCKED"),
        (CallerError("mechanism", "hsm-7"), grpc.StatusCode.FAILED_PRECONDITION, "KEY_CANNOT"),
        (IntegrityError("signature", "hsm-7"), grpc.StatusCode.INTERNAL, "INTERNAL"),
        (ZeroDivisionError("hsm-7 at /usr/lib/secret.so"), grpc.StatusCode.INTERNAL, "INTERNAL"),
    ],
)
def test_errors_of_the_store(farm: Farm, failure: Exception, code: grpc.StatusCode, reason: str) -> None:
    farm.store.faults.fail = lambda _: failure
    refusals = [refused(lambda: sign(farm, pb.SIGNATURE_SCHEME_CAPGO_V3))]
    if not isinstance(failure, CallerError):  # a decryption's is the ciphertext's fault
        refusals.append(refused(lambda: unwrap(farm, pb.WRAP_SCHEME_RSAES_OAEP_SHA256, bytes(256))))
    for refusal in refusals:
        assert (refusal.code, refusal.reason) == (code, reason)
        assert "hsm-7" not in str(refusal.words)
        if code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE):
            assert refusal.retry_after_s == 0.75
        if code is grpc.StatusCode.INTERNAL:
            assert (
                refusal.message
                == f"internal error; the service's log has the details, under the request id {refusal.request_id}"
            )


def test_what_befalls_a_batch_alike_is_logged_once(farm: Farm, caplog: pytest.LogCaptureFixture) -> None:
    farm.store.faults.fail = lambda _: BusyError("queue", "hsm-7 is full")
    batch(farm, [CHECKSUM] * 100)
    assert caplog.text.count("hsm-7 is full") == 1


def test_a_store_that_raises_what_it_should_return(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    async def sign_never(*_: object) -> list[object]:
        raise UnavailableError("network", "hsm-7 is away")

    for key in farm.store.open_keys:
        monkeypatch.setattr(key, "sign", sign_never)
    assert refused(lambda: sign(farm, pb.SIGNATURE_SCHEME_CAPGO_V3)).code is grpc.StatusCode.UNAVAILABLE
    assert [result.error.code for result in batch(farm, [CHECKSUM] * 3).results] == [Code.UNAVAILABLE] * 3


def test_a_store_that_raises_in_the_middle_of_a_batch_spoils_no_other_part(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: list[object] = []

    def raising(sign: Callable[..., Any]) -> Callable[..., Any]:
        async def sign_all_but_the_second(*arguments: Any) -> Any:
            parts.append(None)
            if len(parts) == 2:
                raise UnavailableError("network", "hsm-7 is away")
            return await sign(*arguments)

        return sign_all_but_the_second

    for key in farm.store.open_keys:
        monkeypatch.setattr(key, "sign", raising(key.sign))
    results = batch(farm, [CHECKSUM] * 100).results
    assert [result.error.code for result in results] == [0] * 32 + [Code.UNAVAILABLE] * 32 + [0] * 36
    assert farm.running.decisions.last.signatures == 68


def test_a_defect_is_in_the_log_with_its_request_id(farm: Farm, caplog: pytest.LogCaptureFixture) -> None:
    farm.store.faults.fail = lambda _: ZeroDivisionError("hsm-7")
    refusal = refused(lambda: sign(farm, pb.SIGNATURE_SCHEME_CAPGO_V3))
    assert refusal.request_id in caplog.text
    assert "ZeroDivisionError: hsm-7" in caplog.text


def test_a_store_that_answers_too_little(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    async def sign_nothing(*_: object) -> list[object]:
        return []

    for key in farm.store.open_keys:
        monkeypatch.setattr(key, "sign", sign_nothing)
    assert refused(lambda: sign(farm, pb.SIGNATURE_SCHEME_CAPGO_V3)).code is grpc.StatusCode.INTERNAL


def test_the_state_of_a_key_follows_its_store(farm: Farm) -> None:
    def state() -> int:
        return farm.keys.GetKey(keys_pb.GetKeyRequest(name="capgo"), timeout=TIMEOUT_S).key.state

    seen = []
    for failure in (UnavailableError("x", "y"), None, OperatorError("x", "y"), BusyError("x", "y"), None):
        farm.store.faults.fail = lambda _, failure=failure: failure  # type: ignore[misc]
        batch(farm, [CHECKSUM])
        seen.append(state())
    assert seen == [
        keys_pb.KEY_STATE_UNAVAILABLE,
        keys_pb.KEY_STATE_SERVING,
        keys_pb.KEY_STATE_BLOCKED,
        keys_pb.KEY_STATE_BLOCKED,
        keys_pb.KEY_STATE_SERVING,
    ]


def test_deadlines_reach_the_store(farm: Farm) -> None:
    seen: list[float] = []
    key = next(key for key in farm.store.open_keys if Mechanism.TYPE1 in key.description.mechanisms)
    original = key._sign

    async def watched(signing_input: SigningInput, deadline_s: float) -> object:
        seen.append(deadline_s - time.monotonic())
        return await original(signing_input, deadline_s)

    key._sign = watched  # type: ignore[method-assign,assignment]
    try:
        request = pb.SignChecksumRequest(key="capgo", checksum=CHECKSUM, scheme=pb.SIGNATURE_SCHEME_CAPGO_V3)
        farm.signing.SignChecksum(request, timeout=500)
        farm.signing.SignChecksum(request)
    finally:
        del key._sign  # type: ignore[method-assign]
    assert 400 < seen[0] < 600
    assert 1900 < seen[1] < 2100  # the service's own, as the farm configures it


def test_a_deadline_that_passes(farm: Farm) -> None:
    farm.store.faults.delay_s = 60
    request = pb.SignChecksumRequest(key="capgo", checksum=CHECKSUM, scheme=pb.SIGNATURE_SCHEME_CAPGO_V3)
    with pytest.raises(grpc.RpcError) as caught:
        farm.signing.SignChecksum(request, timeout=0.1)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


# --- who calls ---


def test_callers_without_a_name(farm: Farm, caplog: pytest.LogCaptureFixture) -> None:
    with farm.channel_of(uris=["spiffe://example/a", "spiffe://example/b"]) as channel:
        request = pb.SignChecksumRequest(key="capgo", checksum=CHECKSUM, scheme=pb.SIGNATURE_SCHEME_CAPGO_V3)
        refusal = refused(lambda: SigningServiceStub(channel).SignChecksum(request, timeout=TIMEOUT_S))
        listing = refused(lambda: KeyServiceStub(channel).ListKeys(keys_pb.ListKeysRequest(), timeout=TIMEOUT_S))
    assert refusal.code is grpc.StatusCode.UNAUTHENTICATED
    assert refusal.words == listing.words
    assert "URI" not in refusal.message
    assert "another URI beside it" in caplog.text


def test_a_caller_cannot_choose_its_request_id(farm: Farm) -> None:
    request = pb.SignChecksumRequest(key="capgo", checksum=CHECKSUM, scheme=pb.SIGNATURE_SCHEME_CAPGO_V3)
    metadata = (("privyseal-request-id", "mine"),)
    _, call = farm.signing.SignChecksum.with_call(request, timeout=TIMEOUT_S, metadata=metadata)
    (given,) = [value for key, value in call.trailing_metadata() if key == "privyseal-request-id"]
    assert given != "mine"
    assert farm.running.decisions.last.request_id == given


# --- decisions ---


def test_a_decision_has_all_of_it(farm: Farm) -> None:
    sign(farm, pb.SIGNATURE_SCHEME_CAPGO_V3)
    decision = farm.running.decisions.last
    assert (decision.caller, decision.proof.method, decision.grant) == (BUILD, "mtls", "build farm")
    assert (decision.operation, decision.key, decision.key_version) == ("sign-checksum", "capgo", "01")
    assert (decision.scheme, decision.outcome, decision.code) == ("capgo-v3", Outcome.ANSWERED, Code.OK)
    assert decision.peer.startswith("ipv4:127.0.0.1:")
    assert decision.store_request_id.startswith("call-")
    assert decision.store_s > 0
    assert decision.signatures == 1


def test_every_call_is_decided_once_and_before_it_is_answered(farm: Farm) -> None:
    kept = farm.running.decisions.kept
    farm.store.faults.fail = lambda signing_input: OperatorError("x", "y") if signing_input else None
    calls: list[tuple[Callable[[], object], Outcome, Code]] = [
        (lambda: farm.keys.ListKeys(keys_pb.ListKeysRequest(), timeout=5), Outcome.ANSWERED, Code.OK),
        (lambda: farm.keys.GetKey(keys_pb.GetKeyRequest(name="?"), timeout=5), Outcome.DENIED, Code.PERMISSION_DENIED),
        (lambda: sign(farm, pb.SIGNATURE_SCHEME_CAPGO_V3, key="?" * 500), Outcome.DENIED, Code.PERMISSION_DENIED),
        (lambda: sign(farm, pb.SIGNATURE_SCHEME_CAPGO_V3, b""), Outcome.REFUSED, Code.INVALID_ARGUMENT),
        (lambda: wrap(farm, pb.WRAP_SCHEME_RSAES_OAEP_SHA1, b""), Outcome.REFUSED, Code.FAILED_PRECONDITION),
        (lambda: sign(farm, pb.SIGNATURE_SCHEME_CAPGO_V3), Outcome.REFUSED, Code.FAILED_PRECONDITION),
        (lambda: batch(farm, [CHECKSUM]), Outcome.REFUSED, Code.FAILED_PRECONDITION),
    ]
    for call, outcome, code in calls:
        before = len(kept)
        with suppress(grpc.RpcError):
            call()
        assert [(decision.outcome, decision.code) for decision in kept[before:]] == [(outcome, code)]
        assert len(kept[-1].key) <= 128
        assert kept[-1].caller == BUILD


def test_nothing_leaves_that_was_not_recorded(farm: Farm) -> None:
    message = "the audit trail cannot be written"
    farm.running.decisions.failure = ServiceError(Code.UNAVAILABLE, "AUDIT_UNAVAILABLE", message, retry_after_s=1)
    refusal = refused(lambda: sign(farm, pb.SIGNATURE_SCHEME_CAPGO_V3))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "AUDIT_UNAVAILABLE")
    farm.running.decisions.failure = OSError("no space on /var/lib/secret")
    refusal = refused(lambda: sign(farm, pb.SIGNATURE_SCHEME_CAPGO_V3))
    assert refusal.code is grpc.StatusCode.INTERNAL
    assert "secret" not in refusal.message


def test_a_call_that_was_cancelled_is_recorded(farm: Farm) -> None:
    begun = threading.Event()
    farm.store.faults.delay_s = 60

    def fail(_: SigningInput | None) -> None:
        begun.set()

    farm.store.faults.fail = fail
    request = pb.SignChecksumRequest(key="capgo", checksum=CHECKSUM, scheme=pb.SIGNATURE_SCHEME_CAPGO_V3)
    call = farm.signing.SignChecksum.future(request, timeout=90)
    assert begun.wait(10)
    call.cancel()
    waited = threading.Event()
    for _ in range(500):
        if farm.running.decisions.last.outcome is Outcome.CANCELLED:
            break
        waited.wait(0.01)
    assert farm.running.decisions.last.outcome is Outcome.CANCELLED
    assert farm.running.decisions.last.grant == "build farm"


def test_no_secret_is_in_a_repr(farm: Farm) -> None:
    secret = b"\xabsession-key-is!"
    wrapped = wrap(farm, pb.WRAP_SCHEME_RSAES_OAEP_SHA256, secret, key="opener")
    unwrap(farm, pb.WRAP_SCHEME_RSAES_OAEP_SHA256, wrapped)
    wrap(farm, pb.WRAP_SCHEME_CAPGO, secret)
    assert "session-key-is" not in repr(farm.running.decisions.kept)


def test_eight_threads(farm: Farm, rsa_key: rsa.RSAPrivateKey) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(20):
                checksum = hashlib.sha256(f"{number} {turn}".encode()).digest()
                signature = sign(farm, pb.SIGNATURE_SCHEME_CAPGO_V3, checksum)
                rsa_key.public_key().verify(signature, checksum, padding.PKCS1v15(), NoDigestInfo())  # type: ignore[arg-type]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
