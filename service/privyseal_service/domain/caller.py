"""Callers: peer, proof, caller, and the interface that identifies one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from privyseal_service.domain.names import INSECURE
from privyseal_service.domain.operation_names import Claims


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection: its address, and its TLS client certificate (PEM; empty without one).

    `chain` has every certificate that the peer sent, PEM one after another, including its own. `authorization` has the
    values of the header of that name, where the listener reads it.
    """

    address: str
    certificate: bytes = b""
    chain: bytes = b""
    authorization: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Proof:
    """How a caller proved its name: the method and its details (fingerprints are hex SHA-256 of the DER)."""

    method: str
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller whose name is proven, with the kept claims of its token, if it has one."""

    name: str
    proof: Proof
    claims: Claims = ()


class IdentityError(Exception):
    """The peer did not prove a name. The text is for the log; `proof` has the details that were read, if any."""

    def __init__(self, reason: str, proof: Proof | None = None) -> None:
        super().__init__(reason)
        self.proof = proof


class Identifier(Protocol):
    """Identifies the callers of a listener."""

    def identify(self, peer: Peer) -> Caller:
        """Return the caller. Raises IdentityError. It runs for every call, so it must neither wait nor take long."""


class InsecureIdentifier:
    """For a listener without TLS: every caller is `local:insecure`."""

    _CALLER = Caller(INSECURE, Proof("none"))

    def identify(self, peer: Peer) -> Caller:  # noqa: ARG002 - the protocol's argument
        """Return the only caller of such a listener."""
        return self._CALLER


@dataclass(frozen=True)
class DeniedCertificates:
    """Certificates that are not accepted any more: hex SHA-256 fingerprints of the DER, and serial numbers."""

    fingerprints: frozenset[str] = frozenset()
    serials: frozenset[int] = frozenset()
