"""Every fault, one call at a time: what is tried again, what is dropped, and what the caller is told."""

from __future__ import annotations

import time

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.hashes import SHA256

from privyseal_backends.interface import (
    BackendError,
    BusyError,
    CallerError,
    DeadlineError,
    IntegrityError,
    Mechanism,
    OperatorError,
    Signature,
    SigningInput,
    UnavailableError,
)
from privyseal_backends.verification import verify
from tests.fakes.google_kms import (
    Alter,
    Hang,
    Refuse,
    altered_plaintext,
    corrupted_signature,
    other_key,
    other_protection_level,
    unverified,
    wrong_checksum,
)
from tests.integration.google_kms.support import OAEP, PKCS1, PSS, RAW, digest, opened, run, within

C = grpc.StatusCode
SIGN, DECRYPT = "AsymmetricSign", "AsymmetricDecrypt"
MECHANISMS = {RAW: Mechanism.TYPE1, PKCS1: Mechanism.PKCS1_V1_5_SHA256, PSS: Mechanism.PSS_SHA256}


def sign_with(fake, *faults, times=1, seconds=10.0, algorithm=PKCS1, **settings):
    """Sign once with faults queued; the result, and how many calls reached Google."""

    async def sign():
        async with opened(fake, algorithm, **settings) as key:
            fake.queue(SIGN, *faults, times=times)
            signing_input = digest(MECHANISMS[algorithm])
            [result] = await key.sign([signing_input], within(seconds))
            if isinstance(result, Signature):
                verify(key.description.public_key, signing_input, result.value)
            return result

    result = run(sign())
    return result, len(fake.calls)


def decrypt_with(fake, *faults, times=1, seconds=10.0):
    async def decrypt():
        async with opened(fake, OAEP) as key:
            oaep = padding.OAEP(padding.MGF1(SHA256()), SHA256(), None)
            ciphertext = key.description.public_key.key.encrypt(b"k" * 16, oaep)
            fake.queue(DECRYPT, *faults, times=times)
            return await key.decrypt(ciphertext, Mechanism.OAEP_SHA256, within(seconds))

    return run(decrypt())


UNTRUE_SIGNATURES = {
    "a flipped bit": corrupted_signature(checksum_fits=False),
    "a flipped bit, with a checksum that fits": corrupted_signature(checksum_fits=True),
    "a wrong checksum": wrong_checksum("signature_crc32c"),
    "no checksum": wrong_checksum("signature_crc32c", absent=True),
    "another key's name": other_key(),
    "another protection level": other_protection_level(),
    "an unverified digest": unverified("verified_digest_crc32c"),
}


