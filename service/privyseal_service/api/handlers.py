"""The gRPC methods of SigningService and KeyService: they read requests into types, and write answers and errors.

No rule of the service stands here. Every answer carries a request id that is generated here. Requests are parsed here
and not by gRPC, so that bytes that are no message get an answer as any other invalid request.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf.message import Message

from privyseal.v1 import audit_pb2, keys_pb2, signing_pb2
from privyseal_service.api.audit_handlers import AuditHandlers
from privyseal_service.api.audit_queries import AuditCalls
from privyseal_service.api.server import Call
from privyseal_service.api.wire import (
    STATUS_CODES,
    Method,
    add_result,
    error_status,
    parse,
    parse_message,
    read_context,
    signature_scheme,
    wrap_scheme,
    write_first_receipt,
    write_key,
    write_receipt,
)
from privyseal_service.domain import errors
from privyseal_service.domain.caller import Identifier, Peer
from privyseal_service.domain.errors import ServiceError
from privyseal_service.domain.operation_names import Operation
from privyseal_service.domain.requests import SignChecksums, UnwrapSessionKey, WrapSessionKey
from privyseal_service.signing.call_path import CallPath
from privyseal_service.signing.calls import Answer, IncomingCall

_LOG = logging.getLogger(__name__)

REQUEST_ID = "privyseal-request-id"
"""The trailing metadata that every answer carries."""

CALL_ID = "privyseal-call-id"
"""The metadata by which a caller ties the attempts of one call together: 32 lower-case hex characters."""
_CALL_ID = re.compile(r"[0-9a-f]{32}")

SIGNING_SERVICE = signing_pb2.DESCRIPTOR.services_by_name["SigningService"].full_name
AUDIT_SERVICE = audit_pb2.DESCRIPTOR.services_by_name["AuditService"].full_name
KEY_SERVICE = keys_pb2.DESCRIPTOR.services_by_name["KeyService"].full_name


class Handlers:
    """The methods of SigningService, KeyService and, where an audit trail is kept, AuditService, for one listener.
    `identifier` may be replaced while serving; with `reads_header` it gets the authorization header."""

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
        """Return the handlers for a server."""
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
                answer = await method(self._incoming(request_id, context), body)
            except ServiceError as error:
                failure = error
            except Exception:  # noqa: BLE001 - gRPC would send its text to the caller
                # Also an error outside the path of a call, such as a recorder's: the caller learns only the request id.
                _LOG.exception("internal error in request %s", request_id)
                failure = errors.internal(request_id)
            else:
                context.set_trailing_metadata(((REQUEST_ID, request_id),))
                return answer
            status = error_status(failure).SerializeToString()
            metadata = ((REQUEST_ID, request_id), ("grpc-status-details-bin", status))
            await context.abort(STATUS_CODES[failure.code], failure.message, metadata)
            raise AssertionError("abort raises")

        return grpc.unary_unary_rpc_method_handler(handle, None, _serialize)

    def _incoming(self, request_id: str, context: Call) -> IncomingCall:
        deadline_s = context.deadline_s
        if deadline_s is None:
            deadline_s = time.monotonic() + self._default_deadline_s
        certificate, chain = context.certificates()
        header = _authorization(context.headers) if self._reads_header else ()
        peer = Peer(context.peer(), certificate, chain, header)
        return IncomingCall(peer, self.identifier, request_id, deadline_s, _call_id(context.headers))

    async def _wrap_session_key(self, call: IncomingCall, body: bytes) -> Message:
        request = parse(_read_wrap_session_key, body)
        answer, receipts = await self._path.use_key(call, Operation.WRAP_SESSION_KEY, request)
        return signing_pb2.WrapSessionKeyResponse(
            wrapped_key=_only(answer), key_version=answer.key_version, audit=write_first_receipt(receipts)
        )

    async def _sign_checksum(self, call: IncomingCall, body: bytes) -> Message:
        request = parse(_read_sign_checksum, body)
        answer, receipts = await self._path.use_key(call, Operation.SIGN_CHECKSUM, request)
        return signing_pb2.SignChecksumResponse(
            signature=_only(answer), key_version=answer.key_version, audit=write_first_receipt(receipts)
        )

    async def _batch_sign_checksums(self, call: IncomingCall, body: bytes) -> Message:
        request = parse(_read_batch_sign_checksums, body)
        answer, receipts = await self._path.use_key(call, Operation.SIGN_CHECKSUM, request)
        response = signing_pb2.BatchSignChecksumsResponse(key_version=answer.key_version)
        # Each result is made where it stays: making it elsewhere and copying it takes twice as long.
        results = [add_result(response, result) for result in answer.results]
        for result, receipt in zip(results, receipts, strict=True) if receipts else ():
            write_receipt(receipt, result.audit)
        return response

    async def _unwrap_session_key(self, call: IncomingCall, body: bytes) -> Message:
        request = parse(_read_unwrap_session_key, body)
        answer, receipts = await self._path.use_key(call, Operation.UNWRAP_SESSION_KEY, request)
        return signing_pb2.UnwrapSessionKeyResponse(
            session_key=_only(answer), key_version=answer.key_version, audit=write_first_receipt(receipts)
        )

    async def _list_keys(self, call: IncomingCall, body: bytes) -> Message:
        name = parse(_read_list_keys, body)
        shown = await self._path.show_keys(call, Operation.LIST_KEYS, name)
        return keys_pb2.ListKeysResponse(keys=[write_key(key) for key in shown])

    async def _get_key(self, call: IncomingCall, body: bytes) -> Message:
        name = parse(_read_get_key, body)
        shown = await self._path.show_keys(call, Operation.GET_KEY, name)
        return keys_pb2.GetKeyResponse(key=write_key(shown[0]))


def _read_wrap_session_key(body: bytes) -> WrapSessionKey:
    request = parse_message(signing_pb2.WrapSessionKeyRequest, body)
    return WrapSessionKey(request.key, wrap_scheme(request), read_context(request), request.session_key)


def _read_sign_checksum(body: bytes) -> SignChecksums:
    request = parse_message(signing_pb2.SignChecksumRequest, body)
    scheme = signature_scheme(request)
    return SignChecksums(request.key, scheme, read_context(request), (request.checksum,), batch=False)


def _read_batch_sign_checksums(body: bytes) -> SignChecksums:
    request = parse_message(signing_pb2.BatchSignChecksumsRequest, body)
    scheme = signature_scheme(request)
    return SignChecksums(request.key, scheme, read_context(request), tuple(request.checksums), batch=True)


def _read_unwrap_session_key(body: bytes) -> UnwrapSessionKey:
    request = parse_message(signing_pb2.UnwrapSessionKeyRequest, body)
    return UnwrapSessionKey(request.key, wrap_scheme(request), read_context(request), request.wrapped_key)


def _read_list_keys(body: bytes) -> str:
    parse_message(keys_pb2.ListKeysRequest, body)
    return ""


def _read_get_key(body: bytes) -> str:
    return parse_message(keys_pb2.GetKeyRequest, body).name


def _authorization(metadata: Iterable[tuple[str, str | bytes]]) -> tuple[str, ...]:
    """Return the values of the authorization header; a value that is not text proves nothing."""
    return tuple(value if isinstance(value, str) else "" for name, value in metadata if name == "authorization")


def _call_id(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Return the caller's own name for the call; empty for any other form."""
    for name, value in metadata:
        if name == CALL_ID:
            return value if isinstance(value, str) and _CALL_ID.fullmatch(value) else ""
    return ""


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _only(answer: Answer) -> bytes:
    result = answer.results[0]
    if isinstance(result, ServiceError):
        raise result
    return result
