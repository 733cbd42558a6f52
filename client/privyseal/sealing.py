"""Seal a bundle: encrypt it here, have its session key wrapped and its checksum signed, check both, then publish.

The file is read once and never leaves the machine; the service sees 16 bytes and a SHA-256. The connection and the
first two calls run while the file is being encrypted.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from privyseal import capgo
from privyseal._cipher import Progress, encrypt_stream
from privyseal._files import AtomicOutput, check_distinct, open_input, reading, write_all
from privyseal.errors import InputError
from privyseal.model import Key, RequestContext, SignatureScheme, SignedChecksum, WrappedKey, WrapScheme
from privyseal.verification import check_signature, check_wrapped_key, no_receipts, public_key_of

if TYPE_CHECKING:
    from privyseal.transparency.receipts import Receipt

_LOCAL_FILE_HEADER = b"PK\x03\x04"
_END_OF_DIRECTORY = b"PK\x05\x06"
_END_BYTES = 22 + 0xFFFF
"""A zip ends in a record of 22 bytes and a comment of at most 65,535 (APPNOTE.TXT, 4.3.16)."""


class Signer(Protocol):
    """What sealing asks of a service; `privyseal.Client` is one."""

    def get_key(self, name: str | None = None) -> Key:
        """See `Client.get_key`."""

    def sign_checksum(
        self,
        checksum: bytes,
        *,
        scheme: SignatureScheme,
        key: str | None = None,
        context: RequestContext | None = None,
    ) -> SignedChecksum:
        """See `Client.sign_checksum`."""

    def wrap_session_key(
        self,
        session_key: bytes,
        *,
        scheme: WrapScheme,
        key: str | None = None,
        context: RequestContext | None = None,
    ) -> WrappedKey:
        """See `Client.wrap_session_key`."""


@dataclass(frozen=True)
class BundleSecrets:
    """The session key and the IV of one bundle, 16 random bytes each; the session key stays out of the repr."""

    session_key: bytes = field(repr=False)
    iv: bytes

    @classmethod
    def random(cls) -> BundleSecrets:
        """Fresh ones, from the operating system."""
        return cls(os.urandom(capgo.SESSION_KEY_BYTES), os.urandom(capgo.IV_BYTES))


@dataclass(frozen=True)
class SealedBundle:
    """A sealed bundle: the three values that Capgo's API takes, and what they are about.

    `checksum` and `iv_session_key` are as `capgo bundle encrypt` writes them, `path` is the encrypted file,
    `plain_checksum` the SHA-256 of the zip, 32 bytes, `size_bytes` the zip's size. `key` is the key that signed.
    `receipts` are those of the wrapped key and of the checksum, without proof; none without an audit trail.
    """

    checksum: str
    iv_session_key: str
    path: Path
    scheme: SignatureScheme
    plain_checksum: bytes
    size_bytes: int
    key: Key
    receipts: tuple[Receipt, ...] = ()


def default_output(path: Path) -> Path:
    """Where `capgo bundle encrypt` writes: the zip's path with `_encrypted.zip` after it."""
    return path.with_name(f"{path.name}_encrypted.zip")


