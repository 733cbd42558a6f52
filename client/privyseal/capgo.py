"""Capgo's sealed bundle as pure functions: how its fields are written, read, and checked with a public key.

A sealed bundle is the zip under AES-128-CBC with PKCS#7 padding, an `ivSessionKey`, `base64(iv):base64(wrapped key)`,
and a `checksum`, the signed SHA-256 of the plain zip. The wrapped key and the signature are PKCS#1 v1.5 type-1 blocks
made with an RSA-2048 private key (RFC 8017, 9.2 step 5, without DigestInfo): the public key recovers what is in them.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from privyseal.errors import InputError, NotVerifiedError
from privyseal.model import SignatureScheme

IV_BYTES = 16
SESSION_KEY_BYTES = 16
CHECKSUM_BYTES = 32
MODULUS_BYTES = 256
"""Devices accept only RSA-2048."""

KEY_ID_CHARACTERS = 20

_HEX = re.compile(r"[0-9A-Fa-f]*\Z")

_IV_SESSION_KEY_REMEDY = "pass the ivSessionKey that `bundle encrypt` printed, IV_BASE64:SESSION_KEY_BASE64, whole"
_CHECKSUM_REMEDY = "pass the checksum that `bundle encrypt` printed, 512 hex characters (V3) or 344 of base64 (V2)"


@dataclass(frozen=True)
class IvSessionKey:
    """The two halves of an `ivSessionKey`: the IV, 16 bytes, and the wrapped session key, 256 bytes."""

    iv: bytes
    wrapped_key: bytes


def format_iv_session_key(value: IvSessionKey) -> str:
    """Write an `ivSessionKey`, 369 characters."""
    return f"{base64.b64encode(value.iv).decode()}:{base64.b64encode(value.wrapped_key).decode()}"


def parse_iv_session_key(text: str) -> IvSessionKey:
    """Read an `ivSessionKey`. Raises InputError for anything that `bundle encrypt` would not have written."""
    halves = text.strip().split(":")
    if len(halves) != 2:
        raise InputError("IV_SESSION_KEY is not two parts with a colon between them", remedy=_IV_SESSION_KEY_REMEDY)
    iv, wrapped_key = (_decode_base64(half) for half in halves)
    if iv is None or wrapped_key is None:
        part = "first" if iv is None else "second"
        raise InputError(f"the {part} part of IV_SESSION_KEY is not base64", remedy=_IV_SESSION_KEY_REMEDY)
    for name, part_bytes, wanted in (("first", iv, IV_BYTES), ("second", wrapped_key, MODULUS_BYTES)):
        if len(part_bytes) != wanted:
            raise InputError(
                f"the {name} part of IV_SESSION_KEY holds {len(part_bytes)} bytes, not {wanted}",
                remedy=_IV_SESSION_KEY_REMEDY,
            )
    return IvSessionKey(iv, wrapped_key)


def _decode_base64(text: str) -> bytes | None:
    """The bytes of canonical base64, else None: a second spelling of the same bytes would be a changed byte that
    nobody notices."""
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return decoded if base64.b64encode(decoded).decode() == text else None


def checksum_block(scheme: SignatureScheme, checksum: bytes) -> bytes:
    """What the type-1 block of a signed checksum holds, from the 32 bytes of the SHA-256: those 32 bytes for V3, and
    for V2 the 48 bytes that base64-decoding their 64 hex characters gives, a quirk that devices rely on."""
    if len(checksum) != CHECKSUM_BYTES:
        raise ValueError(f"a checksum has {CHECKSUM_BYTES} bytes, not {len(checksum)}")
    if scheme is SignatureScheme.CAPGO_V3:
        return checksum
    if scheme is SignatureScheme.CAPGO_V2:
        return base64.b64decode(checksum.hex())
    raise ValueError(f"{scheme.value} is not a scheme of Capgo")


def format_checksum(scheme: SignatureScheme, signature: bytes) -> str:
    """Write the `checksum` field: lower-case hex for V3, base64 for V2."""
    if scheme is SignatureScheme.CAPGO_V3:
        return signature.hex()
    if scheme is SignatureScheme.CAPGO_V2:
        return base64.b64encode(signature).decode()
    raise ValueError(f"{scheme.value} is not a scheme of Capgo")


def parse_checksum(text: str) -> tuple[SignatureScheme, bytes]:
    """Read a `checksum` field: which format it is, and its signature, 256 bytes. The length tells V3 (512 hex
    characters) from V2 (344 of base64). Raises InputError for anything else."""
    text = text.strip()
    if len(text) == 2 * MODULUS_BYTES and _HEX.match(text):
        return SignatureScheme.CAPGO_V3, bytes.fromhex(text)
    signature = _decode_base64(text)
    if signature is not None and len(signature) == MODULUS_BYTES:
        return SignatureScheme.CAPGO_V2, signature
    if len(text) == 2 * CHECKSUM_BYTES and _HEX.match(text):
        raise InputError("the checksum is a plain SHA-256, not a signed one", remedy=_CHECKSUM_REMEDY)
    raise InputError("the checksum is neither a V3 nor a V2 one", remedy=_CHECKSUM_REMEDY)


def parse_plain_checksum(text: str, name: str = "CHECKSUM") -> bytes:
    """Read a SHA-256 written as 64 hex characters. Raises InputError."""
    text = text.strip()
    if len(text) != 2 * CHECKSUM_BYTES or not _HEX.match(text):
        raise InputError(f"{name} is not a SHA-256", remedy="pass its 64 hex characters")
    return bytes.fromhex(text)


def recover(public_key: RSAPublicKey, block: bytes) -> bytes | None:
    """What is in a type-1 block, or None when the block was not made with the private key of `public_key`."""
    try:
        return public_key.recover_data_from_signature(block, PKCS1v15(), None)
    except InvalidSignature:
        return None


def recover_session_key(public_key: RSAPublicKey, wrapped_key: bytes) -> bytes:
    """The session key, 16 bytes, that a device recovers. Raises NotVerifiedError."""
    session_key = recover(public_key, wrapped_key)
    if session_key is None or len(session_key) != SESSION_KEY_BYTES:
        raise NotVerifiedError(
            "the session key was not wrapped by the owner of this public key",
            remedy="check that IV_SESSION_KEY and the public key belong together",
        )
    return session_key


def recover_checksum(public_key: RSAPublicKey, scheme: SignatureScheme, signature: bytes) -> bytes:
    """The SHA-256, 32 bytes, that a device recovers from a signed checksum. Raises NotVerifiedError."""
    block = recover(public_key, signature)
    if block is not None:
        checksum = _from_block(scheme, block)
        if checksum is not None:
            return checksum
    raise NotVerifiedError(
        "the checksum was not signed by the owner of this public key",
        remedy="check that the checksum and the public key belong together",
    )


def _from_block(scheme: SignatureScheme, block: bytes) -> bytes | None:
    if scheme is SignatureScheme.CAPGO_V3:
        return block if len(block) == CHECKSUM_BYTES else None
    text = base64.b64encode(block).decode()
    if len(text) != 2 * CHECKSUM_BYTES or not re.fullmatch("[0-9a-f]+", text):
        return None
    return bytes.fromhex(text)


def load_public_key(pem: str | bytes) -> RSAPublicKey:
    """An RSA public key from PEM: PKCS#1 (`BEGIN RSA PUBLIC KEY`) or SPKI (`BEGIN PUBLIC KEY`). Raises InputError."""
    data = pem.encode() if isinstance(pem, str) else pem
    if b"PRIVATE KEY-----" in data:
        raise InputError("this is a private key", remedy="pass only the public key, and keep the private key secret")
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise InputError(
            "this is not a public key in PEM", remedy="get one with `privyseal key show NAME --format pkcs1`"
        ) from None
    if not isinstance(key, RSAPublicKey):
        raise InputError("this is not an RSA public key", remedy="Capgo's keys are RSA-2048")
    return key


def check_capgo_key(public_key: RSAPublicKey) -> None:
    """Raise InputError unless devices can use the key: they accept only RSA-2048."""
    if public_key.key_size != 8 * MODULUS_BYTES:
        raise InputError(
            f"the public key is RSA-{public_key.key_size}", remedy="devices of Capgo accept only RSA-2048 keys"
        )


def pkcs1_pem(public_key: RSAPublicKey) -> str:
    """RSAPublicKey (RFC 8017, A.1.1) in PEM, ending in a newline: what Capgo's configuration wants."""
    return public_key.public_bytes(Encoding.PEM, PublicFormat.PKCS1).decode()


def spki_pem(public_key: RSAPublicKey) -> str:
    """SubjectPublicKeyInfo (RFC 5280) in PEM, ending in a newline."""
    return public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def fingerprint(public_key: RSAPublicKey) -> str:
    """Lower-case hex SHA-256 of the SPKI DER."""
    return sha256(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def key_id(public_key: RSAPublicKey) -> str:
    """Capgo's `key_id`: the first 20 characters of the base64 body of the PKCS#1 PEM."""
    return "".join(pkcs1_pem(public_key).splitlines()[1:-1])[:KEY_ID_CHARACTERS]
