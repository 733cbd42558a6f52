"""What a key cannot do is known before the first call, in a sentence that says why and what would work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from privyseal_backends.interface import Export, Mechanism, Origin, Protection, PublicKey
from privyseal_service.config.keys import KeyConfig, MinimumCustody
from privyseal_service.domain.operations import SignatureScheme, WrapScheme
from privyseal_service.keys.enrollment import MisfitError, check_enrollment
from tests.fakes.software_store import StoredKey

V3, PSS, PKCS1 = (
    SignatureScheme.CAPGO_V3,
    SignatureScheme.RSASSA_PSS_SHA256,
    SignatureScheme.RSASSA_PKCS1_V1_5_SHA256,
)
AWS = "AWS KMS signs with a DigestInfo or PSS alone, which devices of Capgo refuse; use AWS CloudHSM through PKCS#11"
RAW = "a key version of RSA_SIGN_RAW_PKCS1_2048 makes type-1 blocks alone; use one of RSA_SIGN_PSS_2048_SHA256"
SHA1_ONLY = "the token's CKM_RSA_PKCS_OAEP takes SHA-1 alone; use rsaes-oaep-sha1 or another token."


def config(*schemes: Any, **more: Any) -> KeyConfig:
    return KeyConfig.model_construct(
        name="k", uri="software:k", schemes=schemes, **{"custody": MinimumCustody(), **more}
    )


@pytest.fixture(scope="module")
def rsa_3072() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 3072)


def misfit(key: StoredKey, *schemes: Any, **more: Any) -> MisfitError:
    with pytest.raises(MisfitError) as caught:
        check_enrollment(config(*schemes, **more), key.description())
    return caught.value


def test_what_fits(rsa_key: rsa.RSAPrivateKey, rsa_3072: rsa.RSAPrivateKey) -> None:
    check_enrollment(config(WrapScheme.CAPGO, V3), StoredKey(rsa_key, frozenset({Mechanism.TYPE1})).description())
    signing = frozenset({Mechanism.PKCS1_V1_5_SHA256, Mechanism.PSS_SHA256})
    check_enrollment(config(PSS, PKCS1), StoredKey(rsa_3072, signing).description())


@pytest.mark.parametrize(
    ("scheme", "mechanisms", "refusals", "says"),
    [
        (V3, {Mechanism.PSS_SHA256}, {Mechanism.TYPE1: AWS}, f"the key cannot serve capgo-v3: {AWS}"),
        (PSS, {Mechanism.TYPE1}, {Mechanism.PSS_SHA256: RAW}, f"the key cannot serve rsassa-pss-sha256: {RAW}"),
        (
            WrapScheme.RSAES_OAEP_SHA256,
            {Mechanism.OAEP_SHA1},
            {Mechanism.OAEP_SHA256: SHA1_ONLY},
            f"the key cannot serve rsaes-oaep-sha256: {SHA1_ONLY.rstrip('.')}",
        ),
        (
            PKCS1,
            {Mechanism.PSS_SHA256},
            {},
            "it does not make RSASSA-PKCS1-v1_5 with SHA-256; it makes RSASSA-PSS with SHA-256",
        ),
        (PSS, set(), {}, "it makes nothing that the service offers"),
    ],
)
def test_the_sentence_is_the_store_s_own(
    rsa_key: rsa.RSAPrivateKey, scheme: Any, mechanisms: Any, refusals: Any, says: str
) -> None:
    error = misfit(StoredKey(rsa_key, frozenset(mechanisms), refusals), scheme)
    assert error.part == "mechanism"
    assert says in error.message


def test_capgo_on_rsa_3072(rsa_3072: rsa.RSAPrivateKey) -> None:
    error = misfit(StoredKey(rsa_3072, frozenset({Mechanism.TYPE1})), WrapScheme.CAPGO)
    assert error.message == "capgo needs RSA-2048, since devices read exactly 256 bytes, and this key is RSA-3072"
    assert error.remedy == "make a key of RSA-2048 for it"


def test_the_store_s_reason_comes_before_the_size(rsa_3072: rsa.RSAPrivateKey) -> None:
    """No size of key makes AWS KMS serve Capgo."""
    error = misfit(StoredKey(rsa_3072, frozenset({Mechanism.PSS_SHA256}), {Mechanism.TYPE1: AWS}), WrapScheme.CAPGO)
    assert AWS in error.message


def test_rsassa_on_a_small_key() -> None:
    error = misfit(StoredKey(rsa.generate_private_key(65537, 1024), frozenset({Mechanism.PSS_SHA256})), PSS)
    assert "needs RSA-2048 or RSA-3072 or RSA-4096 and this key is RSA-1024" in error.message


def test_the_first_unfit_scheme_of_several(rsa_key: rsa.RSAPrivateKey) -> None:
    error = misfit(StoredKey(rsa_key, frozenset({Mechanism.PKCS1_V1_5_SHA256})), PKCS1, PSS)
    assert "rsassa-pss-sha256" in error.message


def test_a_pinned_fingerprint(rsa_key: rsa.RSAPrivateKey) -> None:
    key = StoredKey(rsa_key, frozenset({Mechanism.TYPE1}))
    found = PublicKey(rsa_key.public_key()).fingerprint
    check_enrollment(config(V3, fingerprint=found), key.description())
    error = misfit(key, V3, fingerprint="0" * 64)
    assert error.part == "object"
    assert found in error.message


@pytest.mark.parametrize(
    ("finding", "bar", "found", "fits"),
    [
        ("protection", Protection.HARDWARE, Protection.SOFTWARE, False),
        ("protection", Protection.SOFTWARE, Protection.UNKNOWN, False),
        ("protection", Protection.SOFTWARE, Protection.HARDWARE, True),
        ("origin", Origin.GENERATED_INSIDE, Origin.IMPORTED, False),
        ("origin", Origin.IMPORTED, Origin.UNKNOWN, False),
        ("origin", Origin.IMPORTED, Origin.GENERATED_INSIDE, True),
        ("export", Export.NEVER_POSSIBLE, Export.POSSIBLE_ONCE, False),
        ("export", Export.POSSIBLE_ONCE, Export.UNKNOWN, False),
        ("export", Export.POSSIBLE_ONCE, Export.POSSIBLE, False),
        ("export", Export.POSSIBLE, Export.POSSIBLE, True),
        ("export", Export.POSSIBLE_ONCE, Export.NEVER_POSSIBLE, True),
    ],
)
def test_the_custody_bar(rsa_key: rsa.RSAPrivateKey, finding: str, bar: Any, found: Any, fits: bool) -> None:
    key = replace(StoredKey(rsa_key, frozenset({Mechanism.TYPE1})), **{finding: found})
    wanted = MinimumCustody.model_construct(**{"protection": 1, "origin": 1, "export": 1, finding: bar})
    if fits:
        check_enrollment(config(V3, custody=wanted), key.description())
        return
    error = misfit(key, V3, custody=wanted)
    assert error.part == "custody"
    word = found.name.lower().replace("_", "-")
    assert error.message.startswith(f"{finding} is {word}, and the configuration demands ")
    assert f'custody = {{ {finding} = "{word}" }}' in error.remedy


def test_by_default_a_key_that_can_leave_is_not_served(rsa_key: rsa.RSAPrivateKey) -> None:
    for found in (Export.POSSIBLE, Export.UNKNOWN):
        assert misfit(StoredKey(rsa_key, frozenset({Mechanism.TYPE1}), export=found), V3).part == "custody"
