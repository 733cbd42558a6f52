"""The AWS KMS backend against the emulator, over the wire."""

from __future__ import annotations

import asyncio
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256

from privyseal_backends.interface import (
    CallerError,
    Decrypter,
    IntegrityError,
    Key,
    Mechanism,
    OperatorError,
    Signature,
    SigningInput,
)
from privyseal_backends.registry import backend
from tests.fakes.fault_proxy import FaultProxy
from tests.integration.aws_kms.helpers import in_s, opened, uri, with_key
from tests.support.ministack import Ministack

DIGEST = sha256(b"a bundle").digest()
PADDINGS = {
    Mechanism.PKCS1_V1_5_SHA256: padding.PKCS1v15(),
    Mechanism.PSS_SHA256: padding.PSS(mgf=padding.MGF1(SHA256()), salt_length=32),
}


def sign(key_uri: str, *inputs: SigningInput, **settings: object) -> list[object]:
    async def use(key: Key) -> list[object]:
        return list(await key.sign(inputs, in_s()))

    return with_key(key_uri, use, **settings)


@pytest.mark.parametrize("spec", ["RSA_2048", "RSA_3072", "RSA_4096"])
def test_every_size_signs_with_every_scheme(ministack: Ministack, spec: str) -> None:
    arn = ministack.create_key(spec)
    inputs = [SigningInput(mechanism, DIGEST) for mechanism in PADDINGS]

    async def use(key: Key) -> None:
        described = key.description
        assert described.key_version == arn
        assert described.mechanisms == set(PADDINGS)
        assert f"RSA_{described.public_key.modulus_bits}" == spec
        for signing_input, result in zip(inputs, await key.sign(inputs, in_s()), strict=True):
            assert isinstance(result, Signature)
            assert result.request_id
            assert result.store_s > 0
            assert len(result.value) == described.public_key.modulus_bytes
            described.public_key.key.verify(
                result.value, DIGEST, PADDINGS[signing_input.mechanism], Prehashed(SHA256())
            )

    with_key(uri(arn, ministack.endpoint), use, probe=True)
