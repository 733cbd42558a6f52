"""Whether a key can serve what its configuration demands. Pure functions."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import TYPE_CHECKING

from privyseal_backends.interface import PURPOSES, KeyDescription, OperatorError, Purpose
from privyseal_service.domain.operations import MECHANISMS, MODULUS_BITS, Scheme

if TYPE_CHECKING:
    from privyseal_service.config.keys import KeyConfig, MinimumCustody


class MisfitError(OperatorError):
    """A key was found that cannot, or must not, serve what the configuration demands of it."""


def check_enrollment(config: KeyConfig, description: KeyDescription) -> None:
    """Raise MisfitError unless the key can serve every scheme, is the pinned one, and is held as well as demanded."""
    found = description.public_key.fingerprint
    if config.fingerprint is not None and config.fingerprint != found:
        raise MisfitError(
            "object",
            f"another key was found than the one that the configuration pins: its fingerprint is {found}",
            "find out who replaced it; if that was meant, put the new fingerprint into the configuration",
        )
    for scheme in config.schemes:
        _check_scheme(scheme, description)
    _check_custody(config.custody, description)


def check_one_purpose(config: KeyConfig, fingerprint: str, others: Iterable[tuple[KeyConfig, str]]) -> None:
    """Raise MisfitError when one of the other keys, given with their fingerprints, is the same RSA key for another
    purpose: one block of bytes would then have two meanings."""
    for other, found in others:
        if found == fingerprint and _purposes(other) != _purposes(config):
            raise MisfitError(
                "object",
                f"it is the same RSA key as {other.name!r}, which is for {_worded_purpose(other)}, and this one is for"
                f" {_worded_purpose(config)}",
                "one key must not give a block of bytes two meanings: make a second key",
            )


def _purposes(config: KeyConfig) -> frozenset[Purpose]:
    return frozenset(PURPOSES[MECHANISMS[scheme]] for scheme in config.schemes)


def _worded_purpose(config: KeyConfig) -> str:
    return " and ".join(sorted(purpose.value for purpose in _purposes(config)))


def _check_scheme(scheme: Scheme, description: KeyDescription) -> None:
    mechanism = MECHANISMS[scheme]
    if mechanism not in description.mechanisms:
        able = ", ".join(sorted(able.value for able in description.mechanisms)) or "nothing that the service offers"
        why = description.refusals.get(mechanism, f"it does not make {mechanism.value}; it makes {able}")
        raise MisfitError("mechanism", f"the key cannot serve {scheme.value}: {why.rstrip('.')}")
    # A backend checks this too; it is checked here for one that does not.
    bits, wanted = description.public_key.modulus_bits, MODULUS_BITS[mechanism]
    if bits not in wanted:
        sizes = " or ".join(f"RSA-{size}" for size in sorted(wanted))
        why = ", since devices read exactly 256 bytes," if wanted == {2048} else ""
        raise MisfitError(
            "mechanism",
            f"{scheme.value} needs {sizes}{why} and this key is RSA-{bits}",
            f"make a key of {sizes} for it",
        )


def _check_custody(bar: MinimumCustody, description: KeyDescription) -> None:
    custody = description.custody
    for name, found, least, reasons in (
        ("protection", custody.protection, bar.protection, custody.protection_reasons),
        ("origin", custody.origin, bar.origin, custody.origin_reasons),
        ("export", custody.export, bar.export, custody.export_reasons),
    ):
        if found < least:
            because = "; ".join(reason.rstrip(".") for reason in reasons)
            raise MisfitError(
                "custody",
                f"{name} is {worded(found)}, and the configuration demands {worded(least)} at least"
                + (f" ({because})" if because else ""),
                f"use a key that has it, or lower the bar for this key by name: "
                f'custody = {{ {name} = "{worded(found)}" }}',
            )


def worded(finding: enum.Enum) -> str:
    """Return a finding as the configuration writes it: `generated-inside`."""
    return finding.name.lower().replace("_", "-")
