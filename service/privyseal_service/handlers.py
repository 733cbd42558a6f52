"""Between the wire and the path of a call: reads requests into types, writes answers and errors, and knows no rule.

Every answer carries the request id, made here and accepted from nobody. Requests are parsed here rather than by gRPC,
so that one that is no message at all is answered as any other unfit request.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from privyseal.v1 import audit_pb2, keys_pb2, signing_pb2
from privyseal_service import errors
from privyseal_service.audit.calls import AuditCalls, ConsistencyQuery, InclusionQuery, RecordsQuery
from privyseal_service.errors import ServiceError, Violation
from privyseal_service.grants import Operation
from privyseal_service.grpc_server import Call
from privyseal_service.identity import Identifier, Peer
from privyseal_service.keyring import KeyState
from privyseal_service.operations import InputError, SignatureScheme, WrapScheme
from privyseal_service.requests import NO_CONTEXT, Context, SignChecksums, UnwrapSessionKey, WrapSessionKey
from privyseal_service.signing import Answer, Arrival, CallPath, VisibleKey

if TYPE_CHECKING:
    from privyseal.transparency.receipts import Receipt
    from privyseal_backends.interface import Custody, PublicKey

_LOG = logging.getLogger(__name__)
_M = TypeVar("_M", bound=Message)

REQUEST_ID = "privyseal-request-id"
"""The trailing metadata that every answer carries."""

CALL_ID = "privyseal-call-id"
"""The metadata by which a caller ties the attempts of one call to each other: 32 lower-case hex characters."""
_CALL_ID = re.compile(r"[0-9a-f]{32}")

SIGNING_SERVICE = signing_pb2.DESCRIPTOR.services_by_name["SigningService"].full_name
AUDIT_SERVICE = audit_pb2.DESCRIPTOR.services_by_name["AuditService"].full_name
KEY_SERVICE = keys_pb2.DESCRIPTOR.services_by_name["KeyService"].full_name

_STATUS_CODES = {status.value[0]: status for status in grpc.StatusCode}

_WRAP_SCHEMES = {
    signing_pb2.WRAP_SCHEME_CAPGO: WrapScheme.CAPGO,
    signing_pb2.WRAP_SCHEME_RSAES_OAEP_SHA256: WrapScheme.RSAES_OAEP_SHA256,
    signing_pb2.WRAP_SCHEME_RSAES_OAEP_SHA1: WrapScheme.RSAES_OAEP_SHA1,
}
_SIGNATURE_SCHEMES = {
    signing_pb2.SIGNATURE_SCHEME_CAPGO_V2: SignatureScheme.CAPGO_V2,
    signing_pb2.SIGNATURE_SCHEME_CAPGO_V3: SignatureScheme.CAPGO_V3,
    signing_pb2.SIGNATURE_SCHEME_RSASSA_PKCS1_V1_5_SHA256: SignatureScheme.RSASSA_PKCS1_V1_5_SHA256,
    signing_pb2.SIGNATURE_SCHEME_RSASSA_PSS_SHA256: SignatureScheme.RSASSA_PSS_SHA256,
}
_STATES = {
    KeyState.SERVING: keys_pb2.KEY_STATE_SERVING,
    KeyState.UNAVAILABLE: keys_pb2.KEY_STATE_UNAVAILABLE,
    KeyState.BLOCKED: keys_pb2.KEY_STATE_BLOCKED,
    KeyState.FROZEN: keys_pb2.KEY_STATE_FROZEN,
}

Method: TypeAlias = "Callable[[Arrival, bytes], Awaitable[Message]]"


class Handlers:
    """The methods of SigningService, KeyService and, where an audit trail is kept, AuditService as one listener serves
    them. `identifier` may be replaced while it serves; with `reads_header` it is shown the authorization header."""

    def __init__(
        self,
        path: CallPath,
        identifier: Identifier,
        default_deadline_s: float,
        audit: AuditCalls | None = None,
        *,
        reads_header: bool = False,
    ) -> None:
        self._path = path
        self._audit = audit
        self.identifier = identifier
        self._reads_header = reads_header
        self._default_deadline_s = default_deadline_s

    def generic_handlers(self) -> list[grpc.GenericRpcHandler]:
        """What a server is given."""
        signing: dict[str, Method] = {
            "WrapSessionKey": self._wrap_session_key,
            "SignChecksum": self._sign_checksum,
            "BatchSignChecksums": self._batch_sign_checksums,
            "UnwrapSessionKey": self._unwrap_session_key,
        }
        keys: dict[str, Method] = {"ListKeys": self._list_keys, "GetKey": self._get_key}
        services = {SIGNING_SERVICE: signing, KEY_SERVICE: keys}
        if self._audit is not None:
            services[AUDIT_SERVICE] = AuditHandlers(self._audit).methods()
        return [
            grpc.method_handlers_generic_handler(service, {name: self._method(m) for name, m in methods.items()})
            for service, methods in services.items()
        ]

    def _method(self, method: Method) -> grpc.RpcMethodHandler[bytes, Any]:
        async def handle(body: bytes, context: Call) -> Message:
            request_id = os.urandom(16).hex()
            try:
                answer = await method(self._arrival(request_id, context), body)
            except ServiceError as error:
                failure = error
            except Exception:  # noqa: BLE001 - gRPC would send its text to the caller
                # What is raised outside the path of a call (a recorder's failure among it) tells a caller no more.
                _LOG.exception("request %s failed in a way that it should not", request_id)
                failure = errors.internal(request_id)
            else:
                context.set_trailing_metadata(((REQUEST_ID, request_id),))
                return answer
            status = failure.status().SerializeToString()
            metadata = ((REQUEST_ID, request_id), ("grpc-status-details-bin", status))
            await context.abort(_STATUS_CODES[failure.code], failure.message, metadata)
            raise AssertionError("abort raises")

        return grpc.unary_unary_rpc_method_handler(handle, None, _serialize)

    def _arrival(self, request_id: str, context: Call) -> Arrival:
        deadline_s = context.deadline_s
        if deadline_s is None:
            deadline_s = time.monotonic() + self._default_deadline_s
        certificate, chain = context.certificates()
        header = _authorization(context.headers) if self._reads_header else ()
        peer = Peer(context.peer(), certificate, chain, header)
        return Arrival(peer, self.identifier, request_id, deadline_s, _call_id(context.headers))

    async def _wrap_session_key(self, arrival: Arrival, body: bytes) -> Message:
        def read() -> WrapSessionKey:
            request = _parse(signing_pb2.WrapSessionKeyRequest, body)
            return WrapSessionKey(request.key, _wrap_scheme(request), _context(request), request.session_key)

        answer, receipts = await self._path.use_key(arrival, Operation.WRAP_SESSION_KEY, read)
        return signing_pb2.WrapSessionKeyResponse(
            wrapped_key=_only(answer), key_version=answer.key_version, audit=_audit(receipts)
        )

    async def _sign_checksum(self, arrival: Arrival, body: bytes) -> Message:
        def read() -> SignChecksums:
            request = _parse(signing_pb2.SignChecksumRequest, body)
            scheme = _signature_scheme(request)
            return SignChecksums(request.key, scheme, _context(request), (request.checksum,), batch=False)

        answer, receipts = await self._path.use_key(arrival, Operation.SIGN_CHECKSUM, read)
        return signing_pb2.SignChecksumResponse(
            signature=_only(answer), key_version=answer.key_version, audit=_audit(receipts)
        )

    async def _batch_sign_checksums(self, arrival: Arrival, body: bytes) -> Message:
        def read() -> SignChecksums:
            request = _parse(signing_pb2.BatchSignChecksumsRequest, body)
            scheme = _signature_scheme(request)
            return SignChecksums(request.key, scheme, _context(request), tuple(request.checksums), batch=True)

        answer, receipts = await self._path.use_key(arrival, Operation.SIGN_CHECKSUM, read)
        response = signing_pb2.BatchSignChecksumsResponse(key_version=answer.key_version)
        # Each result is made where it stays: to make it elsewhere and to copy it takes twice as long.
        made = [_add_result(response, result) for result in answer.results]
        for result, receipt in zip(made, receipts, strict=True) if receipts else ():
            _write(receipt, result.audit)
        return response

    async def _unwrap_session_key(self, arrival: Arrival, body: bytes) -> Message:
        def read() -> UnwrapSessionKey:
            request = _parse(signing_pb2.UnwrapSessionKeyRequest, body)
            return UnwrapSessionKey(request.key, _wrap_scheme(request), _context(request), request.wrapped_key)

        answer, receipts = await self._path.use_key(arrival, Operation.UNWRAP_SESSION_KEY, read)
        return signing_pb2.UnwrapSessionKeyResponse(
            session_key=_only(answer), key_version=answer.key_version, audit=_audit(receipts)
        )

    async def _list_keys(self, arrival: Arrival, body: bytes) -> Message:
        def read() -> str:
            _parse(keys_pb2.ListKeysRequest, body)
            return ""

        shown = await self._path.show_keys(arrival, Operation.LIST_KEYS, read)
        return keys_pb2.ListKeysResponse(keys=[_key(key) for key in shown])

    async def _get_key(self, arrival: Arrival, body: bytes) -> Message:
        shown = await self._path.show_keys(
            arrival, Operation.GET_KEY, lambda: _parse(keys_pb2.GetKeyRequest, body).name
        )
        return keys_pb2.GetKeyResponse(key=_key(shown[0]))


class AuditHandlers:
    """The methods of AuditService."""

    def __init__(self, audit: AuditCalls) -> None:
        self._audit = audit

    def methods(self) -> dict[str, Method]:
        """Each by its name."""
        return {
            "GetCheckpoint": self._get_checkpoint,
            "GetInclusionProof": self._get_inclusion_proof,
            "GetConsistencyProof": self._get_consistency_proof,
            "ListRecords": self._list_records,
        }

    async def _get_checkpoint(self, arrival: Arrival, body: bytes) -> Message:
        note, cosigned = await self._audit.checkpoint(
            arrival, lambda: _parse(audit_pb2.GetCheckpointRequest, body).log_id
        )
        return audit_pb2.GetCheckpointResponse(
            checkpoint=note.decode(), cosigned_checkpoints=[each.decode() for each in cosigned]
        )

    async def _get_inclusion_proof(self, arrival: Arrival, body: bytes) -> Message:
        def read() -> InclusionQuery:
            request = _parse(audit_pb2.GetInclusionProofRequest, body)
            chosen = request.WhichOneof("record")
            return InclusionQuery(
                request.log_id,
                request.leaf_hash if chosen == "leaf_hash" else None,
                request.index if chosen == "index" else None,
            )

        found = await self._audit.inclusion(arrival, read)
        return audit_pb2.GetInclusionProofResponse(
            index=found.index, proof=found.proof, checkpoint=found.checkpoint.decode(), line=found.record.decode()
        )

    async def _get_consistency_proof(self, arrival: Arrival, body: bytes) -> Message:
        def read() -> ConsistencyQuery:
            request = _parse(audit_pb2.GetConsistencyProofRequest, body)
            return ConsistencyQuery(request.log_id, request.old_size, request.size)

        proof, note = await self._audit.consistency(arrival, read)
        return audit_pb2.GetConsistencyProofResponse(proof=proof, checkpoint=note.decode())

    async def _list_records(self, arrival: Arrival, body: bytes) -> Message:
        def read() -> RecordsQuery:
            request = _parse(audit_pb2.ListRecordsRequest, body)
            return RecordsQuery(
                request.log_id,
                request.start_index,
                request.page_size,
                request.caller,
                request.key,
                request.operation,
                request.outcome,
            )

        page = await self._audit.records(arrival, read)
        return audit_pb2.ListRecordsResponse(
            records=[audit_pb2.AuditRecord(index=index, line=line.decode()) for index, line in page.records],
            next_index=page.next_index,
            size=page.size,
        )


def _authorization(metadata: Iterable[tuple[str, str | bytes]]) -> tuple[str, ...]:
    """The values of the authorization header; what is no text proves nothing."""
    return tuple(value if isinstance(value, str) else "" for name, value in metadata if name == "authorization")


def _call_id(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The caller's own name for the call; anything of another form is none."""
    for name, value in metadata:
        if name == CALL_ID:
            return value if isinstance(value, str) and _CALL_ID.fullmatch(value) else ""
    return ""


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _parse(message_type: type[_M], body: bytes) -> _M:
    try:
        return message_type.FromString(body)
    except DecodeError:
        raise errors.invalid([Violation("", f"the request is no {message_type.DESCRIPTOR.full_name}")]) from None


