"""Keys of every algorithm: what they make, what they refuse, and what is asked of Google for it."""

from __future__ import annotations

import asyncio
import base64
import logging
import math
import time

import pytest
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from google.cloud.kms_v1 import types

from privyseal_backends.interface import (
    CallerError,
    Decrypter,
    Key,
    KeyCreator,
    KeyStore,
    Mechanism,
    OperatorError,
    Plaintext,
    Signature,
    SigningInput,
)
from privyseal_backends.verification import verify
from tests.fakes.google_kms import RING
from tests.integration.google_kms.support import (
    OAEP,
    OAEP_SHA1,
    PKCS1,
    PSS,
    RAW,
    digest,
    opened,
    run,
    store,
    uri,
    within,
)

SIGNERS = [
    (RAW, Mechanism.TYPE1, 256),
    (PKCS1, Mechanism.PKCS1_V1_5_SHA256, 256),
    ("RSA_SIGN_PKCS1_3072_SHA256", Mechanism.PKCS1_V1_5_SHA256, 384),
    ("RSA_SIGN_PKCS1_4096_SHA256", Mechanism.PKCS1_V1_5_SHA256, 512),
    (PSS, Mechanism.PSS_SHA256, 256),
    ("RSA_SIGN_PSS_3072_SHA256", Mechanism.PSS_SHA256, 384),
    ("RSA_SIGN_PSS_4096_SHA256", Mechanism.PSS_SHA256, 512),
]
DECRYPTERS = [
    (OAEP, Mechanism.OAEP_SHA256, SHA256),
    ("RSA_DECRYPT_OAEP_3072_SHA256", Mechanism.OAEP_SHA256, SHA256),
    ("RSA_DECRYPT_OAEP_4096_SHA256", Mechanism.OAEP_SHA256, SHA256),
    (OAEP_SHA1, Mechanism.OAEP_SHA1, SHA1),
]


def oaep(hash_type):
    return padding.OAEP(padding.MGF1(hash_type()), hash_type(), None)


@pytest.mark.parametrize(("algorithm", "mechanism", "length"), SIGNERS)
@pytest.mark.parametrize("level", ["SOFTWARE", "HSM"])
def test_signatures_verify(fake, algorithm, mechanism, length, level):
    async def sign():
        async with opened(fake, algorithm, level) as key:
            signing_input = digest(mechanism)
            [result] = await key.sign([signing_input], within(10))
            return key.description, signing_input, result

    description, signing_input, result = run(sign())
    assert isinstance(result, Signature)
    assert len(result.value) == length
    verify(description.public_key, signing_input, result.value)
    assert description.mechanisms == {mechanism}
    assert set(description.refusals) == set(Mechanism) - {mechanism}
    assert result.store_s > 0
    assert result.queued_s >= 0
    assert result.request_id == ""
    assert fake.calls == ["AsymmetricSign"]


def test_a_type_1_block_is_exact(fake):
    """The same bytes as RSA over 00 01 FF … FF 00 || data (RFC 8017, 9.2), for each length that may be signed."""
    inputs = [SigningInput(Mechanism.TYPE1, bytes(range(length))) for length in (16, 32, 48)]

    async def sign():
        async with opened(fake, RAW) as key:
            return key.description.key_version, await key.sign(inputs, within(10))

    name, results = run(sign())
    numbers = fake.private_key(name).private_numbers()
    for signing_input, result in zip(inputs, results, strict=True):
        block = b"\0\1" + b"\xff" * (253 - len(signing_input.data)) + b"\0" + signing_input.data
        expected = pow(int.from_bytes(block, "big"), numbers.d, numbers.public_numbers.n).to_bytes(256, "big")
        assert result.value == expected


def test_raw_bytes_go_in_data_and_digests_in_digest(fake):
    async def sign():
        for algorithm, mechanism in ((RAW, Mechanism.TYPE1), (PKCS1, Mechanism.PKCS1_V1_5_SHA256)):
            async with opened(fake, algorithm) as key:
                await key.sign([SigningInput(mechanism, b"d" * 32)], within(10))

    run(sign())
    raw, hashed = (request for request in fake.requests if isinstance(request, types.AsymmetricSignRequest))
    assert (raw.data, "digest" in raw, raw.digest_crc32c) == (b"d" * 32, False, None)
    assert raw.data_crc32c == hashed.digest_crc32c is not None
    assert (hashed.data, hashed.digest.sha256, hashed.data_crc32c) == (b"", b"d" * 32, None)


@pytest.mark.parametrize(("algorithm", "mechanism", "hash_type"), DECRYPTERS)
def test_decryption(fake, algorithm, mechanism, hash_type):
    async def decrypt():
        async with opened(fake, algorithm, "HSM") as key:
            ciphertext = key.description.public_key.key.encrypt(b"session key 16 b", oaep(hash_type))
            return await key.decrypt(ciphertext, mechanism, within(10))

    result = run(decrypt())
    assert isinstance(result, Plaintext)
    assert result.value == b"session key 16 b"
    assert result.store_s > 0
    assert "session key" not in repr(result)


def test_protocols(fake):
    async def look():
        async with opened(fake, PKCS1) as signer, opened(fake, OAEP) as decrypter, store() as made:
            assert isinstance(signer, Key)
            assert isinstance(decrypter, Key)
            assert isinstance(decrypter, Decrypter)
            assert not isinstance(signer, Decrypter)
            assert isinstance(made, KeyStore)
            assert not isinstance(made, KeyCreator)

    run(look())