class TestUntrueAnswers:
    @pytest.mark.parametrize("fault", UNTRUE_SIGNATURES)
    def test_a_signature_that_does_not_hold_is_dropped_and_asked_for_again(self, fake, fault):
        result, calls = sign_with(fake, UNTRUE_SIGNATURES[fault], times=2)
        assert isinstance(result, Signature)
        assert calls == 3

    @pytest.mark.parametrize("fault", UNTRUE_SIGNATURES)
    def test_after_a_few_times_it_is_an_integrity_error(self, fake, fault):
        result, calls = sign_with(fake, UNTRUE_SIGNATURES[fault], times=9)
        assert isinstance(result, IntegrityError)
        assert calls == 4

    def test_raw_data_must_be_verified_too(self, fake):
        result, calls = sign_with(fake, unverified("verified_data_crc32c"), times=9, algorithm=RAW)
        assert isinstance(result, IntegrityError)
        assert calls == 4

    @pytest.mark.parametrize(
        ("algorithm", "asked", "other"),
        [
            (PKCS1, "verified_digest_crc32c", "verified_data_crc32c"),
            (RAW, "verified_data_crc32c", "verified_digest_crc32c"),
        ],
    )
    def test_the_field_that_was_sent_must_be_the_one_verified(self, fake, algorithm, asked, other):
        def change(answer):
            setattr(answer, asked, False)
            setattr(answer, other, True)

        result, calls = sign_with(fake, Alter(change), times=9, algorithm=algorithm)
        assert isinstance(result, IntegrityError)
        assert calls == 4

    def test_a_pss_signature_is_checked_as_well(self, fake):
        result, _ = sign_with(fake, corrupted_signature(checksum_fits=True), times=9, algorithm=PSS)
        assert isinstance(result, IntegrityError)

    def test_another_key_under_the_same_name_signs_for_nobody(self, fake):
        async def sign():
            async with opened(fake) as key:
                fake.replace_key(key.description.key_version)
                return await key.sign([digest()], within(10))

        assert isinstance(run(sign())[0], IntegrityError)

    @pytest.mark.parametrize(
        "fault",
        [
            altered_plaintext(),
            wrong_checksum("plaintext_crc32c"),
            wrong_checksum("plaintext_crc32c", absent=True),
            unverified("verified_ciphertext_crc32c"),
            other_protection_level(),
        ],
        ids=["a flipped bit", "a wrong checksum", "no checksum", "unverified", "another protection level"],
    )
    def test_a_plaintext_that_does_not_hold(self, fake, fault):
        assert decrypt_with(fake, fault, times=2).value == b"k" * 16
        with pytest.raises(IntegrityError):
            decrypt_with(fake, fault, times=9)

    def test_a_request_that_was_changed_on_its_way_is_sent_again(self, fake):
        words = "The checksum in field digest_crc32c did not match the data in field digest."
        result, calls = sign_with(fake, Refuse(C.INVALID_ARGUMENT, words), times=2)
        assert isinstance(result, Signature)
        assert calls == 3


class TestRefusals:
    @pytest.mark.parametrize(
        ("code", "kind"),
        [
            (C.PERMISSION_DENIED, OperatorError),
            (C.UNAUTHENTICATED, OperatorError),
            (C.NOT_FOUND, OperatorError),
            (C.FAILED_PRECONDITION, OperatorError),
            (C.INVALID_ARGUMENT, CallerError),
        ],
    )
    def test_what_no_second_try_mends_is_not_tried_again(self, fake, code, kind):
        result, calls = sign_with(fake, Refuse(code), times=9)
        assert type(result) is kind
        assert calls == 1

    def test_a_missing_role_is_named(self, fake):
        result, _ = sign_with(fake, Refuse(C.PERMISSION_DENIED), algorithm=RAW)
        assert "roles/cloudkms.signer and roles/cloudkms.expertRawPKCS1" in str(result)

    def test_a_disabled_key_says_so(self, fake):
        async def sign():
            async with opened(fake) as key:
                fake.version(key.description.key_version).state = 2
                return await key.sign([digest()], within(10))

        [result] = run(sign())
        assert isinstance(result, OperatorError)
        assert "DISABLED" in str(result)


