"""From a failed call to a typed exception, with all details of the service."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

from privyseal.errors import Code, ErrorDetails, FieldViolation, ServiceError, family

if TYPE_CHECKING:
    from privyseal.configuration import Connection

REQUEST_ID = "privyseal-request-id"

_DOMAIN = "privyseal"
"""The domain of the ErrorInfo that every error of the service's own has."""

_LATER = "; try again later"
"""How the service's own messages end where waiting helps."""

_MORE_TO_SAY = {Code.UNAUTHENTICATED, Code.NOT_FOUND, Code.INTERNAL}
"""Codes whose family's remedy adds to the service's message."""

_CONNECT_FAILURES = (
    ("CERTIFICATE_VERIFY_FAILED", "the service's certificate is not signed by a trusted CA", "check --ca"),
    ("Hostname Verification", "the service's certificate is for another name", "check --server and --ca"),
    ("Peer name", "the service's certificate is for another name", "check --server and --ca"),
    ("Connection refused", "nothing listens there", "check --server, and that the service runs"),
    ("Name or service not known", "there is no such host", "check --server"),
    ("DNS resolution failed", "there is no such host", "check --server"),
    ("Domain name not found", "there is no such host", "check --server"),
    ("WRONG_VERSION_NUMBER", "what listens there does not speak TLS", "check --server"),
)
_UNFIT_FOR_A_LINE = re.compile(r"[\x00-\x1f\x7f-\x9f\s]+")
_HANDSHAKE_REMEDY = "check --server, and the client certificate if the service wants one"


def service_error(error: Any, connection: Connection) -> ServiceError:
    """The exception for a failed call; `error` is what grpc or grpc.aio raised, `connection` where the call went."""
    code = Code(error.code().value[0])
    message = _clean(error.details() or "")
    details = _details(error)
    request_id = _request_id(error.trailing_metadata())
    kind = family(code)
    if code is Code.UNAVAILABLE and not request_id and details == ErrorDetails():
        reason, remedy = _connect_failure(message, connection.cert)
        return kind(f"the signing service at {connection.server} cannot be reached: {reason}", code=code, remedy=remedy)
    if code is Code.DEADLINE_EXCEEDED and not request_id:
        return kind(f"the signing service at {connection.server} did not answer in time", code=code)
    told = _remedy(code, message, details)
    return kind(
        (message.removesuffix(_LATER) if told else message) or f"the service answered {code.name}",
        code=code,
        details=details,
        request_id=request_id,
        remedy=told,
    )


def batch_item_error(code: int, message: str, request_id: str) -> ServiceError:
    """The exception for one checksum of a batch."""
    known = Code(code) if code in Code._value2member_map_ else Code.UNKNOWN
    said = _clean(message)
    remedy = "" if said and known not in _MORE_TO_SAY else None  # as above: the service's messages say what to do
    return family(known)(said or f"the service answered {known.name}", code=known, request_id=request_id, remedy=remedy)


def request_id(metadata: Any) -> str:
    """The request id in trailing metadata, empty when there is none."""
    return _request_id(metadata)


def _request_id(metadata: Any) -> str:
    for key, value in metadata or ():
        if key == REQUEST_ID:
            return _clean(value if isinstance(value, str) else value.decode(errors="replace"))
    return ""


def _clean(text: str) -> str:
    """One line without control characters: it may end up on a terminal."""
    if text.isalnum():  # as an id is, which comes with every answer
        return text
    return _UNFIT_FOR_A_LINE.sub(" ", text).strip().rstrip(".")


def _connect_failure(message: str, cert: Path | None) -> tuple[str, str]:
    for sign, reason, remedy in _CONNECT_FAILURES:
        if sign.lower() in message.lower():
            return reason, remedy
    # A service that does not take a client certificate closes the connection without an error.
    return _expired(cert) or (message or "the connection failed", _HANDSHAKE_REMEDY)


def _expired(cert: Path | None) -> tuple[str, str] | None:
    from cryptography import x509  # noqa: PLC0415 - a call that goes well needs none of it

    try:
        end = x509.load_pem_x509_certificate(cert.read_bytes()).not_valid_after_utc if cert else None
    except (OSError, ValueError):  # it was good enough for TLS a moment ago
        return None
    if end is None or end > datetime.now(UTC):
        return None
    return f"the client certificate {cert} expired at {end:%Y-%m-%d %H:%M} UTC", "renew it"


def _remedy(code: Code, message: str, details: ErrorDetails) -> str | None:
    """What is to be said after the message; None leaves that to the code's family. The service's own messages say
    what to do, and nothing is said twice."""
    violations = [f"{_clean(v.field)} {_clean(v.description)}" for v in details.field_violations]
    if violations:
        return "; ".join(violation for violation in violations if violation not in message)
    delayed = code in {Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE} and details.retry_after_s is not None
    if delayed and (details.domain != _DOMAIN or message.endswith(_LATER)):
        return f"try again in {max(details.retry_after_s or 0, 0.1):.1f} s"
    if details.domain == _DOMAIN and code not in _MORE_TO_SAY and details.reason != "NO_GRANT":
        return ""
    return None


def _details(error: Any) -> ErrorDetails:
    try:
        status = rpc_status.from_call(error)
    except (ValueError, grpc.RpcError):  # the details do not belong to the code: they are not worth believing
        return ErrorDetails()
    found: dict[str, Any] = {}
    for detail in status.details if status is not None else ():
        _decode(detail, found)
    return ErrorDetails(**found)


def _decode(detail: Any, found: dict[str, Any]) -> None:
    if detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
        bad_request = error_details_pb2.BadRequest()
        detail.Unpack(bad_request)
        found["field_violations"] = tuple(FieldViolation(v.field, v.description) for v in bad_request.field_violations)
    elif detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
        info = error_details_pb2.ErrorInfo()
        detail.Unpack(info)
        found.update(reason=info.reason, domain=info.domain, metadata=dict(info.metadata))
    elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
        retry = error_details_pb2.RetryInfo()
        detail.Unpack(retry)
        found["retry_after_s"] = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
