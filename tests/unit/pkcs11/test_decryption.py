"""Decryption: only on keys made for it, and one answer to every ciphertext that does not fit."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.hashes import SHA1, SHA256

from privyseal_backends.interface import (
    BusyError,
    CallerError,
    DeadlineError,
    Decrypter,
    Mechanism,
    PublicKey,
    SigningInput,
    UnavailableError,
)
from privyseal_backends.pkcs11.key import Pkcs11DecryptionKey
from tests.support.shim import Ckr, FaultShim
from tests.support.softhsm import SoftHsmToken, import_rsa_key, make_token
from tests.unit.pkcs11.helpers import VECTORS, in_time, kinds, opened

PEM = VECTORS / "capgo-v3" / "private.pem"
OAEP_SHA1 = padding.OAEP(mgf=padding.MGF1(SHA1()), algorithm=SHA1(), label=None)
OAEP_SHA256 = padding.OAEP(mgf=padding.MGF1(SHA256()), algorithm=SHA256(), label=None)


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHsmToken]:
    made = make_token(tmp_path_factory.mktemp("token"), "decryption")
    import_rsa_key(made, "decrypter", PEM, sign=False, decrypt=True)
    import_rsa_key(made, "both", PEM, sign=True, decrypt=True)
    with made.in_this_process():
        yield made


@asynccontextmanager
async def decrypter(uri: str, **settings: object) -> AsyncIterator[Pkcs11DecryptionKey]:
    async with opened(**settings) as store:
        key = await store.open_key(uri)
        assert isinstance(key, Pkcs11DecryptionKey)
        yield key


def wrap(key: PublicKey, plain: bytes) -> bytes:
    return key.key.encrypt(plain, OAEP_SHA1)


def test_what_was_wrapped_comes_back(token: SoftHsmToken) -> None:
    async def unwrap() -> None:
        async with decrypter(token.uri("decrypter")) as key:
            assert isinstance(key, Decrypter)
            for size in (16, 24, 32):
                plain = os.urandom(size)
                wrapped = wrap(key.description.public_key, plain)
                result = await key.decrypt(wrapped, Mechanism.OAEP_SHA1, in_time())
                assert result.value == plain
                assert plain.hex() not in repr(result)

    asyncio.run(unwrap())


def test_a_hash_that_the_token_does_not_take_is_known_at_once(token: SoftHsmToken, shim: FaultShim) -> None:
    """SoftHSM before 2.8 has OAEP with SHA-1 alone, and its list of mechanisms does not tell."""

    async def refuse() -> None:
        async with decrypter(token.uri("decrypter", module_path=shim.path)) as key:
            described = key.description
            tries = shim.calls("C_DecryptInit")
            if Mechanism.OAEP_SHA256 in described.mechanisms:
                wrapped = described.public_key.key.encrypt(bytes(16), OAEP_SHA256)
                assert (await key.decrypt(wrapped, Mechanism.OAEP_SHA256, in_time())).value == bytes(16)
            else:
                assert "rsaes-oaep-sha1" in described.refusals[Mechanism.OAEP_SHA256]
                with pytest.raises(CallerError, match="OAEP with SHA-256"):
                    await key.decrypt(bytes(256), Mechanism.OAEP_SHA256, in_time())
                assert shim.calls("C_DecryptInit") == tries

    asyncio.run(refuse())


@pytest.mark.parametrize("function", ["C_DecryptInit", "C_Decrypt"])
async def test_a_trial_that_a_failed_open_left_active_does_not_keep_the_key_from_opening(
    token: SoftHsmToken, shim: FaultShim, function: str
) -> None:
    uri = token.uri("decrypter", module_path=shim.path)
    async with opened() as store:
        shim.fail(function, Ckr.DEVICE_ERROR, times=1)
        with pytest.raises(UnavailableError, match="CKR_DEVICE_ERROR"):
            await store.open_key(uri)
        key = await store.open_key(uri)
        wrapped = wrap(key.description.public_key, bytes(16))
        assert isinstance(key, Decrypter)
        assert (await key.decrypt(wrapped, Mechanism.OAEP_SHA1, in_time())).value == bytes(16)


def test_a_decryption_key_does_not_sign(token: SoftHsmToken) -> None:
    async def sign() -> None:
        async with decrypter(token.uri("decrypter")) as key:
            inputs = [SigningInput(each, bytes(32)) for each in (Mechanism.TYPE1, Mechanism.PSS_SHA256)]
            assert kinds(await key.sign(inputs, in_time())) == ["CallerError"] * 2

    asyncio.run(sign())


def test_a_key_that_also_signs_does_not_decrypt(token: SoftHsmToken) -> None:
    async def open_it() -> None:
        async with opened() as store:
            key = await store.open_key(token.uri("both"))
            assert not isinstance(key, Decrypter)
            assert Mechanism.TYPE1 in key.description.mechanisms
            assert "CKA_SIGN" in key.description.refusals[Mechanism.OAEP_SHA1]
            evidence = {each.name: each.value for each in key.description.custody.evidence}
            assert (evidence["CKA_SIGN"], evidence["CKA_DECRYPT"]) == ("true", "true")

    asyncio.run(open_it())


def test_every_unfit_ciphertext_gets_the_same_answer(token: SoftHsmToken) -> None:
    async def refuse() -> set[str]:
        async with decrypter(token.uri("decrypter")) as key:
            public_key = key.description.public_key
            good = wrap(public_key, bytes(16))
            unfit = [
                b"",
                bytes(255),
                bytes(257),
                bytes(256),
                b"\xff" * 256,
                good[:-1] + bytes([good[-1] ^ 1]),
                public_key.key.encrypt(bytes(16), OAEP_SHA256),
                public_key.key.encrypt(bytes(16), padding.PKCS1v15()),
            ]
            said: set[str] = set()
            for ciphertext in unfit:
                with pytest.raises(CallerError) as caught:
                    await key.decrypt(ciphertext, Mechanism.OAEP_SHA1, in_time())
                said.add(f"{caught.value} {caught.value.__context__}")
            assert (await key.decrypt(good, Mechanism.OAEP_SHA1, in_time())).value == bytes(16)
            return said

    assert len(asyncio.run(refuse())) == 1


@pytest.mark.parametrize("code", [Ckr.ENCRYPTED_DATA_INVALID, Ckr.GENERAL_ERROR, Ckr.FUNCTION_FAILED, 0x20, 0x21, 0x41])
@pytest.mark.parametrize("lie", [True, False])
def test_whatever_the_token_calls_it(token: SoftHsmToken, shim: FaultShim, code: int, lie: bool) -> None:
    """Without `lie` the token leaves the operation active in the session, as some do after a bad ciphertext."""

    async def refuse() -> None:
        async with decrypter(token.uri("decrypter", module_path=shim.path), threads=1) as key:
            shim.fail("C_Decrypt", code, times=1, lie=lie)
            good = wrap(key.description.public_key, bytes(16))
            with pytest.raises(CallerError, match="not made for this key"):
                await key.decrypt(good, Mechanism.OAEP_SHA1, in_time())
            assert (await key.decrypt(good, Mechanism.OAEP_SHA1, in_time())).value == bytes(16)

    asyncio.run(refuse())


@pytest.mark.parametrize("lie", [True, False])
def test_a_failing_token_is_not_the_ciphertexts_fault(token: SoftHsmToken, shim: FaultShim, lie: bool) -> None:
    async def fail() -> None:
        async with decrypter(token.uri("decrypter", module_path=shim.path), threads=1) as key:
            good = wrap(key.description.public_key, bytes(16))
            for code, kind in (
                (Ckr.GENERAL_ERROR, UnavailableError),
                (Ckr.DEVICE_ERROR, UnavailableError),
                (Ckr.FUNCTION_FAILED, BusyError),
            ):
                shim.fail("C_Decrypt", code, lie=lie)
                with pytest.raises(kind):
                    await key.decrypt(good, Mechanism.OAEP_SHA1, in_time())
                shim.clear()
                while True:
                    with contextlib.suppress(UnavailableError):
                        assert (await key.decrypt(good, Mechanism.OAEP_SHA1, in_time())).value == bytes(16)
                        break
                    await asyncio.sleep(0.01)

    asyncio.run(fail())


def test_a_deadline(token: SoftHsmToken) -> None:
    async def late() -> None:
        async with decrypter(token.uri("decrypter")) as key:
            with pytest.raises(DeadlineError):
                await key.decrypt(wrap(key.description.public_key, bytes(16)), Mechanism.OAEP_SHA1, 0.0)

    asyncio.run(late())
