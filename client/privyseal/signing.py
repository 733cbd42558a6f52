"""Sign with one key of the service, and hand out only what verifies."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from privyseal.errors import ServiceError
from privyseal.model import Key, SignatureScheme, SignedChecksum
from privyseal.verification import check_signature, no_receipts, public_key_of

if TYPE_CHECKING:
    from privyseal._client import Client
    from privyseal.transparency.receipts import Receipt


class CheckedSigner:
    """Signs checksums, each a SHA-256 of 32 bytes, with the key of that name, or with the only one that there is.

    A signature is returned once it verifies against the public key that the service shows; else NotVerifiedError is
    raised. `receipts` are those of all that was signed. With `require_receipts`, a service that keeps no audit trail is
    a NotVerifiedError too. Every method raises the classes of `privyseal.errors.ServiceError`.
    """

    def __init__(self, client: Client, key: str | None = None, *, require_receipts: bool = False) -> None:
        self._client = client
        self._name = key
        self._require_receipts = require_receipts
        self.receipts: list[Receipt] = []

    @cached_property
    def key(self) -> Key:
        """The key, as the service describes it at first use."""
        return self._client.get_key(self._name)

    @cached_property
    def public_key(self) -> RSAPublicKey:
        """The key's public key."""
        return public_key_of(self.key)

    def sign(self, checksum: bytes, scheme: SignatureScheme) -> bytes:
        """A signature, as long as the modulus."""
        public_key = self.public_key
        signed = self._client.sign_checksum(checksum, scheme=scheme, key=self.key.name)
        return self._checked(public_key, scheme, checksum, signed)

    def sign_all(self, checksums: Sequence[bytes], scheme: SignatureScheme) -> list[bytes]:
        """A signature for each checksum, in order. The first that there is none for is raised."""
        if not checksums:
            return []
        public_key = self.public_key
        results = self._client.batch_sign_checksums(checksums, scheme=scheme, key=self.key.name)
        for result in results:
            if isinstance(result, ServiceError):
                raise result
        return [
            self._checked(public_key, scheme, checksum, result)
            for checksum, result in zip(checksums, results, strict=True)
            if isinstance(result, SignedChecksum)
        ]

    def _checked(
        self, public_key: RSAPublicKey, scheme: SignatureScheme, checksum: bytes, signed: SignedChecksum
    ) -> bytes:
        check_signature(public_key, scheme, checksum, signed.signature)
        if signed.audit is not None:
            self.receipts.append(signed.audit)
        elif self._require_receipts:
            raise no_receipts()
        return signed.signature
