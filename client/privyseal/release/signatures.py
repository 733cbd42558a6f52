"""The signatures of a release: its session key wrapped, its checksum and those of its files signed, and verified."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from privyseal import capgo
from privyseal.errors import ServiceError
from privyseal.model import RequestContext, SignatureScheme, SignedChecksum, WrappedKey, WrapScheme
from privyseal.release.cache import SignatureCache
from privyseal.sealing import BundleSecrets, Signer
from privyseal.verification import check_signature, check_wrapped_key, no_receipts, public_key_of

if TYPE_CHECKING:
    from privyseal.transparency.receipts import Receipt


BATCH_CHECKSUMS = 2000
"""What the service takes in one call, each with the time limit of a call."""


class ReleaseSigner(Signer, Protocol):
    """What a release asks of a service; `privyseal.Client` is one."""

    def batch_sign_checksums(
        self,
        checksums: Sequence[bytes],
        *,
        scheme: SignatureScheme,
        key: str | None = None,
        context: RequestContext | None = None,
    ) -> list[SignedChecksum | ServiceError]:
        """See `Client.batch_sign_checksums`."""


class Signing:
    """The operations of one release, each answer checked with the public key, and counted."""

    def __init__(
        self,
        signer: ReleaseSigner,
        key: str | None,
        scheme: SignatureScheme,
        context: RequestContext | None,
        *,
        require_receipts: bool,
    ) -> None:
        self._signer = signer
        self._scheme = scheme
        self._context = context
        self._require_receipts = require_receipts
        self.key = signer.get_key(key)
        self._public_key: RSAPublicKey = public_key_of(self.key)
        capgo.check_capgo_key(self._public_key)
        self.operations = 0
        self.cached = 0
        self.receipts: list[Receipt] = []

    def wrap(self, bundle_secrets: BundleSecrets) -> bytes:
        """The wrapped session key, 256 bytes."""
        wrapped = self._signer.wrap_session_key(
            bundle_secrets.session_key, scheme=WrapScheme.CAPGO, key=self.key.name, context=self._context
        )
        self._done(wrapped)
        check_wrapped_key(self._public_key, wrapped.wrapped_key, bundle_secrets.session_key)
        return wrapped.wrapped_key

    def sign(self, checksum: bytes) -> bytes:
        """The signature of the zip's checksum. It is never taken from the cache: each release is on the service's
        record."""
        signed = self._signer.sign_checksum(checksum, scheme=self._scheme, key=self.key.name, context=self._context)
        self._done(signed)
        check_signature(self._public_key, self._scheme, checksum, signed.signature)
        return signed.signature

    def sign_files(self, digests: Iterable[bytes], cache_folder: Path | None) -> dict[bytes, bytes]:
        """The signatures of files by their SHA-256, in a batch those that are not in the cache; which then has all."""
        wanted = list(digests)
        if cache_folder is None:
            return self._sign_batch(wanted)
        known = SignatureCache(cache_folder, self._public_key, self._scheme)
        signatures = known.find(wanted)
        self.cached = len(signatures)
        signatures |= self._sign_batch([digest for digest in wanted if digest not in signatures])
        known.keep(signatures)
        return signatures

    def _sign_batch(self, digests: Sequence[bytes]) -> dict[bytes, bytes]:
        signatures = {}
        for start in range(0, len(digests), BATCH_CHECKSUMS):
            part = digests[start : start + BATCH_CHECKSUMS]
            results = self._signer.batch_sign_checksums(
                part, scheme=self._scheme, key=self.key.name, context=self._context
            )
            for digest, result in zip(part, results, strict=True):
                if isinstance(result, ServiceError):
                    raise result
                self._done(result)
                check_signature(self._public_key, self._scheme, digest, result.signature)
                signatures[digest] = result.signature
        return signatures

    def _done(self, answer: WrappedKey | SignedChecksum) -> None:
        self.operations += 1
        if answer.audit is not None:
            self.receipts.append(answer.audit)
        elif self._require_receipts:
            raise no_receipts()
