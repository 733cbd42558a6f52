"""What somebody asks for, who may ask: nothing of it reaches a key but what an operation makes of it."""

from __future__ import annotations

import hashlib
import threading
import time

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privyseal.v1 import keys_pb2 as keys_pb
from privyseal.v1 import signing_pb2 as pb
from privyseal_service.config.loading import parse_config
from tests.support.farm import BUILD
from tests.support.service import secure_channel
from tests.support.targets import SIGN, Target, code, config, shown
from tests.support.tokens import token

DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420") + hashlib.sha256(b"contract").digest()
"""What RS256 signs: 51 bytes. A signer that takes it is an oracle for every standard signature."""

CAPGO, V2, V3 = pb.WRAP_SCHEME_CAPGO, pb.SIGNATURE_SCHEME_CAPGO_V2, pb.SIGNATURE_SCHEME_CAPGO_V3
PADDED = b"\0\1" + b"\xff" * (253 - len(DIGEST_INFO)) + b"\0" + DIGEST_INFO
METHODS = ("WrapSessionKey", "SignChecksum", "BatchSignChecksums", "UnwrapSessionKey")


@pytest.mark.parametrize("smuggled", [DIGEST_INFO, PADDED, DIGEST_INFO[:19], DIGEST_INFO[19:] * 2, b"", b"\0" * 31])
def test_a_digest_info_as_any_field(target: Target, smuggled: bytes) -> None:
    build = target.build()
    calls = [
        lambda: build.WrapSessionKey(
            pb.WrapSessionKeyRequest(key="capgo", session_key=smuggled, scheme=CAPGO), timeout=10
        ),
        lambda: build.SignChecksum(pb.SignChecksumRequest(key="capgo", checksum=smuggled, scheme=V3), timeout=10),
        lambda: build.SignChecksum(pb.SignChecksumRequest(key="capgo", checksum=smuggled, scheme=V2), timeout=10),
        lambda: build.BatchSignChecksums(
            pb.BatchSignChecksumsRequest(key="capgo", checksums=[SIGN.checksum, smuggled], scheme=V3), timeout=10
        ),
        lambda: build.UnwrapSessionKey(
            pb.UnwrapSessionKeyRequest(key="capgo", wrapped_key=smuggled, scheme=CAPGO), timeout=10
        ),
    ]
    assert {code(call) for call in calls} <= {"INVALID_ARGUMENT", "FAILED_PRECONDITION"}


def test_a_digest_info_as_text(target: Target) -> None:
    build, text = target.build(), DIGEST_INFO.decode("latin-1")
    said = pb.RequestContext(app_id=text)
    request = pb.SignChecksumRequest(key="capgo", checksum=SIGN.checksum, scheme=V3, context=said)
    assert code(lambda: build.SignChecksum(request, timeout=10)) == "INVALID_ARGUMENT"
    request = pb.SignChecksumRequest(key=text, checksum=SIGN.checksum, scheme=V3)
    assert code(lambda: build.SignChecksum(request, timeout=10)) == "PERMISSION_DENIED"


def test_one_operation_asked_for_as_another(target: Target) -> None:
    """A message of one method sent to another, and schemes of the other kind."""
    client = target.ca.issue(uris=[BUILD])
    wrap = pb.WrapSessionKeyRequest(key="capgo", session_key=bytes(16), scheme=CAPGO).SerializeToString()
    with secure_channel(target.running.address(), target.ca, client) as channel:
        for method in ("SignChecksum", "BatchSignChecksums", "UnwrapSessionKey"):
            call = channel.unary_unary(f"/privyseal.v1.SigningService/{method}")
            assert code(lambda c=call: c(wrap, timeout=10)) in {"INVALID_ARGUMENT", "FAILED_PRECONDITION"}  # type: ignore[misc]
        for method in ("SignRaw", "Decrypt", "signChecksum", "SignChecksum/", ""):
            call = channel.unary_unary(f"/privyseal.v1.SigningService/{method}")
            assert code(lambda c=call: c(wrap, timeout=10)) == "UNIMPLEMENTED"  # type: ignore[misc]


def test_requests_without_end(target: Target) -> None:
    client = target.ca.issue(uris=[BUILD])
    with secure_channel(target.running.address(), target.ca, client) as channel:
        for method in METHODS:
            call = channel.unary_unary(f"/privyseal.v1.SigningService/{method}")
            assert code(lambda c=call: c(b"\x12" + b"\xff" * 200_000, timeout=10)) == "RESOURCE_EXHAUSTED"  # type: ignore[misc]
    checksums = [hashlib.sha256(str(number).encode()).digest() for number in range(2001)]
    request = pb.BatchSignChecksumsRequest(key="capgo", checksums=checksums, scheme=V3)
    assert code(lambda: target.build().BatchSignChecksums(request, timeout=10)) == "INVALID_ARGUMENT"


