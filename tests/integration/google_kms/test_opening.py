"""Opening a key: what Google says of it, what is believed, and what stops the start."""

from __future__ import annotations

import time
from contextlib import suppress

import grpc
import pytest
from google.cloud.kms_v1 import types

from privyseal_backends.interface import (
    CallerError,
    Export,
    IntegrityError,
    OperatorError,
    Origin,
    Protection,
    PublicKey,
    UnavailableError,
)
from tests.fakes.google_kms import Hang, Refuse, other_key, other_protection_level, wrong_checksum
from tests.fakes.google_kms.faults import Alter
from tests.fakes.google_kms.hsm import EXTRACTABLE, hsm, rsa_key
from tests.fakes.google_kms.server import crc32c
from tests.integration.google_kms.support import PKCS1, RAW, run, store, uri

State = types.CryptoKeyVersion.CryptoKeyVersionState
Algorithm = types.CryptoKeyVersion.CryptoKeyVersionAlgorithm
Level = types.ProtectionLevel
C = grpc.StatusCode


def open_once(fake, name, fingerprint=None, **settings):
    async def look():
        async with store(**settings) as made:
            return (await made.open_key(uri(fake, name), fingerprint)).description

    return run(look())


@pytest.fixture
def roots(tmp_path):
    file = tmp_path / "roots.pem"
    file.write_text(hsm().roots_pem)
    return str(file)


class TestDescription:
    def test_is_what_google_has(self, fake):
        name = fake.add(RAW, "HSM")
        description = open_once(fake, name)
        assert description.key_version == name
        assert description.public_key.fingerprint == PublicKey(fake.private_key(name).public_key()).fingerprint
        assert fake.calls == ["GetCryptoKeyVersion", "GetPublicKey"]

    def test_a_pinned_fingerprint_that_fits(self, fake):
        name = fake.add(RAW)
        fingerprint = PublicKey(fake.private_key(name).public_key()).fingerprint
        assert open_once(fake, name, fingerprint).public_key.fingerprint == fingerprint

    def test_another_fingerprint_is_another_key(self, fake):
        name = fake.add(RAW)
        fingerprint = PublicKey(fake.private_key(name).public_key()).fingerprint
        fake.replace_key(name)
        with pytest.raises(IntegrityError, match="not the pinned one"):
            open_once(fake, name, fingerprint)

    @pytest.mark.parametrize("bad", ["gcpkms://x", "awskms:///y", "gcpkms://projects/p"])
    def test_a_malformed_uri_asks_nobody(self, fake, bad):
        async def look():
            async with store(endpoint=fake.endpoint) as made:
                await made.open_key(bad)

        with pytest.raises(CallerError):
            run(look())
        assert fake.calls == []

    def test_the_endpoint_may_stand_in_the_settings(self, fake):
        name = fake.add(RAW)

        async def look():
            async with store(endpoint=fake.endpoint) as made:
                return (await made.open_key(f"gcpkms://{name}")).description.key_version

        assert run(look()) == name


class TestStates:
    @pytest.mark.parametrize("state", [State.PENDING_GENERATION, State.PENDING_IMPORT])
    def test_a_version_that_is_not_ready_may_come(self, fake, state):
        name = fake.add(PKCS1)
        fake.version(name).state = state
        with pytest.raises(UnavailableError, match=state.name):
            open_once(fake, name)

    @pytest.mark.parametrize(
        ("state", "remedy"),
        [
            (State.DISABLED, "versions enable"),
            (State.DESTROY_SCHEDULED, "versions restore"),
            (State.DESTROYED, "another version"),
            (State.IMPORT_FAILED, "import the key again"),
            (State.GENERATION_FAILED, "make a new version"),
            (State.PENDING_EXTERNAL_DESTRUCTION, "another version"),
            (State.EXTERNAL_DESTRUCTION_FAILED, "another version"),
            (State.CRYPTO_KEY_VERSION_STATE_UNSPECIFIED, "another version"),
        ],
    )
    def test_any_other_state_needs_a_person(self, fake, state, remedy):
        name = fake.add(PKCS1)
        fake.version(name).state = state
        with pytest.raises(OperatorError, match=state.name) as met:
            open_once(fake, name)
        assert remedy in met.value.remedy
        assert fake.calls == ["GetCryptoKeyVersion"]

    def test_why_a_generation_failed_is_said(self, fake):
        name = fake.add(PKCS1)
        fake.version(name).state = State.GENERATION_FAILED
        fake.version(name).generation_failure_reason = "the key manager\nrefused"
        with pytest.raises(OperatorError, match="the key manager refused"):
            open_once(fake, name)


