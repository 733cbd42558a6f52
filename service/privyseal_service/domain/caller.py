"""Who calls: peer, proof, caller, and what a listener needs to identify one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from privyseal_service.domain.names import INSECURE
from privyseal_service.domain.operation_names import Claims


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection: its address, and what TLS was shown (PEM; empty without TLS).

    `chain` is all that the peer sent, PEM certificates one after another, the peer's own among them. `authorization`
    are the values of the header of that name, where the listener looks at it.
    """

    address: str
    certificate: bytes = b""
    chain: bytes = b""
    authorization: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Proof:
    """How a caller proved its name: the method, and what was seen (fingerprints are hex SHA-256 of the DER)."""

    method: str
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller whose name was proven, with the claims of its token that matter, if it has one."""

    name: str
    proof: Proof
    claims: Claims = ()


class IdentityError(Exception):
    """The peer did not prove a name. The text is for the log; `proof` is what was seen of it, if anything."""

    def __init__(self, reason: str, proof: Proof | None = None) -> None:
        super().__init__(reason)
        self.proof = proof


class Identifier(Protocol):
    """How a listener learns who calls."""

    def identify(self, peer: Peer) -> Caller:
        """The caller. Raises IdentityError. Called for every call: it must neither wait nor take long."""


class InsecureIdentifier:
    """For a listener without TLS: everybody is `local:insecure`."""

    _CALLER = Caller(INSECURE, Proof("none"))

    def identify(self, peer: Peer) -> Caller:  # noqa: ARG002 - the protocol's argument
        """The one caller that such a listener knows."""
        return self._CALLER


@dataclass(frozen=True)
class DeniedCertificates:
    """Certificates that prove nothing any more: hex SHA-256 fingerprints of the DER, and serial numbers."""

    fingerprints: frozenset[str] = frozenset()
    serials: frozenset[int] = frozenset()