def _wrap_scheme(request: signing_pb2.WrapSessionKeyRequest | signing_pb2.UnwrapSessionKeyRequest) -> WrapScheme:
    scheme = _WRAP_SCHEMES.get(request.scheme)
    if scheme is None:
        raise _unset(signing_pb2.WrapScheme.keys())
    return scheme


def _signature_scheme(
    request: signing_pb2.SignChecksumRequest | signing_pb2.BatchSignChecksumsRequest,
) -> SignatureScheme:
    scheme = _SIGNATURE_SCHEMES.get(request.scheme)
    if scheme is None:
        raise _unset(signing_pb2.SignatureScheme.keys())
    return scheme


def _unset(names: list[str]) -> InputError:
    return InputError("scheme", f"must be one of {', '.join(names[1:])}; there is no default")


def _context(
    request: signing_pb2.WrapSessionKeyRequest
    | signing_pb2.SignChecksumRequest
    | signing_pb2.BatchSignChecksumsRequest
    | signing_pb2.UnwrapSessionKeyRequest,
) -> Context:
    if not request.HasField("context"):
        return NO_CONTEXT
    said = request.context
    context = Context(said.app_id, said.bundle_version, said.source_revision, said.build_url)
    context.check()
    return context


def _only(answer: Answer) -> bytes:
    result = answer.results[0]
    if isinstance(result, ServiceError):
        raise result
    return result


