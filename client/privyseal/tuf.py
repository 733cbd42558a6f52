"""A signer for securesystemslib: what python-tuf and in-toto sign with, with the key at the signing service.

    from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, Signer
    from privyseal.tuf import PrivysealSigner

    SIGNER_FOR_URI_SCHEME[PrivysealSigner.SCHEME] = PrivysealSigner
    uri, public_key = PrivysealSigner.import_("tuf-root")      # once; keep both
    signer = Signer.from_priv_key_uri(uri, public_key)

The extra `tuf` brings securesystemslib.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256

from privyseal import Client, capgo, ci
from privyseal.errors import InputError, NotVerifiedError
from privyseal.model import Key, SignatureScheme
from privyseal.verification import check_signature, public_key_of

try:
    from securesystemslib.exceptions import UnsupportedAlgorithmError
    from securesystemslib.signer import (
        KEY_TYPE_RSA,
        RSA_PKCS1V15_SHA256,
        RSASSA_PSS_SHA256,
        SecretsHandler,
        Signature,
        Signer,
        SSlibKey,
    )
    from securesystemslib.signer import Key as MetadataKey
except ImportError as error:
    raise ImportError(
        "privyseal.tuf needs securesystemslib: install privyseal with its extra, pip install 'privyseal[tuf]'"
    ) from error

_SCHEMES = {
    RSASSA_PSS_SHA256: SignatureScheme.RSASSA_PSS_SHA256,
    RSA_PKCS1V15_SHA256: SignatureScheme.RSASSA_PKCS1_V1_5_SHA256,
}
_NAMES = {scheme: name for name, scheme in _SCHEMES.items()}
_URI = re.compile(r"privyseal:([A-Za-z0-9][A-Za-z0-9._-]{0,127})")


class PrivysealSigner(Signer):
    """Signs with a key at a Privyseal service: the payload is hashed here, and its SHA-256 signed there.

    The URI is `privyseal:NAME`, the key's name at the service, and nothing else: URIs are kept in a repository's own
    metadata, and whoever can change those must not choose where a build's token is sent. How to reach the service, and
    as whom, is for the environment to say, as for the `privyseal` command: PRIVYSEAL_SERVER, _CA, _CERT and _CERT_KEY,
    or a token; or for `client`, which stays the caller's to close. Without one, each signature has a connection of its
    own.

    At the service the key needs `rsassa-pss-sha256` or `rsassa-pkcs1-v1_5-sha256` among its schemes, and the caller a
    grant for `sign-checksum`. A key that signs for Capgo has neither.
    """

    SCHEME = "privyseal"

    def __init__(self, name: str, public_key: SSlibKey, *, client: Client | None = None) -> None:
        if public_key.keytype != KEY_TYPE_RSA or public_key.scheme not in _SCHEMES:
            raise UnsupportedAlgorithmError(
                f"a Privyseal service does not sign as {public_key.keytype}/{public_key.scheme}, which the key "
                f"{public_key.keyid} asks for; it signs as {KEY_TYPE_RSA}/{' and '.join(_SCHEMES)}"
            )
        self._name = name
        self._public_key = public_key
        self._client = client

    @property
    def public_key(self) -> SSlibKey:
        """The public half, as metadata holds it."""
        return self._public_key

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: MetadataKey, secrets_handler: SecretsHandler | None = None
    ) -> PrivysealSigner:
        """The signer for `privyseal:NAME`; it does not connect, and never asks `secrets_handler`. Raises ValueError,
        and UnsupportedAlgorithmError for a key of another type or scheme."""
        del secrets_handler
        match = _URI.fullmatch(priv_key_uri)
        if match is None:
            raise ValueError(
                f"{priv_key_uri!r} is not privyseal:NAME, the name of a key at the service; how to reach the service "
                "is for the environment to say (PRIVYSEAL_SERVER and the like)"
            )
        if not isinstance(public_key, SSlibKey):
            raise ValueError(f"{priv_key_uri} needs an SSlibKey, not a {type(public_key).__name__}")
        return cls(match[1], public_key)

    @classmethod
    def import_(cls, name: str, *, scheme: str | None = None, client: Client | None = None) -> tuple[str, SSlibKey]:
        """The URI and the public key of the service's key `name`, both to be kept with the metadata.

        `scheme` is `rsassa-pss-sha256` or `rsa-pkcs1v15-sha256`, as securesystemslib spells them; without it, the one
        that the caller may use, and PSS of two. Raises UnsupportedAlgorithmError when the key does not sign so, and
        what `Client.get_key` raises.
        """
        with _connected(client) as connected:
            key = connected.get_key(name)
        public_key = SSlibKey.from_crypto(public_key_of(key), scheme=_chosen(key, scheme))
        return f"{cls.SCHEME}:{key.name}", public_key

    def sign(self, payload: bytes) -> Signature:
        """The signature of `payload`, verified with the public key that the metadata holds.

        Raises NotVerifiedError, before anything is signed, when the service's key is another one; and every class of
        `privyseal.errors.ServiceError`.
        """
        digest = sha256(payload).digest()
        scheme = _SCHEMES[self._public_key.scheme]
        with _connected(self._client) as client:
            public_key = public_key_of(client.get_key(self._name))
            if capgo.fingerprint(public_key) != self._fingerprint():
                raise NotVerifiedError(
                    f"the service's key {self._name} is not the one with the key id {self._public_key.keyid}",
                    remedy="name the right key, or bring the new one into the metadata with PrivysealSigner.import_",
                )
            signed = client.sign_checksum(digest, scheme=scheme, key=self._name)
        check_signature(public_key, scheme, digest, signed.signature)
        return Signature(self._public_key.keyid, signed.signature.hex())

    def _fingerprint(self) -> str:
        try:
            return capgo.fingerprint(capgo.load_public_key(self._public_key.keyval["public"]))
        except InputError as error:
            raise ValueError(f"the key {self._public_key.keyid} in the metadata: {error.message}") from error


@contextmanager
def _connected(client: Client | None) -> Iterator[Client]:
    """The caller's client, or one from the environment, closed at the end."""
    if client is not None:
        yield client
        return
    with Client.from_environment(context=ci.context_from(os.environ)) as own:
        yield own


def _chosen(key: Key, wanted: str | None) -> str:
    """The scheme, in securesystemslib's spelling, that `key` is to be used with."""
    usable = [_NAMES[scheme] for scheme in _NAMES if scheme in key.signature_schemes]
    if wanted is None and usable:
        return usable[0]
    if wanted is None or wanted not in usable:
        raise UnsupportedAlgorithmError(
            f"the key {key.name} is not enrolled for {wanted or ' or '.join(_SCHEMES)}, or not granted to you with it"
            + (f"; it signs as {' and '.join(usable)}" if usable else "")
        )
    return wanted
