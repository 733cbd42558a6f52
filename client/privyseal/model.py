"""The data of the SDK: schemes, what a request is for, and what the service answers."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from privyseal.transparency.receipts import Receipt


class WrapScheme(enum.Enum):
    """How a session key is wrapped; the value is the name that configuration and command lines use."""

    CAPGO = "capgo"
    """Capgo V2 and V3: a type-1 block over a session key of exactly 16 bytes."""
    RSAES_OAEP_SHA256 = "rsaes-oaep-sha256"
    """RSAES-OAEP with SHA-256; 16, 24 or 32 bytes."""
    RSAES_OAEP_SHA1 = "rsaes-oaep-sha1"
    """RSAES-OAEP with SHA-1, for tokens that have no other; 16, 24 or 32 bytes."""


class SignatureScheme(enum.Enum):
    """How a checksum is signed; the value is the name that configuration and command lines use."""

    CAPGO_V2 = "capgo-v2"
    """A type-1 block over the 48 bytes that base64-decoding the hex checksum gives."""
    CAPGO_V3 = "capgo-v3"
    """A type-1 block over the 32 bytes of the checksum."""
    RSASSA_PKCS1_V1_5_SHA256 = "rsassa-pkcs1-v1_5-sha256"
    """RSASSA-PKCS1-v1_5 with SHA-256 (RFC 8017, 8.2)."""
    RSASSA_PSS_SHA256 = "rsassa-pss-sha256"
    """RSASSA-PSS with SHA-256 and a salt of 32 bytes (RFC 8017, 8.1)."""


class BundleFormat(enum.Enum):
    """What `bundle encrypt` makes; AUTO is decided by the app's installed plugin."""

    AUTO = "auto"
    CAPGO_V2 = "capgo-v2"
    CAPGO_V3 = "capgo-v3"


@dataclass(frozen=True)
class RequestContext:
    """What a request is for: recorded by the service, not signed. Each: at most 512 characters, none a control one."""

    app_id: str = ""
    bundle_version: str = ""
    source_revision: str = ""
    build_url: str = ""


@dataclass(frozen=True)
class WrappedKey:
    """A wrapped session key: `wrapped_key` is as long as the RSA modulus, 256 bytes for RSA-2048.

    `audit` is the receipt of its record, still without proof; None where the service keeps no audit trail.
    """

    wrapped_key: bytes
    key_version: str
    request_id: str
    audit: Receipt | None = None


@dataclass(frozen=True)
class SessionKey:
    """An unwrapped session key, 16, 24 or 32 bytes: a secret, which stays out of the repr. `audit` as in WrappedKey."""

    session_key: bytes = field(repr=False)
    key_version: str
    request_id: str
    audit: Receipt | None = None


@dataclass(frozen=True)
class SignedChecksum:
    """A signature, as long as the RSA modulus. `audit` as in WrappedKey."""

    signature: bytes
    key_version: str
    request_id: str
    audit: Receipt | None = None


class KeyState(enum.Enum):
    """Whether a key can be used now."""

    UNKNOWN = "unknown"
    SERVING = "serving"
    UNAVAILABLE = "unavailable"
    BLOCKED = "blocked"
    FROZEN = "frozen"


@dataclass(frozen=True)
class PublicKey:
    """An RSA public key as the service shows it.

    `spki_pem` is SubjectPublicKeyInfo and `pkcs1_pem` RSAPublicKey, both PEM ending in a newline; `fingerprint` is the
    hex SHA-256 of the SPKI DER; `capgo_key_id` the first 20 characters of the base64 body of `pkcs1_pem`.
    """

    spki_pem: str
    pkcs1_pem: str
    fingerprint: str
    capgo_key_id: str
    modulus_bits: int


@dataclass(frozen=True)
class Finding:
    """One finding of custody (such as "hardware"), with its reasons, a sentence each."""

    value: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Evidence:
    """One answer of a key store about a key: what was asked, and the answer."""

    name: str
    value: str


@dataclass(frozen=True)
class Custody:
    """What is known of where a private key is, where it was made and whether it can leave, and the evidence for it."""

    protection: Finding
    origin: Finding
    export: Finding
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True)
class Key:
    """A key that the service can use for the caller. `public_key` and `custody` are None, and `key_version` empty,
    while the key has not been opened since the service started."""

    name: str
    key_version: str
    state: KeyState
    wrap_schemes: tuple[WrapScheme, ...]
    signature_schemes: tuple[SignatureScheme, ...]
    public_key: PublicKey | None
    custody: Custody | None
