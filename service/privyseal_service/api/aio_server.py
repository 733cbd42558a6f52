"""The gRPC server on grpc.aio, gRPC's public API for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc

from privyseal_service.api.server import Around, Metadata

_LOG = logging.getLogger(__name__)


class AioCall:
    """The context of grpc.aio as `server.Call`."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self.headers: Metadata = tuple(context.invocation_metadata() or ())
        left_s = context.time_remaining()
        self.deadline_s = None if left_s is None else time.monotonic() + left_s
        self.peer = context.peer
        self.set_trailing_metadata = context.set_trailing_metadata
        self.abort = context.abort

    def certificates(self) -> tuple[bytes, bytes]:
        """Return the peer's own certificate, and all certificates that it sent, in PEM; empty without TLS."""
        shown = self._context.auth_context()
        return b"".join(shown.get("x509_pem_cert", ())), b"".join(shown.get("x509_pem_cert_chain", ()))

    async def fail(self, error: BaseException) -> None:
        """End the call after its handler failed: gRPC would send the error's text, or nothing for a cancellation."""
        if isinstance(error, asyncio.CancelledError):
            if self._context.cancelled():  # by the caller, its deadline or the stop: the core ends it
                raise error
            await self.abort(grpc.StatusCode.CANCELLED)
        _LOG.error("internal error in a call's handler", exc_info=error)
        await self.abort(grpc.StatusCode.UNKNOWN, "the call failed")


class _Handler(grpc.GenericRpcHandler):
    """Gives handlers an AioCall for a context, and their errors a status."""

    def __init__(self, handler: grpc.GenericRpcHandler, around: Around | None) -> None:
        self._handler = handler
        self._around = around

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        found: Any = self._handler.service(handler_call_details)
        if found is None:
            return None
        name = handler_call_details.method
        read, write = found.request_deserializer, found.response_serializer
        if found.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(self._unary(name, found.unary_unary), read, write)
        if found.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(self._stream(name, found.unary_stream), read, write)
        return grpc.stream_stream_rpc_method_handler(self._stream(name, found.stream_stream), read, write)

    def _unary(self, name: str, method: Callable[..., Awaitable[Any]]) -> Any:
        async def handle(request: Any, context: Any) -> Any:
            call = AioCall(context)
            try:
                with self._around(name, call.headers) if self._around else contextlib.nullcontext():
                    return await method(request, call)
            except grpc.aio.AbortError:
                raise
            except (asyncio.CancelledError, Exception) as error:  # noqa: BLE001
                await call.fail(error)

        return handle

    def _stream(self, name: str, method: Callable[..., AsyncIterator[Any]]) -> Any:
        async def handle(requests: Any, context: Any) -> AsyncIterator[Any]:
            call = AioCall(context)
            try:
                with self._around(name, call.headers) if self._around else contextlib.nullcontext():
                    async with contextlib.aclosing(method(requests, call)) as answers:  # type: ignore[type-var]
                        async for answer in answers:
                            yield answer
            except grpc.aio.AbortError:
                raise
            except (asyncio.CancelledError, Exception) as error:  # noqa: BLE001
                await call.fail(error)

        return handle


class AioServer:
    """Implements `server.Server` on grpc.aio. Make and stop it on the event loop that it serves on."""

    def __init__(self, options: Sequence[tuple[str, int]], around: Around | None = None) -> None:
        self._server: grpc.aio.Server | None = grpc.aio.server(options=options)
        self._around = around

    @property
    def _running(self) -> grpc.aio.Server:
        assert self._server is not None, "the server was stopped"
        return self._server

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Serve the methods of these handlers."""
        self._running.add_generic_rpc_handlers(tuple(_Handler(handler, self._around) for handler in handlers))

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """Do nothing: they were given to `add_generic_rpc_handlers`."""

    def add_secure_port(self, address: str, credentials: grpc.ServerCredentials) -> int:
        """Listen with TLS. Returns the port. Raises RuntimeError."""
        return self._running.add_secure_port(address, credentials)

    def add_insecure_port(self, address: str) -> int:
        """Listen without TLS. Returns the port. Raises RuntimeError."""
        return self._running.add_insecure_port(address)

    async def start(self) -> None:
        """Accept calls."""
        await self._running.start()

    async def stop(self, grace_s: float) -> None:
        """Accept no more calls, give those in flight so many seconds to end, and cancel the rest."""
        server, self._server = self._server, None  # let go here: its __del__ needs the running loop
        if server is not None:
            await server.stop(grace_s)
