"""AES-128-CBC with PKCS#7 padding over streams, with the SHA-256 of the plain side taken on the way.

One pass, a few buffers of fixed size: memory does not grow with the file. The cipher and the hash each give up the
interpreter's lock while they work, so the hash runs on a thread of its own beside the cipher.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from io import FileIO
from typing import Protocol

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.ciphers.modes import CBC

BLOCK_BYTES = 16
CHUNK_BYTES = 1 << 20
"""Large enough that the work on a chunk outweighs the hand-over to the other thread, small enough to stay in the
processor's cache."""

Progress = Callable[[int], None]
"""Called with the number of bytes done so far."""


class StoppedError(Exception):
    """The work was stopped."""


class PaddingError(Exception):
    """The decrypted bytes do not end as encryption ends them."""


class Sink(Protocol):
    """Where the result goes; takes all of what it is given."""

    def __call__(self, data: memoryview) -> None: ...


class Hasher:
    """A SHA-256 on a thread of its own, one chunk behind the thread that feeds it."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._digest = sha256()
        self._pending: Future[None] | None = None

    def update(self, view: memoryview) -> None:
        """Hash `view`, which must stay as it is until the next call but one has returned."""
        self._wait()
        self._pending = self._pool.submit(self._digest.update, view)

    def digest(self) -> bytes:
        """The SHA-256, 32 bytes, of all that was given."""
        self._wait()
        return self._digest.digest()

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()


@contextmanager
def _hasher() -> Iterator[Hasher]:
    with ThreadPoolExecutor(1, thread_name_prefix="privyseal-hash") as pool:
        yield Hasher(pool)


def _chunks(source: FileIO, stop: threading.Event | None, progress: Progress | None) -> Iterator[memoryview]:
    """The file in chunks, in two buffers in turn: a chunk stays as it is until the one after the next is asked for."""
    buffers = (memoryview(bytearray(CHUNK_BYTES)), memoryview(bytearray(CHUNK_BYTES)))
    done, turn = 0, 0
    while True:
        if stop is not None and stop.is_set():
            raise StoppedError
        count = _fill(source, buffers[turn])
        if not count:
            return
        yield buffers[turn][:count]
        turn ^= 1
        done += count
        if progress is not None:
            progress(done)


def _fill(source: FileIO, buffer: memoryview) -> int:
    count = 0
    while count < len(buffer):
        read = source.readinto(buffer[count:])
        if not read:
            break
        count += read
    return count


def encrypt_stream(
    source: FileIO,
    sink: Sink,
    session_key: bytes,
    iv: bytes,
    *,
    stop: threading.Event | None = None,
    progress: Progress | None = None,
) -> tuple[bytes, int]:
    """Encrypt all of `source` into `sink`. Returns the SHA-256 of the plain bytes, 32 bytes, and their number.

    `session_key` and `iv` are 16 bytes each. Raises StoppedError soon after `stop` is set.
    """
    encryptor = Cipher(AES128(session_key), CBC(iv)).encryptor()
    out = memoryview(bytearray(CHUNK_BYTES + BLOCK_BYTES))
    size = 0
    with _hasher() as hasher:
        for chunk in _chunks(source, stop, progress):
            hasher.update(chunk)
            size += len(chunk)
            sink(out[: encryptor.update_into(chunk, out)])
        # PKCS#7 (RFC 5652, 6.3): one to sixteen bytes, each saying how many they are.
        padding = BLOCK_BYTES - size % BLOCK_BYTES
        sink(memoryview(encryptor.update(bytes([padding]) * padding) + encryptor.finalize()))
        return hasher.digest(), size


def decrypt_stream(
    source: FileIO,
    sink: Sink,
    session_key: bytes,
    iv: bytes,
    *,
    progress: Progress | None = None,
) -> bytes:
    """Decrypt all of `source`, whole blocks, into `sink`. Returns the SHA-256 of the plain bytes, 32 bytes.

    Raises PaddingError when the last block does not end in a right padding; by then `sink` has had the blocks before.
    """
    decryptor = Cipher(AES128(session_key), CBC(iv)).decryptor()
    # The last block is the only one with padding, and only the file's end shows which is last: one is held back.
    out = memoryview(bytearray(2 * (CHUNK_BYTES + 2 * BLOCK_BYTES)))
    halves = (out[: len(out) // 2], out[len(out) // 2 :])
    held, turn = b"", 0
    with _hasher() as hasher:
        for chunk in _chunks(source, None, progress):
            half = halves[turn]
            turn ^= 1
            half[: len(held)] = held
            filled = len(held) + decryptor.update_into(chunk, half[len(held) :])
            ready = max(filled - BLOCK_BYTES, 0)
            held = bytes(half[ready:filled])
            hasher.update(half[:ready])
            sink(half[:ready])
        last = _unpad(held)
        hasher.update(memoryview(last))
        sink(memoryview(last))
        return hasher.digest()


def _unpad(block: bytes) -> bytes:
    count = block[-1] if len(block) == BLOCK_BYTES else 0
    if not 1 <= count <= BLOCK_BYTES or block[-count:] != bytes([count]) * count:
        raise PaddingError
    return block[:-count]
