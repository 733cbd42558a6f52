"""What a key version can do: a pure function of its algorithm and protection level, with a refusal for the rest.

Source: Cloud KMS, "Key purposes and algorithms" and "Creating and validating digital signatures".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from privyseal_backends.interface import Mechanism

_SIZED = re.compile(
    r"RSA_(?:SIGN_RAW_PKCS1|SIGN_PKCS1|SIGN_PSS|DECRYPT_OAEP)_(?P<bits>2048|3072|4096)(?:_(?:SHA1|SHA256|SHA512))?"
)
_OURS: tuple[tuple[re.Pattern[str], Mechanism], ...] = (
    # A device of Capgo reads exactly 256 bytes, so a raw key of another size has no use here.
    (re.compile(r"RSA_SIGN_RAW_PKCS1_2048"), Mechanism.TYPE1),
    (re.compile(r"RSA_SIGN_PKCS1_\d{4}_SHA256"), Mechanism.PKCS1_V1_5_SHA256),
    (re.compile(r"RSA_SIGN_PSS_\d{4}_SHA256"), Mechanism.PSS_SHA256),
    (re.compile(r"RSA_DECRYPT_OAEP_\d{4}_SHA256"), Mechanism.OAEP_SHA256),
    (re.compile(r"RSA_DECRYPT_OAEP_\d{4}_SHA1"), Mechanism.OAEP_SHA1),
)
_WANTED: Mapping[Mechanism, str] = MappingProxyType(
    {
        Mechanism.TYPE1: "RSA_SIGN_RAW_PKCS1_2048 (to make and use it, roles/cloudkms.expertRawPKCS1 is needed)",
        Mechanism.PKCS1_V1_5_SHA256: "RSA_SIGN_PKCS1_2048_SHA256, or 3072 or 4096",
        Mechanism.PSS_SHA256: "RSA_SIGN_PSS_2048_SHA256, or 3072 or 4096",
        Mechanism.OAEP_SHA256: "RSA_DECRYPT_OAEP_2048_SHA256, or 3072 or 4096",
        Mechanism.OAEP_SHA1: "RSA_DECRYPT_OAEP_2048_SHA1, or 3072 or 4096",
    }
)
_EXTERNAL = frozenset({"EXTERNAL", "EXTERNAL_VPC"})


@dataclass(frozen=True)
class Capability:
    """`bits` is the modulus that the algorithm's name promises, None where it is no RSA algorithm; the rest is as in
    `KeyDescription`."""

    bits: int | None
    mechanisms: frozenset[Mechanism]
    refusals: Mapping[Mechanism, str]


def _reason(algorithm: str, mechanism: Mechanism) -> str:
    if mechanism is Mechanism.TYPE1 and algorithm.startswith("RSA_SIGN_RAW_PKCS1"):
        return "Capgo's devices accept only RSA-2048"
    if algorithm.startswith("RSA_SIGN_RAW_PKCS1"):
        return "a raw key is for Capgo's type-1 blocks, and one key serves one purpose"
    if algorithm.endswith("_SHA512"):
        return "the algorithm is bound to SHA-512"
    if mechanism is Mechanism.TYPE1 and algorithm.startswith("RSA_SIGN_PKCS1"):
        return "the algorithm always adds a DigestInfo"
    return "a key version of Cloud KMS has one algorithm"


def _refusal(algorithm: str, mechanism: Mechanism) -> str:
    reason = _reason(algorithm, mechanism)
    return (
        f"this key version is {algorithm} and does not make {mechanism.value}: {reason}; "
        f"use a key version of {_WANTED[mechanism]}"
    )


def capability(algorithm: str, protection_level: str) -> Capability:
    """What a key version of `algorithm` at `protection_level` (names as in Google's API) can do."""
    size = _SIZED.fullmatch(algorithm)
    have = {mechanism for pattern, mechanism in _OURS if pattern.fullmatch(algorithm)}
    external = protection_level in _EXTERNAL
    refusals = {
        mechanism: (
            f"this key version is kept by an external key manager, which takes neither a digest nor a raw block, so it "
            f"does not make {mechanism.value}; use a key version of protection level HSM, of {_WANTED[mechanism]}"
            if external
            else _refusal(algorithm, mechanism)
        )
        for mechanism in Mechanism
        if external or mechanism not in have
    }
    return Capability(
        int(size["bits"]) if size else None,
        frozenset() if external else frozenset(have),
        MappingProxyType(refusals),
    )
