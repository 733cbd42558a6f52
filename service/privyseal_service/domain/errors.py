"""The errors that callers get: each has its gRPC code, its google.rpc details and its message.

None of them contains anything of a key store: the backend's own text goes to the log.
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
"""The most field violations in one answer; a batch can have 2,000, and trailing metadata holds some 8 KiB."""


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
    """One invalid field: its path in the request, and what is required."""

    field: str
    wanted: str


class ServiceError(Exception):
    """An answer other than OK.

    `message` is for a person: what failed and what to do. `reason` is for a program (google.rpc.ErrorInfo), with its
    `metadata`. `retry_after_s` becomes a RetryInfo, `violations` a BadRequest.
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
    """One or more fields are invalid."""
    shown = violations[:MOST_VIOLATIONS]
    message = "; ".join(f"{v.field} {v.wanted}" if v.field else v.wanted for v in shown)
    if len(violations) > len(shown):
        message += f"; and {len(violations) - len(shown)} more fields"
    return ServiceError(Code.INVALID_ARGUMENT, "INVALID_REQUEST", message, violations=violations)


def unauthenticated() -> ServiceError:
    """The caller was not authenticated. Only the log has the reason."""
    message = "the caller could not be authenticated; the service's log has the reason, under this request id"
    return ServiceError(Code.UNAUTHENTICATED, "UNAUTHENTICATED", message)


def permission_denied() -> ServiceError:
    """No grant, or no such key: the same answer, word for word, so that no caller learns which keys exist."""
    message = "no grant allows this call, or there is no such key; ask the security team for a grant"
    return ServiceError(Code.PERMISSION_DENIED, "NO_GRANT", message)


def cannot(key: str, message: str, schemes: Sequence[str]) -> ServiceError:
    """The caller may use the key, but the key cannot do this; `schemes` is what it can do for the caller."""
    metadata = {"key": key, "schemes": ",".join(schemes)}
    return ServiceError(Code.FAILED_PRECONDITION, "KEY_CANNOT", message, metadata=metadata)


def blocked(key: str) -> ServiceError:
    """The key waits for its operator; a retry does not help."""
    message = f"key {key!r} is blocked until its operator acts; the service's log has the reason"
    return ServiceError(Code.FAILED_PRECONDITION, "KEY_BLOCKED", message, metadata={"key": key})


def frozen(key: str) -> ServiceError:
    """The security team stopped the key; a retry does not help."""
    message = f"key {key!r} is frozen by the security team and cannot be used; ask them"
    return ServiceError(Code.FAILED_PRECONDITION, "KEY_FROZEN", message, metadata={"key": key})


def outside_hours() -> ServiceError:
    """A grant names the call, but applies at other times."""
    message = "the grant for this call applies at other times; ask the security team when"
    return ServiceError(Code.PERMISSION_DENIED, "OUTSIDE_HOURS", message)


def limited(limit: str, retry_after_s: float, *, ever: bool) -> ServiceError:
    """A rate or quota is used up. `ever` is whether the same call can be allowed later."""
    todo = "try again later" if ever else "send less in one call"
    message = f"the grant for this call allows {limit}, and this call exceeds it; {todo}"
    return ServiceError(
        Code.RESOURCE_EXHAUSTED, "LIMIT_REACHED", message, metadata={"limit": limit}, retry_after_s=retry_after_s
    )


def asked_too_much(per_s: float, retry_after_s: float) -> ServiceError:
    """A caller without any grant calls too often."""
    limit = f"{per_s:g} a second"
    message = (
        f"a caller without any grant may make {per_s:g} calls a second in each worker; call less often, or get a grant"
    )
    return ServiceError(
        Code.RESOURCE_EXHAUSTED, "LIMIT_REACHED", message, metadata={"limit": limit}, retry_after_s=retry_after_s
    )


def uncounted(retry_after_s: float) -> ServiceError:
    """Rate limits cannot be checked now, so nothing is allowed. Only the log has the reason."""
    message = "rate limits cannot be checked now; try again later"
    return ServiceError(Code.UNAVAILABLE, "LIMITS_UNAVAILABLE", message, retry_after_s=retry_after_s)


def away(key: str, retry_after_s: float) -> ServiceError:
    """The key's store does not answer; the service keeps trying."""
    message = f"the key store of key {key!r} is unavailable; try again later"
    return ServiceError(Code.UNAVAILABLE, "KEY_STORE_AWAY", message, metadata={"key": key}, retry_after_s=retry_after_s)


def too_busy(key: str, retry_after_s: float) -> ServiceError:
    """The key's store is overloaded, so the call could not be served in time."""
    message = f"the key store of key {key!r} is overloaded; try again later"
    return ServiceError(
        Code.RESOURCE_EXHAUSTED, "KEY_STORE_BUSY", message, metadata={"key": key}, retry_after_s=retry_after_s
    )


def audit_unavailable(retry_after_s: float) -> ServiceError:
    """The decision cannot be recorded, so no answer may leave. Only the log has the reason."""
    message = "the audit trail cannot be written now, so the service answers no call; try again later"
    return ServiceError(Code.UNAVAILABLE, "AUDIT_UNAVAILABLE", message, retry_after_s=retry_after_s)


def not_in_log(message: str) -> ServiceError:
    """The audit trail does not have this record or size, or not yet."""
    return ServiceError(Code.NOT_FOUND, "NOT_IN_LOG", message)


def log_unreadable(retry_after_s: float) -> ServiceError:
    """The audit trail's files cannot be read now. Only the log has the reason."""
    message = "the audit trail cannot be read now; try again later"
    return ServiceError(Code.UNAVAILABLE, "LOG_UNREADABLE", message, retry_after_s=retry_after_s)


def too_many_log_calls(retry_after_s: float) -> ServiceError:
    """More calls to the audit trail wait than it can answer in time."""
    message = "too many calls to the audit trail are waiting; try again later"
    return ServiceError(Code.RESOURCE_EXHAUSTED, "LOG_BUSY", message, retry_after_s=retry_after_s)


def another_log(log: str, retry_after_s: float) -> ServiceError:
    """This replica has another log than the requested one."""
    message = f"this replica has the log {log}; try again, so that another replica answers"
    return ServiceError(Code.UNAVAILABLE, "ANOTHER_LOG", message, metadata={"log": log}, retry_after_s=retry_after_s)


def internal(request_id: str) -> ServiceError:
    """An internal error: the caller gets only the request id."""
    return ServiceError(
        Code.INTERNAL,
        "INTERNAL",
        f"internal error; the service's log has the details, under the request id {request_id}",
    )


def from_backend(error: BackendError, key: str, request_id: str) -> ServiceError:
    """Return the error that a caller gets for a backend's error, without the backend's own text."""
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
