"""An issuer's public keys, from its JWK set (RFC 7517): which may verify tokens, and which are skipped. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt import PyJWK
from jwt.exceptions import PyJWTError

MAX_JWKS_BYTES = 256 * 1024
"""An issuer has a handful of keys of some 500 bytes each, or some thousand bytes each with their certificates."""

_MAX_KEYS = 64
_RSA_BITS = range(2048, 8193)
_CURVES: Mapping[str, type[ec.EllipticCurve]] = {
    "ES256": ec.SECP256R1,
    "ES384": ec.SECP384R1,
    "ES512": ec.SECP521R1,
}

PublicKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


class KeySetError(ValueError):
    """The text is not a JWK set, or has no key that could verify a token. The message continues a sentence about it."""


@dataclass(frozen=True)
class VerifyingKey:
    """A public key, the algorithms that it may verify, and the hex SHA-256 of its DER."""

    public_key: PublicKey = field(repr=False)
    algorithms: frozenset[str]
    fingerprint: str


@dataclass(frozen=True)
class KeySet:
    """An issuer's keys by their `kid`; `notes` name those that were skipped, and why."""

    keys: Mapping[str, VerifyingKey]
    notes: tuple[str, ...] = ()


NO_KEYS = KeySet({})


def parse_key_set(text: bytes, allowed: Sequence[str]) -> KeySet:
    """Return the keys of a JWK set for the allowed algorithms. Raises KeySetError."""
    if len(text) > MAX_JWKS_BYTES:
        raise KeySetError(f"is longer than {MAX_JWKS_BYTES} bytes")
    try:
        listed = json.loads(text)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise KeySetError('is no JWK set, {"keys": […]}') from None
    if not isinstance(listed, list) or len(listed) > _MAX_KEYS:
        raise KeySetError(f"does not have a list of at most {_MAX_KEYS} keys")
    keys: dict[str, VerifyingKey] = {}
    notes: list[str] = []
    for place, jwk in enumerate(listed):
        try:
            kid, key = _parse(jwk, allowed)
        except KeySetError as error:
            notes.append(f"key {place} is skipped: {error}")
            continue
        if kid in keys:
            raise KeySetError("has two keys of one kid")
        keys[kid] = key
    if not keys:
        raise KeySetError(f"has no key that could verify a token ({'; '.join(notes) or 'it is empty'})")
    return KeySet(keys, tuple(notes))


def _parse(jwk: object, allowed: Sequence[str]) -> tuple[str, VerifyingKey]:
    if not isinstance(jwk, dict):
        raise KeySetError("it is no object")
    kid = jwk.get("kid")
    if not isinstance(kid, str) or not 0 < len(kid) <= 256:
        raise KeySetError("it has no kid")
    operations = jwk.get("key_ops", ["verify"])
    if jwk.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        raise KeySetError("it is not for signatures")
    if "d" in jwk or "k" in jwk:
        raise KeySetError("it is a private or a shared key, which nobody should publish")
    public_key = _public_key(jwk)
    able = _algorithms(public_key) & frozenset(allowed)
    if "alg" in jwk:
        able &= {jwk["alg"]} if isinstance(jwk["alg"], str) else frozenset()
    if not able:
        raise KeySetError("it is for none of the algorithms that the configuration allows")
    der = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return kid, VerifyingKey(public_key, able, hashlib.sha256(der).hexdigest())


def _public_key(jwk: dict[str, Any]) -> PublicKey:
    kind = {"RSA": "RS256", "EC": None, "OKP": "EdDSA"}
    if not isinstance(jwk.get("kty"), str) or jwk["kty"] not in kind:
        raise KeySetError("it is neither RSA nor EC nor Ed25519")
    try:
        # Without `alg`, which `_parse` checks: the library accepts any value of it.
        key = PyJWK({name: value for name, value in jwk.items() if name != "alg"}, kind[jwk["kty"]]).key
    except (PyJWTError, ValueError, TypeError, AttributeError, KeyError):
        raise KeySetError("it cannot be parsed") from None
    if isinstance(key, rsa.RSAPublicKey) and key.key_size not in _RSA_BITS:
        raise KeySetError(f"it is RSA of {key.key_size} bits, and {_RSA_BITS[0]} to {_RSA_BITS[-1]} are taken")
    if not isinstance(key, (rsa.RSAPublicKey, ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey)):
        raise KeySetError("it is of no kind that is taken")
    return key


def _algorithms(key: PublicKey) -> frozenset[str]:
    """Return the algorithms that a key of this kind can verify (RFC 7518, 3.1; RFC 8037, 3.1): one hash a curve."""
    if isinstance(key, rsa.RSAPublicKey):
        return frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
    if isinstance(key, ed25519.Ed25519PublicKey):
        return frozenset({"EdDSA"})
    return frozenset(name for name, curve in _CURVES.items() if isinstance(key.curve, curve))
