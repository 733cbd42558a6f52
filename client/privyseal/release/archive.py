"""A zip that depends only on the names and contents of its files, encrypted and hashed as it is written."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO, TYPE_CHECKING

from privyseal.release.encrypted import EncryptedFile
from privyseal.sealing import BundleSecrets

if TYPE_CHECKING:
    from typing_extensions import Buffer

_BUFFER_BYTES = 1 << 18
_EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The first moment that a zip can name (APPNOTE.TXT, 4.4.6)."""
_UNIX = 3
_READABLE_FILE = 0o100644 << 16


class _Sink(io.RawIOBase):
    """Where the zip's bytes go; they are hashed on the way."""

    def __init__(self, sealed: EncryptedFile) -> None:
        super().__init__()
        self._sealed = sealed
        self.digest = sha256()
        self.open = True

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer, /) -> int:
        view = memoryview(data)
        if self.open:
            self.digest.update(view)
            self._sealed.write(view)
        return len(view)


class SealedArchive:
    """A zip of files that are added in the order of their names, each deflated, readable by everybody, dated 1980; a
    context manager.

    The bytes of the zip follow from names and contents, from zlib and from Python's zipfile: they are the same on every
    machine that has the same two. Where they differ, the compressed streams may, and nothing else does.
    """

    def __init__(self, path: Path, secrets: BundleSecrets) -> None:
        self.sealed = EncryptedFile(path, secrets)
        self._sink = _Sink(self.sealed)
        self._buffer = io.BufferedWriter(self._sink, _BUFFER_BYTES)
        self._zip = zipfile.ZipFile(self._buffer, "w")

    @contextmanager
    def adding(self, name: str, size_bytes: int) -> Iterator[IO[bytes]]:
        """A file of the zip, to be written to."""
        entry = zipfile.ZipInfo(name, _EARLIEST)
        entry.create_system = _UNIX
        entry.external_attr = _READABLE_FILE
        # Android's reader takes a file whose size follows it only when that is deflated: so is even an empty one.
        entry.compress_type = zipfile.ZIP_DEFLATED
        entry.file_size = size_bytes
        with self._zip.open(entry, "w") as file:
            yield file

    def finish(self) -> bytes:
        """Write the directory and close; returns the SHA-256, 32 bytes, of the plain zip."""
        self._zip.close()
        self._buffer.flush()
        self.sealed.finish()
        return self._sink.digest.digest()

    def __enter__(self) -> SealedArchive:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file as it is. What the zip would still write, at the latest when it is collected, is dropped."""
        self._sink.open = False
        with self.sealed:
            self._zip.close()
