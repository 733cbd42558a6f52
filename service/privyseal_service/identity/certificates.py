"""Who calls: from the client certificate itself to one name, with the proof. No gRPC, and none of its fallbacks.

A certificate proves the one SPIFFE ID among its URI names, else its one DNS name, else (only where the listener says
so) its common name. The authority that issued it must be bound to the name it vouches for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from privyseal_service.domain.caller import Caller, DeniedCertificates, IdentityError, Peer, Proof
from privyseal_service.domain.names import CallerNameError, CallerPattern, common_name, dns_name, spiffe_name

_MOST_SENT = 6
"""Certificates that a peer may send, its own among them. It chooses them, so what they cost is bounded."""

_MOST_SENT_BYTES = 32 * 1024

UNREADABLE = (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
"""What asking a certificate for its key, its extensions or its issuer's signature can raise."""


@dataclass(frozen=True)
class ClientAuthority:
    """A client CA, and the names that it may vouch for."""

    certificate: x509.Certificate
    names: tuple[CallerPattern, ...]


@dataclass(frozen=True, slots=True)
class _Proven:
    """What a certificate proves for as long as it is valid and not denied."""

    caller: Caller
    fingerprints: tuple[str, ...]
    serials: tuple[int, ...]
    not_before_s: float
    not_after_s: float


