"""Expo Updates: the `expo-signature` header of a manifest, and whether a certificate is one that apps can embed.

Sources: the Expo Updates protocol, version 1, and `SignatureHeaderInfo`, `CertificateChain` in expo-updates.
"""

from __future__ import annotations

import base64
import datetime
import json

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID

from privyseal import capgo
from privyseal.errors import InputError

ALGORITHM = "rsa-v1_5-sha256"
"""The one algorithm of the protocol: RSASSA-PKCS1-v1_5 with SHA-256 over the manifest's body, byte for byte."""

KEYID = "main"
"""The key id that Expo's own `codesigning:configure` writes into an app."""


MOST_BODY_BYTES = 64 << 20
"""More than any manifest has."""


def check_body(body: bytes) -> None:
    """Raise InputError unless `body` is a JSON object in UTF-8 without a byte order mark: devices read it as text, and
    verify what that is in bytes again."""
    try:
        fields = json.loads(body.decode())
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise InputError(
            "this is not a manifest or directive, a JSON object in UTF-8",
            remedy="pass the body as your update server sends it, without the multipart around it",
        )


def signature_header(signature: bytes, keyid: str = KEYID) -> str:
    """The value of `expo-signature`: a dictionary of strings (RFC 8941, 3.2 and 3.3.3). `keyid` is the one in the app's
    `codeSigningMetadata`. Raises InputError for a key id that a header cannot carry."""
    encoded = base64.b64encode(signature).decode()
    return f'sig="{encoded}", keyid={_string(keyid)}, alg="{ALGORITHM}"'


def _string(text: str) -> str:
    if not text or not all(" " <= character <= "~" for character in text):
        raise InputError(
            "a key id is printable ASCII, and not empty", remedy="pass the keyid of the app's codeSigningMetadata"
        )
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def check_certificate(pem: bytes, public_key: RSAPublicKey, now: datetime.datetime) -> None:
    """Raise InputError unless the first certificate in `pem` is for `public_key` and one that devices take at `now`
    (aware): they want the usages digitalSignature and codeSigning, and a certificate that has not expired."""
    try:
        certificate = x509.load_pem_x509_certificates(pem)[0]
        shown = certificate.public_key()
    except ValueError:
        raise InputError("this is not a certificate in PEM", remedy="pass the one that the app embeds") from None
    if not isinstance(shown, RSAPublicKey) or capgo.fingerprint(shown) != capgo.fingerprint(public_key):
        raise InputError(
            "the certificate is for another key than the one at the service", remedy="check --key and the certificate"
        )
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise InputError(
            f"the certificate is valid from {certificate.not_valid_before_utc:%Y-%m-%d} to"
            f" {certificate.not_valid_after_utc:%Y-%m-%d}",
            remedy="make another with `privyseal key certificate`, and ship it in a build of the app",
        )
    if not _may_sign_code(certificate):
        raise InputError(
            "the certificate lacks the usage digitalSignature or codeSigning",
            remedy="make one with `privyseal key certificate --code-signing`",
        )


def _may_sign_code(certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    return usage.digital_signature and ExtendedKeyUsageOID.CODE_SIGNING in purposes
