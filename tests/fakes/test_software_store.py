"""The software store is a key store as the interface has it."""

from __future__ import annotations

import asyncio
import time

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from privyseal_backends.interface import (
    CallerError,
    Decrypter,
    IntegrityError,
    Key,
    KeyCreator,
    KeyStore,
    Mechanism,
    OperatorError,
    PublicKey,
    Purpose,
    Signature,
    SigningInput,
    UnavailableError,
)
from privyseal_backends.verification import verify
from tests.fakes.software_store import SoftwareStore, open_store

V3 = SigningInput(Mechanism.TYPE1, bytes(32))


def test_it_is_what_it_says() -> None:
    store = open_store({})
    key = asyncio.run(store.create_key("software:a"))
    assert isinstance(store, KeyStore)
    assert isinstance(store, KeyCreator)
    assert isinstance(key, Key)
    assert isinstance(key, Decrypter)


@pytest.mark.parametrize("purpose", Purpose)
def test_a_key_does_what_its_purpose_has_and_refuses_the_rest(rsa_key: rsa.RSAPrivateKey, purpose: Purpose) -> None:
    async def main() -> None:
        store = SoftwareStore()
        key = await store.open_key(store.add("a", rsa_key, purpose))
        inputs = [
            SigningInput(m, bytes(32)) for m in (Mechanism.TYPE1, Mechanism.PKCS1_V1_5_SHA256, Mechanism.PSS_SHA256)
        ]
        for signing_input, result in zip(inputs, await key.sign(inputs, time.monotonic() + 60), strict=True):
            if signing_input.mechanism in key.description.mechanisms:
                assert isinstance(result, Signature)
                verify(key.description.public_key, signing_input, result.value)
            else:
                assert isinstance(result, CallerError)
        assert store.calls.signed == len(set(key.description.mechanisms) & {each.mechanism for each in inputs})

    asyncio.run(main())


def test_faults(rsa_key: rsa.RSAPrivateKey) -> None:
    async def main() -> None:
        store = SoftwareStore()
        uri = store.add("a", rsa_key)
        key = await store.open_key(uri, PublicKey(rsa_key.public_key()).fingerprint)
        with pytest.raises(IntegrityError):
            await store.open_key(uri, "0" * 64)
        with pytest.raises(OperatorError):
            await store.create_key(uri)
        store.faults.away = True
        with pytest.raises(UnavailableError):
            await store.open_key(uri)
        assert isinstance((await key.sign([V3], time.monotonic() + 60))[0], UnavailableError)
        store.faults.away = False
        await store.close()
        await store.close()
        with pytest.raises(UnavailableError):
            await store.open_key(uri)

    asyncio.run(main())


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(OperatorError):
        open_store({"speed": 3})
