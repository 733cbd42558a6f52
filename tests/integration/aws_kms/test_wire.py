"""The AWS KMS backend against the emulator, over the wire."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any, NoReturn

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_public_key,
)

from privyseal_backends.aws_kms.key import AwsKmsDecryptionKey
from privyseal_backends.interface import (
    CallerError,
    Decrypter,
    Evidence,
    Export,
    IntegrityError,
    Key,
    KeyCreator,
    KeyStore,
    Mechanism,
    OperatorError,
    Origin,
    Protection,
    PublicKey,
    Signature,
    SigningInput,
    SigningResult,
    UnavailableError,
)
from tests.fakes.fault_proxy import FaultProxy
from tests.integration.aws_kms.helpers import in_s, opened, uri, with_key
from tests.support.ministack import REGION, Ministack

DIGEST = sha256(b"a bundle").digest()
PKCS1, PSS = SigningInput(Mechanism.PKCS1_V1_5_SHA256, DIGEST), SigningInput(Mechanism.PSS_SHA256, DIGEST)
PADDINGS: dict[Mechanism, Any] = {
    Mechanism.PKCS1_V1_5_SHA256: padding.PKCS1v15(),
    Mechanism.PSS_SHA256: padding.PSS(mgf=padding.MGF1(SHA256()), salt_length=32),
}


def oaep(hash_type: type[SHA1] | type[SHA256] = SHA256, label: bytes | None = None) -> padding.OAEP:
    return padding.OAEP(mgf=padding.MGF1(hash_type()), algorithm=hash_type(), label=label)


def sign(key_uri: str, *inputs: SigningInput, **settings: object) -> Sequence[SigningResult]:
    return with_key(key_uri, lambda key: key.sign(inputs, in_s()), **settings)


def open_alone(key_uri: str, fingerprint: str | None = None, **settings: object) -> Key:
    """Open a key and close its store: what is left is its description."""

    async def run() -> Key:
        async with opened(**settings) as store:
            assert isinstance(store, KeyStore)
            assert not isinstance(store, KeyCreator)
            return await store.open_key(key_uri, fingerprint)

    return asyncio.run(run())


@pytest.mark.parametrize("spec", ["RSA_2048", "RSA_3072", "RSA_4096"])
def test_every_size_signs_with_every_scheme(ministack: Ministack, spec: str) -> None:
    arn = ministack.create_key(spec)

    async def use(key: Key) -> None:
        described = key.description
        assert described.key_version == arn
        assert described.mechanisms == set(PADDINGS)
        assert set(described.refusals) == set(Mechanism) - set(PADDINGS)
        assert f"RSA_{described.public_key.modulus_bits}" == spec
        for signing_input, result in zip((PKCS1, PSS), await key.sign([PKCS1, PSS], in_s()), strict=True):
            assert isinstance(result, Signature)
            assert result.store_s > 0
            assert result.queued_s >= 0
            assert len(result.value) == described.public_key.modulus_bytes
            pad = PADDINGS[signing_input.mechanism]
            described.public_key.key.verify(result.value, DIGEST, pad, Prehashed(SHA256()))

    with_key(uri(arn, ministack.endpoint), use, probe=True)


def test_what_goes_over_the_wire(proxy: FaultProxy, signing_key: str) -> None:
    (result,) = sign(uri(signing_key, proxy.endpoint), PSS, probe=True)
    assert isinstance(result, Signature)
    assert len(result.request_id) == 36
    assert [call.operation for call in proxy.calls()][:2] == ["DescribeKey", "GetPublicKey"]
    probes, signs = proxy.calls("Sign")[:2], proxy.calls("Sign")[2:]
    assert [call.parameters["DryRun"] for call in probes] == [True, True]
    (signed,) = signs
    assert "DryRun" not in signed.parameters
    assert signed.parameters["KeyId"] == signing_key
    assert signed.parameters["MessageType"] == "DIGEST"
    assert signed.parameters["SigningAlgorithm"] == "RSASSA_PSS_SHA_256"


@pytest.mark.parametrize("form", ["arn", "id", "alias", "alias ARN"])
def test_every_way_to_name_a_key_pins_its_arn(ministack: Ministack, proxy: FaultProxy, form: str) -> None:
    arn = ministack.create_key(alias=f"named-by-{form.replace(' ', '-')}")
    alias = f"alias/named-by-{form.replace(' ', '-')}"
    forms = {"arn": arn, "id": arn.rpartition("/")[2], "alias": alias}
    forms["alias ARN"] = f"{arn.partition(':key/')[0]}:{alias}"
    (result,) = sign(uri(forms[form], proxy.endpoint), PKCS1)
    assert isinstance(result, Signature)
    assert {call.parameters["KeyId"] for call in proxy.calls("Sign") + proxy.calls("GetPublicKey")} == {arn}


def test_an_alias_that_was_moved_does_not_move_an_open_key(ministack: Ministack, proxy: FaultProxy) -> None:
    first, second = ministack.create_key(alias="moved"), ministack.create_key()

    async def run() -> None:
        async with opened() as store:
            key = await store.open_key(uri("alias/moved", proxy.endpoint))
            pinned = key.description.public_key.fingerprint
            ministack.kms().update_alias(AliasName="alias/moved", TargetKeyId=second)
            (result,) = await key.sign([PKCS1], in_s())
            assert isinstance(result, Signature)
            assert proxy.calls("Sign")[-1].parameters["KeyId"] == first
            with pytest.raises(IntegrityError, match="not the one that is pinned"):
                await store.open_key(uri("alias/moved", proxy.endpoint), pinned)
            unpinned = await store.open_key(uri("alias/moved", proxy.endpoint))
            assert unpinned.description.key_version == second

    asyncio.run(run())


def test_a_pinned_fingerprint(ministack: Ministack, signing_key: str) -> None:
    fingerprint = open_alone(uri(signing_key, ministack.endpoint)).description.public_key.fingerprint
    assert open_alone(uri(signing_key, ministack.endpoint), fingerprint)
    with pytest.raises(IntegrityError, match=fingerprint):
        open_alone(uri(signing_key, ministack.endpoint), "0" * 64)


@pytest.mark.parametrize(
    ("operation", "state", "code"),
    [("disable_key", "Disabled", "disabled"), ("schedule_key_deletion", "PendingDeletion", "a state")],
)
def test_a_key_that_is_not_enabled(ministack: Ministack, operation: str, state: str, code: str) -> None:
    arn = ministack.create_key()

    async def run() -> None:
        async with opened() as store:
            key = await store.open_key(uri(arn, ministack.endpoint))
            getattr(ministack.kms(), operation)(KeyId=arn)
            (result,) = await key.sign([PKCS1], in_s())
            assert isinstance(result, OperatorError)
            assert code in result.message
            assert result.remedy
            with pytest.raises(OperatorError, match=f"is {state}, not Enabled") as caught:
                await store.open_key(uri(arn, ministack.endpoint))
            assert caught.value.remedy

    asyncio.run(run())


@pytest.mark.parametrize(
    ("spec", "usage", "words"),
    [
        ("ECC_NIST_P256", "SIGN_VERIFY", "of the spec ECC_NIST_P256"),
        ("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT", "of the spec SYMMETRIC_DEFAULT"),
        ("HMAC_256", "GENERATE_VERIFY_MAC", "of the spec HMAC_256"),
    ],
)
def test_a_key_of_no_use(ministack: Ministack, spec: str, usage: str, words: str) -> None:
    with pytest.raises(OperatorError, match=words):
        open_alone(uri(ministack.create_key(spec, usage), ministack.endpoint))


def test_a_key_that_does_not_exist(ministack: Ministack) -> None:
    with pytest.raises(OperatorError, match="has no key alias/nobody in that account and Region"):
        open_alone(uri("alias/nobody", ministack.endpoint))


def test_a_mechanism_that_the_key_lacks_makes_no_call(proxy: FaultProxy, signing_key: str) -> None:
    capgo = SigningInput(Mechanism.TYPE1, bytes(16))
    refused, signed = sign(uri(signing_key, proxy.endpoint), capgo, PKCS1)
    assert isinstance(refused, CallerError)
    assert "CloudHSM" in refused.remedy
    assert isinstance(signed, Signature)
    assert len(proxy.calls("Sign")) == 1


def test_unwrapping_a_session_key(ministack: Ministack, decryption_key: str) -> None:
    async def use(key: Key) -> None:
        assert isinstance(key, Decrypter)
        assert key.description.mechanisms == {Mechanism.OAEP_SHA256}
        for session_key in (bytes(range(16)), bytes(24), bytes(range(32))):
            wrapped = key.description.public_key.key.encrypt(session_key, oaep())
            opened_key = await key.decrypt(wrapped, Mechanism.OAEP_SHA256, in_s())
            assert opened_key.value == session_key
            assert opened_key.request_id
            assert opened_key.store_s > 0
            assert session_key.hex() not in repr(opened_key)

    with_key(uri(decryption_key, ministack.endpoint), use, probe=True)


def test_a_bad_ciphertext_is_one_sentence_whatever_is_wrong(ministack: Ministack, decryption_key: str) -> None:
    other = rsa.generate_private_key(65537, 2048).public_key()

    async def use(key: Key) -> set[str]:
        assert isinstance(key, AwsKmsDecryptionKey)
        good = key.description.public_key.key.encrypt(bytes(16), oaep())
        sentences = set()
        for bad in (
            good[:-1] + bytes([good[-1] ^ 1]),
            good[:-1],
            good + b"\0",
            b"",
            bytes(256),
            b"\xff" * 256,
            other.encrypt(bytes(16), oaep()),
            key.description.public_key.key.encrypt(bytes(16), oaep(SHA1)),
            key.description.public_key.key.encrypt(bytes(16), oaep(label=b"label")),
            key.description.public_key.key.encrypt(bytes(16), padding.PKCS1v15()),
        ):
            with pytest.raises(CallerError) as caught:
                await key.decrypt(bad, Mechanism.OAEP_SHA256, in_s())
            sentences.add(str(caught.value))
        return sentences

    assert with_key(uri(decryption_key, ministack.endpoint), use) == {
        "ciphertext: the wrapped key cannot be opened with this key; wrap it again for this key"
    }


def test_a_key_serves_one_purpose(proxy: FaultProxy, signing_key: str, decryption_key: str) -> None:
    (refused,) = sign(uri(decryption_key, proxy.endpoint), PKCS1)
    assert isinstance(refused, CallerError)
    assert "make one for SIGN_VERIFY" in refused.remedy
    assert not isinstance(open_alone(uri(signing_key, proxy.endpoint), probe=False), Decrypter)

    async def use(key: Key) -> None:
        assert isinstance(key, AwsKmsDecryptionKey)
        for mechanism in (Mechanism.OAEP_SHA1, Mechanism.TYPE1, Mechanism.PSS_SHA256):
            with pytest.raises(CallerError, match="the key does not do"):
                await key.decrypt(bytes(256), mechanism, in_s())

    with_key(uri(decryption_key, proxy.endpoint), use)
    assert not proxy.calls("Sign")
    assert not proxy.calls("Decrypt")


def test_a_group_keeps_its_order_and_its_bound(proxy: FaultProxy, signing_key: str) -> None:
    inputs = [SigningInput(PKCS1.mechanism, sha256(bytes([i])).digest()) for i in range(40)]

    async def use(key: Key) -> None:
        results = await key.sign(inputs, in_s())
        assert len(results) == len(inputs)
        for signing_input, result in zip(inputs, results, strict=True):
            assert isinstance(result, Signature)
            public_key = key.description.public_key.key
            public_key.verify(result.value, signing_input.data, padding.PKCS1v15(), Prehashed(SHA256()))
        assert await key.sign([], in_s()) == []

    with_key(uri(signing_key, proxy.endpoint), use, group_connections=3)
    assert 1 < proxy.most_at_once <= 3


def test_many_callers_share_the_connections(proxy: FaultProxy, signing_key: str) -> None:
    async def use(key: Key) -> None:
        groups = await asyncio.gather(*(key.sign([PSS], in_s()) for _ in range(32)))
        assert all(isinstance(result, Signature) for (result,) in groups)

    with_key(uri(signing_key, proxy.endpoint), use, connections=6)
    assert 1 < proxy.most_at_once <= 6


def test_the_loops_own_threads_are_left_alone(ministack: Ministack, decryption_key: str, signing_key: str) -> None:
    class Untouchable(ThreadPoolExecutor):
        def submit(self, *_: object, **__: object) -> NoReturn:
            raise AssertionError("a call went to the loop's default executor")

    async def run() -> None:
        asyncio.get_running_loop().set_default_executor(Untouchable())
        async with opened() as store:
            key = await store.open_key(uri(signing_key, ministack.endpoint))
            assert isinstance((await key.sign([PKCS1], in_s()))[0], Signature)
            decrypter = await store.open_key(uri(decryption_key, ministack.endpoint))
            assert isinstance(decrypter, AwsKmsDecryptionKey)
            wrapped = decrypter.description.public_key.key.encrypt(bytes(16), oaep())
            assert (await decrypter.decrypt(wrapped, Mechanism.OAEP_SHA256, in_s())).value == bytes(16)

    asyncio.run(run())


def test_a_closed_store(ministack: Ministack, signing_key: str, decryption_key: str) -> None:
    async def run() -> None:
        async with opened() as store:
            key = await store.open_key(uri(signing_key, ministack.endpoint))
            decrypter = await store.open_key(uri(decryption_key, ministack.endpoint))
            assert isinstance(decrypter, AwsKmsDecryptionKey)
            await asyncio.gather(store.close(), store.close())
            results = await key.sign([PKCS1, PSS], in_s())
            assert [type(result) for result in results] == [UnavailableError, UnavailableError]
            with pytest.raises(UnavailableError, match="closed"):
                await decrypter.decrypt(bytes(256), Mechanism.OAEP_SHA256, in_s())
            with pytest.raises(UnavailableError, match="closed"):
                await store.open_key(uri(signing_key, ministack.endpoint))

    asyncio.run(run())


def test_custody_of_a_key_that_was_generated_inside(ministack: Ministack, signing_key: str) -> None:
    custody = open_alone(uri(signing_key, ministack.endpoint)).description.custody
    # The emulator says what AWS says, and it is not AWS: that is what protection is about.
    assert custody.protection is Protection.UNKNOWN
    assert "not one of AWS's own names" in custody.protection_reasons[0]
    assert custody.origin is Origin.GENERATED_INSIDE
    assert custody.export is Export.NEVER_POSSIBLE
    assert {Evidence("Arn", signing_key), Evidence("Origin", "AWS_KMS"), Evidence("KeyState", "Enabled")} <= {
        *custody.evidence
    }
    assert Evidence("endpoint.url", ministack.endpoint) in custody.evidence


def test_custody_of_a_multi_region_key(ministack: Ministack) -> None:
    arn = ministack.create_key(multi_region=True)
    ministack.kms().replicate_key(KeyId=arn, ReplicaRegion="eu-central-1")
    replica = arn.replace(REGION, "eu-central-1")
    for each, kind in ((arn, "PRIMARY"), (replica, "REPLICA")):
        custody = open_alone(uri(each, ministack.endpoint)).description.custody
        assert custody.export is Export.POSSIBLE_ONCE
        assert Evidence("MultiRegionConfiguration.MultiRegionKeyType", kind) in custody.evidence
        assert Evidence("MultiRegionConfiguration.ReplicaKeys.Arn", replica) in custody.evidence


def test_custody_of_an_imported_key(ministack: Ministack) -> None:
    private_key = rsa.generate_private_key(65537, 2048)
    kms = ministack.kms()
    arn = kms.create_key(KeySpec="RSA_2048", KeyUsage="SIGN_VERIFY", Origin="EXTERNAL")["KeyMetadata"]["Arn"]
    with pytest.raises(OperatorError, match="is PendingImport, not Enabled"):
        open_alone(uri(arn, ministack.endpoint))
    told = kms.get_parameters_for_import(
        KeyId=arn, WrappingAlgorithm="RSA_AES_KEY_WRAP_SHA_256", WrappingKeySpec="RSA_4096"
    )
    material = private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    transport_key = AESGCM.generate_key(256)
    wrapping_key = load_der_public_key(told["PublicKey"])
    assert isinstance(wrapping_key, rsa.RSAPublicKey)
    kms.import_key_material(
        KeyId=arn,
        ImportToken=told["ImportToken"],
        EncryptedKeyMaterial=wrapping_key.encrypt(transport_key, oaep())
        + aes_key_wrap_with_padding(transport_key, material),
        ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE",
    )
    description = open_alone(uri(arn, ministack.endpoint)).description
    assert description.public_key.fingerprint == PublicKey(private_key.public_key()).fingerprint
    assert description.custody.origin is Origin.IMPORTED
    assert description.custody.export is Export.POSSIBLE_ONCE
