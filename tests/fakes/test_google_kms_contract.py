"""What Google's reference promises, asked of the fake; and of Google itself where a test has been given a key ring.

Set GOOGLE_APPLICATION_CREDENTIALS and PRIVYSEAL_TEST_KEY_RING (projects/P/locations/L/keyRings/R) to run every case
there as well. The account needs roles/cloudkms.admin, signer, decrypter, publicKeyViewer and expertRawPKCS1 on that
ring. Keys are named privyseal-contract-… and are used again; a version that a case disables or destroys is its own.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256

import google_crc32c
import grpc
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import NoDigestInfo, Prehashed
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from google.api_core.exceptions import AlreadyExists, GoogleAPICallError
from google.cloud.kms_v1 import KeyManagementServiceClient, types
from google.cloud.kms_v1.services.key_management_service.transports import KeyManagementServiceGrpcTransport
from google.protobuf.field_mask_pb2 import FieldMask

from privyseal_backends.google_kms import attestation
from privyseal_backends.google_kms.facts import KeyFacts
from privyseal_backends.google_kms.store import open_store
from privyseal_backends.interface import Mechanism, Origin, Protection, PublicKey, Signature, SigningInput
from tests.fakes.google_kms import RING, FakeKms

State = types.CryptoKeyVersion.CryptoKeyVersionState
DIGEST = sha256(b"contract").digest()
OTHER_SIZES = ("RSA_SIGN_PKCS1_3072_SHA256", "RSA_SIGN_PSS_4096_SHA256")


def crc32c(data: bytes) -> int:
    return int(google_crc32c.value(data))


@dataclass(frozen=True)
class Kms:
    """A Cloud KMS and a key ring in it."""

    client: KeyManagementServiceClient
    ring: str
    query: str = ""

    def key(self, algorithm: str, level: str = "SOFTWARE") -> str:
        """A key of an algorithm, made once."""
        purpose = types.CryptoKey.CryptoKeyPurpose
        key_id = f"privyseal-contract-{algorithm.lower().replace('_', '-')}-{level.lower()}"
        key = types.CryptoKey(
            purpose=purpose.ASYMMETRIC_SIGN if "_SIGN_" in algorithm else purpose.ASYMMETRIC_DECRYPT,
            version_template=types.CryptoKeyVersionTemplate(
                algorithm=types.CryptoKeyVersion.CryptoKeyVersionAlgorithm[algorithm],
                protection_level=types.ProtectionLevel[level],
            ),
        )
        request = types.CreateCryptoKeyRequest(parent=self.ring, crypto_key_id=key_id, crypto_key=key)
        with suppress(AlreadyExists):  # an earlier case, or an earlier run against Google, made it
            self.client.create_crypto_key(request)
        return f"{self.ring}/cryptoKeys/{key_id}"

    def version(self, algorithm: str, level: str = "SOFTWARE") -> str:
        """The enabled first version of such a key."""
        return self.ready(f"{self.key(algorithm, level)}/cryptoKeyVersions/1")

    def fresh(self, algorithm: str) -> str:
        """A version of a case's own."""
        request = types.CreateCryptoKeyVersionRequest(parent=self.key(algorithm))
        return self.ready(self.client.create_crypto_key_version(request).name)

    def ready(self, name: str) -> str:
        """Wait for the key to be generated."""
        until = time.monotonic() + 60
        while self.client.get_crypto_key_version(name=name).state == State.PENDING_GENERATION:
            assert time.monotonic() < until
            time.sleep(0.5)
        return name

    def set_state(self, name: str, state: State) -> types.CryptoKeyVersion:
        """Enable or disable a version."""
        return self.client.update_crypto_key_version(
            crypto_key_version=types.CryptoKeyVersion(name=name, state=state), update_mask=FieldMask(paths=["state"])
        )

    def public_key(self, name: str) -> rsa.RSAPublicKey:
        """Its public key."""
        key = load_pem_public_key(self.client.get_public_key(name=name).pem.encode())
        assert isinstance(key, rsa.RSAPublicKey)
        return key


