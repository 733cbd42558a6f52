"""The gRPC server: gRPC's own core, brought to the event loop by one thread and without grpc.aio's layer.

grpc.aio spends 0.25 to 0.30 ms of CPU time on each call (three tasks, and a wake-up of the loop for each of four
events), which is half of an RSA-2048 signature. Here a thread waits for the core and takes its first steps with a call,
and the loop hears of it once the request is there: 0.1 ms. It uses what grpc's own threaded server is made of,
`grpc._cython.cygrpc`, which grpc promises to nobody; docs/decisions/0006-grpc-server.md says what follows from that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeAlias

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined] # its stubs leave it out

_LOG = logging.getLogger(__name__)

_OFFERED_CALLS = 64
"""Calls that the core may hand over before it is asked for another one; those beyond wait inside of it."""

_NO_FLAGS = 0
_OK = cygrpc.StatusCode.ok
_FOREVER_S = 1 << 33
"""Later than any deadline: how the core writes that there is none, in seconds since 1970."""

Metadata: TypeAlias = "tuple[tuple[str, str | bytes], ...]"


class AbortError(Exception):
    """Raised by `Call.abort`, once the status is on its way. A handler lets it pass."""


class _Details:
    """What a `grpc.GenericRpcHandler` is asked with."""

    def __init__(self, method: str, invocation_metadata: Metadata) -> None:
        self.method = method
        self.invocation_metadata = invocation_metadata


class Call:
    """One call as its handler sees it: the part of `grpc.aio.ServicerContext` that this service needs.

    The poller's thread makes it and starts the receiving; from then on it belongs to the event loop.
    """

    __slots__ = (
        *("_begun", "_call", "_metadata_sent", "_method", "_server", "_trailing"),
        *("deadline_s", "done", "headers", "task"),
    )

    def __init__(self, server: Server, event: Any, method: grpc.RpcMethodHandler[Any, Any]) -> None:
        self._server = server
        self._call = event.call
        self._method = method
        self._trailing: Metadata = ()
        self._metadata_sent = False
        self._begun = False
        self.headers: Metadata = event.invocation_metadata
        """The metadata that the caller sent."""
        # The core tells it by the wall clock, which may jump while the request is still on its way.
        told_s: float = event.call_details.deadline
        self.deadline_s = None if told_s > _FOREVER_S else time.monotonic() + told_s - time.time()
        """The caller's deadline, as `time.monotonic()` reads; None where it set none."""
        self.done = False
        self.task: asyncio.Task[None] | None = None

    # --- for handlers ---

    def peer(self) -> str:
        """The other end's address, as gRPC writes it."""
        return str(self._call.peer(), "utf-8")

    def certificates(self) -> tuple[bytes, bytes]:
        """What TLS was shown: the peer's own certificate and all that it sent, in PEM; empty without."""
        shown = cygrpc.auth_context(self._call)
        return b"".join(shown.get(b"x509_pem_cert", ())), b"".join(shown.get(b"x509_pem_cert_chain", ()))

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """What is sent with the status."""
        self._trailing = metadata

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> None:
        """End the call with an error. Raises AbortError."""
        self._trailing = trailing_metadata or self._trailing
        self._end(code.value[0], details)
        raise AbortError

    # --- on the poller's thread ---

    def begin(self) -> None:
        """Take the first steps, which need nothing of the event loop."""
        self._call.start_server_batch((cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS),), self._closed)
        if self._method.request_streaming:
            self._server.tell(self._start)
        else:
            self._call.start_server_batch((cygrpc.ReceiveMessageOperation(_NO_FLAGS),), self._received)

    def _received(self, event: Any) -> None:
        body = event.batch_operations[0].message()
        if body is not None:  # else its caller has gone, or sent nothing
            self._server.tell(self._start, body)
        else:
            self._server.tell(self._end, grpc.StatusCode.UNIMPLEMENTED.value[0], "the request is missing")

    def _closed(self, event: Any) -> None:
        if event.batch_operations[0].cancelled():
            self._server.tell(self._cancel)

    # --- on the event loop ---

    def _start(self, body: bytes | None = None) -> None:
        """Run the handler; without a body, the requests are a stream."""
        if self.done:
            return
        self.task = self._server.loop.create_task(self._handle(body))
        self._server.calls.add(self)

    def _cancel(self) -> None:
        """The caller has gone, its deadline has passed, or the server does not wait any longer."""
        if not self.done:
            self._end(grpc.StatusCode.CANCELLED.value[0], "")
            self.end_handler()

    def end_handler(self) -> None:
        """Cancel the handler, where it runs."""
        if self.task is not None:
            self.task.cancel()
            if not self._begun:  # and never begins
                self._server.calls.discard(self)

    async def _handle(self, body: bytes | None) -> None:
        self._begun = True
        method: Any = self._method
        try:
            if method.unary_unary is not None:
                read, write = method.request_deserializer, method.response_serializer
                answer = await method.unary_unary(read(body) if read else body, self)
                self._end(_OK, "", write(answer) if write else answer)
            else:
                await self._stream(self._requests() if body is None else body)
        except AbortError:
            pass
        except Exception:  # noqa: BLE001 - gRPC would send its text to the caller
            _LOG.exception("a call's handler failed in a way that it should not")
            self._end(grpc.StatusCode.UNKNOWN.value[0], "the call failed")
        finally:
            self._server.calls.discard(self)

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
        """Have the core do something of a stream, and wait for it."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def came(event: Any) -> None:
            self._server.tell(_settle, future, event)

        self._server.begin(self._call, operations, came)
        return await future

    def _initial_metadata(self) -> list[Any]:
        if self._metadata_sent:
            return []
        self._metadata_sent = True
        return [cygrpc.SendInitialMetadataOperation((), _NO_FLAGS)]

    def _end(self, code: int, details: str, answer: bytes | None = None) -> None:
        """Send the status, after the answer where there is one; the first end counts."""
        if self.done:
            return
        self.done = True
        operations = self._initial_metadata()
        if answer is not None:
            operations.append(cygrpc.SendMessageOperation(answer, _NO_FLAGS))
        operations.append(cygrpc.SendStatusFromServerOperation(self._trailing, code, details.encode(), _NO_FLAGS))
        try:
            self._server.begin(self._call, operations, _nothing)
        except Exception:  # what cannot be sent must not leave its caller waiting
            self._call.cancel()
            raise


def _settle(future: asyncio.Future[Any], event: Any) -> None:
    if not future.done():
        future.set_result(event)


def _nothing(_: Any) -> None:
    """The status was sent, or nobody was there to take it."""


class Server:
    """A gRPC server whose handlers are coroutines on the event loop that starts it. Add ports and handlers, then
    `start` it once and `stop` it."""

    def __init__(self, options: Sequence[tuple[str, int]]) -> None:
        self._queue = cygrpc.CompletionQueue()
        self._server = cygrpc.Server([(name.encode(), value) for name, value in options], False)  # noqa: FBT003
        self._server.register_completion_queue(self._queue)
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._methods: dict[bytes, grpc.RpcMethodHandler[Any, Any]] = {}
        self.loop: asyncio.AbstractEventLoop
        """The event loop of the handlers, once the server was started."""
        self._poller: threading.Thread | None = None
        self._stopping = self._ended = False
        self._stopped = asyncio.Event()
        self._news: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._told = False
        self.calls: set[Call] = set()
        """Those whose handler runs."""

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Serve what these have."""
        self._handlers.extend(handlers)

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """For generated code, which gives what it gave to `add_generic_rpc_handlers` once more."""

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
        """Accept no more calls, give those in flight so many seconds to end, and cancel what is left. Returns when the
        core has no call any more; handlers that were cancelled may still be ending. Safe to call twice, and before
        `start`."""
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

    # --- on the poller's thread ---

    def _poll(self) -> None:
        """Wait for the core, and have each thing that happened go to who waits for it."""
        while True:
            event = self._queue.poll()
            if event.tag is None:  # the queue is shut down, and empty
                break
            try:
                event.tag(event)
            except Exception:  # noqa: BLE001 - the others' calls go on
                _LOG.exception("a call failed in a way that it should not")
            # A call must be let go before the next wait: its last reference ends it (grpc does the same).
            event = None
        self._server.destroy()
        self.tell(self._stopped.set)

    def _arrived(self, event: Any) -> None:
        method = event.call_details.method
        if not event.success or method is None:  # an offer that the stop took back
            return
        with contextlib.suppress(ValueError):  # it stops
            self._server.request_call(self._queue, self._queue, self._arrived)
        handler = self._methods.get(method) or self._handler(method, event.invocation_metadata)
        if handler is not None:
            Call(self, event, handler).begin()
            return
        status = cygrpc.SendStatusFromServerOperation((), cygrpc.StatusCode.unimplemented, b"no such method", _NO_FLAGS)
        event.call.start_server_batch((cygrpc.SendInitialMetadataOperation((), _NO_FLAGS), status), _nothing)
        event.call.start_server_batch((cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS),), _nothing)

    def _handler(self, method: bytes, metadata: Metadata) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of a method, looked for once where there is one: what is asked in vain must not fill memory."""
        details: Any = _Details(str(method, "utf-8", "replace"), metadata)
        for each in self._handlers:
            found = each.service(details)
            if found is not None:
                self._methods[method] = found
                return found
        return None

    def _shut_down(self, _: Any) -> None:
        """No call is in the core any more, and none comes."""
        self.tell(self._end)

    def tell(self, hear: Callable[..., None], *arguments: Any) -> None:
        """Have the event loop call something, together with whatever else is told until it does."""
        self._news.append((hear, arguments))
        if not self._told:
            self._told = True
            with contextlib.suppress(RuntimeError):  # a loop that is closed serves nobody
                self.loop.call_soon_threadsafe(self._hear)

    # --- on the event loop ---

    def _hear(self) -> None:
        self._told = False  # before the first look: what comes after the last one is told anew
        while self._news:
            hear, arguments = self._news.popleft()
            try:
                hear(*arguments)
            except Exception:  # noqa: BLE001 - the others' calls go on
                _LOG.exception("a call failed in a way that it should not")

    def begin(self, call: Any, operations: Sequence[Any], came: Callable[[Any], None]) -> None:
        """Have the core do something with a call; `came` hears on the poller's thread when it is done."""
        if not self._ended:
            call.start_server_batch(operations, came)

    def _end(self) -> None:
        """Let the poller go: nothing may be begun any more."""
        self._ended = True
        for call in list(self.calls):
            call.end_handler()
        self._queue.shutdown()
