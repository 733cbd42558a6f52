"""The calls of the API as data: the method, the request, and how the answer is read. Both clients run these."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message

from privyseal import model
from privyseal.errors import Code, InputError, NotVerifiedError, ServiceError, ServiceFaultError
from privyseal.model import Key, RequestContext, SessionKey, SignatureScheme, SignedChecksum, WrappedKey, WrapScheme
from privyseal.v1 import audit_pb2, keys_pb2, signing_pb2

if TYPE_CHECKING:
    from privyseal.transparency.receipts import Receipt

T = TypeVar("T")
S = TypeVar("S", SignatureScheme, WrapScheme)

BATCH_CHECKSUMS = 2000
"""The most that the service takes in one call."""

SMALLEST_PART = 64
"""Checksums of a batch that go together when it is split over several channels."""

BatchResults: TypeAlias = "list[SignedChecksum | ServiceError]"


def _by_name(wire: EnumDescriptor, names: type[S]) -> dict[Any, S]:
    """Return the members of an enum by the numbers of the wire's enum that have the same names."""
    prefix = wire.values[0].name.removesuffix("UNSPECIFIED")
    return {wire.values_by_name[prefix + member.name].number: member for member in names}


_WRAP_SCHEME_NAMES = _by_name(signing_pb2.WrapScheme.DESCRIPTOR, WrapScheme)
_SIGNATURE_SCHEME_NAMES = _by_name(signing_pb2.SignatureScheme.DESCRIPTOR, SignatureScheme)
_WRAP_SCHEMES = {scheme: number for number, scheme in _WRAP_SCHEME_NAMES.items()}
_SIGNATURE_SCHEMES = {scheme: number for number, scheme in _SIGNATURE_SCHEME_NAMES.items()}


@dataclass(frozen=True)
class Call(Generic[T]):
    """A method of the API (`Service/Method` without the package), its request, and how to read its answer and the
    request id that came with it."""

    method: str
    request: Message
    decode: Callable[[Any, str], T]


def scheme_of(kind: type[S], scheme: S | str) -> S:
    """The scheme of that kind, also from its name. Raises InputError."""
    try:
        return kind(scheme)
    except ValueError:
        names = ", ".join(each.value for each in kind)
        raise InputError(f"there is no scheme {scheme!r} for this", remedy=f"use one of {names}") from None


def _context(context: RequestContext | None) -> signing_pb2.RequestContext | None:
    if context is None:
        return None
    return signing_pb2.RequestContext(
        app_id=context.app_id,
        bundle_version=context.bundle_version,
        source_revision=context.source_revision,
        build_url=context.build_url,
    )


def wrap_session_key(
    session_key: bytes, scheme: WrapScheme | str, key: str, context: RequestContext | None
) -> Call[WrappedKey]:
    """SigningService.WrapSessionKey."""
    request = signing_pb2.WrapSessionKeyRequest(
        key=key, session_key=session_key, scheme=_WRAP_SCHEMES[scheme_of(WrapScheme, scheme)], context=_context(context)
    )
    return Call(
        "SigningService/WrapSessionKey",
        request,
        lambda answer, request_id: WrappedKey(answer.wrapped_key, answer.key_version, request_id, _receipt(answer)),
    )


def sign_checksum(
    checksum: bytes, scheme: SignatureScheme | str, key: str, context: RequestContext | None
) -> Call[SignedChecksum]:
    """SigningService.SignChecksum."""
    request = signing_pb2.SignChecksumRequest(
        key=key,
        checksum=checksum,
        scheme=_SIGNATURE_SCHEMES[scheme_of(SignatureScheme, scheme)],
        context=_context(context),
    )
    return Call(
        "SigningService/SignChecksum",
        request,
        lambda answer, request_id: SignedChecksum(answer.signature, answer.key_version, request_id, _receipt(answer)),
    )


def unwrap_session_key(
    wrapped_key: bytes, scheme: WrapScheme | str, key: str, context: RequestContext | None
) -> Call[SessionKey]:
    """SigningService.UnwrapSessionKey."""
    request = signing_pb2.UnwrapSessionKeyRequest(
        key=key, wrapped_key=wrapped_key, scheme=_WRAP_SCHEMES[scheme_of(WrapScheme, scheme)], context=_context(context)
    )
    return Call(
        "SigningService/UnwrapSessionKey",
        request,
        lambda answer, request_id: SessionKey(answer.session_key, answer.key_version, request_id, _receipt(answer)),
    )


def batch_sign_checksums(
    checksums: Sequence[bytes], scheme: SignatureScheme | str, key: str, context: RequestContext | None, channels: int
) -> list[Call[BatchResults]]:
    """SigningService.BatchSignChecksums, as many calls as it takes, so that each of several channels has its share."""
    scheme = scheme_of(SignatureScheme, scheme)
    size = part_size(len(checksums), channels)
    return [_batch(checksums[start : start + size], scheme, key, context) for start in range(0, len(checksums), size)]


def part_size(checksums: int, channels: int) -> int:
    """Checksums that go in one call. With several channels there are four parts for each: they are spread unevenly over
    workers, so one whose worker has less to do takes more of them. Parts below 64 would cost more than they bring."""
    if channels == 1:
        return BATCH_CHECKSUMS
    return min(BATCH_CHECKSUMS, max(SMALLEST_PART, math.ceil(checksums / (4 * channels))))