class TestBusyAndAway:
    @pytest.mark.parametrize(
        "code", [C.UNAVAILABLE, C.INTERNAL, C.RESOURCE_EXHAUSTED, C.ABORTED, C.UNKNOWN, C.CANCELLED]
    )
    def test_what_passes_is_waited_out(self, fake, code):
        result, calls = sign_with(fake, Refuse(code), times=2)
        assert isinstance(result, Signature)
        assert calls == 3

    @pytest.mark.parametrize(
        ("code", "kind"),
        [(C.UNAVAILABLE, UnavailableError), (C.INTERNAL, UnavailableError), (C.RESOURCE_EXHAUSTED, BusyError)],
    )
    def test_what_does_not_pass_is_told_in_the_end(self, fake, code, kind):
        async def sign():
            async with opened(fake) as key:
                fake.queue(SIGN, Refuse(code), times=500)
                [result] = await key.sign([digest()], within(0.5))
                return result

        assert type(run(sign())) is kind
        assert len(fake.calls) > 1

    def test_a_wait_that_google_asks_for_is_kept(self, fake):
        async def sign():
            async with opened(fake) as key:
                fake.queue(SIGN, Refuse(C.RESOURCE_EXHAUSTED, retry_delay_s=0.3))
                began_s = time.monotonic()
                [result] = await key.sign([digest()], within(10))
                return result, time.monotonic() - began_s

        result, took_s = run(sign())
        assert isinstance(result, Signature)
        assert took_s >= 0.3

    def test_a_wait_longer_than_the_deadline_is_not_begun(self, fake):
        result, calls = sign_with(fake, Refuse(C.RESOURCE_EXHAUSTED, retry_delay_s=30), seconds=5)
        assert isinstance(result, BusyError)
        assert result.retry_after_s == 30
        assert calls == 1

    def test_a_cut_connection_is_made_again(self, fake):
        async def sign():
            async with opened(fake) as key:
                await key.sign([digest()], within(10))
                fake.stop()
                [away] = await key.sign([digest()], within(0.5))
                fake.start(fake.port)
                [back] = await key.sign([digest()], within(20))
                return away, back

        away, back = run(sign())
        assert isinstance(away, UnavailableError)
        assert isinstance(back, Signature)


class TestHanging:
    def test_a_hanging_call_ends_at_the_deadline(self, fake):
        async def sign():
            async with opened(fake) as key:
                fake.queue(SIGN, Hang(), times=9)
                began_s = time.monotonic()
                [result] = await key.sign([digest()], within(0.8))
                return result, time.monotonic() - began_s

        result, took_s = run(sign())
        assert isinstance(result, DeadlineError)
        assert took_s >= 0.7
        assert len(fake.calls) == 1

    def test_a_hanging_attempt_is_given_up_and_tried_again(self, fake):
        result, calls = sign_with(fake, Hang(), attempt_timeout_s=0.3)
        assert isinstance(result, Signature)
        assert calls > 1

    def test_a_hanging_decryption_ends_at_the_deadline(self, fake):
        with pytest.raises(DeadlineError):
            decrypt_with(fake, Hang(), seconds=0.4)


class TestGroups:
    def test_a_fault_hits_its_own_input_alone(self, fake):
        inputs = [digest() for _ in range(8)]

        async def sign():
            async with opened(fake, concurrency=1) as key:
                fake.queue(SIGN, Refuse(C.PERMISSION_DENIED))
                return key.description.public_key, await key.sign(inputs, within(20))

        public_key, results = run(sign())
        assert isinstance(results[0], OperatorError)
        for signing_input, result in zip(inputs[1:], results[1:], strict=True):
            assert isinstance(result, Signature)
            verify(public_key, signing_input, result.value)

    def test_what_a_key_cannot_do_is_a_result_among_others(self, fake):
        mixed = [digest(), SigningInput(Mechanism.TYPE1, bytes(16)), digest(Mechanism.PSS_SHA256), digest()]

        async def sign():
            async with opened(fake) as key:
                return await key.sign(mixed, within(20))

        kinds = [type(result) for result in run(sign())]
        assert kinds == [Signature, CallerError, CallerError, Signature]
        assert len(fake.calls) == 2


def test_no_error_holds_what_was_to_be_signed(fake):
    """Google may quote a request in its refusal."""
    secret = b"SESSION-KEY-16-B"
    words = f"cannot sign {secret.decode()}"

    async def sign():
        shown = []
        async with opened(fake, RAW) as key:
            for code in (C.INVALID_ARGUMENT, C.UNAUTHENTICATED, C.INTERNAL, C.RESOURCE_EXHAUSTED):
                fake.queue(SIGN, Refuse(code, words), times=20)
                [result] = await key.sign([SigningInput(Mechanism.TYPE1, secret)], within(0.15))
                assert isinstance(result, BackendError)
                shown.append(f"{result} {result!r} {result.remedy}")
                fake.forget_faults()
        return shown

    for text in run(sign()):
        assert secret.decode() not in text
