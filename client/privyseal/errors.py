"""What can go wrong, as typed exceptions: one class for each family of what a caller can do about it.

Every exception has `message`, one sentence without a full stop that says what happened, and `remedy`, one that says
what to do (it may be empty). Neither holds a session key, a token or a private key.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from privyseal.transparency.receipts import Receipt


class Code(enum.IntEnum):
    """The codes of google.rpc.Code, which are those of gRPC."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


@dataclass(frozen=True)
class FieldViolation:
    """A field of the request that did not fit (google.rpc.BadRequest)."""

    field: str
    description: str


@dataclass(frozen=True)
class ErrorDetails:
    """The google.rpc details that came with an error; whatever the service did not send is empty.

    `reason`, `domain` and `metadata` are those of ErrorInfo, `retry_after_s` is RetryInfo's delay in seconds.
    """

    field_violations: tuple[FieldViolation, ...] = ()
    reason: str = ""
    domain: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    retry_after_s: float | None = None


class PrivysealError(Exception):
    """Anything that this package raises on purpose."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


class ConfigurationError(PrivysealError):
    """A setting is missing, contradicts another, or names something that cannot be used."""


class FileUnusableError(PrivysealError):
    """A file that was named does not exist, is not a file, or cannot be opened."""


class InputError(PrivysealError):
    """An input was read and does not fit: not a zip, not a checksum, not a public key."""


class NotVerifiedError(PrivysealError):
    """Something was checked against a public key or a checksum and did not hold."""


class WriteError(PrivysealError):
    """An output could not be written; nothing of it was left behind."""


class ServiceError(PrivysealError):
    """The signing service, or the way to it, answered with an error.

    `code` is the gRPC code, `details` what the service reported, `request_id` the name under which the service
    recorded the call (empty when the call never reached it). `audit` is the receipt of that record, for one of a batch.
    """

    default_remedy = ""

    def __init__(
        self,
        message: str,
        *,
        code: Code,
        details: ErrorDetails | None = None,
        request_id: str = "",
        remedy: str | None = None,
    ) -> None:
        super().__init__(message, remedy=self.default_remedy if remedy is None else remedy)
        self.code = code
        self.details = details or ErrorDetails()
        self.request_id = request_id
        self.audit: Receipt | None = None


class InvalidRequestError(ServiceError):
    """INVALID_ARGUMENT or OUT_OF_RANGE: a field has a wrong length or value; `details.field_violations` names it."""


class UnauthenticatedError(ServiceError):
    """UNAUTHENTICATED: the service does not know who is calling."""

    default_remedy = "check the client certificate or the token, and that it has not expired"


class PermissionDeniedError(ServiceError):
    """PERMISSION_DENIED: no grant allows this, or there is no such key; the service does not reveal which."""

    default_remedy = "check the key's name with `privyseal key list`"


class FailedPreconditionError(ServiceError):
    """FAILED_PRECONDITION: the key exists and the caller may use it, but it cannot do that."""


class NotFoundError(ServiceError):
    """NOT_FOUND: the audit trail has no such record, or not yet."""

    default_remedy = "a record is in the tree within a second; older records are found by their index"


class ThrottledError(ServiceError):
    """RESOURCE_EXHAUSTED: too much at once; `details.retry_after_s` is when to retry."""

    default_remedy = "try again later"


class UnavailableError(ServiceError):
    """UNAVAILABLE: the service or its key store cannot be reached, after all retries."""

    default_remedy = "check that the service runs and that its address is right, then try again"


class DeadlineExceededError(ServiceError):
    """DEADLINE_EXCEEDED: the deadline passed first. The operation may or may not have been done."""

    default_remedy = "try again, or allow more time"


class InterruptedCallError(ServiceError):
    """CANCELLED or ABORTED without the caller's doing: the service went away in the middle of the call."""

    default_remedy = "try again"


class ServiceFaultError(ServiceError):
    """Any other code: a fault of the service, or one that is older than this client."""

    default_remedy = "give the request id to whoever runs the service"


_FAMILIES: Mapping[Code, type[ServiceError]] = {
    Code.INVALID_ARGUMENT: InvalidRequestError,
    Code.OUT_OF_RANGE: InvalidRequestError,
    Code.UNAUTHENTICATED: UnauthenticatedError,
    Code.PERMISSION_DENIED: PermissionDeniedError,
    Code.NOT_FOUND: NotFoundError,
    Code.FAILED_PRECONDITION: FailedPreconditionError,
    Code.RESOURCE_EXHAUSTED: ThrottledError,
    Code.UNAVAILABLE: UnavailableError,
    Code.DEADLINE_EXCEEDED: DeadlineExceededError,
    Code.CANCELLED: InterruptedCallError,
    Code.ABORTED: InterruptedCallError,
}


def family(code: Code) -> type[ServiceError]:
    """The exception class for a code."""
    return _FAMILIES.get(code, ServiceFaultError)
