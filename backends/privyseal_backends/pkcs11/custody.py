"""Custody of a PKCS#11 key: three findings, each a pure function of what the module said.

What each attribute means: PKCS#11 base specification 2.40, 4.9 (private keys) and 4.7.2 (CKA_LOCAL,
CKA_KEY_GEN_MECHANISM). A module may say whatever it likes of itself; so a name known to be software outweighs a
hardware flag, and an answer that contradicts another one counts as no answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from privyseal_backends.interface import Custody, Evidence, Export, Origin, Protection
from privyseal_backends.pkcs11.mechanisms import mechanism_name
from privyseal_backends.pkcs11.objects import KeyAttributes
from privyseal_backends.pkcs11.token import TokenInfo

_RSA_GENERATORS = frozenset({0x00000000, 0x0000000A})
"""CKM_RSA_PKCS_KEY_PAIR_GEN and CKM_RSA_X9_31_KEY_PAIR_GEN."""

_NSS = "Mozilla's NSS"
_SOFTWARE: Mapping[str, str] = MappingProxyType(
    {
        "softhsm": "SoftHSM",
        "nss ": _NSS,
        "mozilla foundation": _NSS,
        "kryoptic": "Kryoptic",
        "opencryptoki soft": "opencryptoki's soft token",
        "ibm softtok": "opencryptoki's soft token",
        "sw   tpm": "a software TPM (swtpm)",
        "swtpm": "a software TPM (swtpm)",
        "gnome keyring": "GNOME Keyring",
    }
)
_HARDWARE: Mapping[str, str] = MappingProxyType(
    {
        "cloudhsm": "AWS CloudHSM",
        "cavium": "a Cavium or Marvell HSM",
        "marvell": "a Cavium or Marvell HSM",
        "luna": "a Thales Luna HSM",
        "ncipher": "an Entrust nShield HSM",
        "nshield": "an Entrust nShield HSM",
        "yubihsm": "a YubiHSM",
        "yubikey": "a YubiKey",
        "nitrokey hsm": "a Nitrokey HSM",
        "smartcard-hsm": "a SmartCard-HSM",
        "infineon": "an Infineon TPM",
    }
)
"""Parts of what a token or its module calls itself (manufacturer, model, description), in lower case. Makers that ship
a software emulator under the same names are left out on purpose."""


def custody(key: KeyAttributes, token: TokenInfo) -> Custody:
    """The three findings with their reasons, and the evidence."""
    protection, protection_reasons = find_protection(token)
    origin, origin_reasons = find_origin(key, token)
    export, export_reasons = find_export(key, token, origin)
    return Custody(
        protection=protection,
        protection_reasons=protection_reasons,
        origin=origin,
        origin_reasons=origin_reasons,
        export=export,
        export_reasons=export_reasons,
        evidence=evidence(key, token),
    )


def find_protection(token: TokenInfo) -> tuple[Protection, tuple[str, ...]]:
    """Software where a name says so; hardware where the slot and a known maker say so; else unknown."""
    software = _known(_SOFTWARE, token)
    if software is not None or _is_opencryptoki_soft(token):
        reasons = [f"The token is {software or _SOFTWARE['opencryptoki soft']}, which keeps keys in software."]
        if token.hardware_slot:
            reasons.append("Its slot claims to be hardware (CKF_HW_SLOT), which the name contradicts.")
        return Protection.SOFTWARE, tuple(reasons)
    hardware = _known(_HARDWARE, token)
    if not token.hardware_slot:
        maker = f"The token calls itself {hardware}, but its" if hardware else "The token's"
        return Protection.UNKNOWN, (f"{maker} slot does not claim to be hardware (CKF_HW_SLOT is not set).",)
    if hardware is None:
        return Protection.UNKNOWN, (
            f"The slot claims to be hardware (CKF_HW_SLOT); {token.manufacturer!r} {token.model!r} is unknown here.",
        )
    return Protection.HARDWARE, (f"The token is {hardware} and its slot is hardware (CKF_HW_SLOT).",)


def find_origin(key: KeyAttributes, token: TokenInfo) -> tuple[Origin, tuple[str, ...]]:
    """Generated inside where CKA_LOCAL says so and nothing contradicts it."""
    if key.local is None:
        return Origin.UNKNOWN, ("The token does not say whether it generated the key (CKA_LOCAL).",)
    return _origin_of_local(key) if key.local else _origin_of_not_local(key, token)


def _origin_of_local(key: KeyAttributes) -> tuple[Origin, tuple[str, ...]]:
    generator = key.key_gen_mechanism
    if generator is None:
        return Origin.GENERATED_INSIDE, ("CKA_LOCAL is true; the token does not say by which mechanism.",)
    name = mechanism_name(generator)
    if generator not in _RSA_GENERATORS:
        return Origin.UNKNOWN, (f"CKA_LOCAL is true, but CKA_KEY_GEN_MECHANISM is {name}, which makes no RSA key.",)
    return Origin.GENERATED_INSIDE, (f"CKA_LOCAL is true and the mechanism was {name}.",)


def _origin_of_not_local(key: KeyAttributes, token: TokenInfo) -> tuple[Origin, tuple[str, ...]]:
    if _known(_SOFTWARE, token) == _NSS:
        return Origin.UNKNOWN, ("CKA_LOCAL is false, and NSS leaves it so for keys that it generated.",)
    contradictions = [
        f"CKA_LOCAL is false, but {name} is {value}, as no key from outside has it: the token contradicts itself."
        for name, value, wrong in (
            ("CKA_KEY_GEN_MECHANISM", _mechanism(key.key_gen_mechanism), key.key_gen_mechanism in _RSA_GENERATORS),
            ("CKA_ALWAYS_SENSITIVE", "true", key.always_sensitive),
            ("CKA_NEVER_EXTRACTABLE", "true", key.never_extractable),
        )
        if wrong
    ]
    if contradictions:
        return Origin.UNKNOWN, tuple(contradictions)
    return Origin.IMPORTED, ("CKA_LOCAL is false: the key was made outside the token, or copied.",)


def find_export(key: KeyAttributes, token: TokenInfo, origin: Origin) -> tuple[Export, tuple[str, ...]]:
    """Never possible only where the token says that it never was, and the key was never outside."""
    open_ = []
    if key.extractable:
        guarded = " (only by a trusted wrapping key: CKA_WRAP_WITH_TRUSTED)" if key.wrap_with_trusted else ""
        open_.append(f"CKA_EXTRACTABLE is true: the key can be wrapped and taken out{guarded}.")
    if key.sensitive is False:
        open_.append("CKA_SENSITIVE is false: the key can be read in the clear.")
    if open_:
        return Export.POSSIBLE, tuple(open_)
    silent = [n for n, v in (("CKA_SENSITIVE", key.sensitive), ("CKA_EXTRACTABLE", key.extractable)) if v is None]
    if silent:
        return Export.UNKNOWN, tuple(f"The token does not say {name}." for name in silent)
    if "tpm2.0 cryptoki" in token.library_description.lower():
        return Export.UNKNOWN, (
            "tpm2-pkcs11 keeps CKA_SENSITIVE and CKA_EXTRACTABLE in a database that its owner can change afterwards.",
        )
    once = [
        f"{name} is {_told(value)}: there may have been a time when the key could be {what}."
        for name, value, what in (
            ("CKA_ALWAYS_SENSITIVE", key.always_sensitive, "read"),
            ("CKA_NEVER_EXTRACTABLE", key.never_extractable, "wrapped"),
        )
        if not value
    ]
    if origin is Origin.IMPORTED:
        once.append("The key was outside the token before.")
    if origin is Origin.UNKNOWN:
        once.append("It is not known whether the key was outside the token before.")
    if once:
        return Export.POSSIBLE_ONCE, tuple(once)
    return Export.NEVER_POSSIBLE, (
        "The key was generated inside, is sensitive and not extractable, and the token says that it always was.",
    )


def evidence(key: KeyAttributes, token: TokenInfo) -> tuple[Evidence, ...]:
    """What the module said, by the names of PKCS#11."""
    allowed = key.allowed_mechanisms
    said = {
        "CKA_SENSITIVE": _told(key.sensitive),
        "CKA_ALWAYS_SENSITIVE": _told(key.always_sensitive),
        "CKA_EXTRACTABLE": _told(key.extractable),
        "CKA_NEVER_EXTRACTABLE": _told(key.never_extractable),
        "CKA_LOCAL": _told(key.local),
        "CKA_KEY_GEN_MECHANISM": _mechanism(key.key_gen_mechanism),
        "CKA_WRAP_WITH_TRUSTED": _told(key.wrap_with_trusted),
        "CKA_ALLOWED_MECHANISMS": "not told" if allowed is None else " ".join(map(mechanism_name, allowed)) or "any",
        "CKA_PRIVATE": _told(key.private),
        "CKA_MODIFIABLE": _told(key.modifiable),
        "CKA_SIGN": _told(key.sign),
        "CKA_SIGN_RECOVER": _told(key.sign_recover),
        "CKA_DECRYPT": _told(key.decrypt),
        "CKA_UNWRAP": _told(key.unwrap),
        "CKA_DERIVE": _told(key.derive),
        "CKA_ID": key.object_id.hex(),
        "token.label": token.label,
        "token.serial": token.serial,
        "token.manufacturer": token.manufacturer,
        "token.model": token.model,
        "token.hardware": _version(token.hardware_version),
        "token.firmware": _version(token.firmware_version),
        "slot.id": str(token.slot_id),
        "slot.description": token.slot_description,
        "slot.manufacturer": token.slot_manufacturer,
        "slot.CKF_HW_SLOT": _told(token.hardware_slot),
        "module.path": token.module_path,
        "module.description": token.library_description,
        "module.manufacturer": token.library_manufacturer,
        "module.version": _version(token.library_version),
    }
    return tuple(Evidence(name, value) for name, value in said.items())


def _told(value: bool | None) -> str:  # noqa: FBT001 - the value of an attribute
    return "not told" if value is None else str(value).lower()


def _mechanism(number: int | None) -> str:
    return "not told" if number is None else mechanism_name(number)


def _version(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def _known(names: Mapping[str, str], token: TokenInfo) -> str | None:
    """The first of `names` that the token, its slot or its module calls itself by."""
    said = f"{token.manufacturer}\n{token.model}\n{token.slot_description}".lower()
    said += f"\n{token.library_description}\n{token.library_manufacturer}".lower()
    return next((name for part, name in names.items() if part in said), None)


def _is_opencryptoki_soft(token: TokenInfo) -> bool:
    """Whether it is opencryptoki's, which names its maker IBM everywhere: only the model tells the soft token."""
    return token.manufacturer.lower().startswith("ibm") and token.model.lower().startswith("soft")
