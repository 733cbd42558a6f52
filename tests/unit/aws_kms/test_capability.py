"""What an AWS KMS key can do, and the sentence for what it cannot."""

from __future__ import annotations

import pytest

from privyseal_backends.aws_kms.capability import ALGORITHMS, capability
from privyseal_backends.interface import Mechanism, OperatorError

SIGNING = ["RSASSA_PKCS1_V1_5_SHA_256", "RSASSA_PKCS1_V1_5_SHA_512", "RSASSA_PSS_SHA_256", "RSASSA_PSS_SHA_384"]
ENCRYPTION = ["RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"]
PKCS1, PSS, OAEP = Mechanism.PKCS1_V1_5_SHA256, Mechanism.PSS_SHA256, Mechanism.OAEP_SHA256


@pytest.mark.parametrize("spec", ["RSA_2048", "RSA_3072", "RSA_4096"])
@pytest.mark.parametrize(
    ("usage", "listed", "can"),
    [
        ("SIGN_VERIFY", SIGNING, {PKCS1, PSS}),
        ("SIGN_VERIFY", SIGNING[:1], {PKCS1}),
        ("SIGN_VERIFY", [], set()),
        ("SIGN_VERIFY", SIGNING + ENCRYPTION, {PKCS1, PSS}),
        ("ENCRYPT_DECRYPT", ENCRYPTION, {OAEP}),
        ("ENCRYPT_DECRYPT", ENCRYPTION[:1], set()),
        ("ENCRYPT_DECRYPT", SIGNING + ENCRYPTION, {OAEP}),
    ],
)
def test_what_a_key_can_do(spec: str, usage: str, listed: list[str], can: set[Mechanism]) -> None:
    refusals = capability(spec, usage, listed)
    assert set(refusals) == set(Mechanism)
    assert {mechanism for mechanism, refusal in refusals.items() if not refusal} == can


def test_type1_is_refused_with_the_reason_and_what_can() -> None:
    sentence = capability("RSA_2048", "SIGN_VERIFY", SIGNING)[Mechanism.TYPE1]
    assert "DigestInfo" in sentence
    assert "AWS CloudHSM can, through the PKCS#11 backend" in sentence


def test_a_purpose_is_refused_with_the_usage_to_make() -> None:
    assert capability("RSA_2048", "SIGN_VERIFY", SIGNING)[OAEP] == (
        "the key was made for SIGN_VERIFY, and that is for ever; make one for ENCRYPT_DECRYPT"
    )
    assert "make one for SIGN_VERIFY" in capability("RSA_2048", "ENCRYPT_DECRYPT", ENCRYPTION)[PSS]


def test_oaep_with_sha1_is_never_used() -> None:
    assert "rsaes-oaep-sha256" in capability("RSA_2048", "ENCRYPT_DECRYPT", ENCRYPTION)[Mechanism.OAEP_SHA1]


@pytest.mark.parametrize(
    ("spec", "usage", "words"),
    [
        ("ECC_NIST_P256", "SIGN_VERIFY", "of the spec ECC_NIST_P256"),
        ("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT", "of the spec SYMMETRIC_DEFAULT"),
        ("", "", "of the spec"),
        ("RSA_2048", "KEY_AGREEMENT", "is for KEY_AGREEMENT"),
    ],
)
def test_keys_of_no_use(spec: str, usage: str, words: str) -> None:
    with pytest.raises(OperatorError, match=words):
        capability(spec, usage, SIGNING)


def test_no_algorithm_of_aws_is_used_twice() -> None:
    assert len(set(ALGORITHMS.values())) == len(ALGORITHMS)
