"""A listener's certificate, key and client CAs: read from their files and checked before any client connects.

gRPC reports nothing when it cannot use new files, and continues with the old ones. So this module must find everything
that gRPC might refuse.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from privyseal_service.identity.certificate_path import PathError, check_authority
from privyseal_service.identity.certificates import UNREADABLE, ClientAuthority
from privyseal_service.system.file_watch import FileState, file_state

if TYPE_CHECKING:
    from privyseal_service.config.listeners import ListenerConfig


class TlsError(Exception):
    """A file of a listener cannot be used. `part` is "certificate", "key" or "CA"; the text is a sentence without a
    full stop, `remedy` states what to do."""

    def __init__(self, part: str, message: str, remedy: str) -> None:
        super().__init__(f"{part}: {message}; {remedy}")
        self.part = part
        self.message = message
        self.remedy = remedy


@dataclass(frozen=True)
class TlsMaterial:
    """The material of a listener. `roots` are the client CAs, PEM; there are none where callers use tokens."""

    certificate_chain: bytes
    private_key: bytes = field(repr=False)
    roots: bytes
    authorities: tuple[ClientAuthority, ...]
    not_after: datetime.datetime
    seen: tuple[FileState, ...] = field(default=(), compare=False)
    """The state of `tls_files` right before they were read."""


def tls_files(listener: ListenerConfig) -> tuple[Path, ...]:
    """Return the files of a listener."""
    named = (listener.certificate, listener.certificate_key, *(ca.file for ca in listener.client_cas))
    return tuple(file for file in named if file is not None)


def load_tls(listener: ListenerConfig, now: datetime.datetime | None = None) -> TlsMaterial:
    """Read and check the files of a listener with TLS. Raises TlsError."""
    if listener.certificate is None or listener.certificate_key is None:
        raise AssertionError("the configuration demands both")
    now = now or datetime.datetime.now(datetime.UTC)
    seen = tuple(map(file_state, tls_files(listener)))
    chain = _read(listener.certificate, "certificate")
    leaf = _parse(chain, listener.certificate, "certificate")[0]
    _check_server_certificate(leaf, listener.certificate, now)
    key = _read(listener.certificate_key, "key")
    _check_key(key, leaf, listener.certificate_key, listener.certificate)
    authorities: list[ClientAuthority] = []
    roots = b""
    for ca in listener.client_cas:
        pem = _read(ca.file, "CA")
        for certificate in _parse(pem, ca.file, "CA"):
            _check_ca(certificate, ca.file, now)
            authorities.append(ClientAuthority(certificate, ca.names))
            roots += certificate.public_bytes(Encoding.PEM)
    return TlsMaterial(chain, key, roots, tuple(authorities), leaf.not_valid_after_utc, seen)


def _read(file: Path, part: str) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise TlsError(part, f"there is no file {file}", "put it there or name another in the configuration") from None
    except OSError as error:
        remedy = "let the service's user read it"
        raise TlsError(part, f"{file} cannot be read: {error.strerror}", remedy) from None


def _parse(pem: bytes, file: Path, part: str) -> list[x509.Certificate]:
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise TlsError(
            part, f"{file} holds no PEM certificate", "write it as PEM, -----BEGIN CERTIFICATE-----"
        ) from None
    try:
        for certificate in certificates:
            # cryptography parses both lazily: only reading them shows whether they are valid.
            certificate.public_key(), certificate.extensions
    except UNREADABLE as error:
        said = f"{file} holds a certificate that cannot be read ({type(error).__name__})"
        raise TlsError(part, said, "issue another one, with an RSA key or one on P-256 or P-384") from None
    return certificates


def _check_validity(certificate: x509.Certificate, file: Path, part: str, now: datetime.datetime) -> None:
    if now > certificate.not_valid_after_utc:
        raise TlsError(part, f"{file} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC", "renew it")
    if now < certificate.not_valid_before_utc:
        since = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        raise TlsError(part, f"{file} is not valid before {since}", "check the clock, or wait")


def _check_server_certificate(leaf: x509.Certificate, file: Path, now: datetime.datetime) -> None:
    _check_validity(leaf, file, "certificate", now)
    try:
        usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        usages = None
    if usages is not None and ExtendedKeyUsageOID.SERVER_AUTH not in usages:
        raise TlsError("certificate", f"{file} is not for servers", "issue one with extended key usage serverAuth")
    try:
        leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        remedy = "issue one with the names that clients connect to"
        raise TlsError("certificate", f"{file} has no subject alternative name", remedy) from None


def _check_key(pem: bytes, leaf: x509.Certificate, file: Path, certificate: Path) -> None:
    try:
        key = load_pem_private_key(pem, None)
    except TypeError:
        remedy = "store it unencrypted, readable only for the service's user"
        raise TlsError("key", f"{file} is encrypted, and the service asks for no password", remedy) from None
    except ValueError:
        raise TlsError(
            "key", f"{file} holds no PEM private key", "write it as PEM, PKCS#8 or the older forms"
        ) from None
    except UnsupportedAlgorithm:
        key = None
    if not (isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048) and not (
        isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, (ec.SECP256R1, ec.SECP384R1))
    ):
        remedy = "use RSA of 2048 bits or more, or EC on P-256 or P-384"
        raise TlsError("key", f"{file} is of a kind that the service does not support", remedy)
    encoding = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*encoding) != leaf.public_key().public_bytes(*encoding):
        remedy = "name the two files that were made together; the service's own certificate comes first in its file"
        raise TlsError("key", f"{file} is not the key of {certificate}", remedy)


def _check_ca(certificate: x509.Certificate, file: Path, now: datetime.datetime) -> None:
    _check_validity(certificate, file, "CA", now)
    try:
        check_authority(certificate)
    except PathError as error:
        remedy = "name the certificate of the CA that issues client certificates"
        raise TlsError("CA", f"{file} holds a certificate that is not fit for a client CA ({error})", remedy) from None
