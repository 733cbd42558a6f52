"""What the service needs of a gRPC server: a server, a call as its handler sees it, and a hook around each handler.

`core_server` and `aio_server` implement it, and `server_choice` chooses between them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, TypeAlias

import grpc

_LOG = logging.getLogger(__name__)

Metadata: TypeAlias = "tuple[tuple[str, str | bytes], ...]"
Around: TypeAlias = Callable[[str, Metadata], AbstractContextManager[object]]
"""Entered around each handler with the method's full name and the caller's metadata."""


class Call(Protocol):
    """One call as its handler sees it."""

    @property
    def headers(self) -> Metadata:
        """The metadata that the caller sent."""

    @property
    def deadline_s(self) -> float | None:
        """The caller's deadline, as `time.monotonic()` reads; None where it set none."""

    def peer(self) -> str:
        """Return the other end's address, as gRPC writes it."""

    def certificates(self) -> tuple[bytes, bytes]:
        """Return the peer's own certificate, and all certificates that it sent, in PEM; empty without TLS."""

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """Set the metadata that is sent with the status."""

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> None:
        """End the call with an error. It raises an error, which the handler must not catch."""


class Server(Protocol):
    """A gRPC server whose handlers are coroutines on the event loop that starts it, and get a `Call` as context. Add
    ports and handlers, then `start` it once and `stop` it."""

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Serve the methods of these handlers."""

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """Do nothing. Generated code calls it with what it also gives to `add_generic_rpc_handlers`."""

    def add_secure_port(self, address: str, credentials: grpc.ServerCredentials) -> int:
        """Listen with TLS. Returns the port. Raises RuntimeError."""

    def add_insecure_port(self, address: str) -> int:
        """Listen without TLS. Returns the port. Raises RuntimeError."""

    async def start(self) -> None:
        """Accept calls."""

    async def stop(self, grace_s: float) -> None:
        """Accept no more calls, give those in flight so many seconds to end, and cancel the rest. Safe to call twice,
        and before `start`."""


@contextmanager
def log_call(method: str, _: Metadata) -> Iterator[None]:
    """Log a call and the time that its handler took (an `Around`)."""
    begun_s = time.monotonic()
    try:
        yield
    finally:
        _LOG.debug("%s took %.1f ms", method, 1000 * (time.monotonic() - begun_s))


def serialized(write: Callable[[Any], bytes] | None, answer: Any) -> bytes:
    """Return an answer as bytes; without a serializer it is bytes already."""
    return write(answer) if write else answer
