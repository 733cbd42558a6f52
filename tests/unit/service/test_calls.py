"""Calls over the wire: what each gives, and what it is refused with."""

from __future__ import annotations

import hashlib

from privyseal.v1 import signing_pb2 as pb
from tests.unit.service.conftest import Farm


def test_wrap_and_sign(farm: Farm) -> None:
    wrapped = farm.signing.WrapSessionKey(
        pb.WrapSessionKeyRequest(key="capgo", session_key=bytes(16), scheme=pb.WRAP_SCHEME_CAPGO), timeout=5
    )
    assert len(wrapped.wrapped_key) == 256
    checksum = hashlib.sha256(b"zip").digest()
    signed = farm.signing.SignChecksum(
        pb.SignChecksumRequest(key="capgo", checksum=checksum, scheme=pb.SIGNATURE_SCHEME_CAPGO_V3), timeout=5
    )
    assert len(signed.signature) == 256
