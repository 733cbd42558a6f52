"""What a key can do: a pure function of the token's mechanisms, the key's attributes and its size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pkcs11
from pkcs11.constants import MechanismFlag
from pkcs11.exceptions import MechanismInvalid

from privyseal_backends.interface import PURPOSES, Mechanism, Purpose
from privyseal_backends.pkcs11.mechanisms import TOKEN_MECHANISMS, mechanism_name
from privyseal_backends.pkcs11.objects import KeyAttributes
from privyseal_backends.pkcs11.token import TokenInfo

_SIZES = (2048, 3072, 4096)
_TYPE1_SIZE = 2048
_EXPONENT = 65537

_INSTEAD: Mapping[Mechanism, str] = {
    Mechanism.TYPE1: "Capgo needs a token with CKM_RSA_PKCS for signing, SoftHSM or AWS CloudHSM among them",
    Mechanism.PKCS1_V1_5_SHA256: "use RSASSA-PSS where the verifier takes it",
    Mechanism.PSS_SHA256: "use RSASSA-PKCS1-v1_5",
    Mechanism.OAEP_SHA256: "use rsaes-oaep-sha1 where both sides agree to it, or another token",
    Mechanism.OAEP_SHA1: "use rsaes-oaep-sha256",
}
"""What would work where the token itself lacks a mechanism."""


@dataclass(frozen=True)
class MechanismInfo:
    """What C_GetMechanismInfo said of a mechanism: sizes in bits (0 where it does not say) and whether the token signs
    and decrypts with it."""

    smallest: int
    largest: int
    signs: bool
    decrypts: bool


@dataclass(frozen=True)
class KeyFacts:
    """All that decides what a key can do. `mechanisms` is by CKM number; `oaep_failures` has what the token answered
    where it was tried in vain. `adds_digest_info` is whether it puts a DigestInfo of its own before what it pads."""

    attributes: KeyAttributes
    modulus_bits: int
    public_exponent: int
    mechanisms: Mapping[int, MechanismInfo]
    oaep_failures: Mapping[Mechanism, str]
    adds_digest_info: bool = False


def adds_digest_info(token: TokenInfo) -> bool:
    """Whether the token takes whatever is as long as a digest for one, CKM_RSA_PKCS or not: a YubiHSM 2 is told the
    bytes alone, and puts a DigestInfo before 20, 32, 48 and 64 of them (docs/pkcs11-modules.md)."""
    said = (token.model, token.slot_description, token.library_description)
    return any("yubihsm" in each.lower() for each in said)


def assess(facts: KeyFacts) -> tuple[frozenset[Mechanism], dict[Mechanism, str]]:
    """The mechanisms that the key has, and for each other one a sentence: why not, and what would work."""
    refusals = {mechanism: reason for mechanism in Mechanism if (reason := _refusal(mechanism, facts)) is not None}
    return frozenset(Mechanism) - refusals.keys(), refusals


def may_decrypt(attributes: KeyAttributes) -> bool:
    """Whether the key was made only for decryption: CKA_DECRYPT and not CKA_SIGN. CKA_SIGN_RECOVER does not count:
    tokens set it by default (SoftHSM does), and nothing here uses it."""
    return attributes.decrypt is True and attributes.sign is False


def _refusal(mechanism: Mechanism, facts: KeyFacts) -> str | None:
    for rule in (_size, _purpose, _token, _allowed):
        reason = rule(mechanism, facts)
        if reason is not None:
            return reason
    if mechanism in facts.oaep_failures:
        return (
            f"the token answered {facts.oaep_failures[mechanism]} to a trial of {mechanism.value};"
            f" {_INSTEAD[mechanism]}"
        )
    return None


def _size(mechanism: Mechanism, facts: KeyFacts) -> str | None:
    bits = facts.modulus_bits
    if mechanism is Mechanism.TYPE1 and bits != _TYPE1_SIZE:
        return f"Capgo's devices read exactly 256 bytes and the key is RSA-{bits}; use a key of {_TYPE1_SIZE} bits"
    if bits not in _SIZES:
        return f"the key is RSA-{bits}; use a key of {', '.join(map(str, _SIZES[:-1]))} or {_SIZES[-1]} bits"
    if facts.public_exponent < _EXPONENT:
        return f"the key's public exponent is {facts.public_exponent}; use a key with {_EXPONENT}"
    return None


def _purpose(mechanism: Mechanism, facts: KeyFacts) -> str | None:
    attributes = facts.attributes
    if PURPOSES[mechanism] is not Purpose.DECRYPTION:
        if attributes.sign is not True:
            return "the key may not sign (CKA_SIGN is not true); use a key made for signing"
        return None
    if attributes.decrypt is not True:
        return "the key may not decrypt (CKA_DECRYPT is not true); use a key made only for decryption"
    if not may_decrypt(attributes):
        return (
            "the key may sign too (CKA_SIGN), and the decryption of chosen bytes would be a signature;"
            " use a key made only for decryption"
        )
    return None


def _token(mechanism: Mechanism, facts: KeyFacts) -> str | None:
    if mechanism is Mechanism.TYPE1 and facts.adds_digest_info:
        return f"the token is a YubiHSM, which puts a DigestInfo before a checksum by itself; {_INSTEAD[mechanism]}"
    number = TOKEN_MECHANISMS[mechanism].mechanism
    name, info = mechanism_name(number), facts.mechanisms.get(number)
    if info is None:
        return f"the token has no {name}; {_INSTEAD[mechanism]}"
    decrypts = PURPOSES[mechanism] is Purpose.DECRYPTION
    if not (info.decrypts if decrypts else info.signs):
        return f"the token does not {'decrypt' if decrypts else 'sign'} with {name}; {_INSTEAD[mechanism]}"
    if not (info.smallest <= facts.modulus_bits and (facts.modulus_bits <= info.largest or not info.largest)):
        return (
            f"the token takes keys of {info.smallest} to {info.largest} bits for {name} and the key has"
            f" {facts.modulus_bits}; use a key of another size"
        )
    return None


def _allowed(mechanism: Mechanism, facts: KeyFacts) -> str | None:
    allowed = facts.attributes.allowed_mechanisms
    number = TOKEN_MECHANISMS[mechanism].mechanism
    if not allowed or number in allowed:
        return None
    names = ", ".join(map(mechanism_name, allowed))
    return f"the key's CKA_ALLOWED_MECHANISMS has {names} and not {mechanism_name(number)}; use another key"


def read_mechanisms(slot: pkcs11.Slot) -> dict[int, MechanismInfo]:
    """Ask the token for the mechanisms that matter here. What is not in its list counts as not there."""
    listed = slot.get_mechanisms()
    found: dict[int, MechanismInfo] = {}
    for number in {each.mechanism for each in TOKEN_MECHANISMS.values()} & listed:
        try:
            info = slot.get_mechanism_info(number)
        except MechanismInvalid:
            continue
        found[number] = MechanismInfo(
            smallest=info.min_key_length or 0,
            largest=info.max_key_length or 0,
            signs=bool(info.flags & MechanismFlag.SIGN),
            decrypts=bool(info.flags & MechanismFlag.DECRYPT),
        )
    return found
