"""The two certificate chains of an HSM's attestation: the manufacturer's, and Google's as the owner."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from privyseal_backends.google_kms.facts import Attestation

MALFORMED = (ValueError, x509.InvalidVersion, UnsupportedAlgorithm)
"""What reading a field of a certificate can raise."""


class ChainError(Exception):
    """A chain that is not valid. The text is a clause that gives the reason."""


@contextmanager
def reading() -> Iterator[None]:
    """Raise ChainError for a malformed certificate. Its fields are parsed when they are read, so any read may fail."""
    try:
        yield
    except MALFORMED:
        raise ChainError("a certificate cannot be read") from None


def read_certificates(chain: Iterable[str]) -> list[x509.Certificate]:
    """Return the certificates of a chain of PEM texts. Raises ChainError when there is none."""
    found = [cert for pem in chain for cert in x509.load_pem_x509_certificates(pem.encode())]
    if not found:
        raise ChainError("no certificate came with the attestation")
    return found


def rsa_key(certificate: x509.Certificate) -> RSAPublicKey:
    """Return the key of a certificate. Raises ChainError unless it is RSA of 2048 bits or more."""
    key = certificate.public_key()
    if not isinstance(key, RSAPublicKey) or key.key_size < 2048:
        raise ChainError("a certificate's key is not RSA of 2048 bits or more")
    return key


def _spki(certificate: x509.Certificate) -> bytes:
    return rsa_key(certificate).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _check_certificate(certificate: x509.Certificate, now: datetime) -> None:
    rsa_key(certificate)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        name = certificate.subject.rfc4514_string()
        raise ChainError(f"the certificate {name!r} is valid only until {certificate.not_valid_after_utc:%Y-%m-%d}")
    if not isinstance(certificate.signature_hash_algorithm, SHA256 | SHA384 | SHA512):
        raise ChainError("a certificate is signed with a weak hash")


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (*MALFORMED, TypeError, InvalidSignature):
        return False
    return True


def _root_of(certificate: x509.Certificate, roots: Iterable[x509.Certificate], now: datetime) -> x509.Certificate:
    """The supplied root that issued `certificate`. A manufacturer issues its root again, with the same key, before the
    old one ends: one that is still valid is preferred."""
    issuers = [root for root in roots if _issued(certificate, root)]
    if not issuers:
        raise ChainError("it does not end in a root certificate of attestation_roots")
    latest = max(issuers, key=lambda root: root.not_valid_after_utc)
    _check_certificate(latest, now)
    return latest


@dataclass(frozen=True)
class Chain:
    """A chain whose certificates were checked."""

    root: x509.Certificate
    card: x509.Certificate
    partition: x509.Certificate


def manufacturer_chain(attestation: Attestation, roots: Iterable[x509.Certificate], now: datetime) -> Chain:
    """Partition, card, root: exactly this shape, since the certificates themselves carry no constraints."""
    certificates = read_certificates(attestation.manufacturer_chain)
    if len(certificates) not in (2, 3):
        raise ChainError("it is not a partition's and a card's certificate")
    partition, card = certificates[:2]
    for certificate in (partition, card):
        _check_certificate(certificate, now)
    if not _issued(partition, card):
        raise ChainError("the card's certificate did not issue the partition's")
    return Chain(_root_of(card, roots, now), card, partition)


def _owner_chain(attestation: Attestation, roots: Iterable[x509.Certificate], now: datetime) -> Chain:
    """Google's root certifies the card and the partition, each directly."""
    card = read_certificates(attestation.owner_card_chain)[0]
    partition = read_certificates(attestation.owner_partition_chain)[0]
    for certificate in (card, partition):
        _check_certificate(certificate, now)
    root = _root_of(card, roots, now)
    if _spki(_root_of(partition, roots, now)) != _spki(root):
        raise ChainError("the card and the partition have two roots")
    return Chain(root, card, partition)


def check_owner(attestation: Attestation, roots: Iterable[x509.Certificate], now: datetime, made: Chain) -> Chain:
    """Return the owner's chain, checked against the manufacturer's, `made`. Raises ChainError."""
    owner = _owner_chain(attestation, roots, now)
    if _spki(owner.root) == _spki(made.root):
        raise ChainError("it ends in the manufacturer's root and not in Google's own")
    if _spki(owner.card) != _spki(made.card) or _spki(owner.partition) != _spki(made.partition):
        raise ChainError("Google's certificates are of another card or partition than the manufacturer's")
    return owner


def load_roots(pem: bytes) -> tuple[x509.Certificate, ...]:
    """The root certificates of a PEM file. Raises ValueError when there is none, or one cannot be read."""
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except x509.InvalidVersion as error:
        raise ValueError(str(error)) from None