def _batch(
    checksums: Sequence[bytes], scheme: SignatureScheme, key: str, context: RequestContext | None
) -> Call[BatchResults]:
    request = signing_pb2.BatchSignChecksumsRequest(
        key=key, checksums=checksums, scheme=_SIGNATURE_SCHEMES[scheme], context=_context(context)
    )

    def decode(answer: signing_pb2.BatchSignChecksumsResponse, request_id: str) -> BatchResults:
        if len(answer.results) != len(checksums):
            raise ServiceFaultError(
                f"the service answered {len(answer.results)} of {len(checksums)} checksums",
                code=Code.INTERNAL,
                request_id=request_id,
            )
        return [_batch_result(result, answer.key_version, request_id) for result in answer.results]

    return Call("SigningService/BatchSignChecksums", request, decode)


def _batch_result(result: signing_pb2.BatchResult, key_version: str, request_id: str) -> SignedChecksum | ServiceError:
    if result.HasField("signature"):
        return SignedChecksum(result.signature, key_version, request_id, _receipt(result))
    from privyseal._failures import batch_item_error  # noqa: PLC0415 - the details' classes are used in failures only

    error = batch_item_error(result.error.code, result.error.message, request_id)
    error.audit = _receipt(result)
    return error


def _receipt(answer: Any) -> Receipt | None:
    """The receipt that came with an answer."""
    if not answer.HasField("audit"):
        return None
    audit = answer.audit
    return _receipt_class()(audit.log_id, audit.leaf_hash, audit.worker, audit.segment, audit.offset, audit.number)


@functools.cache  # an import costs as much as all else that is done for one of a batch
def _receipt_class() -> type[Receipt]:
    from privyseal.transparency.receipts import Receipt  # noqa: PLC0415 - of use where there is an audit trail

    return Receipt


def prove(receipt: Receipt) -> Call[Receipt]:
    """AuditService.GetInclusionProof: the receipt, complete. What was answered is held against the receipt."""
    from privyseal.transparency.errors import AuditError  # noqa: PLC0415
    from privyseal.transparency.receipts import Proven, complete  # noqa: PLC0415

    def decode(answer: audit_pb2.GetInclusionProofResponse, _request_id: str) -> Receipt:
        proven = Proven(answer.line, answer.index, tuple(answer.proof), answer.checkpoint)
        try:
            return complete(receipt, proven)
        except AuditError as error:
            raise NotVerifiedError(
                f"the service gave a proof that does not hold: {error}", remedy="report it to whoever runs the service"
            ) from None

    request = audit_pb2.GetInclusionProofRequest(log_id=receipt.log, leaf_hash=receipt.leaf_hash)
    return Call("AuditService/GetInclusionProof", request, decode)


def get_checkpoint() -> Call[str]:
    """AuditService.GetCheckpoint."""
    return Call("AuditService/GetCheckpoint", audit_pb2.GetCheckpointRequest(), lambda answer, _: answer.checkpoint)


def joined(parts: Iterable[BatchResults]) -> BatchResults:
    """The results of a batch's calls in the order of its checksums."""
    return [result for part in parts for result in part]


def list_keys() -> Call[list[Key]]:
    """KeyService.ListKeys."""
    return Call("KeyService/ListKeys", keys_pb2.ListKeysRequest(), lambda answer, _: [_key(key) for key in answer.keys])


def get_key(name: str) -> Call[Key]:
    """KeyService.GetKey."""
    return Call("KeyService/GetKey", keys_pb2.GetKeyRequest(name=name), lambda answer, _: _key(answer.key))


def _key(key: keys_pb2.Key) -> Key:
    public = key.public_key
    return Key(
        name=key.name,
        key_version=key.key_version,
        state=_state(key.state),
        # A scheme that is newer than this client has no name here and cannot be asked for either.
        wrap_schemes=tuple(_WRAP_SCHEME_NAMES[s] for s in key.wrap_schemes if s in _WRAP_SCHEME_NAMES),
        signature_schemes=tuple(
            _SIGNATURE_SCHEME_NAMES[s] for s in key.signature_schemes if s in _SIGNATURE_SCHEME_NAMES
        ),
        public_key=model.PublicKey(
            public.spki_pem, public.pkcs1_pem, public.fingerprint, public.capgo_key_id, public.modulus_bits
        )
        if key.HasField("public_key")
        else None,
        custody=_custody(key.custody) if key.HasField("custody") else None,
    )


def _state(state: keys_pb2.KeyState.ValueType) -> model.KeyState:
    """Return the state by its name; one that is newer than this client is unknown."""
    name = keys_pb2.KeyState.Name(state) if state in keys_pb2.KeyState.values() else ""
    return model.KeyState.__members__.get(name.removeprefix("KEY_STATE_"), model.KeyState.UNKNOWN)


def _custody(custody: keys_pb2.Custody) -> model.Custody:
    return model.Custody(
        protection=_finding(keys_pb2.Protection, custody.protection, custody.protection_reasons),
        origin=_finding(keys_pb2.Origin, custody.origin, custody.origin_reasons),
        export=_finding(keys_pb2.Export, custody.export, custody.export_reasons),
        evidence=tuple(model.Evidence(e.name, e.value) for e in custody.evidence),
    )


def _finding(kind: Any, value: int, reasons: Iterable[str]) -> model.Finding:
    """A finding by its name in the configuration, as "never-possible"; a name newer than this client is unknown."""
    name = kind.Name(value) if value in kind.values() else "UNKNOWN"
    prefix = f"{kind.DESCRIPTOR.name.upper()}_"
    word = name.removeprefix(prefix).lower().replace("_", "-")
    return model.Finding("unknown" if word == "unspecified" else word, tuple(reasons))
