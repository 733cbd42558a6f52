"""What lowers a key's custody: a row for each statement of Google's, and each of the HSM's, that can."""

from dataclasses import replace

import pytest

from privyseal_backends.google_kms.attestation import (
    ATTRIBUTES,
    KEY,
    MANUFACTURER,
    NAME,
    OWNER,
    SIGNATURE,
    Attribute,
    Check,
    Outcome,
    Report,
    Statement,
)
from privyseal_backends.google_kms.custody import assess
from privyseal_backends.google_kms.facts import Attestation, KeyFacts
from privyseal_backends.interface import Evidence, Export, Origin, Protection

FACTS = KeyFacts(
    name="projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1",
    state="ENABLED",
    protection_level="HSM",
    algorithm="RSA_SIGN_RAW_PKCS1_2048",
    create_time="2026-01-01T00:00:00Z",
    generate_time="2026-01-01T00:00:01Z",
    attestation=Attestation("CAVIUM_V2_COMPRESSED", b"\x1f\x8b", ("cavium\n",), ("card\n",), ("partition\n",)),
)
GOOD = {
    Attribute.SENSITIVE: b"\1",
    Attribute.EXTRACTABLE: b"\0",
    Attribute.NEVER_EXTRACTABLE: b"\1",
    Attribute.LOCAL: b"\1",
}
ABOUTS = (MANUFACTURER, OWNER, SIGNATURE, KEY, NAME, ATTRIBUTES)

HARDWARE, SOFTWARE, UNKNOWN = Protection.HARDWARE, Protection.SOFTWARE, Protection.UNKNOWN


def report(said=(), **outcomes):
    """All checks passed, but those named by the last word of what they are about."""
    checks = tuple(
        Check(about, outcomes.get(about.split()[-1], Outcome.PASSED), f"sentence on {about}") for about in ABOUTS
    )
    return Report(checks, Statement({**GOOD, **dict(said)}, {}, b"", b""))


PROVEN = report()
UNPROVEN = Report(
    tuple(
        Check(about, Outcome.NOT_DONE if "chain" in about else Outcome.PASSED, f"sentence on {about}")
        for about in ABOUTS
    ),
    Statement(GOOD, {}, b"", b""),
)
NONE = Report((Check("attestation", Outcome.NOT_DONE, "no attestation came with the key version"),))
BEST = (HARDWARE, Origin.GENERATED_INSIDE, Export.NEVER_POSSIBLE)
NOTHING = (UNKNOWN, Origin.UNKNOWN, Export.UNKNOWN)