@pytest.mark.parametrize("name", ["SignChecksum", "BatchSignChecksums", "WrapSessionKey", "GetKey"])
def test_truncated_requests(target: Target, name: str) -> None:
    """Every beginning of a good request is answered as any other unfit one."""
    whole = {
        "SignChecksum": SIGN.SerializeToString(),
        "BatchSignChecksums": pb.BatchSignChecksumsRequest(
            key="capgo", checksums=[SIGN.checksum] * 2, scheme=V3
        ).SerializeToString(),
        "WrapSessionKey": pb.WrapSessionKeyRequest(
            key="capgo", session_key=bytes(16), scheme=CAPGO
        ).SerializeToString(),
        "GetKey": keys_pb.GetKeyRequest(name="none-such").SerializeToString(),
    }[name]
    service = "KeyService" if name == "GetKey" else "SigningService"
    client = target.ca.issue(uris=[BUILD])
    with secure_channel(target.running.address(), target.ca, client) as channel:
        call = channel.unary_unary(f"/privyseal.v1.{service}/{name}")
        calls = [call.future(whole[:size], timeout=30) for size in range(len(whole))]
        codes = {str(each.code().name) for each in calls}
    assert codes <= {"INVALID_ARGUMENT", "PERMISSION_DENIED"}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(body=st.binary(max_size=300), method=st.sampled_from(METHODS))
def test_random_requests(target: Target, random_channel: grpc.Channel, body: bytes, method: str) -> None:
    call = random_channel.unary_unary(f"/privyseal.v1.SigningService/{method}").future(body, timeout=30)
    assert str(call.code().name) in {"INVALID_ARGUMENT", "PERMISSION_DENIED", "FAILED_PRECONDITION"}
    assert dict(call.trailing_metadata())["privyseal-request-id"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(
    key=st.text(max_size=40),
    checksum=st.binary(max_size=80).filter(lambda data: len(data) != 32),
    scheme=st.integers(-(2**31), 2**31 - 1),
    texts=st.lists(st.text(max_size=600), min_size=4, max_size=4),
)
def test_requests_of_random_fields(
    target: Target, random_channel: grpc.Channel, key: str, checksum: bytes, scheme: int, texts: list[str]
) -> None:
    context = pb.RequestContext(app_id=texts[0], bundle_version=texts[1], source_revision=texts[2], build_url=texts[3])
    request = pb.SignChecksumRequest(key=key or "capgo", checksum=checksum, scheme=scheme, context=context)  # type: ignore[arg-type]
    call = random_channel.unary_unary("/privyseal.v1.SigningService/SignChecksum").future(
        request.SerializeToString(), timeout=30
    )
    assert str(call.code().name) in {"INVALID_ARGUMENT", "PERMISSION_DENIED", "FAILED_PRECONDITION"}


@pytest.fixture(scope="module")
def random_channel(target: Target) -> grpc.Channel:
    return secure_channel(target.running.address(), target.ca, target.ca.issue(uris=[BUILD]))


def test_a_grant_that_is_taken_away_while_a_stream_of_calls_runs(target: Target) -> None:
    """Every call before is signed, every call after is refused, and nothing else ever happens."""
    data = config(target.ca, target.folder)
    pipeline, ending, codes = target.pipeline(), threading.Event(), list[str]()
    metadata = shown(token())

    def stream() -> None:
        while not ending.is_set():
            codes.append(str(pipeline.SignChecksum.future(SIGN, timeout=20, metadata=metadata).code().name))

    thread = threading.Thread(target=stream)
    thread.start()
    try:
        for grants in (data["grants"][:-1], data["grants"]):
            _until(lambda: len(codes) > 5)
            target.running.run(
                target.running.service.reload(parse_config({**data, "grants": grants}, "server.toml", target.folder))
            )
            codes_then = len(codes)
            _until(lambda: len(codes) > codes_then + 6)  # noqa: B023 - called here
            expected = "PERMISSION_DENIED" if len(grants) < len(data["grants"]) else "OK"
            # The one that was under way when the grants changed may be either.
            assert set(codes[codes_then + 1 :]) == {expected}
    finally:
        ending.set()
        thread.join()
    assert set(codes) == {"OK", "PERMISSION_DENIED"}


def _until(true: object) -> None:
    end_s = time.monotonic() + 30
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end_s
        time.sleep(0.005)
