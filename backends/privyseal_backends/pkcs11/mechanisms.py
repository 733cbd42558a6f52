"""The interface's mechanisms in PKCS#11's terms: numbers, parameters, and the bytes that go in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pkcs11
from pkcs11.mechanisms import MGF

from privyseal_backends.interface import Mechanism

_DIGEST_INFO_SHA256 = bytes.fromhex("3031300d060960864801650304020105000420")
"""What precedes a SHA-256 digest in an RSASSA-PKCS1-v1_5 block (RFC 8017, 9.2, note 1)."""


@dataclass(frozen=True)
class TokenMechanism:
    """How a token is asked for a mechanism: CKM_*, its parameter, and what stands before the data."""

    mechanism: pkcs11.Mechanism
    parameter: Any = None
    prefix: bytes = b""


TOKEN_MECHANISMS: Mapping[Mechanism, TokenMechanism] = MappingProxyType(
    {
        Mechanism.TYPE1: TokenMechanism(pkcs11.Mechanism.RSA_PKCS),
        Mechanism.PKCS1_V1_5_SHA256: TokenMechanism(pkcs11.Mechanism.RSA_PKCS, prefix=_DIGEST_INFO_SHA256),
        Mechanism.PSS_SHA256: TokenMechanism(pkcs11.Mechanism.RSA_PKCS_PSS, (pkcs11.Mechanism.SHA256, MGF.SHA256, 32)),
        Mechanism.OAEP_SHA256: TokenMechanism(
            pkcs11.Mechanism.RSA_PKCS_OAEP, (pkcs11.Mechanism.SHA256, MGF.SHA256, None)
        ),
        Mechanism.OAEP_SHA1: TokenMechanism(pkcs11.Mechanism.RSA_PKCS_OAEP, (pkcs11.Mechanism.SHA_1, MGF.SHA1, None)),
    }
)
"""CKM_RSA_PKCS pads whatever it is given to a type-1 block and adds no DigestInfo (PKCS#11 current mechanisms 2.40,
2.1.6), so it makes both of the PKCS#1 v1.5 mechanisms."""


def mechanism_name(number: int) -> str:
    """`CKM_RSA_PKCS` for 1; a number that python-pkcs11 does not know as `CKM 0x…`."""
    try:
        return f"CKM_{pkcs11.Mechanism(number).name}"
    except ValueError:
        return f"CKM 0x{number:08x}"