ROWS = {
    # name: (what Google says, what the attestation says, roots configured, the three findings)
    "an HSM key, proven": ({}, PROVEN, True, BEST),
    "a single-tenant HSM key, proven": ({"protection_level": "HSM_SINGLE_TENANT"}, PROVEN, True, BEST),
    "an HSM key on Google's word": ({}, UNPROVEN, False, BEST),
    "an HSM key without attestation, on Google's word": ({"attestation": None}, NONE, False, BEST),
    "software": (
        {"protection_level": "SOFTWARE", "attestation": None},
        NONE,
        False,
        (SOFTWARE, Origin.GENERATED_INSIDE, Export.NEVER_POSSIBLE),
    ),
    "software, whatever roots there are": (
        {"protection_level": "SOFTWARE", "attestation": None},
        NONE,
        True,
        (SOFTWARE, Origin.GENERATED_INSIDE, Export.NEVER_POSSIBLE),
    ),
    "external": ({"protection_level": "EXTERNAL"}, NONE, False, NOTHING),
    "external over VPC": ({"protection_level": "EXTERNAL_VPC"}, NONE, False, NOTHING),
    "no protection level": ({"protection_level": "PROTECTION_LEVEL_UNSPECIFIED"}, NONE, False, (UNKNOWN, None, None)),
    "a protection level of the future": ({"protection_level": "9"}, NONE, False, (UNKNOWN, Origin.UNKNOWN, None)),
    "an import job": ({"import_job": "job"}, PROVEN, True, (HARDWARE, Origin.IMPORTED, Export.POSSIBLE_ONCE)),
    "an import time": ({"import_time": "2026"}, PROVEN, True, (HARDWARE, Origin.IMPORTED, Export.POSSIBLE_ONCE)),
    "may be imported again": (
        {"reimport_eligible": True},
        PROVEN,
        True,
        (HARDWARE, Origin.IMPORTED, Export.POSSIBLE_ONCE),
    ),
    "imported software": (
        {"protection_level": "SOFTWARE", "import_job": "job"},
        NONE,
        False,
        (SOFTWARE, Origin.IMPORTED, Export.POSSIBLE_ONCE),
    ),
    "an imported external key": (
        {"protection_level": "EXTERNAL", "import_job": "job"},
        NONE,
        False,
        (UNKNOWN, Origin.IMPORTED, Export.UNKNOWN),
    ),
    "neither generated nor imported": (
        {"generate_time": ""},
        PROVEN,
        True,
        (HARDWARE, Origin.UNKNOWN, Export.UNKNOWN),
    ),
    "trusted wrapping": (
        {"protection_level": "HSM_SINGLE_TENANT", "trusted_wrapping_enabled": True},
        PROVEN,
        True,
        (HARDWARE, Origin.GENERATED_INSIDE, Export.POSSIBLE),
    ),
    "roots, and no attestation": ({"attestation": None}, NONE, True, NOTHING),
    "roots, and chains not checked": ({}, UNPROVEN, True, NOTHING),
    "roots, and the name not checked": ({}, report(version=Outcome.NOT_DONE), True, NOTHING),
    "roots, and the attributes not clear": ({}, report(attributes=Outcome.NOT_DONE), True, NOTHING),
    "a broken signature": ({}, report(signature=Outcome.FAILED), False, NOTHING),
    "a broken signature, with roots": ({}, report(signature=Outcome.FAILED), True, NOTHING),
    "another public key": ({}, report(key=Outcome.FAILED), False, NOTHING),
    "another version": ({}, report(version=Outcome.FAILED), False, NOTHING),
    "a broken chain": ({}, report(chain=Outcome.FAILED), True, NOTHING),
    "a broken attestation of an imported key": (
        {"import_job": "job"},
        report(key=Outcome.FAILED),
        False,
        (UNKNOWN, Origin.IMPORTED, Export.UNKNOWN),
    ),
    "attested extractable": (
        {},
        report({Attribute.EXTRACTABLE: b"\1"}),
        True,
        (HARDWARE, Origin.GENERATED_INSIDE, Export.POSSIBLE),
    ),
    "attested extractable, not proven": (
        {},
        replace(UNPROVEN, statement=report({Attribute.EXTRACTABLE: b"\1"}).statement),
        False,
        (HARDWARE, Origin.GENERATED_INSIDE, Export.POSSIBLE),
    ),
    "attested extractable once": (
        {},
        report({Attribute.NEVER_EXTRACTABLE: b"\0"}),
        True,
        (HARDWARE, Origin.GENERATED_INSIDE, Export.POSSIBLE_ONCE),
    ),
    "attested readable": (
        {},
        report({Attribute.SENSITIVE: b"\0"}),
        True,
        (HARDWARE, Origin.GENERATED_INSIDE, Export.POSSIBLE),
    ),
    "attested made elsewhere": (
        {},
        report({Attribute.LOCAL: b"\0"}),
        True,
        (HARDWARE, Origin.UNKNOWN, Export.UNKNOWN),
    ),
    "attested made elsewhere, and imported": (
        {"import_job": "job"},
        report({Attribute.LOCAL: b"\0", Attribute.NEVER_EXTRACTABLE: b"\0"}),
        True,
        (HARDWARE, Origin.IMPORTED, Export.POSSIBLE_ONCE),
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_findings(row):
    changes, attested, roots, (protection, origin, export) = ROWS[row]
    custody = assess(replace(FACTS, **changes), attested, roots_configured=roots)
    assert custody.protection is protection
    assert origin is None or custody.origin is origin
    assert export is None or custody.export is export
    assert all((*custody.protection_reasons, *custody.origin_reasons, *custody.export_reasons))


def test_reasons_tell_proof_from_googles_word():
    proven = assess(FACTS, PROVEN, roots_configured=True)
    believed = assess(FACTS, UNPROVEN, roots_configured=False)
    for findings in ("protection_reasons", "origin_reasons", "export_reasons"):
        assert "attestation proves it" in getattr(proven, findings)[0]
        assert "Google's word" in getattr(believed, findings)[0]


def test_what_was_checked_and_what_not_is_in_reasons_and_evidence():
    custody = assess(FACTS, UNPROVEN, roots_configured=False)
    assert f"not checked: sentence on {MANUFACTURER}" in custody.protection_reasons
    assert f"checked: sentence on {KEY}" in custody.protection_reasons
    assert Evidence(f"attestation check: {OWNER}", f"not checked: sentence on {OWNER}") in custody.evidence
    assert Evidence(f"attestation check: {NAME}", f"checked: sentence on {NAME}") in custody.evidence


def test_what_failed_is_a_reason_of_every_finding():
    custody = assess(FACTS, report(key=Outcome.FAILED), roots_configured=False)
    for reasons in (custody.origin_reasons, custody.export_reasons):
        assert f"sentence on {KEY}" in reasons
    assert f"failed: sentence on {KEY}" in custody.protection_reasons
    assert Evidence(f"attestation check: {KEY}", f"failed: sentence on {KEY}") in custody.evidence


def test_the_evidence_holds_all_that_google_said():
    items = assess(FACTS, PROVEN, roots_configured=True).evidence
    evidence = {item.name: item.value for item in items}
    assert len(evidence) == len(items)
    assert evidence["name"] == FACTS.name
    assert evidence["protection level"] == "HSM"
    assert evidence["generate time"] == FACTS.generate_time
    assert evidence["import job"] == ""
    assert evidence["attestation format"] == "CAVIUM_V2_COMPRESSED"
    assert evidence["attestation content"] == "1f8b"
    assert evidence["attestation manufacturer certificates"] == "cavium\n"
    assert evidence["attestation Google card certificates"] == "card\n"
    assert evidence["attestation Google partition certificates"] == "partition\n"


def test_a_software_key_says_nothing_of_attestations():
    custody = assess(replace(FACTS, protection_level="SOFTWARE", attestation=None), NONE, roots_configured=True)
    assert not [item for item in custody.evidence if "attestation" in item.name]
    assert len(custody.protection_reasons) == 1
