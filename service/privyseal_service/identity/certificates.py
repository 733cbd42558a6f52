"""Who calls on a mutual-TLS listener: from the client's certificate to one name, with the proof.

A certificate proves the one SPIFFE ID among its URI names, else its one DNS name, else its common name where the
listener allows common names. A valid path must lead from it to a client CA that is bound to that name.
"""

from __future__ import annotations

import datetime
import enum
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from privyseal_service.domain.caller import Caller, DeniedCertificates, IdentityError, Peer, Proof
from privyseal_service.domain.names import CallerNameError, CallerPattern, common_name, dns_name, spiffe_name
from privyseal_service.identity.certificate_path import PathError, validate_path

_MAX_SENT = 6
"""Certificates that a peer may send, its own among them. The peer chooses them, so their cost is bounded."""

_MAX_SENT_BYTES = 32 * 1024

UNREADABLE = (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
"""What reading a certificate's key or extensions can raise."""


class Refusal(enum.Enum):
    """Why a certificate proves no caller."""

    ABSENT = "absent"
    OVERSIZED = "oversized"
    UNREADABLE = "unreadable"
    UNNAMED = "unnamed"
    UNBOUND = "unbound"
    INVALID_PATH = "invalid path"
    EXPIRED = "expired"
    NOT_YET_VALID = "not yet valid"
    DENIED = "denied"


class CertificateError(IdentityError):
    """The peer's certificate proves no caller. The text is for the log."""

    def __init__(self, refusal: Refusal, reason: str, proof: Proof | None = None) -> None:
        super().__init__(reason, proof)
        self.refusal = refusal


@dataclass(frozen=True)
class ClientAuthority:
    """A client CA, and the names that it may vouch for."""

    certificate: x509.Certificate
    names: tuple[CallerPattern, ...]


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What a certificate proves from `from_s` until before `until_s`, in seconds since 1970.

    None of the certificates that it depends on expires or becomes valid in between. `fingerprints` and `serials` are
    those of the path, without the CA at its end.
    """

    result: Caller | CertificateError
    from_s: float = -math.inf
    until_s: float = math.inf
    fingerprints: tuple[str, ...] = ()
    serials: tuple[int, ...] = ()


class CertificateIdentifier:
    """Identifies the callers of a mutual-TLS listener. Expiry and denial are checked in every call.

    A result is kept by the certificates that the peer sent. When the client CAs change, a new identifier replaces this
    one: a CA that was removed proves nothing from the next call on, on any connection.
    """

    _MAX_CACHED = 512

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
        self._verdicts: dict[tuple[bytes, bytes], _Verdict] = {}

    def identify(self, peer: Peer) -> Caller:
        """Return the caller that the peer's certificate proves. Raises CertificateError."""
        now_s = int(self._clock())  # certificates are valid through the whole second of their end
        sent = (peer.certificate, peer.chain)
        verdict = self._verdicts.get(sent)
        if verdict is None or not verdict.from_s <= now_s < verdict.until_s:
            verdict = self._judge(peer, now_s)
            if len(self._verdicts) >= self._MAX_CACHED:
                self._verdicts.clear()
            self._verdicts[sent] = verdict
        result = verdict.result
        if not self._denied.fingerprints.isdisjoint(verdict.fingerprints):
            reason = "the certificate, or an intermediate of its path, is on the list of denied fingerprints"
            raise CertificateError(Refusal.DENIED, reason, result.proof)
        if not self._denied.serials.isdisjoint(verdict.serials):
            reason = "the certificate, or an intermediate of its path, is on the list of denied serial numbers"
            raise CertificateError(Refusal.DENIED, reason, result.proof)
        if isinstance(result, CertificateError):
            raise CertificateError(result.refusal, str(result), result.proof)
        return result

    def _judge(self, peer: Peer, now_s: int) -> _Verdict:
        try:
            leaf, sent = _parse(peer)
            return self._judge_certificates(leaf, sent, now_s)
        except CertificateError as error:
            return _Verdict(error)
        except UNREADABLE:
            reason = "the certificate, or one that was sent with it, cannot be read"
            return _Verdict(CertificateError(Refusal.UNREADABLE, reason))

    def _judge_certificates(self, leaf: x509.Certificate, sent: list[x509.Certificate], now_s: int) -> _Verdict:
        details = {"certificate": _fingerprint(leaf), "serial": f"{leaf.serial_number:x}"}
        proof = Proof("mtls", details)
        try:
            name = certificate_name(leaf, allow_common_name=self._allow_common_name)
        except CallerNameError as error:
            raise CertificateError(Refusal.UNNAMED, str(error), proof) from None
        issuers = {certificate.issuer for certificate in (leaf, *sent)}
        bound = [
            authority.certificate
            for authority in self._authorities
            if authority.certificate.subject in issuers and any(pattern.matches(name) for pattern in authority.names)
        ]
        if not bound:
            reason = f"no client CA that may vouch for {name} issued the certificate"
            raise CertificateError(Refusal.UNBOUND, reason, proof)
        failure = ""
        try:
            path: list[x509.Certificate] | None = self._path(leaf, sent, bound, now_s)
        except PathError as error:
            path, failure = self._path_at_another_time(leaf, sent, bound, now_s), str(error)
        if path is not None:
            proof = Proof("mtls", {**details, "authority": _fingerprint(path[-1])})
        result: Caller | CertificateError = Caller(name, proof)
        if failure:
            reason = f"no valid path leads to a client CA that may vouch for {name}: {failure}"
            out_of_date = _out_of_date(path or (), now_s)
            result = CertificateError(*(out_of_date or (Refusal.INVALID_PATH, reason)), proof)
        below = (path or [])[:-1]
        fingerprints, serials = map(_fingerprint, below), (certificate.serial_number for certificate in below)
        return _Verdict(result, *_unchanged([leaf, *sent, *bound], now_s), tuple(fingerprints), tuple(serials))

    def _path(
        self, leaf: x509.Certificate, sent: list[x509.Certificate], bound: list[x509.Certificate], at_s: int
    ) -> list[x509.Certificate]:
        """Return the valid path at a time. Raises PathError."""
        at = datetime.datetime.fromtimestamp(at_s, datetime.UTC)
        return validate_path(leaf, sent, bound, at, require_alternative_name=not self._allow_common_name)

    def _path_at_another_time(
        self, leaf: x509.Certificate, sent: list[x509.Certificate], bound: list[x509.Certificate], now_s: int
    ) -> list[x509.Certificate] | None:
        """Return the path that would be valid if nothing on it had expired, or everything on it were valid already, so
        that the log can name this as the reason. Two times are tried: a search costs up to 128 signature checks."""
        validities = [_validity(certificate) for certificate in (leaf, *sent, *bound)]
        expired = [end_s - 1 for _, end_s in validities if end_s <= now_s]
        future = [start_s for start_s, _ in validities if start_s > now_s]
        for at_s in [*([min(expired)] if expired else []), *([max(future)] if future else [])]:
            try:
                return self._path(leaf, sent, bound, at_s)
            except PathError:
                continue
        return None


def _parse(peer: Peer) -> tuple[x509.Certificate, list[x509.Certificate]]:
    """Return the peer's own certificate, and all that it sent. Raises CertificateError."""
    if not peer.certificate:
        raise CertificateError(Refusal.ABSENT, "the peer sent no certificate")
    if len(peer.certificate) + len(peer.chain) > _MAX_SENT_BYTES:
        reason = f"the peer sent more than {_MAX_SENT_BYTES} bytes of certificates"
        raise CertificateError(Refusal.OVERSIZED, reason)
    try:
        leaf = x509.load_pem_x509_certificate(peer.certificate)
        sent = x509.load_pem_x509_certificates(peer.chain) if peer.chain else []
    except ValueError:
        raise CertificateError(Refusal.UNREADABLE, "the certificate cannot be parsed") from None
    if len(sent) > _MAX_SENT:
        raise CertificateError(Refusal.OVERSIZED, f"the peer sent more than {_MAX_SENT} certificates")
    return leaf, sent


def _validity(certificate: x509.Certificate) -> tuple[int, int]:
    """Return the first second in which a certificate is valid, and the first after it in which it is not."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return int(start.timestamp()), int(end.timestamp()) + 1


def _unchanged(certificates: Sequence[x509.Certificate], now_s: int) -> tuple[float, float]:
    """Return since when and until when the same ones of these certificates are valid as now."""
    times = [time_s for certificate in certificates for time_s in _validity(certificate)]
    since_s = max((time_s for time_s in times if time_s <= now_s), default=-math.inf)
    return since_s, min((time_s for time_s in times if time_s > now_s), default=math.inf)


def _out_of_date(path: Sequence[x509.Certificate], now_s: int) -> tuple[Refusal, str] | None:
    """Return which certificate of a path is not valid now, in words; None when all are."""
    for certificate in path:
        start_s, end_s = _validity(certificate)
        which = "the certificate"
        if certificate != path[0]:
            which = f"the CA certificate {certificate.subject.rfc4514_string()[:100]!r} on its path"
        if now_s >= end_s:
            return Refusal.EXPIRED, f"{which} expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC"
        if now_s < start_s:
            since = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M:%S} UTC"
            return Refusal.NOT_YET_VALID, f"{which} is not valid before {since}"
    return None


def certificate_name(certificate: x509.Certificate, *, allow_common_name: bool) -> str:
    """Return the one name that a certificate is for: its SPIFFE ID, else its DNS name, else its common name where that
    is allowed. Raises CallerNameError where there is none, more than one, or one that is not well formed."""
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


def _fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(SHA256()).hex()
