"""Check what the service answered against the key's public key, before anybody relies on it."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256

from privyseal import capgo
from privyseal.errors import Code, NotVerifiedError, UnavailableError
from privyseal.model import Key, SignatureScheme

_REMEDY = "nothing of it was used; report it to whoever runs the service"


def public_key_of(key: Key) -> RSAPublicKey:
    """The public key as the service shows it. Raises UnavailableError when the service has not opened the key yet, and
    NotVerifiedError when the forms that it shows are not of one key."""
    if key.public_key is None:
        raise UnavailableError(
            f"the service has not opened the key {key.name} yet, so its answers cannot be checked",
            code=Code.UNAVAILABLE,
            remedy="try again when its key store can be reached",
        )
    shown = key.public_key
    public_key = capgo.load_public_key(shown.spki_pem)
    if shown.pkcs1_pem != capgo.pkcs1_pem(public_key) or shown.fingerprint != capgo.fingerprint(public_key):
        raise NotVerifiedError(f"the service shows different public keys for {key.name}", remedy=_REMEDY)
    return public_key


def check_wrapped_key(public_key: RSAPublicKey, wrapped_key: bytes, session_key: bytes) -> None:
    """Raise NotVerifiedError unless `wrapped_key` gives back `session_key`, as a device of Capgo recovers it."""
    if capgo.recover(public_key, wrapped_key) != session_key:
        raise NotVerifiedError("the service returned a wrapped key that does not verify", remedy=_REMEDY)


def check_signature(public_key: RSAPublicKey, scheme: SignatureScheme, checksum: bytes, signature: bytes) -> None:
    """Raise NotVerifiedError unless `signature` is one of `checksum`, a SHA-256 of 32 bytes, by the key."""
    if not _verifies(public_key, scheme, checksum, signature):
        raise NotVerifiedError("the service returned a signature that does not verify", remedy=_REMEDY)


def _verifies(public_key: RSAPublicKey, scheme: SignatureScheme, checksum: bytes, signature: bytes) -> bool:
    if scheme in {SignatureScheme.CAPGO_V2, SignatureScheme.CAPGO_V3}:
        return capgo.recover(public_key, signature) == capgo.checksum_block(scheme, checksum)
    form = (
        padding.PSS(mgf=padding.MGF1(SHA256()), salt_length=32)
        if scheme is SignatureScheme.RSASSA_PSS_SHA256
        else padding.PKCS1v15()
    )
    try:
        public_key.verify(signature, checksum, form, Prehashed(SHA256()))
    except InvalidSignature:
        return False
    return True


def no_receipts() -> NotVerifiedError:
    """What it is when receipts are wanted of a service that keeps no audit trail."""
    return NotVerifiedError(
        "the service keeps no audit trail, so there are no receipts",
        remedy="leave --receipt out, or ask whoever runs it",
    )
