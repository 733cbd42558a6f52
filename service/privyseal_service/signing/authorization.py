"""What a caller may do with a key."""

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
"""Keys that a refusal names: their names have 128 characters at most, and trailing metadata holds some 8 KiB."""


@dataclass(frozen=True, slots=True)
class VisibleKey:
    """A key as one caller may see it: with the schemes that the key is enrolled for and the caller is granted."""

    served: ServedKey
    schemes: frozenset[Scheme]


def name_list(names: Sequence[str]) -> str:
    """Names of keys, as many as an answer has room for."""
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more, which ListKeys shows" if more > 0 else "")


def require_able(served: ServedKey, grants: Sequence[Grant], request: SigningRequest) -> None:
    """Refuse what no grant could allow, since the key was not made or not enrolled for it."""
    scheme = request.scheme
    unwrapping = request.operation is Operation.UNWRAP_SESSION_KEY
    if scheme in served.schemes and not (unwrapping and scheme is WrapScheme.CAPGO):
        return
    able = sorted(s.value for s in served.schemes if _fits(request.operation, s) and _allowed(grants, s))
    if unwrapping and scheme is WrapScheme.CAPGO:
        said = "what is wrapped for capgo is opened with the public key, by anybody: there is nothing to ask a key for"
    elif unwrapping and not able:
        said = f"key {served.name!r} was not made for decryption, so it unwraps nothing"
    else:
        said = f"key {served.name!r} is not enrolled for {scheme.value}; use {' or '.join(able) or 'another key'}"
    raise errors.cannot(served.name, said, able)


def _fits(operation: Operation, scheme: Scheme) -> bool:
    if operation is Operation.UNWRAP_SESSION_KEY:
        return isinstance(scheme, WrapScheme) and scheme is not WrapScheme.CAPGO
    return isinstance(scheme, SignatureScheme if operation is Operation.SIGN_CHECKSUM else WrapScheme)


def _allowed(grants: Sequence[Grant], scheme: Scheme) -> bool:
    return any(_fits(op, scheme) and allowing(grants, op, scheme) for op in GRANTABLE)


def require_allowed(grants: Sequence[Grant], request: SigningRequest) -> list[Grant]:
    """The grants that allow the request, as far as that can be said without counting: at least one."""
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
    raise errors.invalid([Violation(f"context.{name}", "must be said: the grant asks for it") for name in missing])


def visible(served: ServedKey, grants: Sequence[Grant]) -> VisibleKey:
    """The key with the schemes that these grants allow."""
    return VisibleKey(served, frozenset(scheme for scheme in served.schemes if _allowed(grants, scheme)))
