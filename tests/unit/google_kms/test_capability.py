"""What each algorithm of Cloud KMS is good for."""

import pytest
from google.cloud.kms_v1 import types

from privyseal_backends.google_kms.capability import capability
from privyseal_backends.interface import Mechanism

ALGORITHMS = [algorithm.name for algorithm in types.CryptoKeyVersion.CryptoKeyVersionAlgorithm]

EXPECTED = {
    "RSA_SIGN_RAW_PKCS1_2048": (2048, {Mechanism.TYPE1}),
    "RSA_SIGN_RAW_PKCS1_3072": (3072, set()),
    "RSA_SIGN_RAW_PKCS1_4096": (4096, set()),
    "RSA_SIGN_PKCS1_2048_SHA256": (2048, {Mechanism.PKCS1_V1_5_SHA256}),
    "RSA_SIGN_PKCS1_3072_SHA256": (3072, {Mechanism.PKCS1_V1_5_SHA256}),
    "RSA_SIGN_PKCS1_4096_SHA256": (4096, {Mechanism.PKCS1_V1_5_SHA256}),
    "RSA_SIGN_PKCS1_4096_SHA512": (4096, set()),
    "RSA_SIGN_PSS_2048_SHA256": (2048, {Mechanism.PSS_SHA256}),
    "RSA_SIGN_PSS_3072_SHA256": (3072, {Mechanism.PSS_SHA256}),
    "RSA_SIGN_PSS_4096_SHA256": (4096, {Mechanism.PSS_SHA256}),
    "RSA_SIGN_PSS_4096_SHA512": (4096, set()),
    "RSA_DECRYPT_OAEP_2048_SHA256": (2048, {Mechanism.OAEP_SHA256}),
    "RSA_DECRYPT_OAEP_3072_SHA256": (3072, {Mechanism.OAEP_SHA256}),
    "RSA_DECRYPT_OAEP_4096_SHA256": (4096, {Mechanism.OAEP_SHA256}),
    "RSA_DECRYPT_OAEP_4096_SHA512": (4096, set()),
    "RSA_DECRYPT_OAEP_2048_SHA1": (2048, {Mechanism.OAEP_SHA1}),
    "RSA_DECRYPT_OAEP_3072_SHA1": (3072, {Mechanism.OAEP_SHA1}),
    "RSA_DECRYPT_OAEP_4096_SHA1": (4096, {Mechanism.OAEP_SHA1}),
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("level", ["SOFTWARE", "HSM", "HSM_SINGLE_TENANT"])
def test_every_algorithm_of_the_client_has_its_row(algorithm, level):
    bits, mechanisms = EXPECTED.get(algorithm, (None, set()))
    can = capability(algorithm, level)
    assert (can.bits, can.mechanisms) == (bits, mechanisms)
    assert set(can.refusals) == set(Mechanism) - mechanisms


def test_every_row_is_an_algorithm_of_the_client():
    assert set(EXPECTED) <= set(ALGORITHMS)


@pytest.mark.parametrize("algorithm", EXPECTED)
def test_an_external_key_manager_takes_no_digest(algorithm):
    can = capability(algorithm, "EXTERNAL_VPC")
    assert not can.mechanisms
    assert set(can.refusals) == set(Mechanism)
    assert all("external key manager" in refusal for refusal in can.refusals.values())


@pytest.mark.parametrize(
    ("algorithm", "mechanism", "why", "instead"),
    [
        ("RSA_SIGN_RAW_PKCS1_3072", Mechanism.TYPE1, "only RSA-2048", "RSA_SIGN_RAW_PKCS1_2048"),
        ("RSA_SIGN_PKCS1_2048_SHA256", Mechanism.TYPE1, "DigestInfo", "roles/cloudkms.expertRawPKCS1"),
        ("RSA_SIGN_RAW_PKCS1_2048", Mechanism.PSS_SHA256, "one key serves one purpose", "RSA_SIGN_PSS_2048_SHA256"),
        ("RSA_SIGN_RAW_PKCS1_2048", Mechanism.PKCS1_V1_5_SHA256, "type-1 blocks", "RSA_SIGN_PKCS1_2048_SHA256"),
        ("RSA_SIGN_PKCS1_4096_SHA512", Mechanism.PKCS1_V1_5_SHA256, "SHA-512", "RSA_SIGN_PKCS1_2048_SHA256"),
        ("RSA_SIGN_PSS_2048_SHA256", Mechanism.PKCS1_V1_5_SHA256, "one algorithm", "RSA_SIGN_PKCS1_2048_SHA256"),
        ("RSA_DECRYPT_OAEP_2048_SHA256", Mechanism.OAEP_SHA1, "one algorithm", "RSA_DECRYPT_OAEP_2048_SHA1"),
    ],
)
def test_a_refusal_says_why_and_what_would_work(algorithm, mechanism, why, instead):
    refusal = capability(algorithm, "HSM").refusals[mechanism]
    assert algorithm in refusal
    assert mechanism.value in refusal
    assert why in refusal
    assert instead in refusal