def services() -> list[str]:
    """Google itself is one of them only where a run was given what it needs."""
    given = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS") and os.environ.get("PRIVYSEAL_TEST_KEY_RING")
    return ["fake", "google"] if given else ["fake"]


@pytest.fixture(params=services(), scope="module")
def kms(request: pytest.FixtureRequest) -> Iterator[Kms]:
    if request.param == "google":
        yield Kms(KeyManagementServiceClient(), os.environ["PRIVYSEAL_TEST_KEY_RING"])
        return
    with FakeKms() as fake, grpc.insecure_channel(f"127.0.0.1:{fake.port}") as channel:
        transport = KeyManagementServiceGrpcTransport(channel=channel)
        yield Kms(KeyManagementServiceClient(transport=transport), RING, f"?endpoint={fake.endpoint}")


def refused(code: grpc.StatusCode, call: object, request: object) -> str:
    with pytest.raises(GoogleAPICallError) as met:
        call(request, retry=None, timeout=20)  # type: ignore[operator]
    assert met.value.grpc_status_code is code
    return str(met.value.message)


RAW, PKCS1, PSS, OAEP = (
    "RSA_SIGN_RAW_PKCS1_2048",
    "RSA_SIGN_PKCS1_2048_SHA256",
    "RSA_SIGN_PSS_2048_SHA256",
    "RSA_DECRYPT_OAEP_2048_SHA256",
)


class TestGetPublicKey:
    @pytest.mark.parametrize(("algorithm", "bits"), [(RAW, 2048), (OAEP, 2048), (OTHER_SIZES[0], 3072)])
    def test_is_pem_with_its_checksum_name_algorithm_and_level(self, kms, algorithm, bits):
        name = kms.version(algorithm)
        answer = kms.client.get_public_key(name=name)
        assert answer.name == name
        assert answer.algorithm.name == algorithm
        assert answer.protection_level is types.ProtectionLevel.SOFTWARE
        assert answer.pem_crc32c == crc32c(answer.pem.encode())
        assert answer.pem.startswith("-----BEGIN PUBLIC KEY-----\n")
        assert kms.public_key(name).key_size == bits

    def test_a_malformed_name_is_an_invalid_argument(self, kms):
        request = types.GetPublicKeyRequest(name="malformed")
        refused(grpc.StatusCode.INVALID_ARGUMENT, kms.client.get_public_key, request)

    def test_a_disabled_version_gives_none(self, kms):
        name = kms.fresh(PKCS1)
        kms.set_state(name, State.DISABLED)
        request = types.GetPublicKeyRequest(name=name)
        refused(grpc.StatusCode.FAILED_PRECONDITION, kms.client.get_public_key, request)


class TestGetCryptoKeyVersion:
    def test_a_generated_version_says_when_and_names_no_import(self, kms):
        name = kms.version(PKCS1)
        version = kms.client.get_crypto_key_version(name=name)
        assert (version.name, version.state, version.algorithm.name) == (name, State.ENABLED, PKCS1)
        assert version.protection_level is types.ProtectionLevel.SOFTWARE
        assert version.create_time <= version.generate_time
        assert (version.import_job, version.import_time, version.reimport_eligible) == ("", None, False)
        assert not version.attestation.content

    def test_an_hsm_version_has_an_attestation_of_its_own_key_and_name(self, kms):
        name = kms.version(RAW, "HSM")
        version = kms.client.get_crypto_key_version(name=name)
        assert version.attestation.format.name == "CAVIUM_V2_COMPRESSED"
        chains = version.attestation.cert_chains
        assert chains.cavium_certs
        assert chains.google_card_certs
        assert chains.google_partition_certs
        statement = attestation.parse(version.attestation.content)
        facts = KeyFacts(name, "ENABLED", "HSM", RAW)
        public_key = PublicKey(kms.public_key(name))
        assert attestation.check_key(statement, public_key).outcome is attestation.Outcome.PASSED
        assert attestation.check_name(statement, facts.name).outcome is attestation.Outcome.PASSED
        assert statement.flag(attestation.Attribute.EXTRACTABLE) is False
        assert statement.flag(attestation.Attribute.NEVER_EXTRACTABLE) is True
        assert statement.flag(attestation.Attribute.LOCAL) is True

    def test_an_unknown_one_is_not_found(self, kms):
        request = types.GetCryptoKeyVersionRequest(name=f"{kms.ring}/cryptoKeys/no-such-key/cryptoKeyVersions/1")
        refused(grpc.StatusCode.NOT_FOUND, kms.client.get_crypto_key_version, request)


