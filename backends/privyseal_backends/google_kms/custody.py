"""What Google's statements and an HSM's attestation say of a key's custody: a pure function, table-tested."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from privyseal_backends.google_kms.attestation import Attribute, Outcome, Report
from privyseal_backends.google_kms.facts import KeyFacts
from privyseal_backends.interface import Custody, Evidence, Export, Origin, Protection

HSM_LEVELS = frozenset({"HSM", "HSM_SINGLE_TENANT"})
_EXTERNAL_LEVELS = frozenset({"EXTERNAL", "EXTERNAL_VPC"})
_Finding = TypeVar("_Finding", Protection, Origin, Export)


def _doubt(facts: KeyFacts, report: Report, *, roots_configured: bool) -> str:
    """Why nothing that is said of the HSM may be believed; empty when it may."""
    if facts.protection_level not in HSM_LEVELS:
        return ""
    if report.contradicted:
        return "the HSM's attestation does not hold for this key, so nothing said of it is believed"
    if roots_configured and not report.proven:
        return "attestation_roots is set and the HSM's attestation does not prove it"
    return ""


def _believed(report: Report) -> str:
    return "the HSM's attestation proves it" if report.proven else "on Google's word, not proven by an attestation"


def _attested(report: Report, attribute: Attribute) -> bool | None:
    return report.statement.flag(attribute) if report.statement else None


def _protection(facts: KeyFacts, report: Report, doubt: str) -> Iterator[tuple[bool, Protection, str]]:
    level = facts.protection_level
    yield level == "SOFTWARE", Protection.SOFTWARE, "Cloud KMS keeps the key in software (protection level SOFTWARE)"
    yield (
        level in _EXTERNAL_LEVELS,
        Protection.UNKNOWN,
        f"an external key manager keeps the key ({level}), and Cloud KMS does not see into it",
    )
    yield level not in HSM_LEVELS, Protection.UNKNOWN, f"the protection level {level} is not known"
    yield bool(doubt), Protection.UNKNOWN, doubt
    yield (
        True,
        Protection.HARDWARE,
        f"Cloud KMS keeps the key in an HSM (protection level {level}): {_believed(report)}",
    )


def _origin(facts: KeyFacts, report: Report, doubt: str) -> Iterator[tuple[bool, Origin, str]]:
    imported = facts.import_job or facts.import_time
    yield bool(imported), Origin.IMPORTED, f"the key was imported ({imported})"
    yield facts.reimport_eligible, Origin.IMPORTED, "the key may be imported again, so it exists outside"
    external = facts.protection_level in _EXTERNAL_LEVELS
    yield external, Origin.UNKNOWN, "the key was made in an external key manager"
    yield bool(doubt), Origin.UNKNOWN, doubt
    yield (
        _attested(report, Attribute.LOCAL) is False,
        Origin.UNKNOWN,
        "the HSM says that the key was not made inside it (LOCAL false), and Google says no import",
    )
    yield (
        not facts.generate_time,
        Origin.UNKNOWN,
        "Google says neither that the key was generated nor that it was imported",
    )
    yield (
        facts.protection_level in HSM_LEVELS,
        Origin.GENERATED_INSIDE,
        f"the key was generated in the HSM: {_believed(report)}",
    )
    software = facts.protection_level == "SOFTWARE"
    yield software, Origin.GENERATED_INSIDE, "Cloud KMS generated the key: on Google's word"
    yield True, Origin.UNKNOWN, "where the key was generated is not known"


def _export(facts: KeyFacts, report: Report, doubt: str, origin: Origin) -> Iterator[tuple[bool, Export, str]]:
    external = facts.protection_level in _EXTERNAL_LEVELS
    yield external, Export.UNKNOWN, "whether the key can leave its external key manager is not known"
    yield (
        facts.trusted_wrapping_enabled,
        Export.POSSIBLE,
        "the key may leave the HSM wrapped by a trusted key (trusted_wrapping_enabled)",
    )
    extractable = _attested(report, Attribute.EXTRACTABLE) is True
    yield extractable, Export.POSSIBLE, "the HSM says that the key can be extracted (EXTRACTABLE true)"
    readable = _attested(report, Attribute.SENSITIVE) is False
    yield readable, Export.POSSIBLE, "the HSM says that the key may be read (SENSITIVE false)"
    yield bool(doubt), Export.UNKNOWN, doubt
    yield (
        origin is Origin.IMPORTED,
        Export.POSSIBLE_ONCE,
        "Cloud KMS gives no key material out, but the key was outside before it was imported",
    )
    yield (
        _attested(report, Attribute.NEVER_EXTRACTABLE) is False,
        Export.POSSIBLE_ONCE,
        "the HSM says that the key could once be extracted (NEVER_EXTRACTABLE false)",
    )
    yield origin is not Origin.GENERATED_INSIDE, Export.UNKNOWN, "where the key was made is not known"
    hsm = facts.protection_level in HSM_LEVELS
    yield hsm, Export.NEVER_POSSIBLE, f"the HSM lets the key out to nobody: {_believed(report)}"
    yield True, Export.NEVER_POSSIBLE, "Cloud KMS has no call that gives key material out: on Google's word"


def _first(rules: Iterable[tuple[bool, _Finding, str]]) -> tuple[_Finding, str]:
    """The first rule that applies; the last of each always does."""
    return next((finding, reason) for applies, finding, reason in rules if applies)


def _evidence(facts: KeyFacts, report: Report) -> tuple[Evidence, ...]:
    said = [
        Evidence("name", facts.name),
        Evidence("protection level", facts.protection_level),
        Evidence("algorithm", facts.algorithm),
        Evidence("state", facts.state),
        Evidence("create time", facts.create_time),
        Evidence("generate time", facts.generate_time),
        Evidence("import job", facts.import_job),
        Evidence("import time", facts.import_time),
        Evidence("reimport eligible", str(facts.reimport_eligible).lower()),
        Evidence("trusted wrapping enabled", str(facts.trusted_wrapping_enabled).lower()),
    ]
    attestation = facts.attestation
    if attestation is not None:
        said += [
            Evidence("attestation format", attestation.format),
            Evidence("attestation content", attestation.content.hex()),
            Evidence("attestation manufacturer certificates", "".join(attestation.manufacturer_chain)),
            Evidence("attestation Google card certificates", "".join(attestation.owner_card_chain)),
            Evidence("attestation Google partition certificates", "".join(attestation.owner_partition_chain)),
        ]
    if attestation is not None or facts.protection_level in HSM_LEVELS:
        said += [
            Evidence(f"attestation check: {check.about}", f"{check.outcome.value}: {check.sentence}")
            for check in report.checks
        ]
    return tuple(said)


def assess(facts: KeyFacts, report: Report, *, roots_configured: bool) -> Custody:
    """The three findings. Without roots they rest on Google's word; with roots, an HSM key's rest on its attestation
    alone, and what that does not prove is unknown. An attestation that contradicts Google lowers them either way."""
    doubt = _doubt(facts, report, roots_configured=roots_configured)
    protection, protection_reason = _first(_protection(facts, report, doubt))
    origin, origin_reason = _first(_origin(facts, report, doubt))
    export, export_reason = _first(_export(facts, report, doubt, origin))
    checks: tuple[str, ...] = ()
    if facts.protection_level in HSM_LEVELS:
        checks = tuple(f"{check.outcome.value}: {check.sentence}" for check in report.checks)
    failed = tuple(check.sentence for check in report.checks if check.outcome is Outcome.FAILED)
    return Custody(
        protection=protection,
        protection_reasons=(protection_reason, *checks),
        origin=origin,
        origin_reasons=(origin_reason, *failed),
        export=export,
        export_reasons=(export_reason, *failed),
        evidence=_evidence(facts, report),
    )
