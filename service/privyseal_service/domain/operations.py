"""The typed operations: pure functions from (scheme, input) to the input of a key. No other input reaches a key.

The schemes are those of proto/privyseal/v1/signing.proto; their values here are the names that the configuration and
the command lines use.
"""

from __future__ import annotations

import base64
import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias

from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, HashAlgorithm

from privyseal_backends.interface import Mechanism, PublicKey, SigningInput

CHECKSUM_BYTES = 32
"""A checksum is a SHA-256."""


class WrapScheme(enum.Enum):
    """How a session key is wrapped."""

    __hash__ = object.__hash__  # as in `Mechanism`

    CAPGO = "capgo"
    RSAES_OAEP_SHA256 = "rsaes-oaep-sha256"
    RSAES_OAEP_SHA1 = "rsaes-oaep-sha1"


class SignatureScheme(enum.Enum):
    """How a checksum is signed."""

    __hash__ = object.__hash__  # as in `Mechanism`

    CAPGO_V2 = "capgo-v2"
    CAPGO_V3 = "capgo-v3"
    RSASSA_PKCS1_V1_5_SHA256 = "rsassa-pkcs1-v1_5-sha256"
    RSASSA_PSS_SHA256 = "rsassa-pss-sha256"


Scheme: TypeAlias = WrapScheme | SignatureScheme

MECHANISMS: Mapping[Scheme, Mechanism] = MappingProxyType(
    {
        WrapScheme.CAPGO: Mechanism.TYPE1,
        WrapScheme.RSAES_OAEP_SHA256: Mechanism.OAEP_SHA256,
        WrapScheme.RSAES_OAEP_SHA1: Mechanism.OAEP_SHA1,
        SignatureScheme.CAPGO_V2: Mechanism.TYPE1,
        SignatureScheme.CAPGO_V3: Mechanism.TYPE1,
        SignatureScheme.RSASSA_PKCS1_V1_5_SHA256: Mechanism.PKCS1_V1_5_SHA256,
        SignatureScheme.RSASSA_PSS_SHA256: Mechanism.PSS_SHA256,
    }
)
"""The mechanism of a private key that each scheme needs."""

MODULUS_BITS: Mapping[Mechanism, frozenset[int]] = MappingProxyType(
    {
        Mechanism.TYPE1: frozenset({2048}),  # devices of Capgo read exactly 256 bytes
        Mechanism.PKCS1_V1_5_SHA256: frozenset({2048, 3072, 4096}),
        Mechanism.PSS_SHA256: frozenset({2048, 3072, 4096}),
        Mechanism.OAEP_SHA256: frozenset({2048, 3072, 4096}),
        Mechanism.OAEP_SHA1: frozenset({2048, 3072, 4096}),
    }
)
"""The key sizes that the service allows for each mechanism."""

_SESSION_KEY_BYTES: Mapping[WrapScheme, tuple[int, ...]] = MappingProxyType(
    {
        WrapScheme.CAPGO: (16,),
        WrapScheme.RSAES_OAEP_SHA256: (16, 24, 32),
        WrapScheme.RSAES_OAEP_SHA1: (16, 24, 32),
    }
)

_OAEP_HASHES: Mapping[WrapScheme, type[HashAlgorithm]] = MappingProxyType(
    {WrapScheme.RSAES_OAEP_SHA256: SHA256, WrapScheme.RSAES_OAEP_SHA1: SHA1}
)


class InputError(ValueError):
    """An invalid input. `field` is its name in the request; the text states what is required."""

    def __init__(self, field: str, wanted: str) -> None:
        super().__init__(wanted)
        self.field = field


def check_session_key(scheme: WrapScheme, session_key: bytes) -> None:
    """Raise InputError unless the session key has a length that the scheme wraps."""
    lengths = _SESSION_KEY_BYTES[scheme]
    if len(session_key) not in lengths:
        wanted = " or ".join(map(str, lengths))
        raise InputError("session_key", f"must be {wanted} bytes for {scheme.value}, not {len(session_key)}")


def session_key_to_sign(session_key: bytes) -> SigningInput:
    """Return the input that wraps a session key for Capgo: a type-1 block over its 16 bytes. Raises InputError for any
    other length."""
    check_session_key(WrapScheme.CAPGO, session_key)
    return SigningInput(Mechanism.TYPE1, session_key)


def encrypt_session_key(scheme: WrapScheme, session_key: bytes, public_key: PublicKey) -> bytes:
    """Wrap a session key of 16, 24 or 32 bytes with RSAES-OAEP (RFC 8017, 7.1.1, empty label). It needs only the public
    key, so the key store is not called. The result is as long as the modulus. Raises InputError for another length."""
    check_session_key(scheme, session_key)
    hash_type = _OAEP_HASHES[scheme]
    oaep = padding.OAEP(mgf=padding.MGF1(hash_type()), algorithm=hash_type(), label=None)
    return public_key.key.encrypt(session_key, oaep)


def check_unwrapped(scheme: WrapScheme, session_key: bytes) -> bool:
    """Return whether a decrypted value has the length of a session key of the scheme."""
    return len(session_key) in _SESSION_KEY_BYTES[scheme]


def checksum_to_sign(scheme: SignatureScheme, checksum: bytes) -> SigningInput:
    """Return the input that signs a checksum (32 bytes, a SHA-256). It is a type-1 block for Capgo: for V3 over the 32
    bytes, for V2 over the 48 bytes that base64-decoding of its 64 hex characters gives. For RSASSA it is the digest.
    Raises InputError for any other length."""
    if len(checksum) != CHECKSUM_BYTES:
        raise InputError("checksum", f"must be the {CHECKSUM_BYTES} bytes of a SHA-256, not {len(checksum)}")
    if scheme is SignatureScheme.CAPGO_V2:
        return SigningInput(Mechanism.TYPE1, base64.b64decode(checksum.hex()))
    return SigningInput(MECHANISMS[scheme], checksum)
