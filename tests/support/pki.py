"""Certificates for tests: a CA, and what it issues, right or wrong in the ways that the arguments name."""

from __future__ import annotations

import base64
import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


def subject(common_name: str | None) -> x509.Name:
    """A subject of a common name alone, or an empty one."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])


@dataclass(frozen=True)
class Issued:
    """A certificate with its key, and the intermediates that its holder sends along."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    intermediates: tuple[x509.Certificate, ...] = ()

    @property
    def pem(self) -> bytes:
        """The certificate alone."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def chain_pem(self) -> bytes:
        """The certificate and its intermediates."""
        return b"".join(c.public_bytes(Encoding.PEM) for c in (self.certificate, *self.intermediates))

    @property
    def key_pem(self) -> bytes:
        """The key, PKCS#8."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the DER."""
        return self.certificate.fingerprint(SHA256()).hex()

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """The chain as NAME.pem and the key as NAME-key.pem."""
        certificate, key = folder / f"{name}.pem", folder / f"{name}-key.pem"
        certificate.write_bytes(self.chain_pem)
        key.write_bytes(self.key_pem)
        key.chmod(0o600)
        return certificate, key


class CA:
    """A certificate authority, a root unless another is its parent."""

    def __init__(
        self,
        name: str = "Test CA",
        *,
        parent: CA | None = None,
        path_length: int | None = None,
        is_ca: bool = True,
        may_sign: bool = True,
        permitted_dns: str | None = None,
        not_before: datetime.datetime | None = None,
        not_after: datetime.datetime | None = None,
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> None:
        self.parent = parent
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject(name))
            .issuer_name(parent.certificate.subject if parent else subject(name))
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before or now - DAY)
            .not_valid_after(not_after or now + 30 * DAY)
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=path_length if is_ca else None), critical=True)
            .add_extension(_key_usage(signs_certificates=may_sign), critical=True)
        )
        if permitted_dns:
            constraints = x509.NameConstraints([x509.DNSName(permitted_dns)], None)
            builder = builder.add_extension(constraints, critical=True)
        self.certificate = builder.sign(parent.key if parent else self.key, SHA256())

    @property
    def pem(self) -> bytes:
        """The CA's own certificate."""
        return self.certificate.public_bytes(Encoding.PEM)

    def write(self, folder: Path, name: str = "ca") -> Path:
        """The CA's own certificate as NAME.pem."""
        file = folder / f"{name}.pem"
        file.write_bytes(self.pem)
        return file

    def issue(
        self,
        *,
        uris: Sequence[str] = (),
        dns: Sequence[str] = (),
        ips: Sequence[str] = (),
        common_name: str | None = None,
        usages: Sequence[x509.ObjectIdentifier] | None = (CLIENT,),
        not_before: datetime.datetime | None = None,
        not_after: datetime.datetime | None = None,
    ) -> Issued:
        """A certificate, for a client unless `usages` says otherwise (None leaves the extension out)."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject(common_name))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before or now - DAY)
            .not_valid_after(not_after or now + 10 * DAY)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
        )
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
        names += [x509.DNSName(name) for name in dns]
        names += [x509.IPAddress(ipaddress.ip_address(ip)) for ip in ips]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not common_name)
        if usages is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage(list(usages)), critical=False)
        return Issued(builder.sign(self.key, SHA256()), key, self._intermediates())

    def server(self, **fields: object) -> Issued:
        """A server's certificate for this machine."""
        return self.issue(dns=["localhost"], ips=["127.0.0.1", "::1"], usages=(SERVER,), **fields)  # type: ignore[arg-type]

    def _intermediates(self) -> tuple[x509.Certificate, ...]:
        return (self.certificate, *self.parent._intermediates()) if self.parent else ()


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


_P256 = bytes.fromhex("06082a8648ce3d030107")
"""The curve's object identifier, as keys and certificates have it."""


def of_an_unknown_curve(pem: bytes) -> bytes:
    """The same, on a curve that nobody knows."""
    label = pem.splitlines()[0].strip(b"-").removeprefix(b"BEGIN ")
    der = base64.b64decode(b"".join(pem.splitlines()[1:-1])).replace(_P256, _P256[:-1] + b"\x7f")
    return b"-----BEGIN %b-----\n%b-----END %b-----\n" % (label, base64.encodebytes(der), label)
