"""The ports of the listeners, held by the supervisor so that every worker can listen on the same ones.

A port is held by sockets that are bound and never listen: the kernel brings no connection to them. They are bound
alone and only then marked as shared (SO_REUSEPORT), so that a second service that was not told to share the port is
refused, and the workers of this one are not.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from typing import TypeAlias

from privyseal_service.system.addresses import split_address

_TRIES = 16

_Place: TypeAlias = "tuple[socket.AddressFamily, str]"


class ListenError(Exception):
    """A listener's address cannot be had. The text is a sentence that names it."""

    @classmethod
    def at(cls, address: str, *, shared: bool = False) -> ListenError:
        """For the address as it is configured."""
        question = "is it an address of this machine, and does nobody but this user's processes listen there?"
        if not shared:
            question = "is it taken, or not an address of this machine?"
        return cls(f"cannot listen at {address}: {question}")


@dataclass(frozen=True)
class Reservation:
    """An address whose port is held until `release`; `address` has the port's number."""

    address: str
    sockets: tuple[socket.socket, ...]

    def release(self) -> None:
        """Give the port back."""
        for each in self.sockets:
            each.close()


def reserve(address: str, *, share: bool) -> Reservation:
    """Hold the port of HOST:PORT; with port 0, one that is free. With `share`, others of the same user may hold and
    serve it too. Raises ListenError."""
    if address.startswith("unix:"):
        return Reservation(address, ())
    host, port = split_address(address)
    try:
        places = _places(host, port)
    except OSError:
        raise ListenError.at(address, shared=share) from None
    for _ in range(1 if port else _TRIES):
        held = _hold(places, port, share=share)
        if held:
            number = held[0].getsockname()[1]
            return Reservation(f"{address.rpartition(':')[0]}:{number}", tuple(held))
    raise ListenError.at(address, shared=share)


def _places(host: str, port: int) -> list[_Place]:
    """Where gRPC will listen for the host: a wildcard of either family means both."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    places: list[_Place] = list(dict.fromkeys((family, str(where[0])) for family, _, _, _, where in found))
    wildcard: list[_Place] = [(socket.AF_INET, "0.0.0.0")]  # noqa: S104
    if any(where in {"0.0.0.0", "::"} for _, where in places):  # noqa: S104 - looked for, not bound to
        both: list[_Place] = [(socket.AF_INET6, "::")]
        return both if socket.has_dualstack_ipv6() else wildcard
    return places


def _hold(places: list[_Place], port: int, *, share: bool) -> list[socket.socket]:
    """A socket for each place, all on one port; none when one of them is taken."""
    held: list[socket.socket] = []
    with contextlib.ExitStack() as undo:
        for family, where in places:
            try:
                made = undo.enter_context(_bound(family, where, port, share=share))
            except OSError:
                return []
            port = made.getsockname()[1]
            held.append(made)
        undo.pop_all()
    return held


def _bound(family: socket.AddressFamily, where: str, port: int, *, share: bool) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Connections of an earlier service that still end must not keep the port from us.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family is socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(where != "::"))
        made.bind((where, port))
        # From here on nobody takes the port but by sharing it, and whoever is to share it can.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        made.close()
        raise
    return made