def _add_result(
    response: signing_pb2.BatchSignChecksumsResponse, result: bytes | ServiceError
) -> signing_pb2.BatchResult:
    if isinstance(result, ServiceError):
        error = signing_pb2.BatchError(code=result.code, message=result.message)
        return response.results.add(error=error)
    return response.results.add(signature=result)


def _audit(receipts: Sequence[Receipt]) -> audit_pb2.AuditReceipt | None:
    if not receipts:
        return None
    audit = audit_pb2.AuditReceipt()
    _write(receipts[0], audit)
    return audit


def _write(receipt: Receipt, audit: audit_pb2.AuditReceipt) -> None:
    audit.log_id = receipt.log
    audit.leaf_hash = receipt.leaf_hash
    audit.worker = receipt.worker
    audit.segment = receipt.segment
    audit.offset = receipt.offset
    audit.number = receipt.number


def _key(shown: VisibleKey) -> keys_pb2.Key:
    served = shown.served
    key = keys_pb2.Key(
        name=served.name,
        wrap_schemes=[wire for wire, scheme in _WRAP_SCHEMES.items() if scheme in shown.schemes],
        signature_schemes=[wire for wire, scheme in _SIGNATURE_SCHEMES.items() if scheme in shown.schemes],
        state=_STATES[served.state],
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
