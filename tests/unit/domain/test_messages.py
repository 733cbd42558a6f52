"""The wording of what callers are told, each text once."""

from __future__ import annotations

import pytest

from privyseal_service.domain import errors
from privyseal_service.domain.errors import Code, ServiceError, Violation

MESSAGES: list[tuple[ServiceError, Code, str, str]] = [
    (
        errors.invalid([Violation("checksum", "must be 32 bytes"), Violation("", "the request is broken")]),
        Code.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        "checksum must be 32 bytes; the request is broken",
    ),
    (
        errors.unauthenticated(),
        Code.UNAUTHENTICATED,
        "UNAUTHENTICATED",
        "the caller could not be authenticated; the service's log has the reason, under this request id",
    ),
    (
        errors.permission_denied(),
        Code.PERMISSION_DENIED,
        "NO_GRANT",
        "no grant allows this call, or there is no such key; ask the security team for a grant",
    ),
    (errors.cannot("app", "key 'app' cannot", ["capgo"]), Code.FAILED_PRECONDITION, "KEY_CANNOT", "key 'app' cannot"),
    (
        errors.blocked("app"),
        Code.FAILED_PRECONDITION,
        "KEY_BLOCKED",
        "key 'app' is blocked until its operator acts; the service's log has the reason",
    ),
    (
        errors.frozen("app"),
        Code.FAILED_PRECONDITION,
        "KEY_FROZEN",
        "key 'app' is frozen by the security team and cannot be used; ask them",
    ),
    (
        errors.outside_hours(),
        Code.PERMISSION_DENIED,
        "OUTSIDE_HOURS",
        "the grant for this call applies at other times; ask the security team when",
    ),
    (
        errors.limited("5 a minute", 1.0, ever=True),
        Code.RESOURCE_EXHAUSTED,
        "LIMIT_REACHED",
        "the grant for this call allows 5 a minute, and this call exceeds it; try again later",
    ),
    (
        errors.limited("5 a minute", 1.0, ever=False),
        Code.RESOURCE_EXHAUSTED,
        "LIMIT_REACHED",
        "the grant for this call allows 5 a minute, and this call exceeds it; send less in one call",
    ),
    (
        errors.asked_too_much(10.0, 0.1),
        Code.RESOURCE_EXHAUSTED,
        "LIMIT_REACHED",
        "a caller without any grant may make 10 calls a second in each worker; call less often, or get a grant",
    ),
    (
        errors.uncounted(1.0),
        Code.UNAVAILABLE,
        "LIMITS_UNAVAILABLE",
        "rate limits cannot be checked now; try again later",
    ),
    (
        errors.away("app", 1.0),
        Code.UNAVAILABLE,
        "KEY_STORE_AWAY",
        "the key store of key 'app' is unavailable; try again later",
    ),
    (
        errors.too_busy("app", 1.0),
        Code.RESOURCE_EXHAUSTED,
        "KEY_STORE_BUSY",
        "the key store of key 'app' is overloaded; try again later",
    ),
    (
        errors.audit_unavailable(1.0),
        Code.UNAVAILABLE,
        "AUDIT_UNAVAILABLE",
        "the audit trail cannot be written now, so the service answers no call; try again later",
    ),
    (errors.not_in_log("there is no record 7"), Code.NOT_FOUND, "NOT_IN_LOG", "there is no record 7"),
    (
        errors.log_unreadable(1.0),
        Code.UNAVAILABLE,
        "LOG_UNREADABLE",
        "the audit trail cannot be read now; try again later",
    ),
    (
        errors.too_many_log_calls(1.0),
        Code.RESOURCE_EXHAUSTED,
        "LOG_BUSY",
        "too many calls to the audit trail are waiting; try again later",
    ),
    (
        errors.another_log("log-2", 1.0),
        Code.UNAVAILABLE,
        "ANOTHER_LOG",
        "this replica has the log log-2; try again, so that another replica answers",
    ),
    (
        errors.internal("id-1"),
        Code.INTERNAL,
        "INTERNAL",
        "internal error; the service's log has the details, under the request id id-1",
    ),
]


@pytest.mark.parametrize(
    ("error", "code", "reason", "message"), MESSAGES, ids=lambda value: getattr(value, "reason", "")
)
def test_messages(error: ServiceError, code: Code, reason: str, message: str) -> None:
    assert (error.code, error.reason, error.message) == (code, reason, message)


def test_every_error_is_in_the_table() -> None:
    made = {name for name, value in vars(errors).items() if getattr(value, "__module__", "") == errors.__name__}
    functions = {name for name in made if name.islower() and not name.startswith("_")} - {"from_backend"}
    source = __import__("pathlib").Path(__file__).read_text()

    assert {name for name in functions if f"errors.{name}(" not in source} == set()