class TestAlgorithms:
    @pytest.mark.parametrize("algorithm", ["EC_SIGN_P256_SHA256", "EC_SIGN_ED25519", "GOOGLE_SYMMETRIC_ENCRYPTION"])
    def test_no_rsa_no_key(self, fake, algorithm):
        name = fake.add(PKCS1)
        fake.version(name).algorithm = Algorithm[algorithm]
        with pytest.raises(OperatorError, match=algorithm):
            open_once(fake, name)

    def test_a_key_of_another_size_than_its_algorithm_is_not_believed(self, fake):
        name = fake.add("RSA_SIGN_PKCS1_3072_SHA256")
        fake.version(name).algorithm = Algorithm[PKCS1]
        with pytest.raises(IntegrityError, match=PKCS1):
            open_once(fake, name)


def set_field(field, value):
    return Alter(lambda answer: setattr(answer, field, value))


def set_pem(pem):
    def change(answer):
        answer.pem = pem
        answer.pem_crc32c = crc32c(pem.encode())

    return Alter(change)


class TestUntrueAnswers:
    @pytest.mark.parametrize(
        ("method", "fault"),
        [
            ("GetCryptoKeyVersion", other_key()),
            ("GetPublicKey", other_key()),
            ("GetPublicKey", other_protection_level()),
            ("GetPublicKey", wrong_checksum("pem_crc32c")),
            ("GetPublicKey", wrong_checksum("pem_crc32c", absent=True)),
            ("GetPublicKey", set_field("algorithm", Algorithm.RSA_SIGN_PSS_2048_SHA256)),
        ],
        ids=["a version's name", "a key's name", "a key's level", "a checksum", "no checksum", "a key's algorithm"],
    )
    def test_an_answer_that_does_not_hold_is_asked_for_again(self, fake, method, fault):
        name = fake.add(PKCS1)
        fake.queue(method, fault, times=2)
        assert open_once(fake, name).key_version == name
        fake.queue(method, fault, times=9)
        with pytest.raises(IntegrityError):
            open_once(fake, name)

    @pytest.mark.parametrize("pem", ["", "junk", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
    def test_a_public_key_that_cannot_be_read(self, fake, pem):
        name = fake.add(PKCS1)
        fake.queue("GetPublicKey", set_pem(pem))
        with pytest.raises(IntegrityError, match="cannot be read"):
            open_once(fake, name)


class TestFaults:
    @pytest.mark.parametrize("method", ["GetCryptoKeyVersion", "GetPublicKey"])
    def test_a_passing_fault_is_waited_out(self, fake, method):
        name = fake.add(PKCS1)
        fake.queue(method, Refuse(C.UNAVAILABLE), Refuse(C.RESOURCE_EXHAUSTED), Refuse(C.INTERNAL))
        assert open_once(fake, name).key_version == name

    @pytest.mark.parametrize(
        ("method", "role"),
        [("GetCryptoKeyVersion", "roles/cloudkms.viewer"), ("GetPublicKey", "roles/cloudkms.publicKeyViewer")],
    )
    def test_a_missing_role_is_named(self, fake, method, role):
        name = fake.add(PKCS1)
        fake.queue(method, Refuse(C.PERMISSION_DENIED))
        with pytest.raises(OperatorError) as met:
            open_once(fake, name)
        assert role in met.value.remedy

    def test_a_store_that_hangs_is_away(self, fake):
        name = fake.add(PKCS1)
        fake.queue("GetCryptoKeyVersion", Hang(), times=9)
        with pytest.raises(UnavailableError):
            open_once(fake, name, open_timeout_s=0.3)

    def test_a_store_that_is_not_there_is_away(self, fake):
        name = fake.add(PKCS1)
        fake.stop()
        with pytest.raises(UnavailableError):
            open_once(fake, name, open_timeout_s=0.5)

    def test_it_opens_once_the_store_is_back(self, fake):
        name = fake.add(PKCS1)
        fake.stop()

        async def look():
            async with store(open_timeout_s=0.4) as made:
                with pytest.raises(UnavailableError):
                    await made.open_key(uri(fake, name))
                fake.start(fake.port)
                until = time.monotonic() + 20
                key = None
                while key is None and time.monotonic() < until:
                    with suppress(UnavailableError):  # gRPC dials again by a pace of its own
                        key = await made.open_key(uri(fake, name))
                return key

        assert run(look()) is not None


class TestCustody:
    def findings(self, custody):
        return custody.protection, custody.origin, custody.export

    def test_an_hsm_key_is_proven_with_roots(self, fake, roots):
        custody = open_once(fake, fake.add(RAW, "HSM"), attestation_roots=roots).custody
        assert self.findings(custody) == (Protection.HARDWARE, Origin.GENERATED_INSIDE, Export.NEVER_POSSIBLE)
        assert "attestation proves it" in custody.protection_reasons[0]
        evidence = {item.name: item.value for item in custody.evidence}
        assert evidence["attestation format"] == "CAVIUM_V2_COMPRESSED"
        assert bytes.fromhex(evidence["attestation content"]).startswith(b"\x1f\x8b")
        assert evidence["attestation manufacturer certificates"].count("BEGIN CERTIFICATE") == 2
        assert evidence["create time"].endswith("Z")
        assert evidence["generate time"].endswith("Z")

    def test_and_on_googles_word_without(self, fake):
        custody = open_once(fake, fake.add(RAW, "HSM")).custody
        assert self.findings(custody) == (Protection.HARDWARE, Origin.GENERATED_INSIDE, Export.NEVER_POSSIBLE)
        assert "Google's word" in custody.protection_reasons[0]

    def test_a_software_key_is_software(self, fake, roots):
        custody = open_once(fake, fake.add(RAW), attestation_roots=roots).custody
        assert custody.protection is Protection.SOFTWARE

    def test_an_attestation_of_another_key_is_believed_by_nobody(self, fake):
        name = fake.add(RAW, "HSM")
        fake.version(name).attestation = fake.attestation(name, rsa_key(2048, 90))
        custody = open_once(fake, name).custody
        assert self.findings(custody) == (Protection.UNKNOWN, Origin.UNKNOWN, Export.UNKNOWN)

    def test_an_extractable_key_is_told(self, fake, roots):
        name = fake.add(RAW, "HSM")
        made = fake.attestation(name, fake.private_key(name), changes={EXTRACTABLE: b"\1"})
        fake.version(name).attestation = made
        assert open_once(fake, name, attestation_roots=roots).custody.export is Export.POSSIBLE

    def test_roots_and_no_attestation(self, fake, roots):
        name = fake.add(RAW, "HSM")
        fake.version(name).attestation = None
        custody = open_once(fake, name, attestation_roots=roots).custody
        assert self.findings(custody) == (Protection.UNKNOWN, Origin.UNKNOWN, Export.UNKNOWN)

    def test_an_imported_key_was_outside(self, fake):
        name = fake.add(RAW)
        fake.version(name).import_job = "projects/p/locations/l/keyRings/r/importJobs/j"
        custody = open_once(fake, name).custody
        assert (custody.origin, custody.export) == (Origin.IMPORTED, Export.POSSIBLE_ONCE)

    @pytest.mark.parametrize("level", [Level.EXTERNAL, Level.EXTERNAL_VPC])
    def test_an_external_key_is_anywhere_and_serves_nothing(self, fake, level):
        name = fake.add(PKCS1)
        fake.version(name).protection_level = level
        description = open_once(fake, name)
        assert description.custody.protection is Protection.UNKNOWN
        assert description.mechanisms == frozenset()

    @pytest.mark.parametrize("text", [None, "", "junk"])
    def test_roots_that_cannot_be_read_stop_an_hsm_key(self, fake, tmp_path, text):
        file = tmp_path / "roots.pem"
        if text is not None:
            file.write_text(text)
        with pytest.raises(OperatorError, match="attestation_roots"):
            open_once(fake, fake.add(RAW, "HSM"), attestation_roots=str(file))
