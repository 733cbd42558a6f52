"""A file that is encrypted as it is written: AES-128-CBC with PKCS#7 padding."""

from __future__ import annotations

from io import FileIO
from pathlib import Path
from types import TracebackType

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.ciphers.modes import CBC

from privyseal._cipher import BLOCK_BYTES
from privyseal._files import write_all
from privyseal.release.staging import writing
from privyseal.sealing import BundleSecrets


class EncryptedFile:
    """A new file at `path`, and a context manager. `plain_bytes` is how much was given. Raises WriteError."""

    def __init__(self, path: Path, secrets: BundleSecrets) -> None:
        self.path = path
        self.plain_bytes = 0
        self._encryptor = Cipher(AES128(secrets.session_key), CBC(secrets.iv)).encryptor()
        with writing(path):
            self._file = FileIO(path, "xb")

    @property
    def size_bytes(self) -> int:
        """The size of the file once it is finished: whole blocks, at least one byte of padding."""
        return self.plain_bytes - self.plain_bytes % BLOCK_BYTES + BLOCK_BYTES

    def write(self, data: bytes | memoryview) -> None:
        """Encrypt all of `data`."""
        self.plain_bytes += len(data)
        with writing(self.path):
            write_all(self._file, self._encryptor.update(data))

    def finish(self) -> None:
        """Pad (RFC 5652, 6.3) and close."""
        padding = BLOCK_BYTES - self.plain_bytes % BLOCK_BYTES
        with writing(self.path):
            write_all(self._file, self._encryptor.update(bytes([padding]) * padding) + self._encryptor.finalize())
            self._file.close()

    def __enter__(self) -> EncryptedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with writing(self.path):
            self._file.close()
