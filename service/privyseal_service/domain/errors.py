"""What a caller is told when a call fails: each error knows its gRPC code, its google.rpc details and its words.

Nothing of a key store is ever among them: what a backend said goes to the log.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from privyseal_backends.interface import (
    BackendError,
    BusyError,
    CallerError,
    DeadlineError,
    OperatorError,
    UnavailableError,
)

MOST_VIOLATIONS = 10
"""Field violations that one answer names; a batch can have 2,000, and trailing metadata holds some 8 KiB."""


class Code(enum.IntEnum):
    """The gRPC codes that the service answers with (google.rpc.Code)."""

    OK = 0
    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


@dataclass(frozen=True, slots=True)
class Violation:
    """One field that holds what no operation takes: its path in the request, and what is wanted."""

    field: str
    wanted: str


class ServiceError(Exception):
    """An answer other than OK.

    `message` is for a person: what happened and what to do. `reason` is for a program (google.rpc.ErrorInfo),
    `metadata` what goes with it. `retry_after_s` becomes a RetryInfo, `violations` a BadRequest.
    """

    def __init__(
        self,
        code: Code,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[Violation] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after_s = retry_after_s


def invalid(violations: Sequence[Violation]) -> ServiceError:
    """One or more fields hold what no operation takes."""
    shown = violations[:MOST_VIOLATIONS]
    message = "; ".join(f"{v.field} {v.wanted}" if v.field else v.wanted for v in shown)
    if len(violations) > len(shown):
        message += f"; and {len(violations) - len(shown)} more fields"
    return ServiceError(Code.INVALID_ARGUMENT, "INVALID_REQUEST", message, violations=violations)


def unauthenticated() -> ServiceError:
    """The caller did not prove who it is. Why is in the log alone."""
    message = "the caller did not prove who it is; the service's log says why, under this request id"
    return ServiceError(Code.UNAUTHENTICATED, "UNAUTHENTICATED", message)


def permission_denied() -> ServiceError:
    """No grant, or no such key: one answer, word for word, so that nobody learns which keys exist."""
    message = "no grant allows this call, or there is no such key; ask the security team for a grant"
    return ServiceError(Code.PERMISSION_DENIED, "NO_GRANT", message)


def cannot(key: str, message: str, schemes: Sequence[str]) -> ServiceError:
    """The caller may use the key, and the key cannot do that; `schemes` is what it can do for the caller."""
    metadata = {"key": key, "schemes": ",".join(schemes)}
    return ServiceError(Code.FAILED_PRECONDITION, "KEY_CANNOT", message, metadata=metadata)


def blocked(key: str) -> ServiceError:
    """The key waits for its operator; trying again does not help."""
    message = f"key {key!r} is blocked until its operator acts; the service's log says why"
    return ServiceError(Code.FAILED_PRECONDITION, "KEY_BLOCKED", message, metadata={"key": key})


def frozen(key: str) -> ServiceError:
    """The security team stopped the key; trying again does not help."""
    message = f"key {key!r} is frozen by the security team, so it is used for nothing; ask them"
    return ServiceError(Code.FAILED_PRECONDITION, "KEY_FROZEN", message, metadata={"key": key})


def outside_hours() -> ServiceError:
    """A grant names the call, and holds at other times."""
    message = "the grant that names this call holds at other times; ask the security team when"
    return ServiceError(Code.PERMISSION_DENIED, "OUTSIDE_HOURS", message)


def limited(limit: str, retry_after_s: float, *, ever: bool) -> ServiceError:
    """A grant has allowed as much as it allows. `ever` is whether the call would be allowed later as it is."""
    todo = "try again later" if ever else "ask for less in one call"
    message = f"the grant that names this call allows {limit}, and this would be more; {todo}"
    return ServiceError(
        Code.RESOURCE_EXHAUSTED, "LIMIT_REACHED", message, metadata={"limit": limit}, retry_after_s=retry_after_s
    )


def asked_too_much(per_s: float, retry_after_s: float) -> ServiceError:
    """A caller without any grant asks more than it may."""
    limit = f"{per_s:g} a second"
    message = f"a caller without any grant may ask {limit} in each worker; ask less, or have a grant made"
    return ServiceError(
        Code.RESOURCE_EXHAUSTED, "LIMIT_REACHED", message, metadata={"limit": limit}, retry_after_s=retry_after_s
    )


def uncounted(retry_after_s: float) -> ServiceError:
    """What a grant allows cannot be counted now, so it allows nothing. Why is in the log alone."""
    message = "what the grant of this call allows cannot be counted now; try again later"
    return ServiceError(Code.UNAVAILABLE, "LIMITS_UNAVAILABLE", message, retry_after_s=retry_after_s)


def away(key: str, retry_after_s: float) -> ServiceError:
    """The key's store does not answer; the service goes on trying."""
    message = f"the key store of key {key!r} does not answer now; try again later"
    return ServiceError(Code.UNAVAILABLE, "KEY_STORE_AWAY", message, metadata={"key": key}, retry_after_s=retry_after_s)