class TestAsymmetricSign:
    def test_a_raw_key_signs_data_without_digest_info(self, kms):
        name = kms.version(RAW)
        for data in (b"k" * 16, b"c" * 32, b"v" * 48):
            request = types.AsymmetricSignRequest(name=name, data=data, data_crc32c=crc32c(data))
            answer = kms.client.asymmetric_sign(request)
            kms.public_key(name).verify(answer.signature, data, padding.PKCS1v15(), NoDigestInfo())
            assert (answer.verified_data_crc32c, answer.verified_digest_crc32c) == (True, False)
            assert answer.signature_crc32c == crc32c(answer.signature)
            assert answer.name == name

    def test_a_raw_signature_is_deterministic(self, kms):
        request = types.AsymmetricSignRequest(name=kms.version(RAW), data=b"k" * 16)
        assert kms.client.asymmetric_sign(request).signature == kms.client.asymmetric_sign(request).signature

    @pytest.mark.parametrize("algorithm", [PKCS1, PSS, *OTHER_SIZES])
    def test_a_digest_is_signed_as_it_is(self, kms, algorithm):
        name = kms.version(algorithm)
        request = types.AsymmetricSignRequest(
            name=name, digest=types.Digest(sha256=DIGEST), digest_crc32c=crc32c(DIGEST)
        )
        answer = kms.client.asymmetric_sign(request)
        pss = padding.PSS(padding.MGF1(SHA256()), salt_length=32)
        scheme = pss if "PSS" in algorithm else padding.PKCS1v15()
        kms.public_key(name).verify(answer.signature, DIGEST, scheme, Prehashed(SHA256()))
        assert (answer.verified_data_crc32c, answer.verified_digest_crc32c) == (False, True)
        assert answer.protection_level is types.ProtectionLevel.SOFTWARE

    def test_data_of_a_hashed_algorithm_is_hashed(self, kms):
        name = kms.version(PKCS1)
        answer = kms.client.asymmetric_sign(types.AsymmetricSignRequest(name=name, data=DIGEST))
        kms.public_key(name).verify(answer.signature, DIGEST, padding.PKCS1v15(), SHA256())
        with pytest.raises(InvalidSignature):
            kms.public_key(name).verify(answer.signature, DIGEST, padding.PKCS1v15(), Prehashed(SHA256()))

    def test_without_a_checksum_none_was_verified(self, kms):
        request = types.AsymmetricSignRequest(name=kms.version(PKCS1), digest=types.Digest(sha256=DIGEST))
        answer = kms.client.asymmetric_sign(request)
        assert (answer.verified_data_crc32c, answer.verified_digest_crc32c) == (False, False)

    @pytest.mark.parametrize(
        ("algorithm", "fields"),
        [
            (PKCS1, {"digest": {"sha384": b"d" * 48}}),
            (PKCS1, {"digest": {"sha256": b"d" * 31}}),
            (PKCS1, {"digest": {"sha256": DIGEST}, "digest_crc32c": crc32c(b"another")}),
            (PKCS1, {"digest": {"sha256": DIGEST}, "data": DIGEST}),
            (PKCS1, {}),
            (RAW, {"digest": {"sha256": DIGEST}}),
            (RAW, {"data": b"d" * 246}),
            (RAW, {"data": b"d" * 32, "data_crc32c": crc32c(b"another")}),
        ],
    )
    def test_what_does_not_fit_is_an_invalid_argument(self, kms, algorithm, fields):
        request = types.AsymmetricSignRequest(name=kms.version(algorithm), **fields)
        refused(grpc.StatusCode.INVALID_ARGUMENT, kms.client.asymmetric_sign, request)

    def test_a_wrong_checksum_is_named(self, kms):
        request = types.AsymmetricSignRequest(name=kms.version(RAW), data=b"d" * 32, data_crc32c=1)
        said = refused(grpc.StatusCode.INVALID_ARGUMENT, kms.client.asymmetric_sign, request)
        assert "checksum" in said.lower() or "crc32c" in said.lower()

    def test_a_key_for_decryption_does_not_sign(self, kms):
        request = types.AsymmetricSignRequest(name=kms.version(OAEP), digest=types.Digest(sha256=DIGEST))
        refused(grpc.StatusCode.FAILED_PRECONDITION, kms.client.asymmetric_sign, request)

    def test_an_unknown_key_is_not_found(self, kms):
        name = f"{kms.ring}/cryptoKeys/no-such-key/cryptoKeyVersions/1"
        request = types.AsymmetricSignRequest(name=name, data=b"d" * 32)
        refused(grpc.StatusCode.NOT_FOUND, kms.client.asymmetric_sign, request)


