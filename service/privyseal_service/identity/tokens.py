"""Who calls, from a bearer token: every check between the authorization header and a caller's name. No I/O.

A token's signature is verified once. Each call checks its times and that its key is still one of the issuer's. Only a
token's SHA-256 and what it proves are kept; no reason of a refusal contains text of the token.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jwt
from jwt.exceptions import (
    InvalidAudienceError,
    InvalidIssuerError,
    InvalidSignatureError,
    PyJWTError,
)

from privyseal_service.config.issuers import IssuerConfig
from privyseal_service.domain.caller import Caller, IdentityError, Peer, Proof
from privyseal_service.domain.names import CallerNameError, oidc_name
from privyseal_service.identity.jwks import KeySet, VerifyingKey

MAX_TOKEN_CHARACTERS = 8192

# RFC 6750, 2.1, and RFC 7515, 3.1: three parts of base64url.
_BEARER = re.compile(r"[Bb]earer +([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+)")
_MAX_CLAIM_CHARACTERS = 512
_UNVERIFIED: Any = {"verify_signature": False}
# `identify` checks the times in each call, by one clock.
_CHECKS: Any = {
    "require": ["exp", "iat", "sub"],
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_jti": False,
}


class Keys(Protocol):
    """The current keys of an issuer."""

    @property
    def now(self) -> KeySet:
        """The keys that are valid now; none when they are too old."""

    def miss(self) -> None:
        """Fetch new keys soon: a token names an unknown one. Does not block."""


@dataclass(frozen=True)
class Issuer:
    """An issuer, and the source of its keys."""

    config: IssuerConfig
    keys: Keys


@dataclass(frozen=True, slots=True)
class _Proven:
    """What a token proves, from when until when (seconds since 1970), and by which key of which issuer."""

    caller: Caller
    issuer: Issuer
    kid: str
    key_fingerprint: str
    from_s: float
    until_s: float
    too_old_s: float


class TokenIdentifier:
    """Identifies the callers of a listener by their tokens."""

    _MAX_CACHED = 512

    def __init__(self, issuers: Sequence[Issuer], *, clock: Callable[[], float] = time.time) -> None:
        self._issuers = {issuer.config.issuer: issuer for issuer in issuers}
        self._clock = clock
        self._known: dict[bytes, _Proven] = {}

    def identify(self, peer: Peer) -> Caller:
        """Return the caller that the peer's token proves. Raises IdentityError."""
        token = _bearer(peer.authorization)
        digest = hashlib.sha256(token.encode()).digest()
        proven = self._known.get(digest)
        if proven is None or not _key_counts(proven):
            proven = self._verify(token)
            if len(self._known) >= self._MAX_CACHED:
                self._known.clear()
            self._known[digest] = proven
        now_s = self._clock()
        if now_s >= proven.until_s:
            raise IdentityError("the token has expired", proven.caller.proof)
        if now_s > proven.too_old_s:
            raise IdentityError("the token was issued too long ago", proven.caller.proof)
        if now_s < proven.from_s:
            raise IdentityError("the token is not valid yet", proven.caller.proof)
        return proven.caller

    def _verify(self, token: str) -> _Proven:
        try:
            decoded = jwt.decode_complete(token, options=_UNVERIFIED)
        except (PyJWTError, ValueError, RecursionError):
            raise IdentityError("the token cannot be parsed") from None
        header, claims = decoded["header"], decoded["payload"]
        name = claims.get("iss")
        issuer = self._issuers.get(name) if isinstance(name, str) else None
        if issuer is None:
            raise IdentityError("the token is of none of the issuers that are configured")
        kid, key = _key(issuer, header)
        return _prove(issuer, kid, key, _checked(issuer.config, key, header["alg"], token))


def _bearer(values: Sequence[str]) -> str:
    """Return the one token of the authorization headers. Raises IdentityError."""
    if not values:
        raise IdentityError("the call has no authorization header")
    if len(values) > 1:
        raise IdentityError("the call has more than one authorization header")
    if len(values[0]) > MAX_TOKEN_CHARACTERS:
        raise IdentityError(f"the authorization header has more than {MAX_TOKEN_CHARACTERS} characters")
    match = _BEARER.fullmatch(values[0])
    if match is None:
        raise IdentityError("the authorization header is not Bearer and a signed token (JWS, compact form)")
    return match[1]