def too_busy(key: str, retry_after_s: float) -> ServiceError:
    """The key's store has too much to do, so that the call could not be served in time."""
    message = f"the key store of key {key!r} has too much to do; try again later"
    return ServiceError(
        Code.RESOURCE_EXHAUSTED, "KEY_STORE_BUSY", message, metadata={"key": key}, retry_after_s=retry_after_s
    )


def audit_unavailable(retry_after_s: float) -> ServiceError:
    """The decision cannot be put on record, so nothing may leave. Why is in the log alone."""
    message = "the audit trail cannot be written now, so the service answers nothing; try again later"
    return ServiceError(Code.UNAVAILABLE, "AUDIT_UNAVAILABLE", message, retry_after_s=retry_after_s)


def not_in_log(message: str) -> ServiceError:
    """The audit trail has no such record or size, or not yet."""
    return ServiceError(Code.NOT_FOUND, "NOT_IN_LOG", message)


def log_unreadable(retry_after_s: float) -> ServiceError:
    """The audit trail's files cannot be read now. Why is in the service's log alone."""
    message = "the audit trail cannot be read now; try again later"
    return ServiceError(Code.UNAVAILABLE, "LOG_UNREADABLE", message, retry_after_s=retry_after_s)


def too_many_log_calls(retry_after_s: float) -> ServiceError:
    """More calls of the audit trail wait than it answers in time."""
    message = "too many calls ask the audit trail at once; try again later"
    return ServiceError(Code.RESOURCE_EXHAUSTED, "LOG_BUSY", message, retry_after_s=retry_after_s)


def another_log(log: str, retry_after_s: float) -> ServiceError:
    """This replica keeps another log than the one that was asked for."""
    message = f"this replica keeps the log {log}; try again, so that another replica answers"
    return ServiceError(Code.UNAVAILABLE, "ANOTHER_LOG", message, metadata={"log": log}, retry_after_s=retry_after_s)


def internal(request_id: str) -> ServiceError:
    """A fault of the service: nothing but the request id leaves."""
    return ServiceError(Code.INTERNAL, "INTERNAL", f"internal error; its log entry has the request id {request_id}")


def from_backend(error: BackendError, key: str, request_id: str) -> ServiceError:
    """What the caller is told of a backend's error, in the service's words alone."""
    match error:
        case BusyError():
            return too_busy(key, error.retry_after_s)
        case UnavailableError():
            return away(key, error.retry_after_s)
        case DeadlineError():
            message = "the deadline passed before the key store answered; allow the call more time"
            return ServiceError(Code.DEADLINE_EXCEEDED, "DEADLINE", message, metadata={"key": key})
        case OperatorError():
            return blocked(key)
        case CallerError():
            return cannot(key, f"key {key!r} cannot do that", ())
        case _:
            return internal(request_id)
