"""Custody: each finding by a table, with a row for everything that can lower it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from privyseal_backends.interface import Export, Origin, Protection
from privyseal_backends.pkcs11.custody import custody, find_export, find_origin, find_protection
from privyseal_backends.pkcs11.objects import KeyAttributes
from privyseal_backends.pkcs11.token import TokenInfo

BEST = KeyAttributes(
    object_id=b"\xa1",
    private=True,
    sensitive=True,
    always_sensitive=True,
    extractable=False,
    never_extractable=True,
    local=True,
    wrap_with_trusted=False,
    modifiable=True,
    sign=True,
    sign_recover=False,
    decrypt=False,
    unwrap=False,
    derive=False,
    always_authenticate=False,
    key_gen_mechanism=0,
    allowed_mechanisms=(1,),
)
HSM = TokenInfo(
    label="signing",
    serial="1234",
    manufacturer="Yubico (www.yubico.com)",
    model="YubiHSM",
    hardware_version=(1, 0),
    firmware_version=(2, 4),
    slot_id=3,
    slot_description="YubiHSM Connector",
    slot_manufacturer="Yubico (www.yubico.com)",
    hardware_slot=True,
    library_manufacturer="Yubico (www.yubico.com)",
    library_description="YubiHSM PKCS#11 Library",
    library_version=(2, 70),
    module_path="/usr/lib/yubihsm_pkcs11.so",
)
PLAIN = replace(
    HSM,
    manufacturer="Acme",
    model="Vault",
    slot_description="Slot",
    slot_manufacturer="Acme",
    library_manufacturer="Acme",
    library_description="PKCS#11",
)


def test_the_best_that_can_be_said() -> None:
    found = custody(BEST, HSM)
    assert (found.protection, found.origin, found.export) == (
        Protection.HARDWARE,
        Origin.GENERATED_INSIDE,
        Export.NEVER_POSSIBLE,
    )


@pytest.mark.parametrize(
    ("token", "protection", "word"),
    [
        (HSM, Protection.HARDWARE, "YubiHSM"),
        (replace(PLAIN, model="CloudHSM"), Protection.HARDWARE, "CloudHSM"),
        (replace(PLAIN, manufacturer="nCipher Corp. Ltd"), Protection.HARDWARE, "nShield"),
        (replace(PLAIN, library_description="Luna Cryptoki"), Protection.HARDWARE, "Luna"),
        (replace(HSM, hardware_slot=False), Protection.UNKNOWN, "does not claim"),
        (PLAIN, Protection.UNKNOWN, "Acme"),
        (replace(PLAIN, hardware_slot=False), Protection.UNKNOWN, "CKF_HW_SLOT"),
        (replace(PLAIN, manufacturer="SoftHSM project", hardware_slot=False), Protection.SOFTWARE, "SoftHSM"),
        (replace(PLAIN, manufacturer="SoftHSM project"), Protection.SOFTWARE, "contradicts"),
        (replace(PLAIN, manufacturer="Mozilla Foundation", model="NSS 3"), Protection.SOFTWARE, "NSS"),
        (replace(PLAIN, manufacturer="IBM", model="Soft"), Protection.SOFTWARE, "opencryptoki"),
        (replace(PLAIN, manufacturer="IBM Corp.", model="IBM SoftTok"), Protection.SOFTWARE, "opencryptoki"),
        (replace(PLAIN, manufacturer="IBM", model="EP11"), Protection.UNKNOWN, "IBM"),
        (replace(PLAIN, manufacturer="IBM", model="SW   TPM"), Protection.SOFTWARE, "swtpm"),
        (replace(HSM, model="YubiHSM", library_description="SoftHSM in disguise"), Protection.SOFTWARE, "SoftHSM"),
    ],
)
def test_protection(token: TokenInfo, protection: Protection, word: str) -> None:
    found, reasons = find_protection(token)
    assert found is protection
    assert word in " ".join(reasons)


@pytest.mark.parametrize(
    ("key", "origin", "word"),
    [
        (BEST, Origin.GENERATED_INSIDE, "CKM_RSA_PKCS_KEY_PAIR_GEN"),
        (replace(BEST, key_gen_mechanism=0x0A), Origin.GENERATED_INSIDE, "CKM_RSA_X9_31_KEY_PAIR_GEN"),
        (replace(BEST, key_gen_mechanism=None), Origin.GENERATED_INSIDE, "does not say by which"),
        (replace(BEST, key_gen_mechanism=0x1080), Origin.UNKNOWN, "CKM_AES_KEY_GEN"),
        (replace(BEST, key_gen_mechanism=0x80001234), Origin.UNKNOWN, "CKM 0x80001234"),
        (replace(BEST, local=None), Origin.UNKNOWN, "does not say"),
        (replace(BEST, local=False), Origin.UNKNOWN, "contradicts"),
        (replace(BEST, local=False, key_gen_mechanism=None), Origin.UNKNOWN, "CKA_ALWAYS_SENSITIVE"),
        (
            replace(BEST, local=False, key_gen_mechanism=None, always_sensitive=False),
            Origin.UNKNOWN,
            "CKA_NEVER_EXTRACTABLE",
        ),
        (
            replace(BEST, local=False, always_sensitive=False, never_extractable=False),
            Origin.UNKNOWN,
            "CKA_KEY_GEN_MECHANISM",
        ),
        (
            replace(BEST, local=False, key_gen_mechanism=None, always_sensitive=False, never_extractable=False),
            Origin.IMPORTED,
            "CKA_LOCAL is false",
        ),
        (
            replace(BEST, local=False, key_gen_mechanism=None, always_sensitive=None, never_extractable=None),
            Origin.IMPORTED,
            "CKA_LOCAL is false",
        ),
    ],
)
def test_origin(key: KeyAttributes, origin: Origin, word: str) -> None:
    found, reasons = find_origin(key, HSM)
    assert found is origin
    assert word in " ".join(reasons)


def test_nss_does_not_tell_the_origin_of_a_key() -> None:
    nss = replace(PLAIN, manufacturer="Mozilla Foundation", model="NSS 3")
    key = replace(BEST, local=False, key_gen_mechanism=None, always_sensitive=False, never_extractable=False)
    assert find_origin(key, nss)[0] is Origin.UNKNOWN


@pytest.mark.parametrize(
    ("key", "origin", "export", "word"),
    [
        (BEST, Origin.GENERATED_INSIDE, Export.NEVER_POSSIBLE, "always was"),
        (BEST, Origin.IMPORTED, Export.POSSIBLE_ONCE, "outside the token"),
        (BEST, Origin.UNKNOWN, Export.POSSIBLE_ONCE, "not known"),
        (
            replace(BEST, always_sensitive=False),
            Origin.GENERATED_INSIDE,
            Export.POSSIBLE_ONCE,
            "ALWAYS_SENSITIVE is false",
        ),
        (
            replace(BEST, always_sensitive=None),
            Origin.GENERATED_INSIDE,
            Export.POSSIBLE_ONCE,
            "ALWAYS_SENSITIVE is not told",
        ),
        (
            replace(BEST, never_extractable=False),
            Origin.GENERATED_INSIDE,
            Export.POSSIBLE_ONCE,
            "NEVER_EXTRACTABLE is false",
        ),
        (
            replace(BEST, never_extractable=None),
            Origin.GENERATED_INSIDE,
            Export.POSSIBLE_ONCE,
            "NEVER_EXTRACTABLE is not told",
        ),
        (replace(BEST, extractable=True), Origin.GENERATED_INSIDE, Export.POSSIBLE, "CKA_EXTRACTABLE is true"),
        (
            replace(BEST, extractable=True, wrap_with_trusted=True),
            Origin.GENERATED_INSIDE,
            Export.POSSIBLE,
            "CKA_WRAP_WITH_TRUSTED",
        ),
        (replace(BEST, sensitive=False), Origin.GENERATED_INSIDE, Export.POSSIBLE, "CKA_SENSITIVE is false"),
        (replace(BEST, sensitive=False, extractable=None), Origin.GENERATED_INSIDE, Export.POSSIBLE, "CKA_SENSITIVE"),
        (replace(BEST, sensitive=None), Origin.GENERATED_INSIDE, Export.UNKNOWN, "does not say CKA_SENSITIVE"),
        (replace(BEST, extractable=None), Origin.GENERATED_INSIDE, Export.UNKNOWN, "does not say CKA_EXTRACTABLE"),
    ],
)
def test_export(key: KeyAttributes, origin: Origin, export: Export, word: str) -> None:
    found, reasons = find_export(key, HSM, origin)
    assert found is export
    assert word in " ".join(reasons)


def test_attributes_that_can_be_loosened_afterwards_prove_nothing() -> None:
    tpm = replace(PLAIN, library_description="TPM2.0 Cryptoki")
    found, reasons = find_export(BEST, tpm, Origin.GENERATED_INSIDE)
    assert found is Export.UNKNOWN
    assert "database" in reasons[0]


def test_evidence_is_what_was_said() -> None:
    evidence = {each.name: each.value for each in custody(BEST, HSM).evidence}
    assert evidence["CKA_SENSITIVE"] == "true"
    assert evidence["CKA_EXTRACTABLE"] == "false"
    assert evidence["CKA_KEY_GEN_MECHANISM"] == "CKM_RSA_PKCS_KEY_PAIR_GEN"
    assert evidence["CKA_ALLOWED_MECHANISMS"] == "CKM_RSA_PKCS"
    assert evidence["CKA_ID"] == "a1"
    assert evidence["token.serial"] == "1234"
    assert evidence["token.firmware"] == "2.4"
    assert evidence["module.path"] == "/usr/lib/yubihsm_pkcs11.so"
    assert evidence["slot.CKF_HW_SLOT"] == "true"


def test_evidence_tells_silence_from_no() -> None:
    evidence = {each.name: each.value for each in custody(KeyAttributes(allowed_mechanisms=()), HSM).evidence}
    assert evidence["CKA_SENSITIVE"] == "not told"
    assert evidence["CKA_KEY_GEN_MECHANISM"] == "not told"
    assert evidence["CKA_ALLOWED_MECHANISMS"] == "any"


@pytest.mark.parametrize("token", [HSM, PLAIN])
def test_a_key_of_which_nothing_is_told_is_unknown_on_every_count(token: TokenInfo) -> None:
    found = custody(KeyAttributes(), replace(token, hardware_slot=False))
    assert (found.protection, found.origin, found.export) == (Protection.UNKNOWN, Origin.UNKNOWN, Export.UNKNOWN)
    assert all((found.protection_reasons, found.origin_reasons, found.export_reasons))
