"""The typed operations: known answers from the published CLI, and no input of any other length."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hypothesis import given
from hypothesis import strategies as st

from privyseal_backends.interface import Mechanism, PublicKey, SigningInput
from privyseal_service.domain.operations import (
    InputError,
    SignatureScheme,
    WrapScheme,
    check_unwrapped,
    checksum_to_sign,
    encrypt_session_key,
    session_key_to_sign,
)
from tests.fakes.software_store import software_signature

VECTORS = Path(__file__).resolve().parents[2] / "vectors"


@pytest.mark.parametrize(
    ("name", "scheme"), [("capgo-v2", SignatureScheme.CAPGO_V2), ("capgo-v3", SignatureScheme.CAPGO_V3)]
)
def test_known_answers(name: str, scheme: SignatureScheme) -> None:
    vector = json.loads((VECTORS / name / "vector.json").read_text())
    private_key = load_pem_private_key((VECTORS / name / "private.pem").read_bytes(), None)
    assert isinstance(private_key, rsa.RSAPrivateKey)
    wrapping = session_key_to_sign(bytes.fromhex(vector["rsa_input_session_key_hex"]))
    assert software_signature(private_key, wrapping).hex() == vector["rsa_output_session_key_hex"]
    checksum = bytes.fromhex(json.loads((VECTORS / name / "zip.json").read_text())["checksum"])
    signing = checksum_to_sign(scheme, checksum)
    assert signing == SigningInput(Mechanism.TYPE1, bytes.fromhex(vector["rsa_input_checksum_hex"]))
    assert software_signature(private_key, signing).hex() == vector["rsa_output_checksum_hex"]


@given(st.binary(max_size=80))
def test_only_16_bytes_are_wrapped_for_capgo(session_key: bytes) -> None:
    if len(session_key) == 16:
        assert session_key_to_sign(session_key) == SigningInput(Mechanism.TYPE1, session_key)
    else:
        with pytest.raises(InputError) as caught:
            session_key_to_sign(session_key)
        assert caught.value.field == "session_key"


@given(st.binary(max_size=80), st.sampled_from(SignatureScheme))
def test_only_32_bytes_are_signed(checksum: bytes, scheme: SignatureScheme) -> None:
    if len(checksum) == 32:
        data = checksum_to_sign(scheme, checksum).data
        assert len(data) == (48 if scheme is SignatureScheme.CAPGO_V2 else 32)
    else:
        with pytest.raises(InputError) as caught:
            checksum_to_sign(scheme, checksum)
        assert caught.value.field == "checksum"


@given(st.integers(0, 80), st.sampled_from([WrapScheme.RSAES_OAEP_SHA1, WrapScheme.RSAES_OAEP_SHA256]))
def test_oaep_wraps_session_keys_alone(size: int, scheme: WrapScheme) -> None:
    public_key = PublicKey(_KEY.public_key())
    assert check_unwrapped(scheme, bytes(size)) == (size in (16, 24, 32))
    if size in (16, 24, 32):
        assert len(encrypt_session_key(scheme, bytes(size), public_key)) == 256
    else:
        with pytest.raises(InputError):
            encrypt_session_key(scheme, bytes(size), public_key)


_KEY = rsa.generate_private_key(65537, 2048)
