"""What a key can do, by a table: each rule refuses by itself, in a sentence that says what would work."""

from __future__ import annotations

from dataclasses import replace

import pytest

from privyseal_backends.interface import Mechanism
from privyseal_backends.pkcs11.capability import KeyFacts, MechanismInfo, adds_digest_info, assess, may_decrypt
from privyseal_backends.pkcs11.objects import KeyAttributes
from tests.unit.pkcs11.test_custody import HSM

RSA_PKCS, OAEP, PSS = 0x1, 0x9, 0xD
BOTH = MechanismInfo(512, 16384, signs=True, decrypts=True)
TOKEN = {RSA_PKCS: BOTH, OAEP: BOTH, PSS: BOTH}
SIGNER = KeyFacts(KeyAttributes(sign=True, decrypt=False), 2048, 65537, TOKEN, {})
DECRYPTER = replace(SIGNER, attributes=KeyAttributes(sign=False, decrypt=True))

TYPE1, PKCS1, PSS256 = Mechanism.TYPE1, Mechanism.PKCS1_V1_5_SHA256, Mechanism.PSS_SHA256
OAEP256, OAEP1 = Mechanism.OAEP_SHA256, Mechanism.OAEP_SHA1


@pytest.mark.parametrize(
    ("facts", "able"),
    [
        (SIGNER, {TYPE1, PKCS1, PSS256}),
        (DECRYPTER, {OAEP256, OAEP1}),
        (replace(SIGNER, modulus_bits=3072), {PKCS1, PSS256}),
        (replace(SIGNER, adds_digest_info=True), {PKCS1, PSS256}),
        (replace(SIGNER, modulus_bits=4096), {PKCS1, PSS256}),
        (replace(SIGNER, modulus_bits=1024), set()),
        (replace(SIGNER, modulus_bits=2049), set()),
        (replace(SIGNER, public_exponent=3), set()),
        (replace(DECRYPTER, modulus_bits=4096), {OAEP256, OAEP1}),
        (replace(SIGNER, mechanisms={RSA_PKCS: BOTH}), {TYPE1, PKCS1}),
        (replace(SIGNER, mechanisms={PSS: BOTH}), {PSS256}),
        (replace(SIGNER, mechanisms={}), set()),
        (replace(SIGNER, mechanisms={**TOKEN, RSA_PKCS: replace(BOTH, signs=False)}), {PSS256}),
        (replace(SIGNER, mechanisms={**TOKEN, PSS: replace(BOTH, smallest=3072)}), {TYPE1, PKCS1}),
        (replace(SIGNER, mechanisms={**TOKEN, PSS: replace(BOTH, largest=1024)}), {TYPE1, PKCS1}),
        (replace(SIGNER, mechanisms={PSS: MechanismInfo(0, 0, signs=True, decrypts=False)}), {PSS256}),
        (replace(DECRYPTER, mechanisms={OAEP: replace(BOTH, decrypts=False)}), set()),
        (replace(DECRYPTER, oaep_failures={OAEP256: "CKR_ARGUMENTS_BAD"}), {OAEP1}),
        (replace(SIGNER, attributes=KeyAttributes(sign=True, allowed_mechanisms=(RSA_PKCS,))), {TYPE1, PKCS1}),
        (replace(SIGNER, attributes=KeyAttributes(sign=True, allowed_mechanisms=())), {TYPE1, PKCS1, PSS256}),
        (replace(SIGNER, attributes=KeyAttributes(sign=True, allowed_mechanisms=(0x40,))), set()),
        (replace(SIGNER, attributes=KeyAttributes(sign=False)), set()),
        (replace(SIGNER, attributes=KeyAttributes()), set()),
        (replace(SIGNER, attributes=KeyAttributes(sign=True, decrypt=True)), {TYPE1, PKCS1, PSS256}),
        (replace(DECRYPTER, attributes=KeyAttributes(sign=None, decrypt=True)), set()),
        (replace(DECRYPTER, attributes=KeyAttributes(sign=False, decrypt=True, sign_recover=True)), {OAEP256, OAEP1}),
    ],
)
def test_each_mechanism_is_able_or_refused_with_a_sentence(facts: KeyFacts, able: set[Mechanism]) -> None:
    mechanisms, refusals = assess(facts)
    assert mechanisms == able
    assert refusals.keys() == set(Mechanism) - able
    for sentence in refusals.values():
        _, _, what_would_work = sentence.partition("; ")
        assert what_would_work


@pytest.mark.parametrize(
    ("facts", "mechanism", "words"),
    [
        (replace(SIGNER, modulus_bits=3072), TYPE1, ("RSA-3072", "2048")),
        (replace(SIGNER, mechanisms={}), TYPE1, ("CKM_RSA_PKCS", "SoftHSM")),
        (replace(SIGNER, mechanisms={}), PSS256, ("CKM_RSA_PKCS_PSS", "PKCS1-v1_5")),
        (replace(DECRYPTER, oaep_failures={OAEP256: "CKR_ARGUMENTS_BAD"}), OAEP256, ("CKR_ARGUMENTS_BAD", "oaep-sha1")),
        (replace(SIGNER, attributes=KeyAttributes(sign=True, decrypt=True)), OAEP1, ("CKA_SIGN", "only for")),
        (SIGNER, OAEP1, ("CKA_DECRYPT", "only for")),
        (DECRYPTER, TYPE1, ("CKA_SIGN", "made for signing")),
        (
            replace(SIGNER, attributes=KeyAttributes(sign=True, allowed_mechanisms=(RSA_PKCS,))),
            PSS256,
            ("CKA_ALLOWED_MECHANISMS", "CKM_RSA_PKCS_PSS"),
        ),
    ],
)
def test_the_sentence_says_why_and_what_would_work(
    facts: KeyFacts, mechanism: Mechanism, words: tuple[str, ...]
) -> None:
    _, refusals = assess(facts)
    for word in words:
        assert word in refusals[mechanism]


def test_only_a_key_made_for_decryption_alone_decrypts() -> None:
    assert may_decrypt(KeyAttributes(sign=False, decrypt=True))
    assert not may_decrypt(KeyAttributes(sign=True, decrypt=True))
    assert not may_decrypt(KeyAttributes(sign=None, decrypt=True))
    assert not may_decrypt(KeyAttributes(sign=False, decrypt=None))


def test_a_token_that_puts_a_digest_info_before_checksums_is_known_by_its_names() -> None:
    assert adds_digest_info(HSM)
    assert adds_digest_info(replace(HSM, model="", library_description=""))
    assert not adds_digest_info(
        replace(HSM, model="SoftHSM v2", slot_description="a slot", library_description="a library")
    )
    _, refusals = assess(replace(SIGNER, adds_digest_info=True))
    assert "puts a DigestInfo before a checksum by itself; Capgo needs a token with CKM_RSA_PKCS" in refusals[TYPE1]
