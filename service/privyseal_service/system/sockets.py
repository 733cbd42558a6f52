"""The ports of the listeners. The supervisor reserves them, so that every worker can listen on the same ones.

A reservation is a socket that is bound and never listens, so the kernel sends it no connection. It is bound exclusively
and marked as shared (SO_REUSEPORT) afterwards: a second service is refused unless it shares the port too, and the
workers of this service are not refused.
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
    """A listener's address is not available. The text is a sentence that names the address."""

    @classmethod
    def at(cls, address: str, *, shared: bool = False) -> ListenError:
        """Return the error for an address as it is configured."""
        question = "is it an address of this machine, and does nobody but this user's processes listen there?"
        if not shared:
            question = "is it taken, or not an address of this machine?"
        return cls(f"cannot listen at {address}: {question}")


@dataclass(frozen=True)
class Reservation:
    """A port that is held until `release`. `address` has the port's real number."""

    address: str
    sockets: tuple[socket.socket, ...]

    def release(self) -> None:
        """Release the port."""
        for each in self.sockets:
            each.close()


def reserve(address: str, *, share: bool) -> Reservation:
    """Reserve the port of HOST:PORT, or a free one for port 0. With `share`, other processes of the same user may
    reserve and serve it too. Nothing is reserved for `unix:PATH`. Raises ListenError."""
    if address.startswith("unix:"):
        return Reservation(address, ())
    host, port = split_address(address)
    try:
        places = _places(host, port)
    except OSError:
        raise ListenError.at(address, shared=share) from None
    for _ in range(1 if port else _TRIES):
        sockets = _bind_all(places, port, share=share)
        if sockets:
            number = sockets[0].getsockname()[1]
            return Reservation(f"{address.rpartition(':')[0]}:{number}", tuple(sockets))
    raise ListenError.at(address, shared=share)


def _places(host: str, port: int) -> list[_Place]:
    """Return the addresses on which gRPC will listen for the host: a wildcard of either family means both."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    places: list[_Place] = list(dict.fromkeys((family, str(where[0])) for family, _, _, _, where in found))
    wildcard: list[_Place] = [(socket.AF_INET, "0.0.0.0")]  # noqa: S104
    if any(where in {"0.0.0.0", "::"} for _, where in places):  # noqa: S104 - looked for, not bound to
        both: list[_Place] = [(socket.AF_INET6, "::")]
        return both if socket.has_dualstack_ipv6() else wildcard
    return places


def _bind_all(places: list[_Place], port: int, *, share: bool) -> list[socket.socket]:
    """Bind a socket at each place, all to one port; return no socket when one of the addresses is taken."""
    bound: list[socket.socket] = []
    with contextlib.ExitStack() as undo:
        for family, where in places:
            try:
                each = undo.enter_context(_bind(family, where, port, share=share))
            except OSError:
                return []
            port = each.getsockname()[1]
            bound.append(each)
        undo.pop_all()
    return bound


def _bind(family: socket.AddressFamily, where: str, port: int, *, share: bool) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Closing connections of an earlier service must not block the port.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family is socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(where != "::"))
        bound.bind((where, port))
        # From here on the port can only be shared, and the workers can share it.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        bound.close()
        raise
    return bound
