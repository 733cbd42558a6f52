"""Requests with checksums, and answers that are checked before anything is believed.

Source: "Verifying end-to-end data integrity" of Cloud KMS, and the reference of each message.
"""

from __future__ import annotations

from collections.abc import Callable

import google_crc32c
from google.cloud.kms_v1 import types

from privyseal_backends.google_kms.errors import integrity
from privyseal_backends.google_kms.facts import Attestation, KeyFacts
from privyseal_backends.interface import Mechanism, PublicKey, SigningInput
from privyseal_backends.verification import verify


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), 0 to 2^32 - 1."""
    return int(google_crc32c.value(data))


def _enum_name(value: object) -> str:
    """The name of an enum's value, or the number of one that this version of Google's client does not know."""
    return str(getattr(value, "name", value))


def _time(value: object) -> str:
    return value.rfc3339() if hasattr(value, "rfc3339") else ""  # proto-plus gives None for an unset time


def _attestation(version: types.CryptoKeyVersion) -> Attestation | None:
    if not version.attestation or not version.attestation.content:
        return None
    chains = version.attestation.cert_chains
    return Attestation(
        format=_enum_name(version.attestation.format),
        content=bytes(version.attestation.content),
        manufacturer_chain=tuple(chains.cavium_certs) if chains else (),
        owner_card_chain=tuple(chains.google_card_certs) if chains else (),
        owner_partition_chain=tuple(chains.google_partition_certs) if chains else (),
    )


def version_facts(name: str) -> Callable[[types.CryptoKeyVersion], KeyFacts]:
    """A check of an answer to GetCryptoKeyVersion for `name`."""

    def check(version: types.CryptoKeyVersion) -> KeyFacts:
        if version.name != name:
            raise integrity("it is about another key version")
        return KeyFacts(
            name=name,
            state=_enum_name(version.state),
            protection_level=_enum_name(version.protection_level),
            algorithm=_enum_name(version.algorithm),
            create_time=_time(version.create_time),
            generate_time=_time(version.generate_time),
            import_job=version.import_job,
            import_time=_time(version.import_time),
            reimport_eligible=version.reimport_eligible,
            # Only newer clients know it.
            trusted_wrapping_enabled=bool(getattr(version, "trusted_wrapping_enabled", False)),
            failure_reason=version.generation_failure_reason or version.import_failure_reason,
            attestation=_attestation(version),
        )

    return check


def public_pem(facts: KeyFacts) -> Callable[[types.PublicKey], str]:
    """A check of an answer to GetPublicKey for the key of `facts`."""

    def check(answer: types.PublicKey) -> str:
        if answer.name != facts.name:
            raise integrity("it is about another key version")
        if answer.pem_crc32c is None or answer.pem_crc32c != crc32c(answer.pem.encode()):
            raise integrity("the public key's checksum is wrong")
        if _enum_name(answer.algorithm) != facts.algorithm:
            raise integrity("the public key's algorithm is not the key version's")
        if _enum_name(answer.protection_level) != facts.protection_level:
            raise integrity("the public key's protection level is not the key version's")
        return answer.pem

    return check


def sign_request(name: str, signing_input: SigningInput) -> types.AsymmetricSignRequest:
    """A raw block goes in `data`, a digest in `digest`; never the other way round."""
    checksum = crc32c(signing_input.data)
    if signing_input.mechanism is Mechanism.TYPE1:
        return types.AsymmetricSignRequest(name=name, data=signing_input.data, data_crc32c=checksum)
    digest = types.Digest(sha256=signing_input.data)
    return types.AsymmetricSignRequest(name=name, digest=digest, digest_crc32c=checksum)


def signature(
    facts: KeyFacts, public_key: PublicKey, signing_input: SigningInput
) -> Callable[[types.AsymmetricSignResponse], bytes]:
    """A check of an answer to AsymmetricSign, the signature itself included."""

    def check(answer: types.AsymmetricSignResponse) -> bytes:
        raw = signing_input.mechanism is Mechanism.TYPE1
        if not (answer.verified_data_crc32c if raw else answer.verified_digest_crc32c):
            raise integrity("it does not say that what was to be signed arrived unchanged")
        if answer.signature_crc32c is None or answer.signature_crc32c != crc32c(answer.signature):
            raise integrity("the signature's checksum is wrong")
        if answer.name != facts.name:
            raise integrity("another key version signed")
        if _enum_name(answer.protection_level) != facts.protection_level:
            raise integrity("the key signed at another protection level than the key version's")
        if len(answer.signature) != public_key.modulus_bytes:
            raise integrity("the signature is not as long as the key's modulus")
        verify(public_key, signing_input, answer.signature)
        return answer.signature

    return check


def decrypt_request(name: str, ciphertext: bytes) -> types.AsymmetricDecryptRequest:
    """A ciphertext with its checksum."""
    return types.AsymmetricDecryptRequest(name=name, ciphertext=ciphertext, ciphertext_crc32c=crc32c(ciphertext))


def plaintext(facts: KeyFacts) -> Callable[[types.AsymmetricDecryptResponse], bytes]:
    """A check of an answer to AsymmetricDecrypt, which names no key."""

    def check(answer: types.AsymmetricDecryptResponse) -> bytes:
        if not answer.verified_ciphertext_crc32c:
            raise integrity("it does not say that the ciphertext arrived unchanged")
        if answer.plaintext_crc32c is None or answer.plaintext_crc32c != crc32c(answer.plaintext):
            raise integrity("the plaintext's checksum is wrong")
        if _enum_name(answer.protection_level) != facts.protection_level:
            raise integrity("the key decrypted at another protection level than the key version's")
        return answer.plaintext

    return check
