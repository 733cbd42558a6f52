"""Chooses the gRPC server: gRPC's core where its version was tested, else grpc.aio, or what the setting names.

With the core a call costs about a quarter less CPU time than with grpc.aio; the core is no public API.
docs/decisions/0009-server-seam.md compares them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import grpc

from privyseal_service.api.server import Around, Server

_LOG = logging.getLogger(__name__)

TESTED_CORE = ((1, 80), (1, 86))
"""The grpcio versions whose core the tests ran with: from the first up to, and without, the second. To extend it,
install the new version, change the second, and run `make test`, which runs the server's tests on both."""

Choice: TypeAlias = Literal["auto", "core", "aio"]


class ServerType(NamedTuple):
    """A way to serve: how a server is made of channel arguments, and a sentence for the log."""

    make: Callable[[Sequence[tuple[str, int]], Around | None], Server]
    reason: str


def choose_server(choice: Choice, version: str = grpc.__version__) -> ServerType:
    """Return the server for the setting `server.grpc`: with "auto", the core where its version was tested."""
    first, end = TESTED_CORE
    tested = first <= _major_minor(version) < end
    if choice == "aio":
        return _aio("server.grpc chooses it")
    if choice == "auto" and not tested:
        return _aio(f"grpcio {version} is outside the versions tested with gRPC's core, {_text(first)} to {_text(end)}")
    try:
        from privyseal_service.api import core_server  # noqa: PLC0415 - its import fails with an unsuitable grpcio
    except (ImportError, AttributeError) as error:
        return _aio(f"gRPC's core in grpcio {version} cannot be used: {error}")
    if not tested:
        _LOG.warning("server.grpc chooses gRPC's core, which was not tested with grpcio %s", version)
    return ServerType(core_server.CoreServer, f"gRPC's core of grpcio {version} serves")


def _aio(why: str) -> ServerType:
    from privyseal_service.api import aio_server  # noqa: PLC0415 - only one of the two is loaded

    return ServerType(aio_server.AioServer, f"grpc.aio serves, since {why}")


def _major_minor(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def _text(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
