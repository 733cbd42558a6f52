"""The gRPC server on gRPC's core: one thread waits for the core, and handlers run on the event loop.

grpc.aio spends 0.25 to 0.30 ms of CPU time on each call (three tasks, and a wake-up of the loop for each of four
events), half of an RSA-2048 signature. Here a thread takes the first steps of a call, and the event loop is woken once,
when the request is there: 0.1 ms. It uses the layer that grpc's own threaded server uses, `grpc._cython.cygrpc`, which
is no public API: `api/server.py` chooses grpc.aio where this layer was not tested.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined] # its stubs leave it out

from privyseal_service.api.server import Around, Metadata, serialized

_LOG = logging.getLogger(__name__)

_NAMES = (
    *("CompletionQueue", "ReceiveCloseOnServerOperation", "ReceiveMessageOperation", "SendInitialMetadataOperation"),
    *("SendMessageOperation", "SendStatusFromServerOperation", "Server", "StatusCode", "auth_context"),
)
if _lacking := [name for name in _NAMES if not hasattr(cygrpc, name)]:
    raise ImportError(f"it has no {', '.join(_lacking)}")  # now, and not in a call

_OFFERED_CALLS = 64
"""Calls that the core may hand over before it is asked for another one; further calls wait inside it."""

_NO_FLAGS = 0
_OK = cygrpc.StatusCode.ok
_FOREVER_S = 1 << 33
"""Later than any deadline: the core's form of "none", in seconds since 1970."""


class AbortError(Exception):
    """Raised by `Call.abort` after the status was sent. A handler must not catch it."""


class _Details:
    """The argument of `grpc.GenericRpcHandler.service`."""

    def __init__(self, method: str, invocation_metadata: Metadata) -> None:
        self.method = method
        self.invocation_metadata = invocation_metadata


