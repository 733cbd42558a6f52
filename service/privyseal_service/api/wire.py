"""Between protobuf messages and the service's own types."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import (  # type: ignore[import-untyped]
    BadRequest,
    ErrorInfo,
    RetryInfo,
)
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from privyseal.v1 import audit_pb2, keys_pb2, signing_pb2
from privyseal_service.domain import errors
from privyseal_service.domain.errors import MOST_VIOLATIONS, ServiceError, Violation
from privyseal_service.domain.operations import InputError, SignatureScheme, WrapScheme
from privyseal_service.domain.requests import NO_CONTEXT, Context
from privyseal_service.keys.served_key import KeyState
from privyseal_service.signing.authorization import VisibleKey
from privyseal_service.signing.calls import IncomingCall, Parsed

if TYPE_CHECKING:
    from privyseal.transparency.receipts import Receipt
    from privyseal_backends.interface import Custody, PublicKey


_M = TypeVar("_M", bound=Message)
_E = TypeVar("_E", bound=enum.Enum)
_T = TypeVar("_T")

ERROR_DOMAIN = "privyseal"
"""The domain of every google.rpc.ErrorInfo."""


STATUS_CODES = {status.value[0]: status for status in grpc.StatusCode}


def _by_name(wire: EnumDescriptor, domain: type[_E]) -> dict[Any, _E]:
    """Return the members of a domain's enum by the numbers of the wire's enum that have the same names. Raises KeyError
    for a name that the domain lacks. The wire's first value means "not set" and has no member.

    The keys are of the enum's own type of numbers, which its generated stubs define."""
    prefix = wire.values[0].name.removesuffix("UNSPECIFIED")
    return {value.number: domain[value.name.removeprefix(prefix)] for value in wire.values[1:]}


WRAP_SCHEMES = _by_name(signing_pb2.WrapScheme.DESCRIPTOR, WrapScheme)
SIGNATURE_SCHEMES = _by_name(signing_pb2.SignatureScheme.DESCRIPTOR, SignatureScheme)
KEY_STATES = {state: number for number, state in _by_name(keys_pb2.KeyState.DESCRIPTOR, KeyState).items()}


Method: TypeAlias = "Callable[[IncomingCall, bytes], Awaitable[Message]]"


def parse(read: Callable[[bytes], _T], body: bytes) -> Parsed[_T]:
    """Return the request that `read` makes of a body, or the error for which it is none."""
    try:
        return read(body)
    except (InputError, ServiceError) as error:
        return error


def error_status(error: ServiceError) -> Status:
    """The google.rpc.Status of an error, with its details, for the trailing metadata."""
    details: list[Message] = []
    if error.violations:
        shown = error.violations[:MOST_VIOLATIONS]
        fields = [BadRequest.FieldViolation(field=v.field, description=v.wanted) for v in shown]
        details.append(BadRequest(field_violations=fields))
    details.append(ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN, metadata=error.metadata))
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        details.append(RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        packed.append(AnyMessage())
        packed[-1].Pack(detail)
    return Status(code=error.code, message=error.message, details=packed)


def parse_message(message_type: type[_M], body: bytes) -> _M:
    """The message in the body of a request. Raises ServiceError (INVALID_ARGUMENT)."""
    try:
        return message_type.FromString(body)
    except DecodeError:
        raise errors.invalid([Violation("", f"the request is no {message_type.DESCRIPTOR.full_name}")]) from None


def wrap_scheme(request: signing_pb2.WrapSessionKeyRequest | signing_pb2.UnwrapSessionKeyRequest) -> WrapScheme:
    """The wrap scheme of a request. Raises InputError where it is unset or unknown."""
    scheme = WRAP_SCHEMES.get(request.scheme)
    if scheme is None:
        raise _unset(signing_pb2.WrapScheme.keys())
    return scheme


def signature_scheme(
    request: signing_pb2.SignChecksumRequest | signing_pb2.BatchSignChecksumsRequest,
) -> SignatureScheme:
    """The signature scheme of a request. Raises InputError where it is unset or unknown."""
    scheme = SIGNATURE_SCHEMES.get(request.scheme)
    if scheme is None:
        raise _unset(signing_pb2.SignatureScheme.keys())
    return scheme


def _unset(names: list[str]) -> InputError:
    return InputError("scheme", f"must be one of {', '.join(names[1:])}; there is no default")


def read_context(
    request: signing_pb2.WrapSessionKeyRequest
    | signing_pb2.SignChecksumRequest
    | signing_pb2.BatchSignChecksumsRequest
    | signing_pb2.UnwrapSessionKeyRequest,
) -> Context:
    """The context of a request. Raises InputError for one that cannot be recorded."""
    if not request.HasField("context"):
        return NO_CONTEXT
    said = request.context
    context = Context(said.app_id, said.bundle_version, said.source_revision, said.build_url)
    context.check()
    return context


def add_result(
    response: signing_pb2.BatchSignChecksumsResponse, result: bytes | ServiceError
) -> signing_pb2.BatchResult:
    """Add a result of a batch to the response, and return it."""
    if isinstance(result, ServiceError):
        error = signing_pb2.BatchError(code=result.code, message=result.message)
        return response.results.add(error=error)
    return response.results.add(signature=result)


def write_first_receipt(receipts: Sequence[Receipt]) -> audit_pb2.AuditReceipt | None:
    """The receipt of a call with one result, or None without an audit trail."""
    if not receipts:
        return None
    audit = audit_pb2.AuditReceipt()
    write_receipt(receipts[0], audit)
    return audit


def write_receipt(receipt: Receipt, audit: audit_pb2.AuditReceipt) -> None:
    """Copy a receipt into its message."""
    audit.log_id = receipt.log
    audit.leaf_hash = receipt.leaf_hash
    audit.worker = receipt.worker
    audit.segment = receipt.segment
    audit.offset = receipt.offset
    audit.number = receipt.number


def write_key(shown: VisibleKey) -> keys_pb2.Key:
    """A key as its caller may see it."""
    served = shown.served
    key = keys_pb2.Key(
        name=served.name,
        wrap_schemes=[wire for wire, scheme in WRAP_SCHEMES.items() if scheme in shown.schemes],
        signature_schemes=[wire for wire, scheme in SIGNATURE_SCHEMES.items() if scheme in shown.schemes],
        state=KEY_STATES[served.state],
    )
    if served.key is not None:
        description = served.key.description
        key.key_version = description.key_version
        key.public_key.CopyFrom(_public_key(description.public_key))
        key.custody.CopyFrom(_custody(description.custody))
    return key


def _public_key(public_key: PublicKey) -> keys_pb2.PublicKey:
    return keys_pb2.PublicKey(
        spki_pem=public_key.spki_pem,
        pkcs1_pem=public_key.pkcs1_pem,
        fingerprint=public_key.fingerprint,
        capgo_key_id=public_key.capgo_key_id,
        modulus_bits=public_key.modulus_bits,
    )


def _custody(custody: Custody) -> keys_pb2.Custody:
    return keys_pb2.Custody(
        protection=keys_pb2.Protection.Value(f"PROTECTION_{custody.protection.name}"),
        protection_reasons=custody.protection_reasons,
        origin=keys_pb2.Origin.Value(f"ORIGIN_{custody.origin.name}"),
        origin_reasons=custody.origin_reasons,
        export=keys_pb2.Export.Value(f"EXPORT_{custody.export.name}"),
        export_reasons=custody.export_reasons,
        evidence=[keys_pb2.Evidence(name=e.name, value=e.value) for e in custody.evidence],
    )