class CertificateIdentifier:
    """For a mutual-TLS listener. A certificate is parsed once; expiry and denial are looked at in every call.

    When the CAs change, another one takes its place, which knows nothing yet: a CA that was taken away proves nothing
    from the next call on, whatever connection it comes over.
    """

    _MOST_CACHED = 512

    def __init__(
        self,
        authorities: Sequence[ClientAuthority],
        *,
        allow_common_name: bool = False,
        denied: DeniedCertificates | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._authorities = tuple(authorities)
        self._allow_common_name = allow_common_name
        self._denied = denied or DeniedCertificates()
        self._clock = clock
        # By the PEM's bytes: an address is used again by another caller, a certificate is not.
        self._known: dict[tuple[bytes, bytes], _Proven | IdentityError] = {}

    def identify(self, peer: Peer) -> Caller:
        """The caller that the peer's certificate proves. Raises IdentityError."""
        shown = (peer.certificate, peer.chain)
        proven = self._known.get(shown)
        if proven is None:
            proven = self._learn(peer)
            if len(self._known) >= self._MOST_CACHED:
                self._known.clear()
            self._known[shown] = proven
        if isinstance(proven, IdentityError):
            raise IdentityError(str(proven), proven.proof)
        proof = proven.caller.proof
        if not self._denied.fingerprints.isdisjoint(proven.fingerprints):
            raise IdentityError("the certificate is on the list of denied fingerprints", proof)
        if not self._denied.serials.isdisjoint(proven.serials):
            raise IdentityError("the certificate is on the list of denied serial numbers", proof)
        now_s = self._clock()
        if now_s > proven.not_after_s:
            raise IdentityError("the certificate, or one that vouches for it, has expired", proof)
        if now_s < proven.not_before_s:
            raise IdentityError("the certificate, or one that vouches for it, is not valid yet", proof)
        return proven.caller

    def _learn(self, peer: Peer) -> _Proven | IdentityError:
        try:
            return self._prove(*_parse(peer))
        except IdentityError as error:
            return error
        except UNREADABLE:
            return IdentityError("the certificate, or one beside it, cannot be read")

    def _prove(self, leaf: x509.Certificate, sent: Sequence[x509.Certificate]) -> _Proven:
        details = {"certificate": _fingerprint(leaf), "serial": f"{leaf.serial_number:x}"}
        seen = Proof("mtls", details)
        if not _for_clients(leaf):
            raise IdentityError("the certificate is not for clients: its extended key usage lacks clientAuth", seen)
        try:
            name = certificate_name(leaf, allow_common_name=self._allow_common_name)
        except CallerNameError as error:
            raise IdentityError(str(error), seen) from None
        path = self._vouched(leaf, sent, name)
        if path is None:
            raise IdentityError(f"no client CA that may vouch for {name} issued the certificate", seen)
        proof = Proof("mtls", {**details, "authority": _fingerprint(path[-1])})
        return _Proven(
            Caller(name, proof),
            tuple(_fingerprint(certificate) for certificate in path[:-1]),
            tuple(certificate.serial_number for certificate in path[:-1]),
            max(certificate.not_valid_before_utc.timestamp() for certificate in path),
            min(certificate.not_valid_after_utc.timestamp() for certificate in path),
        )

    def _vouched(
        self, leaf: x509.Certificate, sent: Sequence[x509.Certificate], name: str
    ) -> list[x509.Certificate] | None:
        """The path from the leaf to a client CA that issued it and may vouch for the name, both included."""
        bound = [a.certificate for a in self._authorities if any(pattern.matches(name) for pattern in a.names)]
        return _path([leaf], [certificate for certificate in sent if certificate != leaf], bound)


def _parse(peer: Peer) -> tuple[x509.Certificate, list[x509.Certificate]]:
    """The peer's own certificate, and all that it sent."""
    if not peer.certificate:
        raise IdentityError("the peer showed no certificate")
    if len(peer.certificate) + len(peer.chain) > _MOST_SENT_BYTES:
        raise IdentityError(f"the peer sent more than {_MOST_SENT_BYTES} bytes of certificates")
    try:
        leaf = x509.load_pem_x509_certificate(peer.certificate)
        sent = x509.load_pem_x509_certificates(peer.chain) if peer.chain else []
    except ValueError:
        raise IdentityError("the certificate cannot be parsed") from None
    if len(sent) > _MOST_SENT:
        raise IdentityError(f"the peer sent more than {_MOST_SENT} certificates")
    return leaf, sent


def _path(
    path: list[x509.Certificate], unused: list[x509.Certificate], anchors: Sequence[x509.Certificate]
) -> list[x509.Certificate] | None:
    """The path continued to one of the anchors, by certificates that were sent and may issue what they issued. Each
    that was sent is tried once: it is taken out of `unused`."""
    below = len(path) - 1
    for anchor in anchors:
        if _issued(path[-1], anchor) and may_issue(anchor, intermediates_below=below):
            return [*path, anchor]
    for candidate in list(unused):
        if candidate not in unused or not _issued(path[-1], candidate):
            continue
        unused.remove(candidate)
        # Name constraints are TLS's to check, and it may have taken another path: with them, nothing is proven here.
        if may_issue(candidate, intermediates_below=below) and not _has(candidate, ExtensionOID.NAME_CONSTRAINTS):
            found = _path([*path, candidate], unused, anchors)
            if found is not None:
                return found
    return None


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    if certificate.issuer != issuer.subject:
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def may_issue(certificate: x509.Certificate, *, intermediates_below: int) -> bool:
    """Whether a certificate is one of a CA that may have so many CAs below it (RFC 5280, 4.2.1.3 and 4.2.1.9)."""
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound as missing:
        if missing.oid == ExtensionOID.BASIC_CONSTRAINTS:
            return False
        usage = None
    except ValueError:
        return False
    if not basic.ca or (basic.path_length is not None and basic.path_length < intermediates_below):
        return False
    return usage is None or usage.key_cert_sign


def _has(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> bool:
    return any(extension.oid == oid for extension in certificate.extensions)


def certificate_name(certificate: x509.Certificate, *, allow_common_name: bool) -> str:
    """The one name that a certificate is for: its SPIFFE ID, else its DNS name, else its common name where that is
    allowed. Raises CallerNameError where there is none, more than one, or one that is not well formed."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        hosts = names.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        uris, hosts = [], []
    except ValueError:
        raise CallerNameError("the certificate's alternative names cannot be parsed") from None
    if any(uri.lower().startswith("spiffe:") for uri in uris):
        # X509-SVID, section 2: exactly one URI.
        if len(uris) > 1:
            raise CallerNameError("the certificate has a SPIFFE ID and another URI beside it")
        return spiffe_name(uris[0])
    if hosts:
        if len(hosts) > 1:
            raise CallerNameError("the certificate has more than one DNS name, and a caller has one")
        return dns_name(hosts[0])
    if not allow_common_name:
        raise CallerNameError("the certificate has neither a SPIFFE ID nor a DNS name among its alternative names")
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(common) != 1:
        raise CallerNameError("the certificate's subject does not have exactly one common name")
    value = common[0].value
    return common_name(value if isinstance(value, str) else "")


def _for_clients(leaf: x509.Certificate) -> bool:
    try:
        usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    except ValueError:
        return False
    return ExtendedKeyUsageOID.CLIENT_AUTH in usages


def _fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(SHA256()).hex()