def _key(issuer: Issuer, header: Mapping[str, Any]) -> tuple[str, VerifyingKey]:
    """Return the key that the token's header names, and its kid. Raises IdentityError."""
    algorithm, kid = header.get("alg"), header.get("kid")
    if algorithm not in issuer.config.algorithms:
        raise IdentityError(f"the token is not signed with {' or '.join(issuer.config.algorithms)}, as is configured")
    if "crit" in header or "b64" in header:
        raise IdentityError("the token's header has extensions that are not understood")
    if not isinstance(kid, str):
        raise IdentityError("the token's header has no kid")
    keys = issuer.keys.now.keys
    if kid not in keys:
        issuer.keys.miss()
        why = "its kid is none of the issuer's keys" if keys else "none of the issuer's keys are known now"
        raise IdentityError(f"the token cannot be verified: {why}; they are looked for again in the background")
    if algorithm not in keys[kid].algorithms:
        raise IdentityError("the token's key is not for the algorithm that its header names")
    return kid, keys[kid]


def _checked(config: IssuerConfig, key: VerifyingKey, algorithm: str, token: str) -> Mapping[str, Any]:
    """Verify the token's signature, issuer and audience; return its claims. Raises IdentityError."""
    try:
        return jwt.decode(
            token,
            key.public_key,
            algorithms=[algorithm],
            options=_CHECKS,
            audience=config.audiences,
            issuer=config.issuer,
        )
    except InvalidSignatureError:
        why = "its signature is not the key's"
    except InvalidAudienceError:
        why = "it is for another audience"
    except InvalidIssuerError:
        why = "it is another issuer's"
    except (PyJWTError, ValueError, TypeError) as error:
        why = f"it is not well formed ({type(error).__name__})"
    raise IdentityError(f"the token cannot be verified: {why}")


def _prove(issuer: Issuer, kid: str, key: VerifyingKey, claims: Mapping[str, Any]) -> _Proven:
    config = issuer.config
    subject = claims["sub"]
    try:
        name = oidc_name(config.issuer, subject if isinstance(subject, str) else "")
    except CallerNameError as error:
        raise IdentityError(str(error)) from None
    kept = tuple((claim, value) for claim in config.claims if (value := claim_text(claims.get(claim))) is not None)
    proof = Proof("oidc", {"issuer": config.issuer, "subject": subject, **dict(kept)})
    for claim, patterns in config.required().items():
        value = claim_text(claims.get(claim))
        if value is None or not any(pattern.matches(value) for pattern in patterns):
            raise IdentityError(f"the token's claim {claim} is not there, or not as the configuration demands", proof)
    issued_s = _time(claims, "iat", proof)
    from_s = max(issued_s, _time(claims, "nbf", proof) if "nbf" in claims else issued_s)
    skew_s = config.clock_skew_s
    return _Proven(
        Caller(name, proof, kept),
        issuer,
        kid,
        key.fingerprint,
        from_s - skew_s,
        _time(claims, "exp", proof) + skew_s,
        issued_s + config.max_age_s + skew_s,
    )


def claim_text(value: object) -> str | None:
    """Return a claim as text: a printable string unchanged, a number in decimal, true or false. Anything else is None,
    which no grant can demand."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() if abs(value) < 1 << 64:
            return str(value)
        case str() if len(value) <= _MAX_CLAIM_CHARACTERS and value.isprintable():
            return value
        case _:
            return None


def _time(claims: Mapping[str, Any], name: str, proof: Proof) -> float:
    """Return a time of a token (RFC 7519, 2: NumericDate), in seconds since 1970. Raises IdentityError."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e11:
        raise IdentityError(f"the token's {name} is no time", proof)
    return float(value)


def _key_counts(proven: _Proven) -> bool:
    key = proven.issuer.keys.now.keys.get(proven.kid)
    return key is not None and key.fingerprint == proven.key_fingerprint