class TestAsymmetricDecrypt:
    @pytest.mark.parametrize(("algorithm", "hash_type"), [(OAEP, SHA256), ("RSA_DECRYPT_OAEP_2048_SHA1", SHA1)])
    def test_decrypts_oaep_with_mgf1_of_the_same_hash(self, kms, algorithm, hash_type):
        name = kms.version(algorithm)
        oaep = padding.OAEP(padding.MGF1(hash_type()), hash_type(), None)
        ciphertext = kms.public_key(name).encrypt(b"k" * 32, oaep)
        request = types.AsymmetricDecryptRequest(name=name, ciphertext=ciphertext, ciphertext_crc32c=crc32c(ciphertext))
        answer = kms.client.asymmetric_decrypt(request)
        assert answer.plaintext == b"k" * 32
        assert answer.plaintext_crc32c == crc32c(b"k" * 32)
        assert answer.verified_ciphertext_crc32c
        assert answer.protection_level is types.ProtectionLevel.SOFTWARE

    def test_a_ciphertext_of_another_key_is_an_invalid_argument(self, kms):
        request = types.AsymmetricDecryptRequest(name=kms.version(OAEP), ciphertext=b"c" * 256)
        refused(grpc.StatusCode.INVALID_ARGUMENT, kms.client.asymmetric_decrypt, request)

    def test_a_wrong_checksum_is_an_invalid_argument(self, kms):
        request = types.AsymmetricDecryptRequest(name=kms.version(OAEP), ciphertext=b"c" * 256, ciphertext_crc32c=1)
        refused(grpc.StatusCode.INVALID_ARGUMENT, kms.client.asymmetric_decrypt, request)

    def test_a_key_for_signing_does_not_decrypt(self, kms):
        request = types.AsymmetricDecryptRequest(name=kms.version(PKCS1), ciphertext=b"c" * 256)
        refused(grpc.StatusCode.FAILED_PRECONDITION, kms.client.asymmetric_decrypt, request)


class TestStates:
    def test_a_disabled_version_does_not_sign_until_it_is_enabled_again(self, kms):
        name = kms.fresh(PKCS1)
        request = types.AsymmetricSignRequest(name=name, digest=types.Digest(sha256=DIGEST))
        assert kms.set_state(name, State.DISABLED).state is State.DISABLED
        refused(grpc.StatusCode.FAILED_PRECONDITION, kms.client.asymmetric_sign, request)
        assert kms.set_state(name, State.ENABLED).state is State.ENABLED
        assert kms.client.asymmetric_sign(request).signature

    def test_a_destroyed_version_is_scheduled_first_and_does_not_sign(self, kms):
        name = kms.fresh(PKCS1)
        assert kms.client.destroy_crypto_key_version(name=name).state is State.DESTROY_SCHEDULED
        request = types.AsymmetricSignRequest(name=name, digest=types.Digest(sha256=DIGEST))
        refused(grpc.StatusCode.FAILED_PRECONDITION, kms.client.asymmetric_sign, request)

    def test_only_enabled_and_disabled_can_be_set(self, kms):
        request = types.UpdateCryptoKeyVersionRequest(
            crypto_key_version=types.CryptoKeyVersion(name=kms.version(PKCS1), state=State.PENDING_IMPORT),
            update_mask=FieldMask(paths=["state"]),
        )
        refused(grpc.StatusCode.INVALID_ARGUMENT, kms.client.update_crypto_key_version, request)


