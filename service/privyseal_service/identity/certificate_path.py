"""Validation of certificate paths by `cryptography.x509.verification`: its web-PKI profile, three extensions optional.

The profile demands an authority key identifier and alternative names of a client's certificate, and a key usage of a
CA. Private CAs leave out the identifier and the key usage, so both are optional here. The alternative names are
optional only where common names are allowed. Everything else is the library's: RFC 5280, with the algorithms and key
sizes of the CA/Browser Forum's Baseline Requirements.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.verification import (
    ClientVerifier,
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    Store,
    VerificationError,
)

MAX_INTERMEDIATES = 6

_MAX_REASON_CHARS = 300
_EXTENSIONS = {
    "2.5.29.15": "keyUsage",
    "2.5.29.17": "subjectAltName",
    "2.5.29.19": "basicConstraints",
    "2.5.29.30": "nameConstraints",
    "2.5.29.35": "authorityKeyIdentifier",
    "2.5.29.37": "extendedKeyUsage",
}
_REWORDED = (
    (r"^validation failed: (candidates exhausted: )*", ""),
    (r" \(encountered processing .*", ""),
    (r"Python extension validator failed: ValueError: ", ""),
    (r"AlgorithmIdentifier \{.* params: (\w+).*", r"\1"),
    (r"required EKU not found", "extendedKeyUsage of the client's certificate lacks clientAuth"),
    (r"Neither EKU nor anyEKU could be found", "extendedKeyUsage of a CA lacks clientAuth"),
    (r"all candidates exhausted with no interior errors", "no CA bound to the name and no certificate sent issued it"),
)
"""What is changed in the library's words, for people."""


class PathError(Exception):
    """No path is valid. The text is the library's reason, without a full stop."""


def validate_path(
    leaf: x509.Certificate,
    sent: Sequence[x509.Certificate],
    authorities: Sequence[x509.Certificate],
    at: datetime.datetime,
    *,
    require_alternative_name: bool,
) -> list[x509.Certificate]:
    """Return the path from the leaf to one of the authorities, both included, as it is valid `at` that time. Raises
    PathError."""
    if not authorities:
        raise PathError("there is no CA to end at")
    _check_key(leaf)  # the library checks the keys of CAs only
    verifier = _verifier(authorities, at, require_alternative_name=require_alternative_name)
    try:
        return verifier.verify(leaf, [each for each in dict.fromkeys(sent) if each != leaf]).chain
    except VerificationError as error:
        raise PathError(_reason(error)) from None


def check_authority(certificate: x509.Certificate) -> None:
    """Raise PathError where no certificate of a client can be valid under this CA, whatever it issues.

    The library judges whole paths only. So it judges a path under a copy of the CA's certificate that has a key of our
    own: subject, validity and extensions are the same.
    """
    _check_key(certificate)
    key = ec.generate_private_key(ec.SECP256R1())
    try:
        copy = _builder(certificate, certificate.subject, key)
        for extension in certificate.extensions:
            copy = copy.add_extension(extension.value, extension.critical)
        probe = _builder(certificate, x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "probe")]), key)
    except ValueError as error:
        raise PathError(f"it cannot be written again: {error}") from None
    validate_path(
        probe.sign(key, SHA256()),
        [],
        [copy.sign(key, SHA256())],
        certificate.not_valid_before_utc,
        require_alternative_name=False,
    )


def _check_key(certificate: x509.Certificate) -> None:
    match certificate.public_key():
        case rsa.RSAPublicKey(key_size=bits) if bits >= 2048:
            return
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1() | ec.SECP384R1() | ec.SECP521R1()):
            return
    raise PathError("a key is neither RSA of 2048 bits or more nor EC on P-256, P-384 or P-521")


def _builder(issuer: x509.Certificate, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(issuer.not_valid_before_utc)
        .not_valid_after(issuer.not_valid_after_utc)
    )


def _verifier(
    authorities: Sequence[x509.Certificate], at: datetime.datetime, *, require_alternative_name: bool
) -> ClientVerifier:
    client = ExtensionPolicy.webpki_defaults_ee().may_be_present(
        x509.AuthorityKeyIdentifier, Criticality.NON_CRITICAL, None
    )
    if not require_alternative_name:
        client = client.may_be_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None)
    # The identifier only orders candidates for the issuer: a CA may also have its form with issuer and serial number.
    authority = (
        ExtensionPolicy.webpki_defaults_ca()
        .may_be_present(x509.AuthorityKeyIdentifier, Criticality.NON_CRITICAL, None)
        .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _require_cert_sign)
    )
    return (
        PolicyBuilder()
        .store(Store(list(authorities)))
        .time(at)
        .max_chain_depth(MAX_INTERMEDIATES)
        .extension_policies(ca_policy=authority, ee_policy=client)
        .build_client_verifier()
    )


def _require_cert_sign(_: Policy, __: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    """What the profile demands of a CA's key usage, where there is one (RFC 5280, 4.2.1.3)."""
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("keyUsage.keyCertSign must be asserted in a CA certificate")


def _reason(error: VerificationError) -> str:
    """Return the library's words, with the names of extensions beside their OIDs."""
    text = str(error)
    for pattern, words in _REWORDED:
        text = re.sub(pattern, words, text, flags=re.DOTALL)
    text = re.sub(r"\b2\.5\.29\.\d+\b", lambda oid: f"{_EXTENSIONS.get(oid[0], 'extension')} ({oid[0]})", text)
    return text[:_MAX_REASON_CHARS]
