"""The standard health service (grpc.health.v1): it reports on the server and its services, never on a key.

Readiness is the health of "" (the server) and of SigningService: SERVING while decisions can be recorded and at least
one key serves. Liveness is the health of `live`: SERVING until the stop, since a restart does not recover a key store.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

PROBLEMS = "privyseal-problems"
"""The trailing metadata of a Check: the number of active issues that do not stop the service."""

LIVE = "live"
"""The service name for liveness."""

HEALTH_SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


class Health(health_pb2_grpc.HealthServicer):
    """Health of "" (the server), of `live` and of each service; `of_keys` names the services that need a key.
    Unlike the stock servicer it ends its watches when the service stops, so that none of them delays the stop.

    `problems` are the active issues, sentences by subject, that do not stop the service. A Check reports only their
    number.
    """

    def __init__(self, services: list[str], of_keys: frozenset[str] = frozenset()) -> None:
        self._services = frozenset(["", LIVE, *services])
        self._of_keys = of_keys | {""}
        self._keys_serve = True
        self._serving = False
        self._recording = True
        self._stopping = False
        self.problems: Mapping[str, str] = {}
        self._changed = asyncio.Event()

    def serve(self) -> None:
        """Report SERVING from now on."""
        self._serving = True
        self._notify()

    def records(self, safe: bool) -> None:  # noqa: FBT001 - its only argument
        """Set whether decisions can be recorded: while they cannot, no call is served."""
        self._recording = safe
        self._notify()

    def keys(self, serve: bool) -> None:  # noqa: FBT001 - its only argument
        """Set whether any key serves."""
        if serve != self._keys_serve:
            self._keys_serve = serve
            self._notify()

    def stop(self) -> None:
        """Report NOT_SERVING for good; every watch reports it and ends."""
        self._serving = False
        self._stopping = True
        self._notify()

    @property
    def recording(self) -> bool:
        """Whether decisions can be recorded."""
        return self._recording

    @property
    def ready(self) -> bool:
        """Whether a Check of "" reports SERVING."""
        return self._serving and self._recording and self._keys_serve

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _answer(self, service: str) -> health_pb2.HealthCheckResponse:
        if service not in self._services:
            return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
        ready = self._recording and (self._keys_serve or service not in self._of_keys)
        if self._serving and (ready or service == LIVE):
            return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING)

    async def Check(  # noqa: N802 - the service's name
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> health_pb2.HealthCheckResponse:
        """Return the health of one service. NOT_FOUND for a name that the server does not serve."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service")
        context.set_trailing_metadata(((PROBLEMS, str(len(self.problems))),))
        return self._answer(request.service)

    async def Watch(  # noqa: N802 - the service's name
        self,
        request: health_pb2.HealthCheckRequest,
        context: Any,  # noqa: ARG002 - the service's signature
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Yield the health of one service now and at each change. SERVICE_UNKNOWN for a name that is not served."""
        while True:
            # Both are read before the answer, so that a change while it is sent gives another answer.
            changed, stopping = self._changed, self._stopping
            yield self._answer(request.service)
            if stopping:
                return
            await changed.wait()