@pytest.mark.parametrize("algorithm", [RAW, PKCS1, PSS, OAEP])
def test_what_a_key_cannot_do_is_refused_without_a_call(fake, algorithm):
    async def sign():
        async with opened(fake, algorithm) as key:
            others = [
                SigningInput(mechanism, b"d" * 32)
                for mechanism in (Mechanism.TYPE1, Mechanism.PKCS1_V1_5_SHA256, Mechanism.PSS_SHA256)
                if mechanism not in key.description.mechanisms
            ]
            return key.description, others, await key.sign(others, within(10))

    description, others, results = run(sign())
    assert others
    for signing_input, result in zip(others, results, strict=True):
        assert isinstance(result, CallerError)
        assert result.message == description.refusals[signing_input.mechanism]
    assert fake.calls == []


def test_a_decryption_key_refuses_another_mechanism_without_a_call(fake):
    async def decrypt(mechanism):
        async with opened(fake, OAEP) as key:
            await key.decrypt(bytes(256), mechanism, within(10))

    for mechanism in (Mechanism.OAEP_SHA1, Mechanism.TYPE1):
        with pytest.raises(CallerError):
            run(decrypt(mechanism))
    assert "AsymmetricDecrypt" not in fake.calls


def test_a_key_of_a_useless_algorithm_opens_and_says_what_would_work(fake):
    async def look():
        async with opened(fake, "RSA_SIGN_RAW_PKCS1_3072") as key:
            return key.description, await key.sign([SigningInput(Mechanism.TYPE1, bytes(16))], within(10))

    description, [result] = run(look())
    assert description.mechanisms == frozenset()
    assert "RSA_SIGN_RAW_PKCS1_2048" in description.refusals[Mechanism.TYPE1]
    assert isinstance(result, CallerError)


@pytest.mark.parametrize("length", [0, 1, 255, 257, 4096])
def test_a_ciphertext_of_another_length_never_leaves(fake, length):
    async def decrypt():
        async with opened(fake, OAEP) as key:
            await key.decrypt(bytes(length), Mechanism.OAEP_SHA256, within(10))

    with pytest.raises(CallerError):
        run(decrypt())
    assert fake.calls == []


def test_unfit_ciphertexts_are_refused_in_one_sentence(fake):
    async def decrypt():
        said = set()
        async with opened(fake, OAEP) as key:
            public_key = key.description.public_key.key
            for ciphertext in (bytes(255), b"\xff" * 256, b"\1" * 256, public_key.encrypt(b"k", oaep(SHA1))):
                with pytest.raises(CallerError) as met:
                    await key.decrypt(ciphertext, Mechanism.OAEP_SHA256, within(10))
                said.add(str(met.value))
        return said

    assert len(run(decrypt())) == 1


def test_a_group_keeps_its_order(fake):
    inputs = [digest() for _ in range(40)]

    async def sign():
        async with opened(fake) as key:
            return key.description.public_key, await key.sign(inputs, within(20))

    public_key, results = run(sign())
    for signing_input, result in zip(inputs, results, strict=True):
        assert isinstance(result, Signature)
        verify(public_key, signing_input, result.value)


def test_an_empty_group_is_an_empty_answer(fake):
    async def sign():
        async with opened(fake) as key:
            return await key.sign([], within(10))

    assert run(sign()) == []


def test_a_deadline_may_be_infinite(fake):
    async def sign():
        async with opened(fake) as key:
            return await key.sign([digest()], math.inf)

    assert isinstance(run(sign())[0], Signature)


def test_keys_open_at_once_share_a_connection(fake):
    names = [fake.add(algorithm) for algorithm in (RAW, PKCS1, PSS, OAEP)]

    async def look():
        async with store() as made:
            keys = await asyncio.gather(*(made.open_key(uri(fake, name)) for name in names))
            return [key.description.key_version for key in keys], len(made._connections)

    assert run(look()) == (names, 1)


def test_a_public_key_is_read_once_and_the_state_is_never_polled(fake):
    async def sign():
        async with opened(fake) as key:
            for _ in range(5):
                await key.sign([digest()], within(10))

    run(sign())
    assert fake.calls == ["AsymmetricSign"] * 5


def test_no_level_of_logging_shows_a_session_key_or_a_plaintext(fake, caplog):
    """Google's own transport would log whole messages."""
    session_key = b"SESSION-KEY-16-B"

    async def use():
        async with opened(fake, RAW) as key:
            await key.sign([SigningInput(Mechanism.TYPE1, session_key)], within(10))
        async with opened(fake, OAEP) as key:
            ciphertext = key.description.public_key.key.encrypt(session_key, oaep(SHA256))
            await key.decrypt(ciphertext, Mechanism.OAEP_SHA256, within(10))

    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, "google"):
        run(use())
    shown = "\n".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    assert session_key.decode() not in shown
    assert base64.b64encode(session_key).decode() not in shown


def test_the_name_of_another_ring_is_refused_by_google(fake):
    async def look():
        async with store() as made:
            await made.open_key(uri(fake, f"{RING}/cryptoKeys/nothing/cryptoKeyVersions/1"))

    with pytest.raises(OperatorError, match="does not have the key version"):
        run(look())


def test_time_in_the_queue_and_in_the_store_are_told_apart(fake):
    async def sign():
        async with opened(fake, concurrency=1) as key:
            began = time.monotonic()
            results = await key.sign([digest() for _ in range(6)], within(20))
            return results, time.monotonic() - began

    results, took = run(sign())
    assert results[-1].queued_s > results[0].queued_s
    assert sum(result.store_s for result in results) <= took