class CoreCall:
    """One call as its handler sees it (implements `server.Call`).

    The polling thread makes it and begins to receive; from then on it belongs to the event loop.
    """

    __slots__ = (
        *("_begun", "_call", "_metadata_sent", "_method", "_name", "_server", "_trailing"),
        *("deadline_s", "done", "headers", "task"),
    )

    def __init__(self, server: CoreServer, event: Any, method: grpc.RpcMethodHandler[Any, Any]) -> None:
        self._server = server
        self._call = event.call
        self._method = method
        self._name = str(event.call_details.method, "utf-8", "replace")
        self._trailing: Metadata = ()
        self._metadata_sent = False
        self._begun = False
        self.headers: Metadata = event.invocation_metadata
        """The metadata that the caller sent."""
        # The core gives it by the wall clock, which may jump while the request is still on its way.
        deadline_s: float = event.call_details.deadline
        self.deadline_s = None if deadline_s > _FOREVER_S else time.monotonic() + deadline_s - time.time()
        """The caller's deadline, as `time.monotonic()` reads; None where it set none."""
        self.done = False
        self.task: asyncio.Task[None] | None = None

    # --- for handlers ---

    def peer(self) -> str:
        """Return the other end's address, as gRPC writes it."""
        return str(self._call.peer(), "utf-8")

    def certificates(self) -> tuple[bytes, bytes]:
        """Return the peer's own certificate, and all certificates that it sent, in PEM; empty without TLS."""
        shown = cygrpc.auth_context(self._call)
        return b"".join(shown.get(b"x509_pem_cert", ())), b"".join(shown.get(b"x509_pem_cert_chain", ()))

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """Set the metadata that is sent with the status."""
        self._trailing = metadata

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> None:
        """End the call with an error. Raises AbortError."""
        self._trailing = trailing_metadata or self._trailing
        self._end(code.value[0], details)
        raise AbortError

    # --- on the polling thread ---

    def begin(self) -> None:
        """Take the first steps, which do not need the event loop."""
        self._call.start_server_batch((cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS),), self._closed)
        if self._method.request_streaming:
            self._server.post(self._start)
        else:
            self._call.start_server_batch((cygrpc.ReceiveMessageOperation(_NO_FLAGS),), self._received)

    def _received(self, event: Any) -> None:
        body = event.batch_operations[0].message()
        if body is not None:  # otherwise the caller has gone, or sent no message
            self._server.post(self._start, body)
        else:
            self._server.post(self._end, grpc.StatusCode.UNIMPLEMENTED.value[0], "the request is missing")

    def _closed(self, event: Any) -> None:
        if event.batch_operations[0].cancelled():
            self._server.post(self._cancel)

    # --- on the event loop ---

    def _start(self, body: bytes | None = None) -> None:
        """Run the handler; without a body, the requests are a stream."""
        if self.done:
            return
        self.task = self._server.loop.create_task(self._handle(body))
        self._server.calls.add(self)

    def _cancel(self) -> None:
        """End a call whose caller has gone, whose deadline has passed, or that the stop does not wait for."""
        if not self.done:
            self._end(grpc.StatusCode.CANCELLED.value[0], "")
            self.end_handler()

    def end_handler(self) -> None:
        """Cancel the handler, where it runs."""
        if self.task is not None:
            self.task.cancel()
            if not self._begun:  # a task that is cancelled before it begins runs no finally
                self._server.calls.discard(self)

    async def _handle(self, body: bytes | None) -> None:
        self._begun = True
        around = self._server.around
        try:
            if around is None:
                await self._run(body)
            else:
                with around(self._name, self.headers):
                    await self._run(body)
        except AbortError:
            pass
        except asyncio.CancelledError:
            self._end(grpc.StatusCode.CANCELLED.value[0], "")
            raise
        except Exception:  # noqa: BLE001 - gRPC would send its text to the caller
            _LOG.exception("internal error in a call's handler")
            self._end(grpc.StatusCode.UNKNOWN.value[0], "the call failed")
        finally:
            self._server.calls.discard(self)

    async def _run(self, body: bytes | None) -> None:
        method: Any = self._method
        if method.unary_unary is not None:
            read = method.request_deserializer
            answer = await method.unary_unary(read(body) if read else body, self)
            self._end(_OK, "", serialized(method.response_serializer, answer))
        else:
            await self._stream(self._requests() if body is None else body)

    async def _stream(self, requests: bytes | AsyncIterator[Any]) -> None:
        method: Any = self._method
        read, write = method.request_deserializer, method.response_serializer
        if isinstance(requests, bytes):
            answers = method.unary_stream(read(requests), self)
        else:
            answers = method.stream_stream(requests, self)
        async with contextlib.aclosing(answers):
            async for answer in answers:
                operations = [*self._initial_metadata(), cygrpc.SendMessageOperation(write(answer), _NO_FLAGS)]
                await self._batch(operations)
        self._end(_OK, "")

    async def _requests(self) -> AsyncIterator[Any]:
        read: Any = self._method.request_deserializer
        while not self.done:
            event = await self._batch([cygrpc.ReceiveMessageOperation(_NO_FLAGS)])
            body = event.batch_operations[0].message()
            if body is None:
                return
            yield read(body)

    async def _batch(self, operations: Sequence[Any]) -> Any:
        """Have the core run operations of a stream, and wait until they are done."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(event: Any) -> None:
            self._server.post(_settle, future, event)

        self._server.begin(self._call, operations, done)
        return await future

    def _initial_metadata(self) -> list[Any]:
        if self._metadata_sent:
            return []
        self._metadata_sent = True
        return [cygrpc.SendInitialMetadataOperation((), _NO_FLAGS)]

    def _end(self, code: int, details: str, answer: bytes | None = None) -> None:
        """Send the status, after the answer where there is one. Only the first call has an effect."""
        if self.done:
            return
        self.done = True
        operations = self._initial_metadata()
        if answer is not None:
            operations.append(cygrpc.SendMessageOperation(answer, _NO_FLAGS))
        operations.append(cygrpc.SendStatusFromServerOperation(self._trailing, code, details.encode(), _NO_FLAGS))
        try:
            self._server.begin(self._call, operations, _nothing)
        except Exception:  # the caller must not wait for what cannot be sent
            self._call.cancel()
            raise


def _settle(future: asyncio.Future[Any], event: Any) -> None:
    if not future.done():
        future.set_result(event)


def _nothing(_: Any) -> None:
    """The status was sent, or the caller had gone."""


class CoreServer:
    """Implements `server.Server` on gRPC's core."""

    def __init__(self, options: Sequence[tuple[str, int]], around: Around | None = None) -> None:
        self.around = around
        self._queue = cygrpc.CompletionQueue()
        self._server = cygrpc.Server([(name.encode(), value) for name, value in options], False)  # noqa: FBT003
        self._server.register_completion_queue(self._queue)
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._methods: dict[bytes, grpc.RpcMethodHandler[Any, Any]] = {}
        self.loop: asyncio.AbstractEventLoop
        """The event loop of the handlers, once the server is started."""
        self._poller: threading.Thread | None = None
        self._stopping = self._ended = False
        self._stopped = asyncio.Event()
        self._posted: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._wakes = False
        self.calls: set[CoreCall] = set()
        """Those whose handler runs."""

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Serve the methods of these handlers."""
        self._handlers.extend(handlers)

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """Do nothing: they were given to `add_generic_rpc_handlers`."""

    def add_secure_port(self, address: str, credentials: grpc.ServerCredentials) -> int:
        """Listen with TLS. Returns the port. Raises RuntimeError."""
        return self._add_port(address, credentials._credentials)  # type: ignore[attr-defined] # noqa: SLF001

    def add_insecure_port(self, address: str) -> int:
        """Listen without TLS. Returns the port. Raises RuntimeError."""
        return self._add_port(address, None)

    def _add_port(self, address: str, credentials: Any) -> int:
        port: int = self._server.add_http2_port(address.encode(), credentials)
        if not port:
            raise RuntimeError(f"cannot listen at {address}")
        return port

    async def start(self) -> None:
        """Accept calls."""
        self.loop = asyncio.get_running_loop()
        self._server.start()
        for _ in range(_OFFERED_CALLS):
            self._server.request_call(self._queue, self._queue, self._arrived)
        self._poller = threading.Thread(target=self._poll, name="grpc", daemon=True)
        self._poller.start()

    async def stop(self, grace_s: float) -> None:
        """Accept no more calls, give those in flight so many seconds to end, and cancel the rest. Returns when the core
        has no call any more; handlers that were cancelled may still be ending."""
        if self._poller is None:
            return
        if not self._stopping:
            self._stopping = True
            self._server.shutdown(self._queue, self._shut_down)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), grace_s)
        if not self._stopped.is_set():
            self._server.cancel_all_calls()
        await self._stopped.wait()

    # --- on the polling thread ---

    def _poll(self) -> None:
        """Wait for the core's events, and call the handler of each."""
        while True:
            event = self._queue.poll()
            if event.tag is None:  # the queue is shut down, and empty
                break
            try:
                event.tag(event)
            except Exception:  # noqa: BLE001 - other calls continue
                _LOG.exception("internal error in the gRPC server")
            # The last reference to a call ends it, so none may be held while waiting (grpc does the same).
            event = None
        self._server.destroy()
        self.post(self._stopped.set)

    def _arrived(self, event: Any) -> None:
        method = event.call_details.method
        if not event.success or method is None:  # the stop withdrew this offer
            return
        with contextlib.suppress(ValueError):  # the server stops
            self._server.request_call(self._queue, self._queue, self._arrived)
        handler = self._methods.get(method) or self._handler(method, event.invocation_metadata)
        if handler is not None:
            CoreCall(self, event, handler).begin()
            return
        status = cygrpc.SendStatusFromServerOperation((), cygrpc.StatusCode.unimplemented, b"no such method", _NO_FLAGS)
        event.call.start_server_batch((cygrpc.SendInitialMetadataOperation((), _NO_FLAGS), status), _nothing)
        event.call.start_server_batch((cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS),), _nothing)

    def _handler(self, method: bytes, metadata: Metadata) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the handler of a method. Only methods that exist are kept, so that callers cannot fill the memory."""
        details: Any = _Details(str(method, "utf-8", "replace"), metadata)
        for each in self._handlers:
            found = each.service(details)
            if found is not None:
                self._methods[method] = found
                return found
        return None

    def _shut_down(self, _: Any) -> None:
        """No call is in the core any more, and none will come."""
        self.post(self._end)

    def post(self, callback: Callable[..., None], *arguments: Any) -> None:
        """Have the event loop run a callback. It is woken once for all callbacks that are posted until it runs them."""
        self._posted.append((callback, arguments))
        if not self._wakes:
            self._wakes = True
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self.loop.call_soon_threadsafe(self._run_posted)

    # --- on the event loop ---

    def _run_posted(self) -> None:
        self._wakes = False  # before the first look: a callback that comes after the last look wakes the loop again
        while self._posted:
            callback, arguments = self._posted.popleft()
            try:
                callback(*arguments)
            except Exception:  # noqa: BLE001 - other calls continue
                _LOG.exception("internal error in the gRPC server")

    def begin(self, call: Any, operations: Sequence[Any], done: Callable[[Any], None]) -> None:
        """Have the core run operations of a call; `done` is called on the polling thread."""
        if not self._ended:
            call.start_server_batch(operations, done)

    def _end(self) -> None:
        """End the polling thread. No operation may begin any more."""
        self._ended = True
        for call in list(self.calls):
            call.end_handler()
        self._queue.shutdown()
