"""Decides what a caller may do with a key."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from privyseal_service.domain import errors
from privyseal_service.domain.errors import Violation
from privyseal_service.domain.grants import Grant, Obstacle, allowing
from privyseal_service.domain.operation_names import GRANTABLE, Operation
from privyseal_service.domain.operations import (
    Scheme,
    SignatureScheme,
    WrapScheme,
)
from privyseal_service.domain.requests import SigningRequest
from privyseal_service.keys.served_key import ServedKey

_MOST_NAMED = 10
"""Keys that a refusal names at most: a name has up to 128 characters, and trailing metadata holds some 8 KiB."""


@dataclass(frozen=True, slots=True)
class VisibleKey:
    """A key as one caller may see it: with the schemes that the key is enrolled for and the caller is granted."""

    served: ServedKey
    schemes: frozenset[Scheme]


def name_list(names: Sequence[str]) -> str:
    """Return names of keys as text, as many as an answer has room for."""
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more, which ListKeys shows" if more > 0 else "")


def require_able(served: ServedKey, grants: Sequence[Grant], request: SigningRequest) -> None:
    """Raise ServiceError for a request that no grant could allow, since the key was not made or enrolled for it."""
    scheme = request.scheme
    unwrapping = request.operation is Operation.UNWRAP_SESSION_KEY
    if scheme in served.schemes and not (unwrapping and scheme is WrapScheme.CAPGO):
        return
    able = sorted(s.value for s in served.schemes if _fits(request.operation, s) and _allowed(grants, s))
    if unwrapping and scheme is WrapScheme.CAPGO:
        message = (
            "a session key that was wrapped for capgo is recovered with the public key, so no private key is needed"
        )
    elif unwrapping and not able:
        message = f"key {served.name!r} was not made for decryption"
    else:
        message = f"key {served.name!r} is not enrolled for {scheme.value}; use {' or '.join(able) or 'another key'}"
    raise errors.cannot(served.name, message, able)


def _fits(operation: Operation, scheme: Scheme) -> bool:
    if operation is Operation.UNWRAP_SESSION_KEY:
        return isinstance(scheme, WrapScheme) and scheme is not WrapScheme.CAPGO
    return isinstance(scheme, SignatureScheme if operation is Operation.SIGN_CHECKSUM else WrapScheme)


def _allowed(grants: Sequence[Grant], scheme: Scheme) -> bool:
    return any(_fits(op, scheme) and allowing(grants, op, scheme) for op in GRANTABLE)


def require_allowed(grants: Sequence[Grant], request: SigningRequest) -> list[Grant]:
    """Return the grants that allow the request, before their rates and quotas are counted: at least one. Raises
    ServiceError."""
    named = [grant for grant in grants if grant.allows(request.operation, request.scheme)]
    if not named:
        raise errors.permission_denied()
    if all(grant.plain for grant in named):
        return named
    now_s = time.time()
    obstacles = [grant.obstacle(request.context, now_s) for grant in named]
    fit = [grant for grant, obstacle in zip(named, obstacles, strict=True) if obstacle is None]
    if fit:
        return fit
    if Obstacle.CONTEXT not in obstacles:
        raise errors.outside_hours()
    wanted = named[obstacles.index(Obstacle.CONTEXT)].context
    missing = [name for name in wanted if not getattr(request.context, name)]
    raise errors.invalid([Violation(f"context.{name}", "must not be empty: the grant requires it") for name in missing])


def visible(served: ServedKey, grants: Sequence[Grant]) -> VisibleKey:
    """Return the key with the schemes that these grants allow."""
    return VisibleKey(served, frozenset(scheme for scheme in served.schemes if _allowed(grants, scheme)))