def seal_bundle(
    open_signer: Callable[[], Signer],
    path: Path,
    *,
    scheme: SignatureScheme,
    key: str | None = None,
    output: Path | None = None,
    expected_checksum: bytes | None = None,
    context: RequestContext | None = None,
    bundle_secrets: BundleSecrets | None = None,
    progress: Progress | None = None,
    require_receipts: bool = False,
    deliver: Callable[[SealedBundle], None] | None = None,
) -> SealedBundle:
    """Seal the zip at `path` into `output` (by default `default_output(path)`).

    `open_signer` is called once, while the file is already being encrypted. `expected_checksum`, 32 bytes, must be the
    zip's SHA-256. The output appears after the wrapped key and the signature were checked against the service's public
    key, and not at all when anything fails. `bundle_secrets` is for known answers in tests; leave it out.
    With `require_receipts`, a service that keeps no audit trail is a failure. `deliver` is given the values right
    before the output gets its name, since the one is of no use without the other: what it raises leaves no output.

    Raises FileUnusableError, InputError, WriteError, NotVerifiedError, and what the signer raises.
    """
    bundle_secrets = bundle_secrets or BundleSecrets.random()
    stop = threading.Event()
    with open_input(path) as source:
        size_bytes = _check_zip(source, path)
        output = output or default_output(path)
        check_distinct(source, output)
        with AtomicOutput(output) as sealed, ThreadPoolExecutor(1, thread_name_prefix="privyseal-seal") as pool:
            encryption = pool.submit(
                _encrypt, source, path, sealed, bundle_secrets, size_bytes=size_bytes, stop=stop, progress=progress
            )
            try:
                signer = open_signer()
                signing_key = signer.get_key(key)
                public_key = public_key_of(signing_key)
                capgo.check_capgo_key(public_key)
                wrapped = signer.wrap_session_key(
                    bundle_secrets.session_key, scheme=WrapScheme.CAPGO, key=signing_key.name, context=context
                )
                check_wrapped_key(public_key, wrapped.wrapped_key, bundle_secrets.session_key)
                checksum = encryption.result()
                if expected_checksum is not None and checksum != expected_checksum:
                    raise InputError(
                        f"CHECKSUM is not that of {path}, whose SHA-256 is {checksum.hex()}",
                        remedy="leave CHECKSUM out, or seal the zip that it belongs to",
                    )
                signed = signer.sign_checksum(checksum, scheme=scheme, key=signing_key.name, context=context)
                check_signature(public_key, scheme, checksum, signed.signature)
                receipts = _receipts(wrapped, signed, required=require_receipts)
            finally:
                stop.set()
            bundle = SealedBundle(
                checksum=capgo.format_checksum(scheme, signed.signature),
                iv_session_key=capgo.format_iv_session_key(capgo.IvSessionKey(bundle_secrets.iv, wrapped.wrapped_key)),
                path=output,
                scheme=scheme,
                plain_checksum=checksum,
                size_bytes=size_bytes,
                key=signing_key,
                receipts=receipts,
            )
            if deliver is not None:
                sealed.sync()
                deliver(bundle)
            sealed.publish()
    return bundle


def _receipts(wrapped: WrappedKey, signed: SignedChecksum, *, required: bool) -> tuple[Receipt, ...]:
    """The receipts of the wrapped key and of the checksum, where the service keeps an audit trail."""
    if wrapped.audit is not None and signed.audit is not None:
        return wrapped.audit, signed.audit
    if required:
        raise no_receipts()
    return ()


def _check_zip(source: FileIO, path: Path) -> int:
    """Raise InputError unless the file looks like a whole zip with something in it; return its size in bytes."""
    with reading(path):
        size_bytes = os.fstat(source.fileno()).st_size
        head = source.read(4)
        source.seek(max(size_bytes - _END_BYTES, 0))
        tail = source.read(_END_BYTES) if size_bytes else b""
        source.seek(0)
    if not size_bytes:
        raise InputError(f"{path} is empty", remedy="pass a zip of the app's web files")
    if head == _END_OF_DIRECTORY:
        raise InputError(f"{path} is a zip with nothing in it", remedy="pass a zip of the app's web files")
    if head != _LOCAL_FILE_HEADER:
        raise InputError(f"{path} is not a zip", remedy="pass a zip of the app's web files")
    if _END_OF_DIRECTORY not in tail:
        raise InputError(f"{path} is a zip without its end", remedy="copy or make it again")
    return size_bytes


def _encrypt(
    source: FileIO,
    path: Path,
    sealed: AtomicOutput,
    bundle_secrets: BundleSecrets,
    *,
    size_bytes: int,
    stop: threading.Event,
    progress: Progress | None,
) -> bytes:
    """Encrypt on the worker's thread; returns the SHA-256 of the zip."""
    write = partial(_write, sealed)
    with reading(path):
        checksum, read_bytes = encrypt_stream(
            source, write, bundle_secrets.session_key, bundle_secrets.iv, stop=stop, progress=progress
        )
    if read_bytes != size_bytes:
        raise InputError(f"{path} changed while it was read", remedy="wait until it is written, then seal it again")
    return checksum


def _write(sealed: AtomicOutput, data: memoryview) -> None:
    with sealed.writing():
        write_all(sealed.file, data)
