"""X.509 certificates and requests for a key of the service, signed by that key where it is."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NoReturn

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from privyseal.errors import InputError, NotVerifiedError, PrivysealError
from privyseal.model import SignatureScheme
from privyseal.signing import CheckedSigner

MOST_DAYS = 36_500
"""A hundred years: what is more is a typing error."""

_SUBJECT_REMEDY = 'write it as RFC 4514 does, as in "CN=Example App,O=Example"'


def parse_subject(text: str) -> x509.Name:
    """A name as RFC 4514 writes it, with a common name in it. Raises InputError."""
    try:
        name = x509.Name.from_rfc4514_string(text)
    except ValueError as error:
        why = f" ({error})" if str(error) else ""
        raise InputError(f"{text!r} is not a subject{why}", remedy=_SUBJECT_REMEDY) from None
    if not name.get_attributes_for_oid(NameOID.COMMON_NAME):
        raise InputError("the subject has no common name", remedy=_SUBJECT_REMEDY)
    return name


def code_signing_certificate(
    signer: CheckedSigner, subject: x509.Name, *, not_before: datetime.datetime, days: int
) -> x509.Certificate:
    """A self-signed certificate with the usages digitalSignature and codeSigning, both critical, and no others: what
    Expo embeds in apps. `not_before` is aware; it is valid for 1 to `MOST_DAYS` days from then.

    Raises NotVerifiedError when the certificate that comes out does not verify, InputError, and what signing raises.
    """
    if not 1 <= days <= MOST_DAYS:
        raise InputError(f"a certificate cannot be valid for {days} days", remedy=f"choose from 1 to {MOST_DAYS}")
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(signer.public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_before + datetime.timedelta(days=days))
        .add_extension(_KEY_USAGE, critical=True)
        .add_extension(_CODE_SIGNING, critical=True)
    )
    certificate = builder.sign(_KeyAtService(signer), SHA256(), rsa_padding=PKCS1v15())
    try:
        certificate.verify_directly_issued_by(certificate)
    except Exception as error:
        raise NotVerifiedError("the certificate does not verify", remedy="nothing of it was used") from error
    return certificate


def code_signing_request(signer: CheckedSigner, subject: x509.Name) -> x509.CertificateSigningRequest:
    """A request (PKCS #10, RFC 2986) for a certificate with the same usages. Raises as `code_signing_certificate`."""
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(subject)
        .add_extension(_KEY_USAGE, critical=True)
        .add_extension(_CODE_SIGNING, critical=True)
    )
    request = builder.sign(_KeyAtService(signer), SHA256(), rsa_padding=PKCS1v15())
    if not request.is_signature_valid:
        raise NotVerifiedError("the request does not verify", remedy="nothing of it was used")
    return request


_KEY_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
_CODE_SIGNING = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])


@dataclass(frozen=True)
class _KeyAtService(RSAPrivateKey):
    """What the builders of `cryptography` take for a private key: it can have SHA-256 signed, and nothing else."""

    _signer: CheckedSigner

    def sign(self, data: Any, padding: Any, algorithm: Any) -> bytes:
        """RSASSA-PKCS1-v1_5 over the SHA-256 of `data`, for builders that ask for just that."""
        if not (isinstance(padding, PKCS1v15) and isinstance(algorithm, SHA256)):
            raise _stays()
        return self._signer.sign(sha256(data).digest(), SignatureScheme.RSASSA_PKCS1_V1_5_SHA256)

    def public_key(self) -> RSAPublicKey:
        """The public key, as the service shows it."""
        return self._signer.public_key

    @property
    def key_size(self) -> int:
        """Bits of the modulus."""
        return self._signer.public_key.key_size

    def decrypt(self, *_: Any, **__: Any) -> NoReturn:
        """Not possible here."""
        raise _stays()

    def private_numbers(self) -> NoReturn:
        """Not possible here."""
        raise _stays()

    def private_bytes(self, *_: Any, **__: Any) -> NoReturn:
        """Not possible here."""
        raise _stays()

    def __copy__(self) -> _KeyAtService:
        return self

    def __deepcopy__(self, memo: Any) -> _KeyAtService:
        return self


def _stays() -> PrivysealError:
    return PrivysealError("the private key is in its key store and stays there")
