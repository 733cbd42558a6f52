"""Open a sealed bundle as a device does: recover, decrypt, compare; the plain zip appears only when all of it holds."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from privyseal import capgo
from privyseal._cipher import BLOCK_BYTES, PaddingError, Progress, decrypt_stream
from privyseal._files import AtomicOutput, check_distinct, open_input, reading, write_all
from privyseal.errors import InputError, NotVerifiedError


def default_output(path: Path) -> Path:
    """Where `capgo bundle decrypt` writes: the encrypted file's path with `_decrypted.zip` after it."""
    return path.with_name(f"{path.name}_decrypted.zip")


def open_bundle(
    path: Path,
    *,
    iv_session_key: str,
    checksum: str,
    public_key: RSAPublicKey,
    output: Path | None = None,
    progress: Progress | None = None,
) -> bytes:
    """Decrypt the bundle at `path` into `output` (by default `default_output(path)`) and verify it.

    `iv_session_key` and `checksum` are as `bundle encrypt` printed them. Returns the SHA-256 of the plain zip, 32
    bytes. Raises InputError for anything malformed, NotVerifiedError where something does not hold, FileUnusableError
    and WriteError; then there is no plain file, and an existing `output` is as it was.
    """
    capgo.check_capgo_key(public_key)
    sealed_key = capgo.parse_iv_session_key(iv_session_key)
    scheme, signature = capgo.parse_checksum(checksum)
    session_key = capgo.recover_session_key(public_key, sealed_key.wrapped_key)
    expected = capgo.recover_checksum(public_key, scheme, signature)
    with open_input(path) as source, reading(path):
        size_bytes = os.fstat(source.fileno()).st_size
        _check_size(path, size_bytes)
        output = output or default_output(path)
        check_distinct(source, output)
        with AtomicOutput(output) as plain:
            try:
                found = decrypt_stream(source, partial(_write, plain), session_key, sealed_key.iv, progress=progress)
            except PaddingError:
                found = None
            if found != expected:
                raise NotVerifiedError(
                    f"{path} is not the bundle whose checksum was signed",
                    remedy="it was changed, or IV_SESSION_KEY or the checksum belongs to another; nothing was written",
                )
            plain.publish()
    return expected


def _check_size(path: Path, size_bytes: int) -> None:
    if not size_bytes:
        raise InputError(f"{path} is empty", remedy="pass the file that `bundle encrypt` made")
    if size_bytes % BLOCK_BYTES:
        raise InputError(
            f"{path} is not an encrypted bundle, or not a whole one", remedy="pass the file that `bundle encrypt` made"
        )


def _write(plain: AtomicOutput, data: memoryview) -> None:
    with plain.writing():
        write_all(plain.file, data)
