"""Any length with any scheme on any key: the right code and details, and the store is touched only for what fits."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privyseal.v1 import signing_pb2 as pb
from tests.support.farm import Farm
from tests.support.refusals import Refusal

LENGTHS = st.one_of(
    st.sampled_from(
        [0, 1, 15, 16, 17, 19, 20, 23, 24, 25, 31, 32, 33, 47, 48, 49, 51, 64, 190, 245, 246, 255, 256, 257]
    ),
    st.integers(0, 4096),
)
FITS_WRAP = {
    pb.WRAP_SCHEME_CAPGO: ("capgo", {16}),
    pb.WRAP_SCHEME_RSAES_OAEP_SHA256: ("opener", {16, 24, 32}),
    pb.WRAP_SCHEME_RSAES_OAEP_SHA1: ("opener", {16, 24, 32}),
}
FITS_SIGN = {
    pb.SIGNATURE_SCHEME_CAPGO_V2: "capgo",
    pb.SIGNATURE_SCHEME_CAPGO_V3: "capgo",
    pb.SIGNATURE_SCHEME_RSASSA_PKCS1_V1_5_SHA256: "signer",
    pb.SIGNATURE_SCHEME_RSASSA_PSS_SHA256: "signer",
}
KEYS = st.sampled_from(["capgo", "signer", "opener", "unknown"])

often = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def outcome(call: Any, request: Any) -> Refusal | bytes:
    try:
        answer = call(request, timeout=10)
    except grpc.RpcError as error:
        return Refusal(error)
    return bytes(answer.wrapped_key if isinstance(answer, pb.WrapSessionKeyResponse) else answer.signature)


def expect(got: Refusal | bytes, *, key: str, enrolled: str | None, fits: bool, field: str) -> bool:
    """Compare with the rule; whether a private or public key was used."""
    if enrolled is None:
        wanted: tuple[grpc.StatusCode, str] | None = (grpc.StatusCode.INVALID_ARGUMENT, "scheme")
    elif key == "unknown":
        wanted = (grpc.StatusCode.PERMISSION_DENIED, "")
    elif key != enrolled:
        wanted = (grpc.StatusCode.FAILED_PRECONDITION, "")
    elif not fits:
        wanted = (grpc.StatusCode.INVALID_ARGUMENT, field)
    else:
        wanted = None
    if wanted is None:
        assert isinstance(got, bytes)
        assert len(got) == 256
        return True
    assert isinstance(got, Refusal)
    assert (got.code, got.fields[0] if "BadRequest" in got.details else "") == wanted
    return False


@often
@given(size=LENGTHS, scheme=st.sampled_from([0, *FITS_WRAP, 77]), key=KEYS)
def test_wrapping(farm: Farm, size: int, scheme: Any, key: str) -> None:
    before = farm.store.calls.private
    request = pb.WrapSessionKeyRequest(key=key, session_key=bytes(size), scheme=scheme)
    got = outcome(farm.signing.WrapSessionKey, request)
    enrolled, lengths = FITS_WRAP.get(scheme, (None, set()))
    used = expect(got, key=key, enrolled=enrolled, fits=size in lengths, field="session_key")
    touched = used and scheme == pb.WRAP_SCHEME_CAPGO
    assert farm.store.calls.private == before + touched


@often
@given(size=LENGTHS, scheme=st.sampled_from([0, *FITS_SIGN, 77]), key=KEYS)
def test_signing(farm: Farm, size: int, scheme: Any, key: str) -> None:
    before = farm.store.calls.private
    request = pb.SignChecksumRequest(key=key, checksum=bytes(size), scheme=scheme)
    got = outcome(farm.signing.SignChecksum, request)
    used = expect(got, key=key, enrolled=FITS_SIGN.get(scheme), fits=size == 32, field="checksum")
    assert farm.store.calls.private == before + used


@often
@given(sizes=st.lists(st.sampled_from([0, 16, 31, 32, 32, 32, 33, 48, 51]), min_size=1, max_size=6))
def test_batches(farm: Farm, sizes: list[int]) -> None:
    before = farm.store.calls.private
    request = pb.BatchSignChecksumsRequest(
        key="capgo", checksums=[bytes(size) for size in sizes], scheme=pb.SIGNATURE_SCHEME_CAPGO_V2
    )
    wrong = [f"checksums[{place}]" for place, size in enumerate(sizes) if size != 32]
    if not wrong:
        assert len(farm.signing.BatchSignChecksums(request, timeout=10).results) == len(sizes)
        assert farm.store.calls.private == before + len(sizes)
        return
    with pytest.raises(grpc.RpcError) as caught:
        farm.signing.BatchSignChecksums(request, timeout=10)
    refusal = Refusal(caught.value)
    assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, wrong)
    assert farm.store.calls.private == before


@pytest.mark.parametrize("size", [15, 17, 24, 32, 48, 51])
def test_capgo_session_keys_of_another_length(farm: Farm, size: int) -> None:
    """51 bytes would be a DigestInfo, which is an RS256 signature; 32 a checksum's own block."""
    before = farm.store.calls.private
    request = pb.WrapSessionKeyRequest(key="capgo", session_key=bytes(size), scheme=pb.WRAP_SCHEME_CAPGO)
    with pytest.raises(grpc.RpcError) as caught:
        farm.signing.WrapSessionKey(request, timeout=10)
    refusal = Refusal(caught.value)
    assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["session_key"])
    assert f"must be 16 bytes for capgo, not {size}" in refusal.message
    assert farm.store.calls.private == before


@often
@given(body=st.binary(max_size=300))
def test_random_bytes_are_never_a_fault_of_the_service(farm: Farm, body: bytes) -> None:
    before = farm.store.calls.private
    for method in ("WrapSessionKey", "SignChecksum", "BatchSignChecksums", "UnwrapSessionKey"):
        with pytest.raises(grpc.RpcError) as caught:
            farm.channel.unary_unary(f"/privyseal.v1.SigningService/{method}")(body, timeout=10)
        assert Refusal(caught.value).code in {
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.PERMISSION_DENIED,
            grpc.StatusCode.FAILED_PRECONDITION,
        }
    assert farm.store.calls.private == before