class TestTheBackend:
    """The backend itself, where the contract's other cases run."""

    @staticmethod
    def use(kms, algorithm, level, act):
        async def opened():
            store = open_store({})
            try:
                return await act(await store.open_key(f"gcpkms://{kms.version(algorithm, level)}{kms.query}"))
            finally:
                await store.close()

        return asyncio.run(opened())

    @pytest.mark.parametrize(
        ("algorithm", "mechanism"),
        [(RAW, Mechanism.TYPE1), (PKCS1, Mechanism.PKCS1_V1_5_SHA256), (PSS, Mechanism.PSS_SHA256)],
    )
    @pytest.mark.parametrize("level", ["SOFTWARE", "HSM"])
    def test_signs(self, kms, algorithm, mechanism, level):
        async def act(key):
            results = await key.sign([SigningInput(mechanism, DIGEST)] * 3, time.monotonic() + 30)
            return key.description, results

        description, results = self.use(kms, algorithm, level, act)
        assert [type(result) for result in results] == [Signature] * 3
        assert description.custody.protection is (Protection.HARDWARE if level == "HSM" else Protection.SOFTWARE)
        assert description.custody.origin is Origin.GENERATED_INSIDE

    def test_decrypts(self, kms):
        async def act(key):
            oaep = padding.OAEP(padding.MGF1(SHA256()), SHA256(), None)
            ciphertext = key.description.public_key.key.encrypt(b"k" * 16, oaep)
            return await key.decrypt(ciphertext, Mechanism.OAEP_SHA256, time.monotonic() + 30)

        assert self.use(kms, OAEP, "SOFTWARE", act).value == b"k" * 16


class TestTheFakeAlone:
    """Rules of the fake's own: it must never let pass what it does not do."""

    @pytest.fixture
    def fake(self) -> Iterator[FakeKms]:
        with FakeKms() as fake:
            yield fake

    @pytest.fixture
    def client(self, fake) -> Iterator[KeyManagementServiceClient]:
        with grpc.insecure_channel(f"127.0.0.1:{fake.port}") as channel:
            yield KeyManagementServiceClient(transport=KeyManagementServiceGrpcTransport(channel=channel))

    def test_refuses_a_field_it_does_not_implement_and_names_it(self, fake, client):
        request = types.GetPublicKeyRequest(name=fake.add(RAW), public_key_format=types.PublicKey.PublicKeyFormat.DER)
        said = refused(grpc.StatusCode.INVALID_ARGUMENT, client.get_public_key, request)
        assert said == "the fake does not implement the field public_key_format"

    def test_refuses_a_nested_field(self, fake, client):
        request = types.CreateCryptoKeyRequest(
            parent=RING, crypto_key_id="k", crypto_key=types.CryptoKey(labels={"a": "b"})
        )
        said = refused(grpc.StatusCode.INVALID_ARGUMENT, client.create_crypto_key, request)
        assert "crypto_key.labels" in said

    def test_refuses_a_field_that_googles_classes_do_not_know(self, fake):
        with grpc.insecure_channel(f"127.0.0.1:{fake.port}") as channel:
            call = channel.unary_unary("/google.cloud.kms.v1.KeyManagementService/GetPublicKey")
            name = types.GetPublicKeyRequest.serialize(types.GetPublicKeyRequest(name=fake.add(RAW)))
            with pytest.raises(grpc.RpcError) as met:
                call(name + bytes.fromhex("f8070b"), timeout=10)  # field 127, a varint
        assert met.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "(unknown)" in met.value.details()

    def test_refuses_a_method_it_does_not_implement(self, client):
        request = types.ListCryptoKeysRequest(parent=RING)
        refused(grpc.StatusCode.UNIMPLEMENTED, client.list_crypto_keys, request)

    def test_two_keys_of_one_fake_differ(self, fake):
        first, second = fake.add(RAW), fake.add(RAW)
        assert fake.private_key(first) is not fake.private_key(second)
